"""CrossKD on given pyramids: hand-over, alignment, cross predictions, terms, and who gets their gradient."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.api import Outputs, own
from model.dense.detector import DenseDetector
from model.dense.head import Raw, Towers
from model.weights.mmdetection import Unsupported, head_options, own_head_name, rename_head
from pipeline.batch import View, Views
from train.distill.crosskd import CrossKd, CrossKdConfig, align
from train.distill.pkd import Pkd, PkdConfig
from train.golden.cases import GRADIENT, LOSS, OUTPUT, Bound, Case, Check, NotRunnable
from train.golden.heads import compare_losses, compare_normalisers, compare_raw, compare_targets, read_raw, read_truth

TERMS = {"loss_cls_kd": "crosskd_class", "loss_reg_kd": "crosskd_box", "losses_center_kd": "crosskd_centerness"}
WEIGHTS = {"loss_cls_kd": "class_weight", "loss_reg_kd": "box_weight", "loss_center_kd": "centerness_weight"}


def read_network(case: Case, who: str) -> DenseDetector:
    """A detector with the case's head; its backbone is never used."""
    facts = case.facts["config"]
    try:
        kind, options = head_options(facts["head"], facts.get("train_cfg"), facts.get("test_cfg"))
    except Unsupported as error:
        raise NotRunnable(str(error)) from error
    width = facts["head"]["in_channels"]
    config = kind(backbone="resnet18", weights="none", faithful=True, fpn_channels=width, **options)
    network = DenseDetector(config, facts["num_classes"] + 1)
    network.head.load_state_dict(rename_head(case.named(f"{who}.")))
    return network


def look(network: DenseDetector, neck: tuple[Tensor, ...], canvas: tuple[int, int], k: int) -> Outputs:
    towers = network.head.grow(neck, k)
    raw = network.head.predict(towers, k)
    return Outputs(canvas, neck, towers, raw.logits, raw.boxes, raw.quality)


def compare_held(case: Case, student: Towers, teacher: Towers) -> Iterator[Check]:
    for level, maps in enumerate(zip(student, teacher, strict=True)):
        for tower, name in enumerate(("cls", "reg")):
            ours, theirs = maps[0][tower], maps[1][tower]
            named = {"student": ours, "teacher": theirs, "aligned": align([ours], [theirs], None, own)[0]}
            for who, got in named.items():
                if f"hold.{who}.{name}.{level}" in case:
                    yield Check(f"hold.{who}", got, case[f"hold.{who}.{name}.{level}"], OUTPUT)


def run_crosskd(case: Case) -> Iterator[Check]:
    facts = case.facts["config"]
    canvas, distil = tuple(facts["canvas"]), facts["kd_cfg"]
    student, teacher = read_network(case, "student"), read_network(case, "teacher").requires_grad_(False)
    neck = tuple(level.clone().requires_grad_() for level in case.levels("in.fpn"))
    given = {ours: distil[theirs]["loss_weight"] for theirs, ours in WEIGHTS.items() if theirs in distil}
    method = CrossKd(CrossKdConfig(k=distil["reused_teacher_head_idx"], faithful=True, **given), student, teacher, own)
    seen = look(student, neck, canvas, method.k)
    with torch.no_grad():
        taught = look(teacher, tuple(case.levels("in.teacher_fpn")), canvas, method.k)
    assert seen.towers is not None
    assert taught.towers is not None
    truth = read_truth(case)
    yield from compare_held(case, seen.towers, taught.towers)
    cross = teacher.head_from(method.hand_over(seen.towers, taught.towers, truth.sizes_B2), method.k)
    for who, out in (("student", seen), ("teacher", taught), ("cross", cross)):
        if f"out.{who}.cls.0" not in case:
            continue
        for check in compare_raw(raw_of(out), read_raw(case, student.head, f"out.{who}")):
            yield check._replace(quantity=f"{who}.{check.quantity}")

    if "prior.0" in case:
        yield from compare_targets(case, student.head, truth, canvas)
    parts, trained = student.head.terms_by_level(raw_of(seen), truth, canvas, own)
    yield from compare_losses(case, parts)
    yield from compare_normalisers(case, student.head, truth, canvas, trained.weight_BN)
    detection, assigned = student.losses(seen, truth)
    view = View(torch.zeros(len(truth.sizes_B2), 3, *canvas), truth.sizes_B2, truth.boxes_BG4)
    views = Views(
        clean=view, corrupted=view, ratio_B=torch.ones(len(truth.sizes_B2)), labels_BG=truth.labels_BG,
        ignore_BG=truth.ignore_BG, weight_BG=truth.weight_BG, keys_B=truth.keys_B, ids_B=truth.keys_B,
    )  # fmt: skip
    terms, _ = method({"corrupted": seen}, taught, {"corrupted": assigned}, views)
    weighed = {name: method.weights[name] * value for name, value in terms.items()}
    for theirs, ours in TERMS.items():
        if f"loss.{theirs}.sum" in case:
            yield Check(f"loss.{ours}", weighed[ours], case[f"loss.{theirs}.sum"], LOSS)
    if feature := distil.get("loss_feat_kd"):
        pkd = Pkd(PkdConfig(weight=feature["loss_weight"], faithful=True), student, teacher, own)
        (value,) = pkd({"corrupted": seen}, taught, {"corrupted": assigned}, views)[0].values()
        weighed["pkd"] = feature["loss_weight"] * value
    distilled = torch.stack(list(weighed.values())).sum()
    total = torch.stack(list(detection.values())).sum() + distilled
    yield Check("loss.total", total, case["loss.total"], LOSS)
    parameters = dict(student.head.named_parameters())
    for prefix, value in (("grad_kd", distilled), ("grad", total)):
        leaves = [*neck, *parameters.values()]
        gradients = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        found = dict(zip(parameters, gradients[len(neck) :], strict=True))
        # A case may leave out what others record.
        for gradient, expected in zip(gradients, case.levels(f"{prefix}.fpn"), strict=False):
            got = torch.zeros_like(expected) if gradient is None else gradient
            yield Check(f"{prefix}.pyramid", got, expected, GRADIENT)
        for name, expected in case.named(f"{prefix}.student.").items():
            gradient = found[str(own_head_name(name))]
            assert gradient is not None
            yield Check(f"{prefix}.weights", gradient, expected, GRADIENT)
        if prefix == "grad_kd":
            without = {own_head_name(name) for name in case.facts["student_parameters_without_kd_gradient"]}
            reached = {name for name, gradient in found.items() if gradient is not None}
            apart = torch.tensor(len(reached ^ (set(parameters) - without)))
            yield Check("weights that get a gradient", apart, torch.tensor(0), Bound("count", 0))


def raw_of(out: Outputs) -> Raw:
    assert out.logits is not None
    assert out.boxes is not None
    return Raw(out.logits, out.boxes, out.quality)
