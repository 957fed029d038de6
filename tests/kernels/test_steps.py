"""Pixel by pixel, as a CUDA thread works, must give what whole rows give: the same code, another region."""

from dataclasses import replace

import numpy as np
import pytest
from numba import njit
from skimage import data

from kernels import rng, severity
from kernels.corruptions import glass
from kernels.corruptions.registry import CORRUPTIONS, NEED_MASK
from kernels.launch import cpu, steps
from kernels.launch import table as parameters
from kernels.launch.pool import Pool
from kernels.task import Task

LINE = 16  # what a thread of kernels/launch/cuda_kernels.py has


@njit
def every_pixel(step, task, height, width):
    for y in range(height):
        for x in range(width):
            step(task, y, y + 1, x, x + 1)


def corrupt_by_pixels(image_HW3, table, pool_M):
    height, width, _ = image_HW3.shape
    row = table.rows_B[0]
    index = row["corruption"]
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
    if index in steps.WHOLE:
        task.a[:] = CORRUPTIONS[index].make_whole(np, image_HW3, int(row["severity"])).reshape(height, -1)
    for number, step in enumerate((steps.step_1, steps.step_2, steps.step_3, steps.step_4), start=1):
        if index in steps.KINDS[number]:
            every_pixel(step, task, height, width)
    every_pixel(steps.last, task, height, width)
    return task.target.reshape(height, width, 3)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in severity.ALL if severity.INDEX[name] not in steps.OWN])
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"launches": (1, 2, 3)}, "one entry for each of the 5 stages"),
        ({"launches": (2, 1, 3, 4)}, "each once, in order"),
        ({"launches": (1, 2, 3, 5)}, "must be of"),
        ({"launches": (1, 2, 3, 3)}, "each once"),
        ({"severities": (1, 2)}, "5 entries; got 2"),
        ({"fill": glass.extra}, "only one of unit, extra and fill"),
    ],
)
def test_a_record_that_no_gpu_could_run_is_refused(change, words):
    in_launches = replace(glass.CORRUPTION, own_kernels=None, launches=(1, 2, 3, 4))
    with pytest.raises(ValueError, match=words):
        replace(in_launches, **change)


def test_launches_by_hand():
    names = {launch: {severity.ALL[kind] for kind in kinds} for launch, kinds in steps.KINDS.items()}
    assert names == {1: set(), 2: set(), 3: set(), 4: set()}
    assert {severity.ALL[kind] for kind in steps.STATISTICS} == {"contrast", "fog"}
    own = {"defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur"}
    own |= {"elastic_transform", "jpeg_compression", "pixelate"}
    assert {severity.ALL[kind] for kind in steps.OWN} == own
    assert not steps.has(steps.OWN_BITS, severity.NONE)
