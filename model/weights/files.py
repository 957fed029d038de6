"""Weight files: read without executing anything in them, written as safetensors, found in a run.

A checkpoint's folder has a file COMPLETE, written last: {"model.safetensors": [{"bytes": 123, "sha256": "..."}], ...}.
While a file is being replaced, both its contents are listed. In checkpoints of before, COMPLETE is empty.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.weights.unpickle import load_plain
from pipeline.files.own import SHA256, Each, Whole, checksum, read_json

STATE_SUFFIXES = (".pth", ".pt", ".safetensors")
MARKER = "COMPLETE"
SUMS = Each([{"bytes": Whole(0), "sha256": SHA256}])
STEP_NAME = re.compile(r"step-(\d{8,18})", re.ASCII)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As safetensors; a full disk is the system's own error, which the commands explain."""
    path.touch()
    mode = path.stat().st_mode  # as the umask has it; safetensors gives 0600
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


class Contents(NamedTuple):
    """Of a weight file."""

    state: dict[str, Tensor]
    meta: dict[str, Any]  # what mmdetection writes beside the weights


def read_contents(path: Path) -> Contents:
    """A state dict from .pth, .pt or .safetensors, alone or in a checkpoint; nothing in the file is ever executed."""
    if path.suffix not in STATE_SUFFIXES:
        raise ValueError(f"{path}: not a weight file; allowed: {', '.join(STATE_SUFFIXES)}")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_plain(path)
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: cannot be read as weights (ValueError: {error})") from error
    except Exception as error:  # a truncated file raises any of a dozen types
        raise ValueError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {error}); the file is damaged or no checkpoint"
        ) from error
    meta: Any = {}
    if isinstance(content, Mapping):
        meta = content.get("meta")
        # torchvision's reference scripts save {"model": ..., "optimizer": ...}, mmdetection {"state_dict": ...}.
        content = next(
            (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content
        )
    fix = "give a file made by torch.save(model.state_dict(), ...)"
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path}: holds no state dict; {fix}")
    if hollow := [name for name, value in content.items() if not is_stored(value)]:
        raise ValueError(f"{path}: holds not all numbers of {hollow[0]}; {fix}")
    state = without_wrappers(dict(content))
    return Contents(state, dict(meta) if isinstance(meta, Mapping) else {})


def is_stored(value: Tensor) -> bool:
    """Each of its numbers has a place of its own: with a stride of 0 a small file would stand for any amount."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def read_state(path: Path) -> dict[str, Tensor]:
    return read_contents(path).state


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what DistributedDataParallel and torch.compile put before every name, in whatever order."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def step_of(folder: Path) -> int | None:
    """500 of step-00000500; None of everything else."""
    found = STEP_NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def complete_checkpoints(run: Path) -> list[Path]:
    """Oldest first; what has another name is not ours."""
    steps = {path: step for path in run.glob("checkpoints/step-*") if (step := step_of(path)) is not None}
    return sorted((path for path in steps if (path / MARKER).is_file()), key=lambda path: steps[path])


def describe_file(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def read_marker(checkpoint: Path) -> dict[str, list[dict[str, int | str]]]:
    """What COMPLETE says of the other files; nothing in a checkpoint of before."""
    path = checkpoint / MARKER
    return read_json(path, SUMS) if path.stat().st_size else {}


def find_damage(checkpoint: Path, names: tuple[str, ...] = ()) -> str | None:
    """Which file is not as it was written, of all files or of some; None where all are."""
    try:
        listed = read_marker(checkpoint)
        for name in names or listed:
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if listed and describe_file(checkpoint / name) not in listed.get(name, []):
                return f"{name} is not as it was written"
        for path in () if listed else checkpoint.glob("*.safetensors"):
            with safe_open(path, "pt"):  # its length fits its header
                pass
    except (ValueError, OSError, SafetensorError) as error:
        return str(error)
    return None


def resolve_checkpoint(path: Path) -> Path:
    """The directory with model.json: the path itself, or a run's best, or its newest complete checkpoint."""
    if (path / "model.json").is_file():
        return path
    complete = complete_checkpoints(path)
    best = path / "best.json"
    if best.is_file():
        name = read_json(best, {"checkpoint": str}, "remove it to use the newest checkpoint")["checkpoint"]
        chosen = [one for one in complete if one.name == name]
        if not chosen:
            raise ValueError(f"{best}: names {name}, which is missing or incomplete; give a checkpoint of the run")
        return chosen[0]
    if not complete:
        raise ValueError(
            f"{path}: neither model.json nor a complete checkpoint in it; give a run or a checkpoint of one"
        )
    return complete[-1]
