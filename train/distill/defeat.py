"""DeFeat, distillation via decoupled features (Guo et al., CVPR 2021, arXiv 2103.14475), on the pyramid.

The student's map passes a 3x3 convolution that is trained with it. Boxes and their surroundings are compared apart:

    part(mask) = mean over levels of sum of (adapter(student) - teacher)^2 over the mask / (2 * channels * its places)
    L = inside_weight * part(cells of the boxes) + outside_weight * part(all other cells)

A box fills the cells of its own level, stride 2^floor(log2(sqrt(area) / 14)) or the nearest there is, from the one that
holds its first corner to before the one that holds its last.

Differs from the original where it must. Places of the padding count nothing, and the means are over the global batch. A
box thinner than a cell fills its whole length; in the original it fills one cell, however long it is. `faithful`
repeats all that, and measures a box by (w + 1)(h + 1).

For two-stage detectors there is a term on class scores, which the released configuration weighs and does not switch on:

    class_part(regions) = mean over them of KL(softmax(teacher) || softmax(student))

with the teacher's regions in boxes (IoU at least 0.5) and all others apart. The original samples 512 of them. Its
background is the greatest label that a batch holds, wrong where there is no background; here it is the background.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Rois, Want, own
from model.boxes.annotated import Annotated, annotated
from model.boxes.assigners import pairwise_iou
from model.boxes.losses import softened_divergence
from model.boxes.select import or_one
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
    images_of,
    levels_of_boxes,
    make_wide_adapters,
    mean_square,
    pair_up,
)
from train.distill.two_stage import check_two_stage

ENOUGH = 0.5  # overlap of a region that is in a box


@dataclass(frozen=True)
class DefeatConfig:
    """Options of DeFeat."""

    kind: ClassVar[str] = "defeat"

    inside_weight: float = 3.0
    """Of the boxes' places. The released configuration, for VOC: 3. Its author for COCO: 4."""
    outside_weight: float = 12.0
    """Of all other places. The released configuration, for VOC: 12. Its author for COCO: 16."""
    class_inside_weight: float = 0.0
    """Of the class scores of the teacher's regions in boxes; the original has 2, and does not switch it on."""
    class_outside_weight: float = 0.0
    """Of the class scores of the teacher's other regions; likewise 2."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to compare, named by stride; none: every level that both networks have once."""
    faithful: bool = False
    """As the original: padding counts as outside, and a thin box fills one cell."""

    def __post_init__(self) -> None:
        names = ("inside_weight", "outside_weight", "class_inside_weight", "class_outside_weight")
        check_weights(self, "--distill.defeat", *names)
        check_strides(self.strides, "--distill.defeat.strides")


class Defeat(Method):
    adapters: nn.ModuleList
    same_size = True
    logged = alike = ("defeat_cosine",)

    def __init__(self, config: DefeatConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, own if config.faithful else mean)
        self.networks = (student, teacher)  # held so that they are no children
        self.strides = common_strides(config.strides, student, teacher, "--distill.defeat.strides")
        self.weights = {"defeat_inside": config.inside_weight, "defeat_outside": config.outside_weight}
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.scores = config.class_inside_weight > 0 or config.class_outside_weight > 0
        if self.scores:
            check_two_stage("defeat with weights on class scores", student, teacher)
            self.weights |= {
                "defeat_class_inside": config.class_inside_weight,
                "defeat_class_outside": config.class_outside_weight,
            }
            self.teaches += ("roi_heads.box_head", "roi_heads.box_predictor.cls_score")
            self.want_student = Want(neck=self.strides, dense=True)
            self.regions = student.config.regions_per_image
            self.want_teacher = Want(neck=self.strides, rois=self.regions)
        self.adapters = make_wide_adapters(student, teacher, len(self.strides), False)
        # The terms on class scores do not pass the adapters: without a weight on maps no gradient would reach them.
        self.adapters.requires_grad_(config.inside_weight > 0 or config.outside_weight > 0)

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view = getattr(views, name)
        sizes_B2 = None if self.config.faithful else view.sizes_B2
        pairs = pair_up(self.strides, self.networks, (seen[name], teacher), self.adapters, sizes_B2)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            known = annotated(annotations(views, view))
            within = self.places(pairs, known)
            images = images_of(pairs, view.sizes_B2, self.config.faithful)
            within = [mask_BHW & image_BHW for mask_BHW, image_BHW in zip(within, images, strict=True)]
            outside = [image_BHW & ~mask_BHW for mask_BHW, image_BHW in zip(within, images, strict=True)]
            terms = {"defeat_inside": self.part(pairs, within), "defeat_outside": self.part(pairs, outside)}
            logged = cosine(pairs, images)
        if self.scores:
            terms |= self.compare_scores(seen[name], teacher, known)
        return terms, {"defeat_cosine": logged}

    def compare_scores(self, student: Outputs, teacher: Outputs, known: Annotated) -> dict[str, Tensor]:
        """The student's box head looks at the teacher's best regions, each on the level it has there."""
        detector, rois = self.networks[0], teacher.rois
        assert rois is not None
        assert rois.logits_BRK is not None
        theirs_BRK = rois.logits_BRK[:, : self.regions]
        rois = Rois(*(part[:, : self.regions] for part in rois[:3]))
        logits_BRK = detector.box_head(student.neck, rois)[0]
        iou_BGR = pairwise_iou(known.boxes_BG4, rois.boxes_BR4)
        in_box_BR = ((iou_BGR >= ENOUGH) & known.owner_BG[..., None]).any(1)
        with torch.autocast(logits_BRK.device.type, enabled=False):
            inside_part, outside_part = (
                self.class_part(logits_BRK, theirs_BRK, mask_BR & rois.real_BR) for mask_BR in (in_box_BR, ~in_box_BR)
            )
        return {"defeat_class_inside": inside_part, "defeat_class_outside": outside_part}

    def class_part(self, logits_BRK: Tensor, teacher_BRK: Tensor, mask_BR: Tensor) -> Tensor:
        each_BR = softened_divergence(logits_BRK.float(), teacher_BRK.float()).sum(-1)
        return torch.where(mask_BR, each_BR, 0.0).sum() / or_one(self.mean(mask_BR.sum().float()))

    def part(self, pairs: list[Pair], masks: list[Tensor]) -> Tensor:
        each = [mean_square(pair, mask_BHW, self.mean) for pair, mask_BHW in zip(pairs, masks, strict=True)]
        return torch.stack(each).mean() / 2

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
