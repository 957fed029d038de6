"""Adding a shifted row of pixels to the line of accumulators: what every weighted sum of neighbours is made of.

The middle of the row runs over contiguous memory; only the pixels whose neighbour lies outside the image look it up.
"""

from numba import float32, uint64

from kernels.jit import compiled


@compiled
def clamp(i, n):
    """The nearest index inside 0..n-1 (scipy's "nearest", OpenCV's BORDER_REPLICATE)."""
    return min(max(i, 0), n - 1)


@compiled
def reflect(i, n):
    """Mirrored at the outer pixels without repeating them (OpenCV's BORDER_REFLECT_101), however far outside."""
    if n == 1:
        return 0
    while i < 0 or i >= n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


@compiled
def clear(line, x0, x1):
    for i in range(3 * (x1 - x0)):
        line[uint64(i)] = float32(0)


@compiled
def add_clamped(line, values, y, dx, weight, width, x0, x1):
    """line[x] += weight * values[y, clamp(x + dx)] for x in [x0, x1), three channels."""
    left = min(max(x0, -dx), x1)
    right = max(min(x1, width - dx), left)
    for x in range(x0, left):
        for c in range(3):
            line[uint64(3 * (x - x0) + c)] += weight * float32(values[uint64(y), uint64(c)])
    shift, first = 3 * dx, 3 * x0
    for i in range(3 * left, 3 * right):
        line[uint64(i - first)] += weight * float32(values[uint64(y), uint64(i + shift)])
    for x in range(right, x1):
        for c in range(3):
            line[uint64(3 * (x - x0) + c)] += weight * float32(values[uint64(y), uint64(3 * (width - 1) + c)])


@compiled
def add_pair_clamped(line, values, y, dx, weight, width, x0, x1):
    """line[x] += weight * (values[y, clamp(x - dx)] + values[y, clamp(x + dx)]), dx >= 0."""
    left = min(max(x0, dx), x1)
    right = max(min(x1, width - dx), left)
    shift, first = 3 * dx, 3 * x0
    for i in range(3 * left, 3 * right):
        pair = float32(values[uint64(y), uint64(i - shift)]) + float32(values[uint64(y), uint64(i + shift)])
        line[uint64(i - first)] += weight * pair
    for x in range(x0, left):
        for c in range(3):
            before = float32(values[uint64(y), uint64(3 * clamp(x - dx, width) + c)])
            after = float32(values[uint64(y), uint64(3 * clamp(x + dx, width) + c)])
            line[uint64(3 * (x - x0) + c)] += weight * (before + after)
    for x in range(right, x1):
        for c in range(3):
            before = float32(values[uint64(y), uint64(3 * clamp(x - dx, width) + c)])
            after = float32(values[uint64(y), uint64(3 * clamp(x + dx, width) + c)])
            line[uint64(3 * (x - x0) + c)] += weight * (before + after)


@compiled
def add_pair_reflected(line, values, y, dx, weight, width, x0, x1):
    """line[x] += weight * (values[y, reflect(x - dx)] + values[y, reflect(x + dx)]), dx >= 0."""
    left = min(max(x0, dx), x1)
    right = max(min(x1, width - dx), left)
    shift, first = 3 * dx, 3 * x0
    for i in range(3 * left, 3 * right):
        pair = float32(values[uint64(y), uint64(i - shift)]) + float32(values[uint64(y), uint64(i + shift)])
        line[uint64(i - first)] += weight * pair
    for x in range(x0, left):
        for c in range(3):
            before = float32(values[uint64(y), uint64(3 * reflect(x - dx, width) + c)])
            after = float32(values[uint64(y), uint64(3 * reflect(x + dx, width) + c)])
            line[uint64(3 * (x - x0) + c)] += weight * (before + after)
    for x in range(right, x1):
        for c in range(3):
            before = float32(values[uint64(y), uint64(3 * reflect(x - dx, width) + c)])
            after = float32(values[uint64(y), uint64(3 * reflect(x + dx, width) + c)])
            line[uint64(3 * (x - x0) + c)] += weight * (before + after)


@compiled
def add_rows(line, values, above, below, weight, x0, x1):
    """line[x] += weight * (values[above, x] + values[below, x])."""
    first = 3 * x0
    for i in range(first, 3 * x1):
        pair = float32(values[uint64(above), uint64(i)]) + float32(values[uint64(below), uint64(i)])
        line[uint64(i - first)] += weight * pair
