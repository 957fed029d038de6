"""The annotated boxes of a batch, as assignment needs them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.api import Truth
from model.boxes.assign import real_boxes
from model.boxes.assigners import pairwise_iou

NEARLY = 0.01  # pixels: the boxes of a smaller view are multiplied by a float32 factor
SAME = 0.5  # overlap from which on two detections of a class are of one object


class Annotated(NamedTuple):
    boxes_BG4: Tensor
    labels_BG: Tensor
    weight_BG: Tensor
    owner_BG: Tensor  # may be responsible for candidates: neither padding nor ignored
    ignored_BG: Tensor
    present_B1: Tensor  # False for the rows that fill up a last batch, and for unlabelled images


def annotated(truth: Truth, with_ignored: bool = True, faithful: bool = False) -> Annotated:
    """Labels 0 and boxes without area are padding; images of size 0 do not count. A box of weight 0 is ignored.

    An image is unlabelled where all its boxes are ignored and one covers all of it. Anchors lie beyond its border, so
    it must not count as a whole. Without `with_ignored`, ignored boxes of other images are as if not there. `faithful`
    is mmdetection: no image is unlabelled, and without an object ignored boxes are as if not there. At least one slot
    a row.
    """
    if truth.boxes_BG4.shape[1] == 0:  # a batch without any box: room for one that is none
        boxes_BG4 = F.pad(truth.boxes_BG4, (0, 0, 0, 1))
        labels_BG, ignore_BG, weight_BG = (
            F.pad(each, (0, 1)) for each in (truth.labels_BG, truth.ignore_BG, truth.weight_BG)
        )
        truth = truth._replace(boxes_BG4=boxes_BG4, labels_BG=labels_BG, ignore_BG=ignore_BG, weight_BG=weight_BG)
    present_B1 = (truth.sizes_B2 > 0).all(dim=1, keepdim=True)
    boxes_BG4 = truth.boxes_BG4.float()
    real_BG = real_boxes(boxes_BG4, truth.labels_BG) & present_B1
    ignore_BG = truth.ignore_BG | (truth.weight_BG <= 0)
    owner_BG, ignored_BG = real_BG & ~ignore_BG, real_BG & ignore_BG
    if faithful:
        ignored_BG = ignored_BG & owner_BG.any(dim=1, keepdim=True)
    else:
        present_B1 = present_B1 & ~find_unlabelled(boxes_BG4, truth.sizes_B2, owner_BG, ignored_BG)[:, None]
    if not with_ignored:
        ignored_BG = torch.zeros_like(ignored_BG)
    return Annotated(boxes_BG4, truth.labels_BG, truth.weight_BG, owner_BG, ignored_BG, present_B1)


def find_unlabelled(boxes_BG4: Tensor, sizes_B2: Tensor, owner_BG: Tensor, ignored_BG: Tensor) -> Tensor:
    """unlabelled_B: every box is ignored, and one covers the whole image."""
    ends_B12 = sizes_B2.flip(1)[:, None]
    whole_BG = (boxes_BG4[..., :2] <= NEARLY).all(-1) & (boxes_BG4[..., 2:] >= ends_B12 - NEARLY).all(-1)
    return (ignored_BG & whole_BG).any(1) & ~owner_BG.any(1)


def find_doubles(boxes_BD4: Tensor, labels_BD: Tensor, object_BD: Tensor) -> Tensor:
    """(B, D): detections that overlap an object of their class. Ignored, they would leave out what is around it."""
    same_BDD = (pairwise_iou(boxes_BD4, boxes_BD4) >= SAME) & (labels_BD[:, :, None] == labels_BD[:, None])
    return ~object_BD & (same_BDD & object_BD[:, :, None]).any(dim=1)
