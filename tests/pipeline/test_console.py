"""What a person sees while a command runs."""

import ctypes
import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.command import console
from pipeline.command.console import Progress
from pipeline.files.problems import Problem


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        # Not the module's own function: threads of other tests wait by it.
        monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: self.now))

    def work(self, progress, seconds, count=1):
        self.now += seconds
        progress.advance(count)


def test_time_left_leaves_the_warm_up_out(monkeypatch, capsys):
    """60 s of compiling for the first image, then 2 images a second: 1000 s for the 2000 that are left at first."""
    clock = Clock(monkeypatch)
    with Progress("training", 2021) as progress:
        clock.work(progress, 60)
        assert progress.rate() == 0
        for _ in range(20):
            clock.work(progress, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "training: 1/2021 images",
        "training: 21/2021 images, 2.0/s, 16 min 40 s left",
        "training: 21 images in 1 min 10 s",
    ]
    with Progress("training", 2021, done=21) as progress:  # continued
        clock.work(progress, 60, 2000)
    assert capsys.readouterr().err.splitlines()[-1] == "training: 2000 images in 1 min 00 s"


def test_the_rate_is_that_of_the_last_minute(monkeypatch):
    """A slow start is forgotten; where two steps take longer than a minute, the rate is between these two."""
    clock = Clock(monkeypatch)
    with Progress("training", 10_000, done=500, quiet=True) as progress:
        for _ in range(10):
            clock.work(progress, 30)
        for _ in range(1000):
            clock.work(progress, 0.1)
        assert abs(progress.rate() - 10) < 0.2
        clock.work(progress, 300, 3)
        clock.work(progress, 300, 6)
        assert progress.rate() == 6 / 300


def test_a_name_in_a_problem_neither_turns_the_line_nor_begins_one():
    text = str(Problem("a\u202e.jpg", "b\nc", "d\x1b\u2066", "e\ud800"))
    assert text == r"a\u202e.jpg, b\nc: d\x1b\u2066; e\ud800"


def test_what_a_user_can_fix_has_a_sentence_and_a_fault_of_ours_has_none():
    full = console.explain(OSError(errno.ENOSPC, "full", "/data/x\x1b"))
    assert full == r"the disk is full: free some space and run the same command again, it continues (/data/x\x1b)"
    assert console.explain(ValueError("image 7\x1b is damaged")) == r"image 7\x1b is damaged"
    assert console.explain(OSError(errno.EIO, "input/output error")) is None
    assert console.explain(RuntimeError("Connection closed by peer")) is None


AGAIN = """
import resource
import numpy as np
from pipeline.command.console import settle_on_cpu
settle_on_cpu()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones((100, 1000, 1000), np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than GNU's")
def test_memory_that_was_freed_is_taken_again_without_the_system():
    """100 MB are 49 pages of 2 MB or 24,414 of 4 KB, which NumPy would take anew each time."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    shown = subprocess.run(
        [sys.executable, "-c", AGAIN], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    first, second = map(int, shown.stdout.split())
    assert first >= 40
    assert second <= 4
