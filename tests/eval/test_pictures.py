"""Example pictures: what is judged right, missed and false; which scenes are shown; the picture of the README."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eval.evaluation import run
from eval.examples.scenes import SCENE_CORRUPTIONS, best_and_worst, choose_scenes, judge
from eval.metrics.interchange import select
from eval.options import EvaluationOptions
from pipeline.command.ranks import World
from tests.eval.worlds import make_detections, make_truth, no_detections, random_world


def test_judged_as_voc_does():
    truth = make_truth(
        [(0, 1, 0, 0, 10, 10), (0, 1, 50, 50, 10, 10), (0, 2, 0, 0, 10, 10, True), (1, 1, 0, 0, 10, 10)], 2
    )
    found = make_detections(
        [(0, 1, 0, 0, 10, 9, 0.5), (0, 1, 0, 0, 10, 10, 0.9), (0, 2, 0, 0, 10, 10, 0.8), (0, 3, 0, 0, 10, 10, 0.7)]
    )
    verdicts, objects = judge(truth, truth.image_M == 0, found)
    assert verdicts == ["false", "right", "ignored", "false"]
    assert objects == ["found", "missed", "ignored"]
    assert judge(truth, truth.image_M == 1, no_detections()) == ([], ["missed"])


def test_best_images_are_all_found_and_worst_all_missed():
    truth = make_truth([(row, 1, 20 * k, 0, 10, 10) for row in range(4) for k in range(row + 1)], num_images=5)
    rows = [(row, 1, 20 * k, 0, 10, 10, 0.9) for row in (1, 3) for k in range(row + 1)] + [(0, 1, 0, 0, 10, 9, 0.9)]
    best, worst = best_and_worst(truth, make_detections(rows))
    assert best == [3, 1]
    assert worst == [2, 0]
    best, worst = best_and_worst(truth, no_detections())
    assert not set(best) & set(worst)


def test_scenes_depend_on_the_data_alone():
    truth, _ = random_world(4)
    scenes = choose_scenes(truth, 4)
    assert scenes == choose_scenes(truth, 5)[:4]
    classes = [len(set(truth.labels_M[(truth.image_M == row) & ~truth.ignore_M])) for row in scenes]
    assert classes == [3, 3, 3, 3]


@pytest.fixture(scope="module")
def saved(scored, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    data = tuple(scored.data.values())
    run(
        EvaluationOptions(scored.checkpoint, data, out=out, resamples=0, report=False), World(0, 1, torch.device("cpu"))
    )
    return out / "eval" / "pictures"


def test_saved_pictures_have_their_boxes_and_views(saved):
    content = json.loads((saved / "pictures.json").read_text())
    assert len(content["scenes"]) == len(SCENE_CORRUPTIONS) + 2
    views = [view for scene in content["scenes"] for view in scene["views"]] + content["best"] + content["worst"]
    corrupted = [view["view"] for view in views if view["view"] != "clean"]
    assert sorted(corrupted) == sorted(f"{name}-{severity}" for name, severity in SCENE_CORRUPTIONS)
    for view in views:
        height, width = view["size"]
        assert Image.open(saved / view["file"]).size == (width, height)
        for item in [*view["objects"], *view["detections"]]:
            x, y, w, h = item[:4]
            assert 0 <= x <= x + w <= 1.0001
            assert 0 <= y <= y + h <= 1.0001
        found = sum(item[5] == "found" for item in view["objects"])
        assert found == sum(item[6] == "right" for item in view["detections"])
    assert any(item[6] == "right" for view in views for item in view["detections"])
    for scene in content["scenes"][: len(SCENE_CORRUPTIONS)]:
        clean, worse = scene["views"]
        first, second = (np.asarray(Image.open(saved / view["file"])).astype(int) for view in (clean, worse))
        assert abs(first - second).mean() > 3, worse["view"]
        assert clean["detections"] != worse["detections"], worse["view"]


def test_the_picture_for_a_readme(scored, saved, tmp_path, monkeypatch):
    from eval.picture import main

    run_folder = saved.parent.parent
    for name in ("model.json", "model.safetensors"):
        (run_folder / name).write_bytes((scored.checkpoint / name).read_bytes())
    arguments = ["picture", "--teacher", run_folder, "--student", run_folder, "--data", scored.data["daytime_clear"]]
    monkeypatch.setattr("sys.argv", [*map(str, arguments), "--out", str(tmp_path / "docs" / "picture.jpg")])
    main()
    picture = Image.open(tmp_path / "docs" / "picture.jpg")
    assert picture.width == 2 * 640 + 3 * 14
    pixels = np.asarray(picture).astype(int)
    height = (picture.height - 14) // 2
    teacher, student = (pixels[14 + height : -44, x : x + 640] for x in (14, 14 + 640 + 14))
    assert abs(teacher - student).mean() < 4  # the same run twice
    clean = pixels[14 : 14 + height - 44, 14 : 14 + 640]
    assert abs(clean - student).mean() > 10


def test_selecting_none_is_empty():
    _, found = random_world(1)
    assert len(select(found, np.zeros(len(found), bool))) == 0
