"""Fine-grained feature imitation (Wang et al., CVPR 2019, arXiv 1906.03609), with its adapter.

The student's map passes a 3x3 convolution that is trained with it. It is compared at places where some anchor overlaps
a box by more than half of what the box's best anchor does:

    L = weight * mean over levels of sum over places and channels of (adapter(student) - teacher)^2 / (2 * places)

The original has one map. On a pyramid a box counts on its own level only, as its author advises and as DeFeat's code
has it: stride 2^floor(log2(sqrt(area) / 14)), or the nearest there is. That code's weight of 3 is one of 3 / channels
here.

Differs from the original where it must. Places of the padding count nothing, and the mean is over the global batch. Map
values of a pyramid have either sign, so no ReLU follows the adapter; `relu` adds the original's. `faithful` counts
padding, and the last pixel of boxes and anchors as a whole one more, as the original does.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Want, own
from model.boxes.annotated import Annotated, annotated
from pipeline.batch import Views
from train.distill.method import Logged, Method, annotations
from train.distill.places import (
    Pair,
    by_place,
    candidates_of,
    check_anchors,
    check_strides,
    check_weights,
    common_strides,
    cosine,
    grow,
    inside_candidates,
    levels_of_boxes,
    make_wide_adapters,
    mean_square,
    near_best,
    pair_up,
)


@dataclass(frozen=True)
class FineGrainedConfig:
    """Options of fine-grained imitation."""

    kind: ClassVar[str] = "fine_grained"

    weight: float = 0.01
    """Of the mean over levels."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to compare, named by stride; none: every level that both networks have once."""
    relu: bool = False
    """A ReLU behind the adapter, as on the original's map."""
    faithful: bool = False
    """As the original: padding counts, and boxes and anchors are a pixel larger."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.fine-grained", "weight")
        check_strides(self.strides, "--distill.fine-grained.strides")


class FineGrained(Method):
    adapters: nn.ModuleList
    same_size = True
    logged = alike = ("fine_grained_cosine",)

    def __init__(self, config: FineGrainedConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, own if config.faithful else mean)
        check_anchors("fine_grained", student)
        self.networks = (student, teacher)  # held so that they are no children
        self.strides = common_strides(config.strides, student, teacher, "--distill.fine-grained.strides")
        self.weights = {"fine_grained": config.weight}
        self.want_student = Want(neck=self.strides, dense=True)
        self.want_teacher = Want(neck=self.strides)
        self.adapters = make_wide_adapters(student, teacher, len(self.strides), config.relu)

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view, out, student = getattr(views, name), seen[name], self.networks[0]
        assert out.logits is not None
        sizes_B2 = None if self.config.faithful else view.sizes_B2
        pairs = pair_up(self.strides, self.networks, (out, teacher), self.adapters, sizes_B2)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            counts = [level.shape[1] for level in out.logits]
            anchors = candidates_of(student, out).split(counts, dim=1)
            inside = inside_candidates(student, out, view.sizes_B2, None if self.config.faithful else 1)
            known = annotated(annotations(views, view))
            level_BG = levels_of_boxes(known.boxes_BG4, self.strides)
            masks = self.places(pairs, anchors, inside.split(counts, dim=1), known, level_BG)
            return {"fine_grained": self.loss(pairs, masks)}, {"fine_grained_cosine": cosine(pairs, masks)}

    def loss(self, pairs: list[Pair], masks: list[Tensor]) -> Tensor:
        parts = [
            mean_square(pair, mask_BHW, self.mean) * pair.teacher_BCHW.shape[1] / 2
            for pair, mask_BHW in zip(pairs, masks, strict=True)
        ]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def places(
        self,
        pairs: list[Pair],
        anchors: tuple[Tensor, ...],
        inside: tuple[Tensor, ...],
        known: Annotated,
        level_BG: Tensor,
    ) -> list[Tensor]:
        """(B, H, W) of every chosen level, from anchors (1, N_l, 4) and marks (B, N_l) of every level.

        level_BG: the index of the chosen level that a box counts on.
        """
        boxes_BG4 = grow(known.boxes_BG4) if self.config.faithful else known.boxes_BG4
        masks = []
        for index, pair in enumerate(pairs):
            anchors_1N4 = grow(anchors[pair.level]) if self.config.faithful else anchors[pair.level]
            owner_BG = known.owner_BG & (level_BG == index)
            near_BN = near_best(anchors_1N4, inside[pair.level], boxes_BG4, owner_BG)
            masks.append(by_place(near_BN & inside[pair.level], pair.size))
        return masks
