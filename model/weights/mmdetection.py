"""Dense detectors as mmdetection writes them, versions 2 and 3: names of weights, and configurations as plain data.

Our names are torchvision's for the backbone and the pyramid, and ours for the head.
"""

import re
from typing import Any

from torch import Tensor

from model.dense.config import AtssConfig, DenseConfig, FcosConfig, GflConfig, RetinaNetConfig

HEAD_RULES = (
    (r"cls_convs\.(\d+)\.conv\.", r"class_tower.\1.0."),
    (r"cls_convs\.(\d+)\.gn\.", r"class_tower.\1.1."),
    (r"reg_convs\.(\d+)\.conv\.", r"box_tower.\1.0."),
    (r"reg_convs\.(\d+)\.gn\.", r"box_tower.\1.1."),
    (r"(?:retina|atss|gfl)_cls\.|conv_cls\.", "class_output."),
    (r"(?:retina|atss|gfl)_reg\.|conv_reg\.", "box_output."),
    (r"(?:atss|conv)_centerness\.", "quality_output."),
    (r"scales\.(\d+)\.scale$", r"scales.\1"),
)
# The pyramid begins at stride 8, so its first three convolutions are levels and the last two make further ones.
NECK_RULES = (
    (r"backbone\.", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.([012])\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"neck\.fpn_convs\.3\.conv\.", "backbone.fpn.extra_blocks.p6."),
    (r"neck\.fpn_convs\.4\.conv\.", "backbone.fpn.extra_blocks.p7."),
)
HEADS: dict[str, type[DenseConfig]] = {
    "RetinaHead": RetinaNetConfig,
    "FCOSHead": FcosConfig,
    "ATSSHead": AtssConfig,
    "GFLHead": GflConfig,
}


class Unsupported(ValueError):
    """A detector of mmdetection's that we do not have."""


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return None


def own_head_name(name: str) -> str | None:
    """Our name of a head's weight; None for one that we do not have, such as GFL's buffer of bin numbers."""
    return renamed(name, HEAD_RULES)


def rename_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A head's state dict under our names; what it holds beyond is left out."""
    names = {name: own_head_name(name) for name in state}
    return {new: state[old] for old, new in names.items() if new is not None}


def rename_detector(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole detector's; counters of batches and what else we do not have are left out."""
    kept = {}
    for name, value in state.items():
        if name.startswith("bbox_head."):
            head_name = own_head_name(name.removeprefix("bbox_head."))
            new = head_name and f"head.{head_name}"
        else:
            new = renamed(name, NECK_RULES)
        if new and not new.endswith("num_batches_tracked"):
            kept[new] = value
    return kept


def head_options(head: dict, train_cfg: dict | None, test_cfg: dict | None) -> tuple[type[DenseConfig], dict[str, Any]]:
    """Our configuration class of a head, and the options of it that mmdetection's state.

    They say what a head answers. FCOS's centre sampling and its choice of the box loss are about training alone, and
    ours trains without them.
    """
    kind = head["type"]
    if kind not in HEADS:
        raise Unsupported(f"mmdetection's head {kind!r}: we have {', '.join(HEADS)}")
    if head.get("dcn_on_last_conv"):
        raise Unsupported(f"mmdetection's {kind} with dcn_on_last_conv: we have the one without")
    usual = None if kind == "RetinaHead" else {"num_groups": 32}
    options: dict[str, Any] = {
        "num_convs": head["stacked_convs"],
        "head_channels": head["feat_channels"],
        "norm_groups": (head.get("norm_cfg", usual) or {}).get("num_groups", 0),
    }
    assigner = (train_cfg or {}).get("assigner", {})
    overlap = assigner.get("ignore_iof_thr", -1)
    options["ignore_overlap"] = overlap if overlap > 0 else 1.0
    if "anchor_generator" in head:
        anchors = head["anchor_generator"]
        options |= {"anchor_base": float(anchors["octave_base_scale"]), "anchor_ratios": tuple(anchors["ratios"])}
    if kind == "RetinaHead":
        options["anchors_per_octave"] = head["anchor_generator"]["scales_per_octave"]
        if assigner:
            options |= {"foreground_iou": assigner["pos_iou_thr"], "background_iou": assigner["neg_iou_thr"]}
    if kind in ("ATSSHead", "GFLHead") and assigner:
        options["num_nearest"] = assigner["topk"]
    if kind == "FCOSHead":
        options["tower_bias"] = head.get("conv_bias", "auto") is True
        options["distances"] = "relu" if head.get("norm_on_bbox") else "exp"
        options["centerness_from"] = "box" if head.get("centerness_on_reg") else "class"
    if kind == "GFLHead":
        options["num_bins"] = head["reg_max"] + 1
    if test_cfg:
        options |= {
            "score_threshold": test_cfg["score_thr"],
            "candidates_per_level": test_cfg["nms_pre"],
            "nms_threshold": test_cfg["nms"]["iou_threshold"],
            "detections_per_image": test_cfg["max_per_img"],
        }
    return HEADS[kind], options


def detector_config(model: dict) -> DenseConfig:
    """Our configuration of a whole detector, from the `model` of mmdetection's."""
    backbone, neck = model["backbone"], model["neck"]
    style = backbone.get("style", "pytorch")
    if backbone["type"] != "ResNet" or style not in ("pytorch", "caffe"):
        raise Unsupported(f"mmdetection's backbone {backbone['type']}: we have ResNet in the styles pytorch and caffe")
    if neck["type"] != "FPN" or neck.get("start_level") != 1 or neck.get("num_outs") != 5:
        raise Unsupported(f"mmdetection's neck {neck}: we have FPN with start_level 1 and num_outs 5")
    if neck.get("add_extra_convs") not in ("on_input", "on_output"):
        raise Unsupported(f"add_extra_convs {neck.get('add_extra_convs')!r}: we have 'on_input' and 'on_output'")
    config_class, options = head_options(model["bbox_head"], model.get("train_cfg"), model.get("test_cfg"))
    return config_class(
        backbone=f"resnet{backbone['depth']}",
        weights="none",
        norm="frozen",
        stride_in_1x1=style == "caffe",
        fpn_channels=neck["out_channels"],
        coarse_from="c5" if neck["add_extra_convs"] == "on_input" else "p5",
        coarse_relu=neck.get("relu_before_extra_convs", False),
        **options,
    )
