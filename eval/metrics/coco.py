"""COCO's mAP@[.5:.95] with sizes. pycocotools is the authority; our compiled scorer gives its numbers, faster.

`precision_TRKA` holds pycocotools' `eval["precision"]` at 100 detections: IoU thresholds T, recalls R, classes K, area
ranges A; -1 where a class has no object in that range.
"""

import contextlib
import io

import numpy as np

from eval.metrics.interchange import Detections, GroundTruth, ground_truth_json
from eval.metrics.matching import AREA_RANGES, IOU_THRESHOLDS_T, RECALLS_R, Matches, precision_at_recalls


def coco_precision(matches: Matches, verdict_ATD: np.ndarray) -> np.ndarray:
    """precision_TRKA of our own scorer, equal to `pycocotools_precision` to the last bit."""
    classes = matches.truth.classes
    shape = (len(IOU_THRESHOLDS_T), len(RECALLS_R), len(classes), len(AREA_RANGES))
    precision_TRKA = np.full(shape, -1.0)
    for k in range(len(classes)):
        places = matches.by_class(k + 1)
        for a, area in enumerate(AREA_RANGES):
            num_objects = matches.objects_per_image(k + 1, area).sum()
            if num_objects == 0:
                continue
            for t in range(len(IOU_THRESHOLDS_T)):
                precision_TRKA[t, :, k, a], _ = precision_at_recalls(verdict_ATD[a, t][places], num_objects, RECALLS_R)
    return precision_TRKA


def pycocotools_precision(truth: GroundTruth, detections: Detections) -> np.ndarray:
    """precision_TRKA by pycocotools itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth_json(truth) | {"info": {}}
        coco.createIndex()
        if len(detections) == 0:  # pycocotools cannot load an empty list of results
            return _precision_without_detections(truth)
        rows_D7 = np.column_stack(
            [detections.image_ids_D, detections.boxes_D4, detections.scores_D, detections.labels_D]
        ).reshape(-1, 7)
        found = coco.loadRes(rows_D7)
        scorer = COCOeval(coco, found, "bbox")
        scorer.evaluate()
        scorer.accumulate()
    return scorer.eval["precision"][..., -1]


def _precision_without_detections(truth: GroundTruth) -> np.ndarray:
    matches = Matches(truth, Detections(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.int64), np.empty(0)))
    return coco_precision(matches, matches.coco())


def summarise(precision_TRKA: np.ndarray, classes: tuple[str, ...]) -> dict:
    """The figures of `COCOeval.summarize` that are precisions, in percent; None where no object decides them."""

    def percent(part: np.ndarray) -> float | None:
        part = part[part > -1]
        return 100 * float(part.mean()) if part.size else None

    per_class = {name: percent(precision_TRKA[:, :, k, 0]) for k, name in enumerate(classes)}
    sizes = {area: percent(precision_TRKA[..., a]) for a, area in enumerate(AREA_RANGES) if area != "all"}
    return {
        "mAP": percent(precision_TRKA[..., 0]),
        "AP50": percent(precision_TRKA[0, ..., 0]),
        "AP75": percent(precision_TRKA[5, ..., 0]),
        **sizes,
        "AP": per_class,
        **{
            f"AP_{area}": {name: percent(precision_TRKA[:, :, k, a]) for k, name in enumerate(classes)}
            for a, area in enumerate(AREA_RANGES)
            if area != "all"
        },
    }
