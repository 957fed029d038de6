"""`python -m kernels.checks.pixels FILE`: every corruption on the GPU, beside pixels that a CPU made before.

    python -m kernels.checks.pixels pixels.npz --write               # on a CPU: all types and severities of one image
    python -m kernels.checks.pixels pixels.npz --json pixels.json    # on a GPU: prints the differences, ends with 1

A value on the edge between two levels may fall to the other, so a type is right when no value is further off than one
level, and at most 1 % of them are off at all. The file is written after every type.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

import kernels
from kernels import severity
from kernels.checks.timing import picture, say

HEIGHT, WIDTH = 97, 131
MOST_LEVELS, MOST_SHARE = 1, 0.01


@dataclass(frozen=True)
class Options:
    file: Annotated[Path, tyro.conf.Positional]  # the expected pixels, an .npz
    write: bool = False  # make it, on this machine's CPU
    device: Literal["cpu", "cuda"] = "cuda"
    json: Path | None = None  # where to write the differences


def make(image: np.ndarray, level: int, name: str, device: str) -> np.ndarray:
    if device == "cpu":
        return kernels.corrupt(image, level, name, seed=level)
    return kernels.corrupt(torch.from_numpy(image).cuda(), level, name, seed=level).cpu().numpy()


def main() -> int:
    options = tyro.cli(Options, prog="python -m kernels.checks.pixels", description=__doc__)
    image = picture(HEIGHT, WIDTH)
    if options.write:
        made: dict[str, Any] = {
            f"{name}_{level}": make(image, level, name, "cpu") for name in severity.ALL for level in severity.SEVERITIES
        }
        options.file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(options.file, image=image, **made)
        return 0
    if not options.file.is_file():
        raise SystemExit(f"error: pixels: {options.file} is missing; write it on a machine's CPU with --write")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: pixels: there is no CUDA device here; use --device cpu")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    expected = np.load(options.file)
    records: dict[str, dict] = {}
    for name in severity.ALL:
        try:
            errors = [
                np.abs(make(expected["image"], level, name, options.device).astype(int) - expected[f"{name}_{level}"])
                for level in severity.SEVERITIES
            ]
            most, share = max(int(error.max()) for error in errors), max(float((error > 0).mean()) for error in errors)
            records[name] = {"most_levels": most, "most_share": share}
            right = most <= MOST_LEVELS and share <= MOST_SHARE
            note = f"{most} levels at most, {share:.2%} of the values differ at most"
        except Exception as error:  # the other types are still worth their time
            right, note = False, f"{type(error).__name__}: {error}"
            records[name] = {"error": note}
        records[name]["right"] = right
        say(f"{'right' if right else 'WRONG'}  {name}: {note}")
        if options.json:
            options.json.write_text(json.dumps(records, indent=1) + "\n")
    return 0 if all(record["right"] for record in records.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
