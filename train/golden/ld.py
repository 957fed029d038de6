"""LD on GFL (its terms, its region) on given raw predictions of both networks."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from model.api import Outputs, Truth, own
from model.dense.config import GflConfig
from model.dense.gfl import GflHead
from model.dense.head import Raw, to_rows
from train.distill.ld import Ld, LdConfig
from train.golden.cases import EXACT, GRADIENT, LOSS, OUTPUT, Case, Check

TERMS = {"loss_ld": "ld_main", "loss_ld_vlr": "ld_valuable", "loss_kd": "ld_class"}


def read_head(case: Case) -> GflHead:
    config = case.facts["config"]
    options = GflConfig(weights="none", faithful=True, num_bins=config["reg_max"] + 1)
    return GflHead(options, config["num_classes"] + 1, 256, tuple(config["strides"]))


def read_truth(case: Case) -> Truth:
    config = case.facts["config"]
    pads = config.get("pad_shapes", [config["canvas"]] * config["images"])
    boxes, labels = case.levels("gt_boxes"), case.levels("gt_labels")
    num_slots = max(map(len, boxes))
    boxes_BG4, labels_BG = torch.zeros(len(pads), num_slots, 4), torch.zeros(len(pads), num_slots, dtype=torch.int64)
    for image, own_N4 in enumerate(boxes):
        boxes_BG4[image, : len(own_N4)] = own_N4
        labels_BG[image, : len(own_N4)] = labels[image] + 1
    nothing = torch.zeros(labels_BG.shape, dtype=torch.bool)
    sizes_B2 = torch.tensor(pads, dtype=torch.int32)
    return Truth(sizes_B2, boxes_BG4, labels_BG, nothing, torch.ones(labels_BG.shape), torch.arange(len(pads)))


def read_outputs(case: Case, who: str) -> tuple[Outputs, tuple[list[Tensor], ...]]:
    """What a network said, and its recorded maps (class logits, bin logits, pyramid), which carry gradients."""
    maps = tuple(
        [level.clone().requires_grad_(who == "student") for level in case.levels(f"{who}_{part}")]
        for part in ("cls_logits", "bin_logits", "feat")
    )
    logits, boxes = (tuple(to_rows(level, level.shape[1]) for level in part) for part in maps[:2])
    return Outputs(tuple(case.facts["config"]["canvas"]), tuple(maps[2]), logits=logits, boxes=boxes), maps


def assign(head: GflHead, out: Outputs, truth: Truth):
    assert out.logits is not None
    assert out.boxes is not None
    return head.terms_by_level(Raw(out.logits, out.boxes), truth, out.canvas, own)


def sparse(case: Case, prefix: str, like: Tensor) -> Tensor:
    """A gradient of which only the rows that are not zero were recorded."""
    rows = torch.zeros(like.shape[0] * like[0, 0].numel(), like.shape[1])
    if f"{prefix}.rows" in case:
        rows[case[f"{prefix}.rows"]] = case[f"{prefix}.values"]
    return rows.unflatten(0, (like.shape[0], *like.shape[2:])).permute(0, 3, 1, 2)


def run_ld(case: Case) -> Iterator[Check]:
    head, truth = read_head(case), read_truth(case)
    student, maps = read_outputs(case, "student")
    teacher, _ = read_outputs(case, "teacher")
    _, trained = assign(head, student, truth)
    network: Any = SimpleNamespace(strides=head.strides, config=head.config, num_classes=head.num_classes)
    method = Ld(LdConfig(faithful=True), network, network, own)
    counts = head.level_counts(student.canvas)
    for level, state_BN in enumerate(trained.state_BN.split(counts, dim=1)):
        yield Check("positives", state_BN == 1, case[f"positive_mask.{level}"], EXACT)

    regions: dict[Literal["released", "paper"], str] = {"released": "", "paper": "corrected."}
    for region, prefix in regions.items():
        other = Ld(LdConfig(region=region, faithful=True), network, network, own)
        region_BN = other.valuable_region(trained.candidates_BN4, counts, truth, student.canvas)
        for level, weight_BN in enumerate(region_BN.split(counts, dim=1)):
            expected = case[f"{prefix}vlr_weight.{level}"]
            yield Check(f"{region} region", weight_BN > 0, expected > 0, EXACT)
            yield Check(f"{region} region.weight", weight_BN, expected, OUTPUT)
        term_L = other.terms_by_level(student, teacher, trained, truth)["ld_valuable"]
        yield Check(f"{region} region.loss", 0.25 * term_L, case[f"{prefix}loss_ld_vlr"], LOSS)

    parts = method.terms_by_level(student, teacher, trained, truth)
    for theirs, ours in TERMS.items():
        part_L = method.weights[ours] * parts[ours]
        yield Check(ours, part_L, case[theirs], LOSS)
        leaves = [*maps[0], *maps[1]]
        gradients = torch.autograd.grad(part_L.sum(), leaves, retain_graph=True, materialize_grads=True)
        names = [f"{name}.{level}" for name in ("student_cls_logits", "student_bin_logits") for level in range(5)]
        for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
            yield Check(f"{ours}.gradient", gradient, sparse(case, f"grad.{theirs}.{name}", leaf), GRADIENT)
