"""Randomness as a pure function: bits = f(key of the image, stage, row, position). No state, any order, any processor.

The mixing is "lowbias32" (C. Wellons, "Hash Function Prospector", bias 0.17) with the second half of the key added between its two
rounds, so that two images never draw shifted copies of one sequence. Every operation is wrapped in uint32(...):
NumPy, the CUDA simulator and compiled code then agree bit for bit.

Normal numbers come from a table of 65,536 equally likely quantiles (16 bits each, so one word makes two); it is stored
folded, 32,768 magnitudes and a sign bit, to stay in a CPU's second-level cache.
"""

import numpy as np
from numba import float32, uint32

from kernels.jit import compiled

# Stages: what a draw is for. Draws of different stages are independent.
CHOICE, SEVERITY, RATIO, FLIP, ANGLE, BUCKET = 1, 2, 3, 4, 5, 6  # one number an image (or batch)
NOISE, SHUFFLE, FIELD_Y, FIELD_X, MASK = 16, 17, 24, 25, 26  # one number a pixel; SHUFFLE + pass

LARGEST_SIDE = 16384  # 3 * W must fit 16 bits of the counter

MASK64 = (1 << 64) - 1


def mix64(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea and Flood 2014) on Python integers."""
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def image_key(seed: int, epoch: int, sample_id: int) -> int:
    """64 bits from which everything random about one image in one epoch follows."""
    return mix64(mix64(mix64(seed & MASK64) ^ (epoch & MASK64)) ^ (sample_id & MASK64))


def image_keys(seed: int, epoch: int, ids_B: np.ndarray) -> np.ndarray:
    return np.array([image_key(seed, epoch, int(sample_id)) for sample_id in ids_B], dtype=np.uint64)


def draw(key: int, stage: int) -> float:
    """One number in [0, 1) on the host."""
    return (mix64(int(key) ^ (stage * 0xD1B54A32D192ED03 & MASK64)) >> 11) * 2.0**-53


@compiled
def bits(key0, key1, stage, y, x):
    """32 random bits for position (y, x) of a stage; y and x below 65,536."""
    z = uint32(uint32(uint32(y) << uint32(16)) | uint32(x))
    z = uint32(z + uint32(uint32(key0) + uint32(uint32(stage) * uint32(0x9E3779B9))))
    z = uint32(z ^ uint32(z >> uint32(16)))
    z = uint32(z * uint32(0x7FEB352D))
    z = uint32(z ^ uint32(z >> uint32(15)))
    z = uint32(z + uint32(key1))
    z = uint32(z * uint32(0x846CA68B))
    return uint32(z ^ uint32(z >> uint32(16)))


@compiled
def half(word, which):
    """The low (which even) or high (odd) 16 bits of a word."""
    return uint32(uint32(word >> uint32(uint32(16) * uint32(which & 1))) & uint32(0xFFFF))


@compiled
def uniform(word):
    """A number in [0, 1) with 24 bits."""
    return float32(uint32(word >> uint32(8))) * float32(5.9604644775390625e-08)


@compiled
def normal(normals, bits16):
    """A standard normal number from 16 bits."""
    magnitude = normals[uint32(bits16 & uint32(0x7FFF))]
    return magnitude if bits16 < uint32(0x8000) else -magnitude


def normal_table() -> np.ndarray:
    """32,768 magnitudes: quantiles of |N(0, 1)| at the middles of equally likely slices."""
    from scipy.special import ndtri

    return ndtri(0.5 + (np.arange(32768) + 0.5) / 65536).astype(np.float32)
