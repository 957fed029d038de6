"""A golden case, and what it means to agree with it.

A case is NAME.safetensors (inputs, weights, outputs, gradients of the original code) beside NAME.json (its
configuration, and the shape and meaning of every tensor). Its group is its folder's name.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


class NotRunnable(Exception):
    """Our code does not have what the case computes."""


class Bound(NamedTuple):
    """How far a result may be off: `limit` of what `scale` says."""

    scale: str  # "count" of unequal elements, "absolute", "relative" to the tensor's largest, or "each" element
    limit: float


EXACT = Bound("count", 0)
LOSS = Bound("relative", 2e-5)
GRADIENT = Bound("relative", 1e-4)
OUTPUT = Bound("relative", 1e-5)
PIXELS = Bound("absolute", 1e-3)
SCORE = Bound("absolute", 1e-5)


class Check(NamedTuple):
    """One comparison. Checks of one quantity are reported together, by the largest error."""

    quantity: str
    got: Tensor
    expected: Tensor
    bound: Bound


@dataclass
class Case:
    group: str
    name: str
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def title(self) -> str:
        return f"{self.group}/{self.name}"

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"{self.title}: the tensor {name!r} is missing")
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with the prefix, under what follows it."""
        return {name[len(prefix) :]: self[name] for name in self.tensors if name.startswith(prefix)}

    def levels(self, prefix: str) -> list[Tensor]:
        """prefix.0, prefix.1 and so on."""
        found: list[Tensor] = []
        while f"{prefix}.{len(found)}" in self.tensors:
            found.append(self[f"{prefix}.{len(found)}"])
        return found


def find_cases(folder: Path) -> list[Path]:
    """Every case below a folder, as the path without its ending. Other JSON files, such as an index, are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name one that holds cases (NAME.safetensors beside NAME.json)")
    found = {path.with_suffix("") for path in folder.rglob("*.safetensors")}
    for path in folder.rglob("*.json"):
        if path.with_suffix("") not in found and _claims_to_be_a_case(path):
            found.add(path.with_suffix(""))
    if not found:
        raise ValueError(f"{folder} holds no cases (NAME.safetensors beside NAME.json)")
    return sorted(found)


def _claims_to_be_a_case(path: Path) -> bool:
    try:
        facts = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError):
        return True  # damaged: reading it will say so
    return isinstance(facts, dict) and "case" in facts


def read_case(stem: Path) -> Case:
    """A case with every tensor its JSON promises. Whatever is damaged or missing is a ValueError that names it."""
    title = f"{stem.parent.name}/{stem.name}"
    description, data = (stem.parent / f"{stem.name}.{ending}" for ending in ("json", "safetensors"))
    try:
        facts = json.loads(description.read_text())
        tensors = load_file(data)
    except FileNotFoundError as error:
        missing = description if not description.is_file() else data
        raise ValueError(f"{title}: {missing.name} is missing") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{title}: {description.name} is not JSON ({error})") from error
    except SafetensorError as error:
        raise ValueError(f"{title}: {data.name} is damaged ({error})") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{title}: {description.name} holds no object")
    promised = facts.get("tensors", {})
    if not isinstance(promised, dict):
        raise ValueError(f"{title}: `tensors` of {description.name} is no object")
    for name, about in promised.items():
        if name not in tensors:
            raise ValueError(f"{title}: the tensor {name!r} is missing in {data.name}")
        if isinstance(about, dict) and "shape" in about and list(tensors[name].shape) != list(about["shape"]):
            raise ValueError(
                f"{title}: the tensor {name!r} has shape {list(tensors[name].shape)}, its JSON says {about['shape']}"
            )
    return Case(stem.parent.name, stem.name, facts, tensors)


def measure(check: Check) -> float:
    """The error in units of the bound's scale; infinite where shapes, or what is not finite, differ."""
    got, expected = check.got.detach().cpu(), check.expected.detach().cpu()
    if got.shape != expected.shape:
        return float("inf")
    if got.numel() == 0:
        return 0.0
    if check.bound.scale == "count":
        return float((got.to(torch.float64) != expected.to(torch.float64)).sum())
    got, expected = got.to(torch.float64), expected.to(torch.float64)
    same = (got == expected) | (got.isnan() & expected.isnan())
    if not (same | (got.isfinite() & expected.isfinite())).all():
        return float("inf")
    error = torch.where(same, 0.0, (got - expected).abs())
    size = torch.where(expected.isfinite(), expected.abs(), 0.0)
    if check.bound.scale == "relative":
        error = error / size.max().clamp(min=1e-8)
    elif check.bound.scale == "each":
        # Equal to |error| <= limit * |expected| + limit / 1000 * largest.
        error = error / (size + 1e-3 * size.max()).clamp(min=1e-8)
    return float(error.max())


def judge(checks: Iterable[Check]) -> tuple[dict[str, float], list[str]]:
    """({quantity: largest error}, what is above its bound)."""
    largest: dict[str, float] = {}
    above: dict[str, str] = {}
    for check in checks:
        error = measure(check)
        worst = error >= largest.get(check.quantity, 0.0)
        largest[check.quantity] = max(error, largest.get(check.quantity, 0.0))
        if not error <= check.bound.limit and (worst or check.quantity not in above):
            shapes = ""
            if check.got.shape != check.expected.shape:
                shapes = f" (shape {tuple(check.got.shape)}, expected {tuple(check.expected.shape)})"
            above[check.quantity] = f"{check.quantity}: {error:.3g} above {check.bound.limit:.3g}{shapes}"
    if not largest:
        raise ValueError("nothing was compared: the case holds none of the results that its group is about")
    return largest, list(above.values())
