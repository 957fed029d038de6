"""LD on GFL: its terms, its region and its imitation of features, on given outputs of both networks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from model.api import Assigned, Outputs, Truth, own
from model.boxes.annotated import annotated
from model.dense.config import GflConfig
from model.dense.detector import DenseDetector
from model.dense.head import to_rows
from train.distill.imitation import Imitation, ImitationConfig, Region
from train.distill.ld import Ld, LdConfig
from train.distill.places import pair_up
from train.golden.cases import EXACT, GRADIENT, LOSS, OUTPUT, Case, Check, NotRunnable

# Our regions and the names that LD's code has for them; ld_gfl records one and names none.
REGIONS: dict[Region, str] = {
    "inside": "fitnet.",
    "decoupled": "decouple_corrected.",
    "general": "gibox.",
}
TERMS = {"loss_ld": "ld_main", "loss_ld_vlr": "ld_valuable", "loss_kd": "ld_class"}


def read_network(case: Case) -> DenseDetector:
    """A GFL with the shapes of a case; only its anchors and its decoding are used."""
    config = case.facts["config"]
    options = GflConfig(
        backbone="resnet18", weights="none", faithful=True, fpn_channels=config["feat_channels"], num_convs=0,
        num_bins=config["reg_max"] + 1,
    )  # fmt: skip
    return DenseDetector(options, config["num_classes"] + 1)


def read_config(case: Case) -> LdConfig:
    main, valuable, classes = (case.facts["config"][name] for name in ("loss_ld", "loss_ld_vlr", "loss_kd"))
    if main["T"] != valuable["T"]:
        raise NotRunnable("LD with two temperatures of sides")
    return LdConfig(main["weight"], valuable["weight"], classes["weight"], main["T"], classes["T"], faithful=True)


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


def sparse(case: Case, prefix: str, like: Tensor) -> Tensor:
    """A gradient of which only the rows that are not zero were recorded."""
    rows = torch.zeros(like.shape[0] * like[0, 0].numel(), like.shape[1])
    if f"{prefix}.rows" in case:
        rows[case[f"{prefix}.rows"]] = case[f"{prefix}.values"]
    return rows.unflatten(0, (like.shape[0], *like.shape[2:])).permute(0, 3, 1, 2)


def run_ld(case: Case) -> Iterator[Check]:
    network, truth = read_network(case), read_truth(case)
    student, maps = read_outputs(case, "student")
    teacher, _ = read_outputs(case, "teacher")
    trained = network.losses(student, truth)[1]
    counts = network.head.level_counts(student.canvas)
    for level, state_BN in enumerate(trained.state_BN.split(counts, dim=1)):
        labels_BN = case[f"labels.{level}"]
        yield Check("positives", state_BN == 1, labels_BN < network.num_classes - 1, EXACT)
    yield from run_imitation(case, network, (student, teacher), maps[2], trained, truth)
    if "loss_ld" not in case:
        return

    config = read_config(case)
    method = Ld(config, network, network, own)
    regions: dict[Literal["released", "paper"], str] = {"released": "", "paper": "corrected."}
    for region, prefix in regions.items():
        other = Ld(replace(config, region=region), network, network, own)
        region_BN = other.valuable_region(trained.candidates_BN4, counts, truth, student.canvas)
        for level, weight_BN in enumerate(region_BN.split(counts, dim=1)):
            expected = case[f"{prefix}vlr_weight.{level}"]
            yield Check(f"{region} region", weight_BN > 0, expected > 0, EXACT)
            yield Check(f"{region} region.weight", weight_BN, expected, OUTPUT)
        term_L = other.terms_by_level(student, teacher, trained, truth)["ld_valuable"]
        expected = case[f"{prefix}loss_ld_vlr"]
        yield Check(f"{region} region.loss", config.valuable_weight * term_L, expected, LOSS)

    parts = method.terms_by_level(student, teacher, trained, truth)
    for theirs, ours in TERMS.items():
        part_L = method.weights[ours] * parts[ours]
        yield Check(ours, part_L, case[theirs], LOSS)
        leaves = [*maps[0], *maps[1]]
        gradients = torch.autograd.grad(part_L.sum(), leaves, retain_graph=True, materialize_grads=True)
        names = [f"{name}.{level}" for name in ("student_cls_logits", "student_bin_logits") for level in range(5)]
        for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
            yield Check(f"{ours}.gradient", gradient, sparse(case, f"grad.{theirs}.{name}", leaf), GRADIENT)


def run_imitation(
    case: Case,
    network: DenseDetector,
    outs: tuple[Outputs, Outputs],
    maps: list[Tensor],
    trained: Assigned,
    truth: Truth,
) -> Iterator[Check]:
    """Every selection that the case has, faithful; and what an image selects alone."""
    names = REGIONS | ({"fine_grained": ""} if "loss_im" in case else {"fine_grained": "finegrained."})
    for region, theirs in names.items():
        if f"{theirs}loss_im" not in case:
            continue
        weight = case.facts["config"]["loss_im"]["weight"]
        method = Imitation(ImitationConfig(weight, region, faithful=True), network, network, own)
        pairs = pair_up(network.strides, (network, network), outs, None)
        masks = method.places(pairs, outs, trained, annotated(truth), truth.sizes_B2)
        for level, mask_BHW in enumerate(masks):
            if f"{theirs}mask.{level}" in case:
                yield Check(f"{region}.places", mask_BHW.flatten(1), case[f"{theirs}mask.{level}"], EXACT)
            if f"{theirs}index.{level}" in case:
                yield Check(
                    f"{region}.places", mask_BHW.flatten(), marks(case, f"{theirs}index.{level}", mask_BHW), EXACT
                )
        loss_L = method.weights["imitation"] * method.losses_by_level(pairs, masks, trained, outs[0], truth.sizes_B2)
        yield Check(f"{region}.loss", loss_L, case[f"{theirs}loss_im"], LOSS)
        gradients = torch.autograd.grad(loss_L.sum(), maps, materialize_grads=True)
        for level, gradient in enumerate(gradients):
            if theirs:
                expected = case[f"{theirs}grad_student_feat.{level}"]
            else:
                expected = sparse(case, f"grad.loss_im.student_feat.{level}", gradient)
            yield Check(f"{region}.gradient", gradient, expected, GRADIENT)
    if "gibox.index_single_image.0.0" in case:
        method = Imitation(ImitationConfig(region="general"), network, network, own)
        pairs = pair_up(network.strides, (network, network), outs, None)
        masks = method.places(pairs, outs, trained, annotated(truth), truth.sizes_B2)
        for level, mask_BHW in enumerate(masks):
            for image, mask_HW in enumerate(mask_BHW):
                expected = marks(case, f"gibox.index_single_image.{image}.{level}", mask_HW)
                yield Check("general.places of an image", mask_HW.flatten(), expected, EXACT)


def marks(case: Case, name: str, mask: Tensor) -> Tensor:
    """A recorded selection of places as a mask."""
    selected = torch.zeros(mask.numel(), dtype=torch.bool)
    selected[case[name]] = True
    return selected
