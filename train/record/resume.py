"""What a killed run continues from: a checkpoint's state.json and training.safetensors, written and read here.

    state.json              {"step", "last_read", "in_a_row", "place", "score", "finished", "ranks", checksums, "torch"}
    training.safetensors    optimizer.*   momentum and the like
                            window        the scalars of the steps since the last log line
                            weights.*     the student's own weights, where its moving average is shipped
                            method.*      the methods' own layers

Every random draw of a run is a function of seed, epoch, step and image id, so there is no generator state.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from model.weights.files import read_state as read_tensors
from model.weights.files import save_tensors
from pipeline.command.console import counted, say
from train.config import Config
from train.record.checkpoint import read_state
from train.record.window import Window


class Continued(Protocol):
    """What a task offers so that it can be continued."""

    identity: dict[str, Any]
    window: Window

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: dict[str, Tensor]) -> None: ...
    def ship(self, folder: Path, step: int) -> None: ...


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    last_read: int = 0  # the step of the last log line
    place: dict[str, int] = field(default_factory=lambda: {"epoch": 0, "cursor": 0})  # in the data
    unmeasured: bool = False  # the newest checkpoint was saved and never measured


def check_identity(newest: Path, identity: dict[str, Any], config: Config) -> None:
    """The data and the teacher of the run that is continued must be those of now."""
    state, options = read_state(newest), {"data": " ".join(map(str, config.data)), "teacher": config.teacher}
    for name, now in identity.items():
        option = name.removesuffix("_checksum")
        if state.get(name) != now:
            raise ValueError(
                f"--{option} {options[option]} is not the {option} this run was trained with (its checksum differs); "
                f"give the same {option}, or start another run with another --out"
            )


def restore(newest: Path, task: Continued) -> Progress:
    """Take up what the checkpoint holds beside the shipped weights."""
    state, path = read_state(newest), newest / "training.safetensors"
    tensors, expected = read_tensors(path), task.tensors()
    wrong = [name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape]
    if wrong or len(tensors) > len(expected):
        raise ValueError(
            f"{path} holds other tensors than this run has ({', '.join(wrong[:3]) or 'more of them'}); continue from "
            "another checkpoint with --from-step"
        )
    task.load(tensors)
    task.window.load(tensors["window"], state["in_a_row"])
    return Progress(state["step"], state["last_read"], state["place"], state["score"] is None)


def write(folder: Path, task: Continued, step: int) -> None:
    save_tensors(task.tensors(), folder / "training.safetensors")
    task.ship(folder, step)


def describe(progress: Progress, task: Continued, ranks: int) -> dict[str, Any]:
    """The content of state.json of a checkpoint that is not measured yet."""
    return {
        "step": progress.step,
        "last_read": progress.last_read,
        "in_a_row": task.window.in_a_row,
        "place": progress.place,
        "score": None,
        "finished": False,
        "ranks": ranks,
        **task.identity,
        "torch": torch.__version__,
    }


def say_skipped_end(skipped: int) -> None:
    """What is to be known of a run whose last steps were skipped."""
    if skipped:
        say(
            f"warning: the last {counted(skipped, 'step')} of the run changed no weight: a loss or gradient was not "
            "finite. If the losses in its log rise before, train again with a lower --optimizer.learning-rate"
        )


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
