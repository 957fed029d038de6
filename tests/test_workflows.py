"""The ablation and the translation, run as their pages have them, on a very small sample world. Run by `-m long`.

README's five steps, the quickstart and the new domain have tests of their own.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.jobs import Job

ROOT = Path(__file__).resolve().parents[1]
WORLD = (
    "python -m pipeline.sample_world --out world --train 12 --test 4 --target 8",
    "python -m pipeline.pack world packed --short-side 96 --long-side 176",
)
STEPS = {"train.run": "--steps 2", "train.translate": "--steps 2"}


def commands_of(page: str, first: str, num: int) -> list[str]:
    """The first commands of a page from the line on that begins so; lines that end in a backslash are joined."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    return lines[start : start + num]


def shortened(command: str) -> str:
    """The same command for the small recipe and two steps."""
    command = re.sub(r"(\w+)_SIZE\b", r"\1_small", command)
    for module, options in STEPS.items():
        command = re.sub(rf"(-m {module} \w+)", rf"\1 {options}", command)
    return re.sub(r"(-m eval\.run \S+)", r"\1 --resamples 20", command)


def ablation() -> list[str]:
    text = (ROOT / "docs" / "ablation.md").read_text()
    rows = re.findall(r"^\|.*\| `(python -m train\.run [^`]+)` \|$", text, re.MULTILINE)
    assert len(rows) == 5
    names = {
        "--data TRAIN": "--data packed/daytime_clear_train",
        "--val VAL": "--val packed/daytime_clear_test",
        "DOMAIN...": "packed/daytime_clear_test packed/daytime_foggy_train",
    }
    found = [*rows, *commands_of("ablation.md", "for run in plain", 2)]
    for name, path in names.items():
        found = [command.replace(name, path) for command in found]
    return found


def started_by(step: str) -> list[list[str]]:
    """What a line of the shell, which may be a loop, gives to `python -m`: modules with their arguments."""
    python = """python() { [ "$1" = -m ] && shift && printf '%s\\n' "$@" ''; }; """
    done = subprocess.run(["bash", "-e", "-u", "-c", python + step], capture_output=True, text=True, check=True)
    return [part.split("\n") for part in done.stdout.removesuffix("\n\n").split("\n\n")]


@pytest.mark.long
@pytest.mark.slow
def test_the_pages_workflows_work_in_their_order(tmp_path):
    steps = [
        *WORLD,
        *ablation(),
        *commands_of("translation.md", "python -m train.translate", 3),
    ]
    for step in map(shortened, steps):
        for module, *arguments in started_by(step):
            assert Job(module, *arguments, folder=tmp_path, cwd=tmp_path).wait() == 0, step
    assert (tmp_path / "packed" / "day_as_night" / "dataset.json").is_file()
    for name in ("plain", "corrupt", "global", "instance", "cdfkd"):
        assert (tmp_path / "runs" / name / "eval" / "results.json").is_file()
