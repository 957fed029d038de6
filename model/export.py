"""A checkpoint for other tools: ONNX, a torch.export program, or a torchvision state dict.

    python -m model.export runs/student --to onnx

The ONNX model and the program take uint8 RGB images (batch, 3, height, width), top left aligned in a fixed canvas. A
detector that looks at more takes its channels behind those of RGB, in the order of its inputs. They also take the
images' sizes (batch, 2) as int64 (height, width). The batch is free. They return boxes (batch, D, 4) in pixels, scores,
labels (1 is the first class) and the number of detections of each image. Normalisation, padding and suppression are
inside; resizing is not (docs/model.md has an example).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.command.console import run_entry, say

SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "torchvision": ".pth"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Options:
    """Write a checkpoint for another tool."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run, a checkpoint directory, or torchvision's or mmdetection's weights."""
    to: Literal["onnx", "torch", "torchvision"]
    """onnx: ONNX Runtime and others. torch: torch.export.load. torchvision: a plain state dict."""
    canvas: tuple[int, int] | None = None
    """Height and width of the images, multiples of 32 (onnx and torch); none: landscape, of the training's size."""
    half: bool = False
    """Weights and network in float16 (onnx): half the file, for devices that compute in it; answers differ a little."""
    classes: tuple[str, ...] | None = None
    """Class names without background, of weights that name none."""
    out: Path | None = None
    """Default: the checkpoint's name beside it, with the tool's suffix."""


def export(options: Options) -> Path:
    if not options.checkpoint.exists():
        raise ValueError(
            f"no checkpoint at {options.checkpoint}: give a run, a checkpoint directory or a state dict file"
        )
    if options.half and options.to != "onnx":
        raise ValueError(f"--half goes with --to onnx, got --to {options.to}; leave it out")
    if options.canvas is not None and options.to == "torchvision":
        raise ValueError("--canvas goes with --to onnx or torch: torchvision resizes images itself; leave it out")
    missing = [name for name in PACKAGES if options.to == "onnx" and find_spec(name) is None]
    if missing:
        raise ValueError(f"--to onnx needs {' and '.join(missing)}; pip install -c constraints.txt -e '.[export]'")
    if options.canvas is not None and any(side < 32 or side % 32 for side in options.canvas):
        raise ValueError(f"--canvas: got {options.canvas}; both sides must be multiples of 32")
    # Torch takes seconds to import: mistakes in the command are answered before.
    from model.deployed import write

    base = options.checkpoint if options.checkpoint.is_dir() else options.checkpoint.with_suffix("")
    path = options.out or base.with_name(base.name + "-export" + SUFFIX[options.to])
    for text in write(options.checkpoint, options.to, options.canvas, options.classes, path, options.half):
        say(text)
    return path


def main() -> None:
    export(tyro.cli(Options))


if __name__ == "__main__":
    run_entry(main)
