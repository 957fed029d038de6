"""torchvision's own RetinaNet and FCOS with our weights, to export to and to compare with."""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model.backbones.torchvision_fpn import build_backbone
from model.dense.config import FcosConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.dense.retinanet import whole_sizes
from model.weights.foreign import as_option

NAMES = {
    "class_tower": "classification_head.conv",
    "box_tower": "regression_head.conv",
    "class_output": "classification_head.cls_logits",
    "box_output": "regression_head.bbox_reg",
    "quality_output": "regression_head.bbox_ctrness",
}
# Of label 0, which torchvision gives an output and nobody trains: its probability is 0 in float32.
NEVER = -200.0
TOWER = 4  # convolutions of torchvision's RetinaNet


def missing_options(config: RetinaNetConfig | FcosConfig) -> list[str]:
    """Options with which the detector would be torchvision's; none where it is."""
    needed: dict[str, Any] = {"style": "torchvision", "coarse_relu": True, "head_channels": config.fpn_channels}
    if isinstance(config, FcosConfig):
        needed |= {"distances": "relu", "centerness_from": "box", "norm_groups": 32, "start_distance": 0.0}
    else:
        needed |= {"num_convs": TOWER, "tower_bias": False}
    # Where the two are equally wide torchvision takes the pyramid's map.
    if config.entry.channels[config.resolved_returned_layers[-1]] == config.fpn_channels:
        needed["coarse_from"] = "p5"
    missing = {name: value for name, value in needed.items() if getattr(config, name) != value}
    return [as_option(name.replace("_", "-"), value) for name, value in missing.items()]


def numbers(config: RetinaNetConfig | FcosConfig) -> dict[str, Any]:
    """The keyword arguments of torchvision's constructors that are plain numbers."""
    arguments: dict[str, Any] = {
        "score_thresh": config.score_threshold,
        "nms_thresh": config.nms_threshold,
        "detections_per_img": config.detections_per_image,
        "topk_candidates": config.candidates_per_level,
    }
    if isinstance(config, RetinaNetConfig):
        arguments |= {"fg_iou_thresh": config.foreground_iou, "bg_iou_thresh": config.background_iou}
    return arguments


def build_dense(config: RetinaNetConfig | FcosConfig, num_classes: int) -> RetinaNet | FCOS:
    """The same detector as torchvision alone would run it, stock frozen norm included."""

    def coarse(stage_channels: int) -> LastLevelP6P7:
        return LastLevelP6P7(stage_channels if config.coarse_from == "c5" else config.fpn_channels, config.fpn_channels)

    backbone = build_backbone(config, coarse, stock=True)
    if isinstance(config, FcosConfig):
        head = FCOSHead(config.fpn_channels, 1, num_classes, config.num_convs)
        return FCOS(backbone, num_classes, head=head, **numbers(config))
    sizes = whole_sizes(config)
    anchors = AnchorGenerator(sizes, (config.anchor_ratios,) * len(sizes))
    norm = partial(nn.GroupNorm, config.norm_groups) if config.norm_groups else None
    head = RetinaNetHead(config.fpn_channels, anchors.num_anchors_per_location()[0], num_classes, norm)
    return RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **numbers(config))


def stock_state(detector: DenseDetector) -> dict[str, Tensor]:
    """Our weights under torchvision's names, with an output for label 0."""
    config: Any = detector.config
    state = detector.state_dict()
    per_location = detector.head.per_location
    for name, value in (("weight", 0.0), ("bias", NEVER)):
        each = state[f"head.class_output.{name}"].unflatten(0, (per_location, -1))
        zeroth = torch.full_like(each[:, :1], value)
        state[f"head.class_output.{name}"] = torch.cat((zeroth, each), dim=1).flatten(0, 1)
    if isinstance(config, FcosConfig):
        for level in range(len(config.strides)):
            if (scale := float(state.pop(f"head.scales.{level}"))) != 1:
                raise ValueError(
                    f"--to torchvision: this FCOS scales the distances of level {level} by {scale:g}, torchvision's "
                    "cannot; train it with --model.style torchvision, or use --to onnx or torch"
                )
        if not config.tower_bias:  # torchvision's convolutions have one
            for tower in ("class_tower", "box_tower"):
                for index in range(config.num_convs):
                    weight = state[f"head.{tower}.{index}.0.weight"]
                    state[f"head.{tower}.{index}.0.bias"] = weight.new_zeros(len(weight))
    return {rename(name, isinstance(config, FcosConfig)): value.contiguous() for name, value in state.items()}


def rename(name: str, flat: bool) -> str:
    """Our name of a weight as torchvision's. flat: its towers count convolution, norm and ReLU (FCOS)."""
    found = re.match(r"head\.(\w+?)\.(.*)", name)
    if found is None:
        return name
    part, rest = found.groups()
    if flat and part.endswith("tower"):
        index, layer, kind = rest.split(".")
        rest = f"{3 * int(index) + int(layer)}.{kind}"
    return f"head.{NAMES[part]}.{rest}"


def stock_twin(detector: DenseDetector) -> RetinaNet | FCOS:
    """torchvision's detector with the weights, mode and device of ours."""
    config: Any = detector.config
    stock = build_dense(config, detector.num_classes)
    stock.load_state_dict(stock_state(detector))
    return stock.to(detector.head.class_output.weight.device).train(detector.training)
