"""Dense heads on given pyramids: predictions, candidates, targets, losses by level, gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.api import Truth, own
from model.boxes.boxes import encode
from model.boxes.codes import encode_distances
from model.boxes.points import inside_own_size
from model.dense.detector import HEADS
from model.dense.fcos import FcosHead
from model.dense.head import DenseHead, Raw, to_rows
from model.dense.retinanet import WEIGHTS, RetinaNetHead
from model.weights.mmdetection import Unsupported, head_options, own_head_name, rename_head
from train.golden.cases import EXACT, GRADIENT, LOSS, OUTPUT, PIXELS, Case, Check, NotRunnable

TERMS = {"loss_cls": "class", "loss_bbox": "box", "loss_centerness": "centerness", "loss_dfl": "bins"}


def build_head(facts: dict[str, Any]) -> DenseHead:
    """The head that a case's `config` describes in mmdetection's words."""
    head, strides = facts["head"], tuple(facts["strides"])
    try:
        config_class, options = head_options(head, facts.get("train_cfg"), facts.get("test_cfg"))
    except Unsupported as error:
        raise NotRunnable(str(error)) from error
    if head.get("center_sampling") or (head["type"], head["loss_bbox"]["type"]) == ("FCOSHead", "GIoULoss"):
        raise NotRunnable("FCOS's centre sampling and GIoU loss")
    config = config_class(weights="none", faithful=True, **options)
    return HEADS[config_class](config, head["num_classes"] + 1, head["in_channels"], strides)


def read_sizes(case: Case) -> Tensor:
    return torch.tensor([meta["img_shape"][:2] for meta in case.facts["img_metas"]], dtype=torch.int32)


def read_truth(case: Case) -> Truth:
    """The boxes of a case, padded; ignored ones behind the others of their image."""
    sizes_B2 = read_sizes(case)
    num_images = len(sizes_B2)
    boxes = [case[f"in.gt_boxes.{image}"] for image in range(num_images)]
    ignored = [
        case[f"in.gt_ignore.{image}"] if f"in.gt_ignore.{image}" in case else torch.zeros(0, 4)
        for image in range(num_images)
    ]
    num_slots = max(len(own_4) + len(other_4) for own_4, other_4 in zip(boxes, ignored, strict=True))
    boxes_BG4, labels_BG = torch.zeros(num_images, num_slots, 4), torch.zeros(num_images, num_slots, dtype=torch.int64)
    ignore_BG = torch.zeros(num_images, num_slots, dtype=torch.bool)
    for image in range(num_images):
        count, end = len(boxes[image]), len(boxes[image]) + len(ignored[image])
        boxes_BG4[image, :end] = torch.cat((boxes[image], ignored[image]))
        labels_BG[image, :count] = case[f"in.gt_labels.{image}"].long() + 1
        labels_BG[image, count:end] = 1
        ignore_BG[image, count:end] = True
    return Truth(sizes_B2, boxes_BG4, labels_BG, ignore_BG, torch.ones(num_images, num_slots), torch.arange(num_images))


def read_raw(case: Case, head: DenseHead, prefix: str) -> Raw:
    """Recorded predictions in our order."""
    quality = tuple(to_rows(level, 1)[..., 0] for level in case.levels(f"{prefix}.ctr"))
    return Raw(
        tuple(to_rows(level, head.num_classes - 1) for level in case.levels(f"{prefix}.cls")),
        tuple(to_rows(level, head.box_width) for level in case.levels(f"{prefix}.reg")),
        quality or None,
    )


def compare_raw(raw: Raw, expected: Raw) -> Iterator[Check]:
    for quantity, got, wanted in zip(("class", "box", "centerness"), raw, expected, strict=True):
        for mine, theirs in zip(got or (), wanted or (), strict=True):
            yield Check(f"out.{quantity}", mine, theirs, OUTPUT)


def compare_targets(case: Case, head: DenseHead, truth: Truth, canvas: tuple[int, int]) -> Iterator[Check]:
    targets = head.assign(truth, canvas)
    points = isinstance(head, FcosHead)
    candidates_N4 = targets.candidates_BN4[0]
    valid_BN = inside_own_size(truth.sizes_B2, canvas, head.strides, head.per_location)
    positive_BN, state_BN = targets.positive_BN, targets.state_BN
    wanted_BN4 = targets.boxes_BN4
    if points:
        wanted_BN4 = encode_distances(wanted_BN4, candidates_N4[:, :2])
    elif isinstance(head, RetinaNetHead):
        wanted_BN4 = encode(wanted_BN4, candidates_N4, WEIGHTS)
    wanted_BN4 = torch.where(positive_BN[..., None], wanted_BN4, 0.0)
    negative_BN = torch.where(state_BN == 0, -1, torch.where(valid_BN, -3, -2))
    whole = {
        # Theirs: the background comes last.
        "labels": (torch.where(positive_BN, targets.labels_BN - 1, head.num_classes - 1), EXACT),
        "label_weights": (targets.weight_BN, EXACT),
        "bbox_targets": (wanted_BN4, OUTPUT),
        "bbox_weights": (positive_BN.float(), EXACT),
        "pos": (positive_BN, EXACT),
        "gt_index": (torch.where(positive_BN, targets.matched_BN, negative_BN), EXACT),
    }
    counts = head.level_counts(canvas)
    for level, (prior_N4, valid) in enumerate(zip(candidates_N4.split(counts), valid_BN.split(counts, 1), strict=True)):
        yield Check("candidates", prior_N4[:, :2] if points else prior_N4, case[f"prior.{level}"], PIXELS)
        if f"prior_valid.{level}" in case:
            yield Check("candidates.valid", valid, case[f"prior_valid.{level}"], EXACT)
        for name, (values_BN, bound) in whole.items():
            if f"tgt.{name}.{level}" not in case:
                continue
            got, expected = values_BN.split(counts, 1)[level], case[f"tgt.{name}.{level}"]
            if points and name == "bbox_targets":  # meaningless where not positive
                expected = torch.where(positive_BN.split(counts, 1)[level][..., None], expected, 0.0)
            yield Check(f"targets.{name}", got, expected, bound)


def compare_losses(case: Case, parts: dict[str, Tensor]) -> Iterator[Check]:
    for theirs, ours in TERMS.items():
        if f"loss.{theirs}.sum" not in case:
            continue
        for level, expected in enumerate(case.levels(f"loss.{theirs}")):
            yield Check(f"loss.{ours}", parts[ours][level], expected, LOSS)
        yield Check(f"loss.{ours}.sum", parts[ours].sum(), case[f"loss.{theirs}.sum"], LOSS)


def compare_normalisers(case: Case, head: DenseHead, truth: Truth, canvas, weight_BN: Tensor) -> Iterator[Check]:
    targets = head.assign(truth, canvas)
    if "aux.avg_factor" in case:
        yield Check("normaliser", head.count_positives(targets, own), case["aux.avg_factor"], LOSS)
    for name in ("aux.box_weight_sum", "aux.sum_centerness"):
        if name in case:
            yield Check("box weights", weight_BN.sum(), case[name], LOSS)
    if "aux.num_pos" in case:
        yield Check("positives", targets.positive_BN.sum(), case["aux.num_pos"], EXACT)
    if "aux.pos_centerness_targets" in case:
        counts = head.level_counts(canvas)  # theirs: by level, then by image
        levels = zip(weight_BN.split(counts, 1), targets.positive_BN.split(counts, 1), strict=True)
        got = torch.cat([weight[positive] for weight, positive in levels])
        yield Check("centerness", got, case["aux.pos_centerness_targets"], OUTPUT)


def run_heads(case: Case) -> Iterator[Check]:
    facts = case.facts["config"]
    head, canvas = build_head(facts), tuple(facts["canvas"])
    head.load_state_dict(rename_head(case.named("param.")))
    neck = tuple(level.clone().requires_grad_() for level in case.levels("in.fpn"))
    truth = read_truth(case)
    raw = head.predict(head.grow(neck, 0), 0)
    yield from compare_raw(raw, read_raw(case, head, "out"))
    yield from compare_targets(case, head, truth, canvas)

    parts, assigned = head.terms_by_level(raw, truth, canvas, own)
    yield from compare_losses(case, parts)
    yield from compare_normalisers(case, head, truth, canvas, assigned.weight_BN)
    terms, _ = head.losses(raw, truth, canvas, own)
    total = torch.stack(list(terms.values())).sum()
    yield Check("loss.total", total, case["loss.total"], LOSS)
    total.backward()
    for level, level_map in enumerate(neck):
        assert level_map.grad is not None
        yield Check("gradient.pyramid", level_map.grad, case[f"grad.fpn.{level}"], GRADIENT)
    parameters = dict(head.named_parameters())
    for name, expected in case.named("grad.param.").items():
        gradient = parameters[str(own_head_name(name))].grad
        assert gradient is not None
        yield Check("gradient.weights", gradient, expected, GRADIENT)
