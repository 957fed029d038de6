"""pixelate: shrink with Pillow's box filter, enlarge with its nearest one.

Pillow shrinks along rows, then along columns, rounding to 8 bits after each, with weights of 22 fractional bits. Small
pixel i covers the pixels whose centre lies in (i s, (i + 1) s], s = side / small side. extra[0], extra[1]: small height
and width.
"""

import numpy as np
from numba import float32, int32, uint8, uint64

from kernels import severity
from kernels.jit import compiled


@compiled
def first_covered(i, side, small):
    """The first pixel whose centre lies beyond i * side / small, that is floor(i * side / small + 1/2)."""
    return min((2 * i * side + small) // (2 * small), side)


@compiled
def box_rows(task, y0, y1, x0, x1):
    """a[y, small x]: the means along rows."""
    source, a, width = task.source, task.a, task.row.width
    small = int(task.extra[1])
    for sx in range(x0, min(x1, small)):
        begin, end = first_covered(sx, width, small), first_covered(sx + 1, width, small)
        weight = int32(float32(1 << 22) / float32(end - begin) + float32(0.5))
        for y in range(y0, y1):
            for c in range(3):
                total = int32(0)
                for x in range(begin, end):
                    total += int32(source[uint64(y), uint64(3 * x + c)])
                a[uint64(y), uint64(3 * sx + c)] = float32((total * weight + int32(1 << 21)) >> 22)


@compiled
def box_columns(task, y0, y1, x0, x1):
    """b[small y, small x]: the means of those along columns."""
    a, b, line, height = task.a, task.b, task.line, task.row.height
    small_height, small_width = int(task.extra[0]), int(task.extra[1])
    first, last = 3 * x0, 3 * min(x1, small_width)
    for sy in range(y0, min(y1, small_height)):
        begin, end = first_covered(sy, height, small_height), first_covered(sy + 1, height, small_height)
        weight = int32(float32(1 << 22) / float32(end - begin) + float32(0.5))
        for i in range(first, last):
            line[uint64(i - first)] = float32(0)
        for y in range(begin, end):
            for i in range(first, last):
                line[uint64(i - first)] += a[uint64(y), uint64(i)]
        for i in range(first, last):
            total = int32(line[uint64(i - first)])
            b[uint64(sy), uint64(i)] = float32((total * weight + int32(1 << 21)) >> 22)


@compiled
def enlarge(task, y0, y1, x0, x1):
    b, target, origin = task.b, task.target, task.origin_x
    height, width = task.row.height, task.row.width
    small_height, small_width = int(task.extra[0]), int(task.extra[1])
    for y in range(y0, y1):
        out = y - task.origin_y
        sy = (2 * y + 1) * small_height // (2 * height)
        for x in range(x0, x1):
            sx = (2 * x + 1) * small_width // (2 * width)
            for c in range(3):
                target[uint64(out), uint64(3 * (x - origin) + c)] = uint8(b[uint64(sy), uint64(3 * sx + c)])


def extra(level: int, height: int, width: int) -> np.ndarray:
    scale = severity.TABLES["pixelate"][level - 1]
    return np.array([max(int(height * scale), 1), max(int(width * scale), 1)], dtype=float)


STAGES = (box_rows, box_columns, enlarge)
