"""Feature imitation: the student's pyramid equals the teacher's at chosen places, by squared error.

    L = weight * sum over levels of the mean over chosen places and channels of (student - teacher)^2

The baselines of LD (Zheng et al., CVPR 2022), one `region` each; maps are compared as they are:

    all           every place (FitNets, Romero et al. 2015)
    inside        its point lies strictly inside an annotated box
    main          its candidate is positive in the student's assignment
    fine_grained  an anchor overlaps a box by more than half of what the best anchor does (Wang et al. 2019)
    decoupled     inside once and outside twice, each a mean of its own (DeFeat, Guo et al. 2021)
    general       the ten places a level where the two class scores differ most, overlapping boxes thinned out (GID)

Differs from the original where it must. Places of the padding count nothing, and means are over the global batch. The
original counts padding as outside, leaves out levels without positives, and mixes the images of a GPU for `general`:
their boxes suppress each other. `faithful` repeats that. Its line for `decoupled` compares the student's outside with
the teacher's inside and fails. Here it is the outside of both, also when faithful.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want, own
from model.boxes.annotated import Annotated, annotated
from model.dense.detector import DenseDetector
from pipeline.batch import Views
from train.distill.general import check_dense, general_places
from train.distill.method import Logged, Method, annotations, make_adapters
from train.distill.places import (
    Pair,
    candidates_of,
    check_anchors,
    check_strides,
    check_weights,
    common_strides,
    cosine,
    images_of,
    inside_boxes,
    inside_candidates,
    mean_square,
    near_best,
    pair_up,
    spread,
)

Region = Literal["all", "inside", "main", "fine_grained", "decoupled", "general"]
OUTSIDE_WEIGHT = 2.0


@dataclass(frozen=True)
class ImitationConfig:
    """Options of imitation."""

    kind: ClassVar[str] = "imitation"

    weight: float = 2.0
    """Of the sum over levels."""
    region: Region = "fine_grained"
    """The places that are compared."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to compare, named by stride; none: every level that both networks have once."""
    faithful: bool = False
    """As the original: padding counts, levels without positives do not, and images are mixed for `general`."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.imitation", "weight")
        check_strides(self.strides, "--distill.imitation.strides")


class Imitation(Method):
    same_size = True
    logged = alike = ("imitation_cosine",)

    def __init__(self, config: ImitationConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, own if config.faithful else mean)
        self.networks = (student, teacher)  # held so that they are no children
        self.strides = common_strides(config.strides, student, teacher, "--distill.imitation.strides")
        dense = isinstance(student, DenseDetector)
        if not dense and (config.faithful or config.region == "main"):
            what = "faithful, as the original," if config.faithful else "the region main"
            raise ValueError(
                f"imitation: {what} needs a dense head; give --model gfl or another --distill.imitation.region"
            )
        if config.region == "fine_grained":
            check_anchors("imitation's region fine_grained", student)
        if config.region == "general":
            check_dense("imitation's region general", student, teacher)
        self.weights = {"imitation": config.weight}
        self.want_student = Want(neck=self.strides, dense=True)
        self.want_teacher = Want(neck=self.strides, dense=config.region == "general")
        self.adapters = make_adapters(student, teacher, len(self.strides), "imitation")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view, outs = getattr(views, name), (seen[name], teacher)
        pairs = pair_up(self.strides, self.networks, outs, self.adapters)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            masks = self.places(pairs, outs, assigned[name], annotated(annotations(views, view)), view.sizes_B2)
            loss = self.losses_by_level(pairs, masks, assigned[name], outs[0], view.sizes_B2).sum()
            return {"imitation": loss}, {"imitation_cosine": cosine(pairs, masks)}

    def losses_by_level(
        self, pairs: list[Pair], masks: list[Tensor], trained: Assigned, out: Outputs, sizes_B2: Tensor
    ) -> Tensor:
        """(L,) parts that add up to the term."""
        losses = [mean_square(pair, mask_BHW, self.mean) for pair, mask_BHW in zip(pairs, masks, strict=True)]
        if self.config.region == "decoupled":
            images = images_of(pairs, sizes_B2, self.config.faithful)
            for level, (pair, image_BHW) in enumerate(zip(pairs, images, strict=True)):
                outside = mean_square(pair, image_BHW & ~masks[level], self.mean)
                losses[level] = losses[level] + OUTSIDE_WEIGHT * outside
        losses_L = torch.stack(losses)
        if self.config.faithful:
            some_L = torch.stack([mask_BHW.any() for mask_BHW in spread(trained.state_BN == 1, out, pairs)])
            losses_L = torch.where(some_L, losses_L, 0.0)
        return losses_L

    @torch.no_grad()
    def places(
        self, pairs: list[Pair], outs: tuple[Outputs, Outputs], trained: Assigned, known: Annotated, sizes_B2: Tensor
    ) -> list[Tensor]:
        """(B, H, W) of every chosen level: the places of the region."""
        region, images = self.config.region, images_of(pairs, sizes_B2, self.config.faithful)
        if region == "all":
            return images
        if region in ("inside", "decoupled"):
            masks = [inside_boxes(known, pair.size, pair.stride) for pair in pairs]
        elif region == "main":
            masks = spread(trained.state_BN == 1, outs[0], pairs)
        elif region == "fine_grained":
            multiple = 32 if self.config.faithful else 1
            valid_BN = inside_candidates(self.networks[0], outs[0], sizes_B2, multiple)
            masks = spread(
                near_best(candidates_of(self.networks[0], outs[0]), valid_BN, known.boxes_BG4, known.owner_BG),
                outs[0],
                pairs,
            )
        else:
            valid_BN = inside_candidates(self.networks[0], outs[0], sizes_B2, None if self.config.faithful else 1)
            masks = spread(general_places(self.networks, outs, valid_BN, self.config.faithful), outs[0], pairs)
        return [mask_BHW & image_BHW for mask_BHW, image_BHW in zip(masks, images, strict=True)]
