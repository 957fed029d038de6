"""Each image's own region of a map, resized or cropped with static shapes, the padding left out.

Resizing and RoIAlign are separable, so each is two small matrix products with matrices of hat functions, Y_iH @ map_CHW
@ X_jW^T. That keeps shapes static although every image of a batch has its own ratio and size. It is deterministic on a
GPU, and rows outside the image are simply zero.
"""

import torch
from torch import Tensor

CROP_SIZE = 7  # cells of a crop along each side
CROP_SAMPLES = 2  # sampling points per cell along each side, as in torchvision's detectors


def cells(sizes_B2: Tensor, stride: int) -> Tensor:
    """Cells of a map that an image of this size would have on its own: every halving rounds up."""
    return (sizes_B2 + stride - 1).div(stride, rounding_mode="floor")


def resize(maps_BChw: Tensor, cells_B2: Tensor, new_cells_B2: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """Each map's own region, resized to its own new region in a canvas and zero outside: bilinear, half-pixel centres.

    Equals F.interpolate(map[:, :h, :w], size=(H, W), mode="bilinear", align_corners=False) per image.
    """
    matrices = []
    for axis in (0, 1):
        old_B, new_B = cells_B2[:, axis].float(), new_cells_B2[:, axis].float()
        target_N = torch.arange(canvas[axis], device=maps_BChw.device, dtype=torch.float32)
        points_BN = (target_N + 0.5) * (old_B / new_B.clamp(min=1))[:, None] - 0.5
        weights_BNn = hat_weights(points_BN, old_B[:, None], maps_BChw.shape[2 + axis])
        matrices.append(torch.where((target_N < new_B[:, None])[:, :, None], weights_BNn, 0.0))
    rows_BHh, columns_BWw = matrices
    kept = inside(cells_B2, maps_BChw.shape[-2:])
    maps_BChw = torch.where(kept[:, None], maps_BChw, 0.0)
    return rows_BHh[:, None] @ (maps_BChw @ columns_BWw[:, None].transpose(-1, -2))


def crop(maps_BCHW: Tensor, boxes_BG4: Tensor, cells_B2: Tensor, size: int = CROP_SIZE) -> Tensor:
    """RoIAlign (aligned, 2x2 samples a cell) of every box, in cells of its map -> crops_BGCSS, S x S cells.

    Equals torchvision.ops.roi_align on the map cut to its own cells: samples never touch the padding.
    """
    num_points = size * CROP_SAMPLES
    fractions_N = (torch.arange(num_points, device=maps_BCHW.device, dtype=torch.float32) + 0.5) / num_points
    matrices = []
    for axis, (low, high) in enumerate(((1, 3), (0, 2))):
        start_BG, end_BG = boxes_BG4[..., low].float(), boxes_BG4[..., high].float()
        points_BGN = start_BG[..., None] - 0.5 + (end_BG - start_BG)[..., None] * fractions_N
        limit_B11 = cells_B2[:, axis, None, None].float()
        weights_BGNn = hat_weights(points_BGN, limit_B11, maps_BCHW.shape[2 + axis])
        matrices.append(weights_BGNn.unflatten(2, (size, CROP_SAMPLES)).mean(dim=3))
    rows_BGSH, columns_BGSW = matrices
    maps_BCHW = torch.where(inside(cells_B2, maps_BCHW.shape[-2:])[:, None], maps_BCHW, 0.0)
    # Rows first, for all boxes in one product: (G*S, H) @ (H, C*W); then the columns of each box.
    num_boxes, channels, width = boxes_BG4.shape[1], maps_BCHW.shape[1], maps_BCHW.shape[3]
    stacked_BHN = maps_BCHW.permute(0, 2, 1, 3).flatten(2)
    strips_BGSCW = (rows_BGSH.flatten(1, 2) @ stacked_BHN).unflatten(1, (num_boxes, size))
    strips_BGSCW = strips_BGSCW.unflatten(3, (channels, width))
    crops_BGSCS = strips_BGSCW @ columns_BGSW[:, :, None].transpose(-1, -2)
    return crops_BGSCS.transpose(2, 3)


def hat_weights(points: Tensor, limit: Tensor, size: int) -> Tensor:
    """Weights of linear interpolation of `size` cells at each point, with points clamped to cells 0..limit-1."""
    clamped = torch.minimum(points, limit - 1).clamp(min=0)
    cell_n = torch.arange(size, device=points.device, dtype=torch.float32)
    return (1 - (clamped[..., None] - cell_n).abs()).clamp(min=0)


def inside(cells_B2: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """inside_BHW: which cells of the canvas belong to the image."""
    rows_H = torch.arange(canvas[0], device=cells_B2.device)
    columns_W = torch.arange(canvas[1], device=cells_B2.device)
    return (rows_H < cells_B2[:, :1])[:, :, None] & (columns_W < cells_B2[:, 1:])[:, None, :]
