"""README's five steps for one's own data, run as they stand on the page. Run by `scripts/test.sh -m long`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import Job
from tests.train.conftest import draw_pictures

ROOT = Path(__file__).resolve().parents[1]
# What the page says about machines without a GPU: another size of recipe, smaller pictures, another start, fewer steps.
WITHOUT_GPU = (
    ("_r50 ", "_small "),
    ("build_dataset.sh ", "build_dataset.sh --short-side 192 --long-side 352 "),
    (" --teacher runs/teacher ", " --teacher runs/teacher --student-init teacher "),
)


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().split("## Your own dataset, in five steps")[1].split("\n## ")[0]
    said = " ".join(line for line in section.splitlines() if "**Without a GPU**" in line or "**A short run:**" in line)
    for words in ("_small", "--short-side 192 --long-side 352", "--student-init teacher", "--steps 500"):
        assert words in said
    setup, *others = (
        line.split("  # ")[0].split(" # ")[0].strip() for line in section.split("```")[1].splitlines()[1:]
    )
    assert setup == "scripts/setup.sh && source .venv/bin/activate"
    return others


def as_without_gpu(command: str) -> str:
    for old, new in WITHOUT_GPU:
        command = command.replace(old, new)
    recipe = re.match(r"python -m train\.run \w+ ", command)
    return f"{recipe[0]}--steps 2 {command[recipe.end() :]}" if recipe else command


@pytest.mark.long
@pytest.mark.slow
def test_the_five_steps_of_the_page_work_in_their_order(tmp_path):
    """In a folder that has only what a checkout after its set-up has: scripts/ and .venv."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    data = tmp_path / "path" / "to"
    for seed, name in enumerate(("train", "val", "night-images")):
        draw_pictures(data / name, 10, seed=seed)
    (data / "dataset" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (data / split / "images").rename(data / "dataset" / split)
        (data / split / "annotations" / "instances.json").rename(data / f"dataset/annotations/instances_{split}.json")
    shutil.copytree(data / "night-images" / "images", data / "images")

    steps = [as_without_gpu(command) for command in commands()]
    assert len(steps) == 7
    for step in steps:
        if step.startswith("python -m "):
            module, *arguments = shlex.split(step)[2:]
            assert Job(module, *arguments, folder=tmp_path, cwd=tmp_path).wait() == 0, step
        else:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                ["bash", "-e", "-c", step], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{step}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    runs = tmp_path / "runs"
    results = {name: json.loads((runs / name / "eval" / "results.json").read_text()) for name in ("student", "teacher")}
    for found in results.values():  # the compared run was evaluated on the same data
        assert list(found["domains"]) == ["dataset", "night-images"]
    assert "night-images" in (runs / "student" / "report.html").read_text()
    predictions = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert len(list((tmp_path / "predictions").glob("*.jpg"))) == 10
    assert predictions
