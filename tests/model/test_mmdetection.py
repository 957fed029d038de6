"""Configurations and names of mmdetection's dense detectors."""

from dataclasses import replace

import pytest
import torch

from model.api import Want
from model.dense.config import AtssConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.weights.mmdetection import Unsupported, detector_config, rename_detector

ANCHORS = {"octave_base_scale": 8, "scales_per_octave": 1, "ratios": [1.0]}
GFL = {"type": "GFLHead", "stacked_convs": 1, "feat_channels": 32, "reg_max": 7, "anchor_generator": ANCHORS}


def model(**changes) -> dict:
    usual = {
        "backbone": {"type": "ResNet", "depth": 18, "style": "pytorch"},
        "neck": {"type": "FPN", "out_channels": 16, "start_level": 1, "num_outs": 5, "add_extra_convs": "on_output"},
        "bbox_head": GFL,
        "train_cfg": {"assigner": {"topk": 5}},
        "test_cfg": {"score_thr": 0.1, "nms_pre": 77, "nms": {"iou_threshold": 0.6}, "max_per_img": 9},
    }
    return usual | changes


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
    neck = model()["neck"] | {"add_extra_convs": "on_input"}
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
        ({"backbone": {"type": "SwinTransformer"}}, "backbone SwinTransformer"),
        ({"neck": {"type": "PAFPN"}}, "PAFPN"),
    ],
)
def test_what_we_do_not_have_is_named(changes, message):
    with pytest.raises(Unsupported, match=message):
        detector_config(model(**changes))


def test_every_weight_of_a_detector_has_a_name_of_theirs():
    detector = DenseDetector(detector_config(model()), 4)
    theirs = {}
    for name, value in detector.state_dict().items():
        new = name.replace("backbone.body.", "backbone.")
        new = new.replace("backbone.fpn.inner_blocks.", "neck.lateral_convs.").replace(
            "backbone.fpn.layer_blocks.", "neck.fpn_convs."
        )
        if new.startswith("neck."):
            new = new.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
            new = new.replace("convs.conv", "convs.0.conv")
        for level, extra in ((3, "p6"), (4, "p7")):
            new = new.replace(f"backbone.fpn.extra_blocks.{extra}", f"neck.fpn_convs.{level}.conv")
        for ours, original in (
            ("class_tower.0.0", "cls_convs.0.conv"),
            ("class_tower.0.1", "cls_convs.0.gn"),
            ("box_tower.0.0", "reg_convs.0.conv"),
            ("box_tower.0.1", "reg_convs.0.gn"),
            ("class_output", "gfl_cls"),
            ("box_output", "gfl_reg"),
        ):
            new = new.replace(f"head.{ours}.", f"bbox_head.{original}.")
        if new.startswith("head.scales."):
            new = new.replace("head.", "bbox_head.") + ".scale"
        theirs[new] = value
    theirs["bbox_head.integral.project"] = torch.arange(8.0)
    theirs["backbone.bn1.num_batches_tracked"] = torch.tensor(0)
    renamed = rename_detector(theirs)
    assert renamed.keys() == detector.state_dict().keys()
    detector.load_state_dict(renamed)
