"""Fairweather for notebooks and scripts, and the command `fairweather`.

    import fairweather
    detector = fairweather.load("runs/student")
    found = detector.predict("street.jpg")
    found.boxes, found.labels, found.scores, found.names
    found.show()

Heavy libraries are imported where they are used, so that the command answers at once.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from eval.predict import Predictor

    Picture = str | Path | Image.Image | np.ndarray | Tensor
    Pictures = list[Picture] | tuple[Picture, ...]

__all__ = ["Detector", "Found", "corrupt", "evaluate", "load"]

COMMANDS = {
    "pack": ("pipeline.pack", "annotated images to a packed dataset"),
    "train": ("train.run", "a recipe on packed data"),
    "eval": ("eval.run", "figures of a run on packed data, and a report"),
    "predict": ("eval.predict", "detections in pictures and films"),
    "report": ("eval.report", "the report of evaluated runs"),
    "table": ("eval.table", "the table of evaluated runs"),
    "export": ("model.export", "a run to ONNX, torch.export or torchvision"),
    "unpack": ("pipeline.unpack", "a packed dataset to COCO, VOC or YOLO"),
    "bench": ("", "speed of: kernels, pipeline, train, eval"),
}
BENCHES = ("kernels", "pipeline", "train", "eval")


@dataclass(frozen=True, repr=False)
class Found:
    """What a detector found in one picture, best first."""

    image: np.ndarray
    """The picture: (H, W, 3) uint8, RGB."""
    boxes: np.ndarray
    """(N, 4) float32: x1 y1 x2 y2 in pixels of the picture."""
    labels: np.ndarray
    """(N,) int64; 1 is the first class."""
    scores: np.ndarray
    """(N,) float32."""
    names: tuple[str, ...]
    """Each one's class."""

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True))
        return f"Found({found or 'nothing'})"

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self) -> Image.Image:
        """The picture with its boxes. A notebook shows it when it is the last line of a cell."""
        from PIL import Image

        from eval.examples.draw import class_colour, draw_boxes

        boxes_N4 = self.boxes.copy()
        boxes_N4[:, 2:] -= boxes_N4[:, :2]
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return Image.fromarray(draw_boxes(self.image, boxes_N4, texts, [class_colour(int(n)) for n in self.labels]))

    def show(self) -> None:
        """Below the cell in a notebook, else in the system's viewer."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None:
            self.draw().show()
        else:
            sys.modules["IPython"].display.display(self.draw())

    def save(self, path: str | Path) -> None:
        """The picture with its boxes; the ending of the path says the format."""
        self.draw().save(path)


class Detector:
    """A trained detector, as `load` gives it."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def __repr__(self) -> str:
        return f"Detector({', '.join(self.classes)}; score {self.score:.2f})"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictor.classes

    @property
    def score(self) -> float:
        """The least score that is kept."""
        return self.predictor.score

    @overload
    def predict(self, pictures: Picture, batch_size: int = 4) -> Found: ...
    @overload
    def predict(self, pictures: Pictures, batch_size: int = 4) -> list[Found]: ...
    def predict(self, pictures: Picture | Pictures, batch_size: int = 4) -> Found | list[Found]:
        """A Found for a picture, a list of them for a list.

        A picture: a path, a PIL image, an RGB array of uint8 (height, width, 3) or (height, width), or a tensor
        (3, height, width) of uint8, or of floats in 0..1.
        """
        import numpy as np

        from eval.predict import canvas_of

        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: give 1 or more")
        if not isinstance(pictures, list | tuple):
            return self.predict([pictures])[0]
        images = [read_picture(picture) for picture in pictures]
        beside = [self.beside(*pair) for pair in zip(pictures, images, strict=True)]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(canvas_of(self.predictor.scaled(image)), []).append(i)
        found: dict[int, Found] = {}
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                part = group[start : start + batch_size]
                seen = self.predictor([images[i] for i in part], [beside[i] for i in part])
                for i, items in zip(part, seen, strict=True):
                    boxes_N4 = np.array([item["box"] for item in items], np.float32).reshape(-1, 4)
                    boxes_N4[:, 2:] += boxes_N4[:, :2]
                    labels_N = np.array([item["label"] for item in items], np.int64)
                    scores_N = np.array([item["score"] for item in items], np.float32)
                    found[i] = Found(images[i], boxes_N4, labels_N, scores_N, tuple(item["class"] for item in items))
        return [found[i] for i in range(len(images))]

    def beside(self, picture: Picture, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the detector looks at beside this picture."""
        aligned = self.predictor.aligned
        if not aligned.folders:
            return {}
        if not isinstance(picture, str | Path):
            raise ValueError(
                f"the detector looks at {', '.join(aligned.folders)}, too, found by a picture's name: give its path"
            )
        path = Path(picture)
        return aligned.read(path, Path(path.name), image.shape[:2], self.predictor.scaled(image))


def read_picture(picture: Picture) -> np.ndarray:
    """(height, width, 3) uint8, RGB."""
    import numpy as np
    from PIL import Image, ImageOps

    if isinstance(picture, str | Path):
        from pipeline.files.pixels import read_rgb

        try:
            return read_rgb(Path(picture))
        except ValueError as error:
            raise ValueError(f"{picture} {error}") from None
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    if not isinstance(picture, np.ndarray) and hasattr(picture, "detach"):
        tensor = picture.detach().cpu()
        if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
            raise ValueError(f"a tensor must be (3, height, width), got {tuple(tensor.shape)}")
        if tensor.is_floating_point():
            if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):  # false for NaN, too
                raise ValueError("a tensor of floats must hold 0 to 1, without mean and deviation applied")
            tensor = (tensor * 255).round().byte()
        picture = tensor.permute(1, 2, 0).numpy()
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"a picture is a path, a PIL image, an array or a tensor, got {type(picture).__name__}")
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or (picture.ndim == 3 and picture.shape[2] not in (1, 3))
    ):
        raise ValueError(
            f"an array must be uint8 of (height, width, 3) in RGB, or (height, width), got {picture.dtype} of "
            f"{picture.shape}"
        )
    if 0 in picture.shape:
        raise ValueError(f"the picture is empty, its shape is {picture.shape}")
    return np.ascontiguousarray(np.broadcast_to(picture.reshape(*picture.shape[:2], -1), (*picture.shape[:2], 3)))


def load(
    path: str | Path,
    *,
    score: float | None = None,
    classes: Sequence[str] = (),
    device: str = "auto",
    short_side: int | None = None,
    long_side: int | None = None,
    extra: Sequence[str] = (),
    extra_range: Sequence[str] = (),
) -> Detector:
    """A run, a checkpoint or a file of weights. The options are those of `python -m eval.predict`.

    extra: ("gated=night/gated0,night/gated1", ...) of a detector that looks at more than RGB; it takes paths only.
    """
    from eval.predict import PredictOptions, open_predictor

    given: dict[str, Any] = {"score": score, "device": device, "short_side": short_side, "long_side": long_side}
    given |= {"classes": tuple(classes), "extra": tuple(extra), "extra_range": tuple(extra_range)}
    return Detector(open_predictor(PredictOptions(Path(path), (), Path(), **given)))


def corrupt(image: Any, severity: int = 1, corruption_name: str | None = None, **options: Any) -> Any:
    """An image as it looks in fog, rain, blur ...: `kernels.corrupt`, which says what it takes."""
    from kernels import corrupt

    return corrupt(image, severity, corruption_name, **options)


def evaluate(run: str | Path, *data: str | Path, **options: Any) -> dict[str, Any]:
    """Evaluate a run on packed datasets and return what results.json holds, such as
    ["domains"]["night"]["voc07"]["mAP"]. The options are those of `python -m eval.run`, with underscores."""
    from eval.evaluation import run as evaluate_run
    from eval.options import EvaluationOptions, as_declared, check_paths
    from eval.results import load_run
    from eval.run import BETWEEN_MEETINGS
    from pipeline.command.ranks import joined

    chosen = EvaluationOptions(Path(run), tuple(map(Path, data)), **as_declared(options))
    check_paths(chosen)
    with joined(chosen.device, BETWEEN_MEETINGS) as world:
        evaluate_run(chosen, world)
    return load_run(chosen.out or chosen.run or run).results


def usage() -> str:
    lines = [f"    fairweather {name:<8} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: fairweather COMMAND ...", "", *lines, "", "fairweather COMMAND --help lists the options of each."]
    )


def main() -> None:
    """Run the entry behind a command, as `python -m` would."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        from pipeline.command.console import output_is_gone

        with suppress(BrokenPipeError):  # as after `| head`
            print(usage(), flush=True)
        output_is_gone()
        return
    if name == "bench" and rest and rest[0] in BENCHES:
        module, rest = f"{rest[0]}.bench", rest[1:]
    elif name == "bench":
        sys.exit(f"error: fairweather bench: name one of {', '.join(BENCHES)}, then its options")
    elif name in COMMANDS:
        module = COMMANDS[name][0]
    else:
        from pipeline.command.suggest import nearest

        sys.exit(f"error: no command {name!r}{nearest(name, COMMANDS)}\n{usage()}")
    from pipeline.command import console

    console.typed = f"fairweather {name}" if name != "bench" else f"fairweather bench {sys.argv[2]}"
    sys.argv[1:] = rest
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
