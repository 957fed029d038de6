"""Adding a detector the way CONTRIBUTING.md says: one file and its class in model/detectors.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MINE = '''
"""mine: Faster R-CNN under another name."""

from dataclasses import dataclass
from typing import ClassVar

from model.config import ModelConfig
from model.faster_rcnn.detector import FasterRcnn


@dataclass(frozen=True)
class MineConfig(ModelConfig):
    kind: ClassVar[str] = "mine"


class Mine(FasterRcnn):
    pass
'''

CHANGES = (
    ("DetectorConfig = ModelConfig | AnyDense", "DetectorConfig = ModelConfig | AnyDense | MineConfig"),
    ("FasterRcnn, **dict", "FasterRcnn, MineConfig: Mine, **dict"),
    ("from model.faster_rcnn", "from model.mine import Mine, MineConfig\nfrom model.faster_rcnn"),
)

SCRIPT = """
import sys
from pathlib import Path
import torch
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from tests.train import battery
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
assert {kind for kind, _ in battery.cases()} >= {"mine", "faster_rcnn", "gfl"}
try:
    train(read_command(["plain_small", *taught, "--distill", "fgd", "--out", str(folder / "fgd")]), alone)
except ValueError as error:
    assert "fgd has no published numbers for mine; give --distill.fgd.temperature" in str(error), error
else:
    raise AssertionError("fgd trained")
"""


@pytest.mark.long
def test_a_new_detector_is_everywhere(packed, tmp_path):
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
