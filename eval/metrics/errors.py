"""What a detector gets wrong at its working score: errors by type, precision and recall by class, confusions.

Only detections from the working score on take part. They are matched by COCO's rule at IoU 0.5. The types are TIDE's
(Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", arXiv 2008.08115), tried in this order
for a detection that is not right; b is its best overlap with any object that counts:

    badly_placed   overlaps an object of its class by 0.1 to 0.5                     (TIDE: localization)
    wrong_class    overlaps an object of another class by 0.5 or more                (classification)
    duplicate      overlaps an object of its class that is found already by 0.5      (duplicate)
    background     b is at most 0.1                                                  (background)
    both           anything else: another class, and badly placed                    (both)

and an object is `missed` when no detection found it, and no badly placed or misnamed one is about it: each of these is
about the object it overlaps most. `not_found` counts every object without a right detection; TIDE's missed ones are
among them.

The confusions pair each object with at most one detection: the right one, else the best scored detection that is left
and overlaps it by 0.5 or more, whatever its class. So a row sums to a class's objects, a column to its detections.
Legend: M objects, D detections.
"""

from collections.abc import Mapping

import numpy as np
from numba import njit

from eval.metrics.interchange import Detections, GroundTruth, select
from eval.metrics.matching import IGNORED, MAX_DETECTIONS, TRUE, Matches, box_overlap

FOREGROUND, BACKGROUND = 0.5, 0.1  # TIDE's own thresholds
TYPES = ("wrong_class", "badly_placed", "both", "duplicate", "background", "missed")
SCORES = np.arange(100) / 100
NOTHING = 0  # in place of a label: no object there, or no detection


def f1_by_score(matches: Matches, verdict_D: np.ndarray) -> list[float]:
    """F1 = 2 right / (found + objects), in percent, of all classes together from each of SCORES on."""
    counts_D = verdict_D != IGNORED
    num_objects = int((~matches.ignore_M).sum())
    found_D, right_D = (np.sort(matches.scores_D[kept]) for kept in (counts_D, verdict_D == TRUE))
    found, right = (len(scores) - np.searchsorted(scores, SCORES) for scores in (found_D, right_D))
    return [round(float(value), 3) for value in 200 * right / np.maximum(found + num_objects, 1)]


def working_score(f1_of: Mapping[str, list[float]]) -> float:
    """The score from which all domains together keep most of their own best F1: {domain: f1_by_score}.

    Scores fall in bad weather: from the source's best score on, hardly any object of a rainy night is found. The mean
    of F1 itself hardly moves from there, as the source's F1 is the largest. So each domain's F1 counts as a share of
    its own best. One domain alone: where its F1 is best.
    """
    shares = [np.array(f1) / max(*f1, 1e-9) for f1 in f1_of.values()]
    return float(SCORES[int(np.mean(shares, axis=0).argmax())])


def errors_at(truth: GroundTruth, detections: Detections, score: float) -> dict:
    """Errors, counts by class and confusions ([true label, found label, count], NOTHING where there is none)."""
    matches = Matches(truth, select(detections, detections.scores_D >= score))
    rows = np.arange(len(truth.image_ids_N) + 1)
    bounds_D, bounds_M = np.searchsorted(matches.image_D, rows), np.searchsorted(matches.image_M, rows)
    kind_D, found_M, blamed_M, partner_D = sort_errors(
        bounds_D, bounds_M, matches.boxes_D4, matches.boxes_M4, matches.labels_D, matches.labels_M, matches.ignore_M,
        matches.scores_D,
    )  # fmt: skip
    counts_M = ~matches.ignore_M
    errors = {name: int((kind_D == KIND[name]).sum()) for name in TYPES[:-1]}
    errors["missed"] = int((counts_M & ~found_M & ~blamed_M).sum())
    classes = {}
    for label, name in enumerate(truth.classes, 1):
        own_D, own_M = matches.labels_D == label, (matches.labels_M == label) & counts_M
        right, counted = int((kind_D[own_D] == RIGHT).sum()), int((kind_D[own_D] != LEFT_OUT).sum())
        classes[name] = {"right": right, "false": counted - right, "not_found": int(own_M.sum()) - right}
    return {"score": score, "errors": errors, "classes": classes, "confusions": confusions(matches, kind_D, partner_D)}


def confusions(matches: Matches, kind_D: np.ndarray, partner_D: np.ndarray) -> list[list[int]]:
    size = len(matches.truth.classes) + 1
    table = np.zeros((size, size), np.int64)
    counted = kind_D != LEFT_OUT
    paired = counted & (partner_D >= 0)
    np.add.at(table, (matches.labels_M[partner_D[paired]], matches.labels_D[paired]), 1)
    np.add.at(table, (NOTHING, matches.labels_D[counted & (partner_D < 0)]), 1)
    alone_M = ~matches.ignore_M
    alone_M[partner_D[paired]] = False
    np.add.at(table, (matches.labels_M[alone_M], NOTHING), 1)
    return [[int(true), int(found), int(table[true, found])] for true, found in np.argwhere(table)]


RIGHT, LEFT_OUT = 0, 1
KIND = {"wrong_class": 2, "badly_placed": 3, "both": 4, "duplicate": 5, "background": 6}
WRONG_CLASS, BADLY_PLACED, BOTH, DUPLICATE, NO_OBJECT = KIND.values()


@njit(cache=True)
def sort_errors(bounds_D, bounds_M, boxes_D4, boxes_M4, labels_D, labels_M, ignore_M, scores_D):
    """(kind_D, found_M, blamed_M, partner_D). Detections of an image lie by class and falling score (Matches)."""
    kind_D = np.full(len(boxes_D4), LEFT_OUT, np.int64)
    partner_D = np.full(len(boxes_D4), -1, np.int64)
    found_M, blamed_M = np.zeros(len(boxes_M4), np.bool_), np.zeros(len(boxes_M4), np.bool_)
    for image in range(len(bounds_D) - 1):
        first_d, last_d = bounds_D[image], bounds_D[image + 1]
        first_m, last_m = bounds_M[image], bounds_M[image + 1]
        place = 0  # within its class
        for d in range(first_d, last_d):  # COCO's matching, see match_coco
            place = place + 1 if d > first_d and labels_D[d] == labels_D[d - 1] else 0
            if place >= MAX_DETECTIONS:
                continue
            best, match, in_crowd = FOREGROUND, -1, False
            for m in range(first_m, last_m):
                if labels_M[m] != labels_D[d] or found_M[m]:
                    continue
                overlap = box_overlap(boxes_D4[d], boxes_M4[m], 0.0, ignore_M[m])
                if ignore_M[m]:
                    in_crowd = in_crowd or overlap >= FOREGROUND
                elif overlap >= best:
                    best, match = overlap, m
            if match >= 0:
                kind_D[d], partner_D[d] = RIGHT, match
                found_M[match] = True
            elif not in_crowd:
                kind_D[d] = NO_OBJECT
        for d in range(first_d, last_d):
            if kind_D[d] != NO_OBJECT:
                continue
            own, other, twice, any_ = 0.0, 0.0, 0.0, 0.0
            own_m, other_m = -1, -1
            for m in range(first_m, last_m):
                if ignore_M[m]:
                    continue
                overlap = box_overlap(boxes_D4[d], boxes_M4[m], 0.0, False)
                any_ = max(any_, overlap)
                if labels_M[m] == labels_D[d]:
                    if overlap > own:
                        own, own_m = overlap, m
                    if found_M[m]:
                        twice = max(twice, overlap)
                elif overlap > other:
                    other, other_m = overlap, m
            if BACKGROUND <= own <= FOREGROUND:
                kind_D[d] = BADLY_PLACED
                blamed_M[own_m] = True
            elif other >= FOREGROUND:
                kind_D[d] = WRONG_CLASS
                blamed_M[other_m] = True
            elif twice >= FOREGROUND:
                kind_D[d] = DUPLICATE
            elif any_ > BACKGROUND:
                kind_D[d] = BOTH
        taken_M = found_M[first_m:last_m].copy()
        order = first_d + np.argsort(-scores_D[first_d:last_d], kind="mergesort")
        for d in order:
            if kind_D[d] == RIGHT or kind_D[d] == LEFT_OUT:
                continue
            best, match = FOREGROUND, -1
            for m in range(first_m, last_m):
                if not ignore_M[m] and not taken_M[m - first_m]:
                    overlap = box_overlap(boxes_D4[d], boxes_M4[m], 0.0, False)
                    if overlap >= best:
                        best, match = overlap, m
            if match >= 0:
                partner_D[d] = match
                taken_M[match - first_m] = True
    return kind_D, found_M, blamed_M, partner_D
