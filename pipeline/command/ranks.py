"""Several processes on one job: who I am, and how the others' failures end.

Several are started by torchrun, a single one without it.

One process a GPU (nccl), or several on CPU (gloo).
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.command.console import explain

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when the one that started it ends
NOTICED_S = 5  # seconds in which the launcher surely notices a failed rank, and ends the others
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


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


def choose_device(device: str) -> str:
    """cpu or cuda: auto is the GPU where torch sees one."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU; use --device cpu, or fix the driver")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@contextmanager
def joined(device: str, timeout: timedelta) -> Iterator[World]:
    """Join the group torchrun describes. A rank that fails leaves at once, so that torchrun ends the others.

    timeout: longer than the slowest normal wait of one rank for another. A dead rank is noticed at once by other means.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device)
    if device == "cuda":
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
    end_with_launcher()
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timeout, device_id=world.device if backend == "nccl" else None)
    try:
        yield world
    except BaseException as error:
        sentence, peer_gone = explain(error), False
        if sentence is None and isinstance(error, RuntimeError) and any(words in str(error) for words in PEER_GONE):
            sentence, peer_gone = "another rank ended; its own message says why", True
        elif sentence is not None:
            tell_launcher(sentence)
        if sentence is None:
            traceback.print_exc()
            tell_launcher(traceback.format_exc())
        else:
            print(f"error (rank {rank}): {sentence}", file=sys.stderr)
        sys.stderr.flush()
        if peer_gone:
            time.sleep(NOTICED_S)  # else the launcher may take this rank for the first that failed
        # A clean exit would wait for the other ranks, which wait for this one.
        os._exit(1 if sentence is None else 2)
    dist.barrier()
    dist.destroy_process_group()


def end_with_launcher() -> None:
    """No rank trains on alone when torchrun was killed: the kernel then kills it too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)):
        raise OSError(ctypes.get_errno(), "prctl")


def tell_launcher(text: str) -> None:
    """torchrun's last lines then name this rank's own error as the root cause; without this they have none."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        more = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError):  # a full disk may be the error
            Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": more}}))
