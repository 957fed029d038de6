"""DeFeat, distillation via decoupled features (Guo et al., CVPR 2021, arXiv 2103.14475), on the pyramid.

The student's map passes a 3x3 convolution that is trained with it. Boxes and their surroundings are compared apart:

    part(mask) = mean over levels of sum of (adapter(student) - teacher)^2 over the mask / (2 * channels * its places)
    L = inside_weight * part(cells of the boxes) + outside_weight * part(all other cells)

A box fills the cells of its own level, stride 2^floor(log2(sqrt(area) / 14)) or the nearest there is, from the one that
holds its first corner to before the one that holds its last.

Differs from the original where it must. Places of the padding count nothing, and the means are over the global batch. A
box thinner than a cell fills its whole length; in the original it fills one cell, however long it is. `faithful`
repeats all that, and measures a box by (w + 1)(h + 1).

The original's term on class scores has a weight and is not switched on in its released configuration; `head` compares
them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want, own
from model.boxes.annotated import Annotated, annotated
from pipeline.batch import Views
from train.distill.method import Logged, Method, annotations
from train.distill.places import (
    Pair,
    check_strides,
    check_weights,
    common_strides,
    cosine,
    cover,
    grow,
    levels_of_boxes,
    make_wide_adapters,
    mean_square,
    pair_up,
)
from train.distill.regions import cells, inside


@dataclass(frozen=True)
class DefeatConfig:
    """Options of DeFeat."""

    kind: ClassVar[str] = "defeat"

    inside_weight: float = 3.0
    """Of the boxes' places. The released configuration, for VOC: 3. Its author for COCO: 4."""
    outside_weight: float = 12.0
    """Of all other places. The released configuration, for VOC: 12. Its author for COCO: 16."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to compare, named by stride; none: every level that both networks have once."""
    faithful: bool = False
    """As the original: padding counts as outside, and a thin box fills one cell."""

    def __post_init__(self) -> None:
        check_weights(self, "distill.defeat", "inside_weight", "outside_weight")
        check_strides(self.strides, "distill.defeat.strides")


class Defeat(Method):
    same_size = True
    logged = alike = ("defeat_cosine",)

    def __init__(self, config: DefeatConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, own if config.faithful else mean)
        self.networks = (student, teacher)  # held so that they are no children
        self.strides = common_strides(config.strides, student, teacher, "distill.defeat.strides")
        self.weights = {"defeat_inside": config.inside_weight, "defeat_outside": config.outside_weight}
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.adapters = make_wide_adapters(student, teacher, len(self.strides), False)

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view = getattr(views, name)
        sizes_B2 = None if self.config.faithful else view.sizes_B2
        pairs = pair_up(self.strides, self.networks, (seen[name], teacher), self.adapters, sizes_B2)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            within = self.places(pairs, annotated(annotations(views, view)))
            images = self.images(pairs, view.sizes_B2)
            within = [mask_BHW & image_BHW for mask_BHW, image_BHW in zip(within, images, strict=True)]
            outside = [image_BHW & ~mask_BHW for mask_BHW, image_BHW in zip(within, images, strict=True)]
            terms = {"defeat_inside": self.part(pairs, within), "defeat_outside": self.part(pairs, outside)}
            return terms, {"defeat_cosine": cosine(pairs, images)}

    def part(self, pairs: list[Pair], masks: list[Tensor]) -> Tensor:
        each = [mean_square(pair, mask_BHW, self.mean) for pair, mask_BHW in zip(pairs, masks, strict=True)]
        return torch.stack(each).mean() / 2

    def images(self, pairs: list[Pair], sizes_B2: Tensor) -> list[Tensor]:
        """(B, H, W) of every level: the places that are no padding."""
        if self.config.faithful:
            return [torch.ones_like(pair.student_BCHW[:, 0], dtype=torch.bool) for pair in pairs]
        return [inside(cells(sizes_B2, pair.stride), pair.size) for pair in pairs]

    @torch.no_grad()
    def places(self, pairs: list[Pair], known: Annotated) -> list[Tensor]:
        """(B, H, W) of every level: the cells of its own boxes."""
        measured_BG4 = grow(known.boxes_BG4) if self.config.faithful else known.boxes_BG4
        level_BG = levels_of_boxes(measured_BG4, self.strides)
        masks = []
        for index, pair in enumerate(pairs):
            corners_BG4 = (known.boxes_BG4 / pair.stride).trunc()
            first_BG2, last_BG2 = corners_BG4[..., :2], corners_BG4[..., 2:]
            thin_BG2 = last_BG2 <= first_BG2
            if self.config.faithful:
                thin_BG2 = thin_BG2.any(-1, keepdim=True)
            last_BG2 = torch.where(thin_BG2, first_BG2 + 1, last_BG2)
            column_W, row_H = (torch.arange(count, device=corners_BG4.device) for count in reversed(pair.size))
            (left, top), (right, bottom) = (each[..., None].unbind(2) for each in (first_BG2, last_BG2))
            mine_BG1 = (known.owner_BG & (level_BG == index))[..., None]
            masks.append(cover((row_H >= top) & (row_H < bottom) & mine_BG1, (column_W >= left) & (column_W < right)))
        return masks
