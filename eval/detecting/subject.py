"""What is evaluated: a detector with the meaning of its labels, or files of somebody's detections."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from eval.detecting.detect import Detect, Found, Pass, choose_compile, match_classes
from eval.metrics.interchange import read_results
from eval.options import EvaluationOptions
from model.api import Detector
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from pipeline.packed.reader import PackedDataset


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a detector, or only a name when detections come from files."""

    detector: Detector | None
    classes: tuple[str, ...]
    detect: Detect | None
    about: dict
    weights: str | None  # their fingerprint
    card: dict = field(default_factory=dict)  # what the checkpoint says beside classes and network


def open_subject(options: EvaluationOptions, world: World, datasets: list[PackedDataset]) -> Subject:
    if options.detections:
        if len(options.detections) != len(options.data):
            raise ValueError(
                f"--detections: {len(options.detections)} files for {len(options.data)} datasets; give one per --data, "
                "in the same order"
            )
        if options.corruptions != "none":
            raise ValueError("--corruptions needs a detector to look at the corrupted images; leave out --detections")
        if world.size > 1:
            raise ValueError("--detections: scoring files needs one process; leave out torchrun")
        return Subject(None, (), None, {"detections": [str(path) for path in options.detections]}, None)
    assert options.run is not None
    detector, card = load_detector(options.run, world.device, options.classes or None)
    about = {"backbone": card.config.backbone, "score_threshold": card.config.score_threshold, **card.extra}
    about.pop("trained_on", None)  # results.json has it as a part of its own
    detect: Detect = detector.detect
    if choose_compile(options.compile, world.device):
        canvases = {canvas for dataset in datasets for canvas in dataset.canvases.values()}
        # Each compiles once clean and once as a corrupted view lays it out; with fullgraph, going over is an error.
        torch._dynamo.config.recompile_limit = max(8, 2 * len(canvases))
        detect = torch.compile(detector.detect, fullgraph=True, dynamic=False)
    return Subject(detector, card.classes, detect, about, fingerprint(detector), card.extra)


def fingerprint(detector: Detector) -> str:
    """Of the weights."""
    digest = hashlib.sha256()
    for name, value in detector.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pass_over(subject: Subject, dataset: PackedDataset, options: EvaluationOptions, world: World) -> Pass:
    """The subject's detector looking at a dataset."""
    assert subject.detector is not None
    return Pass(
        subject.detector,
        dataset,
        map_labels(subject, dataset, options),
        world,
        options.batch_size,
        options.precision,
        subject.detect,
        options.loader,
        options.threads,
    )


def map_labels(subject: Subject, dataset: PackedDataset, options: EvaluationOptions) -> np.ndarray:
    renames = dict(read_rename(text) for text in options.map)
    return match_classes(subject.classes, dataset.classes, renames, options.allow_other_classes)


def read_rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise ValueError(f"--map {text}: write detector_name=data_name")
    return old, new


def files_as_found(path: Path, dataset: PackedDataset) -> Found:
    """Somebody's detections instead of a detector's; ids that the data does not have are an error."""
    detections = read_results(path)
    unknown = np.setdiff1d(detections.image_ids_D, dataset.ids_N)
    if len(unknown):
        raise ValueError(
            f"{path}: {len(unknown)} image ids are not in {dataset.path} ({len(dataset)} images), the first is "
            f"{unknown[0]}; score the file against the data it was made from"
        )
    return Found(dataset.ids_N, detections)
