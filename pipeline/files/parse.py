"""Safe parsing of untrusted XML, JSON, YAML and text.

Size and depth are bounded. There are no document types or entities (so none can expand), no duplicate keys and no NaN.
No path leaves the dataset's root. Every failure is a ValueError that says where.
"""

import json
import math
import os
import re
import stat
import xml.parsers.expat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

MAX_XML_BYTES = 16 << 20
MAX_TEXT_BYTES = 64 << 20
MAX_YAML_BYTES = 1 << 18
MAX_JSON_BYTES = 4 << 30
MAX_IMAGE_BYTES = 256 << 20
MAX_DEPTH = 32

NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)


@contextmanager
def open_file(path: Path, max_bytes: int) -> Iterator[BufferedReader]:
    """The file for reading; only a regular file of bounded size (a pipe or device would never end)."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is not a regular file")
            if status.st_size > max_bytes:
                raise ValueError(f"has {status.st_size} bytes, more than the {max_bytes} allowed here")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("is missing") from None
    except IsADirectoryError:
        raise ValueError("is a folder, not a file") from None
    except OSError as error:  # no permission, a loop of symbolic links, a failing disk
        raise ValueError(f"cannot be read ({error.strerror})") from None


def read_bytes(path: Path, max_bytes: int) -> bytes:
    with open_file(path, max_bytes) as file:
        return file.read()


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


def parse_number(text: str) -> float:
    """A finite decimal number in plain ASCII ('12', '12.50', '1e2'); nothing else that float() would take."""
    text = text.strip(" \t\r\n")
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return finite(float(text))


def finite(value: Any) -> float:
    """A JSON or YAML number as a finite float; true, strings and NaN are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    try:
        value = float(value)
    except OverflowError:
        raise ValueError("is too large a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def inside(root: Path, name: Any) -> Path:
    """root / name, for a name found in a file: relative, without '..' (symbolic links inside the root are followed)."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{str(name)[:80]!r} is not a file name")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or (parts and parts[0].endswith(":")):
        raise ValueError(f"{name[:80]!r} points outside the dataset's root")
    if len(name) > 1000 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{name[:80]!r}... is too long for a file name")
    return root.joinpath(*parts)


@dataclass
class Node:
    """One XML element."""

    tag: str
    line: int
    text: str = ""
    children: list["Node"] = field(default_factory=list)

    def all(self, tag: str) -> list["Node"]:
        return [child for child in self.children if child.tag == tag]

    def one(self, tag: str) -> "Node":
        found = self.all(tag)
        if len(found) != 1:
            raise ValueError(f"line {self.line}: <{self.tag}> has {len(found)} <{tag}> where one is expected")
        return found[0]

    def number(self) -> float:
        try:
            return parse_number(self.text)
        except ValueError as error:
            raise ValueError(f"line {self.line}: <{self.tag}> {error}") from None


def read_xml(path: Path) -> Node:
    """The root element. A document type, an entity or a nesting beyond MAX_DEPTH is refused before it is expanded."""
    data = read_bytes(path, MAX_XML_BYTES)
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    top = Node("", 0)
    stack = [top]
    pieces: list[list[str]] = [[]]  # of each open element's text; adding strings up would take quadratic time

    def refuse(*_) -> None:
        raise ValueError(f"line {parser.CurrentLineNumber}: document types and entities are not accepted")

    def start(tag: str, _attributes: dict) -> None:
        if len(stack) > MAX_DEPTH:
            raise ValueError(f"line {parser.CurrentLineNumber}: nested deeper than {MAX_DEPTH} elements")
        node = Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)
        pieces.append([])

    def end(_tag: str) -> None:
        stack.pop().text = "".join(pieces.pop())

    def text(data: str) -> None:
        pieces[-1].append(data)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(data, True)
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(
            f"line {error.lineno}: is not well-formed XML ({xml.parsers.expat.errors.messages[error.code]})"
        ) from None
    except (LookupError, UnicodeError) as error:  # an unknown encoding
        raise ValueError(f"line 1: has an encoding that cannot be read ({error})") from None
    return top.children[0]


def first_double(names: Iterable[Any]) -> str:
    """The first name that occurs for the second time, as text."""
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    raise AssertionError("no name occurs twice")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"has the key {first_double(name for name, _ in pairs)[:40]!r} twice in one object")
    return result


def read_json(path: Path) -> Any:
    text = read_bytes(path, MAX_JSON_BYTES)
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)  # a NaN is its box's problem
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} column {error.colno}: is not valid JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases, the only way a small file can become a large one, and without duplicate keys."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        result = super().construct_mapping(node, deep)
        if len(result) != len(node.value):
            double = first_double(self.construct_object(key) for key, _ in node.value)
            raise ValueError(f"line {node.start_mark.line + 1}: has the key {double[:40]!r} twice")
        return result


def read_yaml(path: Path) -> Any:
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{place}is not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except (RecursionError, ValueError, OverflowError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"is not valid YAML ({error})") from None
