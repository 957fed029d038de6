"""Swin transformers (Liu et al. 2021): torchvision's layers with an attention that always shifts.

torchvision does not shift along a side of at most one window, 7 cells; the authors' detector and mmdetection shift in
every second block. Only maps of at most 7 cells differ: images below 256 pixels in the last stage.
"""

from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformerBlock

APART = -100.0  # added to the score of two cells that are no neighbours before the shift


def to_windows(x_BHWC: Tensor, side: int) -> Tensor:
    """(B, windows, side * side, C), row by row."""
    return x_BHWC.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x_BWNC: Tensor, size: tuple[int, int], side: int) -> Tensor:
    rows = x_BWNC.unflatten(2, (side, side)).unflatten(1, (size[0] // side, size[1] // side))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def part_of(length: int, side: int, shift: int, device: torch.device) -> Tensor:
    """Which of the three parts of a shifted side a cell lies in; parts of one window were no neighbours before."""
    cell = torch.arange(length, device=device)
    return (cell >= length - side).long() + (cell >= length - shift).long()


class WindowAttention(ShiftedWindowAttention):
    """softmax(q k / sqrt(d) + bias of the cells' offset) v within windows; zeros fill the last ones."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        side, shift = self.window_size[0], self.shift_size[0]
        height, width = x_BHWC.shape[1:3]
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % side, 0, -height % side))
        size = (x_BHWC.shape[1], x_BHWC.shape[2])
        if shift:
            x_BHWC = x_BHWC.roll((-shift, -shift), (1, 2))
        x_BWNC = to_windows(x_BHWC, side)
        query, key, value = self.qkv(x_BWNC).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores_BWHNN = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        scores_BWHNN = scores_BWHNN + self.get_relative_position_bias()
        if shift:
            rows_H, columns_W = (part_of(length, side, shift, x_BHWC.device) for length in size)
            part_HW = rows_H[:, None] * 3 + columns_W
            part_WN = to_windows(part_HW[None, :, :, None], side)[0, :, :, 0]
            apart_WNN = part_WN[:, :, None] != part_WN[:, None, :]
            scores_BWHNN = scores_BWHNN + APART * apart_WNN[:, None].to(scores_BWHNN.dtype)
        x_BWNC = self.proj((scores_BWHNN.softmax(-1) @ value).transpose(2, 3).flatten(3))
        x_BHWC = from_windows(x_BWNC, size, side)
        if shift:
            x_BHWC = x_BHWC.roll((shift, shift), (1, 2))
        return x_BHWC[:, :height, :width]


def layers(name: str) -> nn.Module:
    """torchvision's `swin_t` or `swin_s` without its head."""
    block = partial(SwinTransformerBlock, attn_layer=WindowAttention)
    return getattr(torchvision.models, name)(weights=None, block=block).features
