"""mmdetection's checkpoints: configurations, names of weights, whole files."""

import sys
import types
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.api import Want
from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN
from model.backbones.pixels import convert_pixels
from model.build import build_detector
from model.dense.config import AtssConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.detectors import new_detector
from model.weights.checkpoint import load_detector
from model.weights.config_text import read_assignments
from model.weights.files import read_contents
from model.weights.mmdetection import (
    Unsupported,
    class_names,
    detector_config,
    merged_order,
    own_head_name,
    read_values,
    rename_detector,
    scaled_to,
)
from model.weights.unpickle import load_plain

ANCHORS = {"octave_base_scale": 8, "scales_per_octave": 1, "ratios": [1.0]}
GFL = {"type": "GFLHead", "stacked_convs": 1, "feat_channels": 32, "reg_max": 7, "anchor_generator": ANCHORS}
ATSS = GFL | {"type": "ATSSHead"}
RESNET = {"type": "ResNet", "depth": 18, "style": "pytorch"}
NECK = {"type": "FPN", "out_channels": 16, "start_level": 1, "num_outs": 5, "add_extra_convs": "on_output"}
SOFT = {"score_thr": 0.1, "nms_pre": 9, "nms": {"type": "soft_nms", "iou_threshold": 0.6}, "max_per_img": 9}


def model(**changes) -> dict:
    usual = {
        "backbone": RESNET,
        "neck": NECK,
        "bbox_head": GFL,
        "train_cfg": {"assigner": {"topk": 5}},
        "data_preprocessor": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True},
        "test_cfg": {"score_thr": 0.1, "nms_pre": 77, "nms": {"iou_threshold": 0.6}, "max_per_img": 9},
    }
    return {"model": {"type": "GFL"} | usual | changes}


def test_a_configuration_is_read_from_plain_data():
    config = detector_config(model())
    assert config == GflConfig(
        backbone="resnet18",
        weights="none",
        norm="frozen",
        fpn_channels=16,
        coarse_from="p5",
        num_convs=1,
        head_channels=32,
        norm_groups=32,
        ignore_overlap=1.0,
        anchor_base=8.0,
        num_nearest=5,
        num_bins=8,
        score_threshold=0.1,
        candidates_per_level=77,
        nms_threshold=0.6,
        detections_per_image=9,
    )
    head = GFL | {"type": "ATSSHead", "norm_cfg": {"type": "GN", "num_groups": 4}}
    assert detector_config(model(bbox_head=head)).norm_groups == 4
    assert isinstance(detector_config(model(bbox_head=head)), AtssConfig)
    neck = model()["model"]["neck"] | {"add_extra_convs": "on_input"}
    retina = GFL | {"type": "RetinaHead"}
    config = detector_config(model(bbox_head=retina, neck=neck, train_cfg=None))
    assert isinstance(config, RetinaNetConfig)
    assert (config.norm_groups, config.coarse_from, config.anchors_per_octave) == (0, "c5", 1)


def test_variants_of_fcos_and_caffe_strides_are_options():
    fcos = {"type": "FCOSHead", "stacked_convs": 1, "feat_channels": 32}
    later = fcos | {"norm_on_bbox": True, "centerness_on_reg": True, "conv_bias": True}
    caffe = {"type": "ResNet", "depth": 50, "style": "caffe"}
    config = detector_config(model(bbox_head=later, backbone=caffe))
    assert config == replace(
        detector_config(model(bbox_head=fcos, backbone=caffe | {"style": "pytorch"})),
        stride_in_1x1=True,
        distances="relu",
        centerness_from="box",
        tower_bias=True,
    )
    detector = DenseDetector(config, 4).eval()
    block = detector.backbone.body["layer3"][0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert detector.head.class_tower[0][0].bias is not None
    out = detector.look(torch.randn(1, 3, 64, 160), torch.tensor([[64, 160]]), Want(dense=True))
    assert min(float(level.detach().min()) for level in out.boxes) == 0
    with pytest.raises(ValueError, match="stride-in-1x1: got True for resnet18"):
        replace(config, backbone="resnet18")
    with pytest.raises(ValueError, match="got 'log'; allowed: exp, relu"):
        replace(config, distances="log")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox_head": GFL | {"type": "VFNetHead"}}, "head 'VFNetHead': we have RetinaHead, FCOSHead"),
        ({"bbox_head": GFL | {"type": "FCOSHead", "dcn_on_last_conv": True}}, "FCOSHead with dcn_on_last_conv"),
        ({"backbone": {"type": "SwinTransformer", "embed_dims": 128}}, "we have Swin-T and Swin-S"),
        ({"backbone": {"type": "ResNeXt", "depth": 50}}, "backbone ResNeXt-50: we have ResNet-18"),
        ({"backbone": {"type": "ResNet", "depth": 50, "dcn": {"type": "DCN"}}}, "ResNet with dcn="),
        ({"data_preprocessor": None}, "without data_preprocessor"),
        ({"test_cfg": {"score_thr": 0.1}}, "lacks 'nms_pre'"),
        ({"neck": {"type": "PAFPN"}}, "PAFPN"),
        (
            {"neck": NECK | {"upsample_cfg": {"mode": "bilinear"}}},
            "neck with upsample_cfg 'bilinear': we have 'nearest'",
        ),
        ({"backbone": RESNET | {"strides": [1, 2, 2, 1]}}, "ResNet with strides"),
        ({"backbone": RESNET | {"norm_cfg": {"type": "BN", "eps": 1e-3}}}, "norms of eps 0.001: we have 1e-05"),
        ({"bbox_head": ATSS | {"bbox_coder": {"target_stds": [1.0, 1.0, 1.0, 1.0]}}}, "ATSSHead with target_stds"),
        ({"bbox_head": ATSS | {"anchor_generator": ANCHORS | {"strides": [4, 8, 16, 32, 64]}}}, "strides"),
        ({"test_cfg": SOFT}, "suppression 'soft_nms': we have 'nms'"),
        ({"test_cfg": SOFT | {"nms": {"iou_threshold": 0.6, "class_agnostic": True}}}, "with class_agnostic True"),
        ({"bbox_head": ATSS | {"anchor_generator": ANCHORS | {"center_offset": 0.5}}}, "center_offset 0.5: we have 0"),
        ({"bbox_head": ATSS | {"anchor_generator": ANCHORS | {"scale_major": False}}}, "scale_major False"),
        ({"bbox_head": ATSS | {"loss_cls": {"type": "CrossEntropyLoss"}}}, "ATSSHead with use_sigmoid False"),
        ({"data_preprocessor": {"mean": [0, 0, 0], "std": [1, 1, 1], "rgb_to_bgr": True}}, "with rgb_to_bgr"),
    ],
)
def test_what_we_do_not_have_is_named(changes, message):
    with pytest.raises(Unsupported, match=message):
        detector_config(model(**changes))


def test_what_says_the_defaults_is_read_like_what_says_nothing():
    plain = detector_config(model())
    same = {"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1]}
    assert detector_config(model(backbone=RESNET | same)) == detector_config(model(backbone=RESNET))
    for inputs in (True, False):  # as version 2 began
        neck = NECK | {"add_extra_convs": True, "extra_convs_on_inputs": inputs}
        assert detector_config(model(neck=neck)).coarse_from == ("c5" if inputs else "p5")
    quiet = {key: value for key, value in model()["model"]["data_preprocessor"].items() if key != "bgr_to_rgb"}
    assert plain.pixel_order == "rgb"
    assert detector_config(model(data_preprocessor=quiet)).pixel_order == "bgr"


def test_normalisation_and_sizes_of_both_versions():
    caffe = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
    config = detector_config(model(data_preprocessor=caffe | {"bgr_to_rgb": False}))
    assert (config.pixel_order, config.pixel_mean) == ("bgr", (103.53, 116.28, 123.675))
    bare = {key: value for key, value in model()["model"].items() if key != "data_preprocessor"}
    assert detector_config({"model": bare, "img_norm_cfg": caffe | {"to_rgb": False}}) == config
    step = {"type": "Normalize", **caffe, "to_rgb": False}
    flip = {"type": "MultiScaleFlipAug", "img_scale": (1333, 800), "transforms": [step]}
    assert detector_config({"model": bare, "data": {"test": {"pipeline": [flip]}}}) == config
    assert scaled_to({"data": {"test": {"pipeline": [flip]}}}) == {"short_side": 800, "long_side": 1333}
    assert scaled_to({"test_pipeline": [{"type": "Resize", "scale": (96, 128)}]}) == {
        "short_side": 96,
        "long_side": 128,
    }
    assert scaled_to({}) == {}


def their_name(name: str) -> str:
    """The inverse of our renaming, written by hand."""
    for ours, theirs in (
        ("backbone.body.", "backbone."),
        ("backbone.fpn.inner_blocks.", "neck.lateral_convs."),
        ("backbone.fpn.layer_blocks.", "neck.fpn_convs."),
        ("backbone.fpn.extra_blocks.p6", "neck.fpn_convs.3.conv"),
        ("backbone.fpn.extra_blocks.p7", "neck.fpn_convs.4.conv"),
        ("head.class_tower.0.0", "bbox_head.cls_convs.0.conv"),
        ("head.class_tower.0.1", "bbox_head.cls_convs.0.gn"),
        ("head.box_tower.0.0", "bbox_head.reg_convs.0.conv"),
        ("head.box_tower.0.1", "bbox_head.reg_convs.0.gn"),
        ("head.class_output", "bbox_head.gfl_cls"),
        ("head.box_output", "bbox_head.gfl_reg"),
        ("head.scales.", "bbox_head.scales."),
        ("rpn.head.conv.0.0", "rpn_head.rpn_conv"),
        ("rpn.head.cls_logits", "rpn_head.rpn_cls"),
        ("rpn.head.bbox_pred", "rpn_head.rpn_reg"),
        ("roi_heads.box_head.fc6", "roi_head.bbox_head.shared_fcs.0"),
        ("roi_heads.box_head.fc7", "roi_head.bbox_head.shared_fcs.1"),
        ("roi_heads.box_predictor.cls_score", "roi_head.bbox_head.fc_cls"),
        ("roi_heads.box_predictor.bbox_pred", "roi_head.bbox_head.fc_reg"),
    ):
        if name.startswith(ours):
            new = name.replace(ours, theirs)
            if theirs in ("neck.lateral_convs.", "neck.fpn_convs."):
                level, _, kind = new.removeprefix(theirs).split(".")
                new = f"{theirs}{level}.conv.{kind}"
            return f"{new}.scale" if ours == "head.scales." else new
    raise AssertionError(name)


def as_text(value) -> str:
    if isinstance(value, dict):
        return f"dict({', '.join(f'{name}={as_text(item)}' for name, item in value.items())})"
    return f"[{', '.join(map(as_text, value))}]" if isinstance(value, list) else repr(value)


def checkpoint(values: dict, classes: tuple[str, ...], version: int = 3) -> tuple[dict, torch.nn.Module]:
    """What mmdetection would save of a detector with random weights, and the detector."""
    torch.manual_seed(0)
    config = detector_config(values)
    detector = new_detector(config, len(classes) + 1).eval()
    theirs = OrderedDict()
    for name, value in detector.state_dict().items():
        theirs[their_name(name)] = value.clone()
    for name in ("weight", "bias"):
        if f"roi_head.bbox_head.fc_cls.{name}" in theirs:
            theirs[f"roi_head.bbox_head.fc_cls.{name}"] = theirs[f"roi_head.bbox_head.fc_cls.{name}"].roll(-1, 0)
            theirs[f"roi_head.bbox_head.fc_reg.{name}"] = theirs[f"roi_head.bbox_head.fc_reg.{name}"][4:].clone()
    theirs["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    text = "".join(f"{name} = {as_text(value)}\n" for name, value in values.items())
    meta = {"cfg": text, "dataset_meta": {"classes": classes}} if version == 3 else {"config": text, "CLASSES": classes}
    return {"meta": meta, "state_dict": theirs}, detector


def assert_same_answers(detector, other):
    image, sizes = torch.randn(1, 3, 160, 192), torch.tensor([[150, 190]])
    for one, two in zip(detector.detect(image, sizes), other.detect(image, sizes), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_is_read_by_its_content(tmp_path, version, legacy):
    values = model() | {"test_pipeline": [{"type": "Resize", "scale": (160, 96)}]}
    content, expected = checkpoint(values, ("cat", "dog"), version)
    content["state_dict"]["bbox_head.integral.project"] = torch.arange(8.0)
    content["state_dict"]["ema_backbone_conv1_weight"] = torch.zeros(3)  # mmcv 1's second copy
    path = tmp_path / "published.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    detector, card = load_detector(path)
    assert card.classes == ("cat", "dog")
    assert card.extra == {"short_side": 96, "long_side": 160}
    assert_same_answers(detector, expected)
    with pytest.raises(ValueError, match="its classes are cat, dog; got a, b"):
        load_detector(path, classes=("a", "b"))
    content["state_dict"] = {f"module.{name}": value for name, value in content["state_dict"].items()}
    torch.save(content, path)
    assert_same_answers(load_detector(path)[0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"neck": [{"type": "FPN"}, {"type": "DyHead"}]},
        {"bbox_head": "GFLHead"},
        {"bbox_head": GFL | {"reg_max": "16"}},
        {"backbone": {"type": "ResNet", "depth": 18, "norm_cfg": "BN"}},
        {"test_cfg": ["score"]},
        {"bbox_head": GFL | {"anchor_generator": ANCHORS | {"octave_base_scale": "eight"}}},
        {"bbox_head": GFL | {"stacked_convs": 1.5}},
        {"data_preprocessor": {"mean": "abc", "std": [1.0, 1.0, 1.0]}},
    ],
)
def test_a_value_of_another_type_is_one_sentence(changes):
    with pytest.raises(Unsupported, match="configuration of a GFL holds a value of another type or size than we know"):
        detector_config(model(**changes))


def test_an_anchor_without_end_is_one_sentence():
    changes = RCNN | {"rpn_head": {"type": "RPNHead", "anchor_generator": {"scales": [1e999], "strides": [4] * 5}}}
    with pytest.raises(Unsupported, match=r"FasterRCNN holds a value of another type or size than we know \(cannot"):
        detector_config(model(**changes))


@pytest.mark.parametrize(
    "text",
    [
        "a = [1, 1]\n" + "a = [a, a]\n" * 60,
        "a = 1\n" + "a = [a]\n" * 3000,
        "a = [" + "1, " * 1000 + "]\n" + "b = a\n" * 2000,
    ],
    ids=["doubled", "deep", "repeated"],
)
def test_a_configuration_that_grows_is_refused_at_once(tmp_path, text):
    (tmp_path / "x.py").write_text(text + "model = dict(type=a)\n")
    with pytest.raises(ValueError, match=r"x\.py: its configuration has more than 1000000 values or is nested deeper"):
        read_values({}, tmp_path / "x.pth")


def test_keys_are_text_or_numbers():
    """A tuple of 60 tuples, each of the next, is hashed 2 ** 60 times."""
    text = "a = (1, 1)\n" + "a = (a, a)\n" * 16 + "b = {a: 1}\nc = {'x': 1, 2: 3}\nd = {None: 1}\n"
    known = read_assignments(text)
    assert set(known) == {"a", "c"}
    assert known["c"] == {"x": 1, 2: 3}


def test_a_configuration_inside_a_checkpoint_is_short_text(tmp_path):
    with pytest.raises(ValueError, match=r"x\.pth: its configuration has more than 4194304 characters"):
        read_values({"cfg": "#" * ((4 << 20) + 1)}, tmp_path / "x.pth")


def test_a_configuration_without_a_type_says_what_it_lacks():
    with pytest.raises(Unsupported, match="lacks 'type'"):
        detector_config({"model": {}})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"model = '\xff'", "is not UTF-8 text"), (b"#" * ((4 << 20) + 1), "more than the 4194304 allowed")],
)
def test_a_configuration_beside_the_weights_is_short_text(tmp_path, content, words):
    (tmp_path / "x.py").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.py: the configuration of x\.pth .*({words})"):
        read_values({}, tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["bbox_head.gfl_cls.bias", "backbone.bn1.weight"])
@pytest.mark.parametrize("value", [torch.zeros(()), torch.zeros(0, 0)], ids=lambda value: value.ndim)
def test_a_weight_of_another_shape_is_one_sentence(tmp_path, name, value):
    content, _ = checkpoint(model(), ("cat", "dog"))
    content["state_dict"][name] = value
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: "):
        load_detector(tmp_path / "x.pth", classes=("cat", "dog"))


def test_classes_that_do_not_fit_the_weights_are_asked_for(tmp_path):
    content, _ = checkpoint(model(), ("cat", "dog"))
    content["meta"]["dataset_meta"]["classes"] = tuple("abcde")  # a run that kept its base's names
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        ValueError,
        match=r"weights of 2 classes without background; they have no names; give them in order with --classes",
    ):
        load_detector(tmp_path / "x.pth")
    assert load_detector(tmp_path / "x.pth", classes=("cat", "dog"))[1].classes == ("cat", "dog")


def test_what_earlier_versions_wrote_is_read():
    """`iou_thr` before version 2.3; `nms_thr` and `max_num` of proposals before 2.10; FCOS's first names."""
    early = {"score_thr": 0.1, "nms_pre": -1, "nms": {"type": "nms", "iou_thr": 0.55}, "max_per_img": 9}
    config = detector_config(model(test_cfg=early))
    assert (config.nms_threshold, config.candidates_per_level) == (0.55, 10_000)  # -1: all
    proposals = {"nms_across_levels": False, "nms_pre": 50, "nms_post": 50, "max_num": 40, "nms_thr": 0.7}
    second = {"score_thr": 0.01, "nms": {"type": "nms", "iou_thr": 0.4}, "max_per_img": 30}
    before, now = (model(**(RCNN | {"test_cfg": test_cfg})) for test_cfg in ({"rpn": proposals, "rcnn": second}, TEST))
    assert detector_config(before) == detector_config(now)
    with pytest.raises(Unsupported, match="nms_across_levels True"):
        detector_config(
            model(**(RCNN | {"test_cfg": {"rpn": proposals | {"nms_across_levels": True}, "rcnn": second}}))
        )
    names = {"fcos_cls": "class_output", "fcos_reg": "box_output", "fcos_centerness": "quality_output"}
    assert {f"{old}.bias": own_head_name(f"{old}.bias") for old in names} == {
        f"{o}.bias": f"{n}.bias" for o, n in names.items()
    }


def test_a_swin_may_have_a_norm_that_no_level_reads():
    """Four outputs, of which the pyramid begins at the second."""
    swin = {"type": "SwinTransformer", "out_indices": [0, 1, 2, 3]}
    config = detector_config(model(backbone=swin))
    state = {f"backbone.norm{stage}.weight": torch.full((1,), float(stage)) for stage in range(4)}
    kept = rename_detector(state, config)
    assert {name: value.item() for name, value in kept.items()} == {
        f"backbone.body.output_norms.{place}.weight": place + 1.0 for place in range(3)
    }


TEST = {
    "rpn": {"nms_pre": 50, "max_per_img": 40, "nms": {"type": "nms", "iou_threshold": 0.7}},
    "rcnn": {"score_thr": 0.01, "nms": {"type": "nms", "iou_threshold": 0.4}, "max_per_img": 30},
}
RCNN = {
    "type": "FasterRCNN",
    "neck": {"type": "FPN", "out_channels": 16, "num_outs": 5},
    "rpn_head": {
        "type": "RPNHead",
        "anchor_generator": {"scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [4, 8, 16, 32, 64]},
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {"roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}},
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "fc_out_channels": 24,
            "bbox_coder": {"target_stds": [0.1, 0.1, 0.2, 0.2]},
        },
    },
    "test_cfg": TEST,
}


def test_faster_rcnn_with_its_background_last(tmp_path):
    content, expected = checkpoint(model(**RCNN), ("cat", "dog"))
    expected.roi_heads.box_predictor.bbox_pred.weight.data[:4] = 0  # they have none of the background
    expected.roi_heads.box_predictor.bbox_pred.bias.data[:4] = 0
    torch.save(content, tmp_path / "x.pth")
    detector, card = load_detector(tmp_path / "x.pth")
    config = card.config
    assert (config.style, config.representation_size, config.anchor_sizes[0]) == ("mmdetection", 24, (32,))
    assert (config.rpn_pre_nms_test, config.rpn_post_nms_test, config.nms_threshold) == (50, 40, 0.4)
    for name, value in expected.state_dict().items():
        assert torch.equal(detector.state_dict()[name], value), name
    assert_same_answers(detector, expected)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("roi_head", "bbox_roi_extractor", "roi_layer", "sampling_ratio"), 2, "sampling_ratio 0"),
        (("roi_head", "mask_head"), {"type": "FCNMaskHead"}, "mask head"),
        (("roi_head", "bbox_head", "type"), "DoubleConvFCBBoxHead", "Shared2FCBBoxHead"),
        (("neck", "num_outs"), 4, "num_outs 5"),
        (("rpn_head", "anchor_generator", "center_offset"), 0.5, "center_offset 0.5: we have 0"),
    ],
)
def test_other_faster_rcnns_are_named(place, value, words):
    def changed(facts, place):
        first, *rest = place
        return facts | {first: changed(facts[first], rest) if rest else value}

    with pytest.raises(Unsupported, match=words):
        detector_config(model(**changed(RCNN, place)))


def test_swins_merging_takes_the_other_order():
    """Theirs: channel * 4 + 2 * row + column. torchvision: blocks (0,0), (1,0), (0,1), (1,1), each of all channels."""
    cells = ((0, 0), (0, 1), (1, 0), (1, 1))
    theirs = torch.tensor([100 * channel + 10 * row + column for channel in range(3) for row, column in cells])
    blocks = ((0, 0), (1, 0), (0, 1), (1, 1))
    expected = [100 * channel + 10 * row + column for row, column in blocks for channel in range(3)]
    assert merged_order(theirs).tolist() == expected
    assert merged_order(theirs.expand(5, -1))[4].tolist() == expected


def test_a_missing_configuration_is_asked_for_beside_the_file(tmp_path):
    content, expected = checkpoint(model(), ("cat", "dog"))
    text, path = content["meta"].pop("cfg"), tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"carries no configuration.*as x\.py"):
        load_detector(path)
    (tmp_path / "x.py").write_text("_base_ = './gfl.py'\n")
    with pytest.raises(ValueError, match="inherits from _base_"):
        load_detector(path)
    (tmp_path / "x.py").write_text("model = dict(\n")
    with pytest.raises(ValueError, match=r"its configuration is no Python \(.*as x\.py"):
        load_detector(path)
    marker = tmp_path / "ran"
    (tmp_path / "x.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nother = len([1])\n{text}")
    assert_same_answers(load_detector(path)[0], expected)
    assert not marker.exists()
    content["meta"]["cfg"] = text
    torch.save(content, path)
    (tmp_path / "x.py").write_text("import torch\n")  # somebody's script: the file's own configuration is used
    assert_same_answers(load_detector(path)[0], expected)


def test_configurations_are_parsed_and_never_run():
    text = "a = dict(x=-1.5, y=[1, (2, 'b')], z={'k': None})\nb = a\nc = open('f')\nd = dict(**a)\ne = b\nb: int = 3\n"
    known = read_assignments(text)
    assert known == {"a": {"x": -1.5, "y": [1, (2, "b")], "z": {"k": None}}, "b": known["a"], "e": known["a"]}
    with pytest.raises(ValueError, match="the model of its configuration is not plain data"):
        read_values({"cfg": "model = build()\n"}, Path("nowhere.pth"))


def test_a_configuration_beside_the_file_goes_first(tmp_path):
    (tmp_path / "x.py").write_text("model = dict(type='Beside')\n")
    assert read_values({"cfg": "model = dict(type='Inside')\n"}, tmp_path / "x.pth")["model"]["type"] == "Beside"
    (tmp_path / "x.py").write_text("model = build()\n")
    assert read_values({"cfg": "model = dict(type='Inside')\n"}, tmp_path / "x.pth")["model"]["type"] == "Inside"


def test_weights_that_do_not_fit_are_counted_and_named(tmp_path):
    content, _ = checkpoint(model(), ("cat", "dog"))
    state = content["state_dict"]
    del state["neck.lateral_convs.0.conv.bias"]
    state["bbox_head.extra.weight"] = torch.zeros(2)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"1 missing, first backbone\.fpn\.inner_blocks\.0\.0\.bias; 1 unknown, first bbox"
    ):
        load_detector(tmp_path / "x.pth")
    state["neck.lateral_convs.0.conv.bias"] = torch.zeros(5)
    del state["bbox_head.extra.weight"]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"1 of another shape, first .*bias is \(5,\) for \(16,\)"):
        load_detector(tmp_path / "x.pth")
    del state["bbox_head.gfl_cls.bias"]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"lacks the weight head\.class_output\.bias of a gfl"):
        load_detector(tmp_path / "x.pth")


@pytest.fixture
def history(monkeypatch):
    """A class of mmengine's name that a training file's log is made of, gone again before the file is read."""
    package, module = types.ModuleType("mmengine"), types.ModuleType("mmengine.logging")

    class HistoryBuffer:
        ran = 0

        def __setstate__(self, state):
            HistoryBuffer.ran += 1

    HistoryBuffer.__module__ = "mmengine.logging"
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, "mmengine", package)
    monkeypatch.setitem(sys.modules, "mmengine.logging", module)
    return HistoryBuffer


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_files_log_is_left_out_and_never_run(tmp_path, history, legacy):
    content, expected = checkpoint(model(), ("cat", "dog"))
    log = history()
    log.values = torch.zeros(2).numpy()
    content["message_hub"] = {"loss": log, "last": log.values[0]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert_same_answers(load_detector(tmp_path / "x.pth")[0], expected)
    assert history.ran == 0


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_code_is_refused_with_the_command_that_strips_it(tmp_path, legacy):
    content, _ = checkpoint(model(), ("cat", "dog"))
    content["meta"]["hook"] = Runs(tmp_path / "ran")
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ValueError, match=r"holds (builtins|__builtin__)\.exec.*python -c .*and give x-bare\.pth"
    ) as caught:
        load_detector(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()
    command = str(caught.value).split('python -c "')[1].split('", and give')[0]
    del content["meta"]["hook"]
    torch.save(content, tmp_path / "x.pth")
    compile(command, "command", "exec")
    assert load_plain(tmp_path / "x.pth")["meta"].keys() == content["meta"].keys()
    assert class_names(read_contents(tmp_path / "x.pth").meta) == ("cat", "dog")


STORED = Path(__file__).parents[1] / "golden" / "oracles" / "checkpoints"


@pytest.mark.parametrize("version", ["v2_published", "v2_training", "v3_published", "v3_training"])
def test_files_that_mmdetection_wrote(version):
    """Real files, cut to a few tensors and, in version 2, without their configuration."""
    path = STORED / f"checkpoint_{version}.pth"
    state, meta = read_contents(path)
    assert state["bbox_head.retina_cls.bias"].shape == (27,)
    assert class_names(meta) == ("cat", "dog", "bird")
    if version.startswith("v2"):
        with pytest.raises(ValueError, match="its configuration is no Python"):
            load_detector(path)
        return
    values = read_values(meta, path)
    config = detector_config(values)
    assert isinstance(config, RetinaNetConfig)
    assert (config.backbone, config.coarse_from, config.anchors_per_octave) == ("resnet18", "c5", 3)
    assert scaled_to(values) == {"short_side": 800, "long_side": 1333}
    own = new_detector(config, 4).state_dict()
    renamed = rename_detector(state, config)
    assert {name: value.shape for name, value in renamed.items()} == {name: own[name].shape for name in renamed}
    assert len(renamed) == 7
    with pytest.raises(ValueError, match="do not fit a retinanet with resnet18: 129 missing"):
        load_detector(path)


def test_a_detector_starts_from_their_file_when_it_sees_the_same(tmp_path, capsys):
    caffe = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "bgr_to_rgb": False}
    content, expected = checkpoint(model(data_preprocessor=caffe), ("cat", "dog"))
    path = tmp_path / "x.pth"
    torch.save(content, path)
    config = replace(expected.config, weights=str(path))
    detector = build_detector(config, 6)
    own = detector.state_dict()
    assert torch.equal(own["backbone.body.conv1.weight"], expected.state_dict()["backbone.body.conv1.weight"])
    assert torch.equal(own["head.box_output.weight"], expected.state_dict()["head.box_output.weight"])
    assert "drawn anew: head.class_output.bias, head.class_output.weight" in capsys.readouterr().out
    words = r"give --model\.pixel-order bgr --model\.pixel-mean 103\.53 116\.28 123\.675 --model\.pixel-deviation 1\.0"
    usual = {"pixel_order": "rgb", "pixel_mean": IMAGENET_MEAN, "pixel_deviation": IMAGENET_DEVIATION}
    with pytest.raises(ValueError, match=words):
        build_detector(replace(config, **usual), 6)


def test_pixels_are_what_the_network_was_trained_on():
    """By hand: a pixel of RGB 10, 20, 30 in caffe's order is B - 103.53, G - 116.28, R - 123.675; the padding is 0."""
    config = RetinaNetConfig(
        weights="none", pixel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_deviation=(1.0, 1.0, 2.0)
    )
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    given = torch.zeros(2, 3, 2, 3)
    given[0, :, :1, :2] = (torch.tensor([10.0, 20.0, 30.0])[:, None, None] - mean) / deviation
    seen = convert_pixels(given, torch.tensor([[1, 2], [0, 0]]), config)
    wanted = torch.zeros(2, 3, 2, 3)
    wanted[0, :, :1, :2] = torch.tensor([30 - 103.53, 20 - 116.28, (10 - 123.675) / 2])[:, None, None]
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-4)
    assert convert_pixels(given, torch.tensor([[1, 2], [0, 0]]), RetinaNetConfig(weights="none")) is given
    for changes, words in (
        ({"pixel_order": "grb"}, "got 'grb'; allowed: rgb, bgr"),
        ({"pixel_mean": (1.0,)}, "three numbers each"),
        ({"pixel_deviation": (1.0, 0.0, 1.0)}, "deviations above 0"),
        ({"style": "caffe"}, "style: got 'caffe'; allowed: mmdetection, torchvision"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(config, **changes)
