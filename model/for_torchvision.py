"""A detector's state dict under torchvision's names, and the lines that load it there, checked by loading it."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN, BackboneConfig
from model.backbones.torchvision_fpn import build_torchvision, rcnn_numbers
from model.compared import check_same, pictures
from model.config import ModelConfig
from model.dense.config import FcosConfig, RetinaNetConfig
from model.dense.stock import build_dense, missing_options, numbers, stock_state
from model.weights.checkpoint import Card
from pipeline.files.replace import replacing

Ours = ModelConfig | RetinaNetConfig | FcosConfig
# What torchvision's constructors do not take: they build a ResNet-50 or MobileNetV3 pyramid with these values.
BODY = ("fpn_channels", "norm_epsilon", "stride_in_1x1")
REGIONS = ("returned_layers", "representation_size", "anchor_sizes", "anchor_ratios", "roi_canonical_scale")
ANCHORS = ("anchor_base", "anchors_per_octave", "anchor_ratios")
DENSE = {
    "retinanet_resnet50_fpn": RetinaNetConfig(coarse_from="p5"),
    "retinanet_resnet50_fpn_v2": RetinaNetConfig(norm_groups=32),
    "fcos_resnet50_fpn": FcosConfig(),
}
TWO_STAGE = {
    "fasterrcnn_resnet50_fpn": ModelConfig(backbone="resnet50"),
    "fasterrcnn_mobilenet_v3_large_fpn": ModelConfig(backbone="mobilenet_v3_large"),
}


def find_constructor(config: Ours) -> str | None:
    """The function of torchvision that builds this detector, up to plain numbers."""
    fixed: tuple[str, ...] = (*BODY, *REGIONS)
    known: Mapping[str, BackboneConfig] = TWO_STAGE
    if not isinstance(config, ModelConfig):
        fixed, known = (*BODY, "coarse_from", "num_convs", "norm_groups"), DENSE
        fixed += ANCHORS if isinstance(config, RetinaNetConfig) else ()
    for name, usual in known.items():
        alike = type(usual) is type(config) and usual.backbone == config.backbone
        if alike and all(getattr(config, field) == getattr(usual, field) for field in fixed):
            return name
    return None


def builder_of(config: Ours) -> str:
    """Our function that builds it from torchvision's parts, with its module."""
    build: Any = build_torchvision if isinstance(config, ModelConfig) else build_dense
    return f"{build.__module__}.{build.__name__}"


def torchvision_constructor(config: Ours, num_classes: int) -> str:
    """Python that builds torchvision's module for the exported state dict."""
    name = find_constructor(config)
    if name is not None:
        if isinstance(config, ModelConfig):
            wanted, usual = rcnn_numbers(config), rcnn_numbers(TWO_STAGE[name])
        else:  # torchvision's own defaults are not ours: all of them are given
            wanted, usual = numbers(config), {}
        other = "".join(f", {key}={value}" for key, value in wanted.items() if value != usual.get(key))
        build = f"torchvision.models.detection.{name}"
        return f"{build}(weights=None, weights_backbone=None, num_classes={num_classes}{other})"
    changed = [item.name for item in fields(config) if getattr(config, item.name) != item.default]
    arguments = ", ".join(f"{name}={getattr(config, name)!r}" for name in changed)
    made = f"{type(config).__module__}.{type(config).__name__}({arguments})"
    return f"{builder_of(config)}({made}, {num_classes})"


def loading_code(card: Card, path: Path) -> str:
    """Python that loads the exported state dict; for what torchvision has no constructor it needs this package."""
    config = card.config
    assert isinstance(config, Ours)
    build = torchvision_constructor(config, len(card.classes) + 1)
    own = [f"import {builder_of(config).rpartition('.')[0]}", f"import {type(config).__module__}"]
    lines = ["import torch", *(own if build.startswith("model.") else ["import torchvision"]), f"detector = {build}"]
    lines.append(f"detector.load_state_dict(torch.load({str(path)!r}, weights_only=True))")
    if "short_side" in card.extra:  # torchvision resizes images itself, to 800 x 1333 unless it is told
        sides = f"({card.extra['short_side']},), {card.extra['long_side']}"
        lines.append(f"detector.transform.min_size, detector.transform.max_size = {sides}")
    return "\n".join([*lines, "detector.eval()"])


def torchvision_state(detector: nn.Module, config: Any) -> dict[str, Tensor]:
    """The weights under torchvision's names; a detector that torchvision cannot be is refused."""
    if not isinstance(config, Ours):
        raise ValueError(
            f"--to torchvision writes a Faster R-CNN, RetinaNet or FCOS; this is a {config.kind}: use --to onnx or "
            "torch"
        )
    if not config.sees_imagenet:
        raise ValueError(
            "--to torchvision: this detector takes other pixels or inputs than torchvision's; use --to onnx or torch"
        )
    if isinstance(config, ModelConfig):
        if config.style != "torchvision":
            raise ValueError(
                "--to torchvision: this detector has mmdetection's anchors and regions; use --to onnx or torch"
            )
        return {name: value.contiguous() for name, value in detector.state_dict().items()}
    if missing := missing_options(config):
        raise ValueError(
            f"--to torchvision: torchvision's {config.kind} is one trained with {' '.join(missing)}, this was not; use "
            "--to onnx or torch"
        )
    return stock_state(detector)  # type: ignore[arg-type]


@torch.no_grad()
def check_dense(
    state: Mapping[str, Tensor], deployed: nn.Module, config: RetinaNetConfig | FcosConfig, num_classes: int
) -> str:
    """Load the state dict strictly into torchvision's own module and require the detections of ours."""
    stock = build_dense(config, num_classes)
    stock.load_state_dict(dict(state))
    canvas = (256, 384)
    mean, deviation = ([value / 255 for value in values] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    stock.transform = GeneralizedRCNNTransform(*canvas, mean, deviation)
    images, sizes = pictures(2, canvas)
    sizes[:] = torch.tensor(canvas)
    wanted = deployed(images, sizes)
    found = [torch.zeros_like(values) for values in wanted]
    for row, each in enumerate(stock.eval()([image / 255 for image in images])):
        found[3][row] = count = len(each["scores"])
        for values, name in zip(found, ("boxes", "scores", "labels"), strict=False):
            values[row, :count] = each[name].to(values.dtype)
    return check_same(found, wanted, config.score_threshold, "torchvision")


def write_torchvision(deployed: nn.Module, card: Card, path: Path) -> Iterator[str]:
    """Write the state dict of a deployed detector; yields what to tell the user."""
    detector: Any = deployed.detector
    state = torchvision_state(detector, card.config)
    told = []
    # A Faster R-CNN's weights are torchvision's own as they are, those of the others were renamed.
    if not isinstance(card.config, ModelConfig):
        checked = check_dense(state, deployed, card.config, detector.num_classes)  # type: ignore[arg-type]
        told = [f"checked in torchvision: {checked}"]
    with replacing(path) as temporary:
        torch.save(state, temporary)
    yield f"load it with:\n\n{loading_code(card, path)}\n"
    if "short_side" not in card.extra:
        yield "torchvision resizes images itself: 800 x 1333 unless transform.min_size and max_size say otherwise"
    yield from told
    yield f"wrote {path}; classes: {', '.join(card.classes)}"
