"""Adding detectors and a method the way CONTRIBUTING.md says: one file and their classes in a table."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.train import test_method_battery
from train.distill import METHODS

ROOT = Path(__file__).resolve().parents[2]

MINE = '''
"""mine and line: Faster R-CNN and RetinaNet under other names."""

from dataclasses import dataclass
from typing import ClassVar

from model.config import ModelConfig
from model.dense.config import RetinaNetConfig
from model.dense.detector import HEADS, DenseDetector
from model.dense.retinanet import RetinaNetHead
from model.faster_rcnn.detector import FasterRcnn


@dataclass(frozen=True)
class MineConfig(ModelConfig):
    kind: ClassVar[str] = "mine"


class Mine(FasterRcnn):
    pass


@dataclass(frozen=True)
class LineConfig(RetinaNetConfig):
    kind: ClassVar[str] = "line"


HEADS[LineConfig] = RetinaNetHead
'''

CHANGES = (
    ("DetectorConfig = ModelConfig | AnyDense", "DetectorConfig = ModelConfig | AnyDense | MineConfig | LineConfig"),
    ("FasterRcnn, **dict", "FasterRcnn, MineConfig: Mine, LineConfig: DenseDetector, **dict"),
    ("from model.faster_rcnn", "from model.mine import LineConfig, Mine, MineConfig\nfrom model.faster_rcnn"),
)

SCRIPT = """
import sys
from pathlib import Path
import torch
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from tests.train import battery
from train.bench.steps import configure
from train.start import read_command, train

data, folder = sys.argv[1], Path(sys.argv[2])
common = ["--model", "mine", "--data", data, "--model.weights", "none", "--model.norm", "frozen", "--batch-size", "2",
          "--steps", "2", "--model.fpn-channels", "8", "--model.representation-size", "16", "--loader.name", "cpu",
          "--device", "cpu"]
alone = World(0, 1, torch.device("cpu"))
assert train(read_command(["teacher_small", *common, "--out", str(folder / "teacher")]), alone) == 0
assert type(load_detector(folder / "teacher")[0]).__name__ == "Mine"
taught = [*common, "--teacher", str(folder / "teacher")]
assert train(read_command(["cdfkd_small", *taught, "--out", str(folder / "cdfkd")]), alone) == 0
assert read_command(["teacher_r50", *common[:4], "--out", "o"]).optimizer.clip_norm == 35
assert {kind for kind, _ in battery.cases()} >= {"mine", "line", "faster_rcnn", "gfl"}
for kind in ("mine", "line"):
    assert configure(kind, "mobilenet_v2").kind == configure(kind, "resnet18").kind == kind


def refused(*options):
    try:
        train(read_command(["plain_small", *options, "--out", str(folder / "refused")]), alone)
    except ValueError as error:
        return str(error)
    raise AssertionError("it trained")


told = refused(*taught, "--distill", "fgd")
assert "fgd has no published numbers for mine; give --distill.fgd.temperature" in told, told
place = common.index("--model.representation-size")
dense = ["--model", "line", *common[2:place], *common[place + 2 :]]
dense += ["--model.head-channels", "8", "--model.num-convs", "2", "--views.ratio-range", "1", "1"]
assert train(read_command(["teacher_small", *dense, "--out", str(folder / "line")]), alone) == 0
dense += ["--teacher", str(folder / "line"), "--distill", "crosskd"]
told = refused(*dense)
assert "crosskd has no published numbers for line; give --distill.crosskd.class-weight, --distill" in told, told
numbers = ["--distill.crosskd.class-weight", "1", "--distill.crosskd.box-weight", "1", "--distill.crosskd.k", "1"]
assert train(read_command(["plain_small", *dense, *numbers, "--out", str(folder / "crosskd")]), alone) == 0
"""


@pytest.mark.long
def test_new_detectors_are_everywhere(packed, tmp_path):
    shutil.copytree(ROOT / "model", tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "model" / "mine.py").write_text(MINE)
    table = tmp_path / "model" / "detectors.py"
    text = table.read_text()
    for before, after in CHANGES:
        assert text.count(before) == 1
        text = text.replace(before, after)
    table.write_text(text)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, packed, tmp_path / "runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def method_of_the_page():
    """The method that docs/distillation.md shows, and its configuration."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distillation.md").read_text(), re.DOTALL)
    module = ModuleType("train.distill.mine")
    sys.modules[module.__name__] = module  # where dataclasses look
    exec(compile(code, module.__name__, "exec"), vars(module))
    yield module.MineConfig, module.Mine
    del sys.modules[module.__name__]


@pytest.mark.parametrize("kind", ["faster_rcnn", "gfl"])
def test_the_method_of_the_page_passes_the_battery(method_of_the_page, kind, monkeypatch):
    config, method = method_of_the_page
    monkeypatch.setitem(METHODS, config, method)
    for wide in (False, True):
        test_method_battery.test_gradients_reach_what_the_method_says(kind, config(), wide)
    test_method_battery.test_without_boxes_all_is_finite(kind, config(), "none")
    test_method_battery.test_equal_networks_on_equal_views_agree(kind, config())
    test_method_battery.test_other_images_and_weights_of_labels(kind, config())
    test_method_battery.test_the_canvas_changes_nothing(kind, config())
