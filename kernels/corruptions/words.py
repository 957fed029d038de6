"""A pixel as one 32-bit word, red in its lowest byte: what the GPU kernels of the blurs read instead of three bytes."""

import numpy as np
from numba import float32, uint8, uint32, uint64

from kernels.corruptions.color import TINY
from kernels.jit import compiled


@compiled
def word_at(line, x):
    """Pixel x of a row of interleaved bytes."""
    i = uint64(uint32(3 * x))
    red, green, blue = line[i], line[i + uint64(1)], line[i + uint64(2)]
    return uint32(uint32(red) | uint32(uint32(uint32(green) << uint32(8)) | uint32(uint32(blue) << uint32(16))))


@compiled
def red_of(word):
    return float32(uint32(word & uint32(0xFF)))


@compiled
def green_of(word):
    return float32(uint32(uint32(word >> uint32(8)) & uint32(0xFF)))


@compiled
def blue_of(word):
    return float32(uint32(word >> uint32(16)))


@compiled
def level_of(value):
    """A pixel's value as `gaussian.store_line` makes it."""
    return uint8(min(max(value + float32(TINY), float32(0)), float32(255)))


@compiled
def store_pixel(line, x, red, green, blue):
    i = uint64(uint32(3 * x))
    line[i] = level_of(red)
    line[i + uint64(1)] = level_of(green)
    line[i + uint64(2)] = level_of(blue)


@compiled
def as_float(word):
    """The same 32 bits, for float32 memory; blue's bits keep it from being a NaN."""
    return np.uint32(word).view(np.float32)


@compiled
def as_word(value):
    return np.float32(value).view(np.uint32)
