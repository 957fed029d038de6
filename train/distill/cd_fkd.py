"""CD-FKD, cross-domain feature knowledge distillation (Lee, Shin, Lee, Lee, arXiv 2603.16439, ICRA 2026).

The frozen teacher looks at the clean image, the student at the same image corrupted and downscaled. Two terms pull
the student's feature maps to the teacher's:

    L_global    The student's map of an image is cropped to the image (padding left out). It is resized bilinearly to
                the teacher's map of it. Both are flattened whole to one vector: 1 - cosine, averaged over the images.
    L_instance  RoIAlign 7x7 on the ground-truth boxes, each network's map with its own boxes. Each crop is flattened
                to one vector: 1 - cosine, averaged over the instances (0 where there are none).
    L = L_detection + alpha * L_global + beta * L_instance

The tests compare it with the plain form that takes one image and one box at a time.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.annotated import annotated
from pipeline.batch import Views
from train.distill.method import Logged, Method, annotations, levels_of, make_adapters
from train.distill.places import check_strides, check_weights
from train.distill.regions import cells, crop, inside, resize
from train.distributed import num_ranks


@dataclass(frozen=True)
class CdFkdConfig:
    """Options of CD-FKD; each says where it differs from the paper."""

    kind: ClassVar[str] = "cd_fkd"

    alpha: float = 1.0
    """Weight of L_global (0 turns it off; its cosine is still logged)."""
    beta: float = 1.0
    """Weight of L_instance (0 turns it off; its cosine is still logged)."""
    strides: tuple[int, ...] = (32,)
    """Pyramid levels to distil, named by stride, finest first; several are averaged. The paper: the last, 32."""
    reduction: Literal["mean", "sum"] = "mean"
    """mean over the global batch's images and instances, or the paper's plain sum (grows with the batch)."""
    per_location: bool = False
    """L_global as the mean of one cosine per location, instead of one cosine of the whole map."""

    def __post_init__(self) -> None:
        if not self.strides:
            raise ValueError("--distill.cd-fkd.strides is empty; give one at least, such as 32")
        check_strides(self.strides, "--distill.cd-fkd.strides")
        check_weights(self, "--distill.cd-fkd", "alpha", "beta")


class CdFkd(Method):
    logged = alike = ("cosine_global", "cosine_instance")

    def __init__(self, config: CdFkdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        self.num_ranks = num_ranks()
        self.weights = {"global": config.alpha, "instance": config.beta}
        self.want_student = self.want_teacher = Want(neck=config.strides)
        self.levels = levels_of(config.strides, student, teacher, "--distill.cd-fkd.strides")
        self.adapters = make_adapters(student, teacher, len(config.strides), "cd_fkd")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        student, small, full = seen["corrupted"], views.corrupted, views.clean
        assert small is not None
        assert full is not None
        real_B = full.sizes_B2.gt(0).all(dim=1)
        instance_BG = annotated(annotations(views, full)).owner_BG[:, : full.boxes_BG4.shape[1]]
        cosines_image, cosines_instance = [], []
        with torch.autocast(small.images_B3HW.device.type, enabled=False):
            for index, (stride, (ours, theirs)) in enumerate(zip(self.config.strides, self.levels, strict=True)):
                # Cosines near 1 carry the signal, so everything from here on is float32.
                student_map, teacher_map = student.neck[ours].float(), teacher.neck[theirs].float()
                if self.adapters is not None:
                    student_map = self.adapters[index](student_map)
                student_cells_B2, teacher_cells_B2 = cells(small.sizes_B2, stride), cells(full.sizes_B2, stride)
                cosines_image.append(
                    global_cosine(
                        student_map, teacher_map, student_cells_B2, teacher_cells_B2, self.config.per_location
                    )
                )
                student_crops = crop(student_map, small.boxes_BG4 / stride, student_cells_B2)
                teacher_crops = crop(teacher_map, full.boxes_BG4 / stride, teacher_cells_B2)
                cosines_instance.append(cosine(student_crops.flatten(2), teacher_crops.flatten(2), dim=2))
            cosine_B = torch.stack(cosines_image).mean(dim=0)
            cosine_BG = torch.stack(cosines_instance).mean(dim=0)
            compared = {"global": (cosine_B, real_B), "instance": (cosine_BG, instance_BG)}
            terms = {name: self._reduce(*each) for name, each in compared.items()}
            logged = {}
            for name, (cosine_N, counts_N) in compared.items():
                total = torch.where(counts_N, cosine_N.detach(), 0.0).sum()
                logged[f"cosine_{name}"] = (total, counts_N.sum().to(torch.float32))
        return terms, logged

    def _reduce(self, cosine_N: Tensor, counts_N: Tensor) -> Tensor:
        """The loss over what counts. Ranks average their results, so each divides by the mean count."""
        distance = torch.where(counts_N, 1 - cosine_N, 0.0).sum()
        if self.config.reduction == "sum":
            return distance * self.num_ranks
        return distance / self.mean(counts_N.sum().to(torch.float32)).clamp(min=1 / self.num_ranks)


def global_cosine(
    student_BChw: Tensor, teacher_BCHW: Tensor, student_cells_B2: Tensor, teacher_cells_B2: Tensor, per_location: bool
) -> Tensor:
    """cosine_B between the teacher's map and the student's resized to it, both inside the image only."""
    student_BCHW = resize(student_BChw, student_cells_B2, teacher_cells_B2, teacher_BCHW.shape[-2:])
    inside_BHW = inside(teacher_cells_B2, teacher_BCHW.shape[-2:])
    # where, not a product: the padding may hold any value, also one that is not finite.
    teacher_BCHW = torch.where(inside_BHW[:, None], teacher_BCHW, 0.0)
    if not per_location:
        return cosine(student_BCHW.flatten(1), teacher_BCHW.flatten(1), dim=1)
    cosine_BHW = cosine(student_BCHW, teacher_BCHW, dim=1)
    return cosine_BHW.flatten(1).sum(dim=1) / inside_BHW.flatten(1).sum(dim=1).clamp(min=1)


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine along one dimension; 0, with a gradient of 0 and never NaN, where either vector is zero."""
    dot, square_a, square_b = (a * b).sum(dim), (a * a).sum(dim), (b * b).sum(dim)
    known = (square_a > 0) & (square_b > 0)
    # Two roots, not one root of the product, which would overflow or vanish sooner.
    scale = torch.where(known, square_a, 1.0).rsqrt() * torch.where(known, square_b, 1.0).rsqrt()
    return torch.where(known, dot * scale, 0.0)
