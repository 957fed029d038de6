"""Time evaluation: `python -m eval.bench [--json FILE]` scores the same detections with ours and with pycocotools.

Equality comes first: no time is printed for figures that differ. `--device cuda` (or cpu) instead times passes of a
detector over the same images, clean and corrupted by the kernels: what robustness costs beside inference.
"""

import contextlib
import importlib
import io
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from eval.detecting.corrupted import corrupted_view
from eval.detecting.detect import choose_dtype, make_batch
from eval.metrics.coco import coco_precision
from eval.metrics.interchange import Detections, GroundTruth, ground_truth_json, make_ground_truth
from eval.metrics.matching import Matches
from eval.metrics.scoring import score_domain
from kernels.severity import BENCHMARK
from model.build import build_detector
from model.config import ModelConfig
from pipeline.batch import Batch
from pipeline.command.console import describe_hardware, run_entry, say
from pipeline.files.own import write_json
from pipeline.views import clean_view

CLASSES = ("bus", "bike", "car", "motor", "person", "rider", "truck")
SHARES = (0.02, 0.02, 0.7, 0.01, 0.18, 0.01, 0.06)  # of the benchmark's objects, about
OBJECTS_AN_IMAGE = 14
# Other people's scorers with pycocotools' interface, timed where they are installed: module, its two classes.
OTHERS = {"hotcoco": ("COCO", "COCOeval"), "faster_coco_eval": ("COCO", "COCOeval_faster")}
ROUNDING = 1e-12  # of faster-coco-eval's precisions; hotcoco's are equal to the last bit


@dataclass(frozen=True)
class BenchOptions:
    """Score random detections with our scorer and with pycocotools."""

    images: int = 5000
    detections: int = 100
    """Of each image."""
    resamples: int = 1000
    """Bootstrap resamples, timed apart."""
    runs: int = 5
    device: Literal["none", "cpu", "cuda"] = "none"
    """Time clean and corrupted passes there instead of the scorers."""
    backbone: Literal["resnet101", "resnet50", "resnet18", "mobilenet_v2"] = "resnet101"
    size: tuple[int, int] = (576, 1024)
    """Height and width of the pictures of these passes, multiples of 32."""
    batch_size: int = 8
    severity: Literal[1, 2, 3, 4, 5] = 3
    json: Path | None = None


def make_world(num_images: int, per_image: int) -> tuple[GroundTruth, Detections]:
    """Objects as many as on a benchmark image; detections around them, some of another class."""
    generator = np.random.default_rng(0)
    num_objects = num_images * OBJECTS_AN_IMAGE
    sides = np.exp(generator.normal(3.6, 0.9, (num_objects, 2))).clip(3, 600)
    boxes = np.concatenate([generator.uniform(0, 1, (num_objects, 2)) * (1280, 720), sides], axis=1).round(2)
    image = np.repeat(np.arange(num_images), OBJECTS_AN_IMAGE)
    labels = generator.choice(len(CLASSES), num_objects, p=SHARES) + 1
    sizes = np.tile((720, 1280), (num_images, 1))
    ignore = generator.random(num_objects) < 0.02
    truth = make_ground_truth("bench", CLASSES, np.arange(num_images), sizes, image, boxes, labels, ignore)
    rows = np.repeat(np.arange(num_images), per_image)
    near = rows * OBJECTS_AN_IMAGE + generator.integers(0, OBJECTS_AN_IMAGE, len(rows))
    moved = boxes[near] + generator.normal(0, 0.15, (len(rows), 4)) * np.tile(boxes[near, 2:], 2)
    other = generator.random(len(rows)) < 0.15
    found = Detections(
        image_ids_D=rows,
        boxes_D4=np.maximum(moved, 0).round(2),
        labels_D=np.where(other, generator.integers(1, len(CLASSES) + 1, len(rows)), labels[near]),
        scores_D=generator.random(len(rows)).round(6),
    )
    return truth, found


def timed(truth: GroundTruth, found: Detections, **options) -> tuple[float, dict]:
    started = time.perf_counter()
    figures, _, _ = score_domain(truth, found, **options)
    return time.perf_counter() - started, figures


def time_others(truth: GroundTruth, found: Detections) -> dict[str, dict[str, float]]:
    """CPU seconds of the COCO figures alone, from arrays on: reading and sorting, then scoring.

    CPU time, all threads together, says the same on a machine with other work on it.
    """

    clock = time.process_time

    times = [clock()]
    matches = Matches(truth, found)
    times.append(clock())
    ours = coco_precision(matches, matches.coco())
    times.append(clock())
    seconds = {"ours": {"read": round(times[1] - times[0], 2), "score": round(times[2] - times[1], 2)}}
    annotations = ground_truth_json(truth) | {"info": {}}
    rows_D7 = np.column_stack([found.image_ids_D, found.boxes_D4, found.scores_D, found.labels_D]).reshape(-1, 7)
    for name, (data_class, scorer_class) in OTHERS.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            start = clock()
            data = getattr(module, data_class)(annotations)
            results = data.loadRes(rows_D7)
            between = clock()
            scorer = getattr(module, scorer_class)(data, results, "bbox")
            scorer.evaluate()
            scorer.accumulate()
            end = clock()
        apart = float(np.abs(np.asarray(scorer.eval["precision"])[..., -1] - ours).max())
        if apart > ROUNDING:
            raise RuntimeError(f"our figures differ from {name}'s by {apart}: no time is printed for wrong figures")
        seconds[name] = {"read": round(between - start, 2), "score": round(end - between, 2)}
    return seconds


@torch.no_grad()
def time_corruptions(options: BenchOptions) -> dict:
    """Seconds of a batch, from uint8 on the device to detections there: clean, and corrupted by each benchmark type.

    Rounds take turns, so that a machine's moods meet all alike; the cost is what the corrupted pass takes more.
    """
    device = torch.device(options.device)
    dtype = choose_dtype("auto", device)
    detector = build_detector(ModelConfig(backbone=options.backbone, weights="none"), len(CLASSES) + 1).eval()
    detector = detector.to(device).to(memory_format=torch.channels_last)
    detect = torch.compile(detector.detect, fullgraph=True, dynamic=False) if device.type == "cuda" else detector.detect
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*options.size, 3), dtype=np.uint8) for _ in range(options.batch_size)]
    batch = make_batch(images, list(range(options.batch_size)), options.size, device)
    views: dict[str, Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]] = {"clean": lambda b: clean_view(b, dtype)}
    views |= {name: corrupted_view(name, options.severity, device, dtype) for name in BENCHMARK}
    times: dict[str, list[float]] = {name: [] for name in views}
    for round_ in range(options.runs + 1):  # the first one compiles
        for name, view in views.items():
            started = time.perf_counter()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found = detect(*view(batch))
            found[0].cpu()  # waits for the device
            if round_:
                times[name].append(time.perf_counter() - started)
    seconds = {name: float(np.median(values)) for name, values in times.items()}
    costs = {name: round(100 * (seconds[name] / seconds["clean"] - 1), 1) for name in BENCHMARK}
    return {
        "backbone": options.backbone,
        "batch": [options.batch_size, *options.size],
        "severity": options.severity,
        "runs": options.runs,
        "clean_ms": round(1000 * seconds["clean"], 2),
        "cost_percent": costs,
        "cost_percent_mean": round(float(np.mean(list(costs.values()))), 1),
        "hardware": describe_hardware(),
    }


def time_scorers(options: BenchOptions) -> dict:
    """Ours and pycocotools on the same detections; refuses to tell times of figures that differ."""
    small = make_world(20, 10)
    score_domain(*small, num_resamples=1)  # compiles
    truth, found = make_world(options.images, options.detections)
    before_gb = peak_memory_gb()
    times: list[float] = []
    ours: dict = {}
    for _ in range(options.runs):
        seconds, ours = timed(truth, found)
        times.append(seconds)
    bootstrap_s = timed(truth, found, num_resamples=options.resamples)[0] - float(np.median(times))
    after_gb = peak_memory_gb()  # pycocotools, which needs far more, comes after it
    theirs_s, theirs = timed(truth, found, scorer="pycocotools")
    if ours != theirs:
        raise RuntimeError("our figures differ from pycocotools': no time is printed for wrong figures")
    return {
        "images": options.images,
        "detections_an_image": options.detections,
        "ours_s": round(float(np.median(times)), 3),
        "ours_s_all": [round(value, 3) for value in times],
        "pycocotools_s": round(theirs_s, 2),
        "ratio": round(theirs_s / float(np.median(times)), 1),
        "cpu_seconds_of_coco": time_others(truth, found),
        "bootstrap_s": round(bootstrap_s, 2),
        "resamples": options.resamples,
        "peak_memory_before_gb": round(before_gb, 2),  # detections in memory, nothing scored yet
        "peak_memory_ours_gb": round(after_gb, 2),  # with the bootstrap
        "hardware": describe_hardware(),
    }


def peak_memory_gb() -> float:
    """Of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    options = tyro.cli(BenchOptions)
    say(describe_hardware())
    results = time_scorers(options) if options.device == "none" else time_corruptions(options)
    for key, value in results.items():
        say(f"{key}: {value}")
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    run_entry(main)
