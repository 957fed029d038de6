"""The annotated boxes of a batch, as assignment needs them."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from model.api import Truth
from model.boxes.assign import real_boxes


class Annotated(NamedTuple):
    boxes_BG4: Tensor
    labels_BG: Tensor
    weight_BG: Tensor
    owner_BG: Tensor  # may be responsible for candidates: neither padding nor ignored
    ignored_BG: Tensor
    present_B1: Tensor  # False for the rows that fill up a last batch


def annotated(truth: Truth) -> Annotated:
    """Labels 0 and boxes without area are padding; images of size 0 do not count. A box of weight 0 is ignored.

    At least one slot a row.
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
    return Annotated(boxes_BG4, truth.labels_BG, truth.weight_BG, owner_BG, ignored_BG, present_B1)
