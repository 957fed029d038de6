"""CrossKD for Faster R-CNN, as the branch of that name in its authors' code has it (arXiv 2306.11369).

The regions that the student's detection loss sampled are pooled from both pyramids, and the teacher's box head says
what it sees: c in the student's maps, t in its own. Nothing is aligned.

    crosskd_roi_class  mean over regions of T^2 KL(softmax(t / T) || softmax(c / T)), the background a class, T = 3
    crosskd_roi_box    sum of w * mean over 4 deltas of |c - t| / sum of w, of t's best class, w its probability

The best class is not the background, but w counts it. The teacher's weights get no gradient, nor do the student's RPN
and box head: it passes through the teacher's head to the student's pyramid alone. A region keeps its pyramid level.
Where the teacher's view is larger, it grows with it. Other widths are joined by 1x1 adapters.

Differs from the original where it must. Sums are divided by those of the global batch. `faithful` divides by a rank's
own; its count of regions takes an image without foreground for one of one region more.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.losses import softened_divergence
from model.boxes.select import or_one
from pipeline.batch import Views
from train.distill.method import Logged, Method, make_adapters
from train.distill.places import check_weights
from train.distill.two_stage import check_two_stage, grow_with, of_class

EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class CrossKdRoiConfig:
    """Options of CrossKD for Faster R-CNN."""

    kind: ClassVar[str] = "crosskd_roi"

    class_weight: float = 0.5
    """Of the classes."""
    box_weight: float = 1.0
    """Of the boxes."""
    temperature: float = 3.0
    """That softens the classes."""
    faithful: bool = False
    """The original's divisors: of each rank alone."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.crosskd-roi", "class_weight", "box_weight")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"--distill.crosskd-roi.temperature must be above 0, got {self.temperature}")


class CrossKdRoi(Method):
    logged = alike = ("cross_class_overlap",)

    def __init__(self, config: CrossKdRoiConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        self.networks = check_two_stage("crosskd_roi", student, teacher)  # in a tuple: no child
        self.weights = {"crosskd_roi_class": config.class_weight, "crosskd_roi_box": config.box_weight}
        self.want_student, self.want_teacher = Want(dense=True), Want(neck=teacher.strides[:-1])
        self.regions = student.config.regions_per_image
        self.adapters = make_adapters(student, teacher, len(student.strides) - 1, "crosskd_roi")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        (student, network), regions = self.networks, assigned[name]
        rois = student.place(regions.candidates_BN4, regions.state_BN >= 0)
        neck = seen[name].neck
        if self.adapters is not None:
            maps = zip(self.adapters, neck[:-1], strict=True)
            neck = (*(adapter(map_BCHW) for adapter, map_BCHW in maps), neck[-1])
        cross = network.box_head(neck, rois)
        with torch.no_grad():
            own = network.box_head(
                teacher.neck, grow_with(rois, getattr(views, name), getattr(views, self.teacher_sees))
            )
        with torch.autocast(rois.boxes_BR4.device.type, enabled=False):
            return self.compare(cross, own, regions.state_BN)

    def compare(
        self, cross: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], state_BR: Tensor
    ) -> tuple[dict[str, Tensor], Logged]:
        """state_BR: 1 foreground, 0 background, -1 an empty slot."""
        real_BR = state_BR >= 0
        share_BRK = teacher[0].softmax(-1)
        class_BR = softened_divergence(cross[0], teacher[0], self.config.temperature).sum(-1)
        best_BR, label_BR = share_BRK[..., 1:].max(-1)
        weight_BR = torch.where(real_BR, best_BR, 0.0)
        cross_BR4, teacher_BR4 = (of_class(deltas_BRK4, label_BR + 1) for deltas_BRK4 in (cross[1], teacher[1]))
        box_BR = (cross_BR4 - teacher_BR4).abs().sum(-1) * weight_BR
        if self.config.faithful:
            counts = [(state_BR == kind).sum(1).clamp(min=1).sum().float() for kind in (0, 1)]
            num, total = counts[0] + counts[1] + EPSILON, 4 * weight_BR.sum() + EPSILON
        else:
            num, total = or_one(self.mean(real_BR.sum().float())), 4 * or_one(self.mean(weight_BR.sum()))
        terms = {
            "crosskd_roi_class": torch.where(real_BR, class_BR, 0.0).sum() / num,
            "crosskd_roi_box": box_BR.sum() / total,
        }
        alike_BR = torch.minimum(cross[0].detach().softmax(-1), share_BRK).sum(-1)
        return terms, {"cross_class_overlap": (torch.where(real_BR, alike_BR, 0.0).sum(), real_BR.sum().float())}
