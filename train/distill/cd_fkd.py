"""CD-FKD, cross-domain feature knowledge distillation (Lee, Shin, Lee, Lee, arXiv 2603.16439, ICRA 2026).

The frozen teacher looks at the clean image, the student at the same image corrupted and downscaled. Two terms pull
the student's feature maps to the teacher's:

    L_global    the student's map of an image, cropped to the image (padding left out) and resized bilinearly to the
                teacher's map of it; both flattened whole to one vector: 1 - cosine, averaged over the images
    L_instance  RoIAlign 7x7 on the ground-truth boxes, each network's map with its own boxes; each crop flattened
                to one vector: 1 - cosine, averaged over the instances (0 where there are none)
    L = L_detection + alpha * L_global + beta * L_instance

Both the resizing and RoIAlign are separable, so each is two small matrix products with matrices of hat functions,
Y_iH @ map_CHW @ X_jW^T. That keeps shapes static although every image of a batch has its own ratio and size, is
deterministic on a GPU, and rows outside the image are simply zero. The tests compare it with the plain form that
takes one image and one box at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.batch import Views

CROP_SIZE = 7  # cells of a crop along each side
CROP_SAMPLES = 2  # sampling points per cell along each side, as in torchvision's detectors


@dataclass(frozen=True)
class CdFkdConfig:
    """Options of CD-FKD; each says where it differs from the paper."""

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
        if not self.strides or list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"distill.strides must be one or more rising numbers, such as 8 16 32, got {self.strides}")
        for name, weight in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"distill.{name} must be 0 or more, got {weight}")


class CdFkd(nn.Module):
    """`global_mean` turns a count of this rank into its mean over ranks; `world` is the number of ranks."""

    def __init__(self, config: CdFkdConfig, global_mean: Callable[[Tensor], Tensor] = lambda x: x, world: int = 1):
        super().__init__()
        self.config, self.global_mean, self.world = config, global_mean, world
        self.taps = config.strides
        self.weights = {"global": config.alpha, "instance": config.beta}

    def forward(
        self, student_maps: dict[int, Tensor], teacher_maps: dict[int, Tensor], views: Views
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        real_B = views.teacher_sizes_B2.gt(0).all(dim=1)
        instance_BG = views.labels_BG.gt(0) & views.ignore_BG.logical_not() & real_B[:, None]
        cosines_image, cosines_instance = [], []
        with torch.autocast(views.student_B3hw.device.type, enabled=False):
            for stride in self.taps:
                # Cosines near 1 carry the signal, so everything from here on is float32.
                student, teacher = student_maps[stride].float(), teacher_maps[stride].float()
                student_cells_B2 = cells(views.student_sizes_B2, stride)
                teacher_cells_B2 = cells(views.teacher_sizes_B2, stride)
                cosines_image.append(
                    global_cosine(student, teacher, student_cells_B2, teacher_cells_B2, self.config.per_location)
                )
                student_crops = crop(student, views.student_boxes_BG4 / stride, student_cells_B2)
                teacher_crops = crop(teacher, views.teacher_boxes_BG4 / stride, teacher_cells_B2)
                cosines_instance.append(cosine(student_crops.flatten(2), teacher_crops.flatten(2), dim=2))
            cosine_B = torch.stack(cosines_image).mean(dim=0)
            cosine_BG = torch.stack(cosines_instance).mean(dim=0)
            compared = {"global": (cosine_B, real_B), "instance": (cosine_BG, instance_BG)}
            terms = {name: self._reduce(*each) for name, each in compared.items()}
            agreement = {}
            for name, (cosine_N, counts_N) in compared.items():
                agreement[f"cosine_{name}"] = torch.where(counts_N, cosine_N.detach(), 0.0).sum()
                agreement[f"count_{name}"] = counts_N.sum().to(torch.float32)
        return terms, agreement

    def _reduce(self, cosine_N: Tensor, counts_N: Tensor) -> Tensor:
        """The loss over what counts. Ranks average their results, so each divides by the mean count."""
        distance = torch.where(counts_N, 1 - cosine_N, 0.0).sum()
        if self.config.reduction == "sum":
            return distance * self.world
        return distance / self.global_mean(counts_N.sum().to(torch.float32)).clamp(min=1 / self.world)


def cells(sizes_B2: Tensor, stride: int) -> Tensor:
    """Cells of a map that an image of this size would have on its own: every halving rounds up."""
    return (sizes_B2 + stride - 1).div(stride, rounding_mode="floor")


def global_cosine(
    student_BChw: Tensor, teacher_BCHW: Tensor, student_cells_B2: Tensor, teacher_cells_B2: Tensor, per_location: bool
) -> Tensor:
    """cosine_B between the teacher's map and the student's resized to it, both inside the image only."""
    student_BCHW = resize(student_BChw, student_cells_B2, teacher_cells_B2, teacher_BCHW.shape[-2:])
    inside_BHW = inside(teacher_cells_B2, teacher_BCHW.shape[-2:])
    # where, not a product: what lies in the padding may be anything, also not finite.
    teacher_BCHW = torch.where(inside_BHW[:, None], teacher_BCHW, 0.0)
    if not per_location:
        return cosine(student_BCHW.flatten(1), teacher_BCHW.flatten(1), dim=1)
    cosine_BHW = cosine(student_BCHW, teacher_BCHW, dim=1)
    return cosine_BHW.flatten(1).sum(dim=1) / inside_BHW.flatten(1).sum(dim=1).clamp(min=1)


def resize(maps_BChw: Tensor, cells_B2: Tensor, new_cells_B2: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """Each map's own region, resized to its own new region in a canvas and zero outside: bilinear, half-pixel centres.

    Equals F.interpolate(map[:, :h, :w], size=(H, W), mode="bilinear", align_corners=False) per image.
    """
    matrices = []
    for axis in (0, 1):
        old_B, new_B = cells_B2[:, axis].float(), new_cells_B2[:, axis].float()
        target_N = torch.arange(canvas[axis], device=maps_BChw.device, dtype=torch.float32)
        points_BN = (target_N + 0.5) * (old_B / new_B.clamp(min=1))[:, None] - 0.5
        weights_BNn = hat_weights(points_BN, old_B[:, None], maps_BChw.shape[2 + axis])
        matrices.append(torch.where((target_N < new_B[:, None])[:, :, None], weights_BNn, 0.0))
    rows_BHh, columns_BWw = matrices
    kept = inside(cells_B2, maps_BChw.shape[-2:])
    maps_BChw = torch.where(kept[:, None], maps_BChw, 0.0)
    return rows_BHh[:, None] @ (maps_BChw @ columns_BWw[:, None].transpose(-1, -2))


def crop(maps_BCHW: Tensor, boxes_BG4: Tensor, cells_B2: Tensor) -> Tensor:
    """RoIAlign (aligned, 2x2 samples a cell) of every box, in cells of its map -> crops_BGC77.

    Equals torchvision.ops.roi_align on the map cut to its own cells: samples never touch the padding.
    """
    num_points = CROP_SIZE * CROP_SAMPLES
    fractions_N = (torch.arange(num_points, device=maps_BCHW.device, dtype=torch.float32) + 0.5) / num_points
    matrices = []
    for axis, (low, high) in enumerate(((1, 3), (0, 2))):
        start_BG, end_BG = boxes_BG4[..., low].float(), boxes_BG4[..., high].float()
        points_BGN = start_BG[..., None] - 0.5 + (end_BG - start_BG)[..., None] * fractions_N
        limit_B11 = cells_B2[:, axis, None, None].float()
        weights_BGNn = hat_weights(points_BGN, limit_B11, maps_BCHW.shape[2 + axis])
        matrices.append(weights_BGNn.unflatten(2, (CROP_SIZE, CROP_SAMPLES)).mean(dim=3))
    rows_BG7H, columns_BG7W = matrices
    maps_BCHW = torch.where(inside(cells_B2, maps_BCHW.shape[-2:])[:, None], maps_BCHW, 0.0)
    # Rows first, for all boxes in one product: (G*7, H) @ (H, C*W); then the columns of each box.
    num_boxes, channels, width = boxes_BG4.shape[1], maps_BCHW.shape[1], maps_BCHW.shape[3]
    stacked_BHN = maps_BCHW.permute(0, 2, 1, 3).flatten(2)
    strips_BG7CW = (rows_BG7H.flatten(1, 2) @ stacked_BHN).unflatten(1, (num_boxes, CROP_SIZE))
    strips_BG7CW = strips_BG7CW.unflatten(3, (channels, width))
    crops_BG7C7 = strips_BG7CW @ columns_BG7W[:, :, None].transpose(-1, -2)
    return crops_BG7C7.transpose(2, 3)


def hat_weights(points: Tensor, limit: Tensor, size: int) -> Tensor:
    """Weights of linear interpolation of `size` cells at each point, with points clamped to cells 0..limit-1."""
    clamped = torch.minimum(points, limit - 1).clamp(min=0)
    cell_n = torch.arange(size, device=points.device, dtype=torch.float32)
    return (1 - (clamped[..., None] - cell_n).abs()).clamp(min=0)


def inside(cells_B2: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """inside_BHW: which cells of the canvas belong to the image."""
    rows_H = torch.arange(canvas[0], device=cells_B2.device)
    columns_W = torch.arange(canvas[1], device=cells_B2.device)
    return (rows_H < cells_B2[:, :1])[:, :, None] & (columns_W < cells_B2[:, 1:])[:, None, :]


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine along one dimension; 0, with a gradient of 0 and never NaN, where either vector is zero."""
    dot, square_a, square_b = (a * b).sum(dim), (a * a).sum(dim), (b * b).sum(dim)
    known = (square_a > 0) & (square_b > 0)
    # Two roots, not one root of the product, which would overflow or vanish sooner.
    scale = torch.where(known, square_a, 1.0).rsqrt() * torch.where(known, square_b, 1.0).rsqrt()
    return torch.where(known, dot * scale, 0.0)
