"""Whether a detection is found again in the mirrored and in the smaller image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.detecting.detect import Detect, Pass, detect_dataset
from eval.metrics.interchange import Detections
from eval.metrics.matching import box_overlap
from model.api import Detections as Found

Kind = Literal["flip", "scale"]
SMALLER = 0.75
SCORE_SHARE = 0.5  # of a detection's score that the one in the other view has at least


def mirrored(detect: Detect) -> Detect:
    """Detections in the mirrored images, put back."""

    def look(images_B3HW: Tensor, sizes_B2: Tensor) -> Found:
        width_B1 = sizes_B2[:, 1:].to(images_B3HW.device)
        column_1W = torch.arange(images_B3HW.shape[3], device=images_B3HW.device)[None]
        from_BW = torch.where(column_1W < width_B1, width_B1 - 1 - column_1W, column_1W).long()
        found = detect(images_B3HW.gather(3, from_BW[:, None, None].expand_as(images_B3HW)), sizes_B2)
        x1, y1, x2, y2 = found.boxes_BD4.unbind(-1)
        there_BD = torch.arange(x1.shape[1], device=x1.device) < found.count_B[:, None]
        boxes_BD4 = torch.stack((width_B1 - x2, y1, width_B1 - x1, y2), dim=-1)
        return found._replace(boxes_BD4=torch.where(there_BD[..., None], boxes_BD4, 0.0))

    return look


@lru_cache(maxsize=16)
def factors(values: tuple[float, ...], device: torch.device) -> Tensor:
    """On the device; copied once a canvas, because the host waits for such a copy."""
    return torch.tensor(values, device=device)


def smaller(detect: Detect) -> Detect:
    """Detections in images of three quarters the size in the same canvas, put back."""

    def look(images_B3HW: Tensor, sizes_B2: Tensor) -> Found:
        height, width = images_B3HW.shape[2:]
        size = (max(round(height * SMALLER), 1), max(round(width * SMALLER), 1))
        small = F.interpolate(images_B3HW.float(), size, mode="bilinear", antialias=True).to(images_B3HW.dtype)
        small = F.pad(small, (0, width - size[1], 0, height - size[0])).contiguous(memory_format=torch.channels_last)
        factor_2 = factors((size[0] / height, size[1] / width), sizes_B2.device)
        small_B2 = (sizes_B2 * factor_2).round().to(sizes_B2.dtype)
        small_B2 = torch.where(sizes_B2 > 0, small_B2.clamp(min=1), 0)
        found = detect(small, small_B2)
        x_y = (size[1] / width, size[0] / height)
        return found._replace(boxes_BD4=found.boxes_BD4 / factors(x_y * 2, found.boxes_BD4.device))

    return look


VIEWS: dict[Kind, Callable[[Detect], Detect]] = {"flip": mirrored, "scale": smaller}


def agreed(how: Pass, rows: np.ndarray, found: Detections, kinds: Sequence[Kind], overlap: float) -> np.ndarray:
    """agreed_D bool: every view has a detection of this class there, with at least half the score."""
    agreed_D = np.ones(len(found), bool)
    for kind in kinds:
        again = detect_dataset(replace(how, detect=VIEWS[kind](how.detect or how.detector.detect)), rows=rows)
        agreed_D &= found_again(found, again.detections, overlap)
    return agreed_D


def found_again(found: Detections, again: Detections, overlap: float) -> np.ndarray:
    """again is sorted by image, as a pass leaves it."""
    result_D = np.zeros(len(found), bool)
    first_D = np.searchsorted(again.image_ids_D, found.image_ids_D)
    after_D = np.searchsorted(again.image_ids_D, found.image_ids_D, side="right")
    for d in range(len(found)):
        for other in range(first_D[d], after_D[d]):
            alike = again.labels_D[other] == found.labels_D[d]
            if alike and again.scores_D[other] >= SCORE_SHARE * found.scores_D[d]:
                result_D[d] |= box_overlap(found.boxes_D4[d], again.boxes_D4[other], 0.0, False) >= overlap
    return result_D
