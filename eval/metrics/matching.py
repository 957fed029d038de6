"""Which detection is right: the two matching rules, and precision along recall. Compiled; all else builds on this.

`match_coco` follows pycocotools' `COCOeval.evaluateImg` and `match_voc` the VOC development kit (VOCevaldet.m),
decision by decision. Detections and objects are grouped into cells of one image and one class; cells are independent.
Legend: M objects, D detections, T IoU thresholds, A area ranges, R recall thresholds, N images.
"""

import numpy as np
from numba import njit, prange

from eval.metrics.interchange import Detections, GroundTruth
from pipeline.command.threads import threads_kept

FALSE, TRUE, IGNORED = 0, 1, 2

# pycocotools' own numbers (cocoeval.Params.setDetParams).
IOU_THRESHOLDS_T = np.linspace(0.5, 0.95, 10, endpoint=True)
RECALLS_R = np.linspace(0.0, 1.0, 101, endpoint=True)
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = 100  # of one class in one image
SPACING = np.spacing(1)


class Matches:
    """Detections of a domain in cell order (image, class, falling score), with their verdicts."""

    def __init__(self, truth: GroundTruth, detections: Detections):
        num_labels = len(truth.classes) + 1
        image_D = np.searchsorted(truth.image_ids_N, detections.image_ids_D)
        key_D = image_D * num_labels + detections.labels_D
        order_D = np.lexsort((-detections.scores_D, key_D))  # stable, as pycocotools' mergesort
        key_M = truth.image_M * num_labels + truth.labels_M
        order_M = np.argsort(key_M, kind="stable")
        self.truth, self.order_D, self.order_M = truth, order_D, order_M
        self.image_D, self.labels_D = image_D[order_D], detections.labels_D[order_D]
        self.scores_D, self.boxes_D4 = detections.scores_D[order_D], detections.boxes_D4[order_D]
        key_D, key_M = key_D[order_D], key_M[order_M]
        self.cells = np.union1d(key_D, key_M)
        self.bounds_D = np.append(np.searchsorted(key_D, self.cells), len(key_D))
        self.bounds_M = np.append(np.searchsorted(key_M, self.cells), len(key_M))
        self.boxes_M4, self.ignore_M = truth.boxes_M4[order_M], truth.ignore_M[order_M]
        self.areas_M, self.labels_M, self.image_M = (
            truth.areas_M[order_M],
            truth.labels_M[order_M],
            truth.image_M[order_M],
        )

    def coco(self) -> np.ndarray:
        """Verdicts_ATD by COCO's rule; detections beyond the hundred best of a cell are IGNORED."""
        verdict_ATD = np.full((len(AREA_RANGES), len(IOU_THRESHOLDS_T), len(self.scores_D)), IGNORED, np.uint8)
        arrays = (self.bounds_D, self.bounds_M, self.boxes_D4, self.boxes_M4, self.ignore_M, self.areas_M)
        with threads_kept():
            match_coco(*arrays, IOU_THRESHOLDS_T, np.array(list(AREA_RANGES.values())), verdict_ATD)
        return verdict_ATD

    def voc(self, side_offset: float = 0.0, threshold: float = 0.5) -> np.ndarray:
        """Verdicts_D by PASCAL VOC's rule. `side_offset` 1 counts a box's last pixel as inside, as the kit does."""
        verdict_D = np.empty(len(self.scores_D), np.uint8)
        arrays = (self.bounds_D, self.bounds_M, self.boxes_D4, self.boxes_M4, self.ignore_M)
        with threads_kept():
            match_voc(*arrays, threshold, side_offset, verdict_D)
        return verdict_D

    def by_class(self, label: int) -> np.ndarray:
        """Places of a class's detections in the order a curve runs: falling score, ties by image then as given."""
        places = np.flatnonzero(self.labels_D == label)
        return places[np.argsort(-self.scores_D[places], kind="stable")]

    def objects_per_image(self, label: int, area: str = "all") -> np.ndarray:
        """Objects_N of a class that count, in an area range."""
        low, high = AREA_RANGES[area]
        counts_M = (self.labels_M == label) & ~self.ignore_M & (self.areas_M >= low) & (self.areas_M <= high)
        return np.bincount(self.image_M[counts_M], minlength=len(self.truth.image_ids_N))


@njit(cache=True)
def box_overlap(a, b, offset, crowd):
    """Intersection over union of two (x, y, width, height) boxes; over the detection's own area for a crowd."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + offset
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = (a[2] + offset) * (a[3] + offset)
    if crowd:
        return shared / area
    return shared / (area + (b[2] + offset) * (b[3] + offset) - shared)


@njit(cache=True, parallel=True)
def match_coco(bounds_D, bounds_M, boxes_D4, boxes_M4, ignore_M, areas_M, thresholds_T, ranges_A2, verdict_ATD):
    for cell in prange(len(bounds_D) - 1):
        first_d, first_m = bounds_D[cell], bounds_M[cell]
        num_d = min(bounds_D[cell + 1] - first_d, MAX_DETECTIONS)
        num_m = bounds_M[cell + 1] - first_m
        overlap = np.empty((num_d, num_m))
        for d in range(num_d):
            for m in range(num_m):
                crowd = ignore_M[first_m + m]
                overlap[d, m] = box_overlap(boxes_D4[first_d + d], boxes_M4[first_m + m], 0.0, crowd)
        outside = np.empty(num_m, np.bool_)
        order = np.empty(num_m, np.int64)
        taken = np.empty(num_m, np.bool_)
        for a in range(len(ranges_A2)):
            low, high = ranges_A2[a, 0], ranges_A2[a, 1]
            place = 0
            for m in range(num_m):
                area = areas_M[first_m + m]
                outside[m] = ignore_M[first_m + m] or area < low or area > high
                if not outside[m]:
                    order[place] = m
                    place += 1
            for m in range(num_m):
                if outside[m]:
                    order[place] = m
                    place += 1
            for t in range(len(thresholds_T)):
                taken[:] = False
                for d in range(num_d):
                    best = min(thresholds_T[t], 1 - 1e-10)
                    match = -1
                    for place in range(num_m):  # objects that count first
                        m = order[place]
                        if taken[m] and not ignore_M[first_m + m]:
                            continue
                        if match > -1 and not outside[match] and outside[m]:
                            break
                        if overlap[d, m] < best:
                            continue
                        best = overlap[d, m]
                        match = m
                    if match > -1:
                        taken[match] = True
                        verdict_ATD[a, t, first_d + d] = IGNORED if outside[match] else TRUE
                    else:
                        area = boxes_D4[first_d + d, 2] * boxes_D4[first_d + d, 3]
                        verdict_ATD[a, t, first_d + d] = IGNORED if area < low or area > high else FALSE


@njit(cache=True, parallel=True)
def match_voc(bounds_D, bounds_M, boxes_D4, boxes_M4, ignore_M, threshold, side_offset, verdict_D):
    """A detection belongs to the object it overlaps most, taken or not; the second one there is false."""
    for cell in prange(len(bounds_D) - 1):
        taken = np.zeros(bounds_M[cell + 1] - bounds_M[cell], np.bool_)
        for d in range(bounds_D[cell], bounds_D[cell + 1]):
            best, match = -1.0, -1
            for m in range(bounds_M[cell], bounds_M[cell + 1]):
                overlap = box_overlap(boxes_D4[d], boxes_M4[m], side_offset, False)
                if overlap > best:
                    best, match = overlap, m
            if match == -1 or best < threshold:
                verdict_D[d] = FALSE
            elif ignore_M[match]:
                verdict_D[d] = IGNORED
            elif taken[match - bounds_M[cell]]:
                verdict_D[d] = FALSE
            else:
                taken[match - bounds_M[cell]] = True
                verdict_D[d] = TRUE


@njit(cache=True)
def precision_at_recalls(verdict_D, num_objects, recalls_R):
    """(precision_R, recall reached): the best precision at any recall of at least r, for each r; 0 where none is.

    Arithmetic and order of pycocotools' `COCOeval.accumulate`, so that results are equal to the last bit.
    """
    precision_R = np.zeros(len(recalls_R))
    num_kept = 0
    for d in range(len(verdict_D)):
        num_kept += verdict_D[d] != IGNORED
    precision, recall = np.empty(num_kept), np.empty(num_kept)
    right, wrong, place = 0.0, 0.0, 0
    for d in range(len(verdict_D)):
        if verdict_D[d] == IGNORED:
            continue
        if verdict_D[d] == TRUE:
            right += 1
        else:
            wrong += 1
        recall[place] = right / num_objects
        precision[place] = right / (wrong + right + SPACING)
        place += 1
    for place in range(num_kept - 1, 0, -1):
        precision[place - 1] = max(precision[place - 1], precision[place])
    places_R = np.searchsorted(recall, recalls_R)
    for r in range(len(recalls_R)):
        if places_R[r] < num_kept:
            precision_R[r] = precision[places_R[r]]
    return precision_R, (recall[-1] if num_kept else 0.0)
