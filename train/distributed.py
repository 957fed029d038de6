"""What ranks do together in a step.

Ranks average their losses and gradients. A loss that is a mean over the global batch divides by `mean(count)`, the mean
over ranks of this rank's count. So its average over ranks is the mean over the global batch.
"""

import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional


def mean(value: Tensor) -> Tensor:
    """Mean over ranks, also inside a compiled graph; carries no gradient."""
    if not dist.is_initialized():
        return value
    group = dist.group.WORLD
    assert group is not None
    total = functional.all_reduce(value.detach(), "sum", group)
    return total / dist.get_world_size()


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
