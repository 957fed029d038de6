"""What differs between two recordings. Imports nothing heavy and sets nothing: the tests import it."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OWN = Path(__file__).resolve().parent / "own"
GROUPS = ("packed", "training", "views", "evaluation", "fixtures")
PACKED = ("packed", "packed-night")

Same = Callable[[str, Any, Any], bool]


def differences(stored: Any, now: Any, same: Same, where: str = "") -> Iterator[str]:
    """Lines "training.cdfkd_small.log.0.losses.global: stored 0.1, now 0.2". `same(where, a, b)` judges values."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for name in (*stored, *(name for name in now if name not in stored)):
            if name in stored and name in now:
                yield from differences(stored[name], now[name], same, f"{where}.{name}")
            else:
                yield f"{where}.{name}: {'gone' if name in stored else 'new'}"
    elif isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        for index, (a, b) in enumerate(zip(stored, now, strict=True)):
            yield from differences(a, b, same, f"{where}.{index}")
    elif not same(where, stored, now):
        yield f"{where}: stored {stored}, now {now}"


def bit_equal(where: str, a: Any, b: Any) -> bool:
    """Also of the kind: 0 is not 0.0, and a NaN is itself."""
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def compare(stored: Path, now: Path, same: Same = bit_equal) -> list[str]:
    """What differs between two recordings; the machine aside."""
    lines: list[str] = []
    for group in GROUPS:
        a, b = (json.loads((folder / f"{group}.json").read_text()) for folder in (stored, now))
        lines += differences(a, b, same, group)
    return lines
