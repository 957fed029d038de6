"""Detectors as mmdetection writes them, versions 2 and 3: names of weights, and configurations as plain data.

Our names are torchvision's for the backbone, the pyramid and Faster R-CNN, and ours for a dense head. What weights
cannot tell (the style of a ResNet, the order of channels, a head's options) is read from the configuration.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import MOST, ModelConfig
from model.dense.config import AnyDense, AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.weights.config_text import NotPlain, read_assignments
from pipeline.files.fields import from_json, to_json
from pipeline.files.parse import read_text

MAX_CONFIG_BYTES = 4 << 20

HEAD_RULES = (
    (r"cls_convs\.(\d+)\.conv\.", r"class_tower.\1.0."),
    (r"cls_convs\.(\d+)\.gn\.", r"class_tower.\1.1."),
    (r"reg_convs\.(\d+)\.conv\.", r"box_tower.\1.0."),
    (r"reg_convs\.(\d+)\.gn\.", r"box_tower.\1.1."),
    (r"(?:retina|atss|gfl|fcos)_cls\.|conv_cls\.", "class_output."),
    (r"(?:retina|atss|gfl|fcos)_reg\.|conv_reg\.", "box_output."),
    (r"(?:atss|conv|fcos)_centerness\.", "quality_output."),
    (r"scales\.(\d+)\.scale$", r"scales.\1"),
)
PYRAMID_RULES = (
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
)
# A dense detector's pyramid begins at stride 8: three convolutions are of levels, the last two make further ones.
DENSE_RULES = (
    (r"neck\.fpn_convs\.3\.conv\.", "backbone.fpn.extra_blocks.p6."),
    (r"neck\.fpn_convs\.4\.conv\.", "backbone.fpn.extra_blocks.p7."),
    *PYRAMID_RULES,
    *((rf"bbox_head\.(?:{pattern})", f"head.{name}") for pattern, name in HEAD_RULES),
)
TWO_STAGE_RULES = (
    *PYRAMID_RULES,
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
    (r"roi_head\.bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
    (r"roi_head\.bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
)
RESNET_RULES = ((r"backbone\.", "backbone.body."),)
Rule = tuple[str, str | Callable[[re.Match], str]]
SWIN_RULES: tuple[Rule, ...] = (
    (r"backbone\.patch_embed\.projection\.", "backbone.body.0.0."),
    (r"backbone\.patch_embed\.norm\.", "backbone.body.0.2."),
    (r"backbone\.stages\.(\d)\.downsample\.", lambda found: f"backbone.body.{2 * int(found[1]) + 2}."),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.",
        lambda found: f"backbone.body.{2 * int(found[1]) + 1}.{found[2]}.mlp.0.",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.",
        lambda found: f"backbone.body.{2 * int(found[1]) + 1}.{found[2]}.mlp.3.",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.",
        lambda found: f"backbone.body.{2 * int(found[1]) + 1}.{found[2]}.attn.",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d+)\.norm",
        lambda found: f"backbone.body.{2 * int(found[1]) + 1}.{found[2]}.norm",
    ),
)
# Counters, and buffers that follow from the configuration.
LEFT_OUT = ("num_batches_tracked", "relative_position_index", "integral.project")
DetectorConfig = ModelConfig | AnyDense
HEADS: dict[str, type[AnyDense]] = {
    "RetinaHead": RetinaNetConfig,
    "FCOSHead": FcosConfig,
    "ATSSHead": AtssConfig,
    "GFLHead": GflConfig,
}


class Unsupported(ValueError):
    """A detector of mmdetection's that we do not have."""


def renamed(name: str, rules: tuple[Rule, ...]) -> str | None:
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


def merged_order(value: Tensor) -> Tensor:
    """Swin's merging: theirs counts channel * 4 + 2 * row + column, torchvision's (column, row, channel)."""
    return value.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)


def rename_detector(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """A whole detector's weights under our names. What we have no name for keeps its own."""
    rules: tuple[Rule, ...] = TWO_STAGE_RULES if isinstance(config, ModelConfig) else DENSE_RULES
    unused: tuple[str, ...] = ()
    if config.backbone.startswith("swin"):
        # Norms are numbered by stage there, by map here. Of a stage that the pyramid never reads there is one, too.
        first = 4 - len(config.resolved_returned_layers)
        unused = tuple(f"backbone.norm{stage}." for stage in range(first))
        norms: Rule = (
            r"backbone\.norm(\d)\.",
            lambda found: f"backbone.body.output_norms.{int(found[1]) - first}.",
        )
        rules = (*rules, *SWIN_RULES, norms)
    else:
        rules = (*rules, *RESNET_RULES)
    kept = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        # mmcv 1's moving average keeps second copies as buffers, dots turned into underscores.
        if name.endswith(LEFT_OUT) or name.startswith(unused) or (name.startswith("ema_") and "." not in name):
            continue
        new = renamed(name, rules) or name
        if re.fullmatch(r"backbone\.stages\.\d\.downsample\.(norm\.(weight|bias)|reduction\.weight)", name):
            value = merged_order(value)
        elif name.startswith("roi_head.bbox_head.fc_cls."):
            value = value.roll(1, 0)  # the background is their last row, our first
        elif name.startswith("roi_head.bbox_head.fc_reg."):
            value = torch.cat((torch.zeros_like(value[:4]), value))  # none of the background's
        kept[new] = value
    return kept


def require(facts: dict, name: str, known: set[str]) -> None:
    """Refuse an option that we do not know and that is not simply off."""
    for option, value in facts.items():
        if option not in known and value not in (None, False, (), [], {}):
            raise Unsupported(f"mmdetection's {name} with {option}={value!r}: we have none like it")


def expect(what: str, value: Any, *known: Any) -> None:
    """Refuse a value that is not one of these; lists count as tuples."""
    value = tuple(value) if isinstance(value, list) else value
    if value not in known:
        raise Unsupported(f"mmdetection's {what} {value!r}: we have {' and '.join(map(repr, known))}")


def suppression(test_cfg: dict) -> float:
    nms = test_cfg["nms"]
    expect("suppression", nms.get("type", "nms"), "nms")
    expect("suppression with class_agnostic", nms.get("class_agnostic", False), False)
    return nms["iou_threshold" if "iou_threshold" in nms else "iou_thr"]  # as before version 2.3


def up_to_all(count: int) -> int:
    """A number of candidates; -1, all of them, becomes the most that we take."""
    return MOST if count == -1 else count


def kind_of(facts: dict) -> str:
    """A type's name; configurations in Python code write the whole path."""
    return str(facts["type"]).rsplit(".", 1)[-1]


def head_options(head: dict, train_cfg: dict | None, test_cfg: dict | None) -> tuple[type[AnyDense], dict[str, Any]]:
    """Our configuration class of a head, and the options of it that mmdetection's state.

    They say what a head answers. FCOS's centre sampling and its choice of the box loss are about training alone, and
    ours trains without them.
    """
    kind = kind_of(head)
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
    anchors, coder = head.get("anchor_generator", {}), head.get("bbox_coder", {})
    expect("strides", anchors.get("strides", head.get("strides", DENSE_STRIDES)), DENSE_STRIDES)
    if kind in DEVIATIONS:
        expect(f"{kind} with target_stds", coder.get("target_stds", DEVIATIONS[kind]), DEVIATIONS[kind])
        expect(f"{kind} with target_means", coder.get("target_means", NO_SHIFT), NO_SHIFT)
    loss = head.get("loss_cls", {"type": "FocalLoss"})
    expect(f"{kind} with use_sigmoid", loss.get("use_sigmoid", kind_of(loss) in SIGMOID_LOSSES), True)
    check_anchors(anchors)
    if anchors:
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
            "candidates_per_level": up_to_all(test_cfg["nms_pre"]),
            "nms_threshold": suppression(test_cfg),
            "detections_per_image": up_to_all(test_cfg["max_per_img"]),
        }
    return HEADS[kind], options


DENSE_STRIDES, NO_SHIFT = (8, 16, 32, 64, 128), (0.0, 0.0, 0.0, 0.0)
SIGMOID_LOSSES = ("FocalLoss", "QualityFocalLoss")  # unless they say otherwise
DEVIATIONS = {"RetinaHead": (1.0, 1.0, 1.0, 1.0), "ATSSHead": (0.1, 0.1, 0.2, 0.2)}
NEUTRAL = {"type", "init_cfg", "pretrained", "norm_eval", "frozen_stages", "with_cp", "in_channels"}
RESNET_OPTIONS = NEUTRAL | {
    "depth", "num_stages", "out_indices", "norm_cfg", "style", "zero_init_residual", "strides", "dilations",
}  # fmt: skip
SWIN_OPTIONS = NEUTRAL | {
    "embed_dims", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias", "patch_norm", "out_indices",
    "drop_path_rate", "convert_weights", "pretrain_img_size", "patch_size", "strides", "act_cfg", "norm_cfg",
}  # fmt: skip
SWINS = {(2, 2, 6, 2): "swin_t", (2, 2, 18, 2): "swin_s"}
NECK_OPTIONS = {
    "type", "in_channels", "out_channels", "start_level", "num_outs", "add_extra_convs", "relu_before_extra_convs",
    "init_cfg", "extra_convs_on_inputs", "upsample_cfg",
}  # fmt: skip


def backbone_options(facts: dict) -> tuple[dict[str, Any], tuple[int, ...]]:
    """(our options, stages whose maps it gives, 0 for stride 4)."""
    kind, indices = kind_of(facts), tuple(facts.get("out_indices", (0, 1, 2, 3)))
    if kind == "SwinTransformer":
        require(facts, kind, SWIN_OPTIONS)
        name = SWINS.get(tuple(facts.get("depths", (2, 2, 6, 2))))
        shape = (facts.get("embed_dims", 96), facts.get("window_size", 7), facts.get("mlp_ratio", 4))
        if name is None or shape != (96, 7, 4) or not facts.get("patch_norm", True) or not facts.get("qkv_bias", True):
            raise Unsupported("mmdetection's SwinTransformer of this size: we have Swin-T and Swin-S, windows of 7")
        return {"backbone": name, "norm": "auto"}, indices
    style, depth = facts.get("style", "pytorch"), facts.get("depth")
    if kind != "ResNet" or style not in ("pytorch", "caffe") or depth not in (18, 34, 50, 101):
        raise Unsupported(
            f"mmdetection's backbone {kind}{f'-{depth}' if depth else ''}: we have ResNet-18, 34, 50 and 101 in the "
            "styles pytorch and caffe, and SwinTransformer"
        )
    require(facts, kind, RESNET_OPTIONS)
    norm = facts.get("norm_cfg", {"type": "BN"})
    expect("ResNet with the norm", norm.get("type"), "BN", "SyncBN")
    expect("ResNet with norms of eps", norm.get("eps", 1e-5), 1e-5)
    expect("ResNet with strides", facts.get("strides", (1, 2, 2, 2)), (1, 2, 2, 2))
    expect("ResNet with dilations", facts.get("dilations", (1, 1, 1, 1)), (1, 1, 1, 1))
    options = {"backbone": f"resnet{depth}", "norm": "frozen"}
    return options | ({"stride_in_1x1": True} if style == "caffe" and depth >= 50 else {}), indices


def pixel_options(values: dict) -> dict[str, Any]:
    """How images are normalised: version 3 says it in the model, version 2 beside it or in the test pipeline."""
    processor = values["model"].get("data_preprocessor") or values.get("preprocess_cfg")
    if processor is None:
        processor = values.get("img_norm_cfg") or find_dict(
            [values.get(name) for name in ("test_pipeline", "data", "train_pipeline")], "Normalize"
        )
    if processor is None or "mean" not in processor or "std" not in processor:
        raise Unsupported("mmdetection's configuration without data_preprocessor, img_norm_cfg or Normalize")
    if processor.get("rgb_to_bgr"):
        raise Unsupported("mmdetection's data_preprocessor with rgb_to_bgr: its images are read as BGR")
    # Images are read as BGR. Version 3's processor leaves them so unless told otherwise, version 2's step does not.
    rgb = processor.get("bgr_to_rgb", processor.get("to_rgb", "data_preprocessor" not in values["model"]))
    order = "rgb" if rgb else "bgr"
    mean, deviation = tuple(map(float, processor["mean"])), tuple(map(float, processor["std"]))
    return {"pixel_order": order, "pixel_mean": mean, "pixel_deviation": deviation}


def find_dict(value: Any, kind: str) -> dict | None:
    """The first dict of this type, however deep."""
    if isinstance(value, dict):
        if str(value.get("type")) == kind:
            return value
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := find_dict(item, kind)) is not None), None)
    return None


def scaled_to(values: dict) -> dict[str, int]:
    """The sides that images are scaled to, where the test pipeline says it: (long, short)."""
    steps = [values.get("test_pipeline"), values.get("data", {})]
    resize = find_dict(steps, "Resize") or {}
    several = find_dict(steps, "MultiScaleFlipAug") or {}
    scale = resize.get("scale") or resize.get("img_scale") or several.get("img_scale")
    if not isinstance(scale, tuple | list) or len(scale) != 2 or not all(isinstance(side, int) for side in scale):
        return {}
    return {"short_side": min(scale), "long_side": max(scale)}


def detector_config(values: dict) -> DetectorConfig:
    """Our configuration of a whole detector, from mmdetection's `model` and the assignments beside it."""
    model = values["model"]
    try:
        config = TWO_STAGE[kind_of(model)](values) if kind_of(model) in TWO_STAGE else dense_config(values)
        return from_json(DetectorConfig, to_json(config), "our configuration of it")  # every value has its type
    except Unsupported:
        raise
    except KeyError as error:
        raise Unsupported(f"mmdetection's configuration of a {model.get('type')} lacks {error}") from None
    except (TypeError, AttributeError, ValueError, OverflowError) as error:  # two necks, text for a number, 1e999
        raise Unsupported(
            f"mmdetection's configuration of a {model.get('type')} holds a value of another type or size than we know "
            f"({error})"
        ) from None


def check_anchors(anchors: dict) -> None:
    expect("anchors with center_offset", anchors.get("center_offset", 0), 0)
    expect("anchors with scale_major", anchors.get("scale_major", True), True)


def check_neck(neck: dict) -> None:
    require(neck, "FPN", NECK_OPTIONS)
    expect("neck with upsample_cfg", (neck.get("upsample_cfg") or {}).get("mode", "nearest"), "nearest")


def dense_config(values: dict) -> AnyDense:
    model = values["model"]
    backbone, indices = backbone_options(model["backbone"])
    neck = model["neck"]
    check_neck(neck)
    levels = indices[neck.get("start_level", 0) :]
    if kind_of(neck) != "FPN" or levels != (1, 2, 3) or neck.get("num_outs") != 5:
        raise Unsupported(f"mmdetection's neck {neck}: we have FPN from stride 8 on with num_outs 5")
    coarse = neck.get("add_extra_convs")
    if coarse is True:  # as version 2 began
        coarse = "on_input" if neck.get("extra_convs_on_inputs", True) else "on_output"
    expect("add_extra_convs", coarse, "on_input", "on_output")
    train_cfg = model.get("train_cfg") or values.get("train_cfg")
    config_class, options = head_options(model["bbox_head"], train_cfg, model.get("test_cfg") or values.get("test_cfg"))
    return config_class(
        weights="none",
        fpn_channels=neck["out_channels"],
        coarse_from="c5" if coarse == "on_input" else "p5",
        coarse_relu=neck.get("relu_before_extra_convs", False),
        **backbone,
        **pixel_options(values),
        **options,
    )


def faster_rcnn_config(values: dict) -> ModelConfig:
    model = values["model"]
    backbone, indices = backbone_options(model["backbone"])
    neck, rpn, roi = model["neck"], model["rpn_head"], model["roi_head"]
    check_neck(neck)
    if kind_of(neck) != "FPN" or indices != (0, 1, 2, 3) or neck.get("num_outs") != 5 or neck.get("add_extra_convs"):
        raise Unsupported(f"mmdetection's neck {neck}: under Faster R-CNN we have FPN from stride 4 on with num_outs 5")
    box, extractor = roi["bbox_head"], roi["bbox_roi_extractor"]
    if kind_of(rpn) != "RPNHead" or kind_of(roi) != "StandardRoIHead" or kind_of(box) != "Shared2FCBBoxHead":
        raise Unsupported("mmdetection's FasterRCNN: we have RPNHead, StandardRoIHead and Shared2FCBBoxHead")
    if box.get("reg_class_agnostic") or roi.get("mask_head"):
        raise Unsupported("mmdetection's FasterRCNN with a mask head or boxes without classes: we have one without")
    layer = extractor["roi_layer"]
    if layer.get("sampling_ratio", 0) != 0 or layer.get("aligned", True) is not True or layer["output_size"] != 7:
        raise Unsupported(f"mmdetection's roi_layer {layer}: we have RoIAlign to 7 x 7, aligned, sampling_ratio 0")
    for name, coder, deviations in (
        ("RoI head", box.get("bbox_coder", {}), (0.1, 0.1, 0.2, 0.2)),
        ("RPNHead", rpn.get("bbox_coder", {}), (1.0, 1.0, 1.0, 1.0)),
    ):
        expect(f"{name} with target_stds", coder.get("target_stds", deviations), deviations)
        expect(f"{name} with target_means", coder.get("target_means", NO_SHIFT), NO_SHIFT)
    anchors = rpn["anchor_generator"]
    check_anchors(anchors)
    if len(anchors["strides"]) != 5:
        raise Unsupported(f"mmdetection's anchors at {anchors['strides']}: we have five levels")
    test_cfg = model.get("test_cfg") or values["test_cfg"]
    first, second = dict(test_cfg["rpn"]), test_cfg["rcnn"]
    if "nms_thr" in first:  # as before version 2.10
        expect("proposals with nms_across_levels", first.get("nms_across_levels", False), False)
        first |= {"nms": {"iou_threshold": first["nms_thr"]}, "max_per_img": first["max_num"]}
    return ModelConfig(
        weights="none",
        style="mmdetection",
        fpn_channels=neck["out_channels"],
        representation_size=box["fc_out_channels"],
        anchor_sizes=tuple(
            tuple(round(scale * stride) for scale in anchors["scales"]) for stride in anchors["strides"]
        ),
        anchor_ratios=tuple(anchors["ratios"]),
        rpn_pre_nms_test=up_to_all(first["nms_pre"]),
        rpn_post_nms_test=up_to_all(first["max_per_img"]),
        rpn_nms_threshold=suppression(first),
        score_threshold=second["score_thr"],
        nms_threshold=suppression(second),
        detections_per_image=up_to_all(second["max_per_img"]),
        **backbone,
        **pixel_options(values),
    )


TWO_STAGE: dict[str, Callable[[dict], ModelConfig]] = {"FasterRCNN": faster_rcnn_config}


def is_mmdetection(names: Any) -> bool:
    heads = ("bbox_head.", "rpn_head.", "roi_head.")
    return any(name.removeprefix("module.").startswith(heads) for name in names)


def read_values(meta: dict, path: Path) -> dict[str, Any]:
    """The configuration beside a checkpoint as NAME.py, else the one that it carries as text (`cfg`, `config`)."""
    beside = path.with_suffix(".py")
    where, why = path, "carries no configuration"
    for place in (beside, path):
        if place is path:
            text = meta.get("cfg") or meta.get("config")
        elif beside.is_file():
            try:
                text = read_text(beside, MAX_CONFIG_BYTES)
            except ValueError as error:
                raise ValueError(f"{beside}: the configuration of {path.name} {error}") from None
        else:
            continue
        if not isinstance(text, str):
            continue
        where = place
        if len(text) > MAX_CONFIG_BYTES:
            why = f"its configuration has more than {MAX_CONFIG_BYTES} characters"
            continue
        try:
            values = read_assignments(text)
        except NotPlain as error:
            why = f"its configuration {error}"
            continue
        if isinstance(values.get("model"), dict):
            return values
        why = "the model of its configuration is not plain data"
        if "_base_" in values:
            why = "its configuration inherits from _base_"
    raise ValueError(
        f"{where}: {why}, and the weights alone do not say what mmdetection made of them; put the whole "
        f"configuration, as mmdetection writes it into a run's folder, beside the weights as {beside.name}"
    )


def class_names(meta: dict) -> tuple[str, ...] | None:
    data = meta.get("dataset_meta")
    found = (data.get("classes") or data.get("CLASSES")) if isinstance(data, dict) else meta.get("CLASSES")
    if isinstance(found, tuple | list) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return None


def count_classes(state: dict[str, Tensor], config: DetectorConfig, path: Path) -> int:
    """Without background, from the renamed weights."""
    name = "roi_heads.box_predictor.cls_score.bias" if isinstance(config, ModelConfig) else "head.class_output.bias"
    if name not in state:
        raise ValueError(f"{path}: lacks the weight {name} of a {config.kind}")
    outputs = len(state[name])
    if isinstance(config, ModelConfig):
        return outputs - 1
    anchors = getattr(config, "anchors_per_octave", 1) * len(getattr(config, "anchor_ratios", (1.0,)))
    return outputs // anchors
