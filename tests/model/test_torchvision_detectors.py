"""torchvision's RetinaNet and FCOS, saved by torchvision and read here: its own detections."""

import re
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.resnet import resnet18
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from model.backbones.torchvision_fpn import build_torchvision
from model.config import ModelConfig
from model.dense.config import FcosConfig
from model.detectors import new_detector
from model.weights.checkpoint import load_detector, save_detector
from model.weights.torchvision_detectors import infer_dense
from tests.model.stock import compare_detections

SIZE = (225, 310)  # no stride divides it; torchvision pads it to 256 x 320
CLASSES = ("car", "bus", "truck")
LOGIT = -3.5  # without weights: neither nothing nor everything is detected


def pyramid(norm: type[nn.Module], from_c5: bool) -> BackboneWithFPN:
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    body = resnet18(weights=None, norm_layer=norm)
    return BackboneWithFPN(body, layers, [128, 256, 512], 64, LastLevelP6P7(512 if from_c5 else 64, 64))


def make_retinanet(version: int, num_classes: int) -> RetinaNet:
    """torchvision's parts of v1 or v2 on a small backbone."""
    options = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": SIZE[0], "max_size": SIZE[1]}
    if version == 1:
        return RetinaNet(pyramid(FrozenBatchNorm2d, False), num_classes, **options)
    anchors = _default_anchorgen()
    head = RetinaNetHead(64, anchors.num_anchors_per_location()[0], num_classes, partial(nn.GroupNorm, 32))
    backbone = pyramid(nn.BatchNorm2d, True)
    return RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **options)


def make_fcos(num_classes: int) -> FCOS:
    options = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": SIZE[0], "max_size": SIZE[1]}
    return FCOS(pyramid(FrozenBatchNorm2d, False), num_classes, **options)


def enliven(stock: nn.Module, num_classes: int, background: bool) -> nn.Module:
    """Statistics as after training, scores that differ, and nothing of label 0 where nothing was trained to be it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in stock.modules():
            if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        classes, boxes = stock.head.classification_head, stock.head.regression_head
        normed = any(isinstance(module, nn.GroupNorm) for module in classes.modules())
        for module in () if normed else (*classes.conv.modules(), *boxes.conv.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
        scale = 1.0 if normed else 0.1  # without norms the towers' maps are larger
        weight = classes.cls_logits.weight.normal_(0, 0.03 * scale, generator=generator)
        weight -= weight.mean((1, 2, 3), keepdim=True)
        bias_AK = classes.cls_logits.bias.view(-1, num_classes)
        bias_AK.fill_(LOGIT)
        if background:
            bias_AK[:, 0] = -30
        boxes.bbox_reg.weight.normal_(0, 0.005 * scale, generator=generator)
    return stock.eval()


MAKERS = {
    "retinanet v1": partial(make_retinanet, 1),
    "retinanet v2": partial(make_retinanet, 2),
    "fcos": make_fcos,
}


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_its_own_detections(tmp_path, name, background):
    """Labels counted from 1, as torchvision's, or from 0, as classes given in the number of its outputs say.

    In float64, for some CPUs convolve a padded image in another order, which float32 shows.
    """
    torch.manual_seed(0)
    num_classes = 4 if background else 3
    stock = enliven(MAKERS[name](num_classes), num_classes, background)
    torch.save(stock.state_dict(), tmp_path / "x.pth")
    detector, card = load_detector(tmp_path / "x.pth", classes=CLASSES)
    detector, stock = detector.double(), stock.double()
    image = torch.randn(1, 3, *SIZE).double()
    with torch.no_grad():
        expected = stock(list(image))
    if not background:
        expected[0]["labels"] += 1
    padded = nn.functional.pad(image, (0, 10, 0, 31))
    found = detector.detect(padded, torch.tensor([SIZE]))
    assert found.count_B[0] > 20
    assert len(set(expected[0]["labels"].tolist())) == 3
    assert compare_detections(found, expected) < 1e-4
    assert card.config.style == "torchvision"


def test_coco_has_its_own_names(tmp_path):
    with torch.device("meta"):
        state = make_fcos(91).state_dict()
    config, num_classes, renamed = infer_dense(state, None, tmp_path / "x.pth")
    assert num_classes == 90
    assert renamed["head.class_output.weight"].shape[0] == 90
    assert (config.backbone, config.norm, config.fpn_channels, config.coarse_from) == ("resnet18", "frozen", 64, "p5")


def test_older_names(tmp_path):
    """Before torchvision 0.13 RetinaNet's towers were one list of convolutions and ReLUs, the RPN had no sequence."""
    stock = make_retinanet(1, 4)
    old = OrderedDict()
    for name, value in stock.state_dict().items():
        parts = name.split(".")
        if parts[0] == "head" and parts[2] == "conv":
            name = ".".join([*parts[:3], str(2 * int(parts[3])), parts[5]])
        old[name.replace("_blocks.0.0.", "_blocks.0.")] = value
    torch.save(old, tmp_path / "x.pth")
    detector, _ = load_detector(tmp_path / "x.pth", classes=CLASSES)
    tower = detector.head.class_tower[3][0].weight
    assert torch.equal(tower, stock.head.classification_head.conv[3][0].weight)

    faster = build_torchvision(ModelConfig(backbone="resnet18", weights="none"), 4)
    old = {
        name.replace("_blocks.1.0.", "_blocks.1.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for name, value in faster.state_dict().items()
    }
    torch.save(old, tmp_path / "y.pth")
    detector, _ = load_detector(tmp_path / "y.pth", classes=CLASSES)
    assert torch.equal(detector.rpn.head.conv[0][0].weight, faster.rpn.head.conv[0][0].weight)


@pytest.mark.parametrize(("file", "epsilon"), [("retinanet_resnet50_fpn_coco-x.pth", 0.0), ("other.pth", 1e-5)])
def test_epsilon_is_that_of_the_published_file(tmp_path, file, epsilon):
    with torch.device("meta"):
        state = make_retinanet(1, 4).state_dict()
    assert infer_dense(state, 3, tmp_path / file)[0].norm_epsilon == epsilon


def test_what_is_missing_or_unknown_is_one_sentence(tmp_path):
    state = make_fcos(4).state_dict()
    path = tmp_path / "x.pth"
    torch.save({name: value for name, value in state.items() if "layer3.1.conv2" not in name}, path)
    with pytest.raises(ValueError, match="the backbone's weights are of none that we know"):
        load_detector(path, classes=CLASSES)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"weights of 3 classes without background; got 2 names"):
        load_detector(path, classes=("car", "bus"))


@pytest.mark.parametrize(
    ("make", "start", "lacks"),
    [
        (make_fcos, "head.regression_head.bbox_reg", r"FCOS lacks head\.regression_head\.bbox_reg\.weight and 1 more"),
        (make_fcos, "head.regression_head.bbox_ctr", r"FCOS lacks head\.regression_head\.bbox_ctrness\.weight and 1"),
        (make_fcos, "head.classification_head.conv.4.b", r"FCOS lacks head\.classification_head\.conv\.4\.bias;"),
        (make_fcos, "head.classification_head.conv.", r"FCOS lacks head\.classification_head\.conv\.0\.bias and"),
        (partial(make_retinanet, 1), "head.classification_head.cls_logits.b", r"RetinaNet lacks head\.class.*\.bias;"),
        (partial(make_retinanet, 1), "head.regression_head.conv.3.", r"lacks head\.regression_head\.conv\.3\.0\."),
        (partial(make_retinanet, 1), "backbone.fpn.extra_blocks.p6.w", r"lacks backbone\.fpn\.extra_blocks\.p6\."),
    ],
)
def test_a_head_that_lacks_a_weight_is_named_by_torchvisions_name(tmp_path, make, start, lacks):
    state = make(4).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith(start)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"x.pth: the state dict of a {lacks if lacks[0] != 'l' else '.*' + lacks}"):
        load_detector(tmp_path / "x.pth", classes=CLASSES)


@pytest.mark.parametrize(
    "start", ["roi_heads.box_head.fc7", "rpn.head.cls_logits.weight", "rpn.", "roi_heads.box_pred"]
)
def test_a_faster_rcnn_that_lacks_weights_is_one_sentence(tmp_path, start):
    state = build_torchvision(ModelConfig(backbone="resnet18", weights="none"), 4).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith(start)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"the state dict of a Faster R-CNN lacks {re.escape(start)}"):
        load_detector(tmp_path / "x.pth", classes=CLASSES)


def test_other_files_are_told_what_is_read(tmp_path):
    from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2, ssdlite320_mobilenet_v3_large

    with torch.device("meta"):
        ssd = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()
        second = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    for state in (ssd, {"w": torch.zeros(3)}):
        torch.save({name: torch.empty(0) for name in state}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"not a detector that is read here; those are .*, ATSS and GFL"):
            load_detector(tmp_path / "x.pth", classes=CLASSES)
    torch.save({name: torch.empty(0) for name in second}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"Faster R-CNN v2 is not read"):
        load_detector(tmp_path / "x.pth", classes=CLASSES)
    config = FcosConfig(backbone="resnet18", weights="none", fpn_channels=8, head_channels=8, norm_groups=0)
    save_detector(tmp_path / "run", new_detector(config, 4), config, CLASSES)
    with pytest.raises(ValueError, match=rf"give its folder, {tmp_path}/run$"):
        load_detector(tmp_path / "run" / "model.safetensors")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make_fcos, "head.regression_head.bbox_reg.weight"),
        (make_fcos, "head.classification_head.cls_logits.weight"),
        (make_fcos, "backbone.fpn.extra_blocks.p6.weight"),
        (partial(make_retinanet, 1), "head.classification_head.cls_logits.bias"),
        (lambda classes: build_torchvision(ModelConfig(backbone="resnet18", weights="none"), classes),
         "roi_heads.box_head.fc6.weight"),
        (lambda classes: build_torchvision(ModelConfig(backbone="resnet18", weights="none"), classes),
         "rpn.head.cls_logits.weight"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "value", [torch.zeros(()), torch.zeros(0), torch.zeros(0, 0, 0, 0)], ids=lambda value: value.ndim
)
def test_a_weight_of_another_shape_is_one_sentence(tmp_path, make, name, value):
    torch.save(make(4).state_dict() | {name: value}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: "):
        load_detector(tmp_path / "x.pth", classes=CLASSES)


def test_a_name_that_is_none_of_theirs_is_one_sentence(tmp_path):
    torch.save(make_fcos(4).state_dict() | {"head.classification_head.conv.x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: its weights have other names or shapes than .* \(invalid literal"):
        load_detector(tmp_path / "x.pth", classes=CLASSES)
