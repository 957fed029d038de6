"""Randomness as a pure function: bits = f(key of the image, stage, row, position). No state, any order, any processor.

The mixing is "lowbias32" (C. Wellons, "Hash Function Prospector", bias 0.17). The second half of the key is added
between its two rounds, so that two images never draw shifted copies of one sequence. Every operation is wrapped in
uint32(...): NumPy, the CUDA simulator and compiled code then agree bit for bit.

Normal numbers are a polynomial of the sum of a word's bytes. A table would cost a gather that no CPU vectorises well
and that fills a GPU's first-level cache. The quantile function of a uniform number costs a logarithm and a root: for
gaussian_noise on an image of 600 x 1000 1.58 ms, where the sum takes 1.11 ms, of which the words are 0.27.
"""

import numpy as np
from numba import float32, uint32, uint64

from kernels.instructions import byte_total, product_and, shifted
from kernels.jit import compiled

# Stages: what a draw is for. Draws of different stages are independent.
CHOICE, SEVERITY, RATIO, FLIP, ANGLE, BUCKET = 1, 2, 3, 4, 5, 6  # one number an image (or batch)
NOISE, SHUFFLE, FIELD_Y, FIELD_X, MASK = 16, 17, 24, 25, 26  # one number a pixel; SHUFFLE + pass

LARGEST_SIDE = 16384  # 3 * W must fit 16 bits of the counter


@compiled
def mix64(value):
    """splitmix64's finaliser (Steele, Lea and Flood 2014), on uint64."""
    value = uint64(uint64(value) + uint64(0x9E3779B97F4A7C15))
    value = uint64(uint64(value ^ uint64(value >> uint64(30))) * uint64(0xBF58476D1CE4E5B9))
    value = uint64(uint64(value ^ uint64(value >> uint64(27))) * uint64(0x94D049BB133111EB))
    return uint64(value ^ uint64(value >> uint64(31)))


@compiled
def image_key(seed, epoch, sample_id):
    """64 bits from which everything random about one image in one epoch follows."""
    return mix64(uint64(mix64(uint64(mix64(seed) ^ uint64(epoch))) ^ uint64(sample_id)))


@compiled
def draw(key, stage):
    """One number in [0, 1) for a stage of a key, in double precision: host only."""
    word = mix64(uint64(uint64(key) ^ uint64(uint64(stage) * uint64(0xD1B54A32D192ED03))))
    return uint64(word >> uint64(11)) * (1.0 / (1 << 53))


@compiled
def half_mixed(key0, stage, y, x):
    """What one of two rounds makes of position (y, x) of a stage; y and x below 65,536."""
    z = uint32(uint32(uint32(key0) + uint32(uint32(stage) * uint32(0x9E3779B9))) + uint32(uint32(y) << uint32(16)))
    z = uint32(z + uint32(x))
    z = uint32(z ^ uint32(z >> uint32(16)))
    z = uint32(z * uint32(0x7FEB352D))
    return uint32(z ^ uint32(z >> uint32(15)))


@compiled
def mixed(z, key1, last):
    """What the other round makes of that. last: the shift at its end, 16 in lowbias32."""
    # (z + key1) * 0x846CA68B: the second product is the same for all positions.
    z = product_and(z, uint32(0x846CA68B), uint32(uint32(key1) * uint32(0x846CA68B)))
    return uint32(z ^ uint32(z >> uint32(last)))


@compiled
def bits(key0, key1, stage, y, x):
    """32 random bits for position (y, x) of a stage."""
    return mixed(half_mixed(key0, stage, y, x), key1, 16)


@compiled
def uniform(word):
    """A number in [0, 1) with 24 bits."""
    return float32(uint32(word >> uint32(8))) * float32(5.9604644775390625e-08)


@compiled
def normal_of(total, fraction):
    """A standard normal number from the sum of four bytes and, in the upper 13 bits of a word, a fraction of a step."""
    # 2 to 4: the sum in the upper bits of the mantissa, and what the sum was made with before it gives the exponent.
    v = np.uint32(shifted(total, fraction, uint32(13))).view(np.float32) - float32(2 + 510.5 / 512)
    square = v * v
    ratio = float32(25.197038650512695)
    ratio = ratio * square - float32(62.880855560302734)
    ratio = ratio * square + float32(62.169219970703125)
    ratio = ratio * square - float32(28.78449821472168)
    ratio = ratio * square + float32(6.651736259460449)
    ratio = ratio * square - float32(0.15260910987854004)
    ratio = ratio * square + float32(3.348423957824707)
    return v * ratio


@compiled
def normal(key0, key1, stage, y, x):
    """A standard normal number for position (y, x) of a stage. Its quantile is right to 7e-4 out to 4.2 deviations (all
    but one number in 37,000), to 0.015 out to 4.5 and to 0.11 out to 5; the largest is 5.5.

    The sum of four bytes is nearly normal, and z / v is a polynomial in v^2, with v in -1..1 for the sum: Lawson's
    minimax fit to the sum's exact law out to 4.2. Between two sums the word of the first round tells the place. With a
    last shift of 16 two bytes would be changed by the other two as they are, and sizes of neighbours would correlate
    (0.2 %, measured over 2^24). With 15 neighbours do not; sizes 256 and 512 pixels apart along a diagonal do, by 1 %.
    """
    half = half_mixed(key0, stage, y, x)
    return normal_of(byte_total(mixed(half, key1, 15), uint32(2 << 16)), half)
