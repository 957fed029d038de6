"""State dicts of torchvision's detectors: what they were built with, as far as names and shapes tell, and our names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.backbones.table import BACKBONES, find_backbone, recognise_backbone
from model.config import ModelConfig
from model.dense.config import FcosConfig, RetinaNetConfig

# torchvision sets the norms' epsilon to 0 for exactly these files (overwrite_eps).
WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn_coco", "retinanet_resnet50_fpn_coco")
OUTPUTS = {"cls_logits": "class_output", "bbox_reg": "box_output", "bbox_ctrness": "quality_output"}
TOWERS = {"classification": "class_tower", "regression": "box_tower"}


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


def epsilon_of(path: Path) -> float:
    return 0.0 if path.name.startswith(WITHOUT_EPSILON) else 1e-5


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Before torchvision 0.13 convolutions of the pyramid and the RPN were no sequences."""
    rules = (
        (r"(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
        (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    )
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    return dict(state)


def has(names: Mapping[str, Tensor], *starts: str) -> bool:
    """Whether a name begins with each."""
    return all(any(name.startswith(start) for name in names) for start in starts)


def is_dense(names: Mapping[str, Tensor]) -> bool:
    """SSD has such a head, too, but no pyramid."""
    return has(names, "head.classification_head.", "backbone.fpn.")


def is_two_stage(names: Mapping[str, Tensor]) -> bool:
    return has(names, "roi_heads.box_", "backbone.fpn.")


def check_whole(state: Mapping[str, Tensor], names: Iterable[str], kind: str, path: Path) -> None:
    """names: torchvision's."""
    missing = [name for name in names if name not in state]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(f"{path}: the state dict of a {kind} lacks {missing[0]}{more}; give one that is whole")


def tower_names(state: Mapping[str, Tensor], step: int) -> list[str]:
    """What both towers of a head have where either has it in any of its layers."""
    found = [name.split(".")[3:] for name in state if re.match(r"head\.\w+_head\.conv\.", name)]
    if not found:
        return ["head.classification_head.conv.0.weight"]
    whole = len(found[0]) == 3  # a convolution and its norm are one module
    places = [(int(layer), 0) if whole else divmod(int(layer), step) for layer, *_ in found]
    parts = sorted({(module, ".".join(rest)) for (_, module), (_, *rest) in zip(places, found, strict=True)})
    return [
        f"head.{kind}_head.conv.{layer if whole else layer * step + module}.{rest}"
        for kind in TOWERS
        for layer in range(1 + max(layer for layer, _ in places))
        for module, rest in parts
    ]


def infer_dense(
    state: Mapping[str, Tensor], num_classes: int | None, path: Path
) -> tuple[RetinaNetConfig | FcosConfig, int, dict[str, Tensor]]:
    """(configuration, classes without background, weights under our names) of a RetinaNet or FCOS.

    torchvision gives every label an output, 0 too, which its own training uses for nothing. So the first output is
    left out, unless `num_classes` says that a class was counted from 0.
    """
    state, regression = with_current_names(state), "head.regression_head."
    first = state.get(f"{regression}bbox_reg.weight")
    is_fcos = has(state, f"{regression}bbox_ctrness.") or (first is not None and len(first) == 4)  # one box a place
    outputs_of = ["regression_head.bbox_reg", "classification_head.cls_logits"]
    outputs_of += ["regression_head.bbox_ctrness"] * is_fcos
    step = 3 if is_fcos else 2  # convolution, norm and ReLU; in RetinaNet's older files convolution and ReLU
    needed = [f"head.{name}.{part}" for name in outputs_of for part in ("weight", "bias")]
    needed += [*tower_names(state, step), "backbone.fpn.extra_blocks.p6.weight"]
    check_whole(state, needed, "FCOS" if is_fcos else "RetinaNet", path)
    state = {rename(name, step): value for name, value in state.items()}
    backbone = find_body(state, path)
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("head.class_tower."))
    num_anchors = len(state["head.box_output.weight"]) // 4
    outputs = len(state["head.class_output.weight"]) // num_anchors
    coarse = state["backbone.fpn.extra_blocks.p6.weight"].shape[1]
    channels = len(state["backbone.fpn.extra_blocks.p6.weight"])
    normed = "head.class_tower.0.1.weight" in state
    shared: dict[str, Any] = {
        "backbone": backbone,
        "weights": "none",
        "norm": stored_norm(state, backbone),
        "norm_epsilon": epsilon_of(path),
        "style": "torchvision",
        "fpn_channels": channels,
        "coarse_from": "p5" if coarse == channels else "c5",
        "coarse_relu": True,
        "num_convs": depth,
        "head_channels": len(state["head.class_tower.0.0.weight"]),
        "norm_groups": 32 if normed else 0,
        "tower_bias": normed and "head.class_tower.0.0.bias" in state,
    }
    config: RetinaNetConfig | FcosConfig
    if "head.quality_output.weight" in state:
        if num_anchors != 1:
            raise ValueError(f"{path}: an FCOS with {num_anchors} anchors a place; torchvision's has 1")
        config = FcosConfig(**shared, distances="relu", centerness_from="box", score_threshold=0.2, nms_threshold=0.6)
        state |= {f"head.scales.{level}": state["head.box_output.weight"].new_ones(()) for level in range(5)}
    else:
        config = RetinaNetConfig(**shared, detections_per_image=300)
        usual = config.anchors_per_octave * len(config.anchor_ratios)
        if num_anchors != usual:
            raise ValueError(f"{path}: a RetinaNet with {num_anchors} anchors a place; torchvision's usual has {usual}")
    if num_classes != outputs:
        for name in ("head.class_output.weight", "head.class_output.bias"):
            value = state[name]
            state[name] = value.unflatten(0, (num_anchors, outputs))[:, 1:].flatten(0, 1).contiguous()
        outputs -= 1
    return config, outputs, state


def rename(name: str, step: int) -> str:
    """torchvision's name of a weight of a dense head as ours. Towers without modules of their own count every layer."""
    found = re.match(r"head\.(classification|regression)_head\.(\w+)\.(.*)", name)
    if found is None:
        return name
    kind, part, rest = found.groups()
    if part in OUTPUTS:
        return f"head.{OUTPUTS[part]}.{rest}"
    places = rest.split(".")
    if len(places) == 3:  # a convolution and its norm are one module
        return f"head.{TOWERS[kind]}.{rest}"
    return f"head.{TOWERS[kind]}.{int(places[0]) // step}.{int(places[0]) % step}.{places[1]}"


def infer_config(state: Mapping[str, Tensor], path: Path) -> tuple[ModelConfig, int]:
    """The configuration that a torchvision Faster R-CNN state dict was built with, as far as its shapes tell."""
    if has(state, "roi_heads.box_head.0.", "rpn.head.conv.1."):
        raise ValueError(f"{path}: torchvision's Faster R-CNN v2 is not read, only its first with a two-layer box head")
    layers = {
        "roi_heads": ("box_predictor.cls_score", "box_predictor.bbox_pred", "box_head.fc6", "box_head.fc7"),
        "rpn.head": ("conv.0.0", "cls_logits", "bbox_pred"),
    }
    needed = (f"{of}.{name}.{part}" for of, names in layers.items() for name in names for part in ("weight", "bias"))
    check_whole(state, needed, "Faster R-CNN", path)
    backbone = find_body(state, path)
    norm = stored_norm(state, backbone)
    num_classes = state["roi_heads.box_predictor.cls_score.weight"].shape[0]
    representation_size = state["roi_heads.box_head.fc7.weight"].shape[0]
    fpn_channels = state["roi_heads.box_head.fc6.weight"].shape[1] // 49
    config = ModelConfig(
        backbone=backbone,
        weights="none",
        norm=norm,
        norm_epsilon=epsilon_of(path),
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
