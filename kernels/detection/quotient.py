"""Exact division for a GPU, without the call that its own makes.

`a / b` rounded as IEEE 754 asks costs a GPU a test and, for numbers near the ends of float32, a call. Here both are
brought into the middle by a power of two, and the quotient is made of a reciprocal and products that are rounded once
with their sum (Markstein 1990; the steps are those that NVIDIA's compiler takes where it needs no call).
"""

from collections.abc import Callable

import numpy as np

LARGE, SMALL = np.float32(2.0**60), np.float32(2.0**-60)
DOWN, UP = np.float32(2.0**-64), np.float32(2.0**64)
ONE, HALF, ZERO = np.float32(1), np.float32(0.5), np.float32(0)


def make_exceeds(reciprocal: Callable, fma: Callable) -> Callable:
    """The body that says whether a / b > threshold, for any b but -0 and any a that is not negative. It is exact for
    thresholds from 2^-40 to 1; a threshold of 0 may miss a quotient below 2^-126.

    reciprocal: within 2 units in the last place; fma(a, b, c): a * b + c, rounded once.
    """

    def exceeds(a, b, threshold):
        size = abs(b)
        scale = DOWN if size > LARGE else (UP if size < SMALL else ONE)
        a *= scale
        b *= scale
        near = reciprocal(b)
        near = fma(near, fma(-b, near, ONE), near)
        quotient = a * near
        quotient = fma(fma(-b, quotient, a), near, quotient)
        quotient = fma(fma(-b, quotient, a), near, quotient)
        return quotient > threshold or (b >= ZERO and a * HALF > b)  # the second for quotients of infinity

    return exceeds
