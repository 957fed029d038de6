"""gaussian_blur, and the separable gaussian that glass_blur uses twice.

`skimage.filters.gaussian(image, sigma)`: weights exp(-t^2 / 2 sigma^2), normalised, |t| <= int(4 sigma + 0.5), edges
repeated ("nearest"), channels apart. extra[0]: radius; extra[1 + t]: weight at distance t.
"""

import numpy as np
from numba import float32, uint8, uint32, uint64

from kernels.corruptions.color import TINY
from kernels.corruptions.record import Corruption
from kernels.corruptions.shift import add_pair_clamped, add_rows, clamp
from kernels.jit import compiled


@compiled
def along_row(line, values, extra, y, width, x0, x1):
    first = 3 * x0
    for i in range(first, 3 * x1):
        line[uint64(i - first)] = extra[1] * float32(values[uint64(y), uint64(i)])
    for t in range(1, int(extra[0]) + 1):
        add_pair_clamped(line, values, y, t, extra[1 + t], width, x0, x1)


@compiled
def along_column(line, values, extra, y, height, x0, x1):
    first = 3 * x0
    for i in range(first, 3 * x1):
        line[uint64(i - first)] = extra[1] * values[uint64(y), uint64(i)]
    for t in range(1, int(extra[0]) + 1):
        add_rows(line, values, clamp(y - t, height), clamp(y + t, height), extra[1 + t], x0, x1)


@compiled
def level_of(value):
    return uint8(min(max(value + float32(TINY), float32(0)), float32(255)))


@compiled
def store_pixel(line, x, red, green, blue):
    """A pixel of a row of interleaved bytes, from the sums of a GPU's thread."""
    i = uint64(uint32(3 * x))
    line[i] = level_of(red)
    line[i + uint64(1)] = level_of(green)
    line[i + uint64(2)] = level_of(blue)


@compiled
def store_line(task, y, x0, x1):
    """The accumulated row becomes pixels."""
    target, line, origin, out = task.target, task.line, 3 * task.origin_x, y - task.origin_y
    first = 3 * x0
    for i in range(first, 3 * x1):
        target[uint64(out), uint64(i - origin)] = level_of(line[uint64(i - first)])


@compiled
def rows_of_source(task, y0, y1, x0, x1):
    a, line = task.a, task.line
    first = 3 * x0
    for y in range(y0, y1):
        along_row(line, task.source, task.extra, y, task.row.width, x0, x1)
        for i in range(first, 3 * x1):
            a[uint64(y), uint64(i)] = line[uint64(i - first)]


@compiled
def columns_to_target(task, y0, y1, x0, x1):
    for y in range(y0, y1):
        along_column(task.line, task.a, task.extra, y, task.row.height, x0, x1)
        store_line(task, y, x0, x1)


def weights(sigma: float) -> np.ndarray:
    """The radius, then the weights at distances 0, 1, ..., radius."""
    radius = int(4 * sigma + 0.5)
    half = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return np.concatenate([[radius], half / (2 * half.sum() - half[0])])


def extra(level: int) -> np.ndarray:
    return weights(CORRUPTION.severities[level - 1])


CORRUPTION = Corruption(
    name="gaussian_blur",
    severities=(1, 2, 3, 4, 6),  # sigma
    stages=(rows_of_source, columns_to_target),
    own_kernels="kernels.corruptions.gaussian_cuda",
    prior="optics",
    subset="validation",
    extra=extra,
)
