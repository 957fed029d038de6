"""How sure a figure is: bootstrap over images. Each is matched once; a resample only counts it more or less often.

A resample draws N images of a domain with replacement; a replicate is the metric computed on that draw. The interval is
the 2.5 and 97.5 % quantile of the replicates (percentile bootstrap, Efron 1979). Draws depend on the seed, the domain
and its number of images alone, so replicate b of two runs saw the same images and their difference is a paired one.
"""

import zlib

import numpy as np
from numba import njit, prange

from eval.metrics.matching import AREA_RANGES, FALSE, IGNORED, RECALLS_R, Matches
from eval.metrics.voc07 import ELEVEN_RECALLS_R
from pipeline.command.threads import threads_kept

NUM_RESAMPLES = 1000
_CHUNK = 100  # resamples drawn at a time: bounds the memory of their counts
RECALLS_OF = {"voc07": ELEVEN_RECALLS_R, "area": np.empty(0)}  # no points: the area itself; other metrics COCO's 101
METRICS = ("voc07", "area", "coco", "small", "medium", "large")


def draw_counts(num_images: int, domain: str, seed: int, num_resamples: int):
    """Chunks of counts_BN: how often each image is in each resample."""
    generator = np.random.default_rng([seed, zlib.crc32(domain.encode()), num_images])
    for first in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - first)
        counts_BN = np.zeros((size, num_images), np.int32)
        for row in range(size):
            counts_BN[row] = np.bincount(generator.integers(0, num_images, num_images), minlength=num_images)
        yield counts_BN


def replicates(
    matches: Matches,
    coco_ATD: np.ndarray,
    voc_D: np.ndarray,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    metrics: tuple[str, ...] = METRICS,
) -> dict[str, np.ndarray]:
    """{metric: replicate_B} in percent: means over classes with objects in the resample; NaN where none has."""
    curves = {metric: _curves(matches, coco_ATD, voc_D, metric) for metric in metrics}
    chunks: dict[str, list[np.ndarray]] = {metric: [] for metric in metrics}
    truth = matches.truth
    for counts_BN in draw_counts(len(truth.image_ids_N), truth.domain, seed, num_resamples):
        for metric in metrics:
            recalls_R = RECALLS_OF.get(metric, RECALLS_R)
            with threads_kept():
                ap_KB = [resampled_ap(*curve, counts_BN, recalls_R) for curve in curves[metric]]  # type: ignore[call-arg]
            chunks[metric].append(_mean_over_classes(ap_KB, len(counts_BN)))
    return {metric: 100 * np.concatenate(parts) if parts else np.empty(0) for metric, parts in chunks.items()}


def _curves(matches: Matches, coco_ATD: np.ndarray, voc_D: np.ndarray, metric: str) -> list[tuple]:
    """For each class with objects: image_D of its detections by falling score, events (see below), objects_N."""
    area = metric if metric in AREA_RANGES else "all"
    verdict_TD = voc_D[None] if metric in ("voc07", "area") else coco_ATD[list(AREA_RANGES).index(area)]
    curves = []
    for label in range(1, len(matches.truth.classes) + 1):
        objects_N = matches.objects_per_image(label, area)
        if not objects_N.any():
            continue
        places = matches.by_class(label)
        verdict_TP = verdict_TD[:, places]
        counted = ~(verdict_TP == IGNORED).all(axis=0)
        places, verdict_TP = places[counted], verdict_TP[:, counted]
        event_T, event_D = np.nonzero(verdict_TP != FALSE)
        bounds_T = np.searchsorted(event_T, np.arange(len(verdict_TP) + 1))
        curves.append((matches.image_D[places], event_D, verdict_TP[event_T, event_D], bounds_T, objects_N))
    return curves


def _mean_over_classes(ap_KB: list[np.ndarray], num_resamples: int) -> np.ndarray:
    if not ap_KB:
        return np.full(num_resamples, np.nan)
    present_KB = ~np.isnan(ap_KB)
    num_present_B = present_KB.sum(axis=0)
    total_B = np.where(present_KB, ap_KB, 0).sum(axis=0)
    return np.where(num_present_B > 0, total_B / np.maximum(num_present_B, 1), np.nan)


@njit(cache=True, parallel=True)
def resampled_ap(image_D, event_E, verdict_E, bounds_T, objects_N, counts_BN, recalls_R):
    """ap_B of one class: mean over thresholds T (and recalls R; the area when there are none); NaN without objects.

    The events of threshold t, bounds_T[t] to bounds_T[t + 1], are the detections that are not false there (place in D,
    verdict). Precision peaks only at true ones, and the false ones before it are all that came, less right and ignored.
    """
    num_detections, num_thresholds = len(image_D), len(bounds_T) - 1
    ap_B = np.empty(len(counts_BN))
    for b in prange(len(counts_BN)):
        num_objects = 0.0
        for n in range(len(objects_N)):
            num_objects += counts_BN[b, n] * objects_N[n]
        if num_objects == 0:
            ap_B[b] = np.nan
            continue
        seen = np.empty(num_detections + 1)  # detections before each place, counted as often as their image
        seen[0] = 0
        for d in range(num_detections):
            seen[d + 1] = seen[d] + counts_BN[b, image_D[d]]
        reached, precision = np.empty(num_detections), np.empty(num_detections)
        total = 0.0
        for t in range(num_thresholds):
            right, ignored, place = 0.0, 0.0, 0
            for e in range(bounds_T[t], bounds_T[t + 1]):
                d = event_E[e]
                count = seen[d + 1] - seen[d]
                if verdict_E[e] == IGNORED:
                    ignored += count
                elif count > 0:
                    right += count
                    reached[place] = right
                    precision[place] = right / (seen[d + 1] - ignored)
                    place += 1
            best, r = 0.0, len(recalls_R) - 1
            for p in range(place - 1, -1, -1):
                while r >= 0 and recalls_R[r] > reached[p] / num_objects:
                    total += best / len(recalls_R)
                    r -= 1
                best = max(best, precision[p])
                if len(recalls_R) == 0:
                    total += best * (reached[p] - (reached[p - 1] if p else 0.0)) / num_objects
            total += best * (r + 1) / max(len(recalls_R), 1)
        ap_B[b] = total / num_thresholds
    return ap_B


def interval(replicate_B: np.ndarray) -> list[float] | None:
    """The central 95 % of the replicates; None when there are none."""
    replicate_B = replicate_B[~np.isnan(replicate_B)]
    if len(replicate_B) == 0:
        return None
    return [float(value) for value in np.quantile(replicate_B, (0.025, 0.975))]
