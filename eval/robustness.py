"""Robustness to corruptions: P, mPC and rPC.

Michaelis et al., "Benchmarking Robustness in Object Detection", arXiv 1907.07484:

    P    AP on clean images
    mPC  mean over corruptions of the mean over severities 1 to 5 of the AP on corrupted images
    rPC  mPC / P

Corruptions a detector was trained on are kept apart from those it never saw. Without `originals` the stored images are
corrupted at their packed size, before the network's view is made; with them, the source images at their own resolution
before resizing, as the benchmark says. A corrupted pixel is a function of (seed, image id), so results repeat.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import kernels
from eval.detect import Detect, detect_dataset, gather, make_batch
from eval.files import read_json, write_json
from eval.interchange import GroundTruth, restrict
from eval.scoring import score_domain
from kernels import severity
from model.detector import Detector
from pipeline.batch import Batch
from pipeline.console import Progress
from pipeline.packed import PackedDataset
from pipeline.pixels import decode_rgb, resize
from pipeline.ranks import World
from pipeline.views import ViewConfig, ViewMaker, clean_view

SETS = {"benchmark": severity.BENCHMARK, "training": severity.TRAINING, "all": severity.ALL}
METRICS = ("voc07", "area", "coco")
Corruptor = Literal["kernels", "imagecorruptions"]

# A batch as the network shall see it: images_B3HW, sizes_B2.
Prepare = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]


def measure(
    detector: Detector,
    detect: Detect,
    label_map: np.ndarray,
    dataset: PackedDataset,
    truth: GroundTruth | None,
    names: tuple[str, ...],
    seen: tuple[str, ...] | None,
    world: World,
    path: Path,
    *,
    identity: dict,
    num_images: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float32,
    originals: Path | None = None,
    corruptor: Corruptor = "kernels",
    loader: str = "auto",
    threads: int | None = None,
) -> dict:
    """Score every corruption at every severity and write `path` after each, so that a second call continues.

    `truth` is rank 0's. `identity` says what is measured; results of anything else in `path` are started anew.
    """
    if originals is not None:
        check_originals(dataset, originals)
    identity = identity | {
        "checksum": dataset.checksum,
        "num_images": num_images,
        "seed": seed,
        "resolution": "packed" if originals is None else "original",
        "corruptor": corruptor,
        "precision": str(dtype).removeprefix("torch."),
    }
    known = world.share(read_known(path, identity) if world.first else None)
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
                max_images=num_images,
                loader=loader,
                threads=threads,
                seed=seed,
                prepare=preparation(name, level, dataset, originals, corruptor, seed, world.device, dtype),
            )
            found = gather(found, world.size)
            if truth is not None:
                part, seen_detections = restrict(truth, found.detections, found.ids_N)
                figures, _, _ = score_domain(part, seen_detections)
                known[key(name, level)] = {metric: figures[metric]["mAP"] for metric in METRICS}
                write_json(path, describe(known, identity, dataset, truth.domain, names, seen))
            progress.advance(1)
    if truth is None:
        return {}
    described = describe(known, identity, dataset, truth.domain, names, seen)
    write_json(path, described)  # also when nothing was left to measure: the summaries are of these names
    return described


def key(name: str, level: int) -> str:
    return f"{name}-{level}"


def read_known(path: Path, identity: dict) -> dict[str, dict]:
    """Cells measured before for the same detector, images and settings."""
    if not path.is_file():
        return {}
    found = read_json(path)
    return found["cells"] if found.get("identity") == identity else {}


def preparation(
    name: str,
    level: int,
    dataset: PackedDataset,
    originals: Path | None,
    corruptor: Corruptor,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Prepare | None:
    """What is done to a batch before the network sees it; None leaves it clean."""
    if level == 0 and originals is None:
        return None
    if originals is None and corruptor == "kernels":
        config = ViewConfig(
            corruptions=(name,), severities=(level,), ratio_range=(1.0, 1.0), flip_probability=0.0, ratio_buckets=1
        )
        maker = ViewMaker(config, device, dtype, teacher=False)

        def corrupted_view(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            views = maker(batch)
            return views.student_B3hw, views.student_sizes_B2

        return corrupted_view

    def one_by_one(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images, ids = [], batch.ids_B.tolist()
        for b, image_id in enumerate(ids):
            h, w = batch.sizes_B2[b].tolist()
            if image_id < 0:
                images.append(np.zeros((1, 1, 3), np.uint8))
                continue
            if originals is None:
                images.append(
                    corrupt(batch.images_BHW3[b, :h, :w].cpu().numpy(), name, level, image_id, seed, corruptor)
                )
                continue
            row = dataset.index_of(image_id)
            image = decode_rgb((originals / dataset.file_names[row]).read_bytes())
            image = image if level == 0 else corrupt(image, name, level, image_id, seed, corruptor)
            images.append(resize(image, (h, w)))
        height, width = batch.images_BHW3.shape[1:3]
        made = make_batch(images, ids, (height, width), device)
        return clean_view(replace(made, sizes_B2=batch.sizes_B2), dtype)

    return one_by_one


def corrupt(image: np.ndarray, name: str, level: int, image_id: int, seed: int, corruptor: Corruptor) -> np.ndarray:
    if corruptor == "kernels":
        return kernels.corrupt(image, severity=level, corruption_name=name, seed=(seed << 40) ^ image_id)
    from imagecorruptions import corrupt as reference

    return reference(np.ascontiguousarray(image), severity=level, corruption_name=name)


def check_originals(dataset: PackedDataset, originals: Path) -> None:
    missing = [name for name in dataset.file_names if not (originals / name).is_file()]
    if missing:
        raise ValueError(
            f"--originals {originals}: {len(missing)} of {len(dataset)} source images of {dataset.path} are not there, "
            f"the first is {missing[0]}; name the folder that was packed ({dataset.info['source']['folder']})"
        )


def describe(
    known: dict[str, dict],
    identity: dict,
    dataset: PackedDataset,
    domain: str,
    names: tuple[str, ...],
    seen: tuple[str, ...] | None,
) -> dict:
    """The content of robustness.json. Summaries only hold sets whose every cell is measured."""
    cells = {name: [known.get(key(name, level)) for level in severity.SEVERITIES] for name in names}
    clean = known.get(key("clean", 0))
    parts = {"all": names}
    if seen is not None:
        parts["seen"] = tuple(name for name in names if name in seen)
        parts["unseen"] = tuple(name for name in names if name not in seen)
    parts["held_out"] = tuple(name for name in names if name in severity.UNLIKE_TRAINING)
    summaries: dict[str, dict] = {}
    for metric in METRICS:
        if clean is None:
            break
        summaries[metric] = {"P": clean[metric]}
        for part, members in parts.items():
            rows = [cells[name] for name in members]
            values = [cell[metric] for row in rows for cell in row if cell is not None]
            if members and len(values) == len(members) * len(severity.SEVERITIES):
                mpc = float(np.mean(values))
                rpc = 100 * mpc / clean[metric] if clean[metric] else None
                summaries[metric][part] = {"mPC": mpc, "rPC": rpc, "corruptions": len(members)}
    return {
        "domain": domain,
        "images": identity["num_images"] or len(dataset),
        "resolution": identity["resolution"],
        "seen": list(parts.get("seen", ())),
        "known_training": seen is not None,
        "corruptions": cells,
        "summary": summaries.get("voc07", {}),
        "summaries": summaries,
        "identity": identity,
        "cells": known,
    }
