"""Our COCO figures are pycocotools' to the last bit, on random and on adversarial detections."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval.metrics.coco import coco_precision, pycocotools_precision, summarise
from eval.metrics.interchange import ground_truth_json, make_ground_truth, read_results, write_results
from eval.metrics.matching import Matches
from eval.metrics.scoring import score_domain
from tests.eval.worlds import CLASSES, adversarial_world, make_detections, make_truth, no_detections, random_world


def ours(truth, detections):
    matches = Matches(truth, detections)
    return coco_precision(matches, matches.coco())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_worlds_score_as_pycocotools_does(seed, tied):
    truth, detections = random_world(seed, tied=tied)
    precision_TRKA = pycocotools_precision(truth, detections)
    assert (precision_TRKA > 0.1).any()
    np.testing.assert_array_equal(ours(truth, detections), precision_TRKA)


def test_adversarial_world_scores_as_pycocotools_does():
    truth, detections = adversarial_world()
    precision_TRKA = pycocotools_precision(truth, detections)
    assert (precision_TRKA[..., 2, :] == -1).all()
    np.testing.assert_array_equal(ours(truth, detections), precision_TRKA)


numbers = st.integers(0, 12).map(lambda value: value * 8.0)
boxes = st.tuples(st.integers(0, 3), st.integers(1, 3), numbers, numbers, numbers, numbers)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(boxes, st.booleans()), min_size=1, max_size=8),
    st.lists(st.tuples(boxes, st.sampled_from([0.1, 0.5, 0.5000001, 1.0])), min_size=1, max_size=12),
)
def test_boxes_on_a_grid_score_as_pycocotools_does(objects, found):
    """A coarse grid makes exact ties, exact thresholds, coincident and empty boxes common."""
    truth = make_truth([(*box, ignore) for box, ignore in objects], num_images=4)
    detections = make_detections([(*box, score) for box, score in found])
    np.testing.assert_array_equal(ours(truth, detections), pycocotools_precision(truth, detections))


def test_no_detections_score_zero_and_absent_classes_are_left_out():
    truth = make_truth([(0, 1, 0, 0, 50, 50), (0, 2, 0, 0, 50, 50, True)], num_images=2)
    figures, curves, _ = score_domain(truth, no_detections())
    assert figures["coco"]["mAP"] == figures["voc07"]["mAP"] == figures["area"]["mAP"] == 0
    assert figures["coco"]["small"] is None
    assert figures["classes_without_objects"] == ["car", "person"]
    assert figures["coco"]["AP"] == {"bus": 0, "car": None, "person": None}
    assert curves["car"] is None
    by_pycocotools, _, _ = score_domain(truth, no_detections(), scorer="pycocotools")
    assert by_pycocotools == figures


def read_ground_truth(path):
    """COCO annotations as ground truth; categories are 1..K in order."""
    data = json.loads(path.read_text())
    rows = {image["id"]: row for row, image in enumerate(data["images"])}
    objects = data["annotations"]
    return make_ground_truth(
        "daytime_clear",
        [category["name"] for category in data["categories"]],
        list(rows),
        [(image["height"], image["width"]) for image in data["images"]],
        [rows[item["image_id"]] for item in objects],
        [item["bbox"] for item in objects],
        [item["category_id"] for item in objects],
        [item["iscrowd"] for item in objects],
        [item["area"] for item in objects],
    )


def shuffled_copy(truth, generator):
    """Ground truth as detections, its rows shuffled, each with its own score."""
    order = generator.permutation(len(truth.labels_M))
    rows = [
        (truth.image_M[row], truth.labels_M[row], *truth.boxes_M4[row], score)
        for row, score in zip(order, generator.permutation(len(order)) / len(order), strict=True)
    ]
    return make_detections(rows)


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_printed_summary_of_pycocotools_on_ground_truth_against_itself(tmp_path, keep):
    """Files written by us, read and summarised by pycocotools alone: its printed figures are ours."""
    truth, _ = random_world(3, ignored=0.0)
    detections = shuffled_copy(truth, np.random.default_rng(0))
    kept = detections.scores_D >= 1 - keep
    detections = make_detections(
        np.column_stack(
            [
                detections.image_ids_D - 10,
                detections.labels_D,
                detections.boxes_D4,
                np.where(kept, detections.scores_D, 0.001),
            ]
        )[kept]
    )
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth_json(truth) | {"info": {}}))
    write_results(tmp_path / "found.json", detections)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        coco = COCO(str(tmp_path / "truth.json"))
        scorer = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    lines = [line for line in printed.getvalue().splitlines() if "Average Precision" in line]
    figures, _, _ = score_domain(read_ground_truth(tmp_path / "truth.json"), read_results(tmp_path / "found.json"))
    names = ["mAP", "AP50", "AP75", "small", "medium", "large"]
    assert [float(line.split("=")[-1]) for line in lines] == [round(figures["coco"][name] / 100, 3) for name in names]
    np.testing.assert_allclose([figures["coco"][name] / 100 for name in names], scorer.stats[:6], rtol=1e-12)
    if keep == 1.0:
        assert figures["coco"]["mAP"] == pytest.approx(100, abs=1e-9)
        assert figures["voc07"]["mAP"] == pytest.approx(100, abs=1e-9)
    else:
        assert 30 < figures["coco"]["mAP"] < 80


def test_order_of_detections_and_of_images_changes_nothing():
    truth, detections = random_world(5)
    figures, _, _ = score_domain(truth, detections)
    order = np.random.default_rng(1).permutation(len(detections))
    mixed = make_detections(
        np.column_stack([detections.image_ids_D - 10, detections.labels_D, detections.boxes_D4, detections.scores_D])[
            order
        ]
    )
    again, _, _ = score_domain(truth, mixed)
    assert again == figures


def test_summary_counts_each_class_once():
    precision_TRKA = np.full((10, 101, 3, 4), -1.0)
    precision_TRKA[:, :, 0, 0], precision_TRKA[:, :, 1, 0] = 0.5, 0.1
    figures = summarise(precision_TRKA, CLASSES)
    assert figures["mAP"] == pytest.approx(30)
    assert figures["AP"] == pytest.approx({"bus": 50, "car": 10, "person": None})
    assert figures["large"] is None
