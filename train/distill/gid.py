"""GID, general instance distillation (Dai et al., CVPR 2021, arXiv 2103.02340), for dense heads.

Ten regions an image are compared, where the class scores of student and teacher differ most (general.py): their
features, the distances between them, and both networks' answers at the candidates that the student's own assignment
gives them.

    feature   sum over regions of (RoIAlign 10x10 of student - of teacher)^2 / (100 * regions), channels added up
    relation  sum over pairs of smooth L1 of d_student - d_teacher / pairs
              d: the distance of two regions' features, divided by its mean over the pairs
    class     sum over the regions' candidates of the cross entropy with the teacher's probabilities / candidates
    box       sum over them of smooth L1 (beta 0.1) of the raw box predictions / candidates
    L = 0.0005 * feature + 40 * relation + 0.1 * class + 1 * box

The raw box predictions of GFL are its bins' expected distances, those of FCOS its distances, both in strides.

Differs from the authors' detectron2 port where it must. It pairs regions across the images of a GPU, divides by its
counts, and lets RoIAlign read the padding. By default pairs are those of an image, the relation is a mean over images,
and counts are those of the global batch. `faithful` repeats the port. Its adapters are never applied, because of an
inverted test; here a 1x1 convolution is trained where widths differ.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Want, own
from model.boxes.annotated import Annotated
from model.boxes.codes import expected_distances
from model.boxes.select import or_one
from model.dense.config import FcosConfig, GflConfig
from model.dense.detector import DenseDetector
from pipeline.batch import Views
from train.distill.general import General, check_dense, general_regions, head_parts
from train.distill.method import Logged, Method, make_adapters
from train.distill.places import (
    Pair,
    check_strides,
    check_weights,
    common_strides,
    inside_candidates,
    levels_of_boxes,
    pair_up,
)
from train.distill.regions import cells, crop

CROP = 10  # cells along each side
BOX_BETA = 0.1


@dataclass(frozen=True)
class GidConfig:
    """Options of GID."""

    kind: ClassVar[str] = "gid"

    feature_weight: float = 0.0005
    """Of the regions' features."""
    relation_weight: float = 40.0
    """Of the distances between them."""
    class_weight: float = 0.1
    """Of the class scores."""
    box_weight: float = 1.0
    """Of the raw box predictions."""
    strides: tuple[int, ...] = ()
    """Pyramid levels that regions are cropped from, named by stride; none: every level that both networks have once."""
    faithful: bool = False
    """The port's pairs across images, counts of a rank, and crops that read the padding."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.gid", "feature_weight", "relation_weight", "class_weight", "box_weight")
        check_strides(self.strides, "--distill.gid.strides")


class Gid(Method):
    same_size = True
    logged = ("gid_score",)
    entropies = ("gid_class",)

    def __init__(self, config: GidConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, own if config.faithful else mean)
        check_dense("gid", student, teacher)
        self.networks = (student, teacher)  # held so that they are no children
        self.strides = common_strides(config.strides, student, teacher, "--distill.gid.strides")
        self.weights = {"gid_class": config.class_weight, "gid_box": config.box_weight}
        self.teaches += head_parts(student, config.class_weight > 0, config.box_weight > 0)
        self.want_student = self.want_teacher = Want(dense=True)
        self.adapters = None
        # Without a weight no gradient would reach the adapters.
        self.features = config.feature_weight > 0 or config.relation_weight > 0
        if self.features:
            self.weights |= {"gid_feature": config.feature_weight, "gid_relation": config.relation_weight}
            self.want_student = self.want_teacher = Want(neck=self.strides, dense=True)
            self.adapters = make_adapters(student, teacher, len(self.strides), "gid")

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view, outs = getattr(views, name), (seen[name], teacher)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            whole = None if self.config.faithful else 1
            inside_BN = inside_candidates(self.networks[0], outs[0], view.sizes_B2, whole)
            regions = general_regions(self.networks, outs, inside_BN, view.sizes_B2)
            terms = self.response(outs, self.match(regions, outs[0], inside_BN))
        if self.features:
            pairs = pair_up(self.strides, self.networks, outs, self.adapters)
            with torch.autocast(view.images_B3HW.device.type, enabled=False):
                ours, theirs = self.crops(pairs, regions, view.sizes_B2)
                terms["gid_feature"] = self.feature(ours, theirs, regions)
                terms["gid_relation"] = self.relation(ours, theirs, regions)
        return terms, {"gid_score": (regions.scores_BR.sum(), regions.real_BR.sum().float())}

    def crops(self, pairs: list[Pair], regions: General, sizes_B2: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, C * 100) of both networks, each region from its own level, zero where there is none."""
        level_BR = levels_of_boxes(regions.boxes_BR4, self.strides)
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        for index, pair in enumerate(pairs):
            limits_B2 = cells(sizes_B2, pair.stride)
            if self.config.faithful:
                limits_B2 = torch.stack([torch.full_like(sizes_B2[:, 0], side) for side in pair.size], dim=1)
            here_BR1 = (regions.real_BR & (level_BR == index))[..., None]
            for maps_BCHW, sums in ((pair.student_BCHW, ours), (pair.teacher_BCHW, theirs)):
                crops_BRD = crop(maps_BCHW, regions.boxes_BR4 / pair.stride, limits_B2, CROP).flatten(2)
                sums.append(torch.where(here_BR1, crops_BRD, 0.0))
        return torch.stack(ours).sum(0), torch.stack(theirs).sum(0)

    def feature(self, ours_BRD: Tensor, theirs_BRD: Tensor, regions: General) -> Tensor:
        return (ours_BRD - theirs_BRD).square().sum() / (CROP**2 * or_one(self.mean(regions.real_BR.sum().float())))

    def relation(self, ours_BRD: Tensor, theirs_BRD: Tensor, regions: General) -> Tensor:
        real_BR = regions.real_BR
        if self.config.faithful:
            ours_BRD, theirs_BRD, real_BR = (each.flatten(0, 1)[None] for each in (ours_BRD, theirs_BRD, real_BR))
        number_R = torch.arange(real_BR.shape[1], device=real_BR.device)
        pairs_BRR = real_BR[:, :, None] & real_BR[:, None] & (number_R[:, None] != number_R)
        ours_BRR, theirs_BRR = (relative_distances(each, pairs_BRR) for each in (ours_BRD, theirs_BRD))
        each_BRR = torch.where(pairs_BRR, F.smooth_l1_loss(ours_BRR, theirs_BRR, reduction="none"), 0.0)
        counts_B = pairs_BRR.sum((1, 2)).float()
        total = (each_BRR.sum((1, 2)) / or_one(counts_B)).sum()
        return total / or_one(self.mean((counts_B > 0).sum().float()))

    @torch.no_grad()
    def match(self, regions: General, out: Outputs, inside_BN: Tensor) -> Tensor:
        """(B, N): the student's candidates that its own rule makes foreground for the regions."""
        student, real_BR = self.networks[0], regions.real_BR
        assert isinstance(student, DenseDetector)
        boxes = Annotated(
            regions.boxes_BR4,
            real_BR.long(),
            real_BR.float(),
            real_BR,
            torch.zeros_like(real_BR),
            real_BR.any(1, keepdim=True),
        )
        return student.head.match(student.head.candidates(out.canvas), inside_BN, boxes, out.canvas)[1] == 1

    def response(self, outs: tuple[Outputs, Outputs], matched_BN: Tensor) -> dict[str, Tensor]:
        logits, boxes = [], []
        for out in outs:
            assert out.logits is not None
            assert out.boxes is not None
            logits.append(torch.cat(out.logits, dim=1))
            boxes.append(self.regressed(torch.cat(out.boxes, dim=1), out.canvas))
        class_BNC = F.binary_cross_entropy_with_logits(logits[0], logits[1].sigmoid(), reduction="none")
        box_BN4 = F.smooth_l1_loss(boxes[0], boxes[1], beta=BOX_BETA, reduction="none")
        count = or_one(self.mean(matched_BN.sum().float()))
        each = {"gid_class": class_BNC, "gid_box": box_BN4}
        return {name: torch.where(matched_BN, part.sum(-1), 0.0).sum() / count for name, part in each.items()}

    def regressed(self, raw_BN: Tensor, canvas: tuple[int, int]) -> Tensor:
        """(B, N, 4): what a head regresses, of the order of 1."""
        student = self.networks[0]
        assert isinstance(student, DenseDetector)
        if isinstance(student.config, GflConfig):
            return expected_distances(raw_BN, student.config.num_bins)
        if isinstance(student.config, FcosConfig):
            return raw_BN / student.head.candidate_strides(canvas, raw_BN.device)
        return raw_BN


def relative_distances(rows_BRD: Tensor, pairs_BRR: Tensor) -> Tensor:
    """(B, R, R): Euclidean distances, divided by the mean over an image's pairs of those that are above 0."""
    distance_BRR = torch.cdist(rows_BRD, rows_BRD, compute_mode="donot_use_mm_for_euclid_dist")
    apart_BRR = pairs_BRR & (distance_BRR > 0)
    total_B11 = torch.where(apart_BRR, distance_BRR, 0.0).sum((1, 2), keepdim=True)
    return distance_BRR / or_one(total_B11 / apart_BRR.sum((1, 2), keepdim=True).clamp(min=1))
