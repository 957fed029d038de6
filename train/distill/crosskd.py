"""CrossKD, cross-head knowledge distillation (Wang et al., CVPR 2024, arXiv 2306.11369), for dense detectors.

The student's features leave its towers after convolution k and go through the rest of the teacher's head. What comes
out, the cross prediction c, is compared with what the teacher says itself, t. So the student's predictors learn from
the annotations alone, and its backbone, pyramid and first convolutions from both. At the hand-over each channel takes
on the teacher's mean and deviation, over the batch and all places of a level:

    a(x) = relu((x - mean(x)) / (std(x) + 1e-6) * std(y) + mean(y))      x of the student, y of the teacher

Both are taken after the ReLU: that is what the original does, although its code reads otherwise. After 0 convolutions
it is the pyramid's map, and no ReLU follows. With s = sigmoid, w = the teacher's best class probability of a place, P
the number of positives, at least 1 an image, and C the sum of the centreness of positives:

    crosskd_class       sum of |s(c) - s(t)| * BCE(c, s(t)) / P             FCOS: / C
    crosskd_box         GFL: sum of w * mean over the 4 sides of KL(softmax(t) || softmax(c)) / sum of w
                        RetinaNet, ATSS: sum of w * (1 - GIoU) / P          FCOS: sum of w * -log IoU / C
    crosskd_centerness  ATSS: sum over positives of BCE(c, s(t)) / P

The teacher's weights get no gradient; it passes through them. Where the towers' widths differ, a 1x1 convolution for
each tower comes before the alignment.

Differs from the original where it must. Padding is in no statistic. Neither it nor what the detection loss leaves out
is in a sum, and sums are over the global batch. A channel that is constant in the student has the teacher's mean and
teaches nothing; the original's gradient there is of order 1e6. C is at least 1: without boxes the original divides by
1e-6. The teacher's convolutions read a little of the padding beside an image, as a detector's do.
Statistics too are those of the global batch, so that the number of ranks changes nothing. The original takes a rank's
own images; `faithful` gives its numbers.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Truth, Want, own
from model.boxes.annotated import annotated
from model.boxes.losses import giou_loss, log_iou_loss, paired_iou, quality_focal_loss, softened_divergence
from model.boxes.points import inside_own_size
from model.boxes.select import or_one
from model.dense.config import FcosConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.dense.head import EPSILON, Towers
from pipeline.batch import Views
from train.distill.general import check_dense, decoded
from train.distill.method import Logged, Method, annotations
from train.distill.places import check_weights, require_numbers
from train.distill.regions import cells, inside
from train.distill.statistics import Moments, moments, varies
from train.distributed import num_ranks

SMALLEST_DEVIATION = 1e-6
NUM_SIDES = 4


class Numbers(NamedTuple):
    class_weight: float
    box_weight: float
    centerness_weight: float
    before_end: int  # convolutions of the teacher's towers that are used again


PUBLISHED = {
    "gfl": Numbers(1.0, 4.0, 0.0, 1),
    "retinanet": Numbers(1.0, 1.0, 0.0, 1),
    "atss": Numbers(1.0, 1.0, 1.0, 1),
    "fcos": Numbers(0.4, 0.75, 0.0, 2),
}


@dataclass(frozen=True)
class CrossKdConfig:
    """Options of CrossKD. A number that is left out is the original's for the kind of detector."""

    kind: ClassVar[str] = "crosskd"

    class_weight: float | None = None
    """Of the classes: 0.4 for FCOS, 1 for the others."""
    box_weight: float | None = None
    """Of the boxes: 4 for GFL, 0.75 for FCOS, 1 for the others."""
    centerness_weight: float | None = None
    """Of the centreness: 1 for ATSS. The other kinds compare none."""
    k: int | None = None
    """Convolutions of the student's towers before the hand-over; none: all but the teacher's last, of FCOS its last 2
    (3 and 2 of 4). 0 hands over the pyramid."""
    faithful: bool = False
    """The original's statistics and sums: padding counts, and nothing is bounded."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.crosskd", "class_weight", "box_weight", "centerness_weight")
        if self.k is not None and self.k < 0:
            raise ValueError(f"--distill.crosskd.k must be 0 or more, got {self.k}")

    def numbers(self, kind: str) -> Numbers:
        """The original's numbers, which the options may replace; all are needed where it has none."""
        if kind in PUBLISHED:
            return PUBLISHED[kind]
        require_numbers("crosskd", kind, self, "class_weight", "box_weight", "k")
        return Numbers(0.0, 0.0, 0.0, 0)


class CrossKd(Method):
    same_size = True
    logged = alike = ("cross_overlap",)

    def __init__(self, config: CrossKdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        ours, theirs = check_heads(student, teacher)
        kind, self.num_ranks = ours.config.kind, num_ranks()
        self.of = next(
            (each for each in (GflConfig, FcosConfig, RetinaNetConfig) if isinstance(ours.config, each)), None
        )
        published = config.numbers(kind)
        self.k = hand_over(config.k, ours, theirs, published)
        self.want_student = self.want_teacher = Want(tower=self.k, dense=True)
        self.weights = {
            "crosskd_class": published.class_weight if config.class_weight is None else config.class_weight,
            "crosskd_box": published.box_weight if config.box_weight is None else config.box_weight,
        }
        if published.centerness_weight:
            given = config.centerness_weight
            self.weights["crosskd_centerness"] = published.centerness_weight if given is None else given
        elif config.centerness_weight is not None:
            raise ValueError(f"--distill.crosskd.centerness-weight is for atss, and the student is a {kind}")
        weights = list(self.weights.values())  # of the class, then of what the box tower answers
        if self.k > 0:
            parts = (("class_tower", weights[:1]), ("box_tower", weights[1:]))
            self.teaches += tuple(f"head.{tower}.{n}" for tower, some in parts if any(some) for n in range(self.k))
        self.entropies = ("crosskd_centerness",)
        self.teacher = (theirs,)  # in a tuple: no child
        widths = [net.channels if self.k == 0 else net.config.head_channels for net in (ours, theirs)]
        if widths[0] != widths[1]:
            self.adapters = nn.ModuleList(nn.Conv2d(widths[0], widths[1], 1) for _ in ("class", "box"))
            # Each tower's adapter learns from its own terms; without a weight no gradient would reach it.
            self.adapters[0].requires_grad_(any(weights[:1]))
            self.adapters[1].requires_grad_(any(weights[1:]))

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view, (network,) = getattr(views, name), self.teacher
        ours, theirs = seen[name].towers, teacher.towers
        assert ours is not None
        assert theirs is not None
        towers = self.hand_over(ours, theirs, view.sizes_B2)
        cross = network.head_from(towers, self.k)
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            return self.compare(cross, teacher, assigned[name], annotations(views, view))

    def hand_over(self, student: Towers, teacher: Towers, sizes_B2: Tensor) -> Towers:
        """The student's maps of every level with the teacher's statistics."""
        ours = [map_BCHW for level in student for map_BCHW in level]
        theirs = [map_BCHW for level in teacher for map_BCHW in level]
        if self.adapters is not None:
            ours = [self.adapters[index % 2](map_BCHW) for index, map_BCHW in enumerate(ours)]
        insides = None
        if not self.config.faithful:
            strides = [stride for stride in self.teacher[0].strides for _ in range(2)]
            insides = [
                inside(cells(sizes_B2, stride), map_BCHW.shape[-2:])
                for stride, map_BCHW in zip(strides, ours, strict=True)
            ]
        aligned = align(ours, theirs, insides, self.mean)
        if self.k:
            aligned = [map_BCHW.relu() for map_BCHW in aligned]
        return tuple(zip(aligned[::2], aligned[1::2], strict=True))

    def compare(
        self, cross: Outputs, teacher: Outputs, trained: Assigned, truth: Truth
    ) -> tuple[dict[str, Tensor], Logged]:
        assert cross.logits is not None
        assert cross.boxes is not None
        assert teacher.logits is not None
        assert teacher.boxes is not None
        (network,) = self.teacher
        head, faithful, counts = network.head, self.config.faithful, trained.state_BN >= 0
        if not faithful:
            counts = counts & inside_own_size(truth.sizes_B2, teacher.canvas, head.strides, head.per_location, 1)
        positive_BN = (trained.state_BN == 1) & counts
        cross_BNC, teacher_BNC = torch.cat(cross.logits, dim=1), torch.cat(teacher.logits, dim=1)
        class_BN = quality_focal_loss(cross_BNC, teacher_BNC.sigmoid(), beta=1.0).sum(-1)
        weight_BN = torch.where(counts, teacher_BNC.amax(-1).sigmoid(), 0.0)
        divisor = self.divisor(trained, positive_BN, truth) + EPSILON
        boxes = [torch.cat(decoded(network, out), dim=1) for out in (cross, teacher)]
        if self.of is GflConfig:
            bins = (NUM_SIDES, head.box_width // NUM_SIDES)
            cross_BN, teacher_BN = (torch.cat(out.boxes or (), dim=1).unflatten(-1, bins) for out in (cross, teacher))
            box_BN = softened_divergence(cross_BN, teacher_BN).sum(-1).sum(-1) / (NUM_SIDES + EPSILON)
            box_divisor = weight_BN.sum() if faithful else or_one(self.mean(weight_BN.sum()))
        else:
            box_BN = (log_iou_loss if self.of is FcosConfig else giou_loss)(*boxes)
            box_divisor = divisor
        terms = {
            "crosskd_class": torch.where(counts, class_BN, 0.0).sum() / divisor,
            "crosskd_box": (torch.where(counts, box_BN, 0.0) * weight_BN).sum() / box_divisor,
        }
        if "crosskd_centerness" in self.weights:
            ours_BN, theirs_BN = (torch.cat(out.quality or (), dim=1) for out in (cross, teacher))
            quality_BN = F.binary_cross_entropy_with_logits(ours_BN, theirs_BN.sigmoid(), reduction="none")
            terms["crosskd_centerness"] = torch.where(positive_BN, quality_BN, 0.0).sum() / divisor
        overlap_BN = torch.where(positive_BN, paired_iou(*boxes).detach(), 0.0)
        return terms, {"cross_overlap": (overlap_BN.sum(), positive_BN.sum().float())}

    def divisor(self, trained: Assigned, positive_BN: Tensor, truth: Truth) -> Tensor:
        """P, or C of an FCOS. Neither is less where labels are not sure, and an unlabelled image is in neither."""
        faithful = self.config.faithful
        known = annotated(truth, faithful=faithful)
        if self.of is FcosConfig:
            label_BN = known.weight_BG.gather(1, trained.matched_BN)
            total = self.mean(torch.where(positive_BN, trained.weight_BN / label_BN, 0.0).sum())
            return total.clamp(min=1e-6 if faithful else 1 / self.num_ranks)
        mean = own if faithful and self.of is RetinaNetConfig else self.mean
        return or_one(mean((positive_BN.sum(1).clamp(min=1) * known.present_B1[:, 0]).sum().float()))


def align(ours: list[Tensor], theirs: list[Tensor], insides: list[Tensor] | None, mean: Mean) -> list[Tensor]:
    """Each of the student's maps with the mean and deviation of every channel of the teacher's, float32.

    Statistics are over the places inside the images; without `insides` over all of a rank, and nothing is guarded.
    """
    with torch.autocast(ours[0].device.type, enabled=False):
        ours, theirs = [each.float() for each in ours], [each.float() for each in theirs]
        if insides is None:
            return [align_as_original(*pair) for pair in zip(ours, theirs, strict=True)]
        found = moments([*ours, *theirs], [*insides, *insides], mean)
        return [give(*each) for each in zip(ours, found[: len(ours)], found[len(ours) :], strict=True)]


def align_as_original(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    dims = (0, 2, 3)
    means = [maps.mean(dims, keepdim=True) for maps in (student_BCHW, teacher_BCHW)]
    deviations = [maps.std(dims, keepdim=True) for maps in (student_BCHW, teacher_BCHW)]
    return (student_BCHW - means[0]) / (deviations[0] + SMALLEST_DEVIATION) * deviations[1] + means[1]


def give(student_BCHW: Tensor, student: Moments, teacher: Moments) -> Tensor:
    """The student's map, padding too, with the teacher's mean and deviation."""
    varies_C = varies(student)
    # The root of 1 where the channel is constant: a root of 0 would have an infinite gradient.
    deviation_C = torch.where(varies_C, student.variance_C, 1.0).sqrt() + SMALLEST_DEVIATION
    numbers = (varies_C, student.mean_C, deviation_C, teacher.variance_C.sqrt(), teacher.mean_C)
    varies_C11, mean_C11, deviation_C11, wanted_C11, wanted_mean_C11 = (each_C[:, None, None] for each_C in numbers)
    scaled_BCHW = (student_BCHW - mean_C11) / deviation_C11 * wanted_C11
    return torch.where(varies_C11, scaled_BCHW, 0.0) + wanted_mean_C11


def check_heads(student: Detector, teacher: Detector) -> tuple[DenseDetector, DenseDetector]:
    """Both have one kind of dense head with the same candidates, so that their answers stand side by side."""
    check_dense("crosskd", student, teacher)
    assert isinstance(student, DenseDetector)
    assert isinstance(teacher, DenseDetector)
    return student, teacher


def hand_over(k: int | None, student: DenseDetector, teacher: DenseDetector, published: Numbers) -> int:
    """Convolutions before the hand-over, of both networks."""
    most = min(student.config.num_convs, teacher.config.num_convs)
    if k is None:
        return min(max(teacher.config.num_convs - published.before_end, 0), most)
    if k > most:
        raise ValueError(f"--distill.crosskd.k must be 0 to {most}, the convolutions of both networks' towers, got {k}")
    return k
