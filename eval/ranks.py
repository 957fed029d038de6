"""Evaluation on several ranks under torchrun: who I am, and how results meet. gloo without a GPU, nccl with one."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Between two meetings of the ranks lies a whole pass over their images.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, value):
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world torchrun describes, or a world of one. A rank that fails leaves at once: torchrun ends the others."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: choose auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no GPU; use --device cpu, or mend the driver")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(f"rank {rank} wants GPU {local} of {torch.cuda.device_count()}; start fewer ranks")
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    world = World(rank, size, torch.device(device))
    if size == 1:
        yield world
        return
    dist.init_process_group("nccl" if world.device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield world
    except ValueError as error:
        print(f"error (rank {rank}): {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except BaseException:
        traceback.print_exc()  # a clean exit would wait for the other ranks, which wait for this one
        sys.stderr.flush()
        os._exit(1)
    dist.barrier()
    dist.destroy_process_group()
