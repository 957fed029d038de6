"""PKD, general distillation by Pearson correlation (Cao et al., NeurIPS 2022, arXiv 2207.02039).

Each channel of a pyramid map is standardised over the batch and all its places. Then the squared difference of student
and teacher is halved:

    n(x) = (x - mean(x)) / (std(x) + 1e-6)          mean and unbiased deviation of a channel over (B, H, W)
    L = weight * sum over levels of mean((n(student) - n(teacher))^2) / 2

With N values a channel that is (1 - r) * (1 - 1/N) of its correlation r. So there is no scale to learn and, where the
number of channels is equal, no adapter. Where heights differ one of the two maps is resized bilinearly, as in mmrazor.

Differs from the original where it must. Each image's own region is resized and the statistics leave the padding out.
The original, mmrazor's, resizes whole canvases when their heights differ. A channel that is constant on either side
teaches nothing. The original divides by 1e-6 there: a term of 0.5, gradients of order 1e6. Statistics are
those of the global batch, so that the number of ranks changes nothing; the original takes a rank's own images.
`faithful` gives the original's numbers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.select import or_one
from pipeline.batch import Views
from train.distill.method import Logged, Method, levels_of, make_adapters
from train.distill.places import check_strides, check_weights, common_strides
from train.distill.regions import cells, inside, resize
from train.distill.statistics import Moments, moments, varies

EPSILON = 1e-6


@dataclass(frozen=True)
class PkdConfig:
    """Options of PKD."""

    kind: ClassVar[str] = "pkd"

    weight: float = 6.0
    """Of the sum over levels: 6 for Faster R-CNN and GFL, 2 for RetinaNet and FCOS beside CrossKD, 1 for ATSS."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to distil, named by stride; none: every level that both networks have once."""
    resize_student: bool = True
    """Where sizes differ: resize the student's map to the teacher's size, or the teacher's to the student's."""
    faithful: bool = False
    """The original's statistics: padding counts, and a constant channel is divided by 1e-6."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.pkd", "weight")
        check_strides(self.strides, "--distill.pkd.strides")


class Pkd(Method):
    logged = alike = ("correlation",)

    def __init__(self, config: PkdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        self.strides = common_strides(config.strides, student, teacher, "--distill.pkd.strides")
        self.weights = {"pkd": config.weight}
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.levels = levels_of(self.strides, student, teacher, "--distill.pkd.strides")
        self.adapters = make_adapters(student, teacher, len(self.strides), "pkd")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        small, full = getattr(views, name), getattr(views, self.teacher_sees)
        with torch.autocast(small.images_B3HW.device.type, enabled=False):
            ours, theirs = [], []
            for index, (student_level, teacher_level) in enumerate(self.levels):
                ours.append(seen[name].neck[student_level].float())
                theirs.append(teacher.neck[teacher_level].float())
                if self.adapters is not None:
                    ours[-1] = self.adapters[index](ours[-1])
            if self.config.faithful:
                pairs = zip(ours, theirs, strict=True)
                distance_L = torch.stack([pkd_loss(*pair, self.config.resize_student) for pair in pairs])
                share_L = torch.ones_like(distance_L)
            else:
                insides = []
                for index, stride in enumerate(self.strides):
                    ours_B2, theirs_B2 = cells(small.sizes_B2, stride), cells(full.sizes_B2, stride)
                    student_map, teacher_map = ours[index], theirs[index]
                    if self.config.resize_student:
                        ours[index] = resize(student_map, ours_B2, theirs_B2, teacher_map.shape[-2:])
                        insides.append(inside(theirs_B2, teacher_map.shape[-2:]))
                    else:
                        theirs[index] = resize(teacher_map, theirs_B2, ours_B2, student_map.shape[-2:])
                        insides.append(inside(ours_B2, student_map.shape[-2:]))
                distance_L, share_L = distances_inside(ours, theirs, insides, self.mean)
        # The mean over the channels that vary; where none does there is nothing to say.
        correlation_L = torch.where(share_L > 0, 1 - distance_L.detach() / share_L.clamp(min=EPSILON), 0.0)
        return {"pkd": distance_L.sum()}, {"correlation": (correlation_L.sum(), (share_L > 0).sum().float())}


def pkd_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, resize_student: bool = True) -> Tensor:
    """One level, weight 1, as the original computes it: padding counts, no guard for constant channels."""
    student_BCHW, teacher_BCHW = same_size(student_BCHW, teacher_BCHW, resize_student)
    return F.mse_loss(standardise(student_BCHW), standardise(teacher_BCHW)) / 2


def same_size(student_BCHW: Tensor, teacher_BCHW: Tensor, resize_student: bool) -> tuple[Tensor, Tensor]:
    if student_BCHW.shape[-2:] == teacher_BCHW.shape[-2:]:
        return student_BCHW, teacher_BCHW
    if resize_student:
        return F.interpolate(student_BCHW, teacher_BCHW.shape[-2:], mode="bilinear"), teacher_BCHW
    return student_BCHW, F.interpolate(teacher_BCHW, student_BCHW.shape[-2:], mode="bilinear")


def standardise(maps_BCHW: Tensor) -> Tensor:
    """Every channel to mean 0 and deviation 1 over batch and places; the order of additions is the original's."""
    num, channels, height, width = maps_BCHW.shape
    rows_CN = maps_BCHW.permute(1, 0, 2, 3).reshape(channels, -1)
    mean_C1, deviation_C1 = rows_CN.mean(dim=-1, keepdim=True), rows_CN.std(dim=-1, keepdim=True)
    rows_CN = (rows_CN - mean_C1) / (deviation_C1 + EPSILON)
    return rows_CN.reshape(channels, num, height, width).permute(1, 0, 2, 3)


def distances_inside(
    ours: list[Tensor], theirs: list[Tensor], insides: list[Tensor], mean: Mean
) -> tuple[Tensor, Tensor]:
    """(distance_L, share_L of the channels that vary in both networks), weight 1, over the places inside the images.

    A channel that is constant in either network adds 0.
    """
    found = moments([*ours, *theirs], [*insides, *insides], mean)
    distances, shares = [], []
    for student, teacher in zip(found[: len(ours)], found[len(ours) :], strict=True):
        normal, known = zip(*(normalised(each) for each in (student, teacher)), strict=True)
        known_C = known[0] & known[1]
        squares_C = (normal[0] - normal[1]).square().sum((0, 2, 3))
        distances.append(torch.where(known_C, squares_C, 0.0).sum() / (2 * or_one(student.num_places) * len(squares_C)))
        shares.append(known_C.float().mean())
    return torch.stack(distances), torch.stack(shares)


def normalised(found: Moments) -> tuple[Tensor, Tensor]:
    """(map of deviation 1, which channels vary)"""
    varies_C = varies(found)
    # The root of 1 where the channel is constant: a root of 0 would have an infinite gradient.
    deviation_C = torch.where(varies_C, found.variance_C, 1.0).sqrt() + EPSILON
    return found.centred_BCHW / deviation_C[:, None, None], varies_C
