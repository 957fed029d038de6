"""Fog: a plasma fractal laid over the image.

    out = (x + 255 c p) * top / (top + c)      x in 0..255, top: the image's own largest value / 255

p in 0..1 is a diamond-square map as large as the next power of two of the image's longer side (Hendrycks and Dietterich
2019, `imagecorruptions.corruptions.fog`). It never looks at the image, so it comes from the pool. A diamond-square map
is periodic, and every second point of it is such a map of half the side: so a small image reads the pool's map with a
stride and gets fog of the reference's coarseness.
"""

import numpy as np
from numba import njit

# strength c, and how fast the wobble decays: its amplitude falls by decay^2 from one step to the next
PARAMETERS = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))


def plasma_map(side: int, decay: float, uniform) -> np.ndarray:
    """A diamond-square map of a power-of-two side, float32 in 0..1.

    `uniform(low, high, size)` gives the wobbles, drawn in the reference's order, so that the same draws make the same map.
    """
    plasma = np.empty((side, side), dtype=np.float32)
    plasma[0, 0] = 0
    step, wobble = side, 100.0

    def mean_and_wobble(sum_of_four: np.ndarray) -> np.ndarray:
        return sum_of_four / 4 + wobble * uniform(-wobble, wobble, sum_of_four.shape)

    while step >= 2:
        half = step // 2
        corners = plasma[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        plasma[half::step, half::step] = mean_and_wobble(pairs + np.roll(pairs, -1, axis=1))
        centres = plasma[half::step, half::step]
        above_below = centres + np.roll(centres, 1, axis=0)
        plasma[::step, half::step] = mean_and_wobble(above_below + (corners + np.roll(corners, -1, axis=1)))
        left_right = centres + np.roll(centres, 1, axis=1)
        plasma[half::step, ::step] = mean_and_wobble(left_right + (corners + np.roll(corners, -1, axis=0)))
        step, wobble = half, wobble / decay
    plasma -= plasma.min()
    # A map of one point is flat: the reference divides by zero there.
    return plasma / max(plasma.max(), np.float32(np.finfo(np.float32).tiny))


def map_side(height: int, width: int) -> int:
    """Side of the reference's map for an image of this size."""
    return 1 << (max(height, width, 3) - 1).bit_length()


@njit(inline="never")
def fog_value(value, plasma, strength, top):
    """One channel value (float32, 0..255) in fog; `top` is the image's largest value / 255."""
    if top <= np.float32(0.0):
        return np.float32(0.0)
    return min((value + np.float32(255.0) * strength * plasma) * (top / (top + strength)), np.float32(255.0))
