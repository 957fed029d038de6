"""Where dense heads predict: points and unrounded anchors of a canvas, level by level. Order: row, column, shape."""

import torch
from torch import Tensor


def map_sizes(canvas: tuple[int, int], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Height and width of every level's map: every stride of 2 rounds up."""
    return tuple((-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides)


def make_cells(
    strides: tuple[int, ...], base: float, scales_per_octave: int, ratios: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """Anchors (S, 4) around 0 of every level: sides stride * base * 2^(i / scales_per_octave), ratio by ratio.

    A ratio is height / width, and changes no area. mmdetection's order of multiplications, so that the last bit is the
    same: low-quality matching compares overlaps for equality.
    """
    root_R = torch.tensor(ratios).sqrt()
    scales_S = torch.tensor([base * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)])
    cells = []
    for stride in strides:
        widths = (stride * (1 / root_R)[:, None] * scales_S).flatten()
        heights = (stride * root_R[:, None] * scales_S).flatten()
        cells.append(torch.stack((-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights), dim=1))
    return tuple(cells)


def make_points(
    canvas: tuple[int, int],
    strides: tuple[int, ...],
    offset: float,
    device: torch.device,
    whole_steps: bool = False,
) -> tuple[Tensor, ...]:
    """(h * w, 2) x and y of every level's locations, ((column + offset) * stride, (row + offset) * stride).

    whole_steps: canvas // map in place of the stride, as torchvision has it; 60 for 64 where a canvas is 608 high.
    """
    levels = []
    for (height, width), stride in zip(map_sizes(canvas, strides), strides, strict=True):
        down, right = (canvas[0] // height, canvas[1] // width) if whole_steps else (stride, stride)
        rows_H = (torch.arange(height, device=device, dtype=torch.float32) + offset) * down
        columns_W = (torch.arange(width, device=device, dtype=torch.float32) + offset) * right
        y_HW, x_HW = torch.meshgrid(rows_H, columns_W, indexing="ij")
        levels.append(torch.stack((x_HW, y_HW), dim=-1).reshape(-1, 2))
    return tuple(levels)


def make_dense_anchors(
    cells: tuple[Tensor, ...], canvas: tuple[int, int], strides: tuple[int, ...], whole_steps: bool = False
) -> Tensor:
    """All anchors (N, 4): those of location (column, row) are centred on (column * stride, row * stride)."""
    points = make_points(canvas, strides, 0.0, cells[0].device, whole_steps)
    return torch.cat(
        [
            (points_N2.repeat(1, 2)[:, None] + cells_S4).reshape(-1, 4)
            for points_N2, cells_S4 in zip(points, cells, strict=True)
        ]
    )


def inside_own_size(
    sizes_B2: Tensor, canvas: tuple[int, int], strides: tuple[int, ...], per_location: int, multiple: int = 32
) -> Tensor:
    """(B, N): whether the cell of a candidate lies within its image's own size, rounded up to `multiple`.

    mmdetection calls the others invalid: each cell counts whose index is below ceil(rounded size / stride).
    """
    padded_B2 = (sizes_B2 + multiple - 1).div(multiple, rounding_mode="floor") * multiple
    levels = []
    for (height, width), stride in zip(map_sizes(canvas, strides), strides, strict=True):
        cells_B2 = (padded_B2 + stride - 1).div(stride, rounding_mode="floor")
        rows_BH = torch.arange(height, device=sizes_B2.device) < cells_B2[:, :1]
        columns_BW = torch.arange(width, device=sizes_B2.device) < cells_B2[:, 1:]
        inside_BHW = rows_BH[:, :, None] & columns_BW[:, None]
        levels.append(inside_BHW.flatten(1).repeat_interleave(per_location, dim=1))
    return torch.cat(levels, dim=1)
