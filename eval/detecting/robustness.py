"""Robustness to corruptions: one pass over the source domain's images for each corruption and severity.

A corrupted pixel is a function of (seed, image id), so results repeat. eval/detecting/corrupted.py makes the images,
eval/metrics/mpc.py the figures P, mPC and rPC.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval import schema
from eval.detecting.corrupted import Corruptor, check_originals, preparation
from eval.detecting.detect import Pass, detect_dataset, empty_detections, gather, spread
from eval.metrics import domains
from eval.metrics.interchange import GroundTruth, restrict
from eval.metrics.mpc import METRICS, describe, key
from eval.metrics.scoring import score_domain
from kernels import severity
from pipeline.command.console import Progress, say
from pipeline.files.own import read_arrays, read_json, write_arrays, write_json
from pipeline.packed.reader import PackedDataset

SETS = {"benchmark": severity.BENCHMARK, "training": severity.TRAINING, "all": severity.ALL}
MOST_RESAMPLES = 400  # of a cell: the bootstrap of all 76 has to stay short beside their passes


@dataclass(frozen=True)
class Plan:
    """What is measured on which images, and how it is scored."""

    domain: str
    names: tuple[str, ...]  # of corruptions
    seen: tuple[str, ...] | None  # in the detector's own training; None where that is not known
    weights: str  # their fingerprint
    num_images: int = 0  # spread evenly; 0 takes all
    originals: Path | None = None  # the folder that was packed: corrupt its images at their own resolution
    corruptor: Corruptor = "kernels"
    seed: int = 0
    resamples: int = 0
    side_offset: float = 0.0


def measure(how: Pass, plan: Plan, truth: GroundTruth | None, path: Path) -> dict:
    """Score every corruption at every severity and write `path` after each, so that a second call continues.

    `truth` is rank 0's, of the plan's domain. What lies in `path` is continued when it was measured with the same
    weights, images and settings, else started anew. Replicates lie beside it, as .npz.
    """
    dataset, world = how.dataset, how.world
    if plan.originals is not None:
        check_originals(dataset, plan.originals)
    rows_N = spread(rows_of(dataset, plan.domain), plan.num_images)
    if truth is not None:
        truth, _ = restrict(truth, empty_detections(), dataset.ids_N[rows_N])
        if truth.ignore_M.all():
            raise ValueError(
                f"--corruption-images {plan.num_images}: these images of {dataset.path} hold no object that counts, "
                "so no AP exists; take more"
            )
    identity = describe_identity(how, plan, len(rows_N))
    known, samples = read_known(path, identity) if world.first else ({}, {})
    known = world.share(known)
    tasks: list[tuple[str, int]] = [("clean", 0), *((name, s) for name in plan.names for s in severity.SEVERITIES)]
    left = [task for task in tasks if key(*task) not in known]
    with Progress("robustness", len(tasks), "passes", len(tasks) - len(left), quiet=not world.first) as progress:
        for name, level in left:
            progress.advance(0, f"{name} {level or ''}")
            prepare = preparation(how, name, level, plan.originals, plan.corruptor, plan.seed)
            found = detect_dataset(how, rows=rows_N, seed=plan.seed, prepare=prepare)
            found = gather(found, world.size)
            if truth is not None:
                figures, _, replicates = score_domain(
                    truth,
                    found.detections,
                    num_resamples=identity["resamples"],
                    seed=plan.seed,
                    side_offset=plan.side_offset,
                    metrics=METRICS,
                )
                known[key(name, level)] = {metric: figures[metric]["mAP"] for metric in METRICS}
                samples |= {f"{key(name, level)}|{metric}": values for metric, values in replicates.items()}
                write_arrays(path.with_suffix(".npz"), samples)  # first: a cell counts once its figures are written
                write_json(path, describe(known, samples, identity, plan.names, plan.seen))
            progress.advance(1)
    if truth is None:
        return {}
    described = describe(known, samples, identity, plan.names, plan.seen)
    write_json(path, described)  # also when nothing was left to measure: the summaries are of these names
    return described


def describe_identity(how: Pass, plan: Plan, num_images: int) -> dict:
    """What decides a cell's figures, as JSON gives it back: tuples are lists."""
    settings = {
        "weights": plan.weights,
        "detector": asdict(how.detector.config),
        "labels": how.label_map.tolist(),
        "checksum": how.dataset.checksum,
        "domain": plan.domain,
        "images": num_images,
        "seed": plan.seed,
        "resamples": min(plan.resamples, MOST_RESAMPLES),
        "voc_side_offset": plan.side_offset,
        "resolution": "packed" if plan.originals is None else "original",
        "corruptor": plan.corruptor,
        "precision": str(how.dtype).removeprefix("torch."),
    }
    return json.loads(json.dumps(settings, default=str))


def rows_of(dataset: PackedDataset, domain: str) -> np.ndarray:
    """The images of a domain."""
    return np.array([row for row in range(len(dataset)) if domains.canonical(dataset.domain_of(row)) == domain], int)


def read_known(path: Path, identity: dict) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """(cells measured before with the same weights, images and settings; their replicates)."""
    if not path.is_file():
        return {}, {}
    found = read_json(path, schema.ROBUSTNESS, "remove it and measure again")
    before = found["identity"]
    other = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
    if other:
        say(f"robustness: {path} was measured with other {', '.join(other)}; starting anew")
        return {}, {}
    samples = read_arrays(path.with_suffix(".npz"))
    whole = {cell for cell in found["cells"] if all(f"{cell}|{metric}" in samples for metric in METRICS)}
    return {
        cell: figures for cell, figures in found["cells"].items() if cell in whole or not identity["resamples"]
    }, samples
