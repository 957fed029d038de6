"""Scores from which on detections are right often enough, by class, chosen and measured on labelled images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.metrics.interchange import Detections, GroundTruth, restrict, select
from eval.metrics.matching import IGNORED, TRUE, Matches


class Threshold(NamedTuple):
    """A score, and what the detections from it on were on the labelled images."""

    score: float | None  # None: no score reaches the wanted precision
    precision: float | None  # of what is found from the score on; the best of any score where there is none
    recall: float | None  # None: no labelled object. Both None: not measured


class Verdicts(NamedTuple):
    """Detections of a class in labelled images by falling score, those that count neither way left out."""

    scores_D: np.ndarray
    right_D: np.ndarray  # bool
    num_objects: int

    def recall(self, num_right: int) -> float | None:
        return num_right / self.num_objects if self.num_objects else None


def judge(truths: Sequence[GroundTruth], detections: Detections, label: int) -> Verdicts:
    """Right by COCO's rule at an overlap of 0.5."""
    scores, right, num_objects = [np.empty(0)], [np.empty(0, bool)], 0
    mine = select(detections, detections.labels_D == label)
    for truth in truths:
        _, part = restrict(truth, mine, truth.image_ids_N)
        matches = Matches(truth, part)
        verdict_D = matches.coco()[0, 0]
        scores.append(matches.scores_D[verdict_D != IGNORED])
        right.append(verdict_D[verdict_D != IGNORED] == TRUE)
        num_objects += int(((truth.labels_M == label) & ~truth.ignore_M).sum())
    scores_D, right_D = np.concatenate(scores), np.concatenate(right)
    order_D = np.argsort(-scores_D, kind="stable")
    return Verdicts(scores_D[order_D], right_D[order_D], num_objects)


def choose(verdicts: Verdicts, wanted: float) -> Threshold:
    """The lowest score from which on the precision is at least `wanted`."""
    scores_D, right_D, _ = verdicts
    if not len(scores_D):
        return Threshold(None, 0.0, verdicts.recall(0))
    num_right_D = np.cumsum(right_D)
    precision_D = num_right_D / np.arange(1, len(scores_D) + 1)
    last_D = np.append(scores_D[1:] != scores_D[:-1], True)  # equal scores are taken together
    good_D = np.flatnonzero(last_D & (precision_D >= wanted))
    if not len(good_D):
        return Threshold(None, float(precision_D[last_D].max()), verdicts.recall(0))
    place = int(good_D[-1])
    return Threshold(float(scores_D[place]), float(precision_D[place]), verdicts.recall(int(num_right_D[place])))


def measure(verdicts: Verdicts, score: float) -> Threshold:
    """What a given score is."""
    found_D = verdicts.scores_D >= score
    right = int(verdicts.right_D[found_D].sum())
    return Threshold(score, right / max(int(found_D.sum()), 1), verdicts.recall(right))
