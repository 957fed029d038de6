"""What `python -m eval.pseudo_label` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eval.options import EvaluationOptions

PRECISION, IGNORE_PRECISION, AGREE_OVERLAP = 0.5, 0.05, 0.6


@dataclass(frozen=True)
class PseudoLabelOptions:
    """Make a packed dataset whose boxes are a detector's."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run or a checkpoint: the detector."""
    data: Path
    """Packed dataset whose images are to be labelled."""
    out: Path
    """Folder of the new packed dataset; the same command continues an interrupted one."""
    domains: tuple[str, ...] = ()
    """Only these domains of the data: names, or patterns such as 'clear_*'; none: all."""
    labelled: tuple[Path, ...] = ()
    """Packed datasets with labels, of the data's look and not trained on: the scores are chosen on them."""
    precision: float = PRECISION
    """Of the objects: part of them that is right on --labelled."""
    ignore_precision: float = IGNORE_PRECISION
    """Of the ignored boxes and the objects together."""
    high: tuple[str, ...] = ()
    """In place of --precision: scores from which on detections are objects, a number for all or car=0.7 person=0.6."""
    low: tuple[str, ...] = ()
    """In place of --ignore-precision: scores from which on detections are ignored."""
    weigh: bool = False
    """An object's weight is its score; else 1."""
    agree: tuple[Literal["flip", "scale"], ...] = ()
    """A detection is an object only where the mirrored image (flip), or one of three quarters the size, has it too."""
    agree_overlap: float = AGREE_OVERLAP
    """Least intersection over union of two detections that agree."""
    map: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Rename a class of the detector: --map motorcycle=motor, as often as needed."""
    batch_size: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        for name, default, useless in (
            ("precision", PRECISION, "beside --high" if self.high else ""),
            ("ignore_precision", IGNORE_PRECISION, "beside --low" if self.low else ""),
            ("agree_overlap", AGREE_OVERLAP, "" if self.agree else "without --agree"),
        ):
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if not 0 < value <= 1:
                raise ValueError(f"{option} {value:g}: expected more than 0 and at most 1")
            if useless and value != default:
                raise ValueError(f"{option} {value:g} has no effect {useless}")
        if not self.labelled and not (self.high and self.low):
            raise ValueError(
                "the scores that make a detection an object are not known: give --labelled DIR, on which they are "
                "chosen, or --high and --low"
            )
        if self.labelled and self.high and self.low:
            raise ValueError("--high and --low are given, so nothing is chosen on --labelled; leave one of them out")
        if not self.high and not self.low and self.ignore_precision > self.precision:
            raise ValueError(
                f"--ignore-precision {self.ignore_precision:g} is above --precision {self.precision:g}; boxes that "
                "are ignored are right less often"
            )

    def as_evaluation(self) -> EvaluationOptions:
        """What opens the detector and looks at images is the evaluation's."""
        return EvaluationOptions(
            self.run, (self.data, *self.labelled), map=self.map, batch_size=self.batch_size, device=self.device,
            compile=self.compile, allow_other_classes=True,
        )  # fmt: skip
