"""Detect in every dataset on all ranks, and score each domain on the first."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eval.detecting.detect import Found, detect_dataset, gather
from eval.detecting.subject import Subject, files_as_found, pass_over
from eval.metrics import domains
from eval.metrics.interchange import Detections, GroundTruth, ground_truth_of, restrict, truths_of
from eval.metrics.scoring import score_domain
from eval.options import EvaluationOptions
from eval.report.training import trim_card
from pipeline.command.console import Progress, say
from pipeline.command.ranks import World
from pipeline.packed.reader import PackedDataset

Truths = dict[str, tuple[GroundTruth, PackedDataset]]  # of each domain, and where it lies

QUICKLY_SCORED = 1000  # images that are scored in a few seconds, too soon for a progress display


@dataclass
class Evaluation:
    """Everything that scoring gave, by domain."""

    detections: dict[str, Detections] = field(default_factory=dict)
    figures: dict[str, dict] = field(default_factory=dict)
    curves: dict[str, dict] = field(default_factory=dict)
    samples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    f1_by_score: dict[str, list[float]] = field(default_factory=dict)
    speed: dict = field(default_factory=dict)
    working_score: float = 0.0  # from which on errors are counted and pictures show detections


def evaluate(
    subject: Subject, truths: Truths, datasets: list[PackedDataset], options: EvaluationOptions, world: World
) -> Evaluation | None:
    """Detect on all ranks, score on rank 0 (the others get None and need no truths)."""
    evaluation = Evaluation()
    parts: dict[Path, Found] = {}
    files = dict(zip([dataset.path for dataset in datasets], options.detections, strict=False))  # none with a detector
    for dataset in datasets:
        if subject.detector is None:
            found = files_as_found(files[dataset.path], dataset)
        else:
            how = pass_over(subject, dataset, options, world)
            description = f"{options.run}: detecting in {dataset.path.name}"
            found = gather(detect_dataset(how, description=description), world.size)
        parts[dataset.path] = found
    if not world.first:
        return None
    images = sum(len(found.ids_N) for found in parts.values())
    with Progress("scoring", images, quiet=images < QUICKLY_SCORED) as progress:
        for domain, (truth, dataset) in truths.items():
            _, detections = restrict(truth, parts[dataset.path].detections, truth.image_ids_N)
            figures, curves, samples = score_domain(
                truth,
                detections,
                where=str(files.get(dataset.path, dataset.path)),
                scorer=options.scorer,
                num_resamples=options.resamples,
                seed=options.seed,
                side_offset=options.voc_side_offset,
            )
            evaluation.f1_by_score[domain] = figures.pop("f1_by_score")
            evaluation.detections[domain], evaluation.curves[domain] = detections, curves
            evaluation.figures[domain], evaluation.samples[domain] = figures, samples
            figures["checksum"], figures["path"] = dataset.checksum, str(dataset.path)
            figures["data"] = trim_card(dataset.info)
            progress.advance(len(truth.image_ids_N))
    if subject.detector is not None:
        seconds = sum(found.seconds for found in parts.values())
        waiting = sum(found.waiting_seconds for found in parts.values())
        steady = sum(found.steady_images for found in parts.values())
        steady_seconds = sum(found.steady_seconds for found in parts.values())
        evaluation.speed = {
            "images": images,
            "seconds": round(seconds, 2),
            "images_per_second": round(steady / steady_seconds, 2) if steady_seconds else None,
            "waiting_share": round(waiting / max(seconds, 1e-9), 4),
            "batch_size": options.batch_size,
            "ranks": world.size,
        }
    return evaluation


def collect_truths(datasets: list[PackedDataset]) -> Truths:
    """Of every domain that has an object that counts; one without is named and left out, unless none is left."""
    truths: Truths = {}
    for dataset in datasets:
        for truth in truths_of(dataset):
            if truth.ignore_M.all():
                say(f"note: {dataset.path}: the domain {truth.domain} has no object that counts, so it is left out")
                continue
            if truth.domain in truths:
                raise ValueError(
                    f"--data: {truths[truth.domain][1].path} and {dataset.path} both hold the domain {truth.domain}; "
                    "pack them together, or choose other domains with --domains; else evaluate them one at a time, "
                    "each with its own --out"
                )
            truths[truth.domain] = truth, dataset
    if not truths:
        ground_truth_of(datasets[0])  # says what is missing
    return {domain: truths[domain] for domain in domains.ordered(truths)}
