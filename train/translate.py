"""Learn a translation: `python -m train.translate RECIPE --source DIR --target DIR --out runs/NAME`, or under torchrun.

The first argument is a recipe (see train/translation/config.py) or the config.json of an earlier run.
The same command on a run directory continues it; a finished run prints that it is finished and does nothing.
"""

import sys
from itertools import pairwise
from pathlib import Path

from pipeline.command.console import importing, run_entry


def check_paths(arguments: list[str]) -> None:
    """Name a wrong path before torch is imported; a folder that holds a run may have outlived its data."""
    outs = [after for before, after in pairwise(arguments) if before == "--out"]
    if any((Path(out) / "config.json").is_file() for out in outs):
        return
    for option, path in pairwise(arguments):
        if option in ("--source", "--target") and not (Path(path) / "dataset.json").is_file():
            from pipeline.packed.reader import PackedDataset

            PackedDataset(path)  # says what is there instead


def main() -> int:
    check_paths(sys.argv[1:])
    with importing():
        from pipeline.command.ranks import joined
        from train.start import SLOWEST_WAIT, train
        from train.translation.start import TRANSLATION, read_command

    config = read_command(sys.argv[1:])
    with joined(config.device, SLOWEST_WAIT) as world:
        return train(config, world, TRANSLATION)


if __name__ == "__main__":
    run_entry(main, "what the checkpoints hold is kept; run the same command again to continue")
