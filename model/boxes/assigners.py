"""Which location of a dense head is responsible for which box: masks over all N candidates, with fixed shapes.

The rules of mmdetection's MaxIoUAssigner (RetinaNet), ATSSAssigner (Zhang et al. 2020; ATSS, GFL) and FCOS (Tian et
al. 2019). States: 1 foreground, 0 background, -1 left out. Candidates may have a leading 1; boxes are padded to G and
only those in owner_BG own candidates. float32 throughout: low-quality matching compares overlaps for equality.

Background on an ignored box is left out: more than `ignore_overlap` of a candidate lies on it. An anchor is large and
hardly ever lies on a small box, so each rule says what else is left out. The original (`faithful`) leaves out no other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.boxes.boxes import area, intersection
from model.boxes.codes import encode_distances
from model.boxes.losses import EPSILON

FAR = 1e8  # a distance no location has
INSIDE = 0.01  # pixels that the centre of an ATSS anchor must be inside its box


def pairwise_iou(boxes_BG4: Tensor, candidates_BN4: Tensor) -> Tensor:
    """(B, G, N), the union at least 1e-6."""
    inter_BGN = intersection(boxes_BG4, candidates_BN4)
    union_BGN = (area(boxes_BG4)[:, :, None] + area(candidates_BN4)[:, None]).sub_(inter_BGN)
    return inter_BGN.div_(union_BGN.clamp_(min=EPSILON))


def covered_share(boxes_BG4: Tensor, candidates_BN4: Tensor) -> Tensor:
    """(B, G, N): the share of a candidate's own area that a box covers."""
    return intersection(boxes_BG4, candidates_BN4).div_(area(candidates_BN4)[:, None].clamp(min=EPSILON))


def measure_overlaps(
    boxes_BG4: Tensor, ignored_BG: Tensor, candidates_BN4: Tensor, ignore_overlap: float
) -> tuple[Tensor, Tensor]:
    """(pairwise_iou, (B, N): more than `ignore_overlap` of a candidate's area lies on one ignored box)."""
    inter_BGN = intersection(boxes_BG4, candidates_BN4)
    area_BN = area(candidates_BN4)
    share_BGN = inter_BGN / area_BN[:, None].clamp(min=EPSILON)
    on_ignored_BN = share_BGN.mul_(ignored_BG[:, :, None]).amax(1) > ignore_overlap
    union_BGN = (area(boxes_BG4)[:, :, None] + area_BN[:, None]).sub_(inter_BGN)
    return inter_BGN.div_(union_BGN.clamp_(min=EPSILON)), on_ignored_BN


@torch.no_grad()
def assign_max_iou(
    candidates_BN4: Tensor,
    valid_BN: Tensor,
    boxes_BG4: Tensor,
    owner_BG: Tensor,
    ignored_BG: Tensor,
    foreground_iou: float,
    background_iou: float,
    ignore_overlap: float,
    faithful: bool,
) -> tuple[Tensor, Tensor]:
    """(matched_BN, state_BN) by overlap: foreground from `foreground_iou` up, background below `background_iou`.

    Then low-quality matching: every candidate whose overlap equals the best of a box goes to that box, whatever it had;
    of several such boxes the last wins. A candidate that is not valid is left out, and so is background that an ignored
    box would own or overlaps as much as `background_iou`. `faithful` leaves candidates on an ignored box out even if a
    box would own them. There a box that overlaps no candidate at all takes every candidate off it.
    """
    iou_BGN, left_out_BN = measure_overlaps(boxes_BG4, ignored_BG, candidates_BN4, ignore_overlap)
    open_BN = valid_BN & ~left_out_BN if faithful else valid_BN
    iou_BGN = iou_BGN.masked_fill_(~open_BN[:, None], -1.0)
    best_BG = iou_BGN.amax(dim=2)
    wins_BG = best_BG >= 0 if faithful else best_BG > 0
    tied_BGN = (iou_BGN == best_BG[:, :, None]) & wins_BG[:, :, None]
    if not faithful:
        left_out_BN = left_out_BN | ((tied_BGN | (iou_BGN >= background_iou)) & ignored_BG[:, :, None]).any(dim=1)

    best_BN, matched_BN = iou_BGN.masked_fill_(~owner_BG[:, :, None], -1.0).max(dim=1)
    number_G = torch.arange(boxes_BG4.shape[1], device=boxes_BG4.device)
    low_quality_BN = torch.where(tied_BGN & owner_BG[:, :, None], number_G[:, None], -1).amax(dim=1)
    matched_BN = torch.where(low_quality_BN >= 0, low_quality_BN, matched_BN)
    owned_BN = (low_quality_BN >= 0) | (best_BN >= foreground_iou)
    state_BN = torch.where(owned_BN, 1, torch.where(left_out_BN | (best_BN >= background_iou), -1, 0))
    return matched_BN, torch.where(open_BN, state_BN, -1).to(torch.int8)


class Nearest(NamedTuple):
    """The candidates of each level that are nearest to a box, T of all levels together."""

    index_BGT: Tensor
    known_BGT: Tensor  # False: a level has fewer
    iou_BGT: Tensor
    threshold_BG: Tensor  # mean + standard deviation of their overlaps


def nearest_candidates(
    candidates_BN4: Tensor,
    level_counts: tuple[int, ...],
    valid_BN: Tensor,
    last_BN: Tensor | None,
    boxes_BG4: Tensor,
    iou_BGN: Tensor,
    num_nearest: int,
) -> Nearest:
    """ATSS's look at a box: the `num_nearest` candidates of each level whose centres are nearest to the box's.

    Candidates in last_BN come last; those that are not valid never.
    """
    centers_BN2 = (candidates_BN4[..., :2] + candidates_BN4[..., 2:]) / 2
    box_centers_BG2 = (boxes_BG4[..., :2] + boxes_BG4[..., 2:]) / 2
    distance_BGN = (centers_BN2[:, None] - box_centers_BG2[:, :, None]).pow_(2).sum(-1).sqrt_()
    if last_BN is not None:
        distance_BGN = distance_BGN.masked_fill_(last_BN[:, None], FAR)
    distance_BGN = distance_BGN.masked_fill_(~valid_BN[:, None], torch.inf)

    start, index, known = 0, [], []
    for count in level_counts:
        nearest = distance_BGN[:, :, start : start + count].topk(min(num_nearest, count), dim=2, largest=False)
        index.append(nearest.indices + start)
        known.append(nearest.values < torch.inf)
        start += count
    index_BGT, known_BGT = torch.cat(index, dim=2), torch.cat(known, dim=2)

    iou_BGT = iou_BGN.gather(2, index_BGT)
    counted_BG = known_BGT.sum(2)
    mean_BG = (iou_BGT * known_BGT).sum(2) / counted_BG.clamp(min=1)
    spread_BG = ((iou_BGT - mean_BG[..., None]).square() * known_BGT).sum(2) / (counted_BG - 1).clamp(min=1)
    return Nearest(index_BGT, known_BGT, iou_BGT, mean_BG + spread_BG.sqrt())


@torch.no_grad()
def assign_atss(
    candidates_BN4: Tensor,
    level_counts: tuple[int, ...],
    valid_BN: Tensor,
    boxes_BG4: Tensor,
    owner_BG: Tensor,
    ignored_BG: Tensor,
    num_nearest: int,
    ignore_overlap: float,
    faithful: bool,
) -> tuple[Tensor, Tensor]:
    """(matched_BN, state_BN) by adaptive selection.

    The `num_nearest` candidates of each level whose centres are nearest to a box's are looked at. Foreground are those
    whose overlap reaches mean + standard deviation of the overlaps looked at, with the centre inside the box. One that
    several boxes want goes to the one it overlaps most. Those that are not valid are never looked at. Background with
    its centre inside an ignored box is left out: such a region may hold several objects. `faithful` looks at candidates
    on an ignored box last; one that is chosen all the same is foreground.
    """
    iou_BGN, left_out_BN = measure_overlaps(boxes_BG4, ignored_BG, candidates_BN4, ignore_overlap)
    last_BN = left_out_BN if faithful else None
    near = nearest_candidates(candidates_BN4, level_counts, valid_BN, last_BN, boxes_BG4, iou_BGN, num_nearest)
    chosen_BGT = near.known_BGT & (near.iou_BGT >= near.threshold_BG[..., None])
    chosen_BGN = torch.zeros_like(iou_BGN, dtype=torch.bool).scatter_(2, near.index_BGT, chosen_BGT)
    centers_BN2 = (candidates_BN4[..., :2] + candidates_BN4[..., 2:]) / 2
    inside_BGN = encode_distances(boxes_BG4[:, :, None], centers_BN2[:, None]).amin(-1) > INSIDE
    chosen_BGN &= inside_BGN
    if not faithful:
        left_out_BN = left_out_BN | (inside_BGN & ignored_BG[..., None]).any(dim=1)

    best_BN, matched_BN = torch.where(chosen_BGN & owner_BG[..., None], iou_BGN, -torch.inf).max(dim=1)
    state_BN = torch.where(best_BN > -torch.inf, 1, torch.where(valid_BN & ~left_out_BN, 0, -1))
    return matched_BN, state_BN.to(torch.int8)


@torch.no_grad()
def assign_points(
    points_N2: Tensor,
    reach_N2: Tensor,
    boxes_BG4: Tensor,
    owner_BG: Tensor,
    ignored_BG: Tensor,
) -> tuple[Tensor, Tensor]:
    """(matched_BN, state_BN): a point belongs to the smallest box that it lies inside and that its level sees.

    A level sees a box from a point if the farthest side is between the two numbers of reach_N2, both included. A point
    inside an ignored box that belongs to no other is left out.
    """
    distances_BGN4 = encode_distances(boxes_BG4[:, :, None], points_N2[None, None])
    inside_BGN = distances_BGN4.amin(-1) > 0
    farthest_BGN = distances_BGN4.amax(-1)
    seen_BGN = (farthest_BGN >= reach_N2[:, 0]) & (farthest_BGN <= reach_N2[:, 1])
    mine_BGN = inside_BGN & seen_BGN & owner_BG[:, :, None]
    smallest_BN, matched_BN = torch.where(mine_BGN, area(boxes_BG4)[:, :, None], FAR).min(dim=1)
    on_ignored_BN = (inside_BGN & ignored_BG[:, :, None]).any(dim=1)
    state_BN = torch.where(smallest_BN < FAR, 1, torch.where(on_ignored_BN, -1, 0))
    return matched_BN, state_BN.to(torch.int8)
