"""What is wrong with someone's data, collected and shown together: file, place, fault and fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.command.console import counted
from pipeline.files.escape import printable_line

SHOWN = 40


@dataclass(frozen=True, order=True)
class Problem:
    """One fault. `skips` says what `--allow-bad` does: leave out the image, leave out the box, or clip the box."""

    file: str  # relative to the dataset's root
    where: str  # line, field or object; "" for the file as a whole
    what: str
    fix: str
    skips: str = "image"  # "image", "box" or "clip"

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return printable_line(f"{place}: {self.what}; {self.fix}")


SKIP_TEXT = {"image": "the image is left out", "box": "the box is left out", "clip": "the box is clipped"}


def describe_problems(problems: Sequence[Problem], complete: Path) -> str:
    """The first ones, and where the complete list is when there are more."""
    lines = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more; {complete} lists them all")
    return "\n".join(lines)


def problem_list(problems: Sequence[Problem]) -> str:
    """The text of problems.txt: every problem on a line, with what is done about it where it is allowed."""
    return "".join(f"{problem} [{SKIP_TEXT[problem.skips]}]\n" for problem in problems)


def check_allowed(problems: Sequence[Problem], allow_bad: int, root: Path, complete: Path, more: str = "") -> None:
    """Raise with all problems together when there are more than the user allowed. `more` ends the message."""
    if len(problems) <= allow_bad:
        return
    images, boxes, clips = (sum(problem.skips == kind for problem in problems) for kind in SKIP_TEXT)
    effects = (
        (images, f"{counted(images, 'image')} left out"),
        (boxes, f"{counted(boxes, 'box', 'boxes')} left out"),
        (clips, f"{counted(clips, 'box', 'boxes')} clipped"),
    )
    raise ValueError(
        f"{counted(len(problems), 'problem')} in {root}, {allow_bad} allowed "
        f"(allowing all: {', '.join(text for count, text in effects if count)}):\n"
        f"{describe_problems(problems, complete)}\n"
        f"Fix the data, or accept up to this many with --allow-bad {len(problems)}{more}"
    )
