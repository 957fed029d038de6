"""RoIAlign over a pyramid with fixed shapes."""

import torch
import torchvision.ops  # noqa: F401  (registers torch.ops.torchvision.roi_align)
from torch import Tensor

import kernels.detection.roi_align  # noqa: F401  (registers torch.ops.fairweather.roi_align_levels)
from model.boxes.boxes import area

SAMPLING_RATIO = 2  # per side of a bin, as torchvision's detectors
ADAPTIVE = 0  # as many samples as the bin has pixels, rounded up
# A region far outside its map: RoIAlign answers zero for it and touches no memory, forward or backward.
NOWHERE = -1e6


def map_levels(boxes_BR4: Tensor, finest: int, coarsest: int, canonical_scale: int) -> Tensor:
    """Index (B, R) of the level of each box: floor(4 + log2(sqrt(area) / canonical_scale)), Lin et al. 2017, eq. 1."""
    level = torch.floor(4 + torch.log2(torch.sqrt(area(boxes_BR4)) / canonical_scale) + 1e-6)
    return (level.clamp(min=finest, max=coarsest) - finest).to(torch.int64)


def roi_align(feature_BCHW: Tensor, boxes_BR4: Tensor, scale: float, output_size: int) -> Tensor:
    """Crops (B * R, C, S, S) of one map at boxes in view pixels; scale = map / view (torchvision, aligned=False)."""
    level_BR = torch.zeros(boxes_BR4.shape[:2], dtype=torch.int64, device=boxes_BR4.device)
    return _crop((feature_BCHW,), boxes_BR4, level_BR, [scale], output_size)


def roi_align_levels(
    features: tuple[Tensor, ...],
    boxes_BR4: Tensor,
    level_BR: Tensor,
    scales: list[float],
    output_size: int = 7,
    aligned: bool = False,
) -> Tensor:
    """Crops (B * R, C, S, S), each from its own level; scales = map / view of each level.

    aligned: pixel i covers i to i + 1 of the map, and a bin has as many samples as pixels, as mmdetection's detectors.
    Otherwise its centre is at i, and a bin has two samples a side, as torchvision's.
    """
    return _crop(features, boxes_BR4, level_BR, scales, output_size, aligned)


def _crop(
    features: tuple[Tensor, ...],
    boxes_BR4: Tensor,
    level_BR: Tensor,
    scales: list[float],
    output_size: int,
    aligned: bool = False,
) -> Tensor:
    """torchvision picks the boxes of a level with nonzero(), whose size depends on the data; our operator reads each
    box's own level. An exported program knows torchvision's operator alone: every level crops all boxes. Boxes of other
    levels are moved out of the map, where the crop is exactly zero. The sum over levels is the crop.
    """
    num_images, num_regions = boxes_BR4.shape[:2]
    image_BR = torch.arange(num_images, device=boxes_BR4.device)[:, None].expand(-1, num_regions)
    samples = ADAPTIVE if aligned else SAMPLING_RATIO
    if not torch.compiler.is_exporting():
        return torch.ops.fairweather.roi_align_levels(
            list(features),
            boxes_BR4.flatten(0, 1),
            image_BR.flatten(),
            level_BR.flatten(),
            scales,
            output_size,
            samples,
            aligned,
        ).to(features[0].dtype)
    total = None
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        here_BR4 = boxes_BR4 if len(features) == 1 else torch.where((level_BR == level)[..., None], boxes_BR4, NOWHERE)
        # The operator needs one type for both; coordinates need float32, so under bfloat16 the map is widened.
        rois_N5 = torch.cat((image_BR[..., None].to(torch.float32), here_BR4.float()), dim=2).flatten(0, 1)
        crops = torch.ops.torchvision.roi_align(
            feature.float(), rois_N5, scale, output_size, output_size, samples, aligned
        )
        total = crops if total is None else total + crops
    assert total is not None
    return total.to(features[0].dtype)
