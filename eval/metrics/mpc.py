"""P, mPC and rPC from the cells of a robustness measurement, with intervals.

Michaelis et al., "Benchmarking Robustness in Object Detection", arXiv 1907.07484:

    P    AP on clean images
    mPC  mean over corruptions of the mean over severities 1 to 5 of the AP on corrupted images
    rPC  mPC / P

A cell is one corruption at one severity (eval/detecting/robustness.py measures them); its replicates are the
bootstrap's. All cells drew the same resamples of the same images, so replicate b of mPC is the mean of the cells'
replicates b. Parts are sets of corruptions: those the detector was trained on are kept apart from those it never saw.
"""

import numpy as np

from eval.metrics import bootstrap
from kernels import severity

METRICS = ("voc07", "area", "coco")
PARTS = ("all", "seen", "unseen", "held_out")
PROTOCOL = ("domain", "resolution", "corruptor", "voc_side_offset")  # decide what a cell means
DRAWN = ("checksum", "images", "seed", "resamples")  # decide which resamples were drawn


def key(name: str, level: int) -> str:
    """A cell's name; the clean images are cell "clean-0"."""
    return f"{name}-{level}"


def describe(
    known: dict[str, dict],
    samples: dict[str, np.ndarray],
    identity: dict,
    names: tuple[str, ...],
    seen: tuple[str, ...] | None,
) -> dict:
    """The content of robustness.json. Summaries only hold sets whose every cell is measured."""
    parts = {"all": names}
    if seen is not None:
        parts["seen"] = tuple(name for name in names if name in seen)
        parts["unseen"] = tuple(name for name in names if name not in seen)
    parts["held_out"] = tuple(name for name in names if name in severity.UNLIKE_TRAINING)
    summaries = (
        {metric: summarise(known, samples, parts, metric) for metric in METRICS} if key("clean", 0) in known else {}
    )
    return {
        "domain": identity["domain"],
        "images": identity["images"],
        "resolution": identity["resolution"],
        "seen": list(parts.get("seen", ())),
        "known_training": seen is not None,
        "corruptions": {name: [known.get(key(name, level)) for level in severity.SEVERITIES] for name in names},
        "summary": summaries.get("voc07", {}),
        "summaries": summaries,
        "identity": identity,
        "cells": known,
    }


def summarise(
    known: dict[str, dict], samples: dict[str, np.ndarray], parts: dict[str, tuple[str, ...]], metric: str
) -> dict:
    """{"P", "interval_P", part: {"mPC", "rPC", "corruptions", "interval_mPC", "interval_rPC"}}; intervals as known."""
    clean, clean_B = known[key("clean", 0)][metric], samples.get(f"{key('clean', 0)}|{metric}")
    summary: dict = {"P": clean, "interval_P": None if clean_B is None else bootstrap.interval(clean_B)}
    for part, members in parts.items():
        cells = [known.get(key(name, level)) for name in members for level in severity.SEVERITIES]
        values = [cell[metric] for cell in cells if cell is not None]
        if not members or len(values) < len(cells):
            continue
        mpc, mpc_B = float(np.mean(values)), mpc_replicates(samples, members, metric)
        summary[part] = {"mPC": mpc, "rPC": 100 * mpc / clean if clean else None, "corruptions": len(members)}
        if mpc_B is not None and clean_B is not None:
            rpc_B = 100 * mpc_B[clean_B > 0] / clean_B[clean_B > 0]
            summary[part] |= {"interval_mPC": bootstrap.interval(mpc_B), "interval_rPC": bootstrap.interval(rpc_B)}
    return summary


def mpc_replicates(
    samples: dict[str, np.ndarray], names: tuple[str, ...] | list[str], metric: str
) -> np.ndarray | None:
    """mPC_B; None where a cell has no replicates."""
    cells = [f"{key(name, level)}|{metric}" for name in names for level in severity.SEVERITIES]
    return np.mean([samples[cell] for cell in cells], axis=0) if all(cell in samples for cell in cells) else None


def comparable(a: dict, b: dict) -> bool:
    """Two contents of robustness.json whose cells mean the same."""
    return all(a["identity"].get(part) == b["identity"].get(part) for part in PROTOCOL)
