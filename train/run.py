"""Train a detector: `python -m train.run RECIPE --data DIR --out runs/NAME`, or under torchrun for several GPUs.

The first argument is a recipe (see train/recipes/) or the config.json of an earlier run, which repeats that run.
The same command on a run directory continues it; a finished run prints that it is finished and does nothing.
"""

import sys
from itertools import pairwise
from pathlib import Path

from pipeline.command.console import importing, run_entry


def check_paths(arguments: list[str], packed: tuple[str, ...] = ("--data", "--val")) -> None:
    """Name a wrong path; what else is wrong with the command is found later. packed: options that name datasets.

    So is everything about a folder that holds a run: that may be finished, and its data and teacher removed since.
    """
    outs = [after for before, after in pairwise(arguments) if before == "--out"]
    outs += [argument.removeprefix("--out=") for argument in arguments if argument.startswith("--out=")]
    if any((Path(out) / "config.json").is_file() for out in outs):
        return
    option = ""
    for argument in arguments:
        option = argument if argument.startswith("-") else option
        path = Path(argument)
        if argument in (option, "None"):
            continue
        if option in packed and not (path / "dataset.json").is_file():
            from pipeline.packed.reader import PackedDataset

            PackedDataset(path)  # says what is there instead
        if option == "--dinov2" and not path.is_file():
            raise ValueError(f"--dinov2 {path}: there is no such file")
        named = option == "--teacher" or (option == "--student-init" and argument != "teacher")
        if named and not path.exists():
            raise ValueError(f"{option} {path}: there is no such run, checkpoint or file")


def main() -> int:
    check_paths(sys.argv[1:])
    # Torch takes seconds to import: a wrong path is named before.
    with importing():
        from pipeline.command.ranks import joined
        from train.start import SLOWEST_WAIT, read_command, train

    config = read_command(sys.argv[1:])
    with joined(config.device, SLOWEST_WAIT) as world:
        return train(config, world)


if __name__ == "__main__":
    run_entry(main, "what the checkpoints hold is kept; run the same command again to continue")
