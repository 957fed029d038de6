# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""elastic_transform on a GPU: both gaussians from shared memory, eight sums of a thread in registers.

`smooth_down` draws the fields into shared memory and smooths them there along y: fields -> planes_2BHX[0], as
`elastic.down` has them in b. `smooth_along` smooths a piece of a few lines along x, and reads the image where they
point. The sums add up in another order than those of `elastic.down` and `elastic.along`, and no more.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels import rng
from kernels.corruptions.elastic import LONGEST_TAPS, WHOLE, between, mirror, mirror_once
from kernels.corruptions.record import OwnKernel
from kernels.jit import compiled, cuda_compiled

LANES, WARPS = 32, 8
EIGHT = 8  # sums of a thread
MOST_TAPS = 2 * LONGEST_TAPS  # of a whole gaussian, up to a multiple of EIGHT

# smooth_down: LANES columns of one field, a thread `DOWN_TURNS` times eight rows below each other.
DOWN_TURNS = 2
DOWN_ROWS = WARPS * DOWN_TURNS * EIGHT
DOWN_VALUES = LANES * (DOWN_ROWS + MOST_TAPS)

# smooth_along: a line of both fields a warp. Eight values take nine places, so that the lanes of a warp, eight values
# apart, read from different banks.
ALONG_COLUMNS = LANES * EIGHT
PITCH = (ALONG_COLUMNS + MOST_TAPS + EIGHT) // EIGHT * (EIGHT + 1)
ALONG_VALUES = WARPS * 2 * PITCH


@compiled
def fill_taps(taps, half, radius, thread):
    """A whole gaussian from its half, and zeros to a multiple of eight. Returns how many there are."""
    num = int32(int32(2 * radius + 8) >> 3 << 3)
    if thread < num:
        distance = int32(abs(int32(thread - radius)))
        taps[uint32(thread)] = half[uint32(distance)] if distance <= radius else float32(0)
    return num


@compiled
def add_tap(sums, weight, v0, v1, v2, v3, v4, v5, v6, v7):
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    return (
        s0 + weight * v0, s1 + weight * v1, s2 + weight * v2, s3 + weight * v3,
        s4 + weight * v4, s5 + weight * v5, s6 + weight * v6, s7 + weight * v7,
    )  # fmt: skip


@compiled
def eight_sums(values, at, step, group, taps, num):
    """Eight neighbouring sums of weighted values. Value i lies at at + i * step, and at + i // 8 * group more.

    Each value and each weight is read once. The eight values that a tap needs stay in registers. The next tap needs
    seven of them, so the names rotate.
    """
    zero, one = float32(0), uint64(1)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    i, k, end = uint64(at), uint64(0), uint64(num)
    d1, d2, d3, d4 = uint64(step), uint64(2 * step), uint64(3 * step), uint64(4 * step)
    d5, d6, d7, d8 = uint64(5 * step), uint64(6 * step), uint64(7 * step), uint64(group)
    v0, v1, v2, v3 = values[i], values[i + d1], values[i + d2], values[i + d3]
    v4, v5, v6, v7 = values[i + d4], values[i + d5], values[i + d6], values[i + d7]
    while k < end:
        i += d8
        sums = add_tap(sums, taps[k], v0, v1, v2, v3, v4, v5, v6, v7)
        v0 = values[i]
        sums = add_tap(sums, taps[k + one], v1, v2, v3, v4, v5, v6, v7, v0)
        v1 = values[i + d1]
        sums = add_tap(sums, taps[k + uint64(2)], v2, v3, v4, v5, v6, v7, v0, v1)
        v2 = values[i + d2]
        sums = add_tap(sums, taps[k + uint64(3)], v3, v4, v5, v6, v7, v0, v1, v2)
        v3 = values[i + d3]
        sums = add_tap(sums, taps[k + uint64(4)], v4, v5, v6, v7, v0, v1, v2, v3)
        v4 = values[i + d4]
        sums = add_tap(sums, taps[k + uint64(5)], v5, v6, v7, v0, v1, v2, v3, v4)
        v5 = values[i + d5]
        sums = add_tap(sums, taps[k + uint64(6)], v6, v7, v0, v1, v2, v3, v4, v5)
        v6 = values[i + d6]
        sums = add_tap(sums, taps[k + uint64(7)], v7, v0, v1, v2, v3, v4, v5, v6)
        v7 = values[i + d7]
        k += uint64(EIGHT)
    return sums


@compiled
def move_pixel(source, out, y, x, height, width, move_y, move_x):
    """out[x]: the image read between four pixels, as `elastic.split` and `elastic.sample` do it."""
    half = float32(WHOLE // 2)
    whole_y, whole_x = int32(int32(move_y + half) - WHOLE // 2), int32(int32(move_x + half) - WHOLE // 2)
    part_y, part_x = move_y - float32(whole_y), move_x - float32(whole_x)
    top, left = int32(y + whole_y), int32(x + whole_x)
    bottom, right = int32(top + 1), int32(left + 1)
    if top < 0 or bottom >= height:
        top, bottom = int32(mirror(top, height)), int32(mirror(bottom, height))
    if left < 0 or right >= width:
        left, right = int32(mirror(left, width)), int32(mirror(right, width))
    above, below = source[uint64(uint32(top))], source[uint64(uint32(bottom))]
    i, j, k = uint64(uint32(3 * left)), uint64(uint32(3 * right)), uint64(uint32(3 * x))
    one, two = uint64(1), uint64(2)
    red = between(above[i], above[j], below[i], below[j], part_x, part_y)
    green = between(above[i + one], above[j + one], below[i + one], below[j + one], part_x, part_y)
    blue = between(above[i + two], above[j + two], below[i + two], below[j + two], part_x, part_y)
    out[k], out[k + one], out[k + two] = red, green, blue


@compiled
def store_column(out, y, i, sums, left):
    """The first `left` of eight sums below each other."""
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    out[y, i] = s0
    if left > 1:
        out[y + uint64(1), i] = s1
    if left > 2:
        out[y + uint64(2), i] = s2
    if left > 3:
        out[y + uint64(3), i] = s3
    if left > 4:
        out[y + uint64(4), i] = s4
    if left > 5:
        out[y + uint64(5), i] = s5
    if left > 6:
        out[y + uint64(6), i] = s6
    if left > 7:
        out[y + uint64(7), i] = s7


@compiled
def smooth_field(tile, taps, num, row, out, top, x, radius, lane, warp, stage, begin):
    """A tile of one field, to the columns of `out` from `begin` on."""
    height, width = int32(row.height), int32(row.width)
    rows = int32(min(int32(height - top), int32(DOWN_ROWS)))  # to write
    last, end = int32(rows + 2 * radius), int32(int32(int32(rows + 7) >> 3 << 3) + num)
    key0, key1, first_y = row.key0, row.key1, int32(top - radius)
    y, at = warp, uint64(uint32(warp * LANES + lane))
    while y < end:  # behind the last, they are read with weights of zero or for rows that are not written
        value = float32(0)
        if y < last:
            from_y = int32(mirror_once(int32(first_y + y), height))
            value = rng.uniform(rng.bits(key0, key1, stage, from_y, x)) * float32(2.0) - float32(1.0)
        tile[at] = value
        y, at = int32(y + WARPS), at + uint64(WARPS * LANES)
    cuda.syncthreads()
    y = int32(warp * EIGHT) if x < width else rows
    while y < rows:
        at, to, left = uint64(uint32(y * LANES + lane)), uint64(uint32(top + y)), int32(rows - y)
        sums = eight_sums(tile, at, LANES, LANES * EIGHT, taps, num)
        store_column(out, to, uint64(uint32(begin + x)), sums, left)
        y = int32(y + WARPS * EIGHT)


@cuda_compiled
def smooth_down(rows_B, extra_BE, planes_2BHX, lists_M, first_image):
    tile = cuda.shared.array(DOWN_VALUES, float32)
    taps = cuda.shared.array(MOST_TAPS, float32)
    lane, warp, b = int32(cuda.threadIdx.x), int32(cuda.threadIdx.y), lists_M[first_image + cuda.blockIdx.z]
    top, x = int32(cuda.blockIdx.y * DOWN_ROWS), int32(cuda.blockIdx.x * LANES + lane)
    row, extra = rows_B[b], extra_BE[b]
    height, width = int32(row.height), int32(row.width)
    if top >= height or int32(x - lane) >= width:
        return
    radius = int32(extra[0])
    num = fill_taps(taps, extra[3:], radius, int32(warp * LANES + lane))
    smooth_field(tile, taps, num, row, planes_2BHX[0, b], top, x, radius, lane, warp, uint32(rng.FIELD_Y), 0)
    cuda.syncthreads()
    smooth_field(tile, taps, num, row, planes_2BHX[0, b], top, x, radius, lane, warp, uint32(rng.FIELD_X), width)


@cuda_compiled
def smooth_along(images_BHX, rows_B, extra_BE, planes_2BHX, pixels_BHX, lists_M, first_image):
    """A warp has a line of the image, ALONG_COLUMNS pixels of it."""
    tile = cuda.shared.array(ALONG_VALUES, float32)
    taps = cuda.shared.array(MOST_TAPS, float32)
    lane, warp, b = int32(cuda.threadIdx.x), int32(cuda.threadIdx.y), lists_M[first_image + cuda.blockIdx.z]
    first, y = int32(cuda.blockIdx.x * ALONG_COLUMNS), int32(cuda.blockIdx.y * WARPS + warp)
    row, extra = rows_B[b], extra_BE[b]
    height, width = int32(row.height), int32(row.width)
    if int32(y - warp) >= height or first >= width:
        return
    radius_down, radius = int32(extra[0]), int32(extra[1])
    num = fill_taps(taps, extra[4 + radius_down :], radius, int32(warp * LANES + lane))
    columns = int32(min(int32(width - first), int32(ALONG_COLUMNS)))
    line = int32(warp * (2 * PITCH))
    if y < height:
        fields = planes_2BHX[0, b, y]
        last, end = int32(columns + 2 * radius), int32(int32(int32(columns + 7) >> 3 << 3) + num)
        i = lane
        while i < end:
            at = uint64(uint32(line + i + (i >> 3)))
            value_y, value_x = float32(0), float32(0)
            if i < last:
                x = int32(mirror_once(int32(first + i - radius), width))
                value_y, value_x = fields[uint64(x)], fields[uint64(x + width)]
            tile[at], tile[at + uint64(PITCH)] = value_y, value_x
            i = int32(i + LANES)
    cuda.syncthreads()
    at = uint64(uint32(line + lane * (EIGHT + 1)))
    inside = y < height and int32(lane * EIGHT) < columns
    for _ in range(2):
        if inside:
            sums = eight_sums(tile, at, 1, EIGHT + 1, taps, num)
        cuda.syncthreads()
        if inside:
            s0, s1, s2, s3, s4, s5, s6, s7 = sums
            one = uint64(1)
            tile[at], tile[at + one], tile[at + uint64(2)], tile[at + uint64(3)] = s0, s1, s2, s3
            at += uint64(4)
            tile[at], tile[at + one], tile[at + uint64(2)], tile[at + uint64(3)] = s4, s5, s6, s7
        at += uint64(PITCH - 4)
    cuda.syncthreads()
    if y >= height:
        return
    source, out, scale, i = images_BHX[b], pixels_BHX[b, y], extra[2], lane
    while i < columns:
        at = uint64(uint32(line + i + (i >> 3)))
        move_y, move_x = scale * tile[at], scale * tile[at + uint64(PITCH)]
        move_pixel(source, out, y, int32(first + i), height, width, move_y, move_x)
        i = int32(i + LANES)


KERNELS = (
    OwnKernel("elastic_down", smooth_down, ("rows_B", "extra_BE", "planes_2BHX"), (DOWN_ROWS, LANES), (LANES, WARPS)),
    OwnKernel(
        "elastic_along", smooth_along, ("images_BHX", "rows_B", "extra_BE", "planes_2BHX", "pixels_BHX"),
        (WARPS, ALONG_COLUMNS), (LANES, WARPS),
    ),
)  # fmt: skip
