"""Bootstrap over images: all images once give the figure itself; intervals cover; pairs share their draws."""

from dataclasses import replace

import numpy as np
import pytest

from eval.metrics import bootstrap
from eval.metrics.matching import AREA_RANGES, RECALLS_R, TRUE, Matches
from eval.metrics.scoring import mean_of_targets, score_domain
from eval.metrics.voc07 import ELEVEN_RECALLS_R
from tests.eval.worlds import make_detections, make_truth, random_world


def replicates_with(truth, detections, counts_BN, monkeypatch):
    monkeypatch.setattr(bootstrap, "draw_counts", lambda *arguments: iter([np.asarray(counts_BN, np.int32)]))
    matches = Matches(truth, detections)
    return bootstrap.replicates(matches, matches.coco(), matches.voc())


@pytest.mark.parametrize("seed", range(3))
def test_every_image_once_gives_the_figures_themselves(seed, monkeypatch):
    truth, detections = random_world(seed)
    figures, _, _ = score_domain(truth, detections)
    result = replicates_with(truth, detections, np.ones((1, len(truth.image_ids_N))), monkeypatch)
    assert result["voc07"][0] == pytest.approx(figures["voc07"]["mAP"], abs=1e-9)
    assert result["area"][0] == pytest.approx(figures["area"]["mAP"], abs=1e-9)
    assert result["coco"][0] == pytest.approx(figures["coco"]["mAP"], abs=1e-9)
    for size in ("small", "medium", "large"):
        assert result[size][0] == pytest.approx(figures["coco"][size], abs=1e-9)


def test_counting_an_image_twice_equals_having_it_twice(monkeypatch):
    """The resample by counts and a ground truth that really holds the copies give the same figures."""
    truth, detections = random_world(1, num_images=12)
    # No two detections tie: copies of one then are steps of the curve that nothing else interrupts.
    scores_D = np.random.default_rng(0).permutation(len(detections)) / len(detections)
    detections = replace(detections, scores_D=scores_D)
    counts_N = np.array([2, 0, 1, 3, 1, 0, 2, 1, 1, 0, 1, 1])
    result = replicates_with(truth, detections, counts_N[None], monkeypatch)
    objects, rows, copies = [], [], 0
    for image, count in enumerate(counts_N):
        for _ in range(count):
            for m in np.flatnonzero(truth.image_M == image):
                objects.append((copies, truth.labels_M[m], *truth.boxes_M4[m], truth.ignore_M[m]))
            for d in np.flatnonzero(detections.image_ids_D == image + 10):
                rows.append((copies, detections.labels_D[d], *detections.boxes_D4[d], detections.scores_D[d]))
            copies += 1
    figures, _, _ = score_domain(make_truth(objects, num_images=copies), make_detections(rows))
    assert 5 < figures["coco"]["mAP"] < 95
    assert result["coco"][0] == pytest.approx(figures["coco"]["mAP"], abs=1e-9)
    assert result["voc07"][0] == pytest.approx(figures["voc07"]["mAP"], abs=1e-9)


def test_a_class_that_no_resampled_image_shows_does_not_count(monkeypatch):
    truth = make_truth([(0, 1, 0, 0, 40, 40), (1, 2, 0, 0, 40, 40)], num_images=2)
    detections = make_detections([(0, 1, 0, 0, 40, 40, 0.9)])
    result = replicates_with(truth, detections, [[1, 1], [2, 0], [0, 2], [0, 0]], monkeypatch)
    assert result["voc07"][:3].tolist() == [50, 100, 0]
    assert np.isnan(result["voc07"][3])
    assert np.isnan(result["large"]).all()


def test_draws_depend_on_seed_and_domain_and_chunks_do_not_show():
    first = np.concatenate(list(bootstrap.draw_counts(30, "night_rainy", 0, 250)))
    assert first.shape == (250, 30)
    assert (first.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(first, np.concatenate(list(bootstrap.draw_counts(30, "night_rainy", 0, 250))))
    assert (first != np.concatenate(list(bootstrap.draw_counts(30, "dusk_rainy", 0, 250)))).any()
    assert (first != np.concatenate(list(bootstrap.draw_counts(30, "night_rainy", 1, 250)))).any()


def test_interval_covers_the_figure_and_narrows_with_more_images():
    widths = []
    for num_images in (25, 400):
        truth, detections = random_world(7, num_images=num_images)
        figures, _, _ = score_domain(truth, detections, num_resamples=200)
        low, high = figures["coco"]["interval"]
        assert low < figures["coco"]["mAP"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_difference_of_paired_runs_is_surer_than_of_unpaired_ones():
    """A run that is the other one without a tenth of its right detections is surely worse, by the paired draws."""
    truth, detections = random_world(2, num_images=100)
    matches = Matches(truth, detections)
    right_D = np.zeros(len(detections), bool)
    right_D[matches.order_D] = matches.voc() == TRUE
    kept_D = ~(right_D & (np.arange(len(detections)) % 8 == 0))
    columns = (detections.image_ids_D - 10, detections.labels_D, detections.boxes_D4, detections.scores_D)
    _, _, better = score_domain(truth, detections, num_resamples=300)
    _, _, worse = score_domain(truth, make_detections(np.column_stack(columns)[kept_D]), num_resamples=300)
    paired = bootstrap.interval(better["area"] - worse["area"])
    unpaired = bootstrap.interval(better["area"] - worse["area"][::-1])
    assert paired[0] > 0
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 2


def test_mean_of_targets_counts_each_domain_once_and_leaves_the_source_out():
    samples, figures = {}, {}
    for seed, domain in enumerate(["daytime_clear", "night_rainy", "daytime_foggy"]):
        truth, detections = random_world(seed, num_images=10 + 30 * seed)
        figures[domain], _, samples[domain] = score_domain(truth, detections, num_resamples=20)
    mean, joined = mean_of_targets(figures, {"daytime_clear"}, samples)
    assert mean["domains"] == ["night_rainy", "daytime_foggy"]
    expected = (figures["night_rainy"]["voc07"]["mAP"] + figures["daytime_foggy"]["voc07"]["mAP"]) / 2
    assert mean["voc07"] == pytest.approx(expected)
    assert mean["interval_voc07"] == bootstrap.interval(joined["voc07"])
    small_B = (samples["night_rainy"]["small"] + samples["daytime_foggy"]["small"]) / 2
    assert mean["interval_small"] == bootstrap.interval(small_B)
    figures["night_rainy"]["coco"]["small"] = None  # no small object there: the mean is the other's
    mean, _ = mean_of_targets(figures, {"daytime_clear"}, samples)
    assert mean["small"] == figures["daytime_foggy"]["coco"]["small"]
    assert mean["interval_small"] == bootstrap.interval(samples["daytime_foggy"]["small"])
    assert mean_of_targets({"only": figures["night_rainy"]}, {"only"}, {}) == ({}, {})


def test_recall_points_are_what_the_figures_use():
    assert ELEVEN_RECALLS_R[3] == 0.3
    assert len(RECALLS_R) == 101
    assert next(iter(AREA_RANGES)) == "all"
