"""Elastic transform: every pixel is taken from a point nearby, displaced by two smooth random fields.

    out(y, x) = x(y + s (g * u1)(y, x), x + s (g * u2)(y, x))       u uniform in +-0.005 h, s the severity's factor

g is a gaussian of 1 % of each side, cut at 3 sigma, over fields that are mirrored at the borders. x is sampled linearly
and mirrored too (Simard et al. 2003, as `imagecorruptions.corruptions.elastic_transform` does it). Both fields have the
amplitude 0.005 of the height. Stages: noise -> a, the gaussian's columns a -> b, its rows b -> a, sampling -> target.
Field 0 (displacement in y) is in columns [0, w) of the scratch, field 1 (in x) in columns [w, 2 w). The third stage
splits the displacements into fractions and whole pixels. The fractions stay in those columns. Both whole numbers are
packed into one number in columns [2 w, 3 w). The reason: rounding is slow in the scalar loop that samples, and fast in
a vectorised one.
"""

import math

import numpy as np
from numba import float32, int32, int64, uint8, uint64

from kernels import rng
from kernels.corruptions.record import Corruption
from kernels.division import remainder
from kernels.jit import compiled

TRUNCATE = 3.0
AMPLITUDE = 0.005  # of the height, for both fields
SIGMA = 0.01  # of each side
WHOLE_BITS = 12
WHOLE = 1 << WHOLE_BITS  # whole pixels are packed as y * WHOLE + x, exact in float32 while both stay below WHOLE / 2
LONGEST_TAPS = 124  # two sets of half-gaussians and three numbers fit task.EXTRA


def radius_of(side: int) -> int:
    return int(TRUNCATE * SIGMA * side + 0.5)


@compiled
def fill_half_gaussian(weights, sigma):
    """Weights of the middle tap and of those on one side of a gaussian that sums to 1."""
    total = 1.0
    for i in range(1, len(weights)):
        total += 2 * math.exp(-0.5 * (i / sigma) ** 2)
    for i in range(len(weights)):
        weights[i] = math.exp(-0.5 * (i / sigma) ** 2) / total


def fill(extra_E: np.ndarray, level: int, height: int, width: int, _key: int) -> None:
    """Radius down, radius along, amplitude times factor, then both half-gaussians, cut at 3 sigma."""
    down, along = radius_of(height), radius_of(width)
    if max(down, along) >= LONGEST_TAPS:
        raise ValueError(
            f"elastic_transform: the image is {height} x {width}; its longer side can be at most "
            f"{int((LONGEST_TAPS - 0.5) / (TRUNCATE * SIGMA))}: make it smaller"
        )
    extra_E[0], extra_E[1], extra_E[2] = down, along, AMPLITUDE * height * CORRUPTION.severities[level - 1]
    fill_half_gaussian(extra_E[3 : 4 + down], SIGMA * height)
    fill_half_gaussian(extra_E[4 + down : 5 + down + along], SIGMA * width)


@compiled
def mirror(index, size):
    """The index inside [0, size) of a line that goes on mirrored, its border pixel twice."""
    index = index if index >= 0 else -1 - index
    index = remainder(index, 2 * size)
    return min(index, 2 * size - 1 - index)


@compiled
def mirror_once(index, size):
    """The same for an index less than one size outside, without a division."""
    if index < 0:
        return -1 - index
    return 2 * size - 1 - index if index >= size else index


@compiled
def noise_line(out, key0, key1, stage, y, x0):
    for i in range(out.shape[0]):
        out[i] = rng.uniform(rng.bits(key0, key1, stage, y, x0 + i)) * float32(2.0) - float32(1.0)


@compiled
def noise(task, y0, y1, x0, x1):
    """a: two fields, uniform in [-1, 1)."""
    width = task.row.width
    key0, key1 = task.row.key0, task.row.key1
    for y in range(y0, y1):
        noise_line(task.a[y, x0:x1], key0, key1, rng.FIELD_Y, y, x0)
        noise_line(task.a[y, width + x0 : width + x1], key0, key1, rng.FIELD_X, y, x0)


@compiled
def scaled(sums, weight, values):
    for i in range(sums.shape[0]):
        sums[i] = weight * values[i]


@compiled
def add_pair(sums, weight, before, after):
    for i in range(sums.shape[0]):
        sums[i] += weight * (before[i] + after[i])


@compiled
def add_four_pairs(sums, weights, before0, after0, before1, after1, before2, after2, before3, after3):
    """Four at once, so that the sums travel to and from memory a quarter as often."""
    weight0, weight1, weight2, weight3 = weights[0], weights[1], weights[2], weights[3]
    for i in range(sums.shape[0]):
        near = weight0 * (before0[i] + after0[i]) + weight1 * (before1[i] + after1[i])
        far = weight2 * (before2[i] + after2[i]) + weight3 * (before3[i] + after3[i])
        sums[i] += near + far


@compiled
def down(task, y0, y1, x0, x1):
    """b: the fields of a, smoothed along y."""
    height, width = task.row.height, task.row.width
    radius = int(task.extra[0])
    weights = task.extra[3 : 4 + radius]
    fields = task.a
    sums = task.line[: x1 - x0]
    for y in range(y0, y1):
        for field in range(2):
            start, end = field * width + x0, field * width + x1
            scaled(sums, weights[0], fields[y, start:end])
            tap = 1
            while tap + 3 <= radius:
                add_four_pairs(
                    sums,
                    weights[tap : tap + 4],
                    fields[mirror_once(y - tap, height), start:end],
                    fields[mirror_once(y + tap, height), start:end],
                    fields[mirror_once(y - tap - 1, height), start:end],
                    fields[mirror_once(y + tap + 1, height), start:end],
                    fields[mirror_once(y - tap - 2, height), start:end],
                    fields[mirror_once(y + tap + 2, height), start:end],
                    fields[mirror_once(y - tap - 3, height), start:end],
                    fields[mirror_once(y + tap + 3, height), start:end],
                )
                tap += 4
            while tap <= radius:
                before, after = (
                    fields[mirror_once(y - tap, height), start:end],
                    fields[mirror_once(y + tap, height), start:end],
                )
                add_pair(sums, weights[tap], before, after)
                tap += 1
            smoothed = task.b[y, start:end]
            for i in range(x1 - x0):
                smoothed[i] = sums[i]


@compiled
def along_at(values, weights, x):
    """One line smoothed at x."""
    size = values.shape[0]
    total = weights[0] * values[x]
    for tap in range(1, weights.shape[0]):
        total += weights[tap] * (values[mirror_once(x - tap, size)] + values[mirror_once(x + tap, size)])
    return total


@compiled
def along_line(sums, padded, values, weights):
    """A whole line smoothed, by way of a mirrored copy."""
    num, radius = values.shape[0], weights.shape[0] - 1
    for i in range(radius):
        padded[i] = values[radius - 1 - i]
        padded[radius + num + i] = values[num - 1 - i]
    inner = padded[radius : radius + num]
    for i in range(num):
        inner[i] = values[i]
    scaled(sums, weights[0], inner)
    tap = 1
    while tap + 3 <= radius:
        back, forth = radius - tap, radius + tap
        add_four_pairs(
            sums,
            weights[tap : tap + 4],
            padded[back : back + num],
            padded[forth : forth + num],
            padded[back - 1 : back - 1 + num],
            padded[forth + 1 : forth + 1 + num],
            padded[back - 2 : back - 2 + num],
            padded[forth + 2 : forth + 2 + num],
            padded[back - 3 : back - 3 + num],
            padded[forth + 3 : forth + 3 + num],
        )
        tap += 4
    while tap <= radius:
        back, forth = radius - tap, radius + tap
        add_pair(sums, weights[tap], padded[back : back + num], padded[forth : forth + num])
        tap += 1


@compiled
def split(parts_y, parts_x, wholes, scale):
    """Displacements (scale times the fields) to fractions, and whole pixels packed.

    Rounding after the offset has been added may put a fraction 0.0003 outside [0, 1): of no consequence.
    """
    offset = float32(WHOLE // 2)
    for i in range(wholes.shape[0]):
        move_y, move_x = scale * parts_y[i] + offset, scale * parts_x[i] + offset
        whole_y, whole_x = float32(int32(move_y)), float32(int32(move_x))
        parts_y[i] = scale * parts_y[i] - (whole_y - offset)
        parts_x[i] = scale * parts_x[i] - (whole_x - offset)
        wholes[i] = whole_y * float32(WHOLE) + whole_x


@compiled
def along(task, y0, y1, x0, x1):
    """a: the fields of b smoothed along x, in pixels: fractions of both, then their whole pixels packed."""
    width, radius_down = task.row.width, int(task.extra[0])
    weights = task.extra[4 + radius_down : 5 + radius_down + int(task.extra[1])]
    for y in range(y0, y1):
        fields, out = task.b[y], task.a[y]
        for x in range(x0, x1):
            out[x] = along_at(fields[:width], weights, x)
            out[width + x] = along_at(fields[width : 2 * width], weights, x)
        split(out[x0:x1], out[width + x0 : width + x1], out[2 * width + x0 : 2 * width + x1], task.extra[2])


@compiled
def wide_along(task, y0, y1, x0, x1):
    """The same for whole rows. x0 must be 0, x1 the width."""
    width, radius_down, radius = task.row.width, int(task.extra[0]), int(task.extra[1])
    weights = task.extra[4 + radius_down : 5 + radius_down + radius]
    padded = task.line[: width + 2 * radius]
    for y in range(y0, y1):
        fields, out = task.b[y], task.a[y]
        along_line(out[:width], padded, fields[:width], weights)
        along_line(out[width : 2 * width], padded, fields[width : 2 * width], weights)
        split(out[:width], out[width : 2 * width], out[2 * width : 3 * width], task.extra[2])


@compiled
def between(top_left, top_right, bottom_left, bottom_right, part_x, part_y):
    """Linear between four values; uint8 after truncation."""
    above, below = float32(top_left), float32(bottom_left)
    above += (float32(top_right) - above) * part_x
    below += (float32(bottom_right) - below) * part_x
    return uint8(int32(above + (below - above) * part_y))


@compiled
def sample(task, y0, y1, x0, x1):
    """target: the image read where the fields of a point, linearly."""
    height, width = int64(task.row.height), int64(task.row.width)
    source, target = task.source, task.target
    one = uint64(1)
    for y in range(y0, y1):
        parts_y, parts_x, wholes = task.a[y, :width], task.a[y, width : 2 * width], task.a[y, 2 * width : 3 * width]
        out = target[y - task.origin_y]
        for x in range(x0, x1):
            packed = int32(wholes[x])
            top, left = y + (packed >> WHOLE_BITS) - WHOLE // 2, x + (packed & (WHOLE - 1)) - WHOLE // 2
            bottom, right = top + 1, left + 1
            if top < 0 or bottom >= height:
                top, bottom = mirror(top, height), mirror(bottom, height)
            if left < 0 or right >= width:
                left, right = mirror(left, width), mirror(right, width)
            part_y, part_x = parts_y[x], parts_x[x]
            row0, row1 = uint64(top), uint64(bottom)
            i, j, k = uint64(3 * left), uint64(3 * right), uint64(3 * (x - task.origin_x))
            out[k] = between(source[row0, i], source[row0, j], source[row1, i], source[row1, j], part_x, part_y)
            i, j, k = i + one, j + one, k + one
            out[k] = between(source[row0, i], source[row0, j], source[row1, i], source[row1, j], part_x, part_y)
            i, j, k = i + one, j + one, k + one
            out[k] = between(source[row0, i], source[row0, j], source[row1, i], source[row1, j], part_x, part_y)


CORRUPTION = Corruption(
    name="elastic_transform",
    severities=(12.5, 16.25, 21.25, 25.0, 30.0),  # factor of the smoothed displacement
    stages=(noise, down, along, sample),
    cpu_stages=(noise, down, wide_along, sample),
    own_kernels="kernels.corruptions.elastic_cuda",
    prior="none",
    subset="digital",
    training=True,
    fill=fill,
)
