"""The name a user may have meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: car)', or '' when nothing is near; compared without case."""
    lowered = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f" (nearest: {lowered[close[0]]})" if close else ""
