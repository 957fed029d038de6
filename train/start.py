"""A run from its command: recipe or config.json, options, run directory, and the checkpoint to continue from."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.command.console import say
from pipeline.command.memory import is_out_of_memory
from pipeline.command.ranks import World
from pipeline.command.suggest import nearest
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import ANY, Each, read_json, write_json
from train.config import Config, differences, upgrade
from train.optimizer import rate_factor
from train.options import parse_options
from train.recipes import RECIPES, TABLES
from train.record.checkpoint import MARKER, Checkpoints, lock, read_state
from train.record.resume import check_identity, say_skipped_end
from train.record.trackers import check_installed

MEASURED = ("val", "val_every", "val_images")  # what a finished run keeps
SLOWEST_WAIT = timedelta(minutes=10)  # of one rank for another: compiling, scoring

HELP = """usage: python -m train.run RECIPE --data DIR --out runs/NAME [--teacher runs/TEACHER] [options]

Train a detector on clear-day images so that it works at night, in rain and in fog. Two phases: a teacher recipe
first, then a cdfkd recipe with --teacher. The same command continues an interrupted run.

recipes:
{recipes}

`python -m train.run RECIPE --help` lists every option of a recipe with its default. The config.json of an earlier
run may stand in the place of RECIPE and repeats that run."""


def read_command(arguments: list[str]) -> Config:
    """A recipe's or a config file's values, overridden by options."""
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help", "--list"):
        print(HELP.format(recipes=list_recipes()))
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


def list_recipes() -> str:
    """Ours first, then the rows of published tables under a heading each."""
    wide = max(map(len, RECIPES)) + 2
    first = {next(iter(rows)): heading for heading, rows in TABLES.items()}
    lines = []
    for name, (text, _) in RECIPES.items():
        if name in first:
            lines += ["", f"{first[name]}:"]
        lines.append(f"  {name:<{wide}}{text}")
    return "\n".join(lines)


def check_validation(config: Config) -> None:
    """Options about measuring have an effect only with data to measure on."""
    for name in ("val_every", "val_images"):
        if config.val is None and (value := getattr(config, name)):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {value}, but nothing is measured without --val DIR; give it too")


def read_config(path: Path) -> Config:
    return from_json(Config, upgrade(read_json(path, Each(ANY), "give the config.json of a run directory")), str(path))


class Kind(NamedTuple):
    """What differs between a run of a detector and one of something else. Each function takes the configuration."""

    command: str
    again: str  # how another run starts from a run's weights, with {} for its folder
    read_config: Callable[[Path], Any]
    check_finished: Callable[[Any, Any, Path], None]  # the stored one, the one of now, the newest checkpoint
    make_task: Callable[[Any, World, Path | None], Any]
    save_memory: Callable[[Any], str]  # other options that lower the memory, for a message


def make_detection(config: Config, world: World, newest: Path | None) -> Any:
    from train.task import DetectionTask  # late, so that mistakes in the command are answered at once

    return DetectionTask(config, world, newest)


def open_run(config: Any, kind: Kind) -> Checkpoints:
    """The run directory, made or found to hold this very run; rank 0, holding its lock."""
    checkpoints = Checkpoints(config.out, config.keep)
    checkpoints.tidy()
    path = config.out / "config.json"
    measured: dict[str, Any] = {}
    # Without a checkpoint there is nothing yet that another configuration could spoil.
    if path.exists() and checkpoints.newest() is not None:
        stored = kind.read_config(path)
        # Read through Config, so that options that are newer than the run have their defaults.
        if changed := differences(to_json(replace(stored, steps=config.steps, epochs=config.epochs)), to_json(config)):
            raise ValueError(
                f"{config.out} holds a run with another configuration:\n  " + "\n  ".join(changed) + "\n"
                f"choose another --out, remove the folder, or continue it as it was: {kind.command} {path}"
            )

        def check(newest: Path) -> None:
            check_length(stored, config, newest, kind)
            if is_finished(config, newest):
                kind.check_finished(stored, config, newest)
                measured.update({name: getattr(stored, name) for name in MEASURED if hasattr(stored, name)})

        checkpoints.choose(config.from_step, check)
    elif config.from_step is not None:
        raise ValueError(f"--from-step {config.from_step}: {config.out} has no checkpoint; leave the option out")
    write_json(path, to_json(replace(config, from_step=None, **measured)))
    return checkpoints


def is_finished(config: Any, newest: Path) -> bool:
    """A longer run than the one that was finished is not."""
    state = read_state(newest)
    return state["finished"] and state["step"] >= config.steps


def check_length(stored: Any, config: Any, newest: Path, kind: Kind) -> None:
    """Another length is allowed where the learning rates so far would have been the same."""
    if (stored.steps, stored.epochs) == (config.steps, config.epochs):
        return
    state = read_state(newest)
    before = stored.steps or (state["step"] if state["finished"] else 0)
    now = f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"
    fix = kind.again.format(config.out)
    if not before or not config.steps:
        raise ValueError(
            f"{config.out} was begun for {stored.steps or f'{stored.epochs:g} epochs'}, {now} requested: only a "
            f"length in steps can be changed, and one in epochs only after the end, with --steps N --epochs 0; or {fix}"
        )
    if config.steps < state["step"]:
        raise ValueError(f"{config.out} has {state['step']} steps already, {now} requested; choose another --out")
    for step in range(state["step"]):
        rates = [rate_factor(config.optimizer, step, total) for total in (before, config.steps)]
        if rates[0] != rates[1]:
            raise ValueError(
                f"{config.out} was begun for {before} steps, {now} requested: with the {config.optimizer.schedule} "
                f"schedule step {step} had {rates[0]:g} of the learning rate and would have {rates[1]:g}, so it cannot "
                f"be made longer; {fix}"
            )


def check_finished(stored: Config, config: Config, newest: Path) -> None:
    """Nothing is left to do, but other data or another teacher than it was trained with would be a mistake."""
    check_measured_on(stored, config)
    places = {*config.data, config.teacher} - {None}
    if places <= {*stored.data, stored.teacher} and not all(place.exists() for place in places if place is not None):
        return  # removed after the training
    from pipeline.loading.mixture import Mixture
    from pipeline.packed.reader import PackedDataset
    from train.load import identify

    data = Mixture([PackedDataset(path, config.domains) for path in config.data], config.data_weights)
    check_identity(newest, identify(config, data), config)


def check_measured_on(stored: Config, config: Config) -> None:
    """The scores of a finished run are of its own --val: other data would be left unmeasured without a word."""
    if config.val is None or config.val == stored.val:
        return
    from pipeline.packed.reader import PackedDataset

    checksum = PackedDataset(config.val).checksum
    if stored.val is not None and stored.val.exists() and PackedDataset(stored.val).checksum == checksum:
        return
    raise ValueError(
        f"{config.out} is finished and was measured on {stored.val or 'no data'}, --val {config.val} requested; leave "
        f"--val out, and measure the run: python -m eval.run {config.out} --data {config.val} --out ANOTHER"
    )


def find_newest(config: Any, checkpoints: Checkpoints, world: World) -> Path | None:
    """The checkpoint to continue from. Rank 0 decides, so that all ranks start from the same one."""
    newest: Path | None = world.share(checkpoints.newest() if world.first else None)
    needed = config.out / "config.json" if newest is None else newest / MARKER
    if not needed.exists():
        raise ValueError(
            f"rank {world.rank} does not see {needed}, which rank 0 does: --out must be on a file system that all "
            "nodes share"
        )
    return newest


def save_memory(config: Config) -> str:
    strides = {method.kind: getattr(method, "strides", ()) for method in config.distill}
    fewer = "".join(f", fewer --distill.{kind}.strides (now {some})" for kind, some in strides.items() if some)
    regions = "".join(
        f", --model.{name.replace('_', '-')} (now {getattr(config.model, name)})"
        for name in ("regions_per_image", "rpn_post_nms_train", "candidates_per_level")
        if hasattr(config.model, name)
    )
    return f"{regions}{fewer}"


DETECTION = Kind(
    "python -m train.run", "start another run from its weights: --student-init {} --out ANOTHER", read_config,
    check_finished, make_detection, save_memory,
)  # fmt: skip


def train(config: Any, world: World, kind: Kind = DETECTION) -> int:
    held = lock(config.out) if world.first else nullcontext()
    with held:
        checkpoints = open_run(config, kind) if world.first else Checkpoints(config.out, config.keep)
        newest = find_newest(config, checkpoints, world)
        if newest is not None and is_finished(config, newest):
            if world.first:
                say(f"{config.out} is finished ({newest.name}); give another --out to train again")
                say_skipped_end(read_state(newest)["in_a_row"])
            return 0
        # Imported late, so that mistakes in the command are answered at once.
        from train.trainer import Trainer

        try:
            return Trainer(config, kind.make_task(config, world, newest), world, checkpoints, newest).train()
        except (ValueError, OSError):
            raise  # has its own sentence, which may name a file of any name
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(advise_memory(config, kind, world, checkpoints.newest() is not None, error)) from None


def advise_memory(config: Any, kind: Kind, world: World, saved: bool, error: Exception) -> str:
    other = " This run is saved with its settings: give other ones another --out." if saved else ""
    return (
        f"out of memory with {config.batch_size // world.size} images on a rank. Lower --batch-size (now "
        f"{config.batch_size} over {world.size} ranks; the learning rate follows){kind.save_memory(config)}"
        f", or pack the images smaller.{other} {str(error)[:1000]}"
    )
