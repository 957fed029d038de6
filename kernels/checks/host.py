"""`python -m kernels.checks.host`: the host's time for a batch of views on a GPU, measured without a GPU.

    python -m kernels.checks.host --batch 16

Python does all that it does for a GPU: draws the table, takes memory, puts the arguments of each launch together. In
place of the launch itself a counter runs. Not in it: the driver's part of a launch, the table's copy, events. Images
draw among the 15 types of training, in sizes that change with every batch. They are small, because the host's time does
not depend on their size.
"""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels import severity
from kernels.checks.timing import say
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import gpu
from kernels.launch.cpu import shots
from kernels.launch.pool import Pool
from kernels.launch.table import Table, draw_table

HEIGHT, WIDTH, BOXES = 60, 100, 64
CANVAS, SMALL = (64, 128), (64, 96)


class Launched(NamedTuple):
    name: str
    numbers: tuple[int, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]


class Counted(gpu.Device):
    """A GPU whose memory is the CPU's, and which notes the name and the numbers of each launch."""

    def __init__(self) -> None:
        from cuda import core

        self.device, self.scratch, self.pools = torch.device("cpu"), torch.empty(0), {}
        self.pixel_scratch = torch.empty(0, dtype=torch.uint8)
        self.stream: Any = None
        self.core_stream = None
        self.shots_tensor = torch.from_numpy(shots().view(np.int32))
        self.shots = gpu.as_numbers(self.shots_tensor, 4, tuple(self.shots_tensor.shape))
        self.kernels = {name: name for name in gpu.signatures()}
        self.core: Any = SimpleNamespace(LaunchConfig=core.LaunchConfig, launch=self.note)
        self.launched: list[Launched] = []

    def note(self, _stream: Any, configuration: Any, kernel: str, *numbers: int) -> None:
        self.launched.append(Launched(kernel, numbers, tuple(configuration.grid), tuple(configuration.block)))


class CountedTable(gpu.DeviceTable):
    def __init__(self, num: int):
        self.host = Table(num)
        self.tensor = torch.from_numpy(self.host.buffer)
        self._point()

    def upload(self, stream: Any) -> None:
        pass


@dataclass(frozen=True)
class Options:
    batch: int = 16
    repeats: int = 300


def main() -> None:
    import tyro

    options = tyro.cli(Options, prog="python -m kernels.checks.host", description=__doc__)
    num, random = options.batch, np.random.default_rng(0)
    keep, table = Counted(), CountedTable(num)
    kinds_N = np.array([severity.INDEX[name] for name in severity.TRAINING])
    pool = Pool(CANVAS, tuple(name for name in severity.TRAINING if name in NEED_MASK), size=1)
    images_BHW3 = torch.zeros(num, *CANVAS, 3, dtype=torch.uint8)
    boxes_BG4 = torch.zeros(num, BOXES, 4)
    drawing, making, launches = [], [], []
    for number in range(options.repeats):
        ids_B = np.arange(number * num, (number + 1) * num)
        sizes_B2 = random.integers((HEIGHT // 2, WIDTH // 2), (HEIGHT + 1, WIDTH + 1), (num, 2))
        keep.launched.clear()
        start = time.perf_counter()
        draw_table(table.host, ids_B, sizes_B2, 0, 0, kinds_N, np.array(severity.SEVERITIES), (0.5, 0.7), 0.5)
        pool.place(table.host.rows_B)
        drawn = time.perf_counter()
        gpu.make_views(keep, images_BHW3, boxes_BG4, table, pool.values_M, SMALL, torch.bfloat16, True)
        drawing.append(1e6 * (drawn - start))
        making.append(1e6 * (time.perf_counter() - drawn))
        launches.append(len(keep.launched))
    for what, times in (("draw the table", drawing), ("make_views", making)):
        say(f"{what}: median {np.median(times[1:]):.0f} us, tenth {np.quantile(times[1:], 0.1):.0f} us")
    say(f"{np.mean(launches):.1f} launches of {options.batch} images, {max(launches)} at most")


if __name__ == "__main__":
    main()
