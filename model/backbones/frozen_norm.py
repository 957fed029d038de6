"""Batch norms with fixed statistics, in place."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

N = TypeVar("N", bound=nn.Module)


def factors(norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) each: s = weight / sqrt(var + epsilon) and bias - mean * s, worked out in the norm's own type."""
    scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift_C = norm.bias - norm.running_mean * scale_C
    return scale_C.to(dtype)[:, None, None], shift_C.to(dtype)[:, None, None]


class ScaledInPlace(torch.autograd.Function):
    """x * scale + shift in one pass over x's own memory. The gradient needs the scale alone."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, scale_C11: Tensor, shift_C11: Tensor) -> Tensor:
        ctx.save_for_backward(scale_C11)
        ctx.mark_dirty(x_BCHW)
        return torch.addcmul(shift_C11, x_BCHW, scale_C11, out=x_BCHW)

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor, None, None]:
        (scale_C11,) = ctx.saved_tensors
        return gradient_BCHW * scale_C11, None, None


class FrozenNorm2d(FrozenBatchNorm2d):
    """Batch norm with fixed statistics that answers in its input's type and memory.

    torchvision's returns float32 under autocast, which doubles the traffic of every activation after it. Same buffers,
    same names.

    In place, for the map of a convolution, which nobody else looks at: fresh memory costs a CPU three times the
    arithmetic. One rounding, where torchvision's product and sum have two.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        scale_C11, shift_C11 = factors(self, x_BCHW.dtype)
        if torch.compiler.is_compiling():  # the compiler decides about memory, and joins what comes next
            return torch.addcmul(shift_C11, x_BCHW, scale_C11)
        return ScaledInPlace.apply(x_BCHW, scale_C11, shift_C11)


def round_alike(network: N) -> N:
    """Give torchvision's frozen norms our rounding, so that a comparison shows any other difference.

    Two networks that round otherwise differ where a ReLU turns. The norms themselves are compared in float64
    (tests/model/test_in_place.py).
    """
    for module in network.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = FrozenNorm2d
    return network
