"""scripts/gpu_check.sh without a GPU: that it says so, and how it judges what the benchmarks would have written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

import eval.bench
import kernels.bench
import kernels.ptx
import pipeline.bench
import pipeline.sample_world
import train.bench
from train.run import read_command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"
TYPES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "brightness", "contrast", "saturate",
    "defocus_blur", "glass_blur", "zoom_blur", "motion_blur", "spatter", "jpeg_compression", "pixelate",
    "elastic_transform",
)  # fmt: skip
GOOD = {
    "kernels-cuda": {
        "mixed_batch": {"pairs_per_second": 41_000, "host_us": 140, "launches": 12},
        "views_per_type": {name: {"times_copy_bound": 2.5} for name in TYPES},
    },
    "loading": {"loaders": {"cpu": {"4": {"images_per_s": 900, "waiting_share_at_80_percent": 0.01}}}},
    "training-step": {
        "images_per_second": 170, "ratio_to_stock": 3.5, "graph_breaks": 0, "recompiles": 0, "synchronisations": 0,
        "views_to_step": 0.01,
    },
    "evaluation": {"cost_percent_mean": 4.0},
}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """The script with a Python that has a GPU and no DALI, and whose modules do nothing; a run that SIGTERM ends."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/bash
echo "$*" >>{tmp_path}/commands
case "$1$2" in
    -c*nvidia.dali*) exit 1 ;;
    -c*) exit 0 ;;
    -*) [ "$1" = - ] && exec {sys.executable} "$@" ;;
esac
if [[ "$*" == *--profile* ]]; then
    mkdir -p {tmp_path}/out/runs/profile
    echo '{{}}' >{tmp_path}/out/runs/profile/trace-rank0.json
fi
[[ "$*" == *cdfkd_small* ]] || exit 0
[ -e {tmp_path}/began ] && exit 0
touch {tmp_path}/began
mkdir -p {tmp_path}/out/runs/student
echo losses >{tmp_path}/out/runs/student/log.jsonl
trap 'exit 143' TERM
while :; do sleep 0.05; done
"""
    )
    python.chmod(0o755)
    shutil.copytree(SCRIPT.parent, tmp_path / "scripts")
    (tmp_path / "scripts" / "build_dataset.sh").write_text("#!/bin/sh\n")
    (tmp_path / "scripts" / "build_dataset.sh").chmod(0o755)

    def run(results):
        folder = tmp_path / "out"
        folder.mkdir()
        for name, content in results.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        done = subprocess.run(
            [tmp_path / "scripts" / "gpu_check.sh", folder],
            env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, (folder / "summary.txt").read_text()

    return run


def test_every_target_met_ends_with_0_also_without_dali(check):
    code, summary = check(GOOD)
    assert code == 0, summary
    assert "MISSED" not in summary
    assert "FAILED" not in summary
    assert "met     view pairs/s, mixed batch of 16: 41000 (at least 40000)" in summary
    assert "DALI is not installed" in summary


def test_every_command_is_one_that_its_program_takes(check, tmp_path):
    check(GOOD)
    options = {
        "kernels.bench": kernels.bench.Options, "kernels.ptx": kernels.ptx.Options,
        "pipeline.bench": pipeline.bench.BenchOptions, "pipeline.sample_world": pipeline.sample_world.SampleWorld,
        "train.bench": train.bench.BenchOptions, "eval.bench": eval.bench.BenchOptions,
    }  # fmt: skip
    seen = []
    for line in (tmp_path / "commands").read_text().splitlines():
        if not line.startswith("-m ") or line.startswith("-m pytest"):
            continue
        module, *arguments = line.split()[1:]
        seen.append(module)
        config = read_command(arguments) if module == "train.run" else tyro.cli(options[module], args=arguments)
        if "--profile" in arguments:
            assert config.profile
            assert config.model.backbone == "resnet101"
    assert set(seen) == {*options, "train.run"}
    assert seen.count("train.run") == 5


def test_a_missed_and_an_unmeasured_target_end_with_1_and_are_named(check):
    results = json.loads(json.dumps(GOOD))
    results["kernels-cuda"]["views_per_type"]["contrast"]["times_copy_bound"] = 3.5
    del results["evaluation"]
    code, summary = check(results)
    assert code == 1
    missed = [line for line in summary.splitlines() if line.startswith("MISSED")]
    assert missed == [
        "MISSED  slowest point-wise type, times a copy: 3.5 (at most 3)",
        "MISSED  corruption, percent of inference: not measured (at most 10)",
    ]


def test_without_a_gpu_nothing_was_checked(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python)}
    assert subprocess.run([SCRIPT, tmp_path / "out"], env=environment, capture_output=True, check=False).returncode == 3
    assert "nothing was checked" in (tmp_path / "out" / "summary.txt").read_text()
