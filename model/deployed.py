"""A detector as other tools run it: pixels in, detections out, checked against the detector itself."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.api import Detector
from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN, RGB
from model.backbones.torchvision_fpn import rcnn_numbers
from model.config import ModelConfig
from model.weights.checkpoint import Card, load_detector
from pipeline.files.replace import replacing

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "count")
PIXELS, SCORES = 0.05, 1e-3  # what rounding may change; both are a hundred times what was measured


class Deployed(nn.Module):
    """Pixels in, detections out."""

    mean_3: Tensor
    deviation_3: Tensor

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector.eval()
        # Rounded to float32 between 0 and 1, as the views and torchvision have them: the last bit moves boxes.
        for name, values in (("mean_3", IMAGENET_MEAN), ("deviation_3", IMAGENET_DEVIATION)):
            self.register_buffer(name, torch.tensor([value / 255 for value in values]) * 255)

    def forward(self, images_BCHW: Tensor, sizes_B2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images_BCHW: RGB, then the channels of the detector's further inputs in their order, all uint8."""
        height, width = images_BCHW.shape[-2:]
        pixels_BCHW = images_BCHW.float()
        normal_BCHW = (pixels_BCHW[:, :3] - self.mean_3[:, None, None]) / self.deviation_3[:, None, None]
        if self.detector.config.extra_inputs:
            normal_BCHW = torch.cat((normal_BCHW, pixels_BCHW[:, 3:] / 255), dim=1)
        # Padding is zero after normalisation, as in training.
        rows_BH = torch.arange(height) < sizes_B2[:, :1]
        columns_BW = torch.arange(width) < sizes_B2[:, 1:]
        inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
        found = self.detector.detect(torch.where(inside_B1HW, normal_BCHW, 0.0), sizes_B2)
        return found.boxes_BD4, found.scores_BD, found.labels_BD, found.count_B


def example(num_channels: int, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two images: an exporter takes a batch of one for a constant."""
    return torch.zeros((2, num_channels, *canvas), dtype=torch.uint8), torch.tensor([canvas, canvas])


def dynamic_shapes() -> dict:
    batch = torch.export.Dim("batch", min=1, max=1024)
    return {"images_BCHW": {0: batch}, "sizes_B2": {0: batch}}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning about torchvision's own description of its suppression, which the user cannot fix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
        yield


@quiet()
def export_program(detector: Detector, canvas: tuple[int, int]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        inputs = example(detector.config.num_channels, canvas)
        return torch.export.export(Deployed(detector), inputs, dynamic_shapes=dynamic_shapes(), strict=False)


def describe_inputs(card: Card, canvas: tuple[int, int]) -> dict[str, str]:
    """What the exported model takes, in words."""
    h, w = canvas
    resized = "resized to the size it was trained with"
    if "short_side" in card.extra:
        resized = f"resized by min({card.extra['short_side']} / short side, {card.extra['long_side']} / long side)"
    channels = " and ".join(["RGB", *(f"{count} of {name}" for name, count in card.config.extra_inputs.items())])
    return {
        "images": f"uint8 {channels}, B x {card.config.num_channels} x {h} x {w}; each image {resized}, at the top "
        "left, zeros right of and below it",
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
    if card.config.extra_inputs:
        about["channels"] = {RGB: 3, **card.config.extra_inputs}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
    program.save(path)


def canvas_of(card: Card) -> tuple[int, int]:
    """The landscape canvas of the size a detector was trained with."""
    if "short_side" not in card.extra:
        raise ValueError("these weights do not say which size they were trained with: give --canvas HEIGHT WIDTH")
    short, long = (-(-card.extra[name] // 32) * 32 for name in ("short_side", "long_side"))
    return short, long


def pictures(num: int, num_channels: int, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rectangles on noise: any detector sees something in them. Sizes differ, the first fills the canvas."""
    generator = np.random.default_rng(num)
    height, width = canvas
    images = generator.integers(0, 256, (num, num_channels, height, width), dtype=np.uint8)
    sizes = (generator.uniform(0.5, 1, (num, 2)) * canvas).astype(np.int64)
    sizes[0] = canvas
    for image in images:
        for _ in range(40):
            h, w = np.exp(generator.uniform(np.log(6), np.log(height), 2)).astype(int)
            y, x = generator.integers(0, height), generator.integers(0, width)
            image[:, y : y + h, x : x + w] = generator.integers(0, 256, (num_channels, 1, 1))
    return torch.from_numpy(images), torch.from_numpy(sizes)


def check_same(found: Sequence[Tensor], wanted: Sequence[Tensor], least_score: float) -> str:
    """Require the same detections of two programs, one for one, in any order; returns what was compared, in words.

    Left out are those that rounding may move over the least score or out of the last slot.
    """
    pixels, scores, num = 0.0, 0.0, 0
    for i, counts in enumerate(zip(found[3].tolist(), wanted[3].tolist(), strict=True)):
        ours, theirs = (
            [values[i, : counts[0]] for values in found[:3]],
            [values[i, : counts[1]] for values in wanted[:3]],
        )
        full = [float(side[1][-1]) for side in (ours, theirs) if len(side[1]) == found[1].shape[1]]
        certain = max([least_score, *full]) + SCORES
        for side, other in ((ours, theirs), (theirs, ours)):
            for box, score, label in zip(*side, strict=True):
                if score < certain:
                    continue
                by_pixels, by_score = (other[0] - box).abs().amax(dim=1), (other[1] - score).abs()
                same = (other[2] == label) & (by_pixels <= PIXELS) & (by_score <= SCORES)
                if not same.any():
                    raise ValueError(
                        f"the exported model answers otherwise than the detector, so it is not kept: the class "
                        f"{int(label)} at {[round(side, 1) for side in box.tolist()]}, score {score:.4f}, is found by "
                        "one of the two only; give other versions of onnx, onnxscript or torch"
                    )
                nearest = by_pixels.where(same, torch.inf).argmin()
                pixels, scores = max(pixels, float(by_pixels[nearest])), max(scores, float(by_score[nearest]))
                num += 1
    return f"{num // 2} detections are the same; boxes within {pixels:.1g} pixels, scores within {scores:.1g}"


@torch.no_grad()
def check_onnx(path: Path, detector: Detector, canvas: tuple[int, int], least_score: float) -> str:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    told = ""
    for num in (1, 3):
        images, sizes = pictures(num, detector.config.num_channels, canvas)
        found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        told = check_same([torch.from_numpy(value) for value in found], Deployed(detector)(images, sizes), least_score)
    return told


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


def write(
    checkpoint: Path, to: str, canvas: tuple[int, int] | None, classes: tuple[str, ...] | None, path: Path
) -> Iterator[str]:
    """Write a checkpoint for another tool. An ONNX model that answers otherwise than the detector is not kept.

    Yields what to tell the user, when it is so.
    """
    detector, card = load_detector(checkpoint, classes=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if to == "torchvision":
        if not isinstance(card.config, ModelConfig):
            raise ValueError(
                f"--to torchvision writes a Faster R-CNN; this is a {card.config.kind}: use --to onnx or torch"
            )
        if card.config.style != "torchvision" or not card.config.sees_imagenet:
            raise ValueError(
                "--to torchvision: this detector has mmdetection's anchors and regions, or takes other pixels or "
                "inputs than torchvision's; use --to onnx or torch"
            )
        torch.save({name: value.contiguous() for name, value in detector.state_dict().items()}, path)
        yield f"load it with:\n\n{loading_code(card, path)}\n"
        if "short_side" not in card.extra:
            yield "torchvision resizes images itself: 800 x 1333 unless transform.min_size and max_size say otherwise"
        yield f"wrote {path}; classes: {', '.join(card.classes)}"
        return
    canvas = canvas or canvas_of(card)
    yield f"exporting for a canvas of {canvas[0]} x {canvas[1]}; this takes about a minute"
    if to == "torch":
        torch.export.save(export_program(detector, canvas), path)
        yield "load it with: import torch, torchvision; torch.export.load(path).module()"
    else:
        with replacing(path) as temporary:
            export_onnx(detector, card, canvas, temporary)
            checked = check_onnx(temporary, detector, canvas, card.config.score_threshold)
        yield f"checked in ONNX Runtime: {checked}"
    yield f"wrote {path}; classes: {', '.join(card.classes)}"
