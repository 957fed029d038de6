"""A checkpoint for other tools: ONNX, a torch.export program, or a torchvision state dict.

    python -m model.export runs/student --to onnx --canvas 608 1024

The ONNX model and the program take uint8 RGB images (batch, 3, height, width), top left aligned in a fixed canvas. They
also take the images' sizes (batch, 2) as int64 (height, width). The batch is free. They return boxes (batch, D, 4) in
pixels, scores, labels (1 is the first class) and the number of detections of each image. Normalisation, padding and
suppression are inside; resizing is not (docs/model.md has an example).
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from kernels.launch.resize import DEVIATION, MEAN
from model.api import Detector
from model.backbones.torchvision_fpn import rcnn_numbers
from model.config import ModelConfig
from model.weights.checkpoint import Card, load_detector
from pipeline.command.console import run_entry, say

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "count")
SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "torchvision": ".pth"}


class Deployed(nn.Module):
    """Pixels in, detections out."""

    mean_3: Tensor
    deviation_3: Tensor

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector.eval()
        self.register_buffer("mean_3", torch.tensor(MEAN) * 255)
        self.register_buffer("deviation_3", torch.tensor(DEVIATION) * 255)

    def forward(self, images_B3HW: Tensor, sizes_B2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = images_B3HW.shape[-2:]
        normal_B3HW = (images_B3HW.float() - self.mean_3[:, None, None]) / self.deviation_3[:, None, None]
        # Padding is zero after normalisation, as in training.
        rows_BH = torch.arange(height) < sizes_B2[:, :1]
        columns_BW = torch.arange(width) < sizes_B2[:, 1:]
        inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
        found = self.detector.detect(torch.where(inside_B1HW, normal_B3HW, 0.0), sizes_B2)
        return found.boxes_BD4, found.scores_BD, found.labels_BD, found.count_B


def example(canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two images: an exporter takes a batch of one for a constant."""
    return torch.zeros((2, 3, *canvas), dtype=torch.uint8), torch.tensor([canvas, canvas])


def dynamic_shapes() -> dict:
    batch = torch.export.Dim("batch", min=1, max=1024)
    return {"images_B3HW": {0: batch}, "sizes_B2": {0: batch}}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning about torchvision's own description of its suppression, which the user cannot fix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
        yield


@quiet()
def export_program(detector: Detector, canvas: tuple[int, int]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(Deployed(detector), example(canvas), dynamic_shapes=dynamic_shapes(), strict=False)


def describe_inputs(card: Card, canvas: tuple[int, int]) -> dict[str, str]:
    """What the exported model takes, in words."""
    h, w = canvas
    resized = "resized to the size it was trained with"
    if "short_side" in card.extra:
        resized = f"resized by min({card.extra['short_side']} / short side, {card.extra['long_side']} / long side)"
    return {
        "images": f"uint8 RGB, B x 3 x {h} x {w}; each image {resized}, at the top left, zeros right of and below it",
        "sizes": f"int64, B x 2; (height, width) of each resized image, at most ({h}, {w})",
    }


@quiet()
def export_onnx(detector: Detector, card: Card, canvas: tuple[int, int], path: Path) -> None:
    """One file; its metadata say, as JSON, the classes, the canvas, the training size and what goes in."""
    program = torch.onnx.export(
        export_program(detector, canvas),
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    known = {name: card.extra[name] for name in ("short_side", "long_side") if name in card.extra}
    about = {"classes": card.classes, "canvas": canvas, **known, "inputs": describe_inputs(card, canvas)}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
    program.save(path)


def torchvision_constructor(config: ModelConfig, num_classes: int) -> str:
    """Python that builds torchvision's module for the exported state dict."""
    names = {
        "resnet50": "fasterrcnn_resnet50_fpn",
        "mobilenet_v3_large": "fasterrcnn_mobilenet_v3_large_fpn",
    }
    usual = ModelConfig(backbone=config.backbone)
    shape = ("returned_layers", "fpn_channels", "representation_size", "anchor_sizes", "anchor_ratios")
    fixed = (*shape, "roi_canonical_scale", "norm_epsilon")
    if config.backbone in names and all(getattr(config, name) == getattr(usual, name) for name in fixed):
        defaults = rcnn_numbers(usual)
        other = "".join(f", {name}={value}" for name, value in rcnn_numbers(config).items() if value != defaults[name])
        build = f"torchvision.models.detection.{names[config.backbone]}"
        return f"{build}(weights=None, weights_backbone=None, num_classes={num_classes}{other})"
    changed = [item.name for item in fields(config) if getattr(config, item.name) != item.default]
    arguments = ", ".join(f"{name}={getattr(config, name)!r}" for name in changed)
    return f"model.backbones.torchvision_fpn.build_torchvision(model.config.ModelConfig({arguments}), {num_classes})"


def loading_code(card: Card, path: Path) -> str:
    """Python that loads the exported state dict; for what torchvision has no constructor it needs this package."""
    assert isinstance(card.config, ModelConfig)
    build = torchvision_constructor(card.config, len(card.classes) + 1)
    own = ["import model.backbones.torchvision_fpn", "import model.config"]
    lines = ["import torch", *(own if build.startswith("model.") else ["import torchvision"]), f"detector = {build}"]
    lines.append(f"detector.load_state_dict(torch.load({str(path)!r}, weights_only=True))")
    if "short_side" in card.extra:  # torchvision resizes images itself, to 800 x 1333 unless it is told
        sides = f"({card.extra['short_side']},), {card.extra['long_side']}"
        lines.append(f"detector.transform.min_size, detector.transform.max_size = {sides}")
    return "\n".join([*lines, "detector.eval()"])


@dataclass(frozen=True)
class Options:
    """Write a checkpoint for another tool."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run, a checkpoint directory, or torchvision's or mmdetection's weights."""
    to: Literal["onnx", "torch", "torchvision"]
    """onnx: ONNX Runtime and others. torch: torch.export.load. torchvision: a plain state dict."""
    canvas: tuple[int, int] = (608, 1024)
    """Height and width of the images, multiples of 32 (onnx and torch)."""
    classes: tuple[str, ...] | None = None
    """Class names without background, of weights that name none."""
    out: Path | None = None
    """Default: the checkpoint's name beside it, with the tool's suffix."""


def export(options: Options) -> Path:
    missing = [name for name in ("onnx", "onnxscript") if options.to == "onnx" and find_spec(name) is None]
    if missing:
        raise ValueError(f"--to onnx needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    detector, card = load_detector(options.checkpoint, classes=options.classes)
    base = options.checkpoint if options.checkpoint.is_dir() else options.checkpoint.with_suffix("")
    path = options.out or base.with_name(base.name + "-export" + SUFFIX[options.to])
    if any(side < 32 or side % 32 for side in options.canvas):
        raise ValueError(f"--canvas: got {options.canvas}; both sides must be multiples of 32")
    if options.to == "torchvision":
        if not isinstance(card.config, ModelConfig):
            raise ValueError(
                f"--to torchvision writes a Faster R-CNN; this is a {card.config.kind}: use --to onnx or torch"
            )
        if card.config.style != "torchvision" or not card.config.sees_imagenet:
            raise ValueError(
                "--to torchvision: this detector has mmdetection's anchors and regions, or takes other pixels than "
                "torchvision's; use --to onnx or torch"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.to == "torchvision":
        torch.save({name: value.contiguous() for name, value in detector.state_dict().items()}, path)
        say(f"load it with:\n\n{loading_code(card, path)}\n")
        if "short_side" not in card.extra:
            say("torchvision resizes images itself, to 800 x 1333 unless transform.min_size and max_size say otherwise")
    elif options.to == "torch":
        say("exporting; this takes about a minute")
        torch.export.save(export_program(detector, options.canvas), path)
        say("load it with: import torch, torchvision; torch.export.load(path).module()")
    else:
        say("exporting; this takes about a minute")
        export_onnx(detector, card, options.canvas, path)
    say(f"wrote {path}; classes: {', '.join(card.classes)}")
    return path


def main() -> None:
    export(tyro.cli(Options))


if __name__ == "__main__":
    run_entry(main)
