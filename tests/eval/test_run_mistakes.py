"""Mistakes in a command of eval.run, and in the files it reads, are one clear sentence."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from eval.evaluation import run
from eval.metrics.interchange import Detections, read_results, write_results
from eval.results import load_run
from pipeline.pack import PackOptions, pack
from tests.eval.runs import ALONE, ROOT, options_for


def entry(**changes):
    return {"image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5} | changes


def bad_rows(*rows):
    return json.dumps([entry(), *rows])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "a JSON list"),
        (bad_rows(entry(bbox=[0, 0, 5])), "entry 1 has bbox"),
        (bad_rows({"image_id": 3, "category_id": 1, "score": 0.5}), "entry 1 has no 'bbox'"),
        (bad_rows(entry(image_id=3.5)), "entry 1 has image_id"),
        (bad_rows("no"), "entry 1 is 'no'"),
        (bad_rows(entry(score=float("nan"))), "entry 1 has score nan"),
        (bad_rows(entry(score="0.5")), "entry 1 has score '0.5'"),
        (bad_rows(entry(score=True)), "entry 1 has score True"),
        (bad_rows(entry(image_id=float("nan"))), "entry 1 has image_id nan"),
        (bad_rows(entry(image_id=float("inf"))), "entry 1 has image_id inf"),
        (bad_rows(entry(image_id=10**30)), "entry 1 has image_id 1000"),
        (bad_rows(entry(bbox=[0, 0, 5, None])), "entry 1 has bbox"),
        (bad_rows(entry(bbox=[0, float("inf"), 5, 5])), "entry 1 has bbox"),
        (bad_rows(entry(bbox=[0, 0, -5, 5])), "negative size"),
        (bad_rows(entry(image_id=4)), "image ids are not in"),
        (bad_rows(entry(category_id=9)), r"category ids \[9\]"),
        (bad_rows(entry(category_id=0)), r"category ids \[0\]"),
    ],
)  # fmt: skip
def test_bad_detections_are_one_clear_error(scored, tmp_path, content, message):
    (tmp_path / "found.json").write_text(content)
    files = {"detections": (tmp_path / "found.json",), "batch_size": 8}
    options = options_for(scored, tmp_path, data=(scored.data["daytime_clear"],), **files)
    with pytest.raises(ValueError, match=message) as raised:
        run(options, ALONE)
    assert "found.json" in str(raised.value)


def test_results_survive_writing_and_reading(tmp_path):
    generator = np.random.default_rng(0)
    found = Detections(
        generator.integers(0, 2**40, 50),
        generator.uniform(0, 1e4, (50, 4)).round(2),
        generator.integers(1, 8, 50),
        generator.random(50).round(6),
    )
    write_results(tmp_path / "a.json", found)
    again = read_results(tmp_path / "a.json")
    for name in ("image_ids_D", "boxes_D4", "labels_D", "scores_D"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    write_results(tmp_path / "none.json", Detections(*(value[:0] for value in vars(found).values())))
    assert len(read_results(tmp_path / "none.json")) == 0


def test_options_that_cannot_work_say_so(scored, tmp_path):
    one = (scored.data["daytime_clear"],)
    (tmp_path / "file").touch()
    cases = [
        ({"batch_size": 0}, "--batch-size 0: give 1 or more"),
        ({"resamples": -1}, "--resamples -1: give 0 or more"),
        ({"data": one, "detections": (tmp_path,), "batch_size": 8}, "is a folder, and a JSON file is needed"),
        ({"detections": (tmp_path,), "map": ("a=b",)}, r"--map, --batch-size: this evaluation scores files"),
        ({"detections": (tmp_path,), "batch_size": 8, "compile": "off"}, r"--compile: this evaluation scores files"),
        ({"corruptor": "imagecorruptions"}, r"--corruptor: this evaluation measures no robustness"),
        ({"originals": tmp_path, "corruption_images": 3}, r"--corruption-images, --originals: this evaluation"),
        ({"data": ()}, "at least one packed dataset"),
        ({"run": None}, "name the run or checkpoint to evaluate"),
        ({"run": None, "out": None, "detections": (tmp_path,), "batch_size": 8}, "name --out DIR"),
        ({"data": one * 2}, "both hold the domain daytime_clear"),
        ({"detections": (tmp_path / "a.json",), "batch_size": 8}, "1 files for 2 datasets"),
        (
            {"data": one, "detections": (tmp_path / "a.json",), "corruptions": "all", "batch_size": 8},
            "needs a detector",
        ),
        ({"source": "mars"}, "the data holds the domains"),
        ({"map": ("car",)}, "write detector_name=data_name"),
        ({"run": tmp_path / "none"}, "no checkpoint at"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run(replace(options_for(scored, tmp_path), **changes), ALONE)
    with pytest.raises(OSError, match="file"):
        run(options_for(scored, tmp_path / "file"), ALONE)


def test_results_with_parts_missing_are_named(tmp_path):
    (tmp_path / "results.json").write_text('{"format": 1, "run": "x"}')
    with pytest.raises(ValueError, match=r"results.json: it lacks evaluated, classes, .*evaluate .* again"):
        load_run(tmp_path)


def test_an_empty_domain_is_one_clear_error(scored, tmp_path):
    source = tmp_path / "empty"
    for part in ("images", "annotations"):
        (source / part).mkdir(parents=True)
    (source / "images" / "0.png").write_bytes((scored.sources["night_rainy"] / "images" / "0.png").read_bytes())
    content = json.loads((scored.sources["night_rainy"] / "annotations" / "instances.json").read_text())
    content["images"], content["annotations"] = content["images"][:1], []
    (source / "annotations" / "instances.json").write_text(json.dumps(content))
    pack(PackOptions(source, tmp_path / "packed", domain="tunnel", workers=1))
    with pytest.raises(ValueError, match="domain tunnel has no object, so no AP exists"):
        run(options_for(scored, tmp_path, data=(tmp_path / "packed",)), ALONE)


def test_datasets_of_other_classes_are_not_averaged(scored, tmp_path):
    root = scored.sources["night_rainy"]
    pack(PackOptions(root, tmp_path / "packed", domain="tunnel", workers=1, map=("person=human",)))
    with pytest.raises(ValueError, match=r"daytime_clear has the classes bus, car, person, .*packed .*human"):
        run(options_for(scored, tmp_path, data=(scored.data["daytime_clear"], tmp_path / "packed")), ALONE)


def test_missing_images_are_one_clear_error(scored, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(scored.data["night_rainy"], copy)
    next(copy.glob("shard-*.tar")).unlink()
    with pytest.raises(ValueError, match=r"shard-.* is missing"):
        run(options_for(scored, tmp_path, data=(copy,)), ALONE)


WRONG_PATH = """
import sys
from eval.run import main
from pipeline.command.console import run_entry
try:
    run_entry(main)
finally:
    print("torch" in sys.modules)
"""


def test_a_wrong_path_is_named_before_torch_is_imported(scored, tmp_path):
    run_, data, none = str(scored.checkpoint), str(scored.data["night_rainy"]), str(tmp_path / "none")
    for arguments, message in (
        ([none, "--data", data], f"no checkpoint at {none}"),
        ([str(tmp_path), "--data", data], "neither model.json nor checkpoints"),
        ([run_, "--data", none], f"{none} is not a packed dataset"),
        ([run_, "--data", data, "--compare", none], f"--compare {none}: there is no such"),
        ([run_, "--data", data, "--corruptions", "all", "--originals", none], f"--originals {none}: there is no"),
        (["--data", data, "--out", none, "--detections", none], f"--detections {none}: there is no such"),
        (["--data", data], "name the run or checkpoint"),
    ):
        command = [sys.executable, "-c", WRONG_PATH, *arguments]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert (finished.returncode, finished.stdout) == (2, "False\n"), finished.stderr
        assert message in finished.stderr
