"""Arithmetic on boxes (xyxy, pixels), batched and branch-free; the formulas are torchvision's BoxCoder and ops.boxes.

Every function works in float32, also under autocast: a coordinate near 1000 in bfloat16 is off by up to 4 pixels.
"""

import math

import torch
from torch import Tensor

# exp() of a size delta stays below 1000 / 16 (torchvision's bbox_xform_clip).
MAX_SIZE_DELTA = math.log(1000.0 / 16)


def encode(target_N4: Tensor, reference_N4: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (wx (cx' - cx) / w, wy (cy' - cy) / h, ww log(w' / w), wh log(h' / h)) that lead from reference to target.

    Leading dimensions broadcast. Both boxes need an area; mask the result where one has none.
    """
    wx, wy, ww, wh = weights
    x1, y1, x2, y2 = reference_N4.unbind(-1)
    target_x1, target_y1, target_x2, target_y2 = target_N4.unbind(-1)
    width, height = x2 - x1, y2 - y1
    target_width, target_height = target_x2 - target_x1, target_y2 - target_y1
    return torch.stack(
        (
            wx * (target_x1 + 0.5 * target_width - (x1 + 0.5 * width)) / width,
            wy * (target_y1 + 0.5 * target_height - (y1 + 0.5 * height)) / height,
            ww * torch.log(target_width / width),
            wh * torch.log(target_height / height),
        ),
        dim=-1,
    )


def decode(deltas_N4: Tensor, reference_N4: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """The boxes that `encode` would turn into these deltas. Leading dimensions broadcast."""
    wx, wy, ww, wh = weights
    x1, y1, x2, y2 = reference_N4.unbind(-1)
    dx, dy, dw, dh = deltas_N4.unbind(-1)
    width, height = x2 - x1, y2 - y1
    center_x = dx / wx * width + (x1 + 0.5 * width)
    center_y = dy / wy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (torch.exp((dw / ww).clamp(max=MAX_SIZE_DELTA)) * width)
    half_height = 0.5 * (torch.exp((dh / wh).clamp(max=MAX_SIZE_DELTA)) * height)
    return torch.stack(
        (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height), dim=-1
    )


def clip(boxes_BN4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Clip to each image's own size (h, w), not to the canvas."""
    width_height_B2 = sizes_B2.flip(-1).to(boxes_BN4.dtype)
    limit_B14 = torch.cat((width_height_B2, width_height_B2), dim=-1)[:, None]
    return torch.minimum(boxes_BN4.clamp(min=0), limit_B14)


def has_sides(boxes_N4: Tensor, minimum: float) -> Tensor:
    """Both sides are at least `minimum` long."""
    x1, y1, x2, y2 = boxes_N4.unbind(-1)
    return (x2 - x1 >= minimum) & (y2 - y1 >= minimum)


def area(boxes_N4: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes_N4.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def intersection(boxes_BG4: Tensor, others_BN4: Tensor) -> Tensor:
    """Areas of the pairwise intersections (B, G, N). `others` may have a leading 1. Not differentiable: in place."""
    ax1, ay1, ax2, ay2 = boxes_BG4[:, :, None].unbind(-1)
    bx1, by1, bx2, by2 = (coordinate.contiguous() for coordinate in others_BN4[:, None].unbind(-1))
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)
