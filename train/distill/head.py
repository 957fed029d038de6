"""Head distillation for Faster R-CNN: what the teacher says of its own regions, the student's box head shall say too.

R are the teacher's best regions in its view. The student's maps are pooled at R, and its own box head says class
probabilities p and box deltas d. With the teacher's q and e, and F the regions whose best class is no background:

    head_class  mean over R of T^2 KL(softmax(q / T) || softmax(p / T))
    head_box    mean over F, and over 4 deltas of the teacher's best class, of smooth-L1(d - e, 1/9)

It is what DivAlign aligns (arXiv 2405.14497), for a frozen teacher instead of the student's other view. A region keeps
its pyramid level, and shrinks with a smaller view. The gradient goes to the student's box head, pyramid and backbone,
not to its RPN. Without a foreground region head_box is 0. Means are over the global batch.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Rois, Want
from model.boxes.losses import softened_divergence
from model.boxes.select import or_one
from pipeline.batch import Views
from train.distill.method import Logged, Method
from train.distill.places import check_weights
from train.distill.two_stage import BETA, check_two_stage, grow_with, of_class


@dataclass(frozen=True)
class HeadConfig:
    """Options of head distillation."""

    kind: ClassVar[str] = "head"

    class_weight: float = 1.0
    """Of the classes."""
    box_weight: float = 1.0
    """Of the boxes."""
    temperature: float = 1.0
    """That softens the classes."""
    regions: int = 256
    """The teacher's best regions of an image that are compared."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.head", "class_weight", "box_weight")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"--distill.head.temperature must be above 0, got {self.temperature}")
        if self.regions < 1:
            raise ValueError(f"--distill.head.regions must be at least 1, got {self.regions}")


class Head(Method):
    want_student = Want(dense=True)
    logged = alike = ("class_overlap",)
    teaches = ("backbone", "roi_heads")

    def __init__(self, config: HeadConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        self.student = check_two_stage("head", student, teacher)[:1]  # in a tuple: no child
        self.want_teacher, self.regions = Want(rois=config.regions), config.regions
        self.weights = {"head_class": config.class_weight, "head_box": config.box_weight}

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        assert teacher.rois is not None
        rois = first(teacher.rois, self.config.regions)
        here = grow_with(rois, getattr(views, self.teacher_sees), getattr(views, name))
        logits_BRK, deltas_BRK4 = self.student[0].box_head(seen[name].neck, here)
        assert rois.logits_BRK is not None
        assert rois.deltas_BRK4 is not None
        with torch.autocast(logits_BRK.device.type, enabled=False):
            class_BR = softened_divergence(logits_BRK, rois.logits_BRK, self.config.temperature).sum(-1)
            label_BR = rois.logits_BRK.argmax(-1)
            foreground_BR = rois.real_BR & (label_BR > 0)
            pair = (of_class(deltas_BRK4, label_BR), of_class(rois.deltas_BRK4, label_BR))
            box_BR = F.smooth_l1_loss(*pair, reduction="none", beta=BETA).mean(-1)
            terms = {
                "head_class": self.average(class_BR, rois.real_BR),
                "head_box": self.average(box_BR, foreground_BR),
            }
            alike_BR = torch.minimum(logits_BRK.detach().softmax(-1), rois.logits_BRK.softmax(-1)).sum(-1)
            total = torch.where(rois.real_BR, alike_BR, 0.0).sum()
        return terms, {"class_overlap": (total, rois.real_BR.sum().float())}

    def average(self, values_BR: Tensor, counts_BR: Tensor) -> Tensor:
        return torch.where(counts_BR, values_BR, 0.0).sum() / or_one(self.mean(counts_BR.sum().float()))


def first(rois: Rois, num: int) -> Rois:
    """The best of every image; the proposals come by falling score."""
    boxes, level, real, logits, deltas = (None if part is None else part[:, :num] for part in rois)
    assert boxes is not None
    assert level is not None
    assert real is not None
    return Rois(boxes, level, real, logits, deltas)
