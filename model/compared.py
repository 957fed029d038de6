"""Whether an exported detector answers as the detector itself does."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

PIXELS, SCORES = 0.05, 1e-3  # what rounding may change; both are a hundred times what was measured
# What float16 may change of a detection, and how many must be so near: suppression lets a close second win.
NEAR_OVERLAP, NEAR_SCORE, NEAR_SHARE = 0.9, 0.02, 0.95
NOTHING = "neither of the two finds anything in the test pictures, so nothing was compared"


def pictures(num: int, canvas: tuple[int, int], num_channels: int = 3) -> tuple[Tensor, Tensor]:
    """Rectangles on noise: any detector sees something in them. Sizes differ, the first fills the canvas."""
    generator = np.random.default_rng(num)
    height, width = canvas
    images = generator.integers(0, 256, (num, num_channels, height, width), dtype=np.uint8)
    sizes = (generator.uniform(0.5, 1, (num, 2)) * canvas).astype(np.int64)
    sizes[0] = canvas
    for image in images:
        for _ in range(40):
            h, w = np.exp(generator.uniform(np.log(6), np.log(height), 2)).astype(int)
            y, x = generator.integers(0, height), generator.integers(0, width)
            image[:, y : y + h, x : x + w] = generator.integers(0, 256, (num_channels, 1, 1))
    return torch.from_numpy(images), torch.from_numpy(sizes)


def both_ways(
    found: Sequence[Tensor], wanted: Sequence[Tensor], least_score: float, margin: float
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor]]:
    """(detections of one program, of the other, which of the first count) of every image, then the other way round.

    Boxes, scores and labels each. Left out are scores that `margin` may move over the least score or, where every slot
    is taken, out of the last one.
    """
    num_slots = found[1].shape[1]
    for i, counts in enumerate(zip(found[3].tolist(), wanted[3].tolist(), strict=True)):
        pair = [[v[i, :count] for v in side[:3]] for side, count in zip((found, wanted), counts, strict=True)]
        full = [float(scores[-1]) for _, scores, _ in pair if len(scores) == num_slots]
        for side, other in (pair, pair[::-1]):
            yield side, other, side[1] >= max([least_score, *full]) + margin


def check_same(found: Sequence[Tensor], wanted: Sequence[Tensor], least_score: float, packages: str) -> str:
    """Require the same detections of two programs, one for one, in any order; returns what was compared, in words."""
    pixels, scores, num = 0.0, 0.0, 0
    for side, other, counted_N in both_ways(found, wanted, least_score, SCORES):
        for box, score, label in zip(*(values[counted_N] for values in side), strict=True):
            by_pixels, by_score = (other[0] - box).abs().amax(dim=1), (other[1] - score).abs()
            same = (other[2] == label) & (by_pixels <= PIXELS) & (by_score <= SCORES)
            if not same.any():
                raise ValueError(
                    f"the exported model answers otherwise than the detector, so it is not kept: the class "
                    f"{int(label)} at {[round(side, 1) for side in box.tolist()]}, score {score:.4f}, is found by "
                    f"one of the two only; give other versions of {packages}"
                )
            nearest = by_pixels.where(same, torch.inf).argmin()
            pixels, scores = max(pixels, float(by_pixels[nearest])), max(scores, float(by_score[nearest]))
            num += 1
    if num == 0:
        return NOTHING
    return f"{num // 2} detections are the same; boxes within {pixels:.1g} pixels, scores within {scores:.1g}"


def check_near(found: Sequence[Tensor], wanted: Sequence[Tensor], least_score: float) -> str:
    """Require nearly the same detections, as of float16; returns what was compared, in words.

    A detection is near to one of the same class, at least NEAR_OVERLAP of it in common, scores within NEAR_SCORE.
    """
    num = near = 0
    for side, other, counted_N in both_ways(found, wanted, least_score, NEAR_SCORE):
        same_NM = box_iou(side[0], other[0]) >= NEAR_OVERLAP
        same_NM &= (side[1][:, None] - other[1]).abs() <= NEAR_SCORE
        same_NM &= side[2][:, None] == other[2]
        num, near = num + int(counted_N.sum()), near + int((same_NM.any(1) & counted_N).sum())
    if num == 0:
        return NOTHING
    told = (
        f"{near} of {num} detections, counted in both, have one of overlap {NEAR_OVERLAP} and score within {NEAR_SCORE}"
    )
    if near < NEAR_SHARE * num:
        raise ValueError(
            f"float16 changes this detector too much, so the model is not kept: {told}, {NEAR_SHARE:.0%} must; leave "
            "--half out"
        )
    return told
