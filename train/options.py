"""The options of `python -m train.run`: a recipe's fields, the detector of --model, the methods of --distill."""

from dataclasses import field, fields, make_dataclass, replace
from typing import Any, get_args

import tyro

from model.detectors import CONFIGS, SMALL, DetectorConfig
from pipeline.command.suggest import nearest
from train.config import Config
from train.distill import MethodConfig
from train.recipes.sizes import optimizer_of

KEPT = (
    "weights", "norm", "norm_epsilon", "trainable_layers", "fpn_channels",
    "inputs", "extra_channels", "extra_members", "extra_mean", "extra_deviation", "extra_range", "first_layer",
)  # fmt: skip  # by another kind of detector
# What other trainers call an option of ours. tyro itself suggests what is spelled alike.
ELSEWHERE = {
    "lr": "--optimizer.learning-rate", "wd": "--optimizer.weight-decay", "bs": "--batch-size",
    "workers": "--loader.threads", "num-workers": "--loader.threads", "iters": "--steps", "iterations": "--steps",
    "max-iter": "--steps", "amp": "--precision", "fp16": "--precision", "name": "--out", "project": "--out",
    "work-dir": "--out", "output-dir": "--out", "optimizer.lr": "--optimizer.learning-rate",
    "optimizer.wd": "--optimizer.weight-decay",
}  # fmt: skip
KINDS: dict[str, Any] = {config.kind: config for config in get_args(MethodConfig)}


def parse_options(default: Config, arguments: list[str], prog: str, description: str) -> Config:
    """The default, overridden by options. A method's options are --distill.NAME.OPTION."""
    arguments = in_our_words([part for argument in arguments for part in split_choice(argument)])
    model, arguments = choose_model(default.model, arguments)
    # A recipe whose optimizer is its detector's own takes that of the detector that is chosen.
    if default.optimizer == optimizer_of(default.model.kind):
        default = replace(default, optimizer=optimizer_of(model.kind))
    methods, arguments = choose_methods(default.distill, arguments)
    arguments = [name_method(argument, methods) for argument in arguments]
    # What a run leaves out, such as a method, has no options at all: giving one is an error.
    chosen = make_dataclass("Methods", [(m.kind, type(m), field(default=m)) for m in methods], frozen=True)
    kind: Any = chosen if methods else tyro.conf.Suppress[tuple[Any, ...]]
    replaced = [
        ("model", type(model), field(default=model)),
        ("distill", kind, field(default=chosen() if methods else ())),
    ]
    # tyro names a mistake's place by the class: "Error parsing options: --seed must be ...".
    with_methods = make_dataclass("options", replaced, bases=(Config,), frozen=True)
    names = [item.name for item in fields(Config) if item.name not in ("model", "distill")]
    parsed = tyro.cli(
        with_methods, default=with_methods(**{name: getattr(default, name) for name in names}), args=arguments,
        prog=prog, description=description, config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip
    distill = tuple(getattr(parsed.distill, method.kind) for method in methods)
    return Config(**{name: getattr(parsed, name) for name in names}, model=parsed.model, distill=distill)


def in_our_words(arguments: list[str]) -> list[str]:
    """Of any run: another trainer's name of an option is an error that says ours, and one length makes the other 0."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and (ours := ELSEWHERE.get(name[2:].replace("_", "-"))):
            raise ValueError(f"there is no option {name}; here it is {ours}")
    return with_one_length(arguments)


def split_choice(argument: str) -> list[str]:
    """`--model=gfl` as the two words it means."""
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name in ("--model", "--distill") else [argument]


def with_one_length(arguments: list[str]) -> list[str]:
    """Whoever gives a length in steps alone, or in epochs alone, means the recipe's other one to be 0."""
    given = {argument.partition("=")[0] for argument in arguments}
    for one, other in (("--steps", "--epochs"), ("--epochs", "--steps")):
        if one in given and other not in given:
            return [*arguments, other, "0"]
    return arguments


def choose_model(default: DetectorConfig, arguments: list[str]) -> tuple[DetectorConfig, list[str]]:
    """The detector of a run, and the arguments without `--model NAME`. Another kind keeps backbone and widths."""
    if "--model" not in arguments:
        return default, arguments
    place = arguments.index("--model")
    given = (arguments[place + 1 :] or ["-"])[0]
    if given.startswith("-"):
        raise ValueError(f"--model needs a name: {', '.join(CONFIGS)}")
    name = given.replace("-", "_")
    if name not in CONFIGS:
        raise ValueError(f"--model {name}{nearest(name, CONFIGS)}: the detectors are {', '.join(CONFIGS)}")
    rest = arguments[:place] + arguments[place + 2 :]
    return default if name == default.kind else sized_as(default, CONFIGS[name]), rest


def sized_as(default: DetectorConfig, kind: type[DetectorConfig]) -> DetectorConfig:
    """Another kind of detector with the default's backbone, and as narrow where the default is narrow.

    Of the small recipes' size it is the kind's own small one.
    """
    small = SMALL[default.kind]
    if (default.backbone, default.fpn_channels) == (small.backbone, small.fpn_channels):
        usual, chosen = small, SMALL.get(kind.kind) or kind(backbone=small.backbone, fpn_channels=small.fpn_channels)
    else:
        usual, chosen = type(default)(backbone=default.backbone), kind(backbone=default.backbone)
    shared = {item.name for item in fields(kind)} & {item.name for item in fields(default)} & set(KEPT)
    kept = {name: getattr(default, name) for name in sorted(shared) if getattr(default, name) != getattr(usual, name)}
    if "fpn_channels" in kept and "head_channels" in {item.name for item in fields(kind)}:
        kept["head_channels"] = kept["fpn_channels"]
    return replace(chosen, **kept)


def choose_methods(
    default: tuple[MethodConfig, ...], arguments: list[str]
) -> tuple[tuple[MethodConfig, ...], list[str]]:
    """The methods of a run, and the arguments without `--distill NAME ...`. None after it means none."""
    if "--distill" not in arguments:
        return default, arguments
    start = arguments.index("--distill") + 1
    stop = next((i for i in range(start, len(arguments)) if arguments[i].startswith("-")), len(arguments))
    names = [name.replace("-", "_") for name in arguments[start:stop]]
    if not names:
        raise ValueError(f"--distill needs names: {', '.join(KINDS)}, or none")
    if [name.lower() for name in names] == ["none"]:
        names = []
    for name in names:
        if name not in KINDS:
            raise ValueError(f"--distill {name}{nearest(name, KINDS)}: the methods are {', '.join(KINDS)}, or none")
    if len(set(names)) < len(names):
        raise ValueError(f"--distill names {', '.join(names)}: each method once")
    known = {method.kind: method for method in default}
    return tuple(known.get(name) or KINDS[name]() for name in names), arguments[: start - 1] + arguments[stop:]


def name_method(argument: str, methods: tuple[MethodConfig, ...]) -> str:
    """`--distill.alpha` with one method is `--distill.cd-fkd.alpha`; `--distill.warmup-steps` is of all methods."""
    prefix, _, rest = argument.partition("distill.")
    if prefix == "--" and rest.partition("=")[0].replace("_", "-") == "warmup-steps":
        return f"--distill-{rest}"
    if prefix != "--" or not rest or not methods:
        return argument
    first = rest.partition("=")[0].split(".")[0].replace("-", "_")
    if first in KINDS:
        return argument
    if len(methods) > 1:
        wanted = " or ".join(f"--distill.{method.kind.replace('_', '-')}.{rest}" for method in methods)
        raise ValueError(f"{argument}: this run has several methods; give {wanted}")
    return f"--distill.{methods[0].kind.replace('_', '-')}.{rest}"
