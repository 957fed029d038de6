"""LD, localisation distillation (Zheng et al., CVPR 2022, arXiv 2102.12252) for GFL, whose box sides are distributions.

Teacher and student answer at the same locations. Bins and classes are compared softened:

    KL_T(t, s) = T^2 * mean over bins (classes) of softmax(t/T) * (log softmax(t/T) - log softmax(s/T))

    ld_main      sum over positives of w * mean over the 4 sides of KL_10
    ld_valuable  sum over the valuable region of v * mean over the 4 sides of KL_10 / 4
    ld_class     sum over levels of the mean over the level's positives of KL_2 of the class logits
    L = L_detection + 0.25 * ld_main + 0.25 * ld_valuable + 10 * ld_class

w is the student's best class probability, held constant, and v an overlap.

The valuable region of a box holds the anchors that are near to it and yet not near enough to be positive:
gamma * t <= score < t, where t is the threshold of ATSS for the box. v is the greatest IoU over such boxes. The paper's
score is the DIoU, IoU - d^2 / c^2 with the distance d of the centres and the diagonal c of the smallest box around
both. The released code divides the intersection by the anchor's own area instead of the union. Its published numbers
come from that score, so `region` is "released" by default. Positives are not taken out of the region, as there.

Differs from the original where it must. Its sums over positives and region grow with the batch of a GPU, "which is a
bug" (its author), tuned with two images there. By default they are divided by half the number of labelled images of
the global batch: at two images a GPU that is the original's strength, and no other batch changes it. The mean of
ld_class is over the positives of the global batch. Padding is no place for the region. With `faithful` sums and counts
are those of a rank, and an image reaches to the next multiple of 32, as there. An image without boxes crashes the
original; it adds 0 here, also when faithful. Of one class a softmax is constant: sigmoids are compared there.

A teacher of the student's own kind and size is the paper's self-LD.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Assigned, Detector, Mean, Outputs, Truth, Want
from model.boxes.annotated import annotated
from model.boxes.assigners import covered_share, measure_overlaps, nearest_candidates
from model.boxes.codes import decode_distances, expected_distances
from model.boxes.losses import paired_iou, softened_divergence
from model.boxes.points import inside_own_size
from model.boxes.select import or_one
from model.dense.config import GflConfig
from pipeline.batch import Views
from train.distill.general import head_parts
from train.distill.method import Logged, Method, annotations
from train.distill.places import check_weights

NUM_SIDES = 4
IMAGES_A_GPU = 2  # that the original's weights were tuned with
CLASS_WEIGHT, NUM_CLASSES = 10.0, 80  # as tuned on COCO


@dataclass(frozen=True)
class LdConfig:
    """Options of LD."""

    kind: ClassVar[str] = "ld"

    main_weight: float = 0.25
    """Of the box sides at positives."""
    valuable_weight: float = 0.25
    """Of the box sides in the valuable region."""
    class_weight: float | None = None
    """Of the classes at positives. Left out: an eighth of their number, the original's 10 for COCO's 80, and 10 when
    faithful. The term is a mean over the classes, so at few classes 10 would drown the detection loss."""
    temperature: float = 10.0
    """That softens the bins of a side."""
    class_temperature: float = 2.0
    """That softens the classes."""
    gamma: float = 0.25
    """The region reaches down to this share of the threshold for positives."""
    region: Literal["released", "paper"] = "released"
    """The score of an anchor: intersection over its own area, as the released code has it, or the paper's DIoU."""
    faithful: bool = False
    """The original's sums over a rank's images, which grow with its batch."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.ld", "main_weight", "valuable_weight", "class_weight")
        for name in ("temperature", "class_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--distill.ld.{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"--distill.ld.gamma must be at least 0 and below 1, got {self.gamma}")


class Ld(Method):
    same_size = True
    want_student = want_teacher = Want(dense=True)
    logged = alike = ("box_overlap",)

    def __init__(self, config: LdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        check_gfl(student, teacher)
        num_classes = NUM_CLASSES if config.faithful else student.num_classes - 1
        given = config.class_weight
        class_weight = CLASS_WEIGHT * num_classes / NUM_CLASSES if given is None else given
        self.weights = {
            "ld_main": config.main_weight,
            "ld_valuable": config.valuable_weight,
            "ld_class": class_weight,
        }
        on_boxes = config.main_weight > 0 or config.valuable_weight > 0
        self.teaches += head_parts(student, class_weight > 0, on_boxes)
        self.strides, self.head = student.strides, student.config

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view, student, trained = getattr(views, name), seen[name], assigned[name]
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            parts = self.terms_by_level(student, teacher, trained, annotations(views, view))
            overlap = self.overlap(student, teacher, trained)
        return {term: part_L.sum() for term, part_L in parts.items()}, {"box_overlap": overlap}

    def terms_by_level(self, student: Outputs, teacher: Outputs, trained: Assigned, truth: Truth) -> dict[str, Tensor]:
        """Each term as (L,) parts that add up to it."""
        assert student.logits is not None
        assert student.boxes is not None
        assert teacher.logits is not None
        assert teacher.boxes is not None
        positive_BN = trained.state_BN == 1
        counts = tuple(level.shape[1] for level in student.logits)
        bins = (NUM_SIDES, self.head.num_bins)
        sides_BN = softened_divergence(
            torch.cat(student.boxes, dim=1).unflatten(-1, bins),
            torch.cat(teacher.boxes, dim=1).unflatten(-1, bins),
            self.config.temperature,
        ).mean(-1).mean(-1)  # fmt: skip
        region_BN = self.valuable_region(trained.candidates_BN4, counts, truth, student.canvas)
        ours_BNC, theirs_BNC = torch.cat(student.logits, dim=1), torch.cat(teacher.logits, dim=1)
        if not self.config.faithful:
            ours_BNC, theirs_BNC = two_or_more(ours_BNC), two_or_more(theirs_BNC)
        classes_BN = softened_divergence(ours_BNC, theirs_BNC, self.config.class_temperature).mean(-1)

        def level_sums(values_BN: Tensor) -> Tensor:
            return torch.stack([part.sum() for part in values_BN.split(counts, dim=1)])

        positives_L = level_sums(positive_BN.float())
        images = positive_BN.new_ones((), dtype=torch.float32)
        if not self.config.faithful:
            positives_L = self.mean(positives_L)
            images = or_one(self.mean(annotated(truth).present_B1.sum().float())) / IMAGES_A_GPU
        return {
            "ld_main": level_sums(torch.where(positive_BN, sides_BN * trained.weight_BN, 0.0)) / images,
            "ld_valuable": level_sums(sides_BN * region_BN) / NUM_SIDES / images,
            "ld_class": level_sums(torch.where(positive_BN, classes_BN, 0.0)) / or_one(positives_L),
        }

    @torch.no_grad()
    def valuable_region(
        self, candidates_1N4: Tensor, counts: tuple[int, ...], truth: Truth, canvas: tuple[int, int]
    ) -> Tensor:
        """(B, N): the weight v of every location, 0 outside the region."""
        known = annotated(truth, with_ignored=self.head.ignore_overlap < 1)
        valid_BN = inside_own_size(truth.sizes_B2, canvas, self.strides, 1, 32 if self.config.faithful else 1)
        boxes_BG4 = known.boxes_BG4
        iou_BGN, on_ignored_BN = measure_overlaps(
            boxes_BG4, known.ignored_BG, candidates_1N4, self.head.ignore_overlap
        )  # fmt: skip
        last_BN = on_ignored_BN if self.head.faithful else None  # as the head's own threshold
        near = nearest_candidates(candidates_1N4, counts, valid_BN, last_BN, boxes_BG4, iou_BGN, self.head.num_nearest)
        share_BGN = iou_BGN if self.config.region == "paper" else covered_share(boxes_BG4, candidates_1N4)
        score_BGN = share_BGN - centre_penalty(boxes_BG4, candidates_1N4)
        high_BG1 = near.threshold_BG[..., None]
        qualifies_BGN = (score_BGN >= self.config.gamma * high_BG1) & (score_BGN < high_BG1)
        qualifies_BGN &= known.owner_BG[..., None] & valid_BN[:, None]
        return torch.where(qualifies_BGN, iou_BGN, 0.0).amax(dim=1)

    @torch.no_grad()
    def overlap(self, student: Outputs, teacher: Outputs, trained: Assigned) -> tuple[Tensor, Tensor]:
        """(sum, count): IoU of the two networks' boxes at positives, in strides."""
        boxes = []
        for out in (student, teacher):
            assert out.boxes is not None
            distances_BN4 = expected_distances(torch.cat(out.boxes, dim=1), self.head.num_bins)
            boxes.append(decode_distances(distances_BN4, distances_BN4.new_zeros(2)))
        positive_BN = trained.state_BN == 1
        return torch.where(positive_BN, paired_iou(*boxes), 0.0).sum(), positive_BN.sum().float()


def two_or_more(logits_BNC: Tensor) -> Tensor:
    """One class beside a constant 0: the softmax of the two is its sigmoid."""
    return F.pad(logits_BNC, (0, 1)) if logits_BNC.shape[-1] == 1 else logits_BNC


def centre_penalty(boxes_BG4: Tensor, candidates_1N4: Tensor) -> Tensor:
    """(B, G, N): d^2 / c^2, the distance of the centres to the diagonal of the smallest box around both."""
    ax1, ay1, ax2, ay2 = boxes_BG4[:, :, None].unbind(-1)
    bx1, by1, bx2, by2 = candidates_1N4[:, None].unbind(-1)
    distance = (ax1 + ax2 - bx1 - bx2).square() / 4 + (ay1 + ay2 - by1 - by2).square() / 4
    width, height = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1), torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    return distance / (width.square() + height.square())


def check_gfl(student: Detector, teacher: Detector) -> None:
    """Both have a GFL head with the same locations, bins and classes."""
    names = ("num_bins", "anchor_base", "anchor_ratios")
    facts = []
    for who, detector, fix in (
        ("student", student, "give --model gfl"),
        ("teacher", teacher, "give a --teacher that is a gfl"),
    ):
        config = detector.config
        if not isinstance(config, GflConfig):
            raise ValueError(f"ld compares distributions of box sides; the {who} is a {config.kind}: {fix}")
        facts.append((detector.strides, detector.num_classes, *(getattr(config, name) for name in names)))
    if facts[0] != facts[1]:
        pairs = zip(("strides", "num_classes", *names), *facts, strict=True)
        unequal = [f"{name} {one} and {other}" for name, one, other in pairs if one != other]
        raise ValueError(f"ld: student and teacher differ in {', '.join(unequal)}; train one like the other")
    if len(student.config.anchor_ratios) != 1:
        raise ValueError(f"ld needs one anchor a location, got anchor_ratios {student.config.anchor_ratios}")
