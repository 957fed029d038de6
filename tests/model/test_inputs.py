"""Detectors that look at more than RGB: channels in their order, normalised each, and what their filters start from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from model.api import Want
from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN
from model.backbones.first import first_convolution
from model.backbones.pixels import convert_pixels, join_inputs
from model.backbones.table import BACKBONES
from model.build import build_detector
from model.config import ModelConfig, small_model
from model.dense.config import FcosConfig, GflConfig
from model.detectors import new_detector
from model.weights.checkpoint import load_detector, save_detector
from model.weights.foreign import check_sees_alike

GATED = {"inputs": ("rgb", "gated"), "extra_channels": (3,)}
CLASSES = ("car", "person")


def tiny(**changes) -> ModelConfig:
    return small_model(**{"weights": "none", "norm": "frozen", "fpn_channels": 8, "representation_size": 8, **changes})


def narrow(kind, **changes):
    return kind(
        **{"weights": "none", "fpn_channels": 8, "head_channels": 8, "norm_groups": 4, "num_convs": 1, **changes}
    )


def first(detector):
    return first_convolution(detector.get_submodule("backbone.body"), "")[1]


QUICK = ("resnet18", "mobilenet_v2", "timm:resnet10t")


@pytest.mark.parametrize(
    "backbone",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.long)
        for name in (*BACKBONES, "timm:resnet10t", "timm:efficientnet_b0")
    ],
)
def test_every_backbone_takes_them(backbone):
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    config = narrow(FcosConfig, backbone=backbone, trainable_layers=0, **GATED)
    plain = new_detector(replace(config, inputs=("rgb",), extra_channels=()), 3)
    detector = new_detector(config, 3).eval()
    layer, other = first(detector), first(plain)
    assert layer.weight.shape == (other.weight.shape[0], 6, *other.weight.shape[2:])
    assert (layer.stride, layer.padding, type(layer)) == (other.stride, other.padding, type(other))
    learning = [name for name, value in detector.named_parameters() if value.requires_grad and ".body." in name]
    norms = [name for name in learning if "output_norms" in name]
    assert len(learning) == len(norms) + 1 + (layer.bias is not None), "the first convolution alone"
    mean = layer.weight[:, :3].mean(dim=1)
    for channel in (3, 4, 5):
        torch.testing.assert_close(layer.weight[:, channel], mean)
    images = torch.rand(2, 6, 64, 96)
    sizes = torch.tensor([[64, 96], [33, 50]])
    maps = detector.look(images, sizes, Want(neck=(32,))).neck
    images[0, 4] += 1
    changed = detector.look(images, sizes, Want(neck=(32,))).neck
    assert not torch.equal(maps[2][0], changed[2][0])
    assert torch.equal(maps[2][1], changed[2][1])


def test_pixels_by_hand():
    """Gated 0.5 is level 127.5; depth has a mean and a deviation of its own; the padding stays zero."""
    config = FcosConfig(
        weights="none", inputs=("rgb", "gated", "depth"), extra_channels=(2, 1),
        extra_mean=(100.0, 10.0), extra_deviation=(50.0, 2.0),
    )  # fmt: skip
    rgb, gated, depth = torch.rand(1, 3, 2, 3), torch.full((1, 2, 2, 3), 0.5), torch.full((1, 1, 2, 3), 0.2)
    given = join_inputs(rgb, {"depth": depth, "other": depth, "gated": gated}, config)
    assert given.shape == (1, 6, 2, 3)
    seen = convert_pixels(given, torch.tensor([[2, 2]]), config)
    assert torch.equal(seen[:, :3, :, :2], rgb[..., :2])
    torch.testing.assert_close(seen[0, 3:, 0, 0], torch.tensor([0.55, 0.55, 20.5]))
    assert seen[..., 2].abs().max() == 0
    usual = replace(config, extra_mean=(), extra_deviation=())
    got = convert_pixels(given, torch.tensor([[2, 3]]), usual)[0, 5, 0, 0].item()
    assert got == pytest.approx((0.2 - 0.406) / 0.225, abs=1e-5), "the original's"
    caffe = replace(usual, pixel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_deviation=(1.0, 1.0, 1.0))
    deviation, mean = (torch.tensor(value)[:, None, None] for value in (IMAGENET_DEVIATION, IMAGENET_MEAN))
    levels = rgb[0] * deviation + mean
    got = convert_pixels(given, torch.tensor([[2, 3]]), caffe)
    torch.testing.assert_close(got[0, :3], (levels - mean).flip(0), rtol=1e-4, atol=1e-4)
    # In bfloat16 the arithmetic is float32's, rounded once; a mean of 122.77 is not made 123 first.
    low = convert_pixels(given.bfloat16(), torch.tensor([[2, 3]]), caffe)
    expected = convert_pixels(given.bfloat16().float(), torch.tensor([[2, 3]]), caffe)
    assert torch.equal(low, expected.bfloat16())
    torch.testing.assert_close(got[0, 5, 0, 0].item(), (0.2 - 0.406) / 0.225, rtol=1e-4, atol=1e-5)


def test_missing_inputs_are_named():
    config = FcosConfig(weights="none", **GATED)
    rgb = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="looks at gated, 3 channels; these images have only depth"):
        join_inputs(rgb, {"depth": rgb}, config)
    with pytest.raises(ValueError, match="looks at gated, 3 channels; these images have 1 channels of it"):
        join_inputs(rgb, {"gated": rgb[:, :1]}, config)
    with pytest.raises(ValueError, match="looks at rgb, gated, 6 channels; got 3"):
        convert_pixels(rgb, torch.tensor([[32, 32]]), config)
    assert join_inputs(rgb, {"gated": rgb}, FcosConfig(weights="none")) is rgb


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"inputs": ("gated", "rgb")}, "allowed: rgb, then other names, each once"),
        ({"inputs": ()}, "got nothing"),
        ({"inputs": ("rgb", "gated", "gated")}, "each once"),
        ({"inputs": ("rgb", "gated"), "extra_channels": (1, 2)}, "got 2 values for 1 inputs after rgb"),
        ({"inputs": ("rgb", "gated"), "extra_channels": (0,)}, "allowed: 1 to 64"),
        ({"inputs": ("rgb", "gated"), "extra_deviation": (0.0,)}, "above 0"),
        ({"inputs": ("rgb", "gated"), "extra_range": ((5.0, 5.0),)}, "the lower value first"),
        ({"inputs": ("rgb", "gated"), "extra_range": ((0.0, 9.0), (0.0, 9.0))}, "got 2 values for 1 inputs after rgb"),
        ({"first_layer": "median"}, "allowed: mean, zero, fresh"),
        ({"first_layer": "zero"}, "no input after rgb"),
    ],
)
def test_senseless_options_are_errors(wrong, said):
    with pytest.raises(ValueError, match=said):
        FcosConfig(**wrong)


def test_without_channels_nothing_can_be_built():
    with pytest.raises(ValueError, match="how many channels gated have is known from the data only"):
        new_detector(tiny(inputs=("rgb", "gated")), 3)


def test_filters_of_pretrained_weights(tmp_path):
    """RGB's are taken, the rest starts as their mean or zero, or all is drawn anew."""
    torch.manual_seed(0)
    classifier = torchvision.models.mobilenet_v2(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    given = classifier.features[0][0].weight
    config = tiny(norm="auto", weights=str(tmp_path / "classifier.pth"), **GATED)
    for way, wanted in (("mean", given.mean(1)), ("zero", torch.zeros_like(given[:, 0]))):
        weight = first(build_detector(replace(config, first_layer=way), 3)).weight
        assert torch.equal(weight[:, :3], given)
        for channel in (3, 4, 5):
            torch.testing.assert_close(weight[:, channel], wanted)
    fresh = first(build_detector(replace(config, first_layer="fresh"), 3)).weight
    assert not torch.equal(fresh[:, :3], given)
    # As nn.Conv2d draws it: evenly within 1 / sqrt(fan in).
    assert fresh.abs().max().item() == pytest.approx(1 / (6 * 9) ** 0.5, rel=0.01)
    alone = build_detector(tiny(norm="auto", weights=config.weights, first_layer="fresh", trainable_layers=1), 3)
    assert not torch.equal(first(alone).weight, given)
    assert first(alone).weight.requires_grad


def test_a_detector_goes_on_from_one_with_other_inputs(tmp_path, capsys):
    """What both see is taken, by name; the rest is the mean of the RGB filters."""
    torch.manual_seed(0)
    config = tiny(inputs=("rgb", "gated", "depth"), extra_channels=(3, 1))
    teacher = build_detector(config, 3)
    torch.nn.init.normal_(first(teacher).weight)
    save_detector(tmp_path / "teacher", teacher, config, CLASSES)
    loaded, card = load_detector(tmp_path / "teacher")
    assert card.config == config
    assert torch.equal(first(loaded).weight, first(teacher).weight)
    given = first(teacher).weight
    start = {"weights": str(tmp_path / "teacher")}
    alone = first(build_detector(tiny(**start), 3, CLASSES)).weight
    assert torch.equal(alone, given[:, :3])
    turned = tiny(**start, inputs=("rgb", "depth", "thermal"), extra_channels=(1, 1))
    weight = first(build_detector(turned, 3, CLASSES)).weight
    assert torch.equal(weight[:, :4], given[:, [0, 1, 2, 6]])
    torch.testing.assert_close(weight[:, 4], given[:, :3].mean(1))
    whole = build_detector(replace(config, **start), 3, CLASSES)
    assert torch.equal(first(whole).weight, given)
    assert "drawn anew" not in capsys.readouterr().out
    fresh = build_detector(replace(config, **start, first_layer="fresh"), 3, CLASSES)
    assert not torch.equal(first(fresh).weight, given)
    assert "drawn anew: backbone.body.0.0.weight\n  not used: backbone.body.0.0.weight" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"saw depth with a mean of 103.53 and a deviation of 57.375, this run has"):
        build_detector(replace(turned, extra_mean=(5.0, 103.53)), 3, CLASSES)
    build_detector(replace(turned, extra_mean=(103.53, 5.0)), 3, CLASSES)  # thermal is new


def test_weights_that_saw_other_slices_or_values_are_refused():
    seen = FcosConfig(
        weights="none", inputs=("rgb", "gated"), extra_channels=(2,), extra_members=("g0,g1",), extra_range=((0, 1023),)
    )
    check_sees_alike(seen, seen, Path("run"))
    check_sees_alike(replace(seen, extra_members=(), extra_range=()), seen, Path("run"))  # not known
    with pytest.raises(ValueError, match="run: its network saw gated made of g0, g1, this run has g1, g0; pack"):
        check_sees_alike(replace(seen, extra_members=("g1,g0",)), seen, Path("run"))
    with pytest.raises(ValueError, match="saw gated of the values 0, 1023, this run has 0, 255"):
        check_sees_alike(replace(seen, extra_range=((0, 255),)), seen, Path("run"))


@pytest.mark.parametrize("config", [tiny(**GATED), narrow(GflConfig, backbone="resnet18", **GATED)])
def test_zero_filters_change_nothing_until_they_are_trained(config):
    """The same answers as of RGB alone, and the gradient reaches the new channels."""
    torch.manual_seed(0)
    alone = build_detector(replace(config, inputs=("rgb",), extra_channels=()), 3)
    torch.manual_seed(0)
    detector = build_detector(replace(config, first_layer="zero"), 3)
    # The new layer took draws, so the rest is copied.
    state = alone.state_dict()
    name = first_convolution(detector, "")[0] + ".weight"
    state[name] = torch.cat((state[name], torch.zeros_like(state[name])), dim=1)
    detector.load_state_dict(state)
    images, sizes = torch.rand(2, 6, 64, 96), torch.tensor([[64, 96], [40, 70]])
    inside = torch.zeros(2, 1, 64, 96)
    inside[0], inside[1, :, :40, :70] = 1, 1
    out = detector.look(images * inside, sizes, Want(dense=True))
    expected = alone.look((images * inside)[:, :3], sizes, Want(dense=True))
    for ours, theirs in zip(out.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    out.logits[0].sum().backward()
    assert first(detector).weight.grad[:, 3:].abs().max() > 0
