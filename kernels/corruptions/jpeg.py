"""JPEG compression and decompression in pixels, without the entropy coding (it is lossless).

The arithmetic is libjpeg's, which Pillow calls. Compression: integer RGB -> YCbCr, chroma at half size both ways
(4:2:0), the "islow" forward transform of 8 x 8 blocks. Then quantisation with the tables of the quality. Decompression:
the "islow" inverse transform, "fancy" (triangle) upsampling, YCbCr -> RGB. Sources: ITU-T T.81 (1992); C. Loeffler, A.
Ligtenberg and G. Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications" (1989); the Independent JPEG
Group's jfdctint.c, jidctint.c, jcsample.c, jdsample.c, jccolor.c and jdcolor.c. The result equals Pillow's bit for bit.

Two stages. `blocks`: 16 x 16 regions (MCUs) -> decoded samples, Y in a[y, x], Cb in b[y, x] and Cr in b[y, w + x] at
half size. `colours`: upsampling and conversion, any region. The first comes in two widths of one source: one region, or
16 side by side as a CPU works, so that the innermost loop, over their blocks, is vectorised. `jpeg_cuda.py` has both
stages for a GPU.
"""

import numpy as np
from numba import float32, int32, int64, uint8

from kernels.corruptions.record import Corruption
from kernels.jit import compiled

BLOCK = 16  # `blocks` must be called for whole multiples of 16 x 16, the image's end excepted
CHUNK = 16  # regions side by side on the CPU
CUDA_LINE = 3 * 2 * 64 + 6 * 16  # floats of task.line: coefficients of 3 x 2 blocks and six lines of samples
LINE = CHUNK * CUDA_LINE  # the same on the CPU

# Quantisation tables of quality 50, ITU-T T.81 annex K, in rows.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def quantisation_table(base: tuple, quality: int) -> np.ndarray:
    """The 8 x 8 table of a quality below 50, in rows (libjpeg's jpeg_set_quality)."""
    return np.clip((np.array(base) * (5000 // quality) + 50) // 100, 1, 255)


def extra(level: int) -> np.ndarray:
    """The tables of luminance and chrominance, in columns: [table, u, v], u along x."""
    quality = CORRUPTION.severities[level - 1]
    return np.concatenate([quantisation_table(base, quality).T.ravel() for base in (LUMINANCE, CHROMINANCE)])


# Fixed-point constants of the transform, 13 bits.
C0_298, C0_390, C0_541, C0_765, C0_899, C1_175 = 2446, 3196, 4433, 6270, 7373, 9633
C1_501, C1_847, C1_961, C2_053, C2_562, C3_072 = 12299, 15137, 16069, 16819, 20995, 25172


@compiled
def forward(s0, s1, s2, s3, s4, s5, s6, s7, shift):
    """8-point forward DCT of int32, scaled by sqrt(8) * 2^13, then shifted right with rounding."""
    half = int32(int32(1) << int32(shift - 1))
    t0, t7, t1, t6 = int32(s0 + s7), int32(s0 - s7), int32(s1 + s6), int32(s1 - s6)
    t2, t5, t3, t4 = int32(s2 + s5), int32(s2 - s5), int32(s3 + s4), int32(s3 - s4)
    t10, t13, t11, t12 = int32(t0 + t3), int32(t0 - t3), int32(t1 + t2), int32(t1 - t2)
    o0 = int32(int32(int32(t10 + t11) << int32(13)) + half) >> shift
    o4 = int32(int32(int32(t10 - t11) << int32(13)) + half) >> shift
    z1 = int32(int32(int32(t12 + t13) * int32(C0_541)) + half)
    o2 = int32(z1 + int32(t13 * int32(C0_765))) >> shift
    o6 = int32(z1 - int32(t12 * int32(C1_847))) >> shift
    z1, z2, z3, z4 = int32(t4 + t7), int32(t5 + t6), int32(t4 + t6), int32(t5 + t7)
    z5 = int32(int32(int32(z3 + z4) * int32(C1_175)) + half)
    z1, z2 = int32(z1 * int32(C0_899)), int32(z2 * int32(C2_562))
    z3, z4 = int32(z5 - int32(z3 * int32(C1_961))), int32(z5 - int32(z4 * int32(C0_390)))
    o7 = int32(int32(int32(t4 * int32(C0_298)) - z1) + z3) >> shift
    o5 = int32(int32(int32(t5 * int32(C2_053)) - z2) + z4) >> shift
    o3 = int32(int32(int32(t6 * int32(C3_072)) - z2) + z3) >> shift
    o1 = int32(int32(int32(t7 * int32(C1_501)) - z1) + z4) >> shift
    return o0, o1, o2, o3, o4, o5, o6, o7


@compiled
def inverse(s0, s1, s2, s3, s4, s5, s6, s7, shift):
    """8-point inverse DCT of int32, scaled by sqrt(8) * 2^13, then shifted right with rounding."""
    half = int32(int32(1) << int32(shift - 1))
    z1 = int32(int32(s2 + s6) * int32(C0_541))
    t2, t3 = int32(z1 - int32(s6 * int32(C1_847))), int32(z1 + int32(s2 * int32(C0_765)))
    t0 = int32(int32(int32(s0 + s4) << int32(13)) + half)
    t1 = int32(int32(int32(s0 - s4) << int32(13)) + half)
    t10, t13, t11, t12 = int32(t0 + t3), int32(t0 - t3), int32(t1 + t2), int32(t1 - t2)
    z1, z2, z3, z4 = int32(s7 + s1), int32(s5 + s3), int32(s7 + s3), int32(s5 + s1)
    z5 = int32(int32(z3 + z4) * int32(C1_175))
    z1, z2 = int32(z1 * int32(C0_899)), int32(z2 * int32(C2_562))
    z3, z4 = int32(z5 - int32(z3 * int32(C1_961))), int32(z5 - int32(z4 * int32(C0_390)))
    t0 = int32(int32(int32(s7 * int32(C0_298)) - z1) + z3)
    t1 = int32(int32(int32(s5 * int32(C2_053)) - z2) + z4)
    t2 = int32(int32(int32(s3 * int32(C3_072)) - z2) + z3)
    t3 = int32(int32(int32(s1 * int32(C1_501)) - z1) + z4)
    o0, o7 = int32(t10 + t3) >> shift, int32(t10 - t3) >> shift
    o1, o6 = int32(t11 + t2) >> shift, int32(t11 - t2) >> shift
    o2, o5 = int32(t12 + t1) >> shift, int32(t12 - t1) >> shift
    o3, o4 = int32(t13 + t0) >> shift, int32(t13 - t0) >> shift
    return o0, o1, o2, o3, o4, o5, o6, o7


@compiled
def quantised(coefficient, step, reciprocal):
    """coefficient / (8 step) to the nearest whole number, halves away from zero, times step.

    The half in the product makes truncation exact: a quotient is at least 0.5 / (8 step) away from a whole number.
    """
    size = int32(abs(coefficient))
    count = int32((float32(size) + float32(4.0) * step + float32(0.5)) * reciprocal)
    value = int32(count * int32(step))
    return value if coefficient > int32(0) else int32(-value)


@compiled
def read_line(pixels, luma, blue, red):
    """RGB pixels of one line to Y - 128, Cb and Cr; the last one is repeated to the end."""
    valid = pixels.shape[0] // 3
    for i in range(valid):
        r, g, b = int32(pixels[3 * i]), int32(pixels[3 * i + 1]), int32(pixels[3 * i + 2])
        y = int32(int32(int32(19595) * r) + int32(int32(38470) * g)) + int32(int32(7471) * b)
        cb = int32(int32(int32(32768) * b) - int32(int32(11059) * r)) - int32(int32(21709) * g)
        cr = int32(int32(int32(32768) * r) - int32(int32(27439) * g)) - int32(int32(5329) * b)
        luma[i] = float32(int32(int32(y) + int32(32768 - (128 << 16))) >> int32(16))
        blue[i] = float32(int32(int32(cb) + int32(8421375)) >> int32(16))
        red[i] = float32(int32(int32(cr) + int32(8421375)) >> int32(16))
    last_luma, last_blue, last_red = luma[valid - 1], blue[valid - 1], red[valid - 1]
    for i in range(valid, luma.shape[0]):
        luma[i], blue[i], red[i] = last_luma, last_blue, last_red


@compiled
def halve(upper, lower, out):
    """Means of 2 x 2 samples minus 128, rounded down and up in turn."""
    for i in range(out.shape[0]):
        total = int32(int32(upper[2 * i]) + int32(upper[2 * i + 1])) + int32(
            int32(lower[2 * i]) + int32(lower[2 * i + 1])
        )
        out[i] = float32(int32(int32(int32(total) + int32(1 + (i & 1))) >> int32(2)) - int32(128))


@compiled
def blocks_side_by_side(wide):
    """How many blocks a line has. `wide` is None or 0. Numba decides by its type, when compiling. So the loops have a
    constant length, and LLVM sees without a check that their lines do not overlap."""
    if wide is None:
        return 2 * CHUNK
    return 2


@compiled
def forward_line(samples, out, wide):
    """Rows of one line of blocks; coefficient u of block b goes to out[u * num + b]."""
    num = blocks_side_by_side(wide)
    for b in range(num):
        i = 8 * b
        c0, c1, c2, c3, c4, c5, c6, c7 = forward(
            int32(samples[i]),
            int32(samples[i + 1]),
            int32(samples[i + 2]),
            int32(samples[i + 3]),
            int32(samples[i + 4]),
            int32(samples[i + 5]),
            int32(samples[i + 6]),
            int32(samples[i + 7]),
            int32(11),
        )
        out[b], out[num + b], out[2 * num + b], out[3 * num + b] = float32(c0), float32(c1), float32(c2), float32(c3)
        out[4 * num + b], out[5 * num + b], out[6 * num + b] = float32(c4), float32(c5), float32(c6)
        out[7 * num + b] = float32(c7)


@compiled
def sample(value):
    return float32(min(max(int32(value + int32(128)), int32(0)), int32(255)))


@compiled
def inverse_line(group, out, wide):
    """The way back of `forward_line`, to samples 0..255."""
    num = blocks_side_by_side(wide)
    for b in range(num):
        i = 8 * b
        s0, s1, s2, s3, s4, s5, s6, s7 = inverse(
            int32(group[b]),
            int32(group[num + b]),
            int32(group[2 * num + b]),
            int32(group[3 * num + b]),
            int32(group[4 * num + b]),
            int32(group[5 * num + b]),
            int32(group[6 * num + b]),
            int32(group[7 * num + b]),
            int32(18),
        )
        out[i], out[i + 1], out[i + 2], out[i + 3] = sample(s0), sample(s1), sample(s2), sample(s3)
        out[i + 4], out[i + 5], out[i + 6], out[i + 7] = sample(s4), sample(s5), sample(s6), sample(s7)


@compiled
def columns(group, steps, wide):
    """Columns of all blocks of a group: forward transform, quantisation, inverse transform.

    group[(8 y + u) num + b]; steps are the quantisation table by [u, v].
    """
    num = blocks_side_by_side(wide)
    line = 8 * num
    for u in range(8):
        q0, q1, q2, q3 = steps[8 * u], steps[8 * u + 1], steps[8 * u + 2], steps[8 * u + 3]
        q4, q5, q6, q7 = steps[8 * u + 4], steps[8 * u + 5], steps[8 * u + 6], steps[8 * u + 7]
        eighth = float32(0.125)
        r0, r1, r2, r3 = eighth / q0, eighth / q1, eighth / q2, eighth / q3
        r4, r5, r6, r7 = eighth / q4, eighth / q5, eighth / q6, eighth / q7
        at = group[u * num :]
        for b in range(num):
            c0, c1, c2, c3, c4, c5, c6, c7 = forward(
                int32(at[b]),
                int32(at[line + b]),
                int32(at[2 * line + b]),
                int32(at[3 * line + b]),
                int32(at[4 * line + b]),
                int32(at[5 * line + b]),
                int32(at[6 * line + b]),
                int32(at[7 * line + b]),
                int32(15),
            )
            s0, s1, s2, s3, s4, s5, s6, s7 = inverse(
                quantised(c0, q0, r0),
                quantised(c1, q1, r1),
                quantised(c2, q2, r2),
                quantised(c3, q3, r3),
                quantised(c4, q4, r4),
                quantised(c5, q5, r5),
                quantised(c6, q6, r6),
                quantised(c7, q7, r7),
                int32(11),
            )
            at[b], at[line + b], at[2 * line + b] = float32(s0), float32(s1), float32(s2)
            at[3 * line + b], at[4 * line + b], at[5 * line + b] = float32(s3), float32(s4), float32(s5)
            at[6 * line + b], at[7 * line + b] = float32(s6), float32(s7)


@compiled
def copied(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@compiled
def chunk(task, top, left, wide):
    """Encode and decode the regions from (top, left) on that lie side by side, as far as they are in the image.

    task.line holds three groups of blocks (the upper luma blocks, the lower ones, all Cb then all Cr), and six lines.
    """
    num = blocks_side_by_side(wide)
    line = 8 * num
    height, width = int64(task.row.height), int64(task.row.width)
    source, a, b = task.source, task.a, task.b
    groups, lines = task.line[: 24 * line], task.line[24 * line : 30 * line]
    luma0, luma1 = lines[:line], lines[line : 2 * line]
    blue0, blue1 = lines[2 * line : 3 * line], lines[3 * line : 4 * line]
    red0, red1 = lines[4 * line : 5 * line], lines[5 * line : 6 * line]
    luma_end = min(left + line, width)
    for pair in range(8):
        y = top + 2 * pair
        even, odd, chroma = groups[2 * pair * line :], groups[(2 * pair + 1) * line :], groups[(16 + pair) * line :]
        if y < height:
            read_line(source[y, 3 * left : 3 * luma_end], luma0, blue0, red0)
            read_line(source[min(y + 1, height - 1), 3 * left : 3 * luma_end], luma1, blue1, red1)
            forward_line(luma0, even, wide)
            forward_line(luma1, odd, wide)
            halve(blue0, blue1, luma0[: line // 2])
            halve(red0, red1, luma0[line // 2 :])
            forward_line(luma0, chroma, wide)
        else:  # below the image the last line goes on, in each plane by itself
            above = groups[(2 * pair - 1) * line :]
            copied(above, even[:line])
            copied(above, odd[:line])
            copied(groups[(15 + pair) * line :], chroma[:line])

    chroma_height, chroma_left = (height + 1) // 2, left // 2
    chroma_end = min(chroma_left + line // 2, (width + 1) // 2)
    for group in range(3):
        table = 64 if group == 2 else 0
        columns(groups[8 * group * line :], task.extra[table : table + 64], wide)
        for row in range(8):
            inverse_line(groups[(8 * group + row) * line :], luma0, wide)
            y, chroma_y = top + 8 * group + row, top // 2 + row
            if group < 2 and y < height:
                copied(luma0, a[y, left:luma_end])
            elif group == 2 and chroma_y < chroma_height:
                copied(luma0, b[chroma_y, chroma_left:chroma_end])
                copied(luma0[line // 2 :], b[chroma_y, width + chroma_left : width + chroma_end])


@compiled
def blocks(task, y0, y1, x0, x1):
    """Y in a, Cb and Cr in b, as a decoder has them before upsampling. One region after the other."""
    for top in range(y0, min(y1, int64(task.row.height)), BLOCK):
        for left in range(x0, min(x1, int64(task.row.width)), BLOCK):
            chunk(task, top, left, 0)


@compiled
def wide_blocks(task, y0, y1, x0, x1):
    """The same, sixteen regions at once; x0 must be 0 and x1 the image's end."""
    for top in range(y0, min(y1, int64(task.row.height)), BLOCK):
        for left in range(x0, min(x1, int64(task.row.width)), BLOCK * CHUNK):
            chunk(task, top, left, None)


@compiled
def upsampled(near, far, x, chroma_width):
    """Sample x of a chroma line at full size: 9, 3, 3 and 1 sixteenths of the four nearest, rounded as libjpeg does."""
    here = x >> 1
    beside = min(max(here - 1 + 2 * (x & 1), 0), chroma_width - 1)
    if chroma_width <= 2:  # libjpeg does not smooth what is this narrow
        return near[here]
    total = float32(3.0) * (float32(3.0) * near[here] + far[here]) + (float32(3.0) * near[beside] + far[beside])
    return float32((int32(total) + int32(8 - (x & 1))) >> int32(4))


@compiled
def upsample_line(near, far, sums, out):
    """A whole line of `upsampled`, except its first and last samples."""
    for i in range(sums.shape[0]):
        sums[i] = float32(3.0) * near[i] + far[i]
    for i in range(sums.shape[0] - 1):
        out[2 * i + 1] = float32((int32(float32(3.0) * sums[i] + sums[i + 1]) + int32(7)) >> int32(4))
        out[2 * i + 2] = float32((int32(float32(3.0) * sums[i + 1] + sums[i]) + int32(8)) >> int32(4))


@compiled
def clipped(value):
    return uint8(min(max(int32(value), int32(0)), int32(255)))


@compiled
def write_colour(out, i, luma, blue, red):
    """YCbCr to RGB at out[i : i + 3]."""
    y, cb, cr = int32(luma), int32(blue) - int32(128), int32(red) - int32(128)
    cb, cr = int32(cb), int32(cr)
    green = int32(int32(int32(-22554) * cb) - int32(int32(46802) * cr))
    out[i] = clipped(y + (int32(int32(int32(91881) * cr) + int32(32768)) >> int32(16)))
    out[i + 1] = clipped(y + (int32(green + int32(32768)) >> int32(16)))
    out[i + 2] = clipped(y + (int32(int32(int32(116130) * cb) + int32(32768)) >> int32(16)))


@compiled
def colours(task, y0, y1, x0, x1):
    """target: chroma upsampled, YCbCr to RGB. Pixel by pixel."""
    width = int64(task.row.width)
    chroma_height, chroma_width = (int64(task.row.height) + 1) // 2, (width + 1) // 2
    for y in range(y0, y1):
        near_y = y >> 1
        far_y = min(max(near_y - 1 + 2 * (y & 1), 0), chroma_height - 1)
        near, far, out = task.b[near_y], task.b[far_y], task.target[y - task.origin_y]
        for x in range(x0, x1):
            blue = upsampled(near, far, x, chroma_width)
            red = upsampled(near[width:], far[width:], x, chroma_width)
            write_colour(out, 3 * (x - task.origin_x), task.a[y, x], blue, red)


@compiled
def write_colours(luma, blue, red, out):
    for i in range(luma.shape[0]):
        write_colour(out, 3 * i, luma[i], blue[i], red[i])


@compiled
def wide_colours(task, y0, y1, x0, x1):
    """The same for whole rows: the chroma lines first, then one loop over their pixels. x0 must be 0, x1 the width."""
    width = int64(task.row.width)
    chroma_height, chroma_width = (int64(task.row.height) + 1) // 2, (width + 1) // 2
    if chroma_width <= 2:
        colours(task, y0, y1, x0, x1)
        return
    sums, blue, red = task.line[2 * width :], task.line[:width], task.line[width : 2 * width]
    for y in range(y0, y1):
        near_y = y >> 1
        far_y = min(max(near_y - 1 + 2 * (y & 1), 0), chroma_height - 1)
        for plane in range(2):
            start = plane * width
            near, far = task.b[near_y, start : start + chroma_width], task.b[far_y, start : start + chroma_width]
            out = blue if plane == 0 else red
            upsample_line(near, far, sums[:chroma_width], out)
            out[0] = upsampled(near, far, 0, chroma_width)
            out[width - 1] = upsampled(near, far, width - 1, chroma_width)
        write_colours(task.a[y, :width], blue, red, task.target[y, : 3 * width])


CORRUPTION = Corruption(
    name="jpeg_compression",
    severities=(25, 18, 15, 10, 7),  # quality
    stages=(blocks, colours),
    cpu_stages=(wide_blocks, wide_colours),
    own_kernels="kernels.corruptions.jpeg_cuda",
    prior="none",
    subset="digital",
    training=True,
    extra=extra,
)
