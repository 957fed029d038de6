"""defocus_blur: a disk with a softened rim, borders mirrored (`cv2.filter2D`, BORDER_REFLECT_101).

The reference's kernel is a disk of radius r, normalised, then blurred by a small gaussian *inside its own array*. For r
= 8 and 10 the disk touches the edge of that array. The blur is mirrored there, and the sum of the kernel is 1.3 or 1.1
% above 1. So there are three parts here. First sums over the disk by running sums along rows (exact integers). Then the
small gaussian. Then what the mirroring added, as single taps (four mirrored positions each).

extra, in this order: radius of the disk, half-width of the gaussian, its weights at 0..2. Then the half-widths of the
disk's rows at distance 0..10 and the number of taps. Then dy, dx, weight of each tap. The weights are those of one
axis; 1 / pixels of the disk is included in `SCALE`.
"""

import numpy as np
from numba import float32, uint64

from kernels.corruptions.gaussian import store_line
from kernels.corruptions.record import Corruption
from kernels.corruptions.shift import add_pair_reflected, reflect
from kernels.jit import compiled

RADIUS, SOFT_RADIUS, SOFT, SCALE, HALF_WIDTHS, NUM_TAPS, TAPS = 0, 1, 2, 5, 6, 17, 18


@compiled
def running_sums(task, y0, y1, x0, x1):
    """a[y, x]: sum of the source's row up to and including x. Whole rows only."""
    source, a, width = task.source, task.a, task.row.width
    for y in range(y0, y1):
        red, green, blue = float32(0), float32(0), float32(0)
        for x in range(width):
            red += float32(source[uint64(y), uint64(3 * x)])
            green += float32(source[uint64(y), uint64(3 * x + 1)])
            blue += float32(source[uint64(y), uint64(3 * x + 2)])
            a[uint64(y), uint64(3 * x)] = red
            a[uint64(y), uint64(3 * x + 1)] = green
            a[uint64(y), uint64(3 * x + 2)] = blue


@compiled
def add_run(line, source, sums, y, half_width, width, x0, x1):
    """line[x] += sum of source[y, x - half_width .. x + half_width], mirrored at the borders."""
    left = min(max(x0, half_width + 1), x1)
    right = max(min(x1, width - half_width), left)
    first, ahead, behind = 3 * x0, 3 * half_width, 3 * half_width + 3
    for i in range(3 * left, 3 * right):
        line[uint64(i - first)] += sums[uint64(y), uint64(i + ahead)] - sums[uint64(y), uint64(i - behind)]
    for side in range(2):
        begin = x0 if side == 0 else right
        end = left if side == 0 else x1
        for x in range(begin, end):
            for k in range(x - half_width, x + half_width + 1):
                at = 3 * reflect(k, width)
                for c in range(3):
                    line[uint64(3 * (x - x0) + c)] += float32(source[uint64(y), uint64(at + c)])


@compiled
def disk_sums(task, y0, y1, x0, x1):
    """b[y, x]: sum of the source over the disk around (y, x)."""
    b, line, extra = task.b, task.line, task.extra
    height, width, radius = task.row.height, task.row.width, int(extra[RADIUS])
    first = 3 * x0
    for y in range(y0, y1):
        for i in range(first, 3 * x1):
            line[uint64(i - first)] = float32(0)
        for dy in range(-radius, radius + 1):
            half_width = int(extra[HALF_WIDTHS + abs(dy)])
            add_run(line, task.source, task.a, reflect(y + dy, height), half_width, width, x0, x1)
        for i in range(first, 3 * x1):
            b[uint64(y), uint64(i)] = line[uint64(i - first)]


@compiled
def soften(task, y0, y1, x0, x1):
    """The small gaussian over the disk sums (they are mirrored at the borders as the image is), and the taps."""
    line, extra, source, b = task.line, task.extra, task.source, task.b
    height, width, soft = task.row.height, task.row.width, int(extra[SOFT_RADIUS])
    first = 3 * x0
    for y in range(y0, y1):
        weight = extra[SCALE] * extra[SOFT] * extra[SOFT]
        for i in range(first, 3 * x1):
            line[uint64(i - first)] = weight * b[uint64(y), uint64(i)]
        for dy in range(-soft, soft + 1):
            row = reflect(y + dy, height)
            weight = extra[SCALE] * extra[SOFT + abs(dy)]
            if dy != 0:
                for i in range(first, 3 * x1):
                    line[uint64(i - first)] += weight * extra[SOFT] * b[uint64(row), uint64(i)]
            for dx in range(1, soft + 1):
                add_pair_reflected(line, b, row, dx, weight * extra[SOFT + dx], width, x0, x1)
        for tap in range(int(extra[NUM_TAPS])):
            dy, dx = int(extra[TAPS + 3 * tap]), int(extra[TAPS + 3 * tap + 1])
            weight = extra[TAPS + 3 * tap + 2]
            add_pair_reflected(line, source, reflect(y - dy, height), dx, weight, width, x0, x1)
            add_pair_reflected(line, source, reflect(y + dy, height), dx, weight, width, x0, x1)
        store_line(task, y, x0, x1)


def kernel(radius: int, sigma: float) -> np.ndarray:
    """The reference's kernel: `cv2.GaussianBlur(disk, (n, n), sigma)` with n = 3 up to radius 8, else 5."""
    half, soft = max(radius, 8), (1 if radius <= 8 else 2)
    position = np.arange(-half, half + 1)
    disk = (position[:, None] ** 2 + position**2 <= radius**2).astype(float)
    disk /= disk.sum()
    gaussian = soft_weights(sigma, soft)
    gaussian = np.concatenate([gaussian[:0:-1], gaussian])
    for axis in (0, 1):
        padded = np.pad(disk, [(soft, soft) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        disk = np.apply_along_axis(np.convolve, axis, padded, gaussian, mode="valid")
    return disk


def soft_weights(sigma: float, soft: int) -> np.ndarray:
    half = np.exp(-0.5 * (np.arange(soft + 1) / sigma) ** 2)
    return half / (2 * half.sum() - half[0])


def extra(level: int) -> np.ndarray:
    radius, sigma = CORRUPTION.severities[level - 1]
    soft = 0 if sigma < 0.2 else (1 if radius <= 8 else 2)  # at sigma 0.1 the neighbours weigh 2e-22
    exact = kernel(radius, sigma)
    half = len(exact) // 2
    distance = np.arange(half + 1)

    gaussian = soft_weights(sigma, soft)
    half_widths = np.floor(np.sqrt(np.maximum(radius**2 - distance**2, 0)))
    position = np.arange(-half - soft, half + soft + 1)
    disk = (position[:, None] ** 2 + position**2 <= radius**2).astype(float)
    scale = 1 / disk.sum()
    both = np.concatenate([gaussian[:0:-1], gaussian])
    plain = scale * disk
    for axis in (0, 1):
        plain = np.apply_along_axis(np.convolve, axis, plain, both, mode="same")
    rest = np.pad(exact, soft) - plain
    centre = half + soft
    quarter = rest[centre:, centre:]
    taps = []
    for dy, dx in np.argwhere(np.abs(quarter) > 1e-7):
        # A tap stands for the four positions (+-dy, +-dx), which coincide on the axes.
        taps.append((dy, dx, quarter[dy, dx] * (0.5 if dy == 0 else 1.0) * (0.5 if dx == 0 else 1.0)))

    values = np.zeros(TAPS + 3 * len(taps))
    values[RADIUS], values[SOFT_RADIUS], values[SCALE], values[NUM_TAPS] = radius, soft, scale, len(taps)
    values[SOFT : SOFT + soft + 1] = gaussian
    values[HALF_WIDTHS : HALF_WIDTHS + radius + 1] = half_widths[: radius + 1]
    values[TAPS:] = np.ravel(taps)
    return values


CORRUPTION = Corruption(
    name="defocus_blur",
    severities=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # disk radius, blur of its rim
    stages=(running_sums, disk_sums, soften),
    own_kernels="kernels.corruptions.defocus_cuda",
    prior="optics",
    subset="blur",
    training=True,
    extra=extra,
)
