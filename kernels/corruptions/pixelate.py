"""pixelate: shrink with Pillow's box filter, enlarge with its nearest one.

Pillow shrinks along rows, then along columns, rounding to 8 bits after each, with weights of 22 fractional bits. Small
pixel i covers the pixels whose centre is in (i s, (i + 1) s], s = side / small side. When enlarging, pixel x reads
floor((x + 1/2) / s). Both are whole-number arithmetic here, except for ties, which Pillow decides by the rounding of
its doubles (of a running sum, when it enlarges). The host finds which way they fall by doing as Pillow does. It changes
only a few times along a side, so the places of the changes travel in `extra`. Equal to Pillow bit for bit, except for
images more than twice as high as wide. Some versions shrink those along columns first, which rounds differently (1).

extra: small height, small width, then six lists of changes: first covered pixel, last covered pixel, pixel read; for y
and for x.
"""

import math

import numpy as np
from numba import float32, int32, uint8, uint64

from kernels.corruptions.record import Corruption
from kernels.division import quotient
from kernels.jit import compiled, compiled_exactly

CHANGES = 12  # room for each list; at most 6 occur for sides up to 2,600
FIRST_Y, END_Y, READ_Y, FIRST_X, END_X, READ_X = (2 + CHANGES * index for index in range(6))


@compiled
def flipped(extra, begin, i):
    """1 where an odd number of changes lies at or before i."""
    count = 0
    for change in range(CHANGES):
        count += 1 if float32(i) >= extra[begin + change] else 0
    return count & 1


@compiled
def covered(extra, begin, i, side, small):
    """First pixel whose centre lies beyond i * side / small; on a tie the host decides whether it counts."""
    twice = 2 * i * side + small
    k = quotient(twice, 2 * small)
    if twice == 2 * small * k and flipped(extra, begin, i) == 1:
        k -= 1
    return min(max(k, 0), side)


@compiled
def read_by(extra, begin, i, side, small):
    """The small pixel that pixel i reads."""
    twice = (2 * i + 1) * small
    k = quotient(twice, 2 * side)
    if twice == 2 * side * k and flipped(extra, begin, i) == 1:
        k -= 1
    return k


@compiled
def box_rows(task, y0, y1, x0, x1):
    """a[y, small x]: the means along rows."""
    source, a, line, width, extra = task.source, task.a, task.line, task.row.width, task.extra
    small = int(extra[1])
    num = min(x1, small) - x0
    for j in range(num):
        begin, end = covered(extra, FIRST_X, x0 + j, width, small), covered(extra, END_X, x0 + j + 1, width, small)
        line[uint64(3 * j)] = float32(3 * begin)
        line[uint64(3 * j + 1)] = float32(3 * end)
        line[uint64(3 * j + 2)] = float32(int32(float32(1 << 22) / float32(end - begin) + float32(0.5)))
    for y in range(y0, y1):
        for j in range(num):
            begin, end = int32(line[uint64(3 * j)]), int32(line[uint64(3 * j + 1)])
            weight = int32(line[uint64(3 * j + 2)])
            red = int32(source[uint64(y), uint64(begin)])
            green = int32(source[uint64(y), uint64(begin + 1)])
            blue = int32(source[uint64(y), uint64(begin + 2)])
            for i in range(begin + 3, end, 3):
                red += int32(source[uint64(y), uint64(i)])
                green += int32(source[uint64(y), uint64(i + 1)])
                blue += int32(source[uint64(y), uint64(i + 2)])
            at = 3 * (x0 + j)
            a[uint64(y), uint64(at)] = float32((red * weight + int32(1 << 21)) >> 22)
            a[uint64(y), uint64(at + 1)] = float32((green * weight + int32(1 << 21)) >> 22)
            a[uint64(y), uint64(at + 2)] = float32((blue * weight + int32(1 << 21)) >> 22)


@compiled
def box_columns(task, y0, y1, x0, x1):
    """b[small y, x]: the means of those along columns, each already at all pixels x that read it."""
    a, b, line, height, width, extra = task.a, task.b, task.line, task.row.height, task.row.width, task.extra
    small_height, small_width = int(extra[0]), int(extra[1])
    first = read_by(extra, READ_X, x0, width, small_width)
    num = 3 * (read_by(extra, READ_X, x1 - 1, width, small_width) + 1 - first)
    for sy in range(y0, min(y1, small_height)):
        begin = covered(extra, FIRST_Y, sy, height, small_height)
        end = covered(extra, END_Y, sy + 1, height, small_height)
        weight = int32(float32(1 << 22) / float32(end - begin) + float32(0.5))
        for i in range(num):
            line[uint64(i)] = float32(0)
        for y in range(begin, end):
            for i in range(num):
                line[uint64(i)] += a[uint64(y), uint64(3 * first + i)]
        for i in range(num):
            line[uint64(i)] = float32((int32(line[uint64(i)]) * weight + int32(1 << 21)) >> 22)
        # read_by(x), step by step: whole is its integer part, rest what remains of (2 x + 1) * small_width.
        whole = quotient((2 * x0 + 1) * small_width, 2 * width)
        rest = (2 * x0 + 1) * small_width - 2 * width * whole
        for x in range(x0, x1):
            k = whole
            if rest == 0 and flipped(extra, READ_X, x) == 1:
                k -= 1
            for c in range(3):
                b[uint64(sy), uint64(3 * x + c)] = line[uint64(3 * (k - first) + c)]
            rest += 2 * small_width
            if rest >= 2 * width:
                rest -= 2 * width
                whole += 1


@compiled
def enlarge(task, y0, y1, x0, x1):
    b, target, height, origin = task.b, task.target, task.row.height, 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        sy = read_by(task.extra, READ_Y, y, height, int(task.extra[0]))
        for i in range(3 * x0, 3 * x1):
            target[uint64(out), uint64(i - origin)] = uint8(b[uint64(sy), uint64(i)])


@compiled_exactly
def note(lists, begin, count, position, flip):
    """Append the position where the flips change (from none at first); returns how many changes there are."""
    if flip != (count & 1) and count < CHANGES:
        lists[begin + count] = position
        count += 1
    return count


@compiled_exactly
def fill_axis(lists, first, side, small):
    """The three lists of one axis, from lists[first], by Pillow's own arithmetic (Resample.c and Geometry.c)."""
    for i in range(first, first + 3 * CHANGES):
        lists[i] = 1e9  # a position that is never reached
    scale = side / small
    support = 0.5 * scale
    begins, ends, reads = 0, 0, 0
    rest = 0  # of boundary * side / small; a tie where it is one half
    for boundary in range(small + 1):
        if 2 * rest == small:
            k = (2 * boundary * side + small) // (2 * small)  # pixel k - 1 has its centre on the boundary
            if boundary < small:
                centre = (boundary + 0.5) * scale
                distance = (k - 1 - centre + 0.5) * (1 / scale)
                begin = max(int(centre - support + 0.5), 0)
                begins = note(lists, first, begins, boundary, 1 if distance > -0.5 and begin <= k - 1 else 0)
            if boundary > 0:
                centre = (boundary - 0.5) * scale
                distance = (k - 1 - centre + 0.5) * (1 / scale)
                end = min(int(centre + support + 0.5), side)
                ends = note(lists, first + CHANGES, ends, boundary, 0 if distance <= 0.5 and end > k - 1 else 1)
        rest += side
        while rest >= small:
            rest -= small
    step = small / side
    position = step * 0.5
    rest, exact = small, 0  # of (2 x + 1) * small / (2 * side)
    for x in range(side):
        if rest == 0:
            reads = note(lists, first + 2 * CHANGES, reads, x, 1 if exact > math.floor(position) else 0)
        position += step
        rest += 2 * small
        if rest >= 2 * side:
            rest -= 2 * side
            exact += 1


def fill(extra_E: np.ndarray, level: int, height: int, width: int, _key: int) -> None:
    scale = CORRUPTION.severities[level - 1]
    small_height, small_width = max(int(height * scale), 1), max(int(width * scale), 1)
    extra_E[0], extra_E[1] = small_height, small_width
    fill_axis(extra_E, FIRST_Y, height, small_height)
    fill_axis(extra_E, FIRST_X, width, small_width)


CORRUPTION = Corruption(
    name="pixelate",
    severities=(0.6, 0.5, 0.4, 0.3, 0.25),  # scale of the small image
    stages=(box_rows, box_columns, enlarge),
    own_kernels="kernels.corruptions.pixelate_cuda",
    prior="none",
    subset="digital",
    training=True,
    fill=fill,
)
