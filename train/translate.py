"""Learn a translation: `python -m train.translate RECIPE --source DIR --target DIR --out runs/NAME`, or under torchrun.

The first argument is a recipe (see train/translation/config.py) or the config.json of an earlier run.
The same command on a run directory continues it; a finished run prints that it is finished and does nothing.
"""

import sys

from pipeline.command.console import importing, run_entry
from train.run import check_paths


def main() -> int:
    check_paths(sys.argv[1:], ("--source", "--target"))
    with importing():
        from pipeline.command.ranks import joined
        from train.start import SLOWEST_WAIT, train
        from train.translation.start import TRANSLATION, read_command

    config = read_command(sys.argv[1:])
    with joined(config.device, SLOWEST_WAIT) as world:
        return train(config, world, TRANSLATION)


if __name__ == "__main__":
    run_entry(main, "what the checkpoints hold is kept; run the same command again to continue")
