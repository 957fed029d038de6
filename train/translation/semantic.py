"""Semantic consistency: a segmenter, trained on boxes filled with their class, must find the same after translating.

JoliGEN's `f_s` with `train_sem_mask_lambda`: the segmenter learns from pictures of both domains; the generator's term
is its error on translated pictures, and counts only once the segmenter's own is at most 1. What an unlabelled target
picture shows is what the segmenter finds in it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNKNOWN = -1  # what a pixel shows
LARGEST_ERROR = 1.0  # of the segmenter, above which it teaches nothing yet


class Segmenter(nn.Module):
    """images_B3HW -> logits_BKHW: three halvings and back, with the finer maps added."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1), nn.InstanceNorm2d(after, affine=True), nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1), nn.InstanceNorm2d(after, affine=True), nn.ReLU(),
            )
            for before, after in zip((3, *widths), widths, strict=False)
        )  # fmt: skip
        self.across = nn.ModuleList(nn.Conv2d(each, width, 1) for each in widths)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        features, maps = images_B3HW, []
        for layers, across in zip(self.down, self.across, strict=True):
            features = layers(features)
            maps.append(across(features))
        total = maps[-1]
        for finer in reversed(maps[:-1]):
            total = finer + F.interpolate(total, size=finer.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.classes(self.last(total))
        return F.interpolate(logits, size=images_B3HW.shape[-2:], mode="bilinear", align_corners=False)


def fill_boxes(boxes_BG4: Tensor, labels_BG: Tensor, ignore_BG: Tensor, side: int) -> Tensor:
    """labels_BSS: the class of the smallest box that holds a pixel's centre, 0 where none does.

    UNKNOWN where that box is ignored: an unlabelled picture has ignored boxes around all of it.
    """
    labels_BG = torch.where(ignore_BG & (labels_BG > 0), UNKNOWN, labels_BG)
    centre_S = torch.arange(side, device=boxes_BG4.device) + 0.5
    x1, y1, x2, y2 = (boxes_BG4[..., corner, None] for corner in range(4))
    across_BGS = (x1 <= centre_S) & (centre_S < x2)
    down_BGS = (y1 <= centre_S) & (centre_S < y2)
    inside_BGSS = down_BGS[:, :, :, None] & across_BGS[:, :, None, :] & (labels_BG != 0)[:, :, None, None]
    area_BG = (boxes_BG4[..., 2] - boxes_BG4[..., 0]) * (boxes_BG4[..., 3] - boxes_BG4[..., 1])
    area_BGSS = torch.where(inside_BGSS, area_BG[:, :, None, None], torch.inf)
    smallest_BSS = area_BGSS.argmin(dim=1)
    found_BSS = labels_BG.gather(1, smallest_BSS.flatten(1)).view_as(smallest_BSS)
    return torch.where(inside_BGSS.any(dim=1), found_BSS, 0)


def error(logits_BKSS: Tensor, labels_BSS: Tensor) -> Tensor:
    """Mean cross-entropy of the pixels whose class is known; 0 where none is."""
    total = F.cross_entropy(logits_BKSS.float(), labels_BSS, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels_BSS != UNKNOWN).sum().clamp(min=1)
