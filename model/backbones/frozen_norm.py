"""Batch norms with fixed statistics, as a part of the convolution before them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

N = TypeVar("N", bound=nn.Module)


def factors(norm: Any) -> tuple[Tensor, Tensor]:
    """(C,) each: s = weight / sqrt(var + epsilon) and bias - mean * s."""
    scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale_C, norm.bias - norm.running_mean * scale_C


def normed(x_BCHW: Tensor, norm: Any) -> Tensor:
    """In its input's type: torchvision's and timm's answer in float32 under autocast, twice the memory to move."""
    scale_C, shift_C = (values_C.to(x_BCHW.dtype)[:, None, None] for values_C in factors(norm))
    return torch.addcmul(shift_C, x_BCHW, scale_C)


class FrozenNorm2d(FrozenBatchNorm2d):
    """torchvision's, with the same buffers and names."""

    folded = False  # then the convolution before it does its work

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW if self.folded else normed(x_BCHW, self)


class FoldedConv2d(nn.Conv2d):
    """A convolution and the frozen norm after it: conv(x, w) s + t = conv(x, w s) + t, without a pass over the map.

    Its weights are those of the file. The norm stays in the network, under its own name.
    """

    norm: tuple[FrozenNorm2d]  # in a tuple: its buffers are not this layer's

    def weights(self) -> tuple[Tensor, Tensor]:
        """Of the convolution that is run: filters and bias."""
        scale_C, shift_C = factors(self.norm[0])
        return self.weight * scale_C[:, None, None, None], shift_C

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.norm[0].folded:
            return super().forward(x_BCHW)
        return self._conv_forward(x_BCHW, *self.weights())


def keep_type(network: N) -> N:
    """Give every frozen norm of torchvision's our class."""
    for module in network.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = FrozenNorm2d
    return network


def fold_norms(network: N) -> N:
    """The same, and make each a part of the convolution that stands before it."""
    for module in keep_type(network).modules():
        for layer, norm in pairwise(module.children()):
            if isinstance(norm, FrozenNorm2d) and type(layer) is nn.Conv2d and layer.bias is None:
                folded: Any = layer
                folded.__class__ = FoldedConv2d
                folded.norm, norm.folded = (norm,), True
    return network


def fold_like(network: N, other: nn.Module) -> N:
    """Fold where `other` does, so that a comparison of the two shows any other difference: folded weights round
    otherwise, and in float32 that may turn a ReLU."""
    return fold_norms(network) if any(isinstance(module, FoldedConv2d) for module in other.modules()) else network


def bake_norms(network: nn.Module) -> None:
    """For an export: plain convolutions that hold what was folded into them, and nothing where a norm was."""
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            found: Any = layer
            if isinstance(layer, FoldedConv2d):
                found.weight, found.bias = map(nn.Parameter, layer.weights())
                found.__class__ = nn.Conv2d
            elif isinstance(layer, FrozenNorm2d) and layer.folded:
                setattr(module, name, nn.Identity())


@contextmanager
def calibrating(network: nn.Module) -> Iterator[None]:
    """Within, every norm first takes the statistics of what comes in: random weights then neither die nor grow."""
    norms: list[Any] = [each for each in network.modules() if isinstance(each, FrozenBatchNorm2d | nn.BatchNorm2d)]
    folded = [norm for norm in norms if getattr(norm, "folded", False)]

    def calibrate(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    hooks = [norm.register_forward_pre_hook(calibrate) for norm in norms]
    for norm in folded:
        norm.folded = False
    try:
        with torch.no_grad():
            yield
    finally:
        for norm in folded:
            norm.folded = True
        for hook in hooks:
            hook.remove()
