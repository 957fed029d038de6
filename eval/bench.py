"""Time the scorers: `python -m eval.bench [--json FILE]`. Ours against pycocotools on the same detections, in one run.

Equality comes first: no time is printed for figures that differ.
"""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from eval.files import write_json
from eval.interchange import Detections, GroundTruth, make_ground_truth
from eval.scoring import score_domain
from pipeline.console import describe_hardware, run_entry, say

CLASSES = ("bus", "bike", "car", "motor", "person", "rider", "truck")
SHARES = (0.02, 0.02, 0.7, 0.01, 0.18, 0.01, 0.06)  # of the benchmark's objects, about
OBJECTS_AN_IMAGE = 14


@dataclass(frozen=True)
class BenchOptions:
    """Score random detections with our scorer and with pycocotools."""

    images: int = 5000
    detections: int = 100
    """Of each image."""
    resamples: int = 1000
    """Bootstrap resamples, timed apart."""
    runs: int = 5
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


def main() -> None:
    options = tyro.cli(BenchOptions)
    say(describe_hardware())
    small = make_world(20, 10)
    score_domain(*small, num_resamples=1)  # compiles
    truth, found = make_world(options.images, options.detections)
    theirs_s, theirs = timed(truth, found, scorer="pycocotools")
    times: list[float] = []
    ours: dict = {}
    for _ in range(options.runs):
        seconds, ours = timed(truth, found)
        times.append(seconds)
    if ours != theirs:
        raise RuntimeError("our figures differ from pycocotools': no time is printed for wrong figures")
    bootstrap_s = timed(truth, found, num_resamples=options.resamples)[0] - float(np.median(times))
    results = {
        "images": options.images,
        "detections_an_image": options.detections,
        "ours_s": round(float(np.median(times)), 3),
        "ours_s_all": [round(value, 3) for value in times],
        "pycocotools_s": round(theirs_s, 2),
        "ratio": round(theirs_s / float(np.median(times)), 1),
        "bootstrap_s": round(bootstrap_s, 2),
        "resamples": options.resamples,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "hardware": describe_hardware(),
    }
    for key, value in results.items():
        say(f"{key}: {value}")
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    run_entry(main)
