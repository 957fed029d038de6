"""Weight files: read without executing anything in them, written as safetensors, found in a run."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STATE_SUFFIXES = (".pth", ".pt", ".safetensors")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As safetensors; a full disk is the system's own error, which the commands explain."""
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .pth, .pt or .safetensors; nothing in the file is ever executed."""
    if path.suffix not in STATE_SUFFIXES:
        raise ValueError(f"{path}: not a weight file; allowed: {', '.join(STATE_SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated file raises any of a dozen types
        raise ValueError(f"{path}: cannot be read as weights ({type(error).__name__}: {error})") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # torchvision's reference scripts save {"model": ..., "optimizer": ...}
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict; give a file made by torch.save(model.state_dict(), ...)")
    return dict(state)


def resolve_checkpoint(path: Path) -> Path:
    """The directory with model.json: the path itself, or a run's best, or its newest complete checkpoint."""
    if (path / "model.json").is_file():
        return path
    best = path / "best.json"
    if best.is_file():
        chosen = path / "checkpoints" / read_json(best)["checkpoint"]
        if not (chosen / "COMPLETE").is_file():
            raise ValueError(
                f"{best}: names {chosen.name}, which is missing or incomplete; give a checkpoint of the run"
            )
        return chosen
    complete = sorted(marker.parent for marker in path.glob("checkpoints/step-*/COMPLETE"))
    if not complete:
        raise ValueError(
            f"{path}: neither model.json nor a complete checkpoint in it; give a run or a checkpoint of one"
        )
    return complete[-1]


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore the file or give another checkpoint") from error
