"""Starting from a detector that is not quite the same: all that fits is taken, the rest keeps its new draw."""

from pathlib import Path

import torch

from model.api import Detector
from model.build import DetectorConfig, new_detector

LONGEST_LIST = 6  # names that are printed of each


def take_what_fits(student: Detector, source: Detector, config: DetectorConfig, same_classes: bool, path: Path) -> str:
    """Copy the source's tensors that have a name and a shape of the student's; returns what to print.

    With other classes the layers whose shape depends on their number keep their new draw, also where the numbers are
    equal by chance: their rows mean other things. config: the source's.
    """
    own, given = student.state_dict(), source.state_dict()
    of_classes = set() if same_classes else class_layers(config, source.num_classes)
    taken = {
        name: value
        for name, value in given.items()
        if name in own and own[name].shape == value.shape and name not in of_classes
    }
    if not any(name.startswith("backbone.body.") for name in taken):
        raise ValueError(
            f"--student-init: {path} holds a {config.backbone}, of which nothing fits this run's backbone; give the "
            "same --model.backbone, or start from weights"
        )
    student.load_state_dict(taken, strict=False)
    said = f"student: starts from {path}: {len(taken)} of {len(own)} tensors"
    for what, names in (("drawn anew", set(own) - set(taken)), ("not used", set(given) - set(taken))):
        if names:
            said += f"\n  {what}: {shortened(sorted(names))}"
    return said


def class_layers(config: DetectorConfig, num_classes: int) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    with torch.device("meta"):
        one, more = (new_detector(config, number).state_dict() for number in (num_classes, num_classes + 1))
    return {name for name in one if one[name].shape != more[name].shape}


def shortened(names: list[str]) -> str:
    return ", ".join(names[:LONGEST_LIST]) + (f" and {len(names) - LONGEST_LIST} more" if names[LONGEST_LIST:] else "")
