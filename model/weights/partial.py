"""Starting from a detector that is not quite the same: all that fits is taken, the rest keeps its new draw."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from model.api import Detector
from model.backbones.config import RGB, BackboneConfig
from model.backbones.first import with_inputs
from model.detectors import DetectorConfig, new_detector
from model.weights.checkpoint import fit, load_detector, usual_classes
from model.weights.foreign import check_sees_alike, read_foreign

LONGEST_LIST = 6  # names that are printed one by one


class Source(NamedTuple):
    """A whole detector to start from."""

    detector: Detector
    config: DetectorConfig
    classes: tuple[str, ...] | None  # without background, where they are known


def read_source(path: Path) -> Source:
    """Of whatever `load_detector` reads; the classes of a file need no names."""
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}: give a run, a checkpoint directory or a state dict file")
    if path.is_dir():
        detector, card = load_detector(path)
        return Source(detector, card.config, card.classes)
    foreign = read_foreign(path)
    detector = fit(foreign.config, foreign.num_classes + 1, foreign.state, path)
    return Source(detector, foreign.config, foreign.classes or usual_classes(foreign.num_classes))


def start_from(
    student: Detector, path: Path, config: BackboneConfig, classes: Sequence[str] | None, option: str
) -> str:
    """Copy a detector's tensors that have a name and a shape of the student's; returns what to print.

    With other classes the layers whose shape depends on their number keep their new draw, also where the numbers are
    equal by chance: their rows mean other things. Where one side does not name its classes, equal numbers suffice.
    config, classes: the student's. option: which one named the path.
    """
    source = read_source(path)
    check_sees_alike(config, source.config, path)
    own, given = student.state_dict(), source.detector.state_dict()
    body, inputs = student.get_submodule("backbone.body"), {RGB: 3, **source.config.extra_inputs}
    adapted = with_inputs(given, inputs, body, "backbone.body.", config)
    same_classes = student.num_classes == source.detector.num_classes
    unnamed = classes is None or source.classes is None
    if not unnamed:
        same_classes = tuple(classes or ()) == source.classes
    of_classes = class_layers(source.config, source.detector.num_classes)
    taken = {name: value for name, value in adapted.items() if name in own and own[name].shape == value.shape}
    if not same_classes or not of_classes <= taken.keys():  # all of them or none: a bias belongs to its weights
        taken = {name: value for name, value in taken.items() if name not in of_classes}
    if not any(name.startswith("backbone.body.") for name in taken):
        raise ValueError(
            f"{option}: {path} holds a {source.config.backbone}, of which nothing fits this run's backbone; give the "
            "same --model.backbone, or other weights"
        )
    student.load_state_dict(taken, strict=False)
    said = f"starts from {path}: {len(taken)} of {len(own)} tensors"
    if unnamed and of_classes <= taken.keys():
        said += "\n  classes are as many and have no names to compare: their layers are taken"
    missing, unused = (
        {name for name in set(names) - set(taken) if not name.endswith("num_batches_tracked")}  # these count steps only
        for names in (own, given)
    )
    for what, names in (("drawn anew", missing), ("not used", unused)):
        if names:
            said += f"\n  {what}: {shortened(sorted(names))}"
    return said


def class_layers(config: DetectorConfig, num_classes: int) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    with torch.device("meta"):
        one, more = (new_detector(config, number).state_dict() for number in (num_classes, num_classes + 1))
    return {name for name in one if one[name].shape != more[name].shape}


def shortened(names: list[str]) -> str:
    """All of them; many as their modules, each with its number of tensors."""
    if len(names) <= LONGEST_LIST:
        return ", ".join(names)
    modules = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{module}.* ({count})" for module, count in modules.items())
