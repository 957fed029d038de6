"""Detect in anybody's pictures and films: `python -m eval.predict CHECKPOINT IMAGES|FOLDER|GLOB|VIDEO... --out DIR`.

A number is a camera, and an address such as rtsp://HOST/PATH a stream.

DIR gets every picture or film with its boxes drawn, and predictions.json with boxes (x, y, width, height) in pixels of
the original. What cannot be read, or not to its end, is named and skipped; the exit code is then 1.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from eval.examples.aligned import AlignedFolders, find_aligned
from eval.examples.draw import class_colour, draw_boxes
from eval.examples.film import FilmWriter, batches_of_frames, describe_encoder, is_stream, open_film, stream_name
from eval.results import read_results_json, score_for_pictures
from pipeline.command.console import Progress, counted, describe_hardware, importing, run_entry, say
from pipeline.files.own import write_json
from pipeline.files.pixels import SUFFIXES, encode, read_rgb, resize, training_size

if TYPE_CHECKING:  # torch takes seconds: mistakes in the command are answered before
    import torch

    from model.api import Detector

LEAST_READ = 0.95  # of the frames that a film's header promises: many headers are a few off
BOX_FORMAT = "[x, y, width, height] in pixels of the original, x and y of the top left corner"
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


@dataclass(frozen=True)
class PredictOptions:
    """Detect in images, folders, globs, videos and streams; write drawn copies and predictions.json."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run, a checkpoint, or torchvision's or mmdetection's weights."""
    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURES ...")]
    """Images, folders of images, globs, videos, the number of a camera, or an address such as rtsp://HOST/PATH."""
    out: Path
    """Folder for the results."""
    score: float | None = None
    """Least score that is kept. Scores fall in bad weather, so the default is lower than the best one on clear days:
    from it on, all domains that the run was evaluated on keep most of their best F1; half of the best score where only
    one was; 0.3 where none was. The one used is printed. Raise it for fewer false alarms."""
    short_side: int | None = None
    """Size the pictures are scaled to, as in packing; what the checkpoint was trained with, else 600."""
    long_side: int | None = None
    """As above; else 1000."""
    classes: tuple[str, ...] = ()
    """Class names of weights that name none, in their order, without background."""
    extra: tuple[str, ...] = ()
    """Folders of what the detector looks at beside pictures: --extra gated=A/gated0,A/gated1,A/gated2 depth=A/depth. A
    file has its picture's name."""
    extra_range: tuple[str, ...] = ()
    """Which of their values become 0 and 255, where other than in training: --extra-range depth=0:8000."""
    batch_size: int = 4
    max_frames: int | None = None
    """End a film or stream after so many frames; a stream without it ends with Ctrl-C."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: give 1 or more")


@dataclass(frozen=True)
class Predictor:
    """A detector with everything it needs to look at a picture."""

    detector: Detector
    classes: tuple[str, ...]
    short_side: int
    long_side: int
    score: float
    device: torch.device
    dtype: torch.dtype
    aligned: AlignedFolders

    def scaled(self, image: np.ndarray) -> tuple[int, int]:
        """The size in which the detector looks at an image."""
        return training_size((image.shape[0], image.shape[1]), self.short_side, self.long_side)

    def __call__(self, images: list[np.ndarray], extra: Sequence[dict[str, np.ndarray]] = ()) -> list[list[dict]]:
        """Detections of RGB images that scale to one canvas, best first. extra: each one's other inputs, scaled."""
        import torch

        from eval.detecting.detect import make_batch, seen_by

        sizes = [self.scaled(image) for image in images]
        small = [resize(image, size) for image, size in zip(images, sizes, strict=True)]
        batch = make_batch(small, list(range(len(images))), canvas_of(sizes[0]), self.device, extra=list(extra))
        views_BCHW, sizes_B2 = seen_by(self.detector.config, batch, self.dtype)
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = [value.cpu().numpy() for value in self.detector.detect(views_BCHW, sizes_B2)]
        results = []
        for image, (h, w), boxes, scores, labels, count in zip(images, sizes, *found, strict=True):
            scale = np.array([image.shape[1] / w, image.shape[0] / h] * 2)
            corners = (boxes[:count].astype(np.float64) * scale).round(2)
            results.append(
                [
                    {
                        "box": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                        "class": self.classes[label - 1],
                        "label": int(label),
                        "score": round(float(score), 4),
                    }
                    for (x1, y1, x2, y2), score, label in zip(
                        corners.tolist(), scores[:count], labels[:count], strict=True
                    )
                    if score >= self.score
                ]
            )
        return results


def canvas_of(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32


def find_inputs(inputs: tuple[str, ...]) -> tuple[list[tuple[Path, Path]], list[str]]:
    """([(file, where its result goes below the output folder)], [input that gives nothing, and why])."""
    files: list[tuple[Path, Path]] = []
    missing = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in (*SUFFIXES, *VIDEOS))
            files += [(p, p.relative_to(path)) for p in inside]
            reason = "" if inside else "the folder holds no image or video"
        elif path.exists():
            files.append((path, Path(path.name)))
            reason = ""
        else:
            matched = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if Path(name).is_file()]
            files += [(p, Path(p.name)) for p in matched]
            reason = "" if matched else "no file matches" if any(sign in text for sign in "*?[") else "does not exist"
        if reason:
            missing.append(f"{text}: {reason}")
    unique: dict[Path, Path] = {}
    taken: set[Path] = set()
    for file, place in dict.fromkeys(files):
        target, number = place.with_suffix(".mp4" if file.suffix.lower() in VIDEOS else ".jpg"), 1
        while (name := target if number == 1 else target.with_stem(f"{target.stem}-{number}")) in taken:
            number += 1
        unique[file] = name
        taken.add(name)
    return list(unique.items()), missing


def other_files(inputs: tuple[str, ...]) -> list[str]:
    """What else lies in the folders, by kind: a reader should know that it was not looked at."""
    lines = []
    for path in filter(Path.is_dir, map(Path, inputs)):
        kinds = Counter(
            p.suffix.lower() or "without a suffix"
            for p in path.rglob("*")
            if p.is_file() and p.suffix.lower() not in (*SUFFIXES, *VIDEOS)
        )
        if kinds:
            listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(5))
            lines.append(f"{path}: {counted(sum(kinds.values()), 'file')} of other kinds ({listed})")
    return lines


def stream_targets(streams: list[str]) -> list[tuple[str, Path]]:
    for text in streams:
        if text.isdigit() and len(text) > 9:  # OpenCV takes what fits in 32 bits
            raise ValueError(f"camera {text}: no camera has such a number; the first one is 0")
    return [
        (text, Path(f"camera-{text}.mp4" if text.isdigit() else f"stream-{number}.mp4"))
        for number, text in enumerate(dict.fromkeys(streams), 1)
    ]


def open_predictor(options: PredictOptions) -> Predictor:
    with importing():
        import torch

        from eval.detecting.detect import choose_dtype
        from model.weights.checkpoint import load_detector
        from pipeline.command.ranks import choose_device

    device = torch.device(choose_device(options.device))
    detector, card = load_detector(options.checkpoint, device, options.classes or None)
    score = options.score
    if score is None:
        results = options.checkpoint / "eval" / "results.json"
        score, why = score_for_pictures(read_results_json(results) if results.is_file() else None)
        say(f"--score {score:.2f}: {why}")
    if options.max_frames is not None and options.max_frames < 1:
        raise ValueError(f"--max-frames {options.max_frames}: give 1 or more, or leave it out")
    if not 0 <= score <= 1:
        raise ValueError(f"--score {score}: a score lies between 0 and 1")
    short_side = options.short_side or card.extra.get("short_side") or 600
    long_side = options.long_side or card.extra.get("long_side") or 1000
    if short_side > long_side or short_side < 32:
        raise ValueError(f"--short-side {short_side} --long-side {long_side}: 32 or more, the short one not the longer")
    aligned = find_aligned(options.extra, options.extra_range, card.config)
    dtype = choose_dtype(options.precision, device)
    return Predictor(detector, card.classes, short_side, long_side, score, device, dtype, aligned)


def drawn(image: np.ndarray, found: list[dict]) -> np.ndarray:
    boxes = np.array([item["box"] for item in found], np.float64).reshape(-1, 4)
    texts = [f"{item['class']} {item['score']:.2f}" for item in found]
    return draw_boxes(image, boxes, texts, [class_colour(item["label"]) for item in found])


def predict_images(predictor: Predictor, files: list[tuple[Path, Path]], options: PredictOptions) -> tuple[list, list]:
    """([entry of predictions.json], [what could not be read])."""
    entries, skipped = [], []
    waiting: list[tuple[Path, Path, np.ndarray, dict[str, np.ndarray]]] = []

    def finish() -> None:
        seen = predictor([item[2] for item in waiting], [item[3] for item in waiting])
        for (path, target, image, _), found in zip(waiting, seen, strict=True):
            place = options.out / target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode(np.ascontiguousarray(drawn(image, found)), 92, "4:2:0", False))
            height, width = image.shape[:2]
            entries.append(
                {"file": str(path), "drawn": str(place), "width": width, "height": height, "detections": found}
            )
        waiting.clear()

    with Progress("detecting", len(files)) as progress:
        for path, target in files:
            try:
                image = read_rgb(path)
                extra = predictor.aligned.read(path, target, image.shape[:2], predictor.scaled(image))
            except ValueError as error:
                skipped.append(f"{path}: {error}")
                progress.advance()
                continue
            canvases = {canvas_of(predictor.scaled(each)) for each in (image, *(item[2] for item in waiting))}
            if waiting and (len(waiting) == options.batch_size or len(canvases) > 1):
                finish()
            waiting.append((path, target, image, extra))
            progress.advance()
        if waiting:
            finish()
    return entries, skipped


def predict_film(
    predictor: Predictor, source: Path | str, target: Path, options: PredictOptions
) -> tuple[dict, str | None]:
    """Draw a film or a stream (text): (its entry of predictions.json, one list of detections a frame; what is missing).

    Ctrl-C ends a stream; what was seen until then is kept.
    """
    film, total, rate = open_film(source)
    name = stream_name(source) if isinstance(source, str) else str(source)
    place = options.out / target
    place.parent.mkdir(parents=True, exist_ok=True)
    frames: list[list[dict]] = []
    size = (0, 0)
    expected = min(total, options.max_frames) if total and options.max_frames else options.max_frames or total
    try:
        description = f"detecting in {Path(name).name}"
        if not expected:
            say(f"detecting in {name} until it ends, or Ctrl-C")
        with Progress(description, expected, "frames", quiet=not expected) as progress, ExitStack() as stack:
            try:
                for images in batches_of_frames(film, options.batch_size, options.max_frames):
                    if not frames:
                        size = (images[0].shape[1], images[0].shape[0])
                        writer = stack.enter_context(FilmWriter(place, rate, size))
                    for image, found in zip(images, predictor(images), strict=True):
                        writer.write(drawn(image, found))
                        frames.append(found)
                    progress.advance(len(images))
            except KeyboardInterrupt:
                if not isinstance(source, str) or not frames:
                    raise
                say(f"stopped {name} after {len(frames)} frames")
    finally:
        film.release()
    if not frames:
        raise ValueError("holds no frame that can be read")
    missing = None
    if len(frames) < LEAST_READ * expected:
        missing = f"{name}: only {len(frames)} of about {expected} frames could be read; the film seems to be cut short"
    entry = {
        "file": name,
        "drawn": str(place),
        "width": size[0],
        "height": size[1],
        "frames_per_second": rate,
        "frames": frames,
    }
    return entry, missing


def main() -> int:
    options = tyro.cli(PredictOptions)
    if not options.checkpoint.exists():
        raise ValueError(
            f"no checkpoint at {options.checkpoint}: give a run, a checkpoint directory or a state dict file"
        )
    streams = stream_targets([text for text in options.inputs if is_stream(text) and not Path(text).exists()])
    names = tuple(text for text in options.inputs if text not in dict(streams))
    files, skipped = find_inputs(names)
    if not files and not streams:
        raise ValueError(f"nothing to look at: {'; '.join(skipped) or 'no input was named'}")
    originals = {path.resolve() for path, _ in files}
    lost = [path for path in (options.out / target for _, target in files) if path.resolve() in originals]
    if lost:
        raise ValueError(
            f"--out {options.out}: {lost[0]} is one of the inputs and would be lost; choose another folder"
        )
    say(describe_hardware())
    predictor = open_predictor(options)
    if predictor.aligned.channels and (streams or any(path.suffix.lower() in VIDEOS for path, _ in files)):
        raise ValueError(
            f"the detector looks at {', '.join(predictor.aligned.channels)} beside pictures, which a film has none of; "
            "give pictures alone"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for line in other_files(names):
        say(f"not looked at: {line}")
    films: list[tuple[Path | str, Path]] = [item for item in files if item[0].suffix.lower() in VIDEOS]
    entries, unreadable = predict_images(predictor, [item for item in files if item not in films], options)
    films += streams
    if films:
        say(describe_encoder())
    for source, target in films:
        try:
            entry, missing = predict_film(predictor, source, target, options)
            entries.append(entry)
            unreadable += [missing] if missing else []
        except ValueError as error:
            unreadable.append(f"{stream_name(source) if isinstance(source, str) else source}: {error}")
    skipped += unreadable
    content = {
        "checkpoint": str(options.checkpoint),
        "classes": list(predictor.classes),
        "score": predictor.score,
        "box_format": BOX_FORMAT,
        "images": entries,
        "skipped": skipped,
    }
    write_json(options.out / "predictions.json", content)
    for line in skipped:
        say(f"not read: {line}")
    count = sum(len(e.get("detections", ())) + sum(len(f) for f in e.get("frames", ())) for e in entries)
    told = f"{count} detections (score at least {predictor.score:.2f}) in {len(entries)} files: {options.out}"
    least = predictor.detector.config.score_threshold
    hint = "a lower --score finds more" if predictor.score > least else f"the detector keeps no score below {least:g}"
    say(told if count or not entries else f"{told}; {hint}")
    return 1 if skipped else 0


if __name__ == "__main__":
    run_entry(main)
