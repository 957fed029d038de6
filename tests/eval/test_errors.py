"""Errors by type, counts by class and confusions: by hand, and as tidecv and pycocotools count them."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval.metrics.errors import NOTHING, SCORES, TYPES, errors_at, f1_by_score, working_score
from eval.metrics.interchange import ground_truth_json, select
from eval.metrics.matching import Matches
from eval.results import score_for_pictures
from tests.eval.worlds import adversarial_world, make_detections, make_truth, no_detections, random_world

# What tidecv 1.0.1 counts in random_world(seed, num_images=60, ignored=0) from a score on (TIDERun, IoU 0.5 and 0.1,
# without a limit of detections): wrong class, badly placed, both, duplicate, background, missed.
TIDE = {
    (1, 0.0): (11, 7, 8, 91, 128, 124),
    (2, 0.3): (12, 3, 6, 50, 59, 170),
    (3, 0.6): (10, 1, 3, 20, 44, 148),
    (4, 0.5): (9, 5, 8, 25, 75, 144),
}


@pytest.mark.parametrize(("seed", "score"), TIDE)
def test_types_are_those_of_tide(seed, score):
    truth, found = random_world(seed, num_images=60, ignored=0.0)
    assert errors_at(truth, found, score)["errors"] == dict(zip(TYPES, TIDE[seed, score], strict=True))


def test_each_type_by_hand():
    truth = make_truth(
        [
            (0, 1, 0, 0, 10, 10),  # found, twice
            (0, 1, 100, 0, 10, 10),  # badly placed: overlap 1/3
            (0, 2, 200, 0, 10, 10),  # called a bus
            (0, 2, 300, 0, 10, 10),  # a bus beside it: overlap 1/3
            (0, 3, 400, 0, 10, 10),  # nobody sees it
            (0, 3, 500, 0, 50, 50, True),  # a crowd
        ]
    )
    found = make_detections(
        [
            (0, 1, 0, 0, 10, 10, 0.9),
            (0, 1, 0, 0, 10, 9, 0.8),
            (0, 1, 105, 0, 10, 10, 0.7),
            (0, 1, 200, 0, 10, 10, 0.6),
            (0, 1, 305, 0, 10, 10, 0.5),
            (0, 2, 0, 200, 10, 10, 0.4),
            (0, 3, 510, 10, 10, 10, 0.3),  # in the crowd: left out
            (0, 3, 400, 0, 10, 10, 0.1),  # below the working score
        ]
    )
    errors = errors_at(truth, found, 0.2)
    assert errors["errors"] == {
        "wrong_class": 1, "badly_placed": 1, "both": 1, "duplicate": 1, "background": 1, "missed": 2
    }  # fmt: skip
    assert errors["classes"] == {
        "bus": {"right": 1, "false": 4, "not_found": 1},
        "car": {"right": 0, "false": 1, "not_found": 2},
        "person": {"right": 0, "false": 0, "not_found": 1},
    }
    table = {(true, got): count for true, got, count in errors["confusions"]}
    assert table == {(1, 1): 1, (1, NOTHING): 1, (2, 1): 1, (2, NOTHING): 1, (3, NOTHING): 1,
                     (NOTHING, 1): 3, (NOTHING, 2): 1}  # fmt: skip
    assert errors_at(truth, found, 0.1)["classes"]["person"] == {"right": 1, "false": 0, "not_found": 0}


def test_a_better_scored_detection_is_paired_first():
    """Both overlap the one object, of a third class: the confusion is the better scored one's."""
    truth = make_truth([(0, 3, 0, 0, 10, 10)])
    found = make_detections([(0, 1, 0, 0, 10, 10, 0.4), (0, 2, 0, 0, 10, 8, 0.6)])
    assert errors_at(truth, found, 0.0)["confusions"] == [[NOTHING, 1, 1], [3, 2, 1]]


@pytest.mark.parametrize("world", [random_world(5), random_world(6, tied=True), adversarial_world()])
@pytest.mark.parametrize("score", [0.0, 0.5])
def test_right_and_false_are_those_of_pycocotools(world, score):
    truth, found = world
    counts = errors_at(truth, found, score)["classes"]
    kept = select(found, found.scores_D >= score)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth_json(truth) | {"info": {}}
        coco.createIndex()
        rows = np.column_stack([kept.image_ids_D, kept.boxes_D4, kept.scores_D, kept.labels_D])
        scorer = COCOeval(coco, coco.loadRes(rows), "bbox")
        scorer.params.iouThrs, scorer.params.areaRng, scorer.params.areaRngLbl = [0.5], [[0, 1e10]], ["all"]
        scorer.evaluate()
    expected = {name: [0, 0] for name in truth.classes}
    for cell in filter(None, scorer.evalImgs):
        matched, ignored = cell["dtMatches"][0] > 0, cell["dtIgnore"][0].astype(bool)
        expected[truth.classes[cell["category_id"] - 1]][0] += int((matched & ~ignored).sum())
        expected[truth.classes[cell["category_id"] - 1]][1] += int((~matched & ~ignored).sum())
    assert {name: [part["right"], part["false"]] for name, part in counts.items()} == expected
    objects = truth.objects_by_class()
    assert {name: part["right"] + part["not_found"] for name, part in counts.items()} == objects


def test_confusions_sum_to_objects_and_detections():
    for seed in range(4):
        truth, found = random_world(seed, tied=seed % 2 == 0)
        errors = errors_at(truth, found, 0.25)
        for label, (name, part) in enumerate(errors["classes"].items(), 1):
            assert sum(n for true, _, n in errors["confusions"] if true == label) == part["right"] + part["not_found"]
            assert sum(n for _, got, n in errors["confusions"] if got == label) == part["right"] + part["false"], name
        false = sum(part["false"] for part in errors["classes"].values())
        assert sum(errors["errors"][name] for name in TYPES[:-1]) == false
        assert json.loads(json.dumps(errors)) == errors


def test_nothing_found_and_nothing_there():
    truth, _ = random_world(1, num_images=5)
    errors = errors_at(truth, no_detections(), 0.5)
    assert errors["errors"]["missed"] == int((~truth.ignore_M).sum())
    empty = errors_at(make_truth([], num_images=2), make_detections([(1, 2, 0, 0, 5, 5, 0.5)]), 0.5)
    assert empty["errors"] == dict.fromkeys(TYPES, 0) | {"background": 1}
    assert empty["confusions"] == [[NOTHING, 2, 1]]


def test_f1_by_score_and_the_working_score():
    truth = make_truth([(0, 1, 0, 0, 10, 10), (0, 1, 50, 0, 10, 10)])
    found = make_detections([(0, 1, 0, 0, 10, 10, 0.9), (0, 1, 50, 0, 10, 10, 0.3), (0, 1, 90, 0, 10, 10, 0.305)])
    matches = Matches(truth, found)
    f1 = f1_by_score(matches, matches.coco()[0, 0])
    assert len(f1) == len(SCORES)
    assert f1[30] == 80.0  # all three: 2 * 2 / (3 + 2)
    assert f1[31] == pytest.approx(200 / 3, abs=1e-3)  # the best alone: 2 * 1 / (1 + 2)
    assert f1[91] == 0
    assert working_score({"day": f1}) == 0
    day, night = [0.0] * 100, [0.0] * 100
    day[20], day[60], night[20], night[60] = 60.0, 80.0, 10.0, 5.0  # mean F1 is best at 0.6, the mean share at 0.2
    assert working_score({"day": day}) == 0.6
    assert working_score({"day": day, "night": night}) == 0.2
    assert working_score({"day": day, "nothing found": [0.0] * 100}) == 0.6


def test_the_default_score_serves_other_weathers():
    best = {"best_score": {"score": 0.6}}
    several = {"source": "day", "domains": {"day": best, "night": best}}
    assert score_for_pictures(None)[0] == 0.3
    assert score_for_pictures(several | {"working_score": 0.2}) == (0.2, "the working score over 2 evaluated domains")
    assert score_for_pictures(several)[0] == 0.3  # an evaluation of before
    assert score_for_pictures({"source": None, "domains": {"day": best}, "working_score": 0.5})[0] == 0.25
