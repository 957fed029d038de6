"""Anchors of a canvas, in torchvision's order: level, row, column, shape."""

import torch
from torch import Tensor


def exact_cells(sizes: tuple[tuple[int, ...], ...], ratios: tuple[float, ...]) -> Tensor:
    """Anchors (L, S, 4) around 0, unrounded, in torchvision's order: ratio, size. A ratio is height / width."""
    root_R = torch.tensor(ratios).sqrt()
    levels = []
    for level in sizes:
        sides_S = torch.tensor(level, dtype=torch.float32)
        widths, heights = ((1 / root_R)[:, None] * sides_S).flatten(), (root_R[:, None] * sides_S).flatten()
        levels.append(torch.stack((-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights), dim=1))
    return torch.stack(levels)


def make_anchors(
    cells_LS4: Tensor,
    canvas: tuple[int, int],
    map_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """All anchors (A, 4) of a canvas.

    cells_LS4 holds zero-centred cell anchors of each level. Without `strides` the stride is canvas // map, as
    torchvision computes it: 60 and not 64 for the pooled level of a canvas 608 high.
    """
    levels = []
    for level, (cells_S4, (height, width)) in enumerate(zip(cells_LS4, map_sizes, strict=True)):
        down, right = (canvas[0] // height, canvas[1] // width) if strides is None else (strides[level],) * 2
        rows_H = torch.arange(height, device=cells_S4.device, dtype=torch.float32) * down
        columns_W = torch.arange(width, device=cells_S4.device, dtype=torch.float32) * right
        y_HW, x_HW = torch.meshgrid(rows_H, columns_W, indexing="ij")
        shifts_HW14 = torch.stack((x_HW, y_HW, x_HW, y_HW), dim=-1)[:, :, None]
        levels.append((shifts_HW14 + cells_S4).reshape(-1, 4))
    return torch.cat(levels)
