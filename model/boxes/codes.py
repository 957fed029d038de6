"""How dense heads write a box: deltas to an anchor, distances from a point, bins of distances. Pixels or strides."""

import torch
from torch import Tensor

from model.boxes.boxes import MAX_SIZE_DELTA, decode

REACH = 0.1  # a distance stays this far below the last bin


def decode_deltas(deltas_N4: Tensor, reference_N4: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """As boxes.decode, with size deltas bounded on both ends, |dw| <= log(1000 / 16), as mmdetection does."""
    dx, dy, dw, dh = deltas_N4.unbind(-1)
    low = -MAX_SIZE_DELTA
    bounded_N4 = torch.stack((dx, dy, dw.clamp(min=low * weights[2]), dh.clamp(min=low * weights[3])), dim=-1)
    return decode(bounded_N4, reference_N4, weights)


def encode_distances(boxes_N4: Tensor, points_N2: Tensor) -> Tensor:
    """Left, top, right, bottom: from a point to the four sides. Negative where the point lies outside."""
    return torch.cat((points_N2 - boxes_N4[..., :2], boxes_N4[..., 2:] - points_N2), dim=-1)


def decode_distances(distances_N4: Tensor, points_N2: Tensor) -> Tensor:
    """The box whose sides lie at these distances from the point."""
    return torch.cat((points_N2 - distances_N4[..., :2], points_N2 + distances_N4[..., 2:]), dim=-1)


def bound_distances(distances_N4: Tensor, last_bin: int) -> Tensor:
    """As far as bins 0..last_bin reach, so that there is always a bin on either side."""
    return distances_N4.clamp(min=0, max=last_bin - REACH)


def expected_distances(logits_N: Tensor, num_bins: int) -> Tensor:
    """(..., 4 * bins) -> (..., 4): sum of i * softmax_i over the bins i = 0, 1, ... of each side."""
    bins = torch.arange(num_bins, device=logits_N.device, dtype=logits_N.dtype)
    # Not a matrix product: autocast would take that in bfloat16.
    return (logits_N.unflatten(-1, (4, num_bins)).softmax(-1) * bins).sum(-1)


def centerness(distances_N4: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (Tian et al. 2019, FCOS); needs points inside their boxes."""
    left, top, right, bottom = distances_N4.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * along).sqrt()
