"""Detectors of torchvision's and mmdetection's in files: told apart by the names of their weights, under our names."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from model.backbones.config import BackboneConfig
from model.config import ModelConfig
from model.dense.config import AnyDense
from model.weights import mmdetection
from model.weights.files import read_contents
from model.weights.torchvision_detectors import (
    infer_config,
    infer_dense,
    is_dense,
    is_two_stage,
    with_current_names,
)

# What weights were trained with and do not show.
SEEN = ("norm_epsilon", "stride_in_1x1", "pixel_order", "pixel_mean", "pixel_deviation")
TORCHVISION_SIZE = {"short_side": 800, "long_side": 1333}  # what its detectors scale pictures to, unless told
SEEN_BY_ITS_KIND = ("style", "coarse_from", "coarse_relu", "distances", "centerness_from")  # where a detector has them


class Foreign(NamedTuple):
    state: dict[str, Tensor]
    config: ModelConfig | AnyDense
    num_classes: int  # without background
    classes: tuple[str, ...] | None  # where the file names as many
    extra: dict[str, Any]


def read_foreign(path: Path, num_classes: int | None = None) -> Foreign:
    """`num_classes` without background, where the user says it."""
    state, meta = read_contents(path)
    try:
        return recognise(path, state, meta, num_classes)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        if str(error).startswith((str(path), str(path.with_suffix(".py")))):  # or its configuration's beside it
            raise
        raise ValueError(
            f"{path}: its weights have other names or shapes than those of a detector that is read here ({error})"
        ) from None


def recognise(path: Path, state: dict[str, Tensor], meta: dict[str, Any], num_classes: int | None) -> Foreign:
    if mmdetection.is_mmdetection(state):
        return read_mmdetection(path, state, meta)
    if is_dense(state):
        config, count, state = infer_dense(state, num_classes, path)
        return Foreign(state, config, count, None, dict(TORCHVISION_SIZE))
    if is_two_stage(state):
        state = with_current_names(state)
        two_stage, count = infer_config(state, path)
        return Foreign(state, two_stage, count - 1, None, dict(TORCHVISION_SIZE))
    if path.suffix == ".safetensors" and (path.parent / "model.json").is_file():
        raise ValueError(f"{path} says nothing of the detector that it belongs to: give its folder, {path.parent}")
    raise ValueError(
        f"{path}: not a detector that is read here; those are Fairweather's checkpoint folders, torchvision's Faster "
        "R-CNN, RetinaNet and FCOS, and mmdetection's Faster R-CNN, RetinaNet, FCOS, ATSS and GFL"
    )


def read_mmdetection(path: Path, state: dict[str, Tensor], meta: dict[str, Any]) -> Foreign:
    values = mmdetection.read_values(meta, path)
    try:
        config = mmdetection.detector_config(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    state = mmdetection.rename_detector(state, config)
    count = mmdetection.count_classes(state, config, path)
    names = mmdetection.class_names(meta)
    if names is not None and len(names) != count:
        names = None  # a run that was not told its classes keeps COCO's
    return Foreign(state, config, count, names, dict(mmdetection.scaled_to(values)))


def check_sees_alike(config: BackboneConfig, source: BackboneConfig, path: Path) -> None:
    """A network goes on from weights that were trained with the same input, strides and conventions."""
    kinds = [name for name in SEEN_BY_ITS_KIND if type(config) is type(source) and hasattr(config, name)]
    names = (*SEEN, *kinds)
    wanted = {name: getattr(source, name) for name in names if getattr(source, name) != getattr(config, name)}
    if wanted:
        options = " ".join(as_option(name.replace("_", "-"), value) for name, value in wanted.items())
        raise ValueError(f"{path}: its weights were trained with other options than this run has; give {options}")
    for name, (mean, deviation) in source.extra_pixels.items():
        if config.extra_pixels.get(name, (mean, deviation)) != (mean, deviation):
            raise ValueError(
                f"{path}: its network saw {name} with a mean of {mean:g} and a deviation of {deviation:g}, this run "
                f"has {config.extra_pixels[name]}; give the same with --model.extra-mean and --model.extra-deviation"
            )
    for what, seen, now in (
        ("made of", source.extra_folders, config.extra_folders),
        ("of the values", source.extra_limits, config.extra_limits),
    ):
        for name in seen.keys() & now.keys():
            if seen[name] != now[name]:
                raise ValueError(
                    f"{path}: its network saw {name} {what} {', '.join(map(str, seen[name]))}, this run has "
                    f"{', '.join(map(str, now[name]))}; pack the data as that network's was, or take other weights"
                )


def as_option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--model.{'' if value else 'no-'}{name}"
    return f"--model.{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
