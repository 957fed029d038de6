"""zoom_blur: the mean of the image and its linear enlargements about the centre.

A layer with factor z takes the centred crop of ceil(side / z) pixels and enlarges it to round(crop * z) with
`scipy.ndimage.zoom(order=1)`. That goes corner to corner: output y reads top + y (crop - 1) / (enlarged - 1). It keeps
the top left part of the image's size. extra[0]: number of layers. Then of each layer, for y and for x: first position,
step, number of pixels.
"""

import math

import numpy as np
from numba import float32, uint64

from kernels.corruptions.gaussian import store_line
from kernels.corruptions.record import Corruption
from kernels.jit import compiled, compiled_exactly


@compiled
def zoom_blur(task, y0, y1, x0, x1):
    """task.line holds the accumulators and, behind them, the two rows of a layer mixed along y."""
    source, line, extra = task.source, task.line, task.extra
    height, width = task.row.height, task.row.width
    layers = int(extra[0])
    share = float32(1) / float32(layers + 1)
    first, mixed = 3 * x0, 3 * (x1 - x0)
    for y in range(y0, y1):
        for i in range(first, 3 * x1):
            line[uint64(i - first)] = share * float32(source[uint64(y), uint64(i)])
        for layer in range(layers):
            at = 1 + 6 * layer
            stop = min(x1, int(extra[at + 5]))
            if y >= int(extra[at + 2]) or stop <= x0:
                continue
            from_y = extra[at] + float32(y) * extra[at + 1]
            above = int(from_y)
            below = min(above + 1, height - 1)
            low = share * (from_y - float32(above))
            high = share - low
            left, step = extra[at + 3], extra[at + 4]
            begin = 3 * int(left + float32(x0) * step)
            end = 3 * min(int(left + float32(stop - 1) * step) + 2, width)
            shift = mixed - begin
            for i in range(begin, end):
                value = high * float32(source[uint64(above), uint64(i)])
                line[uint64(i + shift)] = value + low * float32(source[uint64(below), uint64(i)])
            last = end - 3 + shift
            for x in range(x0, stop):
                from_x = left + float32(x) * step
                before = int(from_x)
                right = from_x - float32(before)
                near = 3 * before + shift
                far = min(near + 3, last)
                to = 3 * (x - x0)
                for c in range(3):
                    value = line[uint64(near + c)]
                    line[uint64(to + c)] += value + right * (line[uint64(far + c)] - value)
        store_line(task, y, x0, x1)


@compiled_exactly
def axis(values, at, side, factor):
    """First position, step, and how many of the output's pixels have a value, along one axis, to values[at : at + 3].

    Where (enlarged - 1) * step exceeds crop - 1 in double precision, scipy takes the last pixel for one outside the
    crop and makes it 0. It happens to one layer in some hundred, and is kept.
    """
    crop = math.ceil(side / factor)
    enlarged = int(np.rint(crop * factor))
    step = (crop - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    outside = 1 if (enlarged - 1) * step > crop - 1 else 0
    values[at], values[at + 1], values[at + 2] = (side - crop) // 2, step, enlarged - outside


@compiled_exactly
def fill_layers(values, factors, height, width):
    values[0] = len(factors)
    for layer in range(len(factors)):
        axis(values, 1 + 6 * layer, height, factors[layer])
        axis(values, 4 + 6 * layer, width, factors[layer])


def fill(extra_E: np.ndarray, level: int, height: int, width: int, _key: int) -> None:
    fill_layers(extra_E, FACTORS[level - 1], height, width)


CORRUPTION = Corruption(
    name="zoom_blur",
    severities=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),  # end and step of numpy.arange
    stages=(zoom_blur,),
    own_kernels="kernels.corruptions.zoom_cuda",
    prior="optics",
    subset="blur",
    training=True,
    fill=fill,
)
FACTORS = [np.arange(1, end, step) for end, step in CORRUPTION.severities]
