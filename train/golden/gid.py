"""GID on given outputs of both networks: regions, crops, matched anchors, terms, gradients."""

from collections.abc import Iterator

import torch

from model.api import Outputs
from model.dense.config import RetinaNetConfig
from model.dense.detector import DenseDetector
from train.distill.general import general_regions
from train.distill.gid import Gid, GidConfig
from train.distill.places import pair_up
from train.golden.cases import EXACT, GRADIENT, LOSS, OUTPUT, PIXELS, SCORE, Case, Check

TERMS = {
    "feature": "loss_distill_feature",
    "relation": "loss_distill_relation",
    "class": "loss_distill_cls_logits",
    "box": "loss_distill_reg_deltas",
}


def run_gid(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    weights = config["weights"]
    options = RetinaNetConfig(
        backbone="resnet18", weights="none", fpn_channels=config["channels"], num_convs=0, anchors_per_octave=1,
        foreground_iou=config["matcher"]["thresholds"][1], background_iou=config["matcher"]["thresholds"][0],
    )  # fmt: skip
    network = DenseDetector(options, config["num_classes"] + 1)
    method = Gid(
        GidConfig(weights["feature"], weights["relation"], weights["cls"], weights["reg"], faithful=True),
        network, network, lambda count: count,
    )  # fmt: skip
    maps, outs = {}, []
    for who in ("student", "teacher"):
        names = ("feat", "cls_logits", "deltas")
        maps[who] = [[level.clone().requires_grad_() for level in case.levels(f"{who}_{name}")] for name in names]
        neck, logits, boxes = (tuple(part) for part in maps[who])
        outs.append(Outputs(tuple(config["canvas"]), neck, logits=logits, boxes=boxes))
    both, networks = (outs[0], outs[1]), (network, network)
    sizes_B2 = torch.tensor(config["image_sizes"], dtype=torch.int32)

    yield Check("anchors", network.head.candidates(both[0].canvas)[0], torch.cat(case.levels("anchors")), PIXELS)
    everywhere = torch.ones(case["response_mask"].shape, dtype=torch.bool)
    regions = general_regions(networks, both, everywhere, sizes_B2)
    for image, (boxes_M4, scores_M) in enumerate(zip(case.levels("gi_boxes"), case.levels("gi_scores"), strict=True)):
        real_R = regions.real_BR[image]
        yield Check("regions", regions.boxes_BR4[image][real_R], boxes_M4, PIXELS)
        yield Check("regions.score", regions.scores_BR[image][real_R], scores_M, SCORE)
    crops = method.crops(pair_up(network.strides, networks, both, None), regions, sizes_B2)
    for who, rows_BRD in zip(("student", "teacher"), crops, strict=True):
        yield Check("crops", rows_BRD[regions.real_BR], case[f"roi_{who}"].flatten(1), OUTPUT)
    matched_BN = method.match(regions, both[0], everywhere)
    yield Check("candidates", matched_BN, case["response_mask"], EXACT)

    terms = {
        "gid_feature": method.feature(*crops, regions),
        "gid_relation": method.relation(*crops, regions),
        **method.response(both, matched_BN),
    }
    leaves = dict(zip(TERMS, (0, 0, 1, 2), strict=True))
    for ours, theirs in TERMS.items():
        loss = method.weights[f"gid_{ours}"] * terms[f"gid_{ours}"]
        yield Check(f"{ours}.loss", loss, case[theirs], LOSS)
        gradients = torch.autograd.grad(loss, maps["student"][leaves[ours]], retain_graph=True)
        for level, gradient in enumerate(gradients):
            yield Check(f"{ours}.gradient", gradient, case[f"grad.{theirs}.{level}"], GRADIENT)
