"""Numba's CUDA simulator, several times faster: what a kernel sees and computes is the simulator's own.

The simulator starts a thread of the operating system for each thread of a block, and asks all of them in a loop whether
they wait. Here they are coroutines that take turns, from barrier to barrier. The order is turned round at each barrier
and with each block: a forgotten barrier shows in one order or the other.

`uint32(x)` of Numba's types becomes NumPy's after a long look at x. Here it is NumPy's from the beginning.
"""

import sys
import threading
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet
from numba import types
from numba.cuda.simulator import kernel, kernelapi


class Thread(greenlet):
    """Has what `kernelapi` asks of the thread that runs."""

    def __init__(self, function, shape, block_index, thread_index):
        super().__init__(function)
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block_index), kernelapi.Dim3(*thread_index)
        x, y, z = thread_index
        self.thread_id = x + shape[0] * (y + shape[1] * z)

    def syncthreads(self) -> None:
        self.parent.switch()


class Block(kernel.BlockManager):
    """All threads to their first barrier or their end, then those that are left to the next."""

    backwards = False

    def run(self, grid_point, *args) -> None:
        points = list(np.ndindex(*self._block_dim))
        if Block.backwards:
            points.reverse()
        Block.backwards = not Block.backwards
        threads = [Thread(self._f, self._block_dim, grid_point, point) for point in points]
        while threads:
            for thread in threads:
                thread.switch(*args)
            threads, args = [thread for thread in reversed(threads) if not thread.dead], ()


def prepare() -> None:
    """Once all kernels are imported."""
    kernel.BlockManager = Block
    kernelapi.threading = SimpleNamespace(current_thread=getcurrent, Lock=threading.Lock)
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "kernels"]:
        for name, value in vars(module).items():
            if isinstance(value, types.Number):
                vars(module)[name] = getattr(np, value.name)
