"""The name a user may have meant."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

NEAR = 0.5


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: car)', or '' when nothing is near; compared without case, and with words in any order."""

    def likeness(other: str) -> float:
        pairs = ((name.lower(), other.lower()), (words(name), words(other)))
        return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    close = max(names, key=likeness, default="")
    return f" (nearest: {close})" if likeness(close) >= NEAR else ""


def words(name: str) -> str:
    return " ".join(sorted(re.split(r"[\W_]+", name.lower())))
