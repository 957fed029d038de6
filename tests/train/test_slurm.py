"""scripts/slurm.sh without a cluster: what it would start, and when it asks for another turn."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm.sh"


@pytest.fixture
def cluster(tmp_path):
    """srun and scontrol that write down how they were called; srun ends as FAKE_STATUS says. And project/."""
    log = tmp_path / "calls"
    log.touch()
    project = tmp_path / "project"
    for name in (".venv/bin/torchrun", "train/run.py"):
        (project / name).parent.mkdir(parents=True)
        (project / name).touch(0o755)
    (tmp_path / "srun").write_text(
        f'#!/bin/sh\necho "timeout $TORCH_ELASTIC_SHUTDOWN_TIMEOUT srun $*" >> {log}\nexit "$FAKE_STATUS"\n'
    )
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "scontrol $*" >> {log}\necho node7\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)

    def submit(*arguments, status=0, seconds_left: int | None = 3600, folder=project):
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "123",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_SUBMIT_DIR": str(folder),
            "FAKE_STATUS": str(status),
        }
        if seconds_left is not None:
            environment["SLURM_JOB_END_TIME"] = str(int(time.time()) + seconds_left)
        done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, log.read_text() + done.stderr

    return submit


def test_one_launcher_a_node_one_process_a_gpu(cluster):
    code, calls = cluster("cdfkd_r101", "--data", "a b", "--out", "runs/x")
    assert code == 0
    assert "timeout 110" in calls
    for part in (
        "--kill-on-bad-exit=1",
        "--cpus-per-task=32",
        "--nnodes=2",
        "--nproc-per-node=4",
        "--rdzv-endpoint=node7:20123",
    ):
        assert part in calls
    assert calls.rstrip().endswith("train/run.py cdfkd_r101 --data a b --out runs/x")


def test_a_run_that_time_ended_is_put_back_and_a_failed_one_is_not(cluster):
    code, calls = cluster("cdfkd_r101", status=1, seconds_left=100)
    assert code == 1
    assert "scontrol requeue 123" in calls
    code, calls = cluster("cdfkd_r101", status=2, seconds_left=3000)
    assert code == 2
    assert calls.count("requeue") == 1


def test_a_slurm_that_does_not_tell_its_end_time_is_said(cluster):
    code, calls = cluster("cdfkd_r101", status=1, seconds_left=None)
    assert code == 1
    assert "requeue" not in calls
    assert "SLURM_JOB_END_TIME is not set" in calls
    assert "SLURM_JOB_END_TIME" not in cluster("cdfkd_r101", seconds_left=None)[1].rpartition("train/run.py")[2]


@pytest.mark.parametrize("missing", [".venv/bin/torchrun", "train/run.py"])
def test_submitted_from_another_folder_it_says_from_where(cluster, tmp_path, missing):
    (tmp_path / "project" / missing).unlink()
    code, calls = cluster("cdfkd_r101", folder=tmp_path / "project")
    assert code == 2
    assert calls == (
        f"slurm: {tmp_path}/project has no .venv/bin/torchrun or no train/run.py; "
        "submit from the project's folder, after scripts/setup.sh\n"
    )


def test_without_slurm_it_says_how_to_submit():
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([SCRIPT, "x"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sbatch scripts/slurm.sh" in done.stderr
