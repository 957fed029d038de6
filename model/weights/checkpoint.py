"""Whole detectors in files: our own checkpoints, torchvision's state dicts, mmdetection's checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from model.api import Detector
from model.detectors import DetectorConfig, new_detector
from model.weights.files import (
    MARKER,
    complete_checkpoints,
    find_damage,
    read_state,
    resolve_checkpoint,
    save_tensors,
)
from model.weights.foreign import Foreign, read_foreign
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import ANY, Each, OneOf, Whole, json_text, read_json

FORMAT = 1
SHIPPED = ("model.json", "model.safetensors")
SIDE = OneOf((Whole(1, 1 << 16), None))
CARD = {
    "format": int,
    "classes": [str],
    "model": Each(ANY),
    "extra": {"short_side?": SIDE, "long_side?": SIDE, "AP50?": OneOf((float, None))},
}


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself. Class i + 1 of the network is classes[i]; 0 is the background."""

    classes: tuple[str, ...]
    config: DetectorConfig
    extra: dict = field(default_factory=dict)


def save_detector(
    directory: Path | str, detector: Detector, config: DetectorConfig, classes: Sequence[str], extra: dict | None = None
) -> None:
    """Write model.safetensors and model.json. `classes` are without background; `extra` is JSON for the reader."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    check_classes(detector, classes, directory)
    save_tensors(detector.state_dict(), directory / "model.safetensors")
    card = {"format": FORMAT, "classes": list(classes), "model": to_json(config), "extra": extra or {}}
    (directory / "model.json").write_text(json_text(card))


def check_classes(detector: Detector, classes: Sequence[str], where: Path) -> None:
    if len(classes) != detector.num_classes - 1:
        raise ValueError(
            f"{where}: {len(classes)} class names ({', '.join(classes)}) for a detector of "
            f"{detector.num_classes - 1} classes without background; give one name per class"
        )


def load_detector(
    path: Path | str, device: torch.device | str = "cpu", classes: Sequence[str] | None = None
) -> tuple[Detector, Card]:
    """A detector in eval mode and its card. The path is a checkpoint directory, a run directory, or a file of
    torchvision's or mmdetection's. Of a run the best checkpoint is read; without one, the newest complete one. A file
    that names no classes needs `classes`; without them COCO's are used if it has as many.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}: give a run, a checkpoint directory or a weight file")
    if path.is_file():
        foreign = read_foreign(path, None if classes is None else len(classes))
        card, state = Card(complete(foreign, classes, path), foreign.config, foreign.extra), foreign.state
    else:
        directory = resolve_checkpoint(path)
        if (directory / MARKER).is_file() and (damage := find_damage(directory, SHIPPED)):
            whole = [one for one in complete_checkpoints(path) if not find_damage(one, SHIPPED)]
            fix = f"give {whole[-1]}" if whole else "give another checkpoint of the run"
            raise ValueError(f"{directory} is damaged: {damage}; {fix}")
        card = read_card(directory)
        if classes is not None and tuple(classes) != card.classes:
            raise ValueError(f"{directory}: its classes are {', '.join(card.classes)}; got {', '.join(classes)}")
        path = directory / "model.safetensors"
        state = read_state(path)
    detector = fit(card.config, len(card.classes) + 1, state, path)
    detector = detector.to(device).to(memory_format=torch.channels_last).eval()
    return detector, card


def read_card(directory: Path) -> Card:
    path, fix = directory / "model.json", "give another checkpoint"
    version = read_json(path, {"format": int}, fix)["format"]
    if version != FORMAT:
        raise ValueError(f"{path}: format {version}; this version reads {FORMAT}")
    content = read_json(path, CARD, fix)
    config = from_json(DetectorConfig, content["model"], f"{path}: model")
    return Card(tuple(content["classes"]), config, content["extra"])


def complete(foreign: Foreign, given: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """The class names of a file of somebody else's, without background: its own, given, or COCO's where as many."""
    if foreign.classes is not None and given is not None and tuple(given) != foreign.classes:
        raise ValueError(f"{path}: its classes are {', '.join(foreign.classes)}; got {', '.join(given)}")
    names = foreign.classes or given or usual_classes(foreign.num_classes)
    if names is None or len(names) != foreign.num_classes:
        got = "they have no names; give them in order with --classes" if names is None else f"got {len(names)} names"
        raise ValueError(f"{path}: weights of {foreign.num_classes} classes without background; {got}")
    return tuple(names)


def usual_classes(num_classes: int) -> tuple[str, ...] | None:
    """COCO's names, with or without the gaps in its numbers, where they are as many."""
    coco = tuple(_COCO_CATEGORIES[1:])
    lists = (coco, tuple(name for name in coco if name != "N/A"))
    return next((names for names in lists if len(names) == num_classes), None)


@lru_cache(maxsize=8)
def expected_state(config: DetectorConfig, num_classes: int) -> Mapping[str, Tensor]:
    """Names and shapes. What a card asks for takes no memory before the weights are seen to be there."""
    with torch.device("meta"):
        return new_detector(config, num_classes).state_dict()


def fit(config: DetectorConfig, num_classes: int, state: Mapping[str, Tensor], path: Path) -> Detector:
    """The detector with these weights, all of them; counters of batches that it does not keep are left out.

    num_classes counts the background.
    """
    expected = expected_state(config, num_classes)
    state = {name: value for name, value in state.items() if name in expected or not name.endswith("batches_tracked")}
    # Swin's numbers of a window's cells follow from its side.
    given = {name for name in expected if name.endswith("relative_position_index")}
    missing = [name for name in expected if name not in state and name not in given]
    unknown = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in state and name not in given and state[name].shape != expected[name].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{len(names)} {words}, first {names[0]}"
            for words, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if names
        ]
        kind = f"{config.kind} with {config.backbone}"
        raise ValueError(f"{path}: the weights do not fit a {kind}: {'; '.join(parts)}")
    detector = new_detector(config, num_classes)
    own = detector.state_dict()
    detector.load_state_dict({**state, **{name: own[name] for name in given}})
    return detector
