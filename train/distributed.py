"""What ranks do together in a step.

Ranks average their losses and gradients. A loss that is a mean over the global batch divides by `mean(count)`, the mean
over ranks of this rank's count. So its average over ranks is the mean over the global batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional


class MeanOverRanks(torch.autograd.Function):
    """d mean / d value of a rank is 1 / ranks, and every rank's loss depends on it: gradients are averaged too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return average(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return average(gradient)


def average(value: Tensor) -> Tensor:
    group = dist.group.WORLD
    assert group is not None
    return functional.all_reduce(value.contiguous(), "sum", group) / dist.get_world_size()


def mean(value: Tensor) -> Tensor:
    """Mean over ranks, with its gradient, also inside a compiled graph. All ranks call it, and its backward, alike."""
    if not dist.is_initialized():
        return value
    return MeanOverRanks.apply(value) if value.requires_grad else average(value)


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def gather(value: object) -> list:
    """The value of every rank, on every rank; for rare small things."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
