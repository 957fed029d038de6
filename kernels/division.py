"""Division of whole numbers from 0 to 2^32 - 1. A GPU divides 64-bit numbers, which Numba's are, by a slow call."""

from numba import int64, uint32

from kernels.jit import compiled


@compiled
def quotient(number, divisor):
    return int64(uint32(number) // uint32(divisor))


@compiled
def remainder(number, divisor):
    return int64(uint32(number) % uint32(divisor))
