"""glass_blur: blur and truncate, move pixels about at random, blur again.

The reference walks over the rows and columns from the far end. In each pass the pixel (y, x) takes the value that (y +
dy, x + dx) has by then, with dy, dx uniform in [-d, d-1]. Its "swap" is a copy, because the views alias. A neighbour
that was visited earlier in the pass already has its new value. So follow the offsets to know where a pixel's value came
from. Go on from a pixel that was visited before; stop at one that was not. That needs no order and gives the same
pixels.

extra[0..]: the gaussian of `gaussian.py`; extra[REACH]: d; extra[PASSES]: number of passes.
"""

import numpy as np
from numba import float32, uint32, uint64

from kernels.corruptions.color import TINY
from kernels.corruptions.gaussian import along_column, along_row, rows_of_source, store_line, weights
from kernels.corruptions.record import Corruption
from kernels.jit import compiled
from kernels.rng import SHUFFLE, bits

REACH, PASSES = 40, 41


@compiled
def visited(y, x, reach, height, width):
    return reach < y <= height - reach and reach < x <= width - reach


@compiled
def offsets(key0, key1, turn, y, x, reach):
    """dy, dx of pixel (y, x) in pass `turn`: each uniform in [-reach, reach - 1]."""
    word = bits(key0, key1, SHUFFLE + turn, y, x)
    span = uint32(2 * reach)
    dx = uint32(uint32(uint32(word & uint32(0xFFFF)) * span) >> uint32(16))
    dy = uint32(uint32(uint32(word >> uint32(16)) * span) >> uint32(16))
    return int(dy) - reach, int(dx) - reach


@compiled
def origin_of(key0, key1, reach, passes, height, width, y, x):
    """Where the value of pixel (y, x) came from before the first pass."""
    for back in range(passes):
        turn = passes - 1 - back
        going = visited(y, x, reach, height, width)
        while going:
            dy, dx = offsets(key0, key1, turn, y, x, reach)
            later = dy > 0 or (dy == 0 and dx > 0)
            y += dy
            x += dx
            going = later and visited(y, x, reach, height, width)
    return y, x


@compiled
def truncated_columns(task, y0, y1, x0, x1):
    b, line = task.b, task.line
    first = 3 * x0
    for y in range(y0, y1):
        along_column(line, task.a, task.extra, y, task.row.height, x0, x1)
        for i in range(first, 3 * x1):
            b[uint64(y), uint64(i)] = float32(int(line[uint64(i - first)] + float32(TINY)))


@compiled
def shuffle(task, y0, y1, x0, x1):
    a, b, row = task.a, task.b, task.row
    reach, passes = int(task.extra[REACH]), int(task.extra[PASSES])
    for y in range(y0, y1):
        for x in range(x0, x1):
            from_y, from_x = origin_of(row.key0, row.key1, reach, passes, row.height, row.width, y, x)
            for c in range(3):
                a[uint64(y), uint64(3 * x + c)] = b[uint64(from_y), uint64(3 * from_x + c)]


@compiled
def shuffle_in_order(task, y0, y1, x0, x1):
    """The same as `shuffle`, as the reference walks: quicker on one processor, but for the whole image only."""
    a, b, line, row = task.a, task.b, task.line, task.row
    reach, height, width = int(task.extra[REACH]), row.height, row.width
    key0, key1 = row.key0, row.key1
    for y in range(height):
        for i in range(3 * width):
            a[uint64(y), uint64(i)] = b[uint64(y), uint64(i)]
    for turn in range(int(task.extra[PASSES])):
        for y in range(height - reach, reach, -1):
            for x in range(reach + 1, width - reach + 1):  # this loop is vectorised, the next cannot be
                dy, dx = offsets(key0, key1, turn, y, x, reach)
                line[uint64(x)] = float32(dy)
                line[uint64(width + x)] = float32(3 * dx)
            for x in range(width - reach, reach, -1):
                from_y = y + int(line[uint64(x)])
                from_x = 3 * x + int(line[uint64(width + x)])
                for c in range(3):
                    a[uint64(y), uint64(3 * x + c)] = a[uint64(from_y), uint64(from_x + c)]


@compiled
def rows_again(task, y0, y1, x0, x1):
    b, line = task.b, task.line
    first = 3 * x0
    for y in range(y0, y1):
        along_row(line, task.a, task.extra, y, task.row.width, x0, x1)
        for i in range(first, 3 * x1):
            b[uint64(y), uint64(i)] = line[uint64(i - first)]


@compiled
def columns_again(task, y0, y1, x0, x1):
    for y in range(y0, y1):
        along_column(task.line, task.b, task.extra, y, task.row.height, x0, x1)
        store_line(task, y, x0, x1)


def extra(level: int) -> np.ndarray:
    sigma, reach, passes = CORRUPTION.severities[level - 1]
    values = np.zeros(PASSES + 1)
    gaussian = weights(sigma)
    values[: len(gaussian)] = gaussian
    values[REACH], values[PASSES] = reach, passes
    return values


CORRUPTION = Corruption(
    name="glass_blur",
    severities=((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),  # sigma, reach, passes
    stages=(rows_of_source, truncated_columns, shuffle, rows_again, columns_again),
    cpu_stages=(rows_of_source, truncated_columns, shuffle_in_order, rows_again, columns_again),
    alone=(shuffle_in_order,),
    own_kernels="kernels.corruptions.glass_cuda",
    prior="optics",
    subset="blur",
    training=True,
    extra=extra,
)
