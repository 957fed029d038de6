"""Names of untrusted files on a terminal: nothing in them may steer it."""

import re

# C0, C1 and what turns the direction of writing; the last are halves of characters, which no terminal can be sent.
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Names come from untrusted files: what would steer a terminal is shown as it is written in Python."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def printable_line(text: str) -> str:
    """As `printable`, for a name that must not begin a line of its own."""
    return printable(text).replace("\n", "\\n")
