"""Mean and variance of each channel of maps, over the places of all images of the global batch.

All maps are taken together: two sums over ranks, however many levels and towers there are. The gradient passes both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.api import Mean
from train.distributed import num_ranks

LEAST_DEVIATION = 1e-6  # of a channel that varies, for a mean of up to 1


class Moments(NamedTuple):
    """Of one map. Variances are unbiased, and 0 where there is one place or none."""

    mean_C: Tensor
    variance_C: Tensor
    centred_BCHW: Tensor  # the map without its mean, 0 outside the images
    num_places: Tensor  # inside the images; their mean over ranks


def moments(maps: list[Tensor], insides: list[Tensor], mean: Mean) -> list[Moments]:
    """maps: (B, C, H, W) of any sizes and widths, float32; insides: (B, H, W), the places that count."""
    one = 1 / num_ranks()  # a place, where counts are means over ranks
    outsides = [~inside_BHW[:, None] for inside_BHW in insides]
    widths = [map_BCHW.shape[1] for map_BCHW in maps]
    sums = [map_BCHW.masked_fill(outside, 0.0).sum((0, 2, 3)) for map_BCHW, outside in zip(maps, outsides, strict=True)]
    counts = torch.stack([inside_BHW.sum() for inside_BHW in insides]).float()
    *sums, counts = mean(torch.cat((*sums, counts))).split([*widths, len(maps)])
    means = [sum_C / count.clamp(min=one) for sum_C, count in zip(sums, counts, strict=True)]
    centred = [
        (map_BCHW - mean_C[:, None, None]).masked_fill(outside, 0.0)
        for map_BCHW, mean_C, outside in zip(maps, means, outsides, strict=True)
    ]
    squares = mean(torch.cat([each.square().sum((0, 2, 3)) for each in centred])).split(widths)
    variances = [square_C / (count - one).clamp(min=one) for square_C, count in zip(squares, counts, strict=True)]
    return [Moments(*each) for each in zip(means, variances, centred, counts, strict=True)]


def varies(found: Moments) -> Tensor:
    """Which channels vary by more than the rounding of their mean, which a constant channel has too."""
    return found.variance_C > (LEAST_DEVIATION * found.mean_C.abs().clamp(min=1.0)).square()
