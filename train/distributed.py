"""Ranks: started by torchrun or by nobody, one process a GPU (nccl), or several on CPU (gloo).

Ranks average their losses and gradients. A loss that is a mean over the global batch divides by `global_mean(count)`,
the mean over ranks of this rank's count, so that its average over ranks is the mean over the global batch.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional

# Longer than the slowest lawful wait (compiling, scoring); a dead rank is noticed at once by other means.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the group torchrun describes. A rank that fails leaves at once, so that torchrun ends the others."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no GPU; use --device cpu, or mend the driver")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"rank {rank} wants GPU {local} of {torch.cuda.device_count()}; start no more ranks than GPUs"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    world = World(rank, size, torch.device(device))
    if size == 1:
        yield world
        return
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=world.device if backend == "nccl" else None)
    try:
        yield world
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except BaseException:
        # A clean exit would wait for the other ranks, which wait for this one.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    dist.barrier()
    dist.destroy_process_group()


def mean(value: Tensor) -> Tensor:
    """Mean over ranks, also inside a compiled graph; carries no gradient."""
    if not dist.is_initialized():
        return value
    group = dist.group.WORLD
    assert group is not None
    total = functional.all_reduce(value.detach(), "sum", group)
    return total / dist.get_world_size()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def gather(value: object) -> list:
    """The value of every rank, on every rank; for rare small things."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
