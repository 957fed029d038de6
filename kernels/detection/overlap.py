"""When one box overlaps another by more than a threshold, bit for bit as torchvision decides it."""

import numpy as np

from kernels.jit import compiled_exactly


def round_down_to_float32(threshold: float) -> np.float32:
    """The greatest float32 not above `threshold`, so that `x > threshold` is the same in single precision.

    torchvision's CPU kernel compares a float32 overlap with a double threshold.
    """
    rounded = np.float32(threshold)
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded


@compiled_exactly
def shared_length(a1, a2, b1, b2):
    """How much of an axis two intervals share. No branch, so that the CPU's loop over boxes is SIMD."""
    length = min(a2, b2) - max(a1, b1)
    return length if length > np.float32(0) else np.float32(0)


@compiled_exactly
def overlaps(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, threshold):
    """Intersection over union is greater than the threshold. Without any area it is 0 / 0: not greater."""
    intersection = shared_length(ax1, ax2, bx1, bx2) * shared_length(ay1, ay2, by1, by2)
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    return intersection / (area_a + area_b - intersection) > threshold
