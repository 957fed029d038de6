"""The name a user may have meant."""

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: car)', or '' when nothing is near; compared without case, and with words in any order."""
    known = {words(other): other for other in names}
    close = difflib.get_close_matches(words(name), list(known), n=1, cutoff=0.5)
    return f" (nearest: {known[close[0]]})" if close else ""


def words(name: str) -> str:
    return " ".join(sorted(re.split(r"[\W_]+", name.lower())))
