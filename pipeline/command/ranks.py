"""Several processes on one job: who I am, and how the others' failures end.

Several are started by torchrun, a single one without it.

One process a GPU (nccl), or several on CPU (gloo).
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.command.console import printable


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined(device: str, timeout: timedelta) -> Iterator[World]:
    """Join the group torchrun describes. A rank that fails leaves at once, so that torchrun ends the others.

    timeout: longer than the slowest normal wait of one rank for another. A dead rank is noticed at once by other means.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: choose auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no GPU; use --device cpu, or fix the driver")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"rank {rank} needs GPU {local}, but there are {torch.cuda.device_count()} GPUs; "
                "start no more ranks than GPUs"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    world = World(rank, size, torch.device(device))
    if size == 1:
        yield world
        return
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timeout, device_id=world.device if backend == "nccl" else None)
    try:
        yield world
    except ValueError as error:
        print(f"error (rank {rank}): {printable(str(error))}", file=sys.stderr, flush=True)
        os._exit(2)
    except BaseException:
        # A clean exit would wait for the other ranks, which wait for this one.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    dist.barrier()
    dist.destroy_process_group()
