"""`python -m kernels.checks.estimate`: what each corruption takes at least on an H200, from the kernels' machine code.

    python -m kernels.checks.estimate --json build/estimate.json

A batch of 16 images of 600 x 1000 gets both views, of one type at severity 3. The launches are those of `make_views`.
Some threads of an inner block of each are run in Python (`ptx_run`), instruction by instruction. That gives what a warp
issues, what it loads and what it stores. PTX is not machine code: a count is multiplied by the ratio of the kernel's
machine instructions to those that its PTX stands for. Three bounds follow, and a launch takes the largest:

    issue    all instructions over 132 multiprocessors x 4 warp instructions a cycle x 1.755 GHz
    bytes    stored, and loaded (each array once at most), over 4.3 TB/s, what a copy reaches
    alone    a thread's own instructions, 4 cycles each: what few threads wait for

A mixed batch is 16 images that draw one of the types each, the mean of many draws. A launch then serves few images: it
still takes as long as a thread of it alone. Launches follow one another.

This is a floor. Latency that is not hidden, cache misses, the slower pipes, gaps between launches and blocks outside of
an image are not in it.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels import severity
from kernels.checks import ptx
from kernels.checks.host import Counted, CountedTable, Launched
from kernels.checks.ptx_run import Code, Thread, slots
from kernels.checks.timing import picture, say
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import gpu
from kernels.launch.pool import Pool
from kernels.launch.table import draw_table

HEIGHT, WIDTH, CANVAS, SMALL = 600, 1000, (608, 1024), (384, 640)
RATIO, LEVEL, BATCH = 0.6, 3, 16
DRAWS = 1000  # of a mixed batch
PROCESSORS, ISSUED, CLOCK, COPY = 132, 4, 1.755e9, 4.3e12
CHAIN = 4  # cycles from an instruction to the next that needs it


@dataclass(frozen=True)
class Options:
    corruptions: tuple[str, ...] = severity.TRAINING
    json: Path | None = None  # where to write the figures


class Kernels:
    """Code and machine instructions for one of PTX, of the kernels asked for."""

    def __init__(self) -> None:
        self.known = ptx.numba_kernels()
        self.made: dict[str, tuple[Code, float]] = {}

    def __call__(self, name: str) -> tuple[Code, float]:
        if name not in self.made:
            text, shared = self.known[name].compile(90)
            code, record = Code(text), ptx.inspect(text, shared, self.known[name].threads, 90)
            if "instructions" not in record:
                raise SystemExit("error: estimate: it needs ptxas and nvdisasm, which the package triton brings along")
            self.made[name] = code, record["instructions"] / sum(slots(step[2]) for step in code.steps)
        return self.made[name]


def bounds(launched: Launched, kernels: Kernels, areas: list[tuple[int, int]]) -> dict[str, float]:
    """Seconds of a launch for a batch of 16, by bound. The launch is that of one image."""
    code, ratio = kernels(launched.name)
    grid = (*launched.grid, 1, 1)[:3]
    block = (*launched.block, 1, 1)[:2]
    inner = tuple(min(side // 3, side - 1) for side in grid)
    counted = []
    for x, y in ((0, 0), (block[0] * 2 // 5, block[1] // 2), (block[0] - 1, block[1] - 1)):
        counted.append(Thread(code, launched.numbers, inner, (x, y), areas).run())
    issued = ratio * float(np.mean([each.slots for each in counted]))
    threads = math.prod(grid) * math.prod(block)
    loaded: dict[int, float] = defaultdict(float)
    for each in counted:
        for number, count in each.loaded.items():
            loaded[number] += count / len(counted) * threads
    moved = sum(min(count, areas[number][1] - areas[number][0]) for number, count in loaded.items())
    moved += threads * float(np.mean([each.stored for each in counted]))
    return {
        "issue": BATCH * threads / 32 * issued / (PROCESSORS * ISSUED * CLOCK),
        "bytes": BATCH * moved / COPY,
        "alone": CHAIN * ratio * max(each.slots for each in counted) / CLOCK,
    }


def estimate(name: str, kernels: Kernels, image: np.ndarray) -> dict[str, Any]:
    keep, table = Counted(), CountedTable(1)
    kinds_N, levels_S = np.array([severity.INDEX[name]]), np.array([LEVEL])
    sizes_B2 = np.array([(HEIGHT, WIDTH)])
    draw_table(table.host, np.array([0]), sizes_B2, 0, 0, kinds_N, levels_S, (RATIO, RATIO), 0.0)
    pool_M = None
    if name in NEED_MASK:
        pool = Pool(CANVAS, (name,), (LEVEL,), size=1)
        pool.place(table.host.rows_B)
        pool_M = pool.values_M
    images_BHW3 = torch.zeros(1, *CANVAS, 3, dtype=torch.uint8)
    images_BHW3[0, :HEIGHT, :WIDTH] = torch.from_numpy(image)
    boxes_BG4 = torch.zeros(1, 64, 4)
    made = gpu.make_views(keep, images_BHW3, boxes_BG4, table, pool_M, SMALL, torch.bfloat16, True)
    clean_BHW3, small_Bhw3, boxes_2BG4, _ = made
    assert clean_BHW3 is not None
    keep.scratch.zero_()
    keep.pixel_scratch.zero_()
    read = (
        images_BHW3,
        table.tensor,
        *keep.scratch.chunk(2),
        keep.pixel_scratch,
        keep.shots_tensor,
        *keep.pools.values(),
        boxes_BG4,
    )
    arrays = (*read, clean_BHW3, small_Bhw3, boxes_2BG4)
    areas = [(each.data_ptr(), each.data_ptr() + each.numel() * each.element_size()) for each in arrays]
    by_launch = {each.name: bounds(each, kernels, areas) for each in keep.launched}
    total = sum(max(found.values()) for found in by_launch.values())
    longest = max(by_launch, key=lambda launch: max(by_launch[launch].values()))
    moved = images_BHW3.numel() + 2 * (clean_BHW3.numel() + small_Bhw3.numel())
    return {
        "batch_us": 1e6 * total,
        "times_copy_bound": total / (BATCH * moved / COPY),
        "longest_launch": longest,
        "limit": max(by_launch[longest], key=lambda bound: by_launch[longest][bound]),
        "launches": by_launch,
    }


def mixed_batch(records: dict[str, dict[str, Any]]) -> float:
    """Seconds of a batch whose images draw among the types of the records."""
    random, names, total = np.random.default_rng(0), list(records), 0.0
    for _ in range(DRAWS):
        launches: dict[str, dict[str, float]] = defaultdict(lambda: {"issue": 0.0, "bytes": 0.0, "alone": 0.0})
        for number in random.integers(len(names), size=BATCH):
            for name, of_batch in records[names[number]]["launches"].items():
                launch = launches[name]
                launch["issue"] += of_batch["issue"] / BATCH
                launch["bytes"] += of_batch["bytes"] / BATCH
                launch["alone"] = max(launch["alone"], of_batch["alone"])
        total += sum(max(launch.values()) for launch in launches.values())
    return total / DRAWS


def main() -> None:
    import tyro

    options = tyro.cli(Options, prog="python -m kernels.checks.estimate", description=__doc__)
    for name in options.corruptions:
        severity.check_name(name)
    kernels, image = Kernels(), picture(HEIGHT, WIDTH)
    records: dict[str, Any] = {}
    say("| corruption | us a batch of 16 | times a copy | most of it | limit |\n| --- | --- | --- | --- | --- |")
    for name in options.corruptions:
        record = records[name] = estimate(name, kernels, image)
        say(
            f"| {name} | {record['batch_us']:.0f} | {record['times_copy_bound']:.1f} | {record['longest_launch']} "
            f"| {record['limit']} |"
        )
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(records, indent=1) + "\n")
    mean_us = float(np.mean([record["batch_us"] for record in records.values()]))
    copies = float(np.mean([record["times_copy_bound"] for record in records.values()]))
    say(f"mean: {mean_us:.0f} us, {copies:.1f} times a copy")
    mixed = mixed_batch(records)
    say(f"mixed batch: {1e6 * mixed:.0f} us, {BATCH / mixed:.0f} pairs/s")


if __name__ == "__main__":
    main()
