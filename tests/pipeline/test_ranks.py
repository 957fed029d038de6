"""Ranks under torchrun: they end with it, and what ended one of them is read in its last lines."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs import Job

ROOT = Path(__file__).resolve().parents[2]

RANK = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from pipeline.command.ranks import joined
from pipeline.command.console import run_entry

def main():
    with joined("cpu", timedelta(minutes=2)) as world:
        Path(sys.argv[1], f"rank{world.rank}").write_text(str(os.getpid()))
        dist.barrier()
        if sys.argv[2] == "stay":
            time.sleep(600)
        if world.rank == 1:
            raise ValueError("image 7\\x1b is damaged")
        dist.barrier()

run_entry(main)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "rank.py"
    path.write_text(RANK)
    return path


def launch(script: Path, what: str) -> subprocess.Popen:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(script.parent), what], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.long
def test_ranks_end_when_torchrun_is_killed(script, tmp_path):
    """Before, they trained on as orphans."""
    process = launch(script, "stay")
    files = [tmp_path / f"rank{rank}" for rank in range(2)]
    deadline = time.monotonic() + 120
    while not all(file.exists() and file.read_text() for file in files):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in files]
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.long
def test_a_ranks_own_sentence_stands_in_the_last_lines(script):
    """Which errors have a sentence: test_console.py."""
    output, _ = launch(script, "fail").communicate(timeout=240)
    assert r"error (rank 1): image 7\x1b is damaged" in output
    assert r"traceback : image 7\x1b is damaged" in output[output.index("Root Cause") :]
    assert output.count("Traceback") == 1  # the launcher's own


@pytest.mark.long
def test_the_other_rank_says_that_one_has_ended(script, tmp_path):
    """Without torchrun, which ends the other rank perhaps before that can say it."""
    job = Job(script, tmp_path, "fail", folder=tmp_path, ranks=2)
    assert job.wait() == 2
    assert r"error (rank 1): image 7\x1b is damaged" in job.output
    assert "error (rank 0): another rank ended; its own message says why" in job.output
    assert "Traceback" not in job.output
