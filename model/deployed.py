"""A detector as other tools run it: pixels in, detections out, checked against the detector itself."""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from model.api import Detector
from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN, RGB
from model.backbones.frozen_norm import bake_norms, factors
from model.compared import check_near, check_same, pictures
from model.for_torchvision import write_torchvision
from model.weights.checkpoint import Card, load_detector
from pipeline.files.replace import replacing

N = TypeVar("N", bound=nn.Module)
INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "count")


class Deployed(nn.Module):
    """Pixels in, detections out."""

    mean_3: Tensor
    deviation_3: Tensor

    def __init__(self, detector: Detector, dtype: torch.dtype = torch.float32):
        """dtype: of the network; what is made of its raw predictions is float32 always."""
        super().__init__()
        self.detector, self.dtype = detector.eval(), dtype
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
        rows_BH = torch.arange(height, device=sizes_B2.device) < sizes_B2[:, :1]
        columns_BW = torch.arange(width, device=sizes_B2.device) < sizes_B2[:, 1:]
        inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
        found = self.detector.detect(torch.where(inside_B1HW, normal_BCHW, 0.0).to(self.dtype), sizes_B2)
        return found.boxes_BD4, found.scores_BD, found.labels_BD, found.count_B


class ScaleShift(nn.Module):
    """A norm with fixed statistics, its two factors worked out: two operations in a file, where it had fifteen."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, norm: Any, dtype: torch.dtype):
        super().__init__()
        for name, values_C in zip(("scale_C11", "shift_C11"), factors(norm), strict=True):
            self.register_buffer(name, values_C.detach().to(dtype)[:, None, None])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.scale_C11 + self.shift_C11


def frozen_copy(network: N, dtype: torch.dtype) -> N:
    """A copy to be exported, with weights of this type.

    In float16 a batch norm is fixed before it is rounded: variances leave the range of float16. In float32 it stays one
    operation that every runtime knows.
    """
    copied = copy.deepcopy(network)
    bake_norms(copied)
    for module in list(copied.modules()):
        for name, norm in module.named_children():
            # A subclass of a batch norm may do more, as timm's with an activation inside.
            if isinstance(norm, FrozenBatchNorm2d) or (dtype != torch.float32 and type(norm) is nn.BatchNorm2d):
                setattr(module, name, ScaleShift(norm, dtype))
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied


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
def export_program(deployed: Deployed, canvas: tuple[int, int]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        inputs = example(deployed.detector.config.num_channels, canvas)
        return torch.export.export(deployed, inputs, dynamic_shapes=dynamic_shapes(), strict=False)


def describe_inputs(card: Card, canvas: tuple[int, int]) -> dict[str, str]:
    """What the exported model takes, in words."""
    h, w = canvas
    resized = "resized to the size it was trained with"
    if "short_side" in card.extra:
        resized = f"resized by min({card.extra['short_side']} / short side, {card.extra['long_side']} / long side)"
    limits = {name: pair for name, pair in card.config.extra_limits.items() if pair != (0, 255)}
    told = {name: f" ({low:g} becomes 0, {high:g} 255)" for name, (low, high) in limits.items()}
    inputs = (f"{count} of {name}{told.get(name, '')}" for name, count in card.config.extra_inputs.items())
    channels = " and ".join(["RGB", *inputs])
    return {
        "images": f"uint8 {channels}, B x {card.config.num_channels} x {h} x {w}; each image {resized}, at the top "
        "left, zeros right of and below it",
        "sizes": f"int64, B x 2; (height, width) of each resized image, at most ({h}, {w})",
    }


@quiet()
def export_onnx(deployed: Deployed, card: Card, canvas: tuple[int, int], path: Path) -> None:
    """One file; its metadata say, as JSON, the classes, the canvas, the training size and what goes in."""
    program = torch.onnx.export(
        export_program(deployed, canvas),
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
        about["folders"], about["range"] = card.config.extra_folders, card.config.extra_limits
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
    program.save(path)


def canvas_of(card: Card) -> tuple[int, int]:
    """The landscape canvas of the size a detector was trained with."""
    if "short_side" not in card.extra:
        raise ValueError("these weights do not say which size they were trained with: give --canvas HEIGHT WIDTH")
    short, long = (-(-card.extra[name] // 32) * 32 for name in ("short_side", "long_side"))
    return short, long


Compare = Callable[[Sequence[Tensor], Sequence[Tensor], float], str]


@torch.no_grad()
def check(
    run: Callable[[Tensor, Tensor], Sequence[Tensor]],
    detector: Detector,
    canvas: tuple[int, int],
    least_score: float,
    compare: Compare,
) -> str:
    """Run an exported model beside the float32 detector; returns what was compared, in words."""
    told = ""
    for num in (1, 3):
        images, sizes = pictures(num, canvas, detector.config.num_channels)
        told = compare(run(images, sizes), Deployed(detector)(images, sizes), least_score)
    return told


def run_onnx(path: Path) -> Callable[[Tensor, Tensor], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor, sizes: Tensor) -> list[Tensor]:
        found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        return [torch.from_numpy(value) for value in found]

    return run


def write_program(detector: Detector, card: Card, canvas: tuple[int, int], path: Path) -> str:
    """For torch.export.load. Kept and told as an ONNX model is."""
    with replacing(path, path.with_name(f".{path.name}.writing.pt2")) as temporary:  # torch warns of other endings
        torch.export.save(export_program(Deployed(frozen_copy(detector, torch.float32)), canvas), temporary)
        loaded: Any = torch.export.load(temporary).module()
        compare = partial(check_same, packages="torch")
        return check(loaded, detector, canvas, card.config.score_threshold, compare)


def write_onnx(detector: Detector, card: Card, canvas: tuple[int, int], path: Path, half: bool) -> str:
    """One that answers otherwise than the detector is not kept; returns what was compared, in words."""
    dtype = torch.float16 if half else torch.float32
    deployed = Deployed(frozen_copy(detector, dtype), dtype)
    compare: Compare = check_near if half else partial(check_same, packages="onnx, onnxscript or torch")
    with replacing(path) as temporary:
        try:
            export_onnx(deployed, card, canvas, temporary)
            return check(run_onnx(temporary), detector, canvas, card.config.score_threshold, compare)
        except ValueError:
            raise
        except Exception as error:
            if not half:
                raise
            raise ValueError(
                f"--half: a {card.config.kind} with {card.config.backbone} has a layer that does not run in float16 "
                f"here; leave --half out. {type(error).__name__}: {str(error)[:300]}"
            ) from None


def write(
    checkpoint: Path,
    to: str,
    canvas: tuple[int, int] | None,
    classes: tuple[str, ...] | None,
    path: Path,
    half: bool = False,
) -> Iterator[str]:
    """Write a checkpoint for another tool. What answers otherwise than the detector is not kept.

    Yields what to tell the user, when it is so. half: in float16, for ONNX.
    """
    detector, card = load_detector(checkpoint, classes=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if to == "torchvision":
        yield from write_torchvision(Deployed(detector), card, path)
        return
    canvas = canvas or canvas_of(card)
    yield f"exporting for a canvas of {canvas[0]} x {canvas[1]} (another one: --canvas); this takes about a minute"
    if to == "torch":
        yield f"checked as torch.export.load gives it: {write_program(detector, card, canvas, path)}"
        yield "load it with: import torch, torchvision; torch.export.load(path).module()"
    else:
        yield f"checked in ONNX Runtime: {write_onnx(detector, card, canvas, path, half)}"
    yield f"wrote {path}; classes: {', '.join(card.classes)}"
