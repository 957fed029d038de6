"""Anchors of a canvas, in torchvision's order: level, row, column, shape."""

import torch
from torch import Tensor


def make_anchors(cells_LS4: Tensor, canvas: tuple[int, int], map_sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """All anchors (A, 4) of a canvas.

    cells_LS4 holds torchvision's zero-centred cell anchors of each level. The stride is canvas // map, as torchvision
    computes it: 60 and not 64 for the pooled level of a canvas 608 high.
    """
    levels = []
    for cells_S4, (height, width) in zip(cells_LS4, map_sizes, strict=True):
        rows_H = torch.arange(height, device=cells_S4.device, dtype=torch.float32) * (canvas[0] // height)
        columns_W = torch.arange(width, device=cells_S4.device, dtype=torch.float32) * (canvas[1] // width)
        y_HW, x_HW = torch.meshgrid(rows_H, columns_W, indexing="ij")
        shifts_HW14 = torch.stack((x_HW, y_HW, x_HW, y_HW), dim=-1)[:, :, None]
        levels.append((shifts_HW14 + cells_S4).reshape(-1, 4))
    return torch.cat(levels)
