"""Imitation of features on given maps: the original fine-grained one, and DeFeat's two kinds."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from model.api import own
from model.boxes.annotated import Annotated
from model.boxes.points import make_cells, make_dense_anchors
from train.distill.defeat import Defeat, DefeatConfig
from train.distill.fine_grained import FineGrained, FineGrainedConfig
from train.distill.places import Pair, grow, levels_of_boxes
from train.golden.cases import EXACT, GRADIENT, LOSS, Case, Check


def annotate(boxes: list[Tensor]) -> Annotated:
    boxes_BG4 = torch.zeros(len(boxes), max(map(len, boxes)), 4)
    for image, own_N4 in enumerate(boxes):
        boxes_BG4[image, : len(own_N4)] = own_N4
    owner_BG = boxes_BG4.any(-1)
    return Annotated(
        boxes_BG4, owner_BG.long(), owner_BG.float(), owner_BG, ~owner_BG, torch.ones(len(boxes), 1, dtype=torch.bool)
    )


def load(adapters: nn.ModuleList, weights: dict[str, Tensor]) -> None:
    """From the original's names, of which one map's adapter has none for the level."""
    names = {name if name.count(".") == 2 else f"0.{name}": value for name, value in weights.items()}
    adapters.load_state_dict(names)


def compare_gradients(
    case: Case, quantity: str, prefix: str, loss: Tensor, maps: list[Tensor], names: list[str], adapters: nn.ModuleList
) -> Iterator[Check]:
    """Of the student's maps, and of those layers whose gradients were recorded."""
    layers = dict(adapters.named_parameters())
    leaves = [*maps, *layers.values()]
    gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
    layer_names = [f"adapter.{name}" if len(maps) > 1 else f"adapter.{name.removeprefix('0.')}" for name in layers]
    for name, gradient in zip([*names, *layer_names], gradients, strict=True):
        if f"{prefix}{name}" in case:
            yield Check(quantity, gradient, case[f"{prefix}{name}"], GRADIENT)


def run_finegrained(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    stride, channels = config["stride"], config["channels"]
    network: Any = SimpleNamespace(strides=(stride,), channels=channels, config=None)
    for prefix in [name.removesuffix("gt_boxes") for name in case.tensors if name.endswith("gt_boxes")]:
        method = FineGrained(FineGrainedConfig(config["loss_weight"], relu=True, faithful=True), network, network, own)
        load(method.adapters, case.named(f"{prefix}adapter."))
        student = case[f"{prefix}student_feat"].clone().requires_grad_()
        pair = Pair(method.adapters[0](student), case[f"{prefix}teacher_feat"], stride, 0)
        height, width = student.shape[-2:]
        anchors = make_dense_anchors((case["base_anchors"],), (height * stride, width * stride), (stride,))[None]
        everywhere = torch.ones(len(student), anchors.shape[1], dtype=torch.bool)
        # The original stops at the first row of zeros.
        known = annotate([rows_N5[rows_N5.any(-1).cummin(0).values][:, :4] for rows_N5 in case[f"{prefix}gt_boxes"]])
        masks = method.places([pair], (anchors,), (everywhere,), known, torch.zeros_like(known.labels_BG))
        for image, mask_HW in enumerate(masks[0]):
            yield Check("places", mask_HW, case[f"{prefix}mask_counts.{image}"] > 0, EXACT)
        yield Check("divisor", 2 * masks[0].sum(), case[f"{prefix}norms"], EXACT)
        loss = method.weights["fine_grained"] * method.loss([pair], masks)
        yield Check("loss", loss, case[f"{prefix}loss"], LOSS)
        names = ["student_feat"]
        yield from compare_gradients(case, "gradient", f"{prefix}grad.", loss, [student], names, method.adapters)


def run_defeat(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    strides, canvas = tuple(config["strides"]), tuple(config["canvas"])
    network: Any = SimpleNamespace(strides=strides, channels=config["channels"], config=None)
    known, teacher = annotate(case.levels("gt_boxes")), case.levels("teacher_feat")
    maps = [level.clone().requires_grad_() for level in case.levels("student_feat")]
    names = [f"student_feat.{level}" for level in range(len(maps))]
    weights = config["weights"]

    def pairs_of(method: Defeat | FineGrained) -> list[Pair]:
        load(method.adapters, case.named("adapter."))
        levels = zip(method.adapters, maps, teacher, strides, range(len(maps)), strict=True)
        return [Pair(adapter(ours), theirs, stride, level) for adapter, ours, theirs, stride, level in levels]

    defeat = Defeat(DefeatConfig(weights["neck_fg"], weights["neck_bg"], faithful=True), network, network, own)
    pairs = pairs_of(defeat)
    masks = defeat.places(pairs, known)
    for level, mask_BHW in enumerate(masks):
        yield Check("places", mask_BHW, case[f"mask_gt.{level}"], EXACT)
    for theirs, ours, parts in (
        ("losskd_neck", "defeat_inside", masks),
        ("losskd_neck_back", "defeat_outside", [~mask_BHW for mask_BHW in masks]),
    ):
        loss = defeat.weights[ours] * defeat.part(pairs, parts)
        yield Check(f"{ours}.loss", loss, case[f"decoupled.{theirs}"], LOSS)
        prefix = f"decoupled.grad.{theirs}."
        yield from compare_gradients(case, f"{ours}.gradient", prefix, loss, maps, names, defeat.adapters)

    logits = case["head.student_cls_logits"].clone().requires_grad_()
    background = case["head.labels"] == case["head.labels"].max()
    for theirs, weight, mask in (
        ("losskd_hcls", weights["head_cls"], ~background),
        ("losskd_hcls_back", weights["head_cls_back"], background),
    ):
        loss = weight * defeat.class_part(logits, case["head.teacher_cls_logits"], mask)
        yield Check("class.loss", loss, case[f"decoupled.{theirs}"], LOSS)
        (gradient,) = torch.autograd.grad(loss, logits)
        yield Check("class.gradient", gradient, case[f"decoupled.grad.{theirs}.student_cls_logits"], GRADIENT)

    options = FineGrainedConfig(weights["fgfi"] / config["channels"])
    fine_grained = FineGrained(options, network, network, own)
    pairs = pairs_of(fine_grained)
    cells = make_cells(strides, config["anchor_scale"], 1, tuple(config["anchor_ratios"]))
    counts = [len(cells[0]) * pair.size[0] * pair.size[1] for pair in pairs]
    anchors = make_dense_anchors(cells, canvas, strides)[None].split(counts, dim=1)
    everywhere = tuple(torch.ones(len(maps[0]), count, dtype=torch.bool) for count in counts)
    masks = fine_grained.places(pairs, anchors, everywhere, known, levels_of_boxes(grow(known.boxes_BG4), strides))
    for level, mask_BHW in enumerate(masks):
        yield Check("fine_grained.places", mask_BHW, case[f"mask_roi.{level}"], EXACT)
    loss = fine_grained.weights["fine_grained"] * fine_grained.loss(pairs, masks)
    yield Check("fine_grained.loss", loss, case["fgfi.losskd_neck"], LOSS)
    prefix = "fgfi.grad.losskd_neck."
    yield from compare_gradients(case, "fine_grained.gradient", prefix, loss, maps, names, fine_grained.adapters)
