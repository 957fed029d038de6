"""torchvision's own RetinaNet and FCOS on our batches, to compare with: same weights, same canvas, same assignment.

Used by the tests and by `python -m train.bench`, which compares before it times. Compared image by image:

    outputs     raw predictions of every location, as a share of the largest
    states      which locations are foreground, background or left out: the share that differs
    matched     of the foreground, the share that torchvision gives to another box. RetinaNet's low-quality matches go
                to the box that needs them here (as in mmdetection), to their own best box in torchvision.
    losses      at our assignment. RetinaNet: class and box. FCOS: class and centreness; its box term is -log IoU here,
                weighed by centreness, and GIoU there. One image at a time: torchvision's RetinaNet averages quotients
                of images, ours divides the sums.
    gradients   of the sum of those losses, relative to each tensor's largest entry

FCOS is compared with torchvision's centre sampling off, which ours does not have.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from model.api import Truth, Want
from model.dense.config import FcosConfig
from model.dense.detector import DenseDetector
from model.dense.stock import rename

TERMS = {
    "retinanet": {"class": "classification", "box": "bbox_regression"},
    "fcos": {"class": "classification", "centerness": "bbox_ctrness"},
}
RAW = {"logits": "cls_logits", "boxes": "bbox_regression", "quality": "bbox_ctrness"}
BACKGROUND, BETWEEN = -1, -2  # torchvision's numbers for locations without a box
ANYWHERE = 1e6  # a radius of centre sampling that leaves nothing out


class Differences(NamedTuple):
    outputs: float
    states: float
    matched: float
    loss: float  # the greatest relative one
    gradient: float  # the greatest, relative to its tensor's largest entry


def compare_losses(detector: DenseDetector, stock: nn.Module, batch: tuple[Tensor, ...]) -> Differences:
    """batch: images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B; every image has a box. The worst image counts."""
    rows = [
        compare_image(detector, stock, tuple(value[row : row + 1] for value in batch)) for row in range(len(batch[0]))
    ]
    return Differences(*(max(values) for values in zip(*rows, strict=True)))


def compare_image(detector: DenseDetector, stock: Any, batch: tuple[Tensor, ...]) -> Differences:
    images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B = batch
    detector.zero_grad(set_to_none=True)
    stock.zero_grad(set_to_none=True)
    ignore_BG = torch.zeros_like(labels_BG, dtype=torch.bool)
    truth = Truth(sizes_B2, boxes_BG4, labels_BG, ignore_BG, torch.ones_like(boxes_BG4[..., 0]), keys_B)
    out = detector.look(images_B3HW, sizes_B2, Want(dense=True))
    ours, assigned = detector.losses(out, truth)

    real_G = (labels_BG[0] > 0) & (boxes_BG4[0, :, 2:] > boxes_BG4[0, :, :2]).all(1)
    targets = [{"boxes": boxes_BG4[0][real_G], "labels": labels_BG[0][real_G]}]
    features = list(stock.backbone(images_B3HW).values())
    raw = stock.head(features)
    anchors = stock.anchor_generator(ImageList(images_B3HW, [tuple(size) for size in sizes_B2.tolist()]), features)
    counts = [each.shape[2] * each.shape[3] for each in features]
    state_N, slot_N = assigned.state_BN[0], assigned.matched_BN[0]
    matched_N = torch.where(
        state_N == 1, (real_G.cumsum(0) - 1)[slot_N], torch.where(state_N == 0, BACKGROUND, BETWEEN)
    )
    wanted_N = match(stock, targets, raw, anchors, counts)

    both_N = (matched_N >= 0) & (wanted_N >= 0)
    states = (matched_N.clamp(max=0) != wanted_N.clamp(max=0)).float().mean()
    matched = (matched_N != wanted_N)[both_N].float().mean() if both_N.any() else torch.zeros(())
    terms = TERMS[detector.config.kind]
    theirs = stock.head.compute_loss(targets, raw, anchors, [matched_N])
    loss = max(
        float((ours[name] - theirs[other]).detach().abs() / theirs[other].detach().abs().clamp(min=1e-6))
        for name, other in terms.items()
    )
    torch.stack([ours[name] for name in terms]).sum().backward()
    torch.stack([theirs[name] for name in terms.values()]).sum().backward()
    return Differences(
        compare_outputs(detector, out, raw), float(states), float(matched), loss, compare_gradients(detector, stock)
    )


def match(stock: Any, targets: list, raw: dict, anchors: list, counts: list[int]) -> Tensor:
    """(N,) box of every location by torchvision's own rule, which it hands to its head."""
    stock.head.compute_loss = lambda *arguments: arguments[-1]
    radius = getattr(stock, "center_sampling_radius", None)
    try:
        if radius is None:
            return stock.compute_loss(targets, raw, anchors)[0]
        stock.center_sampling_radius = ANYWHERE
        return stock.compute_loss(targets, raw, anchors, counts)[0]
    finally:
        del stock.head.compute_loss
        if radius is not None:
            stock.center_sampling_radius = radius


def compare_outputs(detector: DenseDetector, out: Any, raw: dict[str, Tensor]) -> float:
    """torchvision's label 0, which has no counterpart, is left out; its FCOS tells distances in strides."""
    greatest = 0.0
    for name, other in RAW.items():
        if getattr(out, name) is None:
            continue
        got, wanted = torch.cat(getattr(out, name), dim=1).detach(), raw[other].detach()
        if name == "logits":
            wanted = wanted[..., 1:]
        elif name == "quality":
            wanted = wanted[..., 0]
        elif isinstance(detector.config, FcosConfig):
            wanted = wanted * detector.head.candidate_strides(out.canvas, wanted.device)
        greatest = max(greatest, float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)))
    return greatest


def compare_gradients(detector: DenseDetector, stock: nn.Module) -> float:
    greatest, reference = 0.0, dict(stock.named_parameters())
    for name, parameter in detector.named_parameters():
        if name.startswith("head.scales."):
            continue
        expected = reference[rename(name, isinstance(detector.config, FcosConfig))].grad
        if (parameter.grad is None) != (expected is None):
            raise ValueError(f"{name}: one of the two detectors has no gradient")
        if expected is None or parameter.grad is None:
            continue
        if name.startswith("head.class_output."):
            expected = expected.unflatten(0, (detector.head.per_location, -1))[:, 1:].flatten(0, 1)
        largest = expected.abs().max().clamp(min=1e-6)
        greatest = max(greatest, float((parameter.grad - expected).abs().max() / largest))
    return greatest
