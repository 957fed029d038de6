"""Train a detector: `python -m train.run RECIPE --data DIR --out runs/NAME`, or under torchrun for several GPUs.

The first argument is a recipe (see train/recipes.py) or the config.json of an earlier run, which repeats that run.
The same command on a run directory continues it; a finished run prints that it is finished and does nothing.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command.console import run_entry, say
from pipeline.command.suggest import nearest
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import ANY, Each, read_json, write_json

if TYPE_CHECKING:  # torch, which these need, takes seconds: mistakes in the command are answered before
    from pipeline.command.ranks import World
    from train.config import Config
    from train.record.checkpoint import Checkpoints

SLOWEST_WAIT = timedelta(minutes=10)  # of one rank for another: compiling, scoring

HELP = """usage: python -m train.run RECIPE --data DIR --out runs/NAME [--teacher runs/TEACHER] [options]

Train a detector on clear-day images so that it works at night, in rain and in fog. Two phases: a teacher recipe
first, then a cdfkd recipe with --teacher. The same command continues an interrupted run.

recipes:
{recipes}

`python -m train.run RECIPE --help` lists every option of a recipe with its default. The config.json of an earlier
run may stand in the place of RECIPE and repeats that run."""


def check_paths(arguments: list[str]) -> None:
    """Name a wrong path; what else is wrong with the command is found later."""
    option = ""
    for argument in arguments:
        option = argument if argument.startswith("-") else option
        path = Path(argument)
        if argument in (option, "None"):
            continue
        if option in ("--data", "--val") and not (path / "dataset.json").is_file():
            from pipeline.packed.reader import PackedDataset

            PackedDataset(path)  # says what is there instead
        if option == "--teacher" and not path.exists():
            raise ValueError(f"--teacher {path}: there is no such run or checkpoint")


def read_command(arguments: list[str]) -> Config:
    """A recipe's or a config file's values, overridden by options."""
    from train.options import parse_options
    from train.recipes import RECIPES
    from train.record.trackers import check_installed

    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        print(HELP.format(recipes="\n".join(f"  {key:<20}{text}" for key, (text, _) in RECIPES.items())))
        sys.exit(0 if name else 2)
    if name.endswith(".json"):
        description, default = f"The run of {name}", read_config(Path(name))
    elif name in RECIPES:
        description, make = RECIPES[name]
        default = make()
    else:
        raise ValueError(f"no recipe {name!r}{nearest(name, RECIPES)}; python -m train.run --help lists them")
    config = parse_options(default, arguments[1:], f"python -m train.run {name}", description)
    check_validation(config)
    check_installed(config.log)
    return config


def check_validation(config: Config) -> None:
    """Options about measuring have an effect only with data to measure on."""
    for name in ("val_every", "val_images"):
        if config.val is None and (value := getattr(config, name)):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {value}, but nothing is measured without --val DIR; give it too")


def read_config(path: Path) -> Config:
    from train.config import Config, upgrade

    return from_json(Config, upgrade(read_json(path, Each(ANY), "give the config.json of a run directory")), str(path))


def open_run(config: Config) -> Checkpoints:
    """The run directory, made or found to hold this very run; rank 0, holding its lock."""
    from train.config import differences
    from train.record.checkpoint import Checkpoints

    checkpoints = Checkpoints(config.out, config.keep)
    checkpoints.tidy()
    path = config.out / "config.json"
    # Without a checkpoint there is nothing yet that another configuration could spoil.
    started = path.exists() and checkpoints.newest() is not None
    # Read through Config, so that options that are newer than the run have their defaults.
    if started and (changed := differences(to_json(read_config(path)), to_json(config))):
        raise ValueError(
            f"{config.out} holds a run with another configuration:\n  " + "\n  ".join(changed) + "\n"
            f"choose another --out, remove the folder, or continue it as it was: python -m train.run {path}"
        )
    checkpoints.choose(config.from_step)
    write_json(path, to_json(replace(config, from_step=None)))
    return checkpoints


def find_newest(config: Config, checkpoints: Checkpoints, world: World) -> Path | None:
    """The checkpoint to continue from. Rank 0 decides, so that all ranks start from the same one."""
    from train.record.checkpoint import MARKER

    newest: Path | None = world.share(checkpoints.newest() if world.first else None)
    needed = config.out / "config.json" if newest is None else newest / MARKER
    if not needed.exists():
        raise ValueError(
            f"rank {world.rank} does not see {needed}, which rank 0 does: --out must be on a file system that all "
            "nodes share"
        )
    return newest


def train(config: Config, world: World) -> int:
    from pipeline.command.memory import is_out_of_memory
    from train.record.checkpoint import Checkpoints, lock, read_state

    held = lock(config.out) if world.first else nullcontext()
    with held:
        checkpoints = open_run(config) if world.first else Checkpoints(config.out, config.keep)
        newest = find_newest(config, checkpoints, world)
        if newest is not None and read_state(newest)["finished"]:
            if world.first:
                say(f"{config.out} is finished ({newest.name}); give another --out to train again")
            return 0
        from train.trainer import Trainer

        try:
            return Trainer(config, world, checkpoints, newest).train()
        except (ValueError, OSError):
            raise  # has its own sentence, which may name a file of any name
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(advise_memory(config, world, checkpoints.newest() is not None, error)) from None


def advise_memory(config: Config, world: World, saved: bool, error: Exception) -> str:
    strides = {method.kind: getattr(method, "strides", ()) for method in config.distill}
    fewer = "".join(f", fewer --distill.{kind}.strides (now {some})" for kind, some in strides.items() if some)
    regions = "".join(
        f", --model.{name.replace('_', '-')} (now {getattr(config.model, name)})"
        for name in ("regions_per_image", "rpn_post_nms_train", "candidates_per_level")
        if hasattr(config.model, name)
    )
    other = " This run is saved with its settings: give other ones another --out." if saved else ""
    return (
        f"out of memory with {config.batch_size // world.size} images on a rank. Lower --batch-size (now "
        f"{config.batch_size} over {world.size} ranks; the learning rate follows){regions}"
        f"{fewer}, or pack the images smaller.{other} {str(error)[:1000]}"
    )


def main() -> int:
    check_paths(sys.argv[1:])
    from pipeline.command.ranks import joined

    config = read_command(sys.argv[1:])
    with joined(config.device, SLOWEST_WAIT) as world:
        return train(config, world)


if __name__ == "__main__":
    run_entry(main, "what follows the newest checkpoint was not kept; run the same command again to continue")
