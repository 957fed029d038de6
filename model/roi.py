"""RoIAlign over a pyramid with fixed shapes."""

import math

import torch
import torchvision.ops  # noqa: F401  (registers torch.ops.torchvision.roi_align)
from torch import Tensor

from model.boxes import area

# A region far outside its map: RoIAlign answers zero for it and touches no memory, forward or backward.
NOWHERE = -1e6


def level_scale(canvas: tuple[int, int], feature_BCHW: Tensor) -> float:
    """Map over canvas as a power of two, as torchvision infers it."""
    return 2.0 ** round(math.log2(feature_BCHW.shape[-2] / canvas[0]))


def map_levels(boxes_BR4: Tensor, finest: int, coarsest: int, canonical_scale: int) -> Tensor:
    """Index (B, R) of the level of each box: floor(4 + log2(sqrt(area) / canonical_scale)), Lin et al. 2017, eq. 1."""
    level = torch.floor(4 + torch.log2(torch.sqrt(area(boxes_BR4)) / canonical_scale) + 1e-6)
    return (level.clamp(min=finest, max=coarsest) - finest).to(torch.int64)


def roi_align(
    feature_BCHW: Tensor, boxes_BR4: Tensor, scale: float, output_size: int, sampling_ratio: int = 2
) -> Tensor:
    """Crops (B * R, C, S, S) of one map at boxes in view pixels; scale = map / view (torchvision, aligned=False)."""
    num_images, num_regions = boxes_BR4.shape[:2]
    image_BR1 = torch.arange(num_images, device=boxes_BR4.device, dtype=torch.float32)[:, None, None]
    rois_N5 = torch.cat((image_BR1.expand(-1, num_regions, 1), boxes_BR4.float()), dim=2).flatten(0, 1)
    return torch.ops.torchvision.roi_align(
        feature_BCHW, rois_N5.to(feature_BCHW.dtype), scale, output_size, output_size, sampling_ratio, False
    )


def roi_align_levels(
    features: tuple[Tensor, ...], boxes_BR4: Tensor, canvas: tuple[int, int], canonical_scale: int, output_size: int = 7
) -> Tensor:
    """Crops (B * R, C, S, S), each from the level that its size asks for.

    torchvision picks the boxes of a level with nonzero(). Here every level is asked for all boxes, those of other
    levels moved out of the map, where the crop is exactly zero; the sum over levels is the wanted crop.
    """
    scales = [level_scale(canvas, feature) for feature in features]
    finest, coarsest = round(-math.log2(scales[0])), round(-math.log2(scales[-1]))
    level_BR = map_levels(boxes_BR4, finest, coarsest, canonical_scale)
    total = None
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        here_BR4 = torch.where((level_BR == level)[..., None], boxes_BR4, NOWHERE)
        crops = roi_align(feature, here_BR4, scale, output_size)
        total = crops if total is None else total + crops
    assert total is not None
    return total
