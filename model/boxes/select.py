"""Choosing rows by index and detections by score, with fixed shapes."""

import torch
from torch import Tensor

from kernels.detection.nms import nms
from model.api import Detections


def take(values_BN: Tensor, index_BS: Tensor) -> Tensor:
    """Rows (B, S, ...) of values (B or 1, N, ...) at index (B, S)."""
    values_BN = values_BN.expand(index_BS.shape[0], *values_BN.shape[1:])
    trailing = values_BN.shape[2:]
    return values_BN.gather(
        1, index_BS.reshape(*index_BS.shape, *(1,) * len(trailing)).expand(*index_BS.shape, *trailing)
    )


def or_one(count: Tensor) -> Tensor:
    """A count to divide by. A mean over ranks may lie below 1; only where nothing at all counts is it 1."""
    return torch.where(count > 0, count, 1.0)


def thin_out(
    boxes_BN4: Tensor, scores_BN: Tensor, labels_BN: Tensor, iou_threshold: float, num_slots: int
) -> Detections:
    """The best `num_slots` candidates, each class thinned on its own; a score of -inf is no candidate."""
    keep_BD, count_B = nms(boxes_BN4, scores_BN, labels_BN, iou_threshold, num_slots)
    real_BD = torch.arange(num_slots, device=keep_BD.device) < count_B[:, None]
    return Detections(
        torch.where(real_BD[..., None], take(boxes_BN4, keep_BD), 0.0),
        torch.where(real_BD, take(scores_BN, keep_BD), 0.0),
        torch.where(real_BD, take(labels_BN, keep_BD).to(torch.int64), 0),
        count_B,
    )
