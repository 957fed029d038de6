"""Each dense detector goes the whole way: saved, read, evaluated, corrupted, reported, predicting."""

import json

import pytest
import torch
from torch import nn

from eval.detecting.robustness import SETS
from eval.evaluation import run
from eval.options import EvaluationOptions
from eval.predict import PredictOptions, open_predictor, predict_images
from model.dense.detector import HEADS
from model.weights.checkpoint import load_detector, save_detector
from pipeline.command.ranks import World
from tests.eval.conftest import CLASSES, LONG_SIDE, SHORT_SIDE
from tests.train import battery

ALONE = World(0, 1, torch.device("cpu"))
NAMES = (*CLASSES, "bike", "motor", "rider", "truck")
KINDS = [config.kind for config in HEADS]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_from_weights_to_a_report(kind, scored, tmp_path, monkeypatch):
    network = battery.twin_of(battery.make_lively(kind, False, 1))
    nn.init.zeros_(network.head.class_output.bias)  # at first they say 0.01 of everything
    saved = tmp_path / "run"
    extra = {"short_side": SHORT_SIDE, "long_side": LONG_SIDE}
    save_detector(saved, network, battery.model_of(kind), NAMES, extra)
    state = load_detector(saved)[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())

    monkeypatch.setitem(SETS, "benchmark", ("contrast", "pixelate"))
    options = EvaluationOptions(
        saved, tuple(scored.data.values()), out=tmp_path, corruptions="benchmark", corruption_images=2, resamples=20,
        allow_other_classes=True, loader="cpu",
    )  # fmt: skip
    run(options, ALONE)
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert set(results["domains"]) == set(scored.data)
    found = json.loads((tmp_path / "eval" / "robustness.json").read_text())
    assert list(found["corruptions"]) == ["contrast", "pixelate"]
    assert "mAP by corruption and severity" in (tmp_path / "report.html").read_text()

    told = PredictOptions(saved, (), out=tmp_path / "drawn", score=0.05)
    pictures = scored.sources["night_rainy"] / "images"
    files = [(path, path.relative_to(pictures)) for path in sorted(pictures.iterdir())[:3]]
    entries, skipped = predict_images(open_predictor(told), files, told)
    assert not skipped
    assert sum(len(entry["detections"]) for entry in entries) > 3
    for entry in entries:
        for item in entry["detections"]:
            x, y, w, h = item["box"]
            assert 0 <= x <= x + w <= entry["width"] + 0.01
            assert 0 <= y <= y + h <= entry["height"] + 0.01
            assert item["class"] in NAMES
