"""What a reader of one annotation format hands over: one image as a file describes it, before any check."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.command.console import say


class AnnotatedBox(NamedTuple):
    name: str  # class name as the source spells it
    x1: float  # 0-based corners in pixels of the displayed image, or fractions of it when the image says `normalised`
    y1: float
    x2: float
    y2: float
    ignore: bool
    where: str  # line or field, for messages


@dataclass
class Annotated:
    id: int
    image: Path
    file: str  # the annotation file, relative to the root
    domain: str
    size: tuple[int, int] | None = None  # (h, w) as the annotation file declares it
    boxes: list[AnnotatedBox] = field(default_factory=list)
    normalised: bool = False
    regions: list[AnnotatedBox] = field(default_factory=list)  # where every class is ignored, whatever their name
    unlabelled: bool = False  # nobody has looked for objects in it


def choose_splits(available: Sequence[str], wanted: Sequence[str], root: Path) -> list[str]:
    """The splits to read. With several and none named, ask: mixing test images into training must be said."""
    if not available:
        raise ValueError(f"{root}: no list or annotation file of a split was found")
    if list(wanted) == ["all"]:
        return list(available)
    chosen = []
    for name in wanted:
        # train stands for train2017 where that is the only such name, but never for trainval or train_val.
        longer = [other for other in available if re.fullmatch(re.escape(name) + r"[-_]?\d+", other)]
        if name not in available and len(longer) == 1:
            say(f"--split {name}: taking {longer[0]}, the only one of {', '.join(available)} that fits")
            name = longer[0]
        if name not in available:
            raise ValueError(f"--split {name}: {root} has {', '.join(available)}")
        chosen.append(name)
    if not wanted and len(available) > 1:
        raise ValueError(f"{root} has the splits {', '.join(available)}: say which with --split NAME (several, or all)")
    return list(dict.fromkeys(chosen)) or list(available)


def class_name(value: Any, what: str = "the class name") -> str:
    """Text that can be printed and written as UTF-8; JSON and YAML can spell a lone surrogate (\\ud800)."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {str(value)[:40]!r}, expected text")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value.strip()):
        raise ValueError(f"{what} {value[:40]!r} has a control character or half a character")
    return value.strip()


def relative(path: Path, root: Path) -> str:
    """The path below the root as text that can be printed: a byte that is not UTF-8 is shown as \\udcff."""
    text = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return text.encode(errors="backslashreplace").decode()
