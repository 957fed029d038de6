"""Fog: a plasma fractal laid over the image.

    out = (x + 255 c p) * top / (top + c)      x in 0..255, top: the image's own largest value / 255

p in 0..1 is a diamond-square map as large as the next power of two of the image's longer side (Hendrycks and Dietterich
2019, `imagecorruptions.corruptions.fog`). It never looks at the image, so it comes from the pool
(`kernels.launch.pool`). A diamond-square map is periodic, and every second point of it is such a map of half the side.
So a small image reads the pool's map with a stride, and its fog is as coarse as the reference's.
"""

from collections.abc import Callable

import numpy as np
from numba import float32, int32, uint8, uint64

from kernels.corruptions.masks import read_mask
from kernels.corruptions.record import Corruption, MaskPlan, Masks
from kernels.jit import compiled

UNIT = 65535  # the pool's number for p = 1


def decay(level: int) -> float:
    return CORRUPTION.severities[level - 1][1]


def map_side(height: int, width: int) -> int:
    """Side of the reference's map for an image of this size."""
    return 1 << (max(height, width, 3) - 1).bit_length()


def plasma_map(side: int, wobble_decay: float, uniform: Callable) -> np.ndarray:
    """A diamond-square map of a power-of-two side, float32 in 0..1.

    `uniform(low, high, size)` gives the wobbles in the reference's order: the same draws make the same map.
    """
    plasma = np.empty((side, side), dtype=np.float32)
    plasma[0, 0] = 0
    step, wobble = side, 100.0

    def mean_and_wobble(sum_of_four: np.ndarray) -> np.ndarray:
        return sum_of_four / 4 + wobble * uniform(-wobble, wobble, sum_of_four.shape)

    while step >= 2:
        half = step // 2
        corners = plasma[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        plasma[half::step, half::step] = mean_and_wobble(pairs + np.roll(pairs, -1, axis=1))
        centres = plasma[half::step, half::step]
        above_below = centres + np.roll(centres, 1, axis=0)
        plasma[::step, half::step] = mean_and_wobble(above_below + (corners + np.roll(corners, -1, axis=1)))
        left_right = centres + np.roll(centres, 1, axis=1)
        plasma[half::step, ::step] = mean_and_wobble(left_right + (corners + np.roll(corners, -1, axis=0)))
        step, wobble = half, wobble / wobble_decay
    plasma -= plasma.min()
    return plasma / plasma.max()


@compiled
def blend(task, y0, y1, x0, x1):
    """target: the source in fog; extra[0]: c, statistics[3]: the image's largest value."""
    row, thickness = task.row, task.extra[0]
    top = float32(task.statistics[3]) * float32(1.0 / 255.0)
    dim = top / (top + thickness)
    unit = float32(255.0 / UNIT) * thickness
    plasma = task.line[: x1 - x0]
    source, target, first = task.source, task.target, 3 * (x0 - task.origin_x)
    for y in range(y0, y1):
        read_mask(plasma, task.pool, row.mask_start + y * row.mask_step_y + x0 * row.mask_step_x, row.mask_step_x)
        out = y - task.origin_y
        for i in range(x1 - x0):
            added = plasma[i] * unit
            target[uint64(out), uint64(first + 3 * i)] = uint8(
                int32(min((float32(source[uint64(out), uint64(first + 3 * i)]) + added) * dim, float32(255.0)))
            )
            target[uint64(out), uint64(first + 3 * i + 1)] = uint8(
                int32(min((float32(source[uint64(out), uint64(first + 3 * i + 1)]) + added) * dim, float32(255.0)))
            )
            target[uint64(out), uint64(first + 3 * i + 2)] = uint8(
                int32(min((float32(source[uint64(out), uint64(first + 3 * i + 2)]) + added) * dim, float32(255.0)))
            )


def plan(wobble_decay: float, canvas: tuple[int, int], margin: int, count: int) -> MaskPlan:
    side = map_side(*canvas)

    def make(random: np.random.Generator, _number: int) -> np.ndarray:
        plasma_SS = plasma_map(side, wobble_decay, random.uniform)
        return np.pad(np.round(plasma_SS * UNIT), ((0, margin), (0, margin)), mode="wrap")

    return MaskPlan(make, [(side + margin, side + margin, 1)] * count, flips=True, map_side=side)


CORRUPTION = Corruption(
    name="fog",
    severities=((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),  # thickness, decay of the plasma
    stages=(blend,),
    prior="weather",
    subset="weather",
    statistics=True,
    masks=Masks(decay, plan),
    shared_area=1 << 20,
)
