"""General instances (Dai et al., CVPR 2021, arXiv 2103.02340): the places where student and teacher disagree most.

Each candidate's score is how far the two networks' class probabilities are apart. Its box is that of the network which
is surer. Overlapping boxes are thinned out, and the best few are left. The choice carries no gradient.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.detection.nms import nms
from model.api import Detector, Outputs
from model.boxes.boxes import clip, has_sides
from model.boxes.select import take
from model.dense.detector import DenseDetector

# What decides which candidates a head has, and how it writes boxes.
CANDIDATES = (
    "strides", "style", "anchor_base", "anchors_per_octave", "anchor_ratios", "num_bins", "distances",
    "centerness_from",
)  # fmt: skip
OVERLAP = 0.3
NUM_KEPT = 10
NUM_LOOKED_AT = 3000
SMALLEST = 10  # pixels a side


class General(NamedTuple):
    """Falling scores; slots that are not real hold 0."""

    boxes_BR4: Tensor
    scores_BR: Tensor
    real_BR: Tensor


def check_dense(who: str, student: Detector, teacher: Detector) -> None:
    """Both have the same dense head: class scores and boxes at the same candidates."""
    for role, detector, fix in (
        ("student", student, "give --model gfl"),
        ("teacher", teacher, "give a --teacher of the student's kind"),
    ):
        if not isinstance(detector, DenseDetector):
            raise ValueError(f"{who} needs dense heads, and the {role} is a {detector.config.kind}: {fix}")
    kinds = [detector.config.kind for detector in (student, teacher)]
    if kinds[0] != kinds[1] or student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{who}: the student is a {kinds[0]} of {student.num_classes - 1} classes and the teacher a {kinds[1]} of "
            f"{teacher.num_classes - 1}; both must be one kind of detector with the same classes"
        )
    pairs = ((name, *(getattr(net.config, name, None) for net in (student, teacher))) for name in CANDIDATES)
    if unequal := [f"{name} {one} and {other}" for name, one, other in pairs if one != other]:
        raise ValueError(f"{who}: student and teacher differ in {', '.join(unequal)}; train one like the other")


def head_parts(student: Detector, classes: bool, boxes: bool) -> tuple[str, ...]:
    """What of a dense head's parameters class scores and boxes come from: how their names begin."""
    parts = [*(("class_tower", "class_output") if classes else ()), *(("box_tower", "box_output") if boxes else ())]
    scales = ["scales"] if boxes and hasattr(student.head, "scales") else []
    return tuple(f"head.{part}" for part in [*parts, *scales])


def decoded(detector: Detector, out: Outputs) -> tuple[Tensor, ...]:
    """A level's boxes (B, N_l, 4) in pixels, from raw predictions, with their gradient."""
    assert isinstance(detector, DenseDetector)
    assert out.boxes is not None
    head = detector.head
    candidates = head.candidates(out.canvas).split(head.level_counts(out.canvas), dim=1)
    levels = zip(out.boxes, candidates, head.strides, strict=True)
    return tuple(head.decode(raw_BN, places_1N4, stride) for raw_BN, places_1N4, stride in levels)


@torch.no_grad()
def most_different_class(ours_BNC: Tensor, theirs_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """(score, whether the teacher is at least as sure): LD's score, the class on which the two differ most."""
    ours_BNC, theirs_BNC = ours_BNC.sigmoid(), theirs_BNC.sigmoid()
    score_BN, class_BN = (ours_BNC - theirs_BNC).abs().max(-1)
    ours_BN, theirs_BN = (each.gather(-1, class_BN[..., None])[..., 0] for each in (ours_BNC, theirs_BNC))
    return score_BN, theirs_BN >= ours_BN


@torch.no_grad()
def most_different_best(ours_BNC: Tensor, theirs_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """(score, whether the teacher is surer): GID's score, the difference of the best probabilities."""
    ours_BN, theirs_BN = ours_BNC.amax(-1).sigmoid(), theirs_BNC.amax(-1).sigmoid()
    return (ours_BN - theirs_BN).abs(), theirs_BN > ours_BN


@torch.no_grad()
def general_places(
    networks: tuple[Detector, Detector], outs: tuple[Outputs, Outputs], inside_BN: Tensor, whole_batch: bool
) -> Tensor:
    """(B, N): the ten best candidates of each level of an image, as LD chooses them; student first in each pair.

    whole_batch: the ten best of all images together, whose boxes suppress each other, as in LD's code.
    """
    assert outs[0].logits is not None
    assert outs[1].logits is not None
    boxes = [decoded(network, out) for network, out in zip(networks, outs, strict=True)]
    counts = [level.shape[1] for level in outs[0].logits]
    levels = []
    for *logits, ours_BN4, theirs_BN4, mine_BN in zip(
        outs[0].logits, outs[1].logits, *boxes, inside_BN.split(counts, dim=1), strict=True
    ):
        score_BN, theirs_BN = most_different_class(*logits)
        boxes_BN4 = torch.where(theirs_BN[..., None], theirs_BN4, ours_BN4)
        score_BN = torch.where(mine_BN, score_BN, -torch.inf)
        if whole_batch:
            marks_BN = general_rows(boxes_BN4.flatten(0, 1)[None], score_BN.flatten()[None]).reshape(score_BN.shape)
        else:
            marks_BN = general_rows(boxes_BN4, score_BN)
        levels.append(marks_BN)
    return torch.cat(levels, dim=1)


def general_rows(boxes_BN4: Tensor, score_BN: Tensor) -> Tensor:
    """(B, N): which candidates are left."""
    num_slots = min(NUM_KEPT, score_BN.shape[1])
    keep_BR, count_B = nms(boxes_BN4, score_BN, torch.zeros_like(score_BN, dtype=torch.int32), OVERLAP, num_slots)
    real_BR = torch.arange(num_slots, device=keep_BR.device) < count_B[:, None]
    # Empty slots hold 0, as the first candidate may: adding cannot overwrite it.
    return torch.zeros_like(score_BN).scatter_add(1, keep_BR, real_BR.to(score_BN.dtype)) > 0


@torch.no_grad()
def general_regions(
    networks: tuple[Detector, Detector], outs: tuple[Outputs, Outputs], inside_BN: Tensor, sizes_B2: Tensor
) -> General:
    """The ten best boxes of an image, all levels together, as GID chooses them; student first in each pair."""
    logits, boxes = [], []
    for network, out in zip(networks, outs, strict=True):
        assert out.logits is not None
        logits.append(torch.cat(out.logits, dim=1))
        boxes.append(torch.cat(decoded(network, out), dim=1))
    score_BN, theirs_BN = most_different_best(*logits)
    score_BN = torch.where(inside_BN, score_BN, -torch.inf)
    boxes_BN4 = clip(torch.where(theirs_BN[..., None], boxes[1], boxes[0]), sizes_B2)
    score_BN, index_BN = score_BN.topk(min(NUM_LOOKED_AT, score_BN.shape[1]), dim=1)
    boxes_BN4 = take(boxes_BN4, index_BN)
    score_BN = torch.where(has_sides(boxes_BN4, SMALLEST), score_BN, -torch.inf)
    keep_BR, count_B = nms(boxes_BN4, score_BN, torch.zeros_like(score_BN, dtype=torch.int32), OVERLAP, NUM_KEPT)
    real_BR = torch.arange(NUM_KEPT, device=keep_BR.device) < count_B[:, None]
    return General(
        torch.where(real_BR[..., None], take(boxes_BN4, keep_BR), 0.0),
        torch.where(real_BR, take(score_BN, keep_BR), 0.0),
        real_BR,
    )
