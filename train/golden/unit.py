"""Losses, box codes and anchors alone."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.assigners import covered_share, pairwise_iou
from model.boxes.boxes import clip, encode
from model.boxes.codes import bound_distances, decode_deltas, decode_distances, encode_distances, expected_distances
from model.boxes.losses import (
    distribution_focal_loss,
    focal_loss,
    giou_loss,
    log_iou_loss,
    one_hot,
    paired_giou,
    quality_focal_loss,
    softened_divergence,
)
from model.boxes.points import make_cells
from train.golden.cases import GRADIENT, LOSS, OUTPUT, PIXELS, Case, Check, NotRunnable

# Finest stride, base, scales per octave and ratios of the anchors that the case records without their configuration.
ANCHORS = {
    "anchor9": (8, 4.0, 3, (0.5, 1.0, 2.0)),
    "anchor1": (8, 8.0, 1, (1.0,)),
    "anchor_rpn": (4, 8.0, 1, (0.5, 1.0, 2.0)),
}
EPSILON = torch.finfo(torch.float32).eps  # that the original adds to every normaliser


def elementwise(case: Case, name: str, config: dict, logits: Tensor) -> Tensor:
    """The loss of a case before weights, with as many elements as the original leaves."""
    kind = config["type"]

    def other(key: str) -> Tensor:
        return case[f"{name}.{key}"]

    def labels() -> Tensor:
        """Ours: 0 is the background, which is the number of classes there."""
        return (other("label").long() + 1) % (logits.shape[1] + 1)

    if kind == "FocalLoss":
        return focal_loss(logits, one_hot(labels(), logits.shape[1] + 1), config["alpha"], config["gamma"])
    if kind == "QualityFocalLoss":
        quality = one_hot(labels(), logits.shape[1] + 1) * other("score")[:, None]
        return quality_focal_loss(logits, quality, config["beta"]).sum(1)
    if kind == "KDQualityFocalLoss":
        return quality_focal_loss(logits, other("teacher_logits").sigmoid(), config["beta"])
    if kind == "KnowledgeDistillationKLDivLoss":
        each = softened_divergence(logits, other("teacher_logits"), config["T"])
        return each.sum(1) if config["class_reduction"] == "sum" else each.mean(1)
    if kind == "DistributionFocalLoss":
        return distribution_focal_loss(logits, other("label"))
    if kind == "GIoULoss":
        return giou_loss(logits, other("target"))
    if kind == "IoULoss":
        return log_iou_loss(logits, other("target"))
    if kind == "L1Loss":
        return (logits - other("target")).abs()
    if kind == "CrossEntropyLoss":
        return F.binary_cross_entropy_with_logits(logits, other("target"), reduction="none")
    raise NotRunnable(f"there is no loss {kind!r}")


def run_losses(case: Case) -> Iterator[Check]:
    for name, config in case.facts["config"].items():
        if f"{name}.pred" not in case:
            continue
        logits = case[f"{name}.pred"].clone().requires_grad_()
        each = elementwise(case, name, config, logits) * config["loss_weight"]
        yield Check(f"{name}.elementwise", each, case[f"{name}.elementwise"], OUTPUT)
        weight = case[f"{name}.weight"] if f"{name}.weight" in case else torch.ones(())
        value = (each * weight.reshape(weight.shape + (1,) * (each.ndim - weight.ndim))).sum()
        value = value / (config["avg_factor"] + EPSILON)
        yield Check(f"{name}.value", value, case[f"{name}.value"], LOSS)
        (gradient,) = torch.autograd.grad(value, logits)
        yield Check(f"{name}.gradient", gradient, case[f"{name}.grad"], GRADIENT)


def run_codes(case: Case) -> Iterator[Check]:
    target, prior, points = case["giou.target"], case["coder.prior"], case["coder.points"]
    size = torch.tensor([case.facts["box_canvas"]])
    # Ours divide by what theirs multiply with: standard deviations 1, and .1 and .2.
    for name, weights in (("std1", (1.0, 1.0, 1.0, 1.0)), ("std01", (10.0, 10.0, 5.0, 5.0))):
        encoded = encode(target, prior, weights)
        yield Check(f"{name}.encode", encoded, case[f"coder.{name}.encode"], OUTPUT)
        decoded = decode_deltas(case["coder.deltas"], prior, weights)
        yield Check(f"{name}.decode", decoded, case[f"coder.{name}.decode"], PIXELS)
        yield Check(f"{name}.clip", clip(decoded[None], size)[0], case[f"coder.{name}.decode_clipped"], PIXELS)
    distances = bound_distances(encode_distances(target / 8, points / 8), 16)
    yield Check("distance.encode", distances, case["coder.distance_encode_max16"], OUTPUT)
    decoded = decode_distances(case["coder.distances"], points)
    yield Check("distance.decode", decoded, case["coder.distance_decode"], PIXELS)
    yield Check("distance.clip", clip(decoded[None], size)[0], case["coder.distance_decode_clipped"], PIXELS)
    logits = case["integral.in"]
    yield Check("integral", expected_distances(logits, logits.shape[1] // 4), case["integral.out"], OUTPUT)
    boxes, others = case["giou.pred"][:9], target[:7]
    yield Check("iou", pairwise_iou(boxes[None], others[None])[0], case["overlap.iou"], OUTPUT)
    yield Check("iof", covered_share(others[None], boxes[None])[0].T, case["overlap.iof"], OUTPUT)
    yield Check("giou", paired_giou(boxes[:, None], others[None]), case["overlap.giou"], OUTPUT)


def run_unit(case: Case) -> Iterator[Check]:
    yield from run_losses(case)
    if "giou.value_all_zero_weight" in case:
        zero = (giou_loss(case["giou.pred"], case["giou.target"]) * 0.0).sum()
        yield Check("giou.no weight", zero, case["giou.value_all_zero_weight"], LOSS)
    yield from run_codes(case)
    for name, (finest, base, scales, ratios) in ANCHORS.items():
        expected = case.levels(f"{name}.base")
        strides = tuple(finest * 2**level for level in range(len(expected)))
        for cells, level in zip(make_cells(strides, base, scales, ratios), expected, strict=True):
            yield Check(name, cells, level, PIXELS)
