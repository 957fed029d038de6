"""Robustness: the figures of passes made by hand, seen and unseen apart, continued where it stopped, at both sizes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kernels
from eval.detecting.corrupted import corrupt
from eval.detecting.detect import Pass, detect_dataset, make_batch, match_classes, read_image
from eval.detecting.robustness import SETS, Plan, measure
from eval.evaluation import run, seen_corruptions
from eval.examples.scenes import image_detector
from eval.metrics.interchange import Detections, concatenate, ground_truth_of
from eval.metrics.mpc import describe
from eval.metrics.scoring import score_domain
from eval.options import EvaluationOptions
from eval.results import load_run
from kernels.severity import BENCHMARK, IMAGENET_C, TRAINING
from model.build import build_detector
from pipeline.command.ranks import World
from pipeline.files.own import read_arrays, write_arrays
from pipeline.pack import PackOptions, pack
from tests.eval.conftest import CLASSES
from tests.jobs import Job

ROOT = Path(__file__).resolve().parents[2]
ALONE = World(0, 1, torch.device("cpu"))
NAMES = ("brightness", "pixelate", "gaussian_noise", "fog")
LABELS = match_classes(CLASSES, CLASSES, {})


def measure_with(scored, path, **changes):
    dataset = changes.pop("dataset", None) or scored.dataset()
    truth = changes.pop("truth", None) or source_truth(dataset)
    how = Pass(scored.detector, dataset, changes.pop("labels", LABELS), ALONE, batch_size=4)
    plan = {"names": NAMES, "seen": ("brightness", "pixelate"), "weights": "a"} | changes
    return measure(how, Plan("daytime_clear", **plan), truth, path)


def source_truth(dataset):
    return next(truth for truth in ground_truth_of(dataset) if truth.domain == "daytime_clear")


def by_hand(scored, rows, name, level):
    """Detections in images corrupted one after the other through kernels.corrupt."""
    dataset = scored.dataset()
    detect_image = image_detector(scored.detector, scored.detector.detect, LABELS, torch.device("cpu"), torch.float32)
    parts = []
    for row in rows:
        image = kernels.corrupt(read_image(dataset, row), severity=level, corruption_name=name)
        parts.append(detect_image(dataset, image, int(dataset.ids_N[row])))
    return concatenate(parts)


@pytest.fixture(scope="module")
def measured(scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("robustness") / "robustness.json"
    return path, measure_with(scored, path, resamples=30)


def test_cells_are_the_figures_of_images_corrupted_by_hand(scored, measured):
    """Deterministic corruptions give the batch's figures."""
    _, found = measured
    dataset = scored.dataset()
    for name, level in (("brightness", 3), ("pixelate", 5)):
        figures, _, _ = score_domain(source_truth(dataset), by_hand(scored, range(9), name, level))
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


def test_it_continues_and_starts_anew_for_anything_else(scored, measured, tmp_path, monkeypatch, capsys):
    path, found = measured
    content = json.loads(path.read_text())
    del content["cells"]["fog-2"]
    (tmp_path / "r.json").write_text(json.dumps(content))
    samples = read_arrays(path.with_suffix(".npz"))
    write_arrays(tmp_path / "r.npz", {name: sample for name, sample in samples.items() if "pixelate-5" not in name})
    passes = []

    def counted(*arguments, **options):
        passes.append(1)
        return detect_dataset(*arguments, **options)

    monkeypatch.setattr("eval.detecting.robustness.detect_dataset", counted)
    again = measure_with(scored, tmp_path / "r.json", resamples=30)
    assert len(passes) == 2
    assert again == found
    assert measure_with(scored, tmp_path / "r.json", resamples=30) == found
    assert len(passes) == 2
    capsys.readouterr()
    strict = build_detector(replace(scored.detector.config, score_threshold=0.1), len(CLASSES) + 1)
    strict.load_state_dict(scored.detector.state_dict())
    other = replace(scored, detector=strict)
    for number, (who, changes, named) in enumerate(
        [
            (scored, {"weights": "b", "num_images": 2}, "other images, resamples, weights; starting anew"),
            (scored, {"side_offset": 1.0}, "other images, voc_side_offset, weights; starting anew"),
            (scored, {"labels": np.array([0, 2, 1, 3])}, "other labels, voc_side_offset; starting anew"),
            (other, {}, "other detector, labels; starting anew"),
        ]
    ):
        measure_with(who, tmp_path / "r.json", names=("contrast",), **changes)
        assert len(passes) == 2 + 6 * (number + 1)
        assert named in capsys.readouterr().out


def test_intervals_are_those_of_paired_replicates(measured):
    """Cells share their draws: replicate b of mPC is the mean of the cells' replicates b, and of rPC their ratio."""
    path, found = measured
    samples = read_arrays(path.with_suffix(".npz"))
    clean_B = samples["clean-0|voc07"]
    cells = [f"{name}-{level}|voc07" for name in NAMES[2:] for level in range(1, 6)]
    mpc_B = np.mean([samples[cell] for cell in cells], axis=0)
    assert len(mpc_B) == 30
    part = found["summary"]["unseen"]
    assert part["interval_mPC"] == pytest.approx(np.quantile(mpc_B, (0.025, 0.975)).tolist())
    assert part["interval_rPC"] == pytest.approx(np.quantile(100 * mpc_B / clean_B, (0.025, 0.975)).tolist())
    assert found["summary"]["interval_P"] == pytest.approx(np.quantile(clean_B, (0.025, 0.975)).tolist())
    low, high = part["interval_mPC"]
    assert low < part["mPC"] < high


def test_only_images_of_the_source_domain_count(scored, tmp_path):
    """Several domains in one packed dataset, more images asked for than there are, images without an object."""
    whole, mixed, empty = source_truth(scored.dataset()), scored.dataset(), scored.dataset()
    mixed.domain_of = lambda row: "mars" if row in (1, 4, 5) else "Daytime-Sunny"
    found = measure_with(scored, tmp_path / "a.json", names=("pixelate",), dataset=mixed, num_images=1000)
    assert found["images"] == 6
    figures, _, _ = score_domain(source_truth(mixed), by_hand(scored, (0, 2, 3, 6, 7, 8), "pixelate", 5))
    assert found["corruptions"]["pixelate"][4]["voc07"] == pytest.approx(figures["voc07"]["mAP"], abs=0.2)
    assert found["corruptions"]["pixelate"][4]["coco"] == pytest.approx(figures["coco"]["mAP"], abs=0.2)
    bare = next(row for row in range(9) if len(empty.target(row)[1]) == 0)
    empty.domain_of = lambda row: "daytime_clear" if row == bare else "mars"
    with pytest.raises(ValueError, match=r"--corruption-images 1: these images of .* hold no object that counts"):
        measure_with(scored, tmp_path / "b.json", dataset=empty, truth=whole, num_images=1)


def evaluate_noise(checkpoint, out, folders, world):
    """One type stands for fifteen, which take a minute."""
    SETS["benchmark"] = ("gaussian_noise",)
    for folder in folders:
        settings = {"resamples": 20, "batch_size": 2, "pictures": False, "report": False, "out": out / folder.name}
        run(EvaluationOptions(checkpoint, (folder,), corruptions="benchmark", **settings), world)


TWO_RANKS = """
import sys
from datetime import timedelta
from pathlib import Path
from pipeline.command.ranks import joined
from tests.eval.test_robustness import evaluate_noise

checkpoint, out, *folders = map(Path, sys.argv[1:])
with joined("cpu", timedelta(minutes=2)) as world:
    evaluate_noise(checkpoint, out, folders, world)
"""


@pytest.mark.long
def test_two_ranks_measure_what_one_does(scored, tmp_path, monkeypatch):
    """Also where the second rank has no image at all: it must neither fail nor wait for ever."""
    content = json.loads((scored.sources["daytime_clear"] / "annotations" / "instances.json").read_text())
    shutil.copytree(scored.sources["daytime_clear"] / "images", tmp_path / "one" / "images")
    (tmp_path / "one" / "annotations").mkdir()
    first = content["annotations"][0]["image_id"]
    content["images"] = [image for image in content["images"] if image["id"] == first]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] == first]
    (tmp_path / "one" / "annotations" / "instances.json").write_text(json.dumps(content))
    pack(PackOptions(tmp_path / "one", tmp_path / "single", domain="daytime_clear", raw=True, workers=1, short_side=64))
    (tmp_path / "ranks.py").write_text(TWO_RANKS)
    folders = [scored.data["daytime_clear"], tmp_path / "single"]
    monkeypatch.setitem(SETS, "benchmark", BENCHMARK)  # and back to it after this test
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two ranks: another number sums in another order
    evaluate_noise(scored.checkpoint, tmp_path / "1", folders, ALONE)
    torch.set_num_threads(threads)
    job = Job(tmp_path / "ranks.py", scored.checkpoint, tmp_path / "2", *folders, folder=tmp_path, ranks=2)
    assert job.wait() == 0
    for folder, images in zip(folders, (9, 1), strict=True):
        alone, both = (json.loads((tmp_path / n / folder.name / "eval" / "robustness.json").read_text()) for n in "12")
        assert both == alone
        assert (alone["images"], len(alone["cells"])) == (images, 6)


def test_unfinished_sets_have_no_summary():
    known = {"clean-0": {"voc07": 50.0, "area": 50.0, "coco": 20.0}}
    known |= {f"fog-{s}": {"voc07": 10.0 * s, "area": 1.0, "coco": 2.0} for s in range(1, 6)}
    identity = {"domain": "daytime_clear", "images": 3, "resolution": "packed"}
    found = describe(known, {}, identity, ("fog", "snow"), ())
    assert found["summary"] == {"P": 50.0, "interval_P": None}
    found = describe(known, {}, identity, ("fog",), ("fog",))
    assert found["summary"]["all"] == {"mPC": 30.0, "rPC": 60.0, "corruptions": 1}
    assert "unseen" not in found["summary"]
    assert describe({}, {}, identity, ("fog",), None)["summary"] == {}


def test_originals_are_corrupted_at_their_own_resolution(scored, tmp_path, monkeypatch):
    shapes = []

    def watched(image, *arguments):
        shapes.append(image.shape[:2])
        return corrupt(image, *arguments)

    monkeypatch.setattr("eval.detecting.corrupted.corrupt", watched)
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
    assert SETS == {"benchmark": BENCHMARK, "training": TRAINING, "all": IMAGENET_C}
    monkeypatch.setitem(SETS, "benchmark", ("contrast", "pixelate"))
    options = EvaluationOptions(
        scored.checkpoint,
        (scored.data["daytime_clear"],),
        out=tmp_path,
        corruptions="benchmark",
        corruption_images=1,
        resamples=20,
        pictures=False,
        voc_side_offset=1,
    )
    run(options, ALONE)
    found = json.loads((tmp_path / "eval" / "robustness.json").read_text())
    assert list(found["corruptions"]) == ["contrast", "pixelate"]
    assert found["summary"]["all"]["corruptions"] == 2
    assert found["images"] == 1
    assert found["known_training"] is False
    assert found["identity"]["voc_side_offset"] == 1
    assert found["identity"]["weights"] == load_run(tmp_path).results["weights"]
    low, high = found["summary"]["all"]["interval_mPC"]
    assert low == pytest.approx(found["summary"]["all"]["mPC"]) == high  # a resample of one image is that image
    page = (tmp_path / "report.html").read_text()
    assert "mAP by corruption and severity" in page


def test_corruptions_of_the_runs_own_training(tmp_path):
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    assert seen_corruptions(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"views": {"corruptions": list(TRAINING)}}))
    assert seen_corruptions(tmp_path) == TRAINING
    assert seen_corruptions(tmp_path / "checkpoints" / "step-1") == TRAINING
    (tmp_path / "config.json").write_text(json.dumps({"views": {"corruptions": []}}))
    assert seen_corruptions(tmp_path) == ()
    (tmp_path / "config.json").write_text(json.dumps({"name": "of something else"}))
    assert seen_corruptions(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"views": {"corruptions": ["fog"]}}))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights.pth").touch()
    assert seen_corruptions(tmp_path / "deep" / "weights.pth") is None


def test_the_package_itself_can_make_the_corruptions(scored, tmp_path):
    pytest.importorskip("imagecorruptions", reason="pip install -e '.[dev]' brings imagecorruptions-imaug")
    ours = measure_with(scored, tmp_path / "a.json", names=("contrast", "pixelate"))
    theirs = measure_with(scored, tmp_path / "b.json", names=("contrast", "pixelate"), corruptor="imagecorruptions")
    assert theirs["identity"]["corruptor"] == "imagecorruptions"
    for metric in ("voc07", "coco"):
        mpc = [found["summaries"][metric]["all"]["mPC"] for found in (ours, theirs)]
        assert mpc[0] > 1
        assert mpc[0] == pytest.approx(mpc[1], abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) for name in ("gaussian_noise", "motion_blur", "snow")]
)
def test_noise_blur_and_weather_agree_with_the_package(scored, tmp_path, monkeypatch, name):
    """They draw other pixels, which moves the mPC of nine images by a point or two: the means over seeds agree within
    0.3 points and three standard errors of their difference, as the spread over the seeds tells.
    """
    pytest.importorskip("imagecorruptions", reason="pip install -e '.[dev]' brings imagecorruptions-imaug")
    monkeypatch.setattr("kernels.severity.SEVERITIES", (1, 2))  # gentle: something is left to find
    seeds = 5
    mpc = np.empty((2, seeds))
    for row, corruptor in enumerate(("kernels", "imagecorruptions")):
        for seed in range(seeds):
            path = tmp_path / f"{corruptor}-{seed}.json"
            found = measure_with(scored, path, names=(name,), seed=seed, corruptor=corruptor)
            mpc[row, seed] = found["summaries"]["coco"]["all"]["mPC"]
    error = np.sqrt(mpc.var(axis=1, ddof=1).sum() / seeds)
    assert mpc.mean() > 1
    assert error < 0.7
    assert abs(mpc[0].mean() - mpc[1].mean()) < 0.3 + 3 * error


def test_the_packages_draws_are_seeded():
    """By seed, type, severity and image, wherever its draws go through NumPy's global generator, which is put back."""
    pytest.importorskip("imagecorruptions", reason="pip install -e '.[dev]' brings imagecorruptions-imaug")
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for name in ("gaussian_noise", "snow", "elastic_transform", "motion_blur"):
        before = np.random.get_state()[1].copy()
        first = corrupt(image, name, 3, 2**40 + 5, 0, "imagecorruptions")
        assert (np.random.get_state()[1] == before).all()
        np.random.random()
        assert (corrupt(image, name, 3, 2**40 + 5, 0, "imagecorruptions") == first).all()
        for level, image_id, seed in ((3, 5, 0), (3, 2**40 + 6, 0), (3, 2**40 + 5, 1)):
            assert (corrupt(image, name, level, image_id, seed, "imagecorruptions") != first).any(), name


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
