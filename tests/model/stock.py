"""Detections of torchvision's own Faster R-CNN, to compare ours with."""

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from model.api import Detections


@torch.no_grad()
def stock_detections(stock: FasterRCNN, images_B3HW: Tensor, sizes_B2: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's detections in the pixels of the view, one dict an image."""
    image_list = ImageList(images_B3HW, [tuple(size) for size in sizes_B2.tolist()])
    features = stock.backbone(images_B3HW)
    proposals, _ = stock.rpn(image_list, features)
    stock.roi_heads.box_roi_pool.scales = None
    detections, _ = stock.roi_heads(features, proposals, image_list.image_sizes)
    return detections


def compare_detections(ours: Detections, theirs: list[dict[str, Tensor]]) -> float:
    """Greatest difference of a box coordinate (relative to 1 or itself) or score, slot by slot. Infinite when the
    number, the labels or the order differ.
    """
    greatest = 0.0
    for image, expected in enumerate(theirs):
        count = int(ours.count_B[image])
        if count != len(expected["scores"]) or not torch.equal(ours.labels_BD[image, :count], expected["labels"]):
            return float("inf")
        boxes_N4, scores_N = ours.boxes_BD4[image, :count], ours.scores_BD[image, :count]
        for got, wanted in ((boxes_N4, expected["boxes"]), (scores_N, expected["scores"])):
            if count:
                greatest = max(greatest, float(((got - wanted).abs() / wanted.abs().clamp(min=1)).max()))
    return greatest
