# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""jpeg_compression on a GPU: a line of eight samples a thread, coefficients in registers, turned in shared memory.

The first kernel takes REGIONS regions of 16 x 16 pixels side by side: to YCbCr and halved chroma, then rows, columns
with quantisation and columns back, rows back. Every transform of eight is `jpeg.forward` or `jpeg.inverse`, so the
samples are those of `jpeg.blocks` to the last bit. The second makes the pixels. A thread of it takes the four that
share a sample of chroma, so that it reads each of nine samples once.

Between them four pixels are two numbers: whole ones below 2^24, which float32 holds exactly. planes_2BHX[0] has three
samples of luma at [chroma y, chroma x], planes_2BHX[1] the fourth, Cb and Cr, each from the lowest byte on.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels.corruptions.jpeg import BLOCK, forward, inverse, quantised, write_colour
from kernels.corruptions.record import OwnKernel
from kernels.jit import compiled, cuda_compiled

REGIONS = 8  # of a block of threads
LANES, WARPS = 32, 4
THREADS = LANES * WARPS
SIDE, PITCH = 8, 9  # a line takes nine places, so that neither rows nor columns of a warp read one bank together
PLACES = SIDE * PITCH
COLUMNS = SIDE * REGIONS  # of chroma
LUMA = 4 * REGIONS  # blocks of luma, in two rows; then come those of Cb, then those of Cr
VALUES = 6 * REGIONS * PLACES
TABLES = 2 * SIDE * SIDE
PAIRS = 32  # chroma samples that a block of the second kernel has along x


@compiled
def luma_of(r, g, b):
    """Y - 128 as `jpeg.read_line` has it."""
    sums = int32(int32(int32(19595) * r) + int32(int32(38470) * g)) + int32(int32(7471) * b)
    return int32(int32(int32(sums) + int32(32768 - (128 << 16))) >> int32(16))


@compiled
def blue_chroma_of(r, g, b):
    """Cb, likewise."""
    sums = int32(int32(int32(32768) * b) - int32(int32(11059) * r)) - int32(int32(21709) * g)
    return int32(int32(int32(sums) + int32(8421375)) >> int32(16))


@compiled
def red_chroma_of(r, g, b):
    """Cr, likewise."""
    sums = int32(int32(int32(32768) * r) - int32(int32(27439) * g)) - int32(int32(5329) * b)
    return int32(int32(int32(sums) + int32(8421375)) >> int32(16))


@compiled
def put_pixel(line, x, values, at):
    """Its luma to values[at]; returns both chromas."""
    i = uint64(uint32(3 * x))
    r, g, b = int32(line[i]), int32(line[i + uint64(1)]), int32(line[i + uint64(2)])
    values[at] = luma_of(r, g, b)
    return blue_chroma_of(r, g, b), red_chroma_of(r, g, b)


@compiled
def halved(upper, lower, right_upper, right_lower, x):
    """`jpeg.halve` of one sample."""
    total = int32(int32(upper + lower) + int32(right_upper + right_lower))
    return int32(int32(int32(total + int32(1 + (x & 1))) >> int32(2)) - int32(128))


@compiled
def load(values, at, step):
    """Eight values, from values[at] on, `step` apart."""
    i2, i4, i6 = at + uint64(2 * step), at + uint64(4 * step), at + uint64(6 * step)
    one = uint64(step)
    return (
        values[at], values[at + one], values[i2], values[i2 + one],
        values[i4], values[i4 + one], values[i6], values[i6 + one],
    )  # fmt: skip


@compiled
def store(values, at, step, line):
    i2, i4, i6 = at + uint64(2 * step), at + uint64(4 * step), at + uint64(6 * step)
    one = uint64(step)
    values[at], values[at + one], values[i2], values[i2 + one] = line[0], line[1], line[2], line[3]
    values[i4], values[i4 + one], values[i6], values[i6 + one] = line[4], line[5], line[6], line[7]


@compiled
def coded(line, steps, reciprocals, table):
    """A column there and back: forward transform, quantisation, inverse transform."""
    c = forward(line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[7], int32(15))
    q, r = load(steps, table, 1), load(reciprocals, table, 1)
    return inverse(
        quantised(c[0], q[0], r[0]), quantised(c[1], q[1], r[1]), quantised(c[2], q[2], r[2]),
        quantised(c[3], q[3], r[3]), quantised(c[4], q[4], r[4]), quantised(c[5], q[5], r[5]),
        quantised(c[6], q[6], r[6]), quantised(c[7], q[7], r[7]), int32(11),
    )  # fmt: skip


@compiled
def sample(value):
    return min(max(int32(value + int32(128)), int32(0)), int32(255))


@compiled
def packed(low, middle, high):
    return float32(int32(low | int32(int32(middle << 8) | int32(high << 16))))


@cuda_compiled
def transform(images_BHX, planes_2BHX, rows_B, extra_BE, lists_M, first_image):
    values = cuda.shared.array(VALUES, int32)
    steps = cuda.shared.array(TABLES, float32)
    reciprocals = cuda.shared.array(TABLES, float32)
    thread = int32(cuda.threadIdx.y * LANES + cuda.threadIdx.x)
    b, top, left = (
        lists_M[first_image + cuda.blockIdx.z],
        int32(cuda.blockIdx.y * SIDE),
        int32(cuda.blockIdx.x * COLUMNS),
    )
    row = rows_B[b]
    height, width = int32(row.height), int32(row.width)
    chroma_height, chroma_width = int32(int32(height + 1) >> 1), int32(int32(width + 1) >> 1)
    if top >= chroma_height or left >= chroma_width:
        return
    steps[uint32(thread)] = extra_BE[b, uint64(uint32(thread))]
    reciprocals[uint32(thread)] = float32(0.125) / steps[uint32(thread)]
    source, column = images_BHX[b], int32(thread & (COLUMNS - 1))
    x, last_x = int32(left + column), int32(width - 1)
    x0, x1 = min(int32(2 * x), last_x), min(int32(2 * x + 1), last_x)
    luma_at = int32(int32(column >> 2) * PLACES + int32(2 * int32(column & 3)))
    chroma_at = int32(int32(LUMA + (column >> 3)) * PLACES + int32(column & 7))
    line = int32(thread >> 6)  # each thread takes every second line of chroma
    first = line
    while line < SIDE:
        y = int32(top + line)
        # Below the image its last line goes on, in each plane by itself.
        y0 = min(int32(2 * y), int32(2 * chroma_height - 2))
        y1 = min(int32(y0 + 1), int32(height - 1))
        upper, lower = source[uint64(uint32(y0))], source[uint64(uint32(y1))]
        low = int32(line >> 2)
        at = uint64(uint32(luma_at + int32(low * int32(LUMA // 2 * PLACES)) + int32(2 * PITCH) * int32(line & 3)))
        under = at + uint64(PITCH)
        blue0, red0 = put_pixel(upper, x0, values, at)
        blue1, red1 = put_pixel(upper, x1, values, at + uint64(1))
        blue2, red2 = put_pixel(lower, x0, values, under)
        blue3, red3 = put_pixel(lower, x1, values, under + uint64(1))
        if y >= chroma_height:
            values[at], values[at + uint64(1)] = values[under], values[under + uint64(1)]
        at = uint64(uint32(chroma_at + int32(line * PITCH)))
        values[at] = halved(blue0, blue2, blue1, blue3, x)
        values[at + uint64(REGIONS * PLACES)] = halved(red0, red2, red1, red3, x)
        line = int32(line + THREADS // COLUMNS)
    cuda.syncthreads()
    eighth, u = int32(thread >> 3), int32(thread & 7)
    i = eighth
    while i < 6 * REGIONS:
        at = uint64(uint32(i * PLACES + u * PITCH))
        s = load(values, at, 1)
        store(values, at, 1, forward(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], int32(11)))
        i = int32(i + THREADS // SIDE)
    cuda.syncthreads()
    i = eighth
    while i < 6 * REGIONS:
        at = uint64(uint32(i * PLACES + u))
        table = uint64(uint32(SIDE * u)) if i < LUMA else uint64(uint32(SIDE * SIDE + SIDE * u))
        store(values, at, PITCH, coded(load(values, at, PITCH), steps, reciprocals, table))
        i = int32(i + THREADS // SIDE)
    cuda.syncthreads()
    i = eighth
    while i < 6 * REGIONS:
        at = uint64(uint32(i * PLACES + u * PITCH))
        s = load(values, at, 1)
        store(values, at, 1, inverse(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], int32(18)))
        i = int32(i + THREADS // SIDE)
    cuda.syncthreads()
    if x >= chroma_width:
        return
    lumas, others, line, to = planes_2BHX[0, b], planes_2BHX[1, b], first, uint64(uint32(x))
    while line < SIDE and int32(top + line) < chroma_height:
        low = int32(line >> 2)
        at = uint64(uint32(luma_at + int32(low * int32(LUMA // 2 * PLACES)) + int32(2 * PITCH) * int32(line & 3)))
        under, y = at + uint64(PITCH), uint64(uint32(top + line))
        lumas[y, to] = packed(sample(values[at]), sample(values[at + uint64(1)]), sample(values[under]))
        fourth, at = sample(values[under + uint64(1)]), uint64(uint32(chroma_at + int32(line * PITCH)))
        others[y, to] = packed(fourth, sample(values[at]), sample(values[at + uint64(REGIONS * PLACES)]))
        line = int32(line + THREADS // COLUMNS)


@compiled
def chroma_of(number):
    """Cb in the lower half of a word, Cr in the upper one: both are upsampled at once, sums stay below 2^12."""
    word = uint32(int32(number))
    return uint32(uint32(uint32(word >> uint32(8)) & uint32(255)) | uint32(word & uint32(0xFF0000)))


@compiled
def three_and(near, far):
    return uint32(uint32(uint32(3) * near) + far)


@compiled
def upsampled(here, beside, odd):
    """A sample as `jpeg.upsampled` has it: 9, 3, 3 and 1 sixteenths, rounded down where x is odd."""
    return uint32(uint32(three_and(here, beside) + uint32(0x70007 if odd else 0x80008)) >> uint32(4))


@compiled
def put_colour(out, x, luma, chroma):
    blue, red = int32(chroma & uint32(255)), int32(uint32(chroma >> uint32(16)) & uint32(255))
    write_colour(out[uint64(uint32(3 * x)) :], uint64(0), luma, blue, red)


@cuda_compiled
def convert(planes_2BHX, pixels_BHX, rows_B, lists_M, first_image):
    x = int32(cuda.blockIdx.x * PAIRS + cuda.threadIdx.x)
    y = int32(cuda.blockIdx.y * SIDE + cuda.threadIdx.y)
    b = lists_M[first_image + cuda.blockIdx.z]
    row = rows_B[b]
    height, width = int32(row.height), int32(row.width)
    if int32(2 * y) >= height or int32(2 * x) >= width:
        return
    last_y, last_x = int32(int32(height - 1) >> 1), int32(int32(width - 1) >> 1)
    lumas, others, out = planes_2BHX[0, b], planes_2BHX[1, b], pixels_BHX[b]
    before, here = uint64(uint32(max(int32(x - 1), int32(0)))), uint64(uint32(x))
    after = uint64(uint32(min(int32(x + 1), last_x)))
    above, near = others[uint64(uint32(max(int32(y - 1), int32(0))))], others[uint64(uint32(y))]
    below = others[uint64(uint32(min(int32(y + 1), last_y)))]
    middle = chroma_of(near[here])
    v0 = v1 = v2 = v3 = middle
    if last_x > 1:  # libjpeg does not smooth what is narrower
        west, east = chroma_of(near[before]), chroma_of(near[after])
        up, down = three_and(middle, chroma_of(above[here])), three_and(middle, chroma_of(below[here]))
        v0 = upsampled(up, three_and(west, chroma_of(above[before])), False)
        v1 = upsampled(up, three_and(east, chroma_of(above[after])), True)
        v2 = upsampled(down, three_and(west, chroma_of(below[before])), False)
        v3 = upsampled(down, three_and(east, chroma_of(below[after])), True)
    three, fourth = int32(lumas[uint64(uint32(y)), here]), int32(int32(near[here]) & 255)
    left, right, line = int32(2 * x), int32(2 * x + 1), out[uint64(uint32(2 * y))]
    put_colour(line, left, int32(three & 255), v0)
    if right < width:
        put_colour(line, right, int32(int32(three >> 8) & 255), v1)
    if int32(2 * y + 1) < height:
        line = out[uint64(uint32(2 * y + 1))]
        put_colour(line, left, int32(three >> 16), v2)
        if right < width:
            put_colour(line, right, fourth, v3)


KERNELS = (
    OwnKernel(
        "jpeg_transform", transform, ("images_BHX", "planes_2BHX", "rows_B", "extra_BE"),
        (BLOCK, BLOCK * REGIONS), (LANES, WARPS),
    ),
    OwnKernel(
        "jpeg_convert", convert, ("planes_2BHX", "pixels_BHX", "rows_B"), (2 * SIDE, 2 * PAIRS), (PAIRS, SIDE)
    ),
)  # fmt: skip
