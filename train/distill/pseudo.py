"""Pseudo-labels while training: in unlabelled images the student is to find what the teacher finds.

The teacher looks at the clean view. It is the run's frozen teacher, or the moving average of the student (Tarvainen and
Valpola 2017; for detectors Liu et al. 2021, Unbiased Teacher). With s a detection's score and its class's two numbers:

    s >= high          an object of weight 1, with `weigh` of weight s
    low <= s < high    ignored: neither rewarded nor punished
    s < low            nothing, and so is an ignored one that overlaps an object of its class (IoU of 0.5 or more)

Images with annotations keep them. An image is unlabelled where all its boxes are ignored and one covers all of it, as
packing writes it. The boxes take the place of the annotations for the detection loss and for all other methods of the
run, in both views. There is no term of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.annotated import annotated, find_doubles, find_unlabelled
from pipeline.batch import View, Views
from train.distill.method import Logged, Method, annotations

LEAST_SIDE = 1.0  # pixels of the clean view


@dataclass(frozen=True)
class PseudoConfig:
    """Options of pseudo-labels; python -m eval.pseudo_label chooses both scores for a wanted precision."""

    kind: ClassVar[str] = "pseudo"

    high: tuple[float, ...] = (0.7,)
    """Scores from which on a detection is an object: one, or one for each class in the data's order."""
    low: tuple[float, ...] = (0.3,)
    """Scores from which on a detection is ignored: one, or one for each class."""
    weigh: bool = False
    """An object's weight is its score; else 1."""

    def __post_init__(self) -> None:
        for name, scores in (("high", self.high), ("low", self.low)):
            if not scores or not all(0 <= score <= 1 for score in scores):
                raise ValueError(f"--distill.pseudo.{name} must be scores from 0 to 1, got {scores}")


class Pseudo(Method):
    needs_unlabelled = True
    logged = ("objects",)
    teaches = ()
    want_teacher = Want(found=True)

    def __init__(self, config: PseudoConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        self.weights = {}
        high, low = (
            by_class(getattr(config, name), student.num_classes, f"--distill.pseudo.{name}") for name in ("high", "low")
        )
        device = next(student.parameters()).device
        self.high_K, self.low_K = torch.tensor(high, device=device), torch.tensor(low, device=device)
        if any(least > most for least, most in zip(low, high, strict=True)):
            raise ValueError(
                f"--distill.pseudo.low must be at most --distill.pseudo.high, got {config.low} and {config.high}"
            )

    def relabel(self, views: Views, teacher: Outputs | None) -> Views:
        clean = views.clean
        assert clean is not None
        assert teacher is not None
        assert teacher.found is not None
        boxes_BD4, scores_BD, labels_BD, count_B = teacher.found
        labels_BD = labels_BD.long()
        slot_D = torch.arange(boxes_BD4.shape[1], device=boxes_BD4.device)
        sides_BD2 = boxes_BD4[..., 2:] - boxes_BD4[..., :2]
        kept_BD = (slot_D < count_B[:, None]) & (scores_BD >= self.low_K[labels_BD])
        kept_BD = kept_BD & (sides_BD2 >= LEAST_SIDE).all(-1)
        object_BD = kept_BD & (scores_BD >= self.high_K[labels_BD])
        kept_BD = kept_BD & ~find_doubles(boxes_BD4.float(), labels_BD, object_BD)
        weight_BD = torch.where(object_BD & self.config.weigh, scores_BD.float(), 1.0)

        known = annotated(annotations(views, clean))
        unlabelled_B1 = find_unlabelled(known.boxes_BG4, clean.sizes_B2, known.owner_BG, known.ignored_BG)[:, None]
        labels_BG = choose(unlabelled_B1, torch.where(kept_BD, labels_BD, 0), views.labels_BG)
        ignore_BG = choose(unlabelled_B1, kept_BD & ~object_BD, views.ignore_BG)
        weight_BG = choose(unlabelled_B1, weight_BD, views.weight_BG)
        boxes_BD4 = torch.where(kept_BD[..., None], boxes_BD4.float(), 0.0)
        placed = {}
        for name in ("clean", "corrupted"):
            view = getattr(views, name)
            if view is not None:
                factor_B2 = view.sizes_B2.flip(1) / clean.sizes_B2.flip(1).clamp(min=1)
                mine_BD4 = boxes_BD4 * factor_B2.repeat(1, 2)[:, None]
                boxes_BG4 = choose(unlabelled_B1[..., None], mine_BD4, view.boxes_BG4)
                placed[name] = View(view.images_B3HW, view.sizes_B2, boxes_BG4)
        return Views(
            placed.get("clean"), placed.get("corrupted"), views.ratio_B, labels_BG, ignore_BG, weight_BG,
            views.keys_B, views.ids_B, views.extra,
        )  # fmt: skip

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        """No term; the number of objects in an image, be they annotated or the teacher's."""
        assert views.clean is not None
        real_B1 = (views.clean.sizes_B2 > 0).all(1, keepdim=True)
        objects_BG = annotated(annotations(views, views.clean)).owner_BG
        return {}, {"objects": (objects_BG.sum().float(), real_B1.sum().float())}


def by_class(scores: tuple[float, ...], num_classes: int, option: str) -> tuple[float, ...]:
    """One a class, the background's before them, which nothing reaches."""
    if len(scores) not in (1, num_classes - 1):
        raise ValueError(f"{option} has {len(scores)} scores for {num_classes - 1} classes; give one, or one for each")
    return (float("inf"), *(scores if len(scores) > 1 else scores * (num_classes - 1)))


def choose(first_B1: Tensor, first_BD: Tensor, second_BG: Tensor) -> Tensor:
    """Rows of the first where chosen, else of the second; the shorter one is filled up with zeros."""
    slots = max(first_BD.shape[1], second_BG.shape[1])
    first_BG, second_BG = (
        F.pad(rows, ((0, 0) * (rows.ndim - 2)) + (0, slots - rows.shape[1])) for rows in (first_BD, second_BG)
    )
    return torch.where(first_B1, first_BG, second_BG)
