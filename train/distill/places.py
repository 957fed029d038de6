"""Which places of a pyramid's maps a method compares, as masks with static shapes, and the means over them.

A place is a cell of a map. Where a head answers several times at a place, with several anchors, one of them is enough.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.api import Detector, Mean, Outputs
from model.boxes.annotated import Annotated
from model.boxes.assigners import pairwise_iou
from model.boxes.boxes import area
from model.boxes.points import inside_own_size, map_sizes
from model.boxes.select import or_one
from model.config import ModelConfig
from model.dense.config import FcosConfig
from model.dense.detector import DenseDetector
from train.distill.method import levels_of
from train.distill.regions import cells, inside

ENOUGH = 0.5  # of the best anchor's overlap
CELLS_ACROSS = 14  # a box whose root of area is 14 strides long, or up to twice that, belongs to the level


class Pair(NamedTuple):
    """A level of both networks, float32, the student's adapted."""

    student_BCHW: Tensor
    teacher_BCHW: Tensor
    stride: int
    level: int  # of the student

    @property
    def size(self) -> tuple[int, int]:
        return (self.student_BCHW.shape[-2], self.student_BCHW.shape[-1])


def common_strides(strides: tuple[int, ...], student: Detector, teacher: Detector, option: str) -> tuple[int, ...]:
    """Those that were chosen, or all that both networks have once."""
    if not strides:
        strides = tuple(s for s in student.strides if student.strides.count(s) == teacher.strides.count(s) == 1)
        if strides == student.strides[-1:] and isinstance(student.config, ModelConfig):
            strides = ()  # the pooled level alone, of which no region is taken
    if not strides:
        raise ValueError(
            f"{option}: no level is common to the strides {student.strides} and {teacher.strides} (one that comes "
            "several times is none, nor is Faster R-CNN's pooled one alone); choose another backbone"
        )
    levels_of(strides, student, teacher, option)
    return strides


def check_strides(strides: tuple[int, ...], option: str) -> None:
    if list(strides) != sorted(set(strides)):
        raise ValueError(f"{option} must be rising numbers, such as 8 16 32, got {strides}")


def check_weights(config: object, option: str, *names: str) -> None:
    """None is left out."""
    for name in names:
        weight = getattr(config, name)
        if weight is not None and not 0 <= weight < float("inf"):
            raise ValueError(f"{option}.{name.replace('_', '-')} must be 0 or more, got {weight}")


def require_numbers(method: str, kind: str, config: object, *names: str) -> None:
    """For a kind of detector that the original has no numbers for."""
    missing = [f"--distill.{method}.{name.replace('_', '-')}" for name in names if getattr(config, name) is None]
    if missing:
        raise ValueError(f"{method} has no published numbers for {kind}; give {', '.join(missing)}")


def check_anchors(who: str, student: Detector) -> None:
    if isinstance(student.config, FcosConfig):
        raise ValueError(f"{who} needs anchors, and FCOS has points; give another --model")


def make_wide_adapters(student: Detector, teacher: Detector, num: int, relu: bool) -> nn.ModuleList:
    """A 3x3 convolution a level, from the student's number of channels to the teacher's."""
    layers = []
    for _ in range(num):
        conv = nn.Conv2d(student.channels, teacher.channels, 3, padding=1)
        layers.append(nn.Sequential(conv, nn.ReLU()) if relu else nn.Sequential(conv))
    return nn.ModuleList(layers)


def pair_up(
    strides: tuple[int, ...],
    networks: tuple[Detector, Detector],
    outs: tuple[Outputs, Outputs],
    adapters: nn.ModuleList | None,
    sizes_B2: Tensor | None = None,
) -> list[Pair]:
    """The chosen levels of both networks. Adapters compute in the step's precision.

    With sizes_B2 an adapter finds zeros in the padding, as behind the edge of the map.
    """
    pairs = []
    for index, stride in enumerate(strides):
        levels = [network.strides.index(stride) for network in networks]
        student, teacher = (out.neck[level] for out, level in zip(outs, levels, strict=True))
        if adapters is not None:
            if sizes_B2 is not None:
                student = torch.where(inside(cells(sizes_B2, stride), student.shape[-2:])[:, None], student, 0.0)
            student = adapters[index](student)
        pairs.append(Pair(student.float(), teacher.float(), stride, levels[0]))
    return pairs


def candidates_of(detector: Detector, out: Outputs) -> Tensor:
    """(1, N, 4): the anchors, or points as boxes, that raw predictions are about."""
    if isinstance(detector, DenseDetector):
        return detector.head.candidates(out.canvas)
    return detector.anchors(out.neck, out.canvas)[None]  # type: ignore[operator]


def cover(rows_BGH: Tensor, columns_BGW: Tensor) -> Tensor:
    """(B, H, W): the places in some box, where boxes are rows times columns."""
    return rows_BGH.float().transpose(1, 2) @ columns_BGW.float() > 0


def inside_boxes(known: Annotated, size: tuple[int, int], stride: int) -> Tensor:
    """(B, H, W): the places (column, row) * stride that lie strictly inside an annotated box."""
    x1, y1, x2, y2 = (side[..., None] for side in known.boxes_BG4.unbind(-1))
    y_H, x_W = (torch.arange(count, device=x1.device) * stride for count in size)
    return cover((y_H > y1) & (y_H < y2) & known.owner_BG[..., None], (x_W > x1) & (x_W < x2))


def levels_of_boxes(boxes_BG4: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(B, G): the index of the stride a box belongs to, 2^floor(log2(sqrt(area) / 14)), or the nearest there is."""
    wanted_BG = torch.floor(torch.log2(area(boxes_BG4).clamp(min=1e-6).sqrt() / CELLS_ACROSS) + 1e-6)
    reached = [(wanted_BG >= math.log2(stride)).long() for stride in strides]
    return (torch.stack(reached).sum(0) - 1).clamp(min=0)


def by_place(mask_BN: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W): whether one of a place's candidates is marked."""
    return mask_BN.unflatten(1, (*size, -1)).any(-1)


def spread(mask_BN: Tensor, out: Outputs, pairs: list[Pair]) -> list[Tensor]:
    """(B, H, W) of every chosen level, from marks on all candidates of the network."""
    assert out.logits is not None
    levels = mask_BN.split([level.shape[1] for level in out.logits], dim=1)
    return [by_place(levels[pair.level], pair.size) for pair in pairs]


def inside_candidates(detector: Detector, out: Outputs, sizes_B2: Tensor, multiple: int | None) -> Tensor:
    """(B, N): whether a candidate's place belongs to the image, rounded up to `multiple`; none: to the canvas."""
    assert out.logits is not None
    num_candidates = sum(level.shape[1] for level in out.logits)
    if multiple is None:
        return torch.ones(len(sizes_B2), num_candidates, dtype=torch.bool, device=sizes_B2.device)
    per_place = num_candidates // sum(height * width for height, width in map_sizes(out.canvas, detector.strides))
    return inside_own_size(sizes_B2, out.canvas, detector.strides, per_place, multiple)


def grow(boxes_N4: Tensor) -> Tensor:
    """A pixel wider and higher: sides that count their last pixel, x2 - x1 + 1 long."""
    return torch.cat((boxes_N4[..., :2], boxes_N4[..., 2:] + 1), dim=-1)


def near_best(anchors_1N4: Tensor, valid_BN: Tensor, boxes_BG4: Tensor, owner_BG: Tensor) -> Tensor:
    """(B, N): anchors that overlap a box by more than half of what its best anchor does."""
    iou_BGN = pairwise_iou(boxes_BG4, anchors_1N4)
    iou_BGN = torch.where(valid_BN[:, None] & owner_BG[..., None], iou_BGN, 0.0)
    return (iou_BGN > ENOUGH * iou_BGN.amax(2, keepdim=True)).any(1)


def mean_square(pair: Pair, mask_BHW: Tensor, mean: Mean) -> Tensor:
    """Mean of the squared difference over the marked places of the global batch and the channels; 0 where none is."""
    squares_BHW = (pair.student_BCHW - pair.teacher_BCHW).square().mean(1)
    return torch.where(mask_BHW, squares_BHW, 0.0).sum() / or_one(mean(mask_BHW.sum().float()))


def cosine(pairs: list[Pair], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(sum, count) over images of the cosine of the two networks' features at the marked places of all levels."""
    parts = []
    for pair, mask_BHW in zip(pairs, masks, strict=True):
        a, b = (torch.where(mask_BHW[:, None], each.detach(), 0.0) for each in (pair.student_BCHW, pair.teacher_BCHW))
        parts.append(torch.stack([each.sum((1, 2, 3)) for each in (a * b, a.square(), b.square())]))
    product_B, one_B, other_B = torch.stack(parts).sum(0).unbind()
    norm_B = (one_B * other_B).sqrt()
    return (product_B / or_one(norm_B)).sum(), (norm_B > 0).sum().float()


def images_of(pairs: list[Pair], sizes_B2: Tensor, padding_counts: bool) -> list[Tensor]:
    """(B, H, W) of every level: the places that are no padding; with padding_counts all, as the originals have it."""
    if padding_counts:
        return [torch.ones_like(pair.student_BCHW[:, 0], dtype=torch.bool) for pair in pairs]
    return [inside(cells(sizes_B2, pair.stride), pair.size) for pair in pairs]
