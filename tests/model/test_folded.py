"""Norms folded into convolutions, ReLU6 in place: torchvision's own layers are the reference."""

import copy

import pytest
import torch
from torch import nn

from model.backbones.frozen_norm import FoldedConv2d, FrozenNorm2d, calibrating
from model.backbones.relu6 import InPlaceRelu6
from model.backbones.torchvision_fpn import build_backbone
from model.config import ModelConfig
from model.deployed import ScaleShift, frozen_copy


def largest(values: torch.Tensor) -> float:
    return max(1.0, float(values.detach().abs().max()))


@pytest.mark.parametrize(
    ("backbone", "num_norms", "num_relus"),
    [("mobilenet_v2", 52, 35), ("mobilenet_v3_large", 46, 0), ("resnet18", 20, 0), ("resnet50", 53, 0)],
)
def test_maps_and_gradients_are_torchvisions(backbone, num_norms, num_relus):
    """In float64: folded weights round otherwise, and in float32 that may turn a ReLU."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, weights="none", norm="frozen", fpn_channels=8)
    ours, stock = build_backbone(config).double(), build_backbone(config, stock=True).double()
    norms = [module for module in ours.modules() if isinstance(module, FrozenNorm2d)]
    assert len(norms) == sum(norm.folded for norm in norms) == num_norms
    for norm in norms:
        for buffer in (norm.weight, norm.running_var):
            buffer.uniform_(0.5, 1.5)
        for buffer in (norm.bias, norm.running_mean):
            buffer.normal_(0, 0.1)
    stock.load_state_dict(ours.state_dict())
    assert not any(isinstance(module, FoldedConv2d | FrozenNorm2d) for module in stock.modules())
    assert sum(isinstance(module, InPlaceRelu6) for module in ours.modules()) == num_relus
    assert not any(isinstance(module, InPlaceRelu6) for module in stock.modules())
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    maps = []
    for network in (ours, stock):
        maps.append(network(images))
        sum(level.square().sum() for level in maps[-1].values()).backward()
    for got, expected in zip(*(each.values() for each in maps), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * largest(expected))
    for got, expected in zip(ours.parameters(), stock.parameters(), strict=True):
        assert (got.grad is None) == (expected.grad is None)
        if got.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-10, atol=1e-10 * largest(expected.grad))


def test_a_copy_folds_its_own_norms_and_an_export_keeps_convolutions_alone():
    torch.manual_seed(0)
    network = build_backbone(ModelConfig(backbone="resnet18", weights="none", norm="frozen", fpn_channels=8)).eval()
    images = torch.randn(2, 3, 64, 64)
    with calibrating(network):
        network(images)
    expected = network(images)["0"]
    copied = copy.deepcopy(network)
    layer, norm = network.body.conv1, network.body.bn1
    norm.bias += 1
    with torch.no_grad():
        torch.testing.assert_close(layer(images), copied.body.conv1(images) + 1)
    assert torch.equal(copied(images)["0"], expected)
    exported = frozen_copy(copied, torch.float32)
    assert not any(isinstance(module, FoldedConv2d | FrozenNorm2d) for module in exported.modules())
    assert torch.equal(exported(images)["0"], expected)


def test_while_calibrating_each_norm_takes_what_comes_in_and_works_alone():
    torch.manual_seed(0)
    network = build_backbone(ModelConfig(backbone="mobilenet_v2", weights="none", norm="frozen", fpn_channels=8))
    maps = []
    hook = network.body["1"].conv[0][1].register_forward_hook(lambda layer, inputs, output: maps.append(output.clone()))
    with calibrating(network):
        network(torch.randn(4, 3, 64, 64))
    network(torch.randn(4, 3, 64, 64))
    hook.remove()
    for output in maps:
        assert output.mean((0, 2, 3)).abs().max() < 0.5
        assert (output.std((0, 2, 3)) - 1).abs().max() < 0.5
    assert torch.allclose(maps[0].mean((0, 2, 3)), torch.zeros(()), atol=1e-4)


def test_relu6_has_torchs_values_and_gradients_and_keeps_only_its_result():
    bounds = torch.tensor([-1.0, 0.0, 1e-8, 3.0, 6.0, 7.0])
    found = []
    for layer in (InPlaceRelu6(inplace=True), nn.ReLU6()):
        leaf = bounds.clone().requires_grad_()
        changed = leaf * 1
        output = layer(changed)
        (output * torch.arange(1.0, 7.0)).sum().backward()
        found.append((output.detach(), leaf.grad))
        assert (output is changed) == (type(layer) is InPlaceRelu6)
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        output = InPlaceRelu6(inplace=True)(bounds.clone().requires_grad_() * 1)
    assert kept == [output.data_ptr()]


def test_a_halved_copy_leaves_its_input_alone():
    """Another network's norm may be given a map that is looked at again."""

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.identity = nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.identity(x) + x

    layers = Shortcut().eval()
    layers.identity.running_mean.fill_(1.0)
    x = torch.full((1, 2, 3, 3), 3.0, dtype=torch.float16)
    expected = layers(x.float())
    torch.testing.assert_close(frozen_copy(layers, torch.float16)(x).float(), expected, atol=2e-3, rtol=0)
    assert torch.equal(x, torch.full_like(x, 3.0))


def test_a_norm_that_does_more_is_kept():
    """As timm's, with an activation inside."""

    class Active(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    layers = nn.Sequential(Active(4), nn.BatchNorm2d(4)).eval()
    copied = frozen_copy(layers, torch.float16)
    assert type(copied[0]) is Active
    assert type(copied[1]) is ScaleShift
