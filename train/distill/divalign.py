"""DivAlign, diversification and alignment (Danish et al., CVPR 2024, arXiv 2405.14497). It needs no teacher.

The student looks at the clean image and at the corrupted one, and is trained to find the boxes in both. Its box head
shall also say the same of the same regions. R are the regions sampled for the detection loss of the clean view, p and d
the class probabilities and box deltas there, p' and d' those that the same head gives for R in the corrupted view:

    divalign_class = mean over R of KL(p' || p)
    divalign_box   = mean over the foreground of R, and over 4 deltas of the region's class, of smooth-L1(d - d', 1/9)

Both sides get a gradient. A region keeps its pyramid level; where the corrupted view is smaller, it shrinks with it.
(The original's network has one map and views of one size.)

Differs from the original where it must. Without a foreground region the original's second mean is 0 / 0: its loss is
NaN. Here it is 0. And the means are over the global batch, there over each rank's own images. `faithful` gives the
original's numbers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.annotated import annotated
from model.faster_rcnn.detector import FasterRcnn
from pipeline.batch import Views
from train.distill.method import Logged, Method, annotations
from train.distill.places import check_weights
from train.distill.two_stage import BETA, grow_with, of_class


@dataclass(frozen=True)
class DivAlignConfig:
    """Options of DivAlign."""

    kind: ClassVar[str] = "divalign"

    classes: float = 1.0
    """Weight of the class alignment."""
    boxes: float = 1.0
    """Weight of the box alignment."""
    faithful: bool = False
    """The original's means: of each rank alone, and NaN without a foreground region."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.divalign", "classes", "boxes")


class DivAlign(Method):
    student_sees = ("clean", "corrupted")
    needs_teacher = False
    teaches = ("backbone", "roi_heads")

    def __init__(self, config: DivAlignConfig, student: Detector, teacher: Detector | None, mean: Mean):
        super().__init__(config, student, teacher, mean)
        if not isinstance(student, FasterRcnn):
            raise ValueError(
                f"divalign aligns a box head, and a {student.config.kind} has none: give --model faster_rcnn"
            )
        self.weights = {"divalign_class": config.classes, "divalign_box": config.boxes}
        self.want_student, self.regions = Want(dense=True), student.config.regions_per_image
        self.student = (student,)  # in a tuple: no child

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs | None, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (student,), regions = self.student, assigned["clean"]
        assert views.clean is not None
        assert views.corrupted is not None
        rois = student.place(regions.candidates_BN4, regions.state_BN >= 0)
        small = grow_with(rois, views.clean, views.corrupted)
        logits_BRK, deltas_BRK4 = student.box_head(seen["clean"].neck, rois)
        other_BRK, other_BRK4 = student.box_head(seen["corrupted"].neck, small)
        foreground_BR = regions.state_BN == 1
        labels_BG = annotated(annotations(views, views.clean)).labels_BG
        labels_BR = torch.where(foreground_BR, labels_BG.gather(1, regions.matched_BN), 0)
        classes = self._mean(class_distances(logits_BRK, other_BRK), rois.real_BR, 1)
        boxes = self._mean(box_distances(deltas_BRK4, other_BRK4, labels_BR), foreground_BR, 4)
        return {"divalign_class": classes, "divalign_box": boxes}, {}

    def _mean(self, distance_BR: Tensor, counts_BR: Tensor, numbers: int) -> Tensor:
        total, count = torch.where(counts_BR, distance_BR, 0.0).sum(), counts_BR.sum().float() * numbers
        return total / (count if self.config.faithful else self.mean(count).clamp(min=1e-6))


def class_distances(logits_NK: Tensor, other_NK: Tensor) -> Tensor:
    """KL(other || own) of each region's class probabilities."""
    log_NK, other_log_NK = logits_NK.log_softmax(-1), other_NK.log_softmax(-1)
    return (other_log_NK.exp() * (other_log_NK - log_NK)).sum(-1)


def box_distances(deltas_NK4: Tensor, other_NK4: Tensor, labels_N: Tensor) -> Tensor:
    """The sum of smooth-L1 over the four deltas of each region's class."""
    own_N4, other_N4 = of_class(deltas_NK4, labels_N), of_class(other_NK4, labels_N)
    return F.smooth_l1_loss(own_N4, other_N4, reduction="none", beta=BETA).sum(-1)
