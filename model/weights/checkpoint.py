"""Where weights come from and go to: ImageNet backbones, Fairweather checkpoints, torchvision state dicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from model.api import Detector
from model.backbones.table import BACKBONES, find_backbone, recognise_backbone
from model.build import CONFIGS, DetectorConfig, new_detector
from model.config import ModelConfig
from model.weights.files import read_json, read_state, resolve_checkpoint, save_tensors

FORMAT = 1


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
    model = {"kind": config.kind, **asdict(config)}
    card = {"format": FORMAT, "classes": list(classes), "model": model, "extra": extra or {}}
    (directory / "model.json").write_text(json.dumps(card, indent=1) + "\n")


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
        card = read_card(directory)
        if classes is not None and tuple(classes) != card.classes:
            raise ValueError(f"{directory}: its classes are {', '.join(card.classes)}; got {', '.join(classes)}")
        path = directory / "model.safetensors"
        state = read_state(path)
        num_classes = len(card.classes) + 1
    detector = new_detector(card.config, num_classes)
    counters = [name for name in state if name.endswith("num_batches_tracked") and name not in detector.state_dict()]
    try:
        detector.load_state_dict({name: value for name, value in state.items() if name not in counters})
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit {card.config.backbone}: {error}") from error
    detector = detector.to(device).to(memory_format=torch.channels_last).eval()
    return detector, card


def read_card(directory: Path) -> Card:
    content = read_json(directory / "model.json")
    if content.get("format") != FORMAT:
        raise ValueError(f"{directory}/model.json: format {content.get('format')}; this version reads {FORMAT}")
    values = tuples(content["model"])
    kind = values.pop("kind", ModelConfig.kind)
    if kind not in CONFIGS:
        raise ValueError(f"{directory}/model.json: a detector of kind {kind!r}; this version has {', '.join(CONFIGS)}")
    unknown = sorted(set(values) - {item.name for item in fields(CONFIGS[kind])})
    if unknown:
        raise ValueError(f"{directory}/model.json: unknown model fields {', '.join(unknown)}; a newer version wrote it")
    return Card(tuple(content["classes"]), CONFIGS[kind](**values), content["extra"])


def tuples(value):
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def infer_classes(num_classes: int, classes: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    if classes is None and num_classes == len(_COCO_CATEGORIES):
        classes = _COCO_CATEGORIES[1:]
    if classes is None or len(classes) != num_classes - 1:
        raise ValueError(
            f"{path}: a state dict of {num_classes - 1} classes without background; name them in order "
            f"(got {'none' if classes is None else len(classes)})"
        )
    return tuple(classes)


def find_body(state: Mapping[str, Tensor], path: Path) -> str:
    """The backbone of a detector's state dict, by the names and shapes of its weights."""
    prefix = "backbone.body."
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in state.items() if key.startswith(prefix)}
    backbone = recognise_backbone(shapes)
    if backbone is None:
        raise ValueError(f"{path}: the backbone's weights are of none that we know; known: {', '.join(BACKBONES)}")
    return backbone


def stored_norm(state: Mapping[str, Tensor], backbone: str) -> str:
    """Frozen norms keep no counter of batches."""
    if find_backbone(backbone).norm == "layer":
        return "auto"
    return "batch" if any(key.endswith("num_batches_tracked") for key in state) else "frozen"


def infer_config(state: Mapping[str, Tensor], path: Path) -> tuple[ModelConfig, int]:
    """The configuration that a torchvision Faster R-CNN state dict was built with, as far as its shapes tell."""
    if "roi_heads.box_predictor.cls_score.weight" not in state or "roi_heads.box_head.fc6.weight" not in state:
        raise ValueError(
            f"{path}: not the state dict of a Faster R-CNN with pyramid and two-layer box head "
            "(no roi_heads.box_head.fc6.weight); torchvision's _v2 detectors and other families are not supported"
        )

    backbone = find_body(state, path)
    norm = stored_norm(state, backbone)
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
