"""Where weights come from and go to: ImageNet backbones, Fairweather checkpoints, torchvision state dicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from model.api import Detector
from model.build import DetectorConfig, new_detector
from model.config import ModelConfig
from model.weights.files import MARKER, find_damage, read_state, resolve_checkpoint, save_tensors
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import ANY, Each, OneOf, Whole, json_text, read_json

FORMAT = 1
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
    """A detector in eval mode and its card. The path is a checkpoint directory, a run directory or a state dict file of
    torchvision's Faster R-CNN. Of a run the best checkpoint is read; without one, the newest complete one. A state dict
    has no class names: give `classes`, or COCO's are used if it has 91.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}: give a run, a checkpoint directory or a state dict file")
    if path.is_file():
        state = read_state(path)
        config, num_classes = infer_config(state, path)
        card = Card(infer_classes(num_classes, classes, path), config)
    else:
        directory = resolve_checkpoint(path)
        if (directory / MARKER).is_file() and (damage := find_damage(directory, ("model.json", "model.safetensors"))):
            raise ValueError(f"{directory} is damaged: {damage}; give another checkpoint of the run")
        card = read_card(directory)
        if classes is not None and tuple(classes) != card.classes:
            raise ValueError(f"{directory}: its classes are {', '.join(card.classes)}; got {', '.join(classes)}")
        path = directory / "model.safetensors"
        state = read_state(path)
        num_classes = len(card.classes) + 1
    with torch.device("meta"):  # what a card asks for takes no memory before the weights are seen to be there
        expected = new_detector(card.config, num_classes).state_dict()
    state = {name: state[name] for name in state if name in expected or not name.endswith("num_batches_tracked")}
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if wrong:
        raise ValueError(
            f"{path}: the weights do not fit {card.config.backbone}: {', '.join(wrong[:5])}; {len(wrong)} differ"
        )
    detector = new_detector(card.config, num_classes)
    detector.load_state_dict(state)
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


def infer_classes(num_classes: int, classes: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    if classes is None and num_classes == len(_COCO_CATEGORIES):
        classes = _COCO_CATEGORIES[1:]
    if classes is None or len(classes) != num_classes - 1:
        raise ValueError(
            f"{path}: a state dict of {num_classes - 1} classes without background; name them in order "
            f"(got {'none' if classes is None else len(classes)})"
        )
    return tuple(classes)


def infer_config(state: Mapping[str, Tensor], path: Path) -> tuple[ModelConfig, int]:
    """The configuration that a torchvision Faster R-CNN state dict was built with, as far as its shapes tell."""
    if "roi_heads.box_predictor.cls_score.weight" not in state or "roi_heads.box_head.fc6.weight" not in state:
        raise ValueError(
            f"{path}: not the state dict of a Faster R-CNN with pyramid and two-layer box head "
            "(no roi_heads.box_head.fc6.weight); torchvision's _v2 detectors and other families are not supported"
        )

    def has(key: str) -> bool:
        return f"backbone.body.{key}.weight" in state

    if has("layer1.0.conv1"):
        bottleneck = has("layer1.0.conv3")
        long = has("layer3.22.conv1") if bottleneck else has("layer3.5.conv1")
        backbone = ("resnet101" if long else "resnet50") if bottleneck else ("resnet34" if long else "resnet18")
    else:
        backbone = "mobilenet_v3_large" if has("4.block.2.fc1") else "mobilenet_v2"
    norm = "batch" if any(key.endswith("num_batches_tracked") for key in state) else "frozen"
    num_classes = state["roi_heads.box_predictor.cls_score.weight"].shape[0]
    representation_size = state["roi_heads.box_head.fc7.weight"].shape[0]
    fpn_channels = state["roi_heads.box_head.fc6.weight"].shape[1] // 49
    config = ModelConfig(
        backbone=backbone,
        weights="none",
        norm=norm,
        # torchvision sets epsilon to 0 for exactly this file (faster_rcnn.py, overwrite_eps).
        norm_epsilon=0.0 if path.name.startswith("fasterrcnn_resnet50_fpn_coco") else 1e-5,
        fpn_channels=fpn_channels,
        representation_size=representation_size,
    )
    num_anchors = state["rpn.head.cls_logits.weight"].shape[0]
    usual = len(config.resolved_anchor_sizes[0]) * len(config.anchor_ratios)
    if num_anchors != usual:
        raise ValueError(
            f"{path}: {num_anchors} anchors per place, {backbone}'s usual number is {usual}; "
            "give a checkpoint directory with model.json, which says which anchors they are"
        )
    return config, num_classes
