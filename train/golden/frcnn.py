"""CrossKD for Faster R-CNN on given pyramids and regions: predictions of both box heads, both terms, their gradient.

The original pools with another RoIAlign than ours (aligned, as many samples as fit), so the crops are made here. Its
sampling is random: the recorded regions are used.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import roi_align

from model.api import own
from model.boxes.boxes import area
from model.config import small_model
from model.faster_rcnn.detector import FasterRcnn
from train.distill.crosskd_roi import CrossKdRoi, CrossKdRoiConfig
from train.distill.pkd import pkd_loss
from train.golden.cases import GRADIENT, LOSS, OUTPUT, Case, Check

STRIDES = (4, 8, 16, 32)
SIZE = 7
TERMS = {"loss_cls_kd": "crosskd_roi_class", "loss_reg_kd": "crosskd_roi_box"}


class BoxHead(nn.Module):
    """torchvision's layers, as ours has them, with a case's weights; theirs has the background last."""

    def __init__(self, case: Case, who: str):
        super().__init__()
        weights = case.named(f"{who}.roi_head.bbox_head.")
        width, inputs = weights["shared_fcs.0.weight"].shape
        self.num_classes = case.facts["config"]["num_classes"] + 1
        self.layers = TwoMLPHead(inputs, width)
        self.predictor = FastRCNNPredictor(width, self.num_classes)
        for part in ("weight", "bias"):
            state = {
                f"layers.fc6.{part}": weights[f"shared_fcs.0.{part}"],
                f"layers.fc7.{part}": weights[f"shared_fcs.1.{part}"],
                f"predictor.cls_score.{part}": weights[f"fc_cls.{part}"].roll(1, 0),
                f"predictor.bbox_pred.{part}": torch.cat(
                    (torch.zeros_like(weights[f"fc_reg.{part}"][:4]), weights[f"fc_reg.{part}"])
                ),
            }
            self.load_state_dict(state, strict=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        logits_NK, deltas_N = self.predictor(self.layers(crops))
        return logits_NK, deltas_N.unflatten(1, (self.num_classes, 4))


def pool(neck: list[Tensor], rois_N5: Tensor) -> Tensor:
    level_N = torch.floor(torch.log2(area(rois_N5[:, 1:]).sqrt() / 56 + 1e-6)).clamp(0, 3)
    crops = torch.zeros(len(rois_N5), neck[0].shape[1], SIZE, SIZE)
    for level, stride in enumerate(STRIDES):
        mine_N = level_N == level
        found = roi_align(neck[level], rois_N5[mine_N], SIZE, 1 / stride, 0, True)
        crops = crops.index_put((mine_N.nonzero()[:, 0],), found)
    return crops


def run_frcnn(case: Case) -> Iterator[Check]:
    distil, rois_N5 = case.facts["config"]["kd_cfg"], case["roi.rois"]
    neck = [level.clone().requires_grad_() for level in case.levels("in.fpn")]
    taught = case.levels("in.teacher_fpn")
    teacher = BoxHead(case, "teacher").requires_grad_(False)
    found = {
        "student": BoxHead(case, "student")(pool(neck, rois_N5)),
        "teacher": teacher(pool(taught, rois_N5)),
        "cross": teacher(pool(neck, rois_N5)),
    }
    for who, (logits_NK, deltas_NK4) in found.items():
        yield Check(f"{who}.class", logits_NK.roll(-1, 1), case[f"out.{who}.cls"], OUTPUT)
        yield Check(f"{who}.box", deltas_NK4[:, 1:].flatten(1), case[f"out.{who}.reg"], OUTPUT)

    counts = case["roi.num_per_image"].tolist()
    state_BR = torch.full((len(counts), max(counts)), -1)
    for image, (count, positives) in enumerate(zip(counts, case["roi.num_pos"].tolist(), strict=True)):
        state_BR[image, :count] = 0
        state_BR[image, :positives] = 1
    real_BR = state_BR >= 0

    def by_image(values_N: Tensor) -> Tensor:
        rows = torch.zeros(*state_BR.shape, *values_N.shape[1:])
        return rows.index_put(torch.where(real_BR), values_N)

    network = FasterRcnn(small_model(), case.facts["config"]["num_classes"] + 1)
    config = CrossKdRoiConfig(
        distil["loss_cls_kd"]["loss_weight"], distil["loss_reg_kd"]["loss_weight"], distil["loss_cls_kd"]["T"], True
    )
    method = CrossKdRoi(config, network, network, own)
    sides = [tuple(by_image(part) for part in found[who]) for who in ("cross", "teacher")]
    terms, _ = method.compare((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]), state_BR)
    weighed = {name: method.weights[name] * value for name, value in terms.items()}
    for theirs, ours in TERMS.items():
        yield Check(ours, weighed[ours], case[f"loss.{theirs}.sum"], LOSS)
    if "loss_feat_kd" in distil:
        pairs = zip(neck, taught, strict=True)
        pkd = distil["loss_feat_kd"]["loss_weight"] * torch.stack([pkd_loss(*pair) for pair in pairs]).sum()
        yield Check("pkd", pkd, case["loss.losses_feat_kd.sum"], LOSS)
    gradients = torch.autograd.grad(torch.stack(list(weighed.values())).sum(), neck, materialize_grads=True)
    for level, gradient in enumerate(gradients):
        if f"grad_kd.fpn.{level}" in case:
            yield Check("gradient.pyramid", gradient, case[f"grad_kd.fpn.{level}"], GRADIENT)
