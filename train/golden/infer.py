"""Detections from given raw predictions of dense heads."""

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.api import Detections
from train.golden.cases import EXACT, PIXELS, SCORE, Case, Check
from train.golden.heads import build_head, read_raw, read_sizes


def pair_up(got_N4: Tensor, scores_N: Tensor, expected_M4: Tensor, expected_M: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of pairs, each box once, with the smallest sum of distances; a score tells equal boxes apart."""
    distance_NM = (got_N4[:, None] - expected_M4).abs().amax(-1) + 100 * (scores_N[:, None] - expected_M).abs()
    rows, columns = linear_sum_assignment(distance_NM.numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)


def compare_detections(quantity: str, case: Case, prefix: str, image: int, got: tuple[Tensor, ...]) -> Iterator[Check]:
    """As sets, label by label: two scores may be so near that their order is rounding."""
    boxes_N4, scores_N, labels_N = got
    expected_M4, expected_M, wanted_M = (case[f"{prefix}.{name}.{image}"] for name in ("boxes", "scores", "labels"))
    yield Check(f"{quantity}.count", torch.tensor(len(labels_N)), torch.tensor(len(wanted_M)), EXACT)
    for label in sorted({*labels_N.tolist(), *wanted_M.tolist()}):
        mine, theirs = labels_N == label, wanted_M == label
        yield Check(f"{quantity}.labels", mine.sum(), theirs.sum(), EXACT)
        rows, columns = pair_up(boxes_N4[mine], scores_N[mine], expected_M4[theirs], expected_M[theirs])
        yield Check(f"{quantity}.boxes", boxes_N4[mine][rows], expected_M4[theirs][columns], PIXELS)
        yield Check(f"{quantity}.scores", scores_N[mine][rows], expected_M[theirs][columns], SCORE)


def real_detections(found: Detections, image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels without empty slots; labels as the original counts them."""
    count = int(found.count_B[image])
    return found.boxes_BD4[image, :count], found.scores_BD[image, :count], found.labels_BD[image, :count] - 1


def run_infer(case: Case) -> Iterator[Check]:
    facts = case.facts["config"]
    head, canvas, sizes_B2 = build_head(facts), tuple(facts["canvas"]), read_sizes(case)
    raw = read_raw(case, head, "in")
    found = head.find(raw, canvas, sizes_B2)
    detections = head.detect(raw, canvas, sizes_B2)
    for image, meta in enumerate(case.facts["img_metas"]):
        if f"pre_nms.boxes.{image}" in case:
            real_N = found.scores_BN[image] > -torch.inf
            got = (found.boxes_BN4[image][real_N], found.scores_BN[image][real_N], found.labels_BN[image][real_N] - 1)
            yield from compare_detections("candidates", case, "pre_nms", image, got)
        boxes_N4, scores_N, labels_N = real_detections(detections, image)
        yield from compare_detections("detections", case, "det", image, (boxes_N4, scores_N, labels_N))
        if f"det_rescaled.boxes.{image}" in case:
            # Stretching an axis changes no overlap, so ours are scaled afterwards.
            scaled_N4 = boxes_N4 / torch.tensor(meta["scale_factor"]).repeat(2)
            yield from compare_detections("rescaled", case, "det_rescaled", image, (scaled_N4, scores_N, labels_N))
