"""Frozen dataclasses as JSON and back: configurations of runs and of detectors."""

import dataclasses
import types
import typing
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal

from pipeline.command.suggest import nearest
from pipeline.files.own import fits


def to_json(config: Any) -> Any:
    """Plain JSON values; paths become strings, tuples lists, and a dataclass with a `kind` says it."""
    if dataclasses.is_dataclass(config):
        values = {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"kind": config.kind} | values if hasattr(config, "kind") else values
    if isinstance(config, tuple):
        return [to_json(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def from_json(kind: Any, value: Any, where: str = "config") -> Any:
    """Inverse of to_json for a dataclass `kind`; a name that `kind` lacks is an error."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None:
        if type(None) not in options:
            raise ValueError(f"{where} must be a {kind}, got null")
        return None
    kind, value = choose_kind([option for option in options if option is not type(None)], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise ValueError(f"{where} must hold the fields of {kind.__name__}, got {value!r:.60}")
        needed = [field.name for field in dataclasses.fields(kind) if field.default is MISSING is field.default_factory]
        if missing := [name for name in needed if name not in value]:
            raise ValueError(f"{where} lacks {missing}; give the config.json of a run directory")
        if unknown := sorted(set(value) - set(hints)):
            raise ValueError(f"{where} has {unknown}, which this version of {kind.__name__} does not know")
        values = {name: from_json(hints[name], item, f"{where}.{name}") for name, item in value.items()}
        try:
            return kind(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if typing.get_origin(kind) is tuple:
        if kind == tuple[Path, ...] and isinstance(value, str):
            value = [value]  # as runs wrote `data` before there could be several
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r:.60}")
        inner = typing.get_args(kind)
        kinds = [inner[0]] * len(value) if inner[1:] == (Ellipsis,) else inner
        if len(kinds) != len(value):
            raise ValueError(f"{where} must be a list of {len(kinds)}, got {value!r:.60}")
        return tuple(from_json(a, b, where) for a, b in zip(kinds, value, strict=True))
    if typing.get_origin(kind) is Literal:
        right, allowed = value in typing.get_args(kind), f"one of {', '.join(typing.get_args(kind))}"
    else:
        right, allowed = fits(value, str if kind is Path else kind), f"of type {kind.__name__}"
    if not right:
        raise ValueError(f"{where} must be {allowed}, got {value!r:.60}")
    return kind(value) if kind in (Path, float) else value


def choose_kind(options: list[Any], value: Any, where: str) -> tuple[Any, Any]:
    """The tagged one of several dataclasses, and its fields without the tag; of an older run without one, the first."""
    if not isinstance(value, dict) or not hasattr(options[0], "kind"):
        (kind,) = options
        return kind, value
    named = {option.kind: option for option in options}
    name = value.get("kind", options[0].kind)
    if not isinstance(name, str) or name not in named:
        raise ValueError(f"{where}.kind is {name!r}{nearest(str(name), named)}; allowed: {', '.join(named)}")
    return named[name], {key: item for key, item in value.items() if key != "kind"}
