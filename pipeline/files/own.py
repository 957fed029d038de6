"""Files the project wrote itself: written whole or not at all; type, depth and schema checked, damage named."""

import hashlib
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.files.parse import open_file, read_bytes
from pipeline.files.replace import replace_bytes, replacing

MAX_JSON_BYTES = 2 << 30  # a results file of somebody's detections
MAX_BYTES = 1 << 50  # of a file that is only summed
MAX_DEPTH = 40


class Each(NamedTuple):
    """An object with any keys, whose values have this shape."""

    shape: Any


class OneOf(tuple):
    """Any of these shapes."""


class Whole(NamedTuple):
    """A whole number in a range."""

    least: int
    most: int = 2**63 - 1


class Text(NamedTuple):
    """Text that a regular expression fits."""

    pattern: str


SHA256 = Text("[0-9a-f]{64}")

# Shapes of JSON: a type (float: any finite number), None (null), [shape] (a list of any length), (shape, ...) (a list
# of just these), {"key": shape, "key?": shape} (an object with at least the keys without question mark), Each, OneOf,
# Whole, Text.
ANY = object()
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object", None: "null"}


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with open_file(path, MAX_BYTES) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    replace_bytes(path, json_text(value).encode())


def read_json(path: Path, shape: Any = ANY, fix: str = "restore it or make it again") -> Any:
    """The content, of this shape; every failure is a ValueError that names the file and `fix`, the way out."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a JSON file is needed; name the file")
    try:
        text = read_bytes(path, MAX_JSON_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} {error}; {fix}") from None
    value = parse_json(text, path, fix)
    if problem := problem_of(value, shape):
        raise ValueError(f"{path}: {problem}; {fix}")
    return value


def parse_json(text: bytes, path: Path, fix: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also not UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not JSON ({str(error)[:200]}); {fix}") from None
    if depth_of(value) > MAX_DEPTH:
        raise ValueError(f"{path} is nested deeper than {MAX_DEPTH} levels; {fix}")
    return value


def depth_of(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [inner for item in level if isinstance(item, dict | list)
                 for inner in (item.values() if isinstance(item, dict) else item)]  # fmt: skip
    return depth


def problem_of(value: Any, shape: Any, place: str = "") -> str | None:
    """What is wrong with a value, and where in it; None where it has the shape."""
    if shape is ANY:
        return None
    if isinstance(shape, OneOf):
        problems = [problem_of(value, one, place) for one in shape]
        return None if None in problems else problems[0]
    inner: list[tuple[Any, Any, Any]] = []
    if isinstance(shape, Whole):
        if type(value) is int and shape.least <= value <= shape.most:
            return None
        return f"{place or 'it'} is {str(value)[:60]!r}, not a whole number from {shape.least} to {shape.most}"
    if isinstance(shape, Text):
        if type(value) is str and re.fullmatch(shape.pattern, value):
            return None
        return f"{place or 'it'} is {str(value)[:80]!r}, which does not fit {shape.pattern}"
    if isinstance(shape, Each | dict):
        if not isinstance(value, dict):
            return wrong(value, dict, place)
        if isinstance(shape, Each):
            inner = [(key, item, shape.shape) for key, item in value.items()]
        else:
            if missing := [key for key in shape if not key.endswith("?") and key not in value]:
                return f"{place or 'it'} lacks {', '.join(missing)}"
            names = ((key.removesuffix("?"), one) for key, one in shape.items())
            inner = [(name, value[name], one) for name, one in names if name in value]
    elif isinstance(shape, list | tuple):
        if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
            length = f" of {len(shape)}" if isinstance(shape, tuple) else ""
            return f"{place or 'it'} is {str(value)[:60]!r}, not a list{length}"
        inner = [(number, item, shape[0 if isinstance(shape, list) else number]) for number, item in enumerate(value)]
    elif not fits(value, shape):
        return wrong(value, shape, place)
    found = (problem_of(item, one, f"{place}.{key}" if place else str(key)) for key, item, one in inner)
    return next((problem for problem in found if problem), None)


def fits(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    return type(value) is kind and (kind is not int or abs(value) < 2**63)


def wrong(value: Any, kind: Any, place: str) -> str:
    return f"{place or 'it'} is {str(value)[:60]!r}, not {KINDS[kind]}"


def read_lines(path: Path) -> list[dict]:
    """The objects of a file with one JSON object a line, such as log.jsonl; a damaged line is left out alone."""
    lines = []
    if path.is_file():
        for text in read_bytes(path, MAX_JSON_BYTES).splitlines():
            try:
                lines.append(parse_json(text, path, ""))
            except ValueError:
                continue
    return [line for line in lines if isinstance(line, dict)]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What write_arrays wrote, replicates of one length; nothing where there is no file."""
    if not path.is_file():
        return {}
    fix = "remove it and evaluate again"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_JSON_BYTES:
                raise ValueError("it is too large")
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
    except Exception as error:  # a damaged archive raises any of a dozen types
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}); {fix}") from None
    if any(a.ndim != 1 or a.dtype != np.float64 for a in arrays.values()) or len({a.size for a in arrays.values()}) > 1:
        raise ValueError(f"{path} is damaged (not replicates of one length); {fix}")
    return arrays
