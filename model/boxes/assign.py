"""Which candidate (anchor or proposal) is responsible for which annotated box, and which candidates are trained on.

torchvision's Matcher and BalancedPositiveNegativeSampler with fixed shapes: G padded boxes per image, N candidates,
a fixed number of sampled slots. States: 1 foreground, 0 background, -1 not to be sampled.
"""

import torch
from torch import Tensor

from model.boxes.boxes import area, intersection

# Sampling draws of the two stages must not be the same numbers.
RPN_STREAM, ROI_STREAM = 0x51ED2701, 0x2C1B3C6D


def real_boxes(boxes_BG4: Tensor, labels_BG: Tensor) -> Tensor:
    """Not padding, and with an area: a box without one has no overlap with anything and no logarithm of its size."""
    x1, y1, x2, y2 = boxes_BG4.unbind(-1)
    return (labels_BG > 0) & (x2 > x1) & (y2 > y1)


@torch.no_grad()
def assign(
    candidates_BN4: Tensor,
    boxes_BG4: Tensor,
    owner_BG: Tensor,
    ignored_BG: Tensor,
    foreground_iou: float,
    background_iou: float,
    keep_best: bool,
    ignore_overlap: float,
) -> tuple[Tensor, Tensor]:
    """(matched_BN int64 index of a box, state_BN int8) of every candidate; candidates may have a leading 1 (anchors).

    A candidate's box is the one it overlaps most (first of equals). State 1 from `foreground_iou` up, 0 below
    `background_iou`, -1 between. `keep_best`: the candidates with the highest overlap of a box, ties included, are
    foreground at any overlap (Ren et al. 2015, 3.1.2). Only the boxes in owner_BG own candidates. A background
    candidate becomes -1 if more than `ignore_overlap` of its own area lies on a box of ignored_BG. It also does if it
    would not be background were that box not ignored.
    """
    area_BN = area(candidates_BN4)
    inter_BGN = intersection(boxes_BG4, candidates_BN4)
    left_out_BN = (inter_BGN * ignored_BG[:, :, None]).amax(1) > ignore_overlap * area_BN
    union_BGN = (area(boxes_BG4)[:, :, None] + area_BN[:, None]).sub_(inter_BGN)
    iou_BGN = inter_BGN.div_(union_BGN).masked_fill_(~(owner_BG | ignored_BG)[:, :, None], -1.0)
    best_BG = iou_BGN.amax(dim=2)
    wanted_BGN = iou_BGN >= background_iou
    if keep_best:
        wanted_BGN |= (iou_BGN == best_BG[:, :, None]) & (best_BG > 0)[:, :, None]
    left_out_BN |= (wanted_BGN & ignored_BG[:, :, None]).any(dim=1)

    iou_BGN = iou_BGN.masked_fill_(~owner_BG[:, :, None], -1.0)
    best_BN, matched_BN = iou_BGN.max(dim=1)
    state_BN = torch.where(best_BN >= foreground_iou, 1, torch.where(best_BN >= background_iou, -1, 0))
    if keep_best:
        best_BG = best_BG.masked_fill(~owner_BG, 2.0)  # 2: equal to no overlap
        state_BN = torch.where((iou_BGN == best_BG[:, :, None]).any(dim=1), 1, state_BN)
    state_BN = torch.where((state_BN == 0) & left_out_BN, -1, state_BN)
    return matched_BN, state_BN.to(torch.int8)


def _mix(x: Tensor) -> Tensor:
    """lowbias32 (Chris Wellons), a bijection of 32-bit integers, held in int64.

    The second factor is 0x846CA68B - 2^32: the same low 32 bits, and no product leaves int64.
    """
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * -0x7B935975) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _stored(x: Tensor) -> Tensor:
    """x. Inductor writes an expression out at each of its uses, so a chain of mixes grows eightfold with each.

    It does not look through a strided view: what stands before one is computed once.
    """
    return x.as_strided(x.shape, x.stride())


def draw_order(keys_B: Tensor, num_candidates: int, stream: int) -> Tensor:
    """A number in [0, 2^32) for every candidate of every image: distinct within an image, a pure function of the key.

    Being integers without ties, they rank candidates in the same order on every device, rank and resumption.
    """
    low_B, high_B = keys_B & 0xFFFFFFFF, (keys_B >> 32) & 0xFFFFFFFF
    key_B = _stored(_mix(_stored(_mix(low_B ^ stream)) ^ high_B))
    index_N = torch.arange(num_candidates, device=keys_B.device)
    return _mix(_stored(_mix((index_N + key_B[:, None]) & 0xFFFFFFFF)) ^ low_B[:, None])


@torch.no_grad()
def draw_samples(
    state_BN: Tensor, num_samples: int, positive_fraction: float, keys_B: Tensor, stream: int
) -> tuple[Tensor, Tensor]:
    """Slots (B, S) of sampled candidates and how each counts: 1 foreground, 0 background, -1 an empty slot.

    At most int(S * positive_fraction) foreground candidates, drawn evenly, then background ones up to S. The foreground
    comes first, so it lies within the first int(S * positive_fraction) slots.
    """
    num_candidates = state_BN.shape[1]
    num_positive = min(int(num_samples * positive_fraction), num_candidates)
    num_samples = min(num_samples, num_candidates)
    order_BN = draw_order(keys_B, num_candidates, stream)
    positive_BN = torch.where(state_BN == 1, order_BN, -1)
    cutoff_B1 = positive_BN.topk(num_positive, dim=1).values[:, -1:]
    chosen_BN = (positive_BN >= cutoff_B1) & (state_BN == 1)
    rank_BN = torch.where(chosen_BN, order_BN + (1 << 32), torch.where(state_BN == 0, order_BN, -1))
    value_BS, index_BS = rank_BN.topk(num_samples, dim=1)
    kind_BS = torch.where(value_BS >= 1 << 32, 1, torch.where(value_BS >= 0, 0, -1))
    return index_BS, kind_BS
