"""Randomness as a pure function: bits = f(key of the image, stage, row, position). No state, any order, any processor.

The mixing is "lowbias32" (C. Wellons, "Hash Function Prospector", bias 0.17). The second half of the key is added
between its two rounds, so that two images never draw shifted copies of one sequence. Every operation is wrapped in
uint32(...): NumPy, the CUDA simulator and compiled code then agree bit for bit.

Normal numbers come from 23 bits through the quantile function, written in arithmetic alone. A table would cost a gather
that no CPU vectorises well and that fills a GPU's first-level cache. Measured here for an image of 600 x 1000: 2.6 ms
with a table of 32,768 magnitudes, 0.9 ms with the formula.
"""

import math

import numpy as np
from numba import float32, uint32, uint64

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
def bits(key0, key1, stage, y, x):
    """32 random bits for position (y, x) of a stage; y and x below 65,536."""
    z = uint32(uint32(uint32(key0) + uint32(uint32(stage) * uint32(0x9E3779B9))) + uint32(uint32(y) << uint32(16)))
    z = uint32(z + uint32(x))
    z = uint32(z ^ uint32(z >> uint32(16)))
    z = uint32(z * uint32(0x7FEB352D))
    z = uint32(z ^ uint32(z >> uint32(15)))
    # (z + key1) * 0x846CA68B: the second product is the same for all positions.
    z = uint32(uint32(z * uint32(0x846CA68B)) + uint32(uint32(key1) * uint32(0x846CA68B)))
    return uint32(z ^ uint32(z >> uint32(16)))


@compiled
def uniform(word):
    """A number in [0, 1) with 24 bits."""
    return float32(uint32(word >> uint32(8))) * float32(5.9604644775390625e-08)


@compiled
def normal(word):
    """A standard normal number from the upper 23 bits of a word; its quantile is right to 5e-4 out to 5.2 deviations.

    With x = 2p - 1 and s = sqrt(-log2(1 - x^2)), z / x is a smooth function of s. Here it is a polynomial of degree 8,
    in the form of Giles ("Approximating the erfinv function", 2010). Coefficients: Lawson's minimax fit. log2 of the
    mantissa is a polynomial of degree 5 without a constant term, so that s is 0 where x is.
    """
    # (word >> 9 and a half) * 2^-22 - 1, without a rounding.
    x = float32(uint32(word >> uint32(9))) * float32(2.384185791015625e-07) - float32(0.99999988079071044921875)
    t = (float32(1) - x) * (float32(1) + x)
    pattern = np.float32(t).view(np.uint32)
    exponent = float32(uint32(pattern >> uint32(23))) - float32(127)
    mantissa = np.uint32(uint32(pattern & uint32(0x7FFFFF)) | uint32(0x3F800000)).view(np.float32) - float32(1)
    log = float32(0.06125538423657417)
    log = log * mantissa - float32(0.23033320903778076)
    log = log * mantissa + float32(0.44391292333602905)
    log = log * mantissa - float32(0.7173919677734375)
    log = log * mantissa + float32(1.4426259994506836)
    s = float32(math.sqrt(max(-(exponent + log * mantissa), float32(0))))
    ratio = float32(5.5950036767171696e-05)
    ratio = ratio * s - float32(0.0013497198233380914)
    ratio = ratio * s + float32(0.012681321240961552)
    ratio = ratio * s - float32(0.057626862078905106)
    ratio = ratio * s + float32(0.12451313436031342)
    ratio = ratio * s - float32(0.11984904110431671)
    ratio = ratio * s + float32(0.28583720326423645)
    ratio = ratio * s - float32(0.010681823827326298)
    ratio = ratio * s + float32(1.2536386251449585)
    return x * ratio
