"""How an evaluated checkpoint came to be: start, length, teacher, data and inputs, as config.json and model card say.

Two checkpoints that differ in start, length, data or inputs differ by more than their methods: their difference is
named so.
"""

from dataclasses import dataclass
from pathlib import Path

from eval import schema
from eval.results import EvaluatedRun
from pipeline.files.own import read_json


@dataclass(frozen=True)
class Origin:
    """Texts for a reader; None where nobody says."""

    start: str | None = None
    length: str | None = None
    teacher: str | None = None
    data: tuple[str, ...] | None = None  # checksums
    inputs: tuple[str, ...] = ("rgb",)  # what the detector looks at

    def sentence(self) -> str:
        teacher = f"teacher: {self.teacher}" if self.teacher else "no teacher"
        if self.start is None:
            return f"start and teacher not known, {self.length or 'length not known'}"
        return f"starts from {self.start}, {self.length or 'length not known'}, {teacher}"


def origin_of(run: EvaluatedRun) -> Origin:
    step = run.results.get("detector", {}).get("step")
    length = f"{step} steps" if isinstance(step, int) else None
    trained = run.results.get("trained_on")
    data = None if trained is None else tuple(sorted(entry["checksum"] for entry in trained))
    if run.trained is None:
        return Origin(length=length, data=data)
    config = read_json(run.trained / "config.json", schema.CONFIG)
    teacher = config.get("teacher")
    if config.get("teacher_policy") == "average":
        teacher = "its own average"
    start = config.get("student_init", "weights")
    if start == "teacher":
        start = f"the weights of {short(teacher)}" if teacher else None
    elif start == "weights":
        weights = (config.get("model") or {}).get("weights")
        known = {"imagenet": "ImageNet's weights", "none": "random weights", None: None}
        start = known.get(weights, str(weights))
    inputs = tuple((config.get("model") or {}).get("inputs", ["rgb"]))
    return Origin(start, length, teacher and short(teacher), data, inputs)


def short(path: str) -> str:
    """The last two parts of a path: enough to tell runs apart on a page."""
    return str(Path(*Path(path).parts[-2:])) if "/" in path else path


def unlike(run: EvaluatedRun, other: EvaluatedRun) -> list[str]:
    """What differs, or is not known to be equal, beside the method: some of start, length, data, input."""
    a, b = origin_of(run), origin_of(other)
    return [
        name
        for name, first, second in (
            ("start", a.start, b.start),
            ("length", a.length, b.length),
            ("data", a.data, b.data),
            ("input", a.inputs, b.inputs),
        )
        if first != second or first is None
    ]


def difference_note(run: EvaluatedRun, other: EvaluatedRun) -> str:
    """What a difference of two runs is one of."""
    differing = unlike(run, other)
    if not differing:
        return f"{run.name} and {other.name} have the same start, length and data."
    listed = differing[0] if len(differing) == 1 else f"{', '.join(differing[:-1])} and {differing[-1]}"
    return (
        f"{run.name} - {other.name} is the difference of two checkpoints, not of two methods: their {listed} "
        f"{'differs or is' if len(differing) == 1 else 'differ or are'} not known to be equal."
    )
