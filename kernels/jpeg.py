"""JPEG compression and decompression in pixels, without the entropy coding (it is lossless).

The arithmetic is libjpeg's, which Pillow calls: integer RGB -> YCbCr, chroma at half size both ways (4:2:0), the
"islow" forward transform of 8 x 8 blocks, quantisation with the tables of the quality, the "islow" inverse transform,
"fancy" (triangle) upsampling, YCbCr -> RGB. Sources: ITU-T T.81 (1992); C. Loeffler, A. Ligtenberg and G. Moschytz,
"Practical fast 1-D DCT algorithms with 11 multiplications" (1989); the Independent JPEG Group's jfdctint.c, jidctint.c,
jcsample.c, jdsample.c, jccolor.c and jdcolor.c. The result equals Pillow's bit for bit.

Two stages. `blocks`: 16 x 16 regions (MCUs) -> decoded samples, Y in a[y, x], Cb in b[y, x] and Cr in b[y, w + x] at
half size. It works on 16 MCUs side by side, so that the inner loop, over blocks, is vectorised; a CUDA thread does one.
`colours`: upsampling and conversion, any region.
"""

import numpy as np
from numba import float32, int32, int64, uint8

from kernels.jit import compiled
from kernels.severity import TABLES

BLOCK = 16  # `blocks` must be called for whole multiples of 16 x 16, the image's end excepted
CHUNK = 16  # MCUs worked on at once
LINE_PER_MCU = 3 * 2 * 64 + 6 * 16  # coefficients of 3 x 2 blocks and six lines of samples
LINE = CHUNK * LINE_PER_MCU  # floats that task.line must have on the CPU; on CUDA LINE_PER_MCU

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


def extra(severity: int, height: int, width: int) -> np.ndarray:
    """The tables of luminance and chrominance, in columns: [table, u, v], u along x."""
    quality = TABLES["jpeg_compression"][severity - 1]
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
def read_line(pixels, luma, blue, red, valid):
    """RGB pixels of one line to Y - 128, Cb and Cr; the last one is repeated to the end."""
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
def forward_line(samples, out, num):
    """One line of `num` blocks; coefficient u of block b goes to out[u * num + b]."""
    out0, out1, out2, out3 = out[:num], out[num : 2 * num], out[2 * num : 3 * num], out[3 * num : 4 * num]
    out4, out5, out6, out7 = out[4 * num : 5 * num], out[5 * num : 6 * num], out[6 * num : 7 * num], out[7 * num :]
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
        out0[b], out1[b], out2[b], out3[b] = float32(c0), float32(c1), float32(c2), float32(c3)
        out4[b], out5[b], out6[b], out7[b] = float32(c4), float32(c5), float32(c6), float32(c7)


@compiled
def inverse_line(coefficients, out, num):
    """The way back of `forward_line`, to samples 0..255."""
    in0, in1, in2, in3 = coefficients[:num], coefficients[num:], coefficients[2 * num :], coefficients[3 * num :]
    in4, in5, in6 = coefficients[4 * num :], coefficients[5 * num :], coefficients[6 * num :]
    in7 = coefficients[7 * num :]
    for b in range(num):
        i = 8 * b
        s0, s1, s2, s3, s4, s5, s6, s7 = inverse(
            int32(in0[b]),
            int32(in1[b]),
            int32(in2[b]),
            int32(in3[b]),
            int32(in4[b]),
            int32(in5[b]),
            int32(in6[b]),
            int32(in7[b]),
            int32(18),
        )
        out[i], out[i + 1], out[i + 2], out[i + 3] = sample(s0), sample(s1), sample(s2), sample(s3)
        out[i + 4], out[i + 5], out[i + 6], out[i + 7] = sample(s4), sample(s5), sample(s6), sample(s7)


@compiled
def sample(value):
    return float32(min(max(int32(value + int32(128)), int32(0)), int32(255)))


@compiled
def columns(group, steps, num):
    """Columns of all blocks of a group: forward transform, quantisation, inverse transform.

    group[(8 y + u) num + b]; steps are the quantisation table by [u, v].
    """
    for u in range(8):
        q0, q1, q2, q3 = steps[8 * u], steps[8 * u + 1], steps[8 * u + 2], steps[8 * u + 3]
        q4, q5, q6, q7 = steps[8 * u + 4], steps[8 * u + 5], steps[8 * u + 6], steps[8 * u + 7]
        eighth = float32(0.125)
        r0, r1, r2, r3 = eighth / q0, eighth / q1, eighth / q2, eighth / q3
        r4, r5, r6, r7 = eighth / q4, eighth / q5, eighth / q6, eighth / q7
        row0, row1 = group[u * num : (u + 1) * num], group[(8 + u) * num : (9 + u) * num]
        row2, row3 = group[(16 + u) * num : (17 + u) * num], group[(24 + u) * num : (25 + u) * num]
        row4, row5 = group[(32 + u) * num : (33 + u) * num], group[(40 + u) * num : (41 + u) * num]
        row6, row7 = group[(48 + u) * num : (49 + u) * num], group[(56 + u) * num : (57 + u) * num]
        for b in range(num):
            c0, c1, c2, c3, c4, c5, c6, c7 = forward(
                int32(row0[b]),
                int32(row1[b]),
                int32(row2[b]),
                int32(row3[b]),
                int32(row4[b]),
                int32(row5[b]),
                int32(row6[b]),
                int32(row7[b]),
                int32(15),
            )
            c0, c1, c2, c3, c4, c5, c6, c7 = inverse(
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
            row0[b], row1[b], row2[b], row3[b] = float32(c0), float32(c1), float32(c2), float32(c3)
            row4[b], row5[b], row6[b], row7[b] = float32(c4), float32(c5), float32(c6), float32(c7)


@compiled
def copied(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@compiled
def blocks(task, y0, y1, x0, x1):
    """Y in a, Cb and Cr in b, as a decoder has them before upsampling."""
    height, width = int64(task.row.height), int64(task.row.width)
    y1, x1 = min(y1, height), min(x1, width)
    for top in range(y0, y1, BLOCK):
        for left in range(x0, x1, BLOCK * CHUNK):
            num_mcus = min((x1 - left + BLOCK - 1) // BLOCK, CHUNK)
            if num_mcus > 1:
                num_mcus = CHUNK  # a full vector, whatever lies beyond the image
            encode(task, top, left, min(x1 - left, BLOCK * num_mcus), num_mcus)
            decode(task, top, left, num_mcus)


@compiled
def encode(task, top, left, valid, num_mcus):
    """task.line: coefficients of `num_mcus` regions, after their rows' forward transform.

    Three groups of 2 num_mcus blocks: the upper luma blocks, the lower ones, the chroma blocks (all Cb, then all Cr).
    """
    num, size, height = 2 * num_mcus, BLOCK * num_mcus, int64(task.row.height)
    line = 8 * num
    coefficients, lines = task.line[: 3 * 8 * line], task.line[3 * 8 * line :]
    luma0, luma1 = lines[:size], lines[size : 2 * size]
    blue0, blue1 = lines[2 * size : 3 * size], lines[3 * size : 4 * size]
    red0, red1 = lines[4 * size : 5 * size], lines[5 * size : 6 * size]
    for pair in range(8):
        y = top + 2 * pair
        even, chroma = 2 * pair * line, (16 + pair) * line
        if y < height:
            read_line(task.source[y, 3 * left :], luma0, blue0, red0, valid)
            read_line(task.source[min(y + 1, height - 1), 3 * left :], luma1, blue1, red1, valid)
            forward_line(luma0, coefficients[even : even + line], num)
            forward_line(luma1, coefficients[even + line : even + 2 * line], num)
            halve(blue0, blue1, luma0[: size // 2])
            halve(red0, red1, luma0[size // 2 :])
            forward_line(luma0, coefficients[chroma : chroma + line], num)
        else:  # below the image the last line goes on, in each plane by itself
            copied(coefficients[even - line : even], coefficients[even : even + line])
            copied(coefficients[even - line : even], coefficients[even + line : even + 2 * line])
            copied(coefficients[chroma - line : chroma], coefficients[chroma : chroma + line])


@compiled
def decode(task, top, left, num_mcus):
    """task.line to samples in a and b."""
    num, size = 2 * num_mcus, BLOCK * num_mcus
    height, width = int64(task.row.height), int64(task.row.width)
    chroma_height, chroma_width = (height + 1) // 2, (width + 1) // 2
    line = 8 * num
    samples = task.line[3 * 8 * line : 3 * 8 * line + size]
    luma_end, chroma_left = min(left + size, width), left // 2
    chroma_end = min(chroma_left + size // 2, chroma_width)
    for group in range(3):
        start = group * 8 * line
        table = 64 if group == 2 else 0
        columns(task.line[start : start + 8 * line], task.extra[table : table + 64], num)
        for row in range(8):
            inverse_line(task.line[start + row * line : start + (row + 1) * line], samples, num)
            y, chroma_y = top + 8 * group + row, top // 2 + row
            if group < 2 and y < height:
                copied(samples, task.a[y, left:luma_end])
            elif group == 2 and chroma_y < chroma_height:
                copied(samples, task.b[chroma_y, chroma_left:chroma_end])
                copied(samples[size // 2 :], task.b[chroma_y, width + chroma_left : width + chroma_end])


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
    """A whole line of `upsampled`, except its first and last two samples."""
    for i in range(sums.shape[0]):
        sums[i] = float32(3.0) * near[i] + far[i]
    for i in range(sums.shape[0] - 1):
        out[2 * i + 1] = float32((int32(float32(3.0) * sums[i] + sums[i + 1]) + int32(7)) >> int32(4))
        out[2 * i + 2] = float32((int32(float32(3.0) * sums[i + 1] + sums[i]) + int32(8)) >> int32(4))


@compiled
def clipped(value):
    return uint8(min(max(value, int32(0)), int32(255)))


@compiled
def write_colours(luma, blue, red, out):
    """YCbCr of one line to RGB."""
    for i in range(luma.shape[0]):
        y, cb, cr = int32(luma[i]), int32(blue[i]) - int32(128), int32(red[i]) - int32(128)
        green = int32(int32(int32(-22554) * int32(cb)) - int32(int32(46802) * int32(cr))) + int32(32768)
        out[3 * i] = clipped(int32(y + (int32(int32(int32(91881) * int32(cr)) + int32(32768)) >> int32(16))))
        out[3 * i + 1] = clipped(int32(y + (int32(green) >> int32(16))))
        out[3 * i + 2] = clipped(int32(y + (int32(int32(int32(116130) * int32(cb)) + int32(32768)) >> int32(16))))


@compiled
def colours(task, y0, y1, x0, x1):
    """target: chroma upsampled, YCbCr to RGB."""
    height, width = int64(task.row.height), int64(task.row.width)
    chroma_height, chroma_width = (height + 1) // 2, (width + 1) // 2
    y1, x1 = min(y1, height), min(x1, width)
    num = x1 - x0
    if num <= 0:
        return
    whole_line = x0 == 0 and x1 == width and chroma_width > 2
    blue, red = task.line[:num], task.line[num : 2 * num]
    for y in range(y0, y1):
        near_y = y >> 1
        far_y = min(max(near_y - 1 + 2 * (y & 1), 0), chroma_height - 1)
        for plane in range(2):
            start = plane * width
            near, far = task.b[near_y, start : start + chroma_width], task.b[far_y, start : start + chroma_width]
            out = blue if plane == 0 else red
            if whole_line:
                upsample_line(near, far, task.line[2 * num : 2 * num + chroma_width], out)
                out[0] = upsampled(near, far, 0, chroma_width)
                out[num - 2] = upsampled(near, far, num - 2, chroma_width)
                out[num - 1] = upsampled(near, far, num - 1, chroma_width)
            else:
                for x in range(x0, x1):
                    out[x - x0] = upsampled(near, far, x, chroma_width)
        target = task.target[y - task.origin_y, 3 * (x0 - task.origin_x) : 3 * (x1 - task.origin_x)]
        write_colours(task.a[y, x0:x1], blue, red, target)


STAGES = (blocks, colours)
