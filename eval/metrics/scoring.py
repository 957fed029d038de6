"""All figures of one domain from one set of detections, and the means over domains."""

from collections.abc import Collection

import numpy as np

from eval.metrics import bootstrap, coco, domains, voc07
from eval.metrics.errors import f1_by_score
from eval.metrics.interchange import Detections, GroundTruth, check_detections
from eval.metrics.matching import IGNORED, TRUE, Matches

MEANS = ("voc07", "area", "coco")
SIZES = ("small", "medium", "large")


def score_domain(
    truth: GroundTruth,
    detections: Detections,
    *,
    where: str = "detections",
    scorer: str = "fast",
    num_resamples: int = 0,
    seed: int = 0,
    side_offset: float = 0.0,
    metrics: tuple[str, ...] = bootstrap.METRICS,
) -> tuple[dict, dict, dict[str, np.ndarray]]:
    """(figures for results.json, curves by class, bootstrap replicates by metric). Percentages 0 to 100.

    `scorer` "pycocotools" computes the COCO figures with pycocotools itself: the same numbers, slower. `metrics` are
    those that get replicates and intervals.
    """
    check_detections(detections, truth, where)
    matches = Matches(truth, detections)
    coco_ATD, voc_D = matches.coco(), matches.voc(side_offset)
    if scorer == "fast":
        precision_TRKA = coco.coco_precision(matches, coco_ATD)
    elif scorer == "pycocotools":
        precision_TRKA = coco.pycocotools_precision(truth, detections)
    else:
        raise ValueError(f"scorer {scorer!r}: choose fast or pycocotools")
    voc = voc07.voc_ap(matches, voc_D)
    objects = truth.objects_by_class()
    figures: dict = {
        "num_images": len(truth.image_ids_N),
        "num_objects": sum(objects.values()),
        "num_ignored": int(truth.ignore_M.sum()),
        "num_detections": len(detections),
        "objects": objects,
        "classes_without_objects": [name for name, count in objects.items() if count == 0],
        "voc07": {"mAP": _mean(voc["voc07"].values()), "AP": voc["voc07"]},
        "area": {"mAP": _mean(voc["area"].values()), "AP": voc["area"]},
        "coco": coco.summarise(precision_TRKA, truth.classes),
        "best_score": best_score(matches, voc_D),
        "f1_by_score": f1_by_score(matches, coco_ATD[0, 0]),
    }
    samples: dict[str, np.ndarray] = {}
    if num_resamples:
        samples = bootstrap.replicates(matches, coco_ATD, voc_D, seed, num_resamples, metrics)
        for metric, sample_B in samples.items():
            part, key = (figures["coco"], f"interval_{metric}") if metric in SIZES else (figures[metric], "interval")
            part[key] = bootstrap.interval(sample_B)
    curves = {name: None if points is None else points.round(4).tolist() for name, points in voc["curve"].items()}
    return figures, curves, samples


def best_score(matches: Matches, verdict_D: np.ndarray) -> dict:
    """The score from which on the detections of all classes together have the best F1 = 2 right / (found + objects).

    A detector's scores mean nothing by themselves. Over several domains: errors.working_score.
    """
    order_D = np.argsort(-matches.scores_D, kind="stable")
    order_D = order_D[verdict_D[order_D] != IGNORED]
    num_objects = int((~matches.ignore_M).sum())
    right_D = np.cumsum(verdict_D[order_D] == TRUE)
    f1_D = 2 * right_D / (np.arange(1, len(order_D) + 1) + num_objects)
    if len(order_D) == 0 or right_D[-1] == 0:
        return {"score": 1.0, "f1": 0.0}
    best = int(f1_D.argmax())
    return {"score": float(matches.scores_D[order_D[best]]), "f1": 100 * float(f1_D[best])}


def mean_of_targets(
    figures: dict[str, dict], known: Collection[str], samples: dict[str, dict[str, np.ndarray]]
) -> tuple[dict, dict[str, np.ndarray]]:
    """(means over every domain but the known ones, with intervals; their replicates). Empty when all are known.

    Known are the domains that were trained on, and those of which some images were.

    A domain counts once, whatever its size: the benchmark's "mean of 4 targets".
    """
    targets = [name for name in domains.ordered(figures) if name not in known]
    if not targets:
        return {}, {}
    result: dict = {"domains": targets}
    joined: dict[str, np.ndarray] = {}
    for metric in (*MEANS, *SIZES):
        values = {
            name: figures[name]["coco"][metric] if metric in SIZES else figures[name][metric]["mAP"] for name in targets
        }
        result[metric] = _mean(values.values())
        present = [name for name in targets if values[name] is not None]  # a target without such objects has no figure
        if present and all(metric in samples.get(name, {}) for name in present):
            joined[metric] = np.mean([samples[name][metric] for name in present], axis=0)
            result[f"interval_{metric}"] = bootstrap.interval(joined[metric])
    return result, joined


def _mean(values) -> float | None:
    """Mean of what exists: a class without objects has no AP and does not count."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None
