"""PKD, general distillation by Pearson correlation (Cao et al., NeurIPS 2022, arXiv 2207.02039).

Each channel of a pyramid map is standardised over the batch and all its places. Then the squared difference of student
and teacher is halved:

    n(x) = (x - mean(x)) / (std(x) + 1e-6)          mean and unbiased deviation of a channel over (B, H, W)
    L = weight * sum over levels of mean((n(student) - n(teacher))^2) / 2

With N values a channel that is (1 - r) * (1 - 1/N) of its correlation r. So there is no scale to learn and, where the
number of channels is equal, no adapter. Where heights differ one of the two maps is resized bilinearly, as in mmrazor.

Differs from the original where it must. Each image's own region is resized and the statistics leave the padding out.
The original, mmrazor's, resizes whole canvases when their heights differ. A channel that is constant on either side
teaches nothing. The original divides by 1e-6 there: a term of 0.5, gradients of order 1e6. `faithful` gives the
original's numbers. Statistics are those of a rank's own images, as there.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from pipeline.batch import Views
from train.distill.method import Logged, Method, levels_of, make_adapters
from train.distill.regions import cells, inside, resize

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
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"--distill.pkd.weight must be 0 or more, got {self.weight}")
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"--distill.pkd.strides must be rising numbers, such as 8 16 32, got {self.strides}")


class Pkd(Method):
    logged = alike = ("correlation",)

    def __init__(self, config: PkdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        common = [stride for stride in student.strides if student.strides.count(stride) == 1]
        self.strides = config.strides or tuple(s for s in common if teacher.strides.count(s) == 1)
        if not self.strides:
            raise ValueError(f"pkd: no level is common to the strides {student.strides} and {teacher.strides}")
        self.weights = {"pkd": config.weight}
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.levels = levels_of(self.strides, student, teacher, "--distill.pkd.strides")
        self.adapters = make_adapters(student, teacher, len(self.strides), "pkd")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        small, full = getattr(views, name), getattr(views, self.teacher_sees)
        distances, correlations, counts = [], [], []
        with torch.autocast(small.images_B3HW.device.type, enabled=False):
            for index, (stride, (ours, theirs)) in enumerate(zip(self.strides, self.levels, strict=True)):
                student_map, teacher_map = seen[name].neck[ours].float(), teacher.neck[theirs].float()
                if self.adapters is not None:
                    student_map = self.adapters[index](student_map)
                if self.config.faithful:
                    distances.append(pkd_loss(student_map, teacher_map, self.config.resize_student))
                    correlations.append(1 - distances[-1].detach())
                    counts.append(torch.ones_like(correlations[-1]))
                    continue
                student_cells_B2, teacher_cells_B2 = cells(small.sizes_B2, stride), cells(full.sizes_B2, stride)
                if self.config.resize_student:
                    student_map = resize(student_map, student_cells_B2, teacher_cells_B2, teacher_map.shape[-2:])
                    inside_BHW = inside(teacher_cells_B2, teacher_map.shape[-2:])
                else:
                    teacher_map = resize(teacher_map, teacher_cells_B2, student_cells_B2, student_map.shape[-2:])
                    inside_BHW = inside(student_cells_B2, student_map.shape[-2:])
                distance, known_C = distance_inside(student_map, teacher_map, inside_BHW)
                distances.append(distance)
                # The mean over the channels that vary; where none does there is nothing to say.
                counts.append(known_C.any().float())
                share = known_C.float().mean().clamp(min=EPSILON)
                correlations.append(torch.where(known_C.any(), 1 - distance.detach() / share, 0.0))
        logged = (torch.stack(correlations).sum(), torch.stack(counts).sum())
        return {"pkd": torch.stack(distances).sum()}, {"correlation": logged}


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


def distance_inside(student_BCHW: Tensor, teacher_BCHW: Tensor, inside_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """(distance, which channels vary in both networks) of one level, weight 1, over the places inside the images.

    A channel that is constant in either network adds 0.
    """
    inside_B1HW = inside_BHW[:, None]
    count = inside_BHW.sum()
    normal, known = [], []
    for maps_BCHW in (student_BCHW, teacher_BCHW):
        mean_C11 = torch.where(inside_B1HW, maps_BCHW, 0.0).sum((0, 2, 3))[:, None, None] / count.clamp(min=1)
        centred_BCHW = torch.where(inside_B1HW, maps_BCHW - mean_C11, 0.0)
        variance_C = centred_BCHW.square().sum((0, 2, 3)) / (count - 1).clamp(min=1)
        varies_C = variance_C > EPSILON**2
        # The root of 1 where the channel is constant: a root of 0 would have an infinite gradient.
        deviation_C = torch.where(varies_C, variance_C, 1.0).sqrt() + EPSILON
        normal.append(centred_BCHW / deviation_C[:, None, None])
        known.append(varies_C)
    squares_C = (normal[0] - normal[1]).square().sum((0, 2, 3))
    known_C = known[0] & known[1]
    return torch.where(known_C, squares_C, 0.0).sum() / (2 * count.clamp(min=1) * len(squares_C)), known_C
