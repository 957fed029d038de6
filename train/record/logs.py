"""What a run writes down: log.jsonl and TensorBoard, the trackers of --log, and the live display. Rank 0 only."""

import json
import math
import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.command.console import say
from pipeline.files.own import read_lines
from pipeline.files.replace import replace_bytes
from train.record.trackers import Tracker

AGREEING = 0.99  # a published attempt that failed started from a cosine of 0.995


class RunLog:
    """Appends one JSON object a line. Continuing from a checkpoint first drops the lines after it.

    measured_again: its validation line too, which a kill left between the line and the checkpoint's score.
    """

    def __init__(self, run: Path, step: int, measured_again: bool = False, trackers: Sequence[Tracker] = ()):
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / "log.jsonl"
        kept = [line for line in read_log(self.path) if line["step"] <= step]
        if measured_again:
            kept = [line for line in kept if line["step"] < step or "validation" not in line]
        replace_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.file = self.path.open("a")
        self.hook, threading.excepthook = threading.excepthook, leave_to_the_caller
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self.trackers = trackers

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line, default=str) + "\n")
        self.file.flush()
        numbers = dict(flatten(line))
        for name, value in numbers.items():
            self.board.add_scalar(name, value, line["step"])
        for tracker in self.trackers if numbers else ():
            tracker.write(numbers, line["step"])

    def close(self, finished: bool = False) -> None:
        self.file.close()
        try:
            self.board.close()
        finally:
            threading.excepthook = self.hook
            for tracker in self.trackers:
                tracker.close(finished)


def leave_to_the_caller(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread, on a full disk with a traceback; its next call raises the same error here."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every line about a step; one that is damaged, as a kill leaves it, is left out alone."""
    return [line for line in read_lines(path) if type(line.get("step")) is int]


def flatten(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """("losses/global", 0.1), ... of the numbers in a log line."""
    numbers = []
    for name, value in line.items():
        if isinstance(value, dict):
            numbers += flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step" and math.isfinite(value):
            numbers.append((prefix + name, float(value)))
    return numbers


def peak_memory_gb(device: torch.device) -> float:
    """Most memory this rank has used: the GPU's, or the process's own without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def note(line: dict[str, Any]) -> str:
    """A log line for the live display."""
    terms = ", ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
    logged = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in line["logged"].items())
    waiting = f"waiting {100 * line['waiting_share']:.0f} %, {line['memory_gb']:.1f} GB"
    return f"step {line['step']}: {terms}{logged}, {waiting}"


def say_skipped(step: int, names: list[str], ids: list[str]) -> None:
    shown = ", ".join(ids) or "not known, they were drawn before the restart"
    say(f"step {step} was skipped: {', '.join(names)} not finite; image ids {shown}")


def say_agreement(alike: dict[str, float]) -> None:
    """How similar teacher and student are before the first update, 1 for equal: what is left to learn."""
    if not alike:
        return
    values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in alike.items())
    say(f"teacher and student at step 0: {values}")
    if min(alike.values()) > AGREEING:
        say("warning: their features already agree, so distillation has nothing to teach; look at views and strides")
