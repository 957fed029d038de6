"""Every backbone of the table under every kind of detector, and networks of timm's."""

import pytest
import torch
import torchvision
from torch import nn

from model.api import Want
from model.backbones import swin, timm_body
from model.backbones.stages import NormedStages
from model.backbones.table import BACKBONES
from model.backbones.torchvision_fpn import build_backbone
from model.build import build_detector
from model.config import ModelConfig
from model.dense.config import FcosConfig, RetinaNetConfig
from model.detectors import new_detector
from model.weights.pretrained import load_body


@pytest.mark.parametrize("kind", [ModelConfig, RetinaNetConfig])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_says_what_the_modules_give(name, kind):
    config = kind(backbone=name, weights="none")
    with torch.device("meta"):
        maps = build_backbone(config).body.eval()(torch.zeros(1, 3, 96, 160))
    stages = config.resolved_returned_layers
    strides = [BACKBONES[name].strides[stage] for stage in stages]
    channels = [BACKBONES[name].channels[stage] for stage in stages]
    wanted = [(1, width, 96 // stride, 160 // stride) for width, stride in zip(channels, strides, strict=True)]
    assert [tuple(level.shape) for level in maps.values()] == wanted
    assert config.strides[: len(strides)] == tuple(strides)


@pytest.mark.long
def test_swin_is_torchvisions_where_maps_are_larger_than_a_window():
    torch.manual_seed(0)
    stock = torchvision.models.swin_t(weights=None).features.eval()
    ours = swin.layers("swin_t").eval()
    ours.load_state_dict(stock.state_dict())
    image = torch.randn(2, 3, 256, 288)  # stage 4: 8 x 9 cells
    with torch.no_grad():
        torch.testing.assert_close(ours(image), stock(image), rtol=0, atol=1e-5)


def test_a_map_of_one_window_is_shifted_too():
    """Cell (0, 0) of a shifted window of 7 sees only those of its own part: rows and columns 0 to 2."""
    torch.manual_seed(0)
    attention = swin.WindowAttention(8, [7, 7], [3, 3], 2).eval()
    nn.init.normal_(attention.qkv.weight)
    map_BHWC = torch.randn(1, 5, 7, 8, requires_grad=True)
    attention(map_BHWC)[0, 0, 0].sum().backward()
    seen_HW = map_BHWC.grad[0].abs().sum(-1) > 1e-9
    expected_HW = torch.zeros(5, 7, dtype=torch.bool)
    expected_HW[:3, :3] = True
    assert torch.equal(seen_HW, expected_HW)


def test_each_map_of_a_transformer_gets_its_own_layer_norm():
    layers = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 6, 2, 2), nn.Conv2d(6, 6, 2, 2))
    body = NormedStages(layers, {"0": "0", "1": "1"}, [4, 6])
    image = torch.randn(1, 3, 8, 12)
    maps = body(image)
    assert list(maps) == ["0", "1"]
    middle = layers[0](image)
    torch.testing.assert_close(
        maps["0"], nn.functional.layer_norm(middle.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
    )
    expected = nn.functional.layer_norm(layers[1](middle).permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(maps["1"], expected)


@pytest.mark.long
@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_transformers_train_the_same_twice_and_start_from_a_classifiers_file(name, tmp_path):
    torch.manual_seed(0)
    classifier = getattr(torchvision.models, name)(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    config = FcosConfig(backbone=name, weights="none", fpn_channels=16, head_channels=16, norm_groups=4, num_convs=1)
    detector = new_detector(config, 3).train()
    load_body(detector.backbone.body, tmp_path / "classifier.pth", config)
    first = detector.backbone.body["0"][0].weight
    assert torch.equal(first, classifier.features[0][0].weight)
    image, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    a, b = (detector.look(image, sizes, Want(dense=True)).logits for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))  # no stochastic depth


@pytest.mark.long
@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_transformers_are_one_graph(name):
    torch._dynamo.reset()
    config = RetinaNetConfig(backbone=name, weights="none", fpn_channels=16, head_channels=16, num_convs=1)
    detector = new_detector(config, 3)
    image, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    compiled = torch.compile(detector.look, fullgraph=True, dynamic=False, backend="eager")
    got, expected = (look(image, sizes, Want(dense=True)) for look in (compiled, detector.look))
    for one, other in zip(got.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other)
    batch = torch.export.Dim("batch", min=1, max=64)
    body, two = detector.eval().backbone.body, torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        program = torch.export.export(body, (two,), dynamic_shapes=({0: batch},), strict=False)
        three = torch.randn(3, 3, 64, 96)
        for name_, level in program.module()(three).items():
            torch.testing.assert_close(level, body(three)[name_])


def test_layer_norms_have_no_statistics_to_freeze():
    assert RetinaNetConfig(backbone="swin_t", weights="none").frozen_norm
    for changes, words in (
        ({"norm": "batch"}, r"norm: got 'batch' for swin_t; allowed: auto"),
        ({"norm_epsilon": 0.0}, "norm-epsilon: got 0.0; swin_t has its own"),
        ({"stride_in_1x1": True}, "stride-in-1x1: got True for swin_t"),
    ):
        with pytest.raises(ValueError, match=words):
            RetinaNetConfig(backbone="swin_t", weights="none", **changes)


def test_without_timm_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(timm_body, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=r"backbone: timm:resnet18_: .*; pip install -c constraints\.txt -e '\.\[timm\]'",
    ):
        RetinaNetConfig(backbone="timm:resnet18_", weights="none")


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="the extra timm is not installed")


@pytest.mark.long
@pytest.mark.parametrize("kind", [ModelConfig, RetinaNetConfig])
def test_a_network_of_timms_under_both_kinds(timm, kind):
    config = kind(backbone="timm:resnet18d", weights="none", norm="frozen", fpn_channels=16, trainable_layers=2)
    detector = build_detector(config, 3).eval()
    stock = timm.create_model("resnet18d", features_only=True).eval()
    stock.load_state_dict({**stock.state_dict(), **detector.backbone.body.network.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got = list(detector.backbone.body(image).values())
        expected = stock(image)[-len(got) :]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    learning = {name.split(".")[0] for name, p in detector.backbone.body.network.named_parameters() if p.requires_grad}
    assert learning == {"layer3", "layer4"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())


@pytest.mark.long
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_frozen_norms_of_timms_keep_the_type(timm, name):
    body = build_backbone(ModelConfig(backbone=f"timm:{name}", weights="none", norm="frozen", fpn_channels=8)).body
    types, norms = set(), [module for module in body.modules() if "FrozenNorm" in type(module).__name__]
    for norm in norms:
        norm.register_forward_hook(lambda layer, inputs, output: types.add(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        body(torch.randn(1, 3, 64, 96))
    assert len(norms) > 15
    assert types == {torch.bfloat16}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing_at_all", "timm has no such network"),
        ("vit_tiny_patch16_224", "takes no canvas of 96 x 160"),
        ("convnext_atto", None),
    ],
)
def test_what_timm_cannot_give_is_refused_with_the_reason(timm, name, words):
    if words is None:
        assert RetinaNetConfig(backbone=f"timm:{name}", weights="none").frozen_norm
        return
    with pytest.raises(ValueError, match=words):
        RetinaNetConfig(backbone=f"timm:{name}", weights="none")


@pytest.mark.long
def test_a_network_that_breaks_the_graph_is_refused(timm):
    class Breaks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="timm:x: torch cannot make one graph of it"):
        timm_body.check_exportable(Breaks(), "timm:x", 3)


def test_affine_norms_learn_their_scale_and_shift_and_keep_their_statistics():
    """At the start they answer as frozen ones do; the stages that do not learn keep all."""
    frozen, affine = (
        build_backbone(RetinaNetConfig(backbone="resnet18", weights="none", norm=norm, trainable_layers=3))
        for norm in ("frozen", "affine")
    )
    names = {name for name, value in affine.named_parameters() if "bn" in name and value.requires_grad}
    assert {name.split(".")[1] for name in names} == {"layer2", "layer3", "layer4"}
    generator = torch.Generator().manual_seed(2)
    for name, value in affine.state_dict().items():
        if "bn" in name and "tracked" not in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    kept = {name: value.clone() for name, value in affine.state_dict().items()}
    frozen.load_state_dict({name: value for name, value in kept.items() if "tracked" not in name})
    images = torch.randn(2, 3, 64, 96, generator=generator)
    found, expected = affine.train()(images), frozen.train()(images)
    for level in expected:
        largest = expected[level].detach().abs().max().item()
        torch.testing.assert_close(found[level], expected[level], rtol=1e-3, atol=1e-3 * largest)
    sum(level.square().mean() for level in found.values()).backward()
    learning = dict(affine.named_parameters())
    assert all(learning[name].grad.any() for name in names)
    assert all(torch.equal(value, kept[name]) for name, value in affine.state_dict().items() if "running" in name)
