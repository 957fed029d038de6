"""AP at IoU 0.5 as PASCAL VOC defines it: 11 points (VOC2007, what the literature on this benchmark reports) and area.

VOC07: AP = 1/11 sum over r in {0, 0.1, ..., 1} of the best precision at a recall of at least r.
Area (VOC2010 and later): the area under the precision curve made non-increasing from the right.
Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and the kit's VOCevaldet.m.
"""

import numpy as np
from numba import njit

from eval.metrics.matching import RECALLS_R, TRUE, Matches, precision_at_recalls

ELEVEN_RECALLS_R = np.arange(11) / 10  # k/10 exactly: 3 of 10 objects found reaches the point 0.3


def voc_ap(matches: Matches, verdict_D: np.ndarray) -> dict:
    """{"voc07": {class: AP}, "area": {class: AP}, "curve": {class: precision_R, recall}} in percent.

    AP is None for a class without objects. The curve is for drawing: 101 recalls.
    """
    result: dict[str, dict] = {"voc07": {}, "area": {}, "curve": {}}
    for label, name in enumerate(matches.truth.classes, 1):
        num_objects = int(matches.objects_per_image(label).sum())
        if num_objects == 0:
            result["voc07"][name] = result["area"][name] = result["curve"][name] = None
            continue
        verdict = verdict_D[matches.by_class(label)]
        eleven_R, _ = precision_at_recalls(verdict, num_objects, ELEVEN_RECALLS_R)
        curve_R, _ = precision_at_recalls(verdict, num_objects, RECALLS_R)
        result["voc07"][name] = 100 * float(eleven_R.mean())
        result["area"][name] = 100 * area_under_curve(verdict == TRUE, verdict < 2, num_objects)
        result["curve"][name] = curve_R
    return result


@njit(cache=True)
def area_under_curve(true_D, counts_D, num_objects):
    """Sum over true detections of 1/M times the best precision at that recall or later."""
    right, wrong, place = 0, 0, 0
    precision = np.empty(len(true_D))
    for d in range(len(true_D)):
        if not counts_D[d]:
            continue
        if true_D[d]:
            right += 1
            precision[place] = right / (right + wrong)
            place += 1
        else:
            wrong += 1
    area, best = 0.0, 0.0
    for place in range(right - 1, -1, -1):
        best = max(best, precision[place])
        area += best / num_objects
    return area
