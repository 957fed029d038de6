"""Pixel by pixel, as a CUDA thread works, must give what whole rows give: the same code, another region."""

import numpy as np
import pytest
from numba import njit
from skimage import data

from kernels import rng, severity
from kernels.corruptions import defocus, jpeg
from kernels.corruptions.stages import NEED_MASK, STAGES
from kernels.launch import cpu, steps
from kernels.launch import table as parameters
from kernels.launch.pool import Pool
from kernels.task import Task

LINE = 16  # what a thread of kernels/launch/cuda_kernels.py has


@njit
def every_pixel(step, task, height, width):
    for y in range(height):
        for x in range(width):
            step(task, y, x)


def corrupt_by_pixels(image_HW3, table, pool_M):
    height, width, _ = image_HW3.shape
    row = table.rows_B[0]
    name = severity.ALL[row["corruption"]]
    source = np.ascontiguousarray(image_HW3).reshape(height, 3 * width)
    task = Task(
        source=source,
        target=np.zeros_like(source),
        a=np.full(source.shape, np.nan, np.float32),
        b=np.full(source.shape, np.nan, np.float32),
        line=np.full(LINE, np.nan, np.float32),
        row=row,
        extra=table.extra_BE[0],
        statistics=np.array([*image_HW3.reshape(-1, 3).sum(0), image_HW3.max()], np.uint32),
        shots=cpu.shots(),
        pool=pool_M,
        origin_y=0,
        origin_x=0,
    )
    if name == "jpeg_compression":
        room = task._replace(line=np.full(jpeg.CUDA_LINE, np.nan, np.float32))
        for y in range(0, height, jpeg.BLOCK):
            for x in range(0, width, jpeg.BLOCK):
                jpeg.blocks(room, y, min(y + jpeg.BLOCK, height), x, min(x + jpeg.BLOCK, width))
    if name == "defocus_blur":
        for y in range(height):
            defocus.running_sums(task, y, y + 1, 0, width)
    index = severity.INDEX[name]
    for kinds, step in zip(steps.STEPS, (steps.step_1, steps.step_2, steps.step_3, steps.step_4), strict=True):
        if index in kinds:
            every_pixel(step, task, height, width)
    every_pixel(steps.last_of_heavy if steps.is_heavy(index) else steps.last_of_others, task, height, width)
    return task.target.reshape(height, width, 3)


@pytest.mark.parametrize("name", severity.ALL)
def test_one_pixel_at_a_time(name):
    for shape, level in (((37, 45), 1), ((37, 45), 5), ((19, 64), 3), ((1, 1), 2), ((2, 33), 4)):
        image = data.astronaut()[60 : 60 + shape[0], 200 : 200 + shape[1]]
        table = parameters.single_table(name, level, *shape, int(rng.image_key(5, 0, 0)))
        pool_M = cpu.NO_POOL
        if name in NEED_MASK:
            pool = Pool(shape, (name,), (level,), size=2, margin=16)
            pool.place(table.rows_B)
            pool_M = pool.values_M
        source = np.ascontiguousarray(image).reshape(shape[0], -1)
        target = np.zeros_like(source)
        cpu.corrupt_image(source, target, table.rows_B[0], table.extra_BE[0], pool_M, cpu.Workspace(*shape))
        ours = corrupt_by_pixels(image, table, pool_M)
        error = np.abs(ours.astype(int) - target.reshape(ours.shape))
        # The same additions, but fused or ordered differently by the compiler: a value on the edge of a level may fall.
        assert error.max() <= 1
        assert (error > 0).mean() < 0.002


def test_every_stage_has_its_step():
    """A type's stages and the steps that launch them on a GPU must not part ways."""
    apart = {"defocus_blur": 1, "jpeg_compression": 1}  # running sums and blocks have launches of their own
    for name, stages in STAGES.items():
        in_steps = sum(severity.INDEX[name] in kinds for kinds in steps.STEPS)
        assert in_steps + apart.get(name, 0) + 1 == len(stages)
