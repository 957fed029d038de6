"""Robustness: the figures of passes made by hand, seen and unseen apart, continued where it stopped, at both sizes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import kernels
from eval.detect import detect_dataset, make_batch, match_classes, read_image
from eval.interchange import Detections, concatenate, ground_truth_of
from eval.pictures import image_detector
from eval.robustness import SETS, corrupt, describe, measure
from eval.run import EvaluationOptions, run, trained_on
from eval.scoring import score_domain
from kernels.severity import ALL, BENCHMARK, TRAINING
from pipeline.ranks import World
from tests.eval.conftest import CLASSES

ALONE = World(0, 1, torch.device("cpu"))
NAMES = ("brightness", "pixelate", "gaussian_noise", "fog")
LABELS = match_classes(CLASSES, CLASSES, {})


def measure_with(scored, path, **changes):
    dataset = scored.dataset()
    settings = {"identity": {"weights": "a"}, "batch_size": 4} | changes
    names, seen = settings.pop("names", NAMES), settings.pop("seen", ("brightness", "pixelate"))
    truth = ground_truth_of(dataset)[0]
    arguments = (scored.detector, scored.detector.detect, LABELS, dataset, truth, names, seen, ALONE, path)
    return measure(*arguments, **settings)


@pytest.fixture(scope="module")
def measured(scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("robustness") / "robustness.json"
    return path, measure_with(scored, path)


def test_cells_are_the_figures_of_images_corrupted_by_hand(scored, measured):
    """One image after the other through kernels.corrupt: deterministic corruptions give the batch's figures."""
    _, found = measured
    dataset = scored.dataset()
    detect_image = image_detector(scored.detector, scored.detector.detect, LABELS, torch.device("cpu"), torch.float32)
    for name, level in (("brightness", 3), ("pixelate", 5)):
        parts = []
        for row, image_id in enumerate(dataset.ids_N.tolist()):
            image = kernels.corrupt(read_image(dataset, row), severity=level, corruption_name=name)
            parts.append(detect_image(dataset, image, image_id))
        figures, _, _ = score_domain(ground_truth_of(dataset)[0], concatenate(parts))
        cell = found["corruptions"][name][level - 1]
        assert cell["voc07"] == pytest.approx(figures["voc07"]["mAP"], abs=0.2)
        assert cell["coco"] == pytest.approx(figures["coco"]["mAP"], abs=0.2)


def test_summaries_are_means_of_the_cells(measured):
    _, found = measured
    cells = found["corruptions"]
    summary = found["summary"]
    for part, names in (("all", NAMES), ("seen", NAMES[:2]), ("unseen", NAMES[2:]), ("held_out", ("fog",))):
        mpc = np.mean([cell["voc07"] for name in names for cell in cells[name]])
        assert summary[part]["mPC"] == pytest.approx(mpc)
        assert summary[part]["rPC"] == pytest.approx(100 * mpc / summary["P"])
        assert summary[part]["corruptions"] == len(names)
    assert summary["P"] > 3
    assert len({json.dumps(cell) for row in cells.values() for cell in row}) > 10


def test_it_continues_and_starts_anew_for_other_weights(scored, measured, tmp_path, monkeypatch):
    path, found = measured
    content = json.loads(path.read_text())
    del content["cells"]["fog-2"]
    del content["cells"]["pixelate-5"]
    (tmp_path / "r.json").write_text(json.dumps(content))
    passes = []

    def counted(*arguments, **options):
        passes.append(1)
        return detect_dataset(*arguments, **options)

    monkeypatch.setattr("eval.robustness.detect_dataset", counted)
    again = measure_with(scored, tmp_path / "r.json")
    assert len(passes) == 2
    assert again == found
    assert measure_with(scored, tmp_path / "r.json") == found
    assert len(passes) == 2
    measure_with(scored, tmp_path / "r.json", identity={"weights": "b"}, names=("contrast",), num_images=2)
    assert len(passes) == 2 + 6


def test_unfinished_sets_have_no_summary():
    known = {"clean-0": {"voc07": 50.0, "area": 50.0, "coco": 20.0}}
    known |= {f"fog-{s}": {"voc07": 10.0 * s, "area": 1.0, "coco": 2.0} for s in range(1, 6)}
    data = type("Data", (), {"__len__": lambda self: 3})()
    identity = {"num_images": 0, "resolution": "packed"}
    found = describe(known, identity, data, "daytime_clear", ("fog", "snow"), ())
    assert found["summary"] == {"P": 50.0}
    found = describe(known, identity, data, "daytime_clear", ("fog",), ("fog",))
    assert found["summary"]["all"] == {"mPC": 30.0, "rPC": 60.0, "corruptions": 1}
    assert "unseen" not in found["summary"]
    assert describe({}, identity, data, "daytime_clear", ("fog",), None)["summary"] == {}


def test_originals_are_corrupted_at_their_own_resolution(scored, tmp_path, monkeypatch):
    shapes = []

    def watched(image, *arguments):
        shapes.append(image.shape[:2])
        return corrupt(image, *arguments)

    monkeypatch.setattr("eval.robustness.corrupt", watched)
    found = measure_with(
        scored,
        tmp_path / "r.json",
        names=("contrast",),
        originals=scored.sources["daytime_clear"],
        num_images=3,
    )
    assert found["resolution"] == "original"
    assert set(shapes) <= {tuple(size) for size in scored.dataset().original_sizes_N2.tolist()}
    assert len(shapes) == 3 * 5
    packed = measure_with(scored, tmp_path / "p.json", names=("contrast",), num_images=3)
    assert found["summary"]["P"] == pytest.approx(packed["summary"]["P"], abs=1e-6)
    with pytest.raises(ValueError, match=r"are not there, the first is images/0\.png"):
        measure_with(scored, tmp_path / "r.json", originals=tmp_path)


def test_run_measures_and_reports_it(scored, tmp_path, monkeypatch):
    """Through eval.run, with two corruptions standing for the benchmark's fifteen: those take a minute."""
    assert SETS == {"benchmark": BENCHMARK, "training": TRAINING, "all": ALL}
    monkeypatch.setitem(SETS, "benchmark", ("contrast", "pixelate"))
    options = EvaluationOptions(
        scored.checkpoint,
        (scored.data["daytime_clear"],),
        out=tmp_path,
        corruptions="benchmark",
        corruption_images=1,
        resamples=0,
        pictures=False,
    )
    run(options, ALONE)
    found = json.loads((tmp_path / "eval" / "robustness.json").read_text())
    assert list(found["corruptions"]) == ["contrast", "pixelate"]
    assert found["summary"]["all"]["corruptions"] == 2
    assert found["images"] == 1
    assert found["known_training"] is False
    page = (tmp_path / "report.html").read_text()
    assert "mAP by corruption and severity" in page


def test_corruptions_of_the_runs_own_training(tmp_path):
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    assert trained_on(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"views": {"corruptions": list(TRAINING)}}))
    assert trained_on(tmp_path) == TRAINING
    assert trained_on(tmp_path / "checkpoints" / "step-1") == TRAINING
    (tmp_path / "config.json").write_text(json.dumps({"views": {"corruptions": []}}))
    assert trained_on(tmp_path) == ()


def test_the_package_itself_can_make_the_corruptions(scored, tmp_path):
    pytest.importorskip("imagecorruptions", reason="pip install -e '.[dev]' brings imagecorruptions-imaug")
    ours = measure_with(scored, tmp_path / "a.json", names=("contrast", "pixelate"))
    theirs = measure_with(scored, tmp_path / "b.json", names=("contrast", "pixelate"), corruptor="imagecorruptions")
    assert theirs["identity"]["corruptor"] == "imagecorruptions"
    for metric in ("voc07", "coco"):
        mpc = [found["summaries"][metric]["all"]["mPC"] for found in (ours, theirs)]
        assert mpc[0] > 1
        assert mpc[0] == pytest.approx(mpc[1], abs=0.3)


def test_a_batch_of_images_keeps_sizes_and_padding():
    images = [np.full((3, 5, 3), 7, np.uint8), np.full((1, 1, 3), 9, np.uint8)]
    batch = make_batch(images, [4, -1], (32, 64), "cpu")
    assert batch.sizes_B2.tolist() == [[3, 5], [1, 1]]
    assert batch.images_BHW3[0, :3, :5].eq(7).all()
    assert batch.images_BHW3.sum() == 3 * 5 * 3 * 7 + 27
    assert replace(batch, seed=3).seed == 3
    assert concatenate(
        [Detections(np.array([2, 1]), np.zeros((2, 4)), np.ones(2, int), np.ones(2))]
    ).image_ids_D.tolist() == [1, 2]
