"""A translation run from its command."""

import sys
from pathlib import Path
from typing import Any

import tyro

from pipeline.command.ranks import World
from pipeline.command.suggest import nearest
from pipeline.files.fields import from_json
from pipeline.files.own import ANY, Each, read_json
from train.options import in_our_words
from train.record.trackers import check_installed
from train.start import Kind
from train.translation.config import RECIPES, TranslationConfig

HELP = """usage: python -m train.translate RECIPE --source DIR --target DIR --out runs/NAME [options]

Learn to give pictures of the source domain the look of the target domain, without pairs. `python -m eval.translate`
then makes a packed dataset of it. The same command continues an interrupted run.

recipes:
{recipes}

`python -m train.translate RECIPE --help` lists every option of a recipe with its default. The config.json of an earlier
run may stand in the place of RECIPE and repeats that run."""


def read_command(arguments: list[str]) -> TranslationConfig:
    """A recipe's or a config file's values, overridden by options."""
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help", "--list"):
        wide = max(map(len, RECIPES)) + 2
        print(HELP.format(recipes="\n".join(f"  {key:<{wide}}{text}" for key, (text, _) in RECIPES.items())))
        sys.exit(0 if name else 2)
    if name.endswith(".json"):
        description, default = f"The run of {name}", read_config(Path(name))
    elif name in RECIPES:
        description, make = RECIPES[name]
        default = make()
    else:
        raise ValueError(f"no recipe {name!r}{nearest(name, RECIPES)}; python -m train.translate --help lists them")
    config = tyro.cli(
        TranslationConfig, default=default, args=in_our_words(arguments[1:]), prog=f"python -m train.translate {name}",
        description=description, config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip
    check_installed(config.log)
    return config


def read_config(path: Path) -> TranslationConfig:
    return from_json(
        TranslationConfig, read_json(path, Each(ANY), "give the config.json of a run directory"), str(path)
    )


def make_task(config: TranslationConfig, world: World, newest: Path | None) -> Any:
    from train.translation.task import TranslationTask

    return TranslationTask(config, world, newest)


def check_finished(stored: TranslationConfig, config: TranslationConfig, newest: Path) -> None:
    """Nothing is left to do, but other data than it was trained with would be a mistake."""
    places = config.source, config.target
    if places == (stored.source, stored.target) and not all(place.exists() for place in places):
        return  # removed after the training
    from train.translation.task import check_identity, identify, open_pair

    check_identity(newest, identify(*open_pair(config)), config)


def save_memory(config: TranslationConfig) -> str:
    return (
        f", raise --accumulate (now {config.accumulate}), lower --crop.size (now {config.crop.size}) or "
        f"--generator.width (now {config.generator.width})"
    )


TRANSLATION = Kind(
    "python -m train.translate", "start another run with another --out", read_config, check_finished, make_task,
    save_memory,
)  # fmt: skip
