"""Antialiased bilinear downscaling, mirroring, normalisation and the store into a network's layout.

As `torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)`. Let s = side / small side >= 1 and c
= (i + 1/2) s. Output pixel i is a weighted mean of the pixels k in [int(c - s + 1/2), int(c + s + 1/2)). The weight is
max(0, 1 - |k + 1/2 - c| / s). The same weights without a downscale are 1 and 0. Values are then (v / 255 - mean) /
deviation with ImageNet's numbers.
"""

from numba import float32, uint64

from kernels.jit import compiled

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@compiled
def normalise(value, channel):
    """(value / 255 - mean) / deviation."""
    if channel == 0:
        return value * float32(1 / (255 * 0.229)) - float32(0.485 / 0.229)
    if channel == 1:
        return value * float32(1 / (255 * 0.224)) - float32(0.456 / 0.224)
    return value * float32(1 / (255 * 0.225)) - float32(0.406 / 0.225)


@compiled
def first_tap(i, scale):
    return max(int((float32(i) + float32(0.5)) * scale - scale + float32(0.5)), 0)


@compiled
def end_tap(i, scale, side):
    return min(int((float32(i) + float32(0.5)) * scale + scale + float32(0.5)), side)


@compiled
def tap_weight(i, k, scale):
    """Not yet normalised."""
    distance = (float32(k) + float32(0.5) - (float32(i) + float32(0.5)) * scale) / scale
    return max(float32(1) - abs(distance), float32(0))


@compiled
def scale_of(side, small):
    """Exactly 1 without a downscale, which a GPU's fast division does not promise."""
    return float32(1) if side == small else float32(side) / float32(max(small, 1))


@compiled
def clean_rows(source, out, row, y0, y1):
    """out[y, x, c]: the clean image, mirrored where the row requires it, normalised; 0 outside the image."""
    height, width, flip = row.height, row.width, row.flip
    num_x = out.shape[1] // 3
    for y in range(y0, y1):
        inside = width if y < height else 0
        for x in range(inside):
            i = 3 * (width - 1 - x) if flip else 3 * x
            for c in range(3):
                out[uint64(y), uint64(3 * x + c)] = normalise(float32(source[uint64(y), uint64(i + c)]), c)
        for i in range(3 * inside, 3 * num_x):
            out[uint64(y), uint64(i)] = float32(0)


@compiled
def shrink_rows(corrupted, out, row, line, taps, y0, y1):
    """out[y, x, c]: the corrupted image downscaled, mirrored, normalised; 0 outside. CPU only: whole rows.

    `line` holds one row shrunk along y; `taps` (4 x small width float32 and more) the weights along x, made once.
    """
    height, width, flip = row.height, row.width, row.flip
    small_height, small_width = row.small_height, row.small_width
    num_x = out.shape[1] // 3
    scale_y, scale_x = scale_of(height, small_height), scale_of(width, small_width)
    most = int(float32(2) * scale_x) + 2
    for x in range(small_width):
        begin, end = first_tap(x, scale_x), end_tap(x, scale_x, width)
        total = float32(0)
        for k in range(begin, end):
            total += tap_weight(x, k, scale_x)
        for k in range(begin, begin + most):
            weight = tap_weight(x, k, scale_x) / total if k < end else float32(0)
            taps[uint64(x * most + k - begin)] = weight
    for y in range(y0, y1):
        inside = small_width if y < small_height else 0
        if inside > 0:
            begin, end = first_tap(y, scale_y), end_tap(y, scale_y, height)
            total = float32(0)
            for k in range(begin, end):
                total += tap_weight(y, k, scale_y)
            for k in range(begin, end):
                weight = tap_weight(y, k, scale_y) / total
                if k == begin:
                    for i in range(3 * width):
                        line[uint64(i)] = weight * float32(corrupted[uint64(k), uint64(i)])
                else:
                    for i in range(3 * width):
                        line[uint64(i)] += weight * float32(corrupted[uint64(k), uint64(i)])
            for x in range(inside):
                begin = first_tap(x, scale_x)
                last = min(most, width - begin)
                red, green, blue = float32(0), float32(0), float32(0)
                for k in range(last):
                    weight = taps[uint64(x * most + k)]
                    i = 3 * (begin + k)
                    red += weight * line[uint64(i)]
                    green += weight * line[uint64(i + 1)]
                    blue += weight * line[uint64(i + 2)]
                o = 3 * (small_width - 1 - x) if flip else 3 * x
                out[uint64(y), uint64(o)] = normalise(red, 0)
                out[uint64(y), uint64(o + 1)] = normalise(green, 1)
                out[uint64(y), uint64(o + 2)] = normalise(blue, 2)
        for i in range(3 * inside, 3 * num_x):
            out[uint64(y), uint64(i)] = float32(0)
