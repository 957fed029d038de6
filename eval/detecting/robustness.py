"""Robustness to corruptions: one pass over the source domain's images for each corruption and severity.

A corrupted pixel is a function of (seed, image id), so results repeat. eval/detecting/corrupted.py makes the images,
eval/metrics/mpc.py the figures P, mPC and rPC.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from eval.detecting.corrupted import Corruptor, check_originals, preparation
from eval.detecting.detect import Detect, detect_dataset, empty_detections, gather, spread
from eval.files import read_arrays, read_json, write_arrays, write_json
from eval.metrics import domains
from eval.metrics.interchange import GroundTruth, restrict
from eval.metrics.mpc import METRICS, describe, key
from eval.metrics.scoring import score_domain
from kernels import severity
from model.api import Detector
from pipeline.command.console import Progress, say
from pipeline.command.ranks import World
from pipeline.packed.reader import PackedDataset

SETS = {"benchmark": severity.BENCHMARK, "training": severity.TRAINING, "all": severity.ALL}
MOST_RESAMPLES = 400  # of a cell: the bootstrap of all 76 has to stay short beside their passes


def measure(
    detector: Detector,
    detect: Detect,
    label_map: np.ndarray,
    dataset: PackedDataset,
    domain: str,
    truth: GroundTruth | None,
    names: tuple[str, ...],
    seen: tuple[str, ...] | None,
    world: World,
    path: Path,
    *,
    weights: str,
    num_images: int = 0,
    seed: int = 0,
    resamples: int = 0,
    side_offset: float = 0.0,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float32,
    originals: Path | None = None,
    corruptor: Corruptor = "kernels",
    loader: str = "auto",
    threads: int | None = None,
) -> dict:
    """Score every corruption at every severity and write `path` after each, so that a second call continues.

    `truth` is rank 0's, of `domain`. `weights` is their fingerprint; what lies in `path` is continued when it was
    measured with the same weights, images and settings, else started anew. Replicates lie beside it, as .npz.
    """
    if originals is not None:
        check_originals(dataset, originals)
    rows_N = spread(rows_of(dataset, domain), num_images)
    if truth is not None:
        truth, _ = restrict(truth, empty_detections(), dataset.ids_N[rows_N])
        if truth.ignore_M.all():
            raise ValueError(
                f"--corruption-images {num_images}: these images of {dataset.path} hold no object that counts, "
                "so no AP exists; take more"
            )
    settings = {
        "weights": weights,
        "detector": asdict(detector.config),
        "labels": label_map.tolist(),
        "checksum": dataset.checksum,
        "domain": domain,
        "images": len(rows_N),
        "seed": seed,
        "resamples": min(resamples, MOST_RESAMPLES),
        "voc_side_offset": side_offset,
        "resolution": "packed" if originals is None else "original",
        "corruptor": corruptor,
        "precision": str(dtype).removeprefix("torch."),
    }
    identity = json.loads(json.dumps(settings, default=str))  # as it is read back: tuples are lists
    known, samples = read_known(path, identity) if world.first else ({}, {})
    known = world.share(known)
    tasks: list[tuple[str, int]] = [("clean", 0), *((name, s) for name in names for s in severity.SEVERITIES)]
    left = [task for task in tasks if key(*task) not in known]
    with Progress("robustness", len(tasks), "passes", len(tasks) - len(left), quiet=not world.first) as progress:
        for name, level in left:
            progress.advance(0, f"{name} {level or ''}")
            found = detect_dataset(
                detector,
                dataset,
                label_map,
                batch_size=batch_size,
                device=world.device,
                dtype=dtype,
                rank=world.rank,
                world=world.size,
                detect=detect,
                rows=rows_N,
                loader=loader,
                threads=threads,
                seed=seed,
                prepare=preparation(name, level, dataset, originals, corruptor, seed, world.device, dtype),
            )
            found = gather(found, world.size)
            if truth is not None:
                figures, _, replicates = score_domain(
                    truth,
                    found.detections,
                    num_resamples=identity["resamples"],
                    seed=seed,
                    side_offset=side_offset,
                    metrics=METRICS,
                )
                known[key(name, level)] = {metric: figures[metric]["mAP"] for metric in METRICS}
                samples |= {f"{key(name, level)}|{metric}": values for metric, values in replicates.items()}
                write_arrays(path.with_suffix(".npz"), samples)  # first: a cell counts once its figures are written
                write_json(path, describe(known, samples, identity, names, seen))
            progress.advance(1)
    if truth is None:
        return {}
    described = describe(known, samples, identity, names, seen)
    write_json(path, described)  # also when nothing was left to measure: the summaries are of these names
    return described


def rows_of(dataset: PackedDataset, domain: str) -> np.ndarray:
    """The images of a domain."""
    return np.array([row for row in range(len(dataset)) if domains.canonical(dataset.domain_of(row)) == domain], int)


def read_known(path: Path, identity: dict) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """(cells measured before with the same weights, images and settings; their replicates)."""
    if not path.is_file():
        return {}, {}
    found = read_json(path)
    before = found.get("identity") or {}
    other = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
    if other:
        say(f"robustness: {path} was measured with other {', '.join(other)}; starting anew")
        return {}, {}
    samples = read_arrays(path.with_suffix(".npz"))
    whole = {cell for cell in found["cells"] if all(f"{cell}|{metric}" in samples for metric in METRICS)}
    return {
        cell: figures for cell, figures in found["cells"].items() if cell in whole or not identity["resamples"]
    }, samples
