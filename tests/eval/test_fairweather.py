"""The module for notebooks and the command: what they give is what the entries behind them give."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather
from eval.options import as_declared
from eval.predict import PredictOptions, open_predictor
from kernels import corrupt

ROOT = Path(__file__).resolve().parents[2]
LOW = 0.05  # the random detector is sure of nothing


@pytest.fixture(scope="module")
def detector(scored) -> fairweather.Detector:
    return fairweather.load(scored.checkpoint, score=LOW, short_side=64, long_side=96)


@pytest.fixture
def pictures(scored) -> list[Path]:
    return sorted((scored.sources["daytime_clear"] / "images").glob("*.png"))


def test_it_finds_what_predict_finds(scored, detector, pictures):
    options = PredictOptions(scored.checkpoint, (), Path(), score=LOW, short_side=64, long_side=96)
    predictor = open_predictor(options)
    founds = detector.predict(pictures, batch_size=2)
    assert sum(map(len, founds)) > len(pictures)
    for picture, found in zip(pictures, founds, strict=True):
        image = np.asarray(Image.open(picture).convert("RGB"))
        (items,) = predictor([image])
        np.testing.assert_array_equal(found.image, image)
        assert list(found.names) == [item["class"] for item in items]
        assert found.labels.tolist() == [item["label"] for item in items]
        np.testing.assert_allclose(found.scores, [item["score"] for item in items], atol=1e-4)
        corners = np.array([item["box"] for item in items]).reshape(-1, 4)
        np.testing.assert_allclose(found.boxes[:, :2], corners[:, :2], atol=0.02)
        np.testing.assert_allclose(found.boxes[:, 2:] - found.boxes[:, :2], corners[:, 2:], atol=0.02)


def test_a_picture_may_be_a_path_an_image_an_array_or_a_tensor(detector, pictures):
    image = np.asarray(Image.open(pictures[0]).convert("RGB"))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    expected = detector.predict(str(pictures[0]))
    assert len(expected) > 0
    for picture in (pictures[0], Image.fromarray(image), image, image[:, ::-1][:, ::-1], tensor, tensor / 255):
        found = detector.predict(picture)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.image, image)
    grey = detector.predict(image[..., 0])
    assert grey.image.shape == image.shape
    assert detector.predict([]) == []
    one = detector.predict(np.zeros((1, 1, 3), np.uint8))
    assert one.boxes.shape == (len(one), 4)


def test_it_draws_and_saves(detector, pictures, tmp_path):
    found = detector.predict(pictures[0])
    drawn = found.draw()
    assert drawn.size == found.image.shape[1::-1]
    assert (np.asarray(drawn) != found.image).any()
    found.save(tmp_path / "drawn.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "drawn.png")), np.asarray(drawn))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 of .*, got float32"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 of \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "the picture is empty"),
        (torch.zeros(4, 4, 3), r"\(3, height, width\), got \(4, 4, 3\)"),
        (torch.full((3, 4, 4), 2.0), "hold 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "hold 0 to 1"),
        (7, "got int"),
        (__file__, r"test_fairweather\.py is not a picture"),
    ],
)
def test_another_picture_is_one_sentence(detector, picture, message):
    with pytest.raises(ValueError, match=message):
        detector.predict(picture)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_picture_is_one_sentence(detector, pictures, size):
    with pytest.raises(ValueError, match=f"batch_size {size}: give 1 or more"):
        detector.predict(pictures, batch_size=size)


def test_options_may_be_text_and_lists():
    made = as_declared({
        "out": "results", "compare": ["runs/a", Path("runs/b")], "originals": "x", "domains": "night", "classes": ["a"],
        "map": "a=b", "detections": "found.json", "source": "clear", "threads": 2, "seed": 3, "pictures": False,
    })  # fmt: skip
    assert made == {
        "out": Path("results"), "compare": (Path("runs/a"), Path("runs/b")), "originals": Path("x"),
        "domains": ("night",), "classes": ("a",), "map": ("a=b",), "detections": (Path("found.json"),),
        "source": "clear", "threads": 2, "seed": 3, "pictures": False,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no option ot, resample;"):
        as_declared({"ot": 1, "resample": 2})


def test_corrupt_and_evaluate_are_those_of_the_entries(scored, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    made = fairweather.corrupt(image, 3, "fog", seed=5)
    np.testing.assert_array_equal(made, corrupt(image, 3, "fog", seed=5))
    options = {"resamples": 0, "pictures": False, "report": False, "batch_size": 2, "device": "cpu"}
    texts = {"out": str(tmp_path / "out"), "domains": "night*"}
    results = fairweather.evaluate(str(scored.checkpoint), str(scored.data["night_rainy"]), **texts, **options)
    assert list(results["domains"]) == ["night_rainy"]
    assert results["domains"]["night_rainy"]["voc07"]["mAP"] > 20
    with pytest.raises(ValueError, match="no checkpoint at"):
        fairweather.evaluate(tmp_path / "nothing", *scored.data.values())


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "fairweather.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_names_its_entries_and_answers_without_torch():
    code = "import sys, fairweather; sys.argv = ['fairweather']; fairweather.main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"fairweather {name} " in done.stdout for name in fairweather.COMMANDS)
    assert done.stdout.endswith("False\n")
    for name, (module, _) in fairweather.COMMANDS.items():
        for entry in [module] if module else [f"{bench}.bench" for bench in fairweather.BENCHES]:
            path = ROOT / entry.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_a_command_runs_as_its_entry_does(scored, tmp_path):
    done = command("unpack", str(scored.data["night_rainy"]), str(tmp_path / "voc"), "--to", "voc")
    assert (done.returncode, len(list((tmp_path / "voc").rglob("*.xml")))) == (0, 5), done.stderr
    wrong = command("unpack", str(tmp_path / "nothing"), str(tmp_path / "out"), "--to", "voc")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "not a packed dataset" in wrong.stderr


@pytest.mark.parametrize("arguments", [["tabel"], ["bench"], ["bench", "nothing"]])
def test_a_wrong_command_is_named(arguments):
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "table" in done.stderr or "kernels, pipeline, train, eval" in done.stderr


@pytest.mark.parametrize("command", [("fairweather.py", "--help"), ("-m", "eval.table", "--help")])
def test_nobody_reads_to_the_end(command):
    """As with `| head`: no traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""


def test_a_folder_of_its_name_does_not_hide_the_module(tmp_path):
    """The checkout beside the working directory is such a folder."""
    (tmp_path / "fairweather").mkdir()
    code = "import fairweather; print(fairweather.load.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "fairweather\n"


def test_a_copy_into_an_environment_is_refused(tmp_path):
    """It would overwrite other packages of the names kernels, eval, model, ..."""
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "fairweather.py"):
        shutil.copy(ROOT / name, tmp_path)
    code = "from setuptools import build_meta; build_meta.build_wheel('wheels')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "runs from its checkout" in done.stderr
    assert not list(tmp_path.glob("wheels/*"))
