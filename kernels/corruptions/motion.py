"""motion_blur: a weighted sum of whole-pixel shifts along a line at an angle uniform in +-45 degrees.

Weights: a one-sided gaussian over 2 radius + 1 points; point i is shifted by (dy, dx) = -ceil(i (sin, cos) - 1/2),
edges repeated. extra[0]: number of points; then dy, dx, weight of each.
"""

import math

import numpy as np

from kernels import rng
from kernels.corruptions.gaussian import store_line
from kernels.corruptions.record import Corruption
from kernels.corruptions.shift import add_clamped, clamp, clear
from kernels.jit import compiled

LARGEST_ANGLE = 45.0  # degrees, each way


@compiled
def motion_blur(task, y0, y1, x0, x1):
    extra, height, width = task.extra, task.row.height, task.row.width
    for y in range(y0, y1):
        clear(task.line, x0, x1)
        for i in range(int(extra[0])):
            dy, dx = int(extra[1 + 3 * i]), int(extra[2 + 3 * i])
            add_clamped(task.line, task.source, clamp(y - dy, height), -dx, extra[3 + 3 * i], width, x0, x1)
        store_line(task, y, x0, x1)


@compiled
def fill_points(extra, radius, sigma, angle, height, width):
    """(dy, dx, weight) of each point, as `imagecorruptions` walks them: it stops where a shift leaves the image."""
    count = 2 * radius + 1
    total = 0.0
    for i in range(count):
        total += math.exp(-(i**2) / (2.0 * sigma**2))
    along_y, along_x = count * math.sin(math.radians(angle)), count * math.cos(math.radians(angle))
    length = math.hypot(along_y, along_x)
    inside = 0
    for i in range(count):
        dy = -math.ceil(i * along_y / length - 0.5)
        dx = -math.ceil(i * along_x / length - 0.5)
        if abs(dy) >= height or abs(dx) >= width:
            break
        extra[1 + 3 * i], extra[2 + 3 * i] = dy, dx
        extra[3 + 3 * i] = math.exp(-(i**2) / (2.0 * sigma**2)) / total
        inside += 1
    extra[0] = inside


def angle_of(key: int) -> float:
    """The angle of an image in degrees, uniform in +-45."""
    return (2 * rng.draw(np.uint64(key), rng.ANGLE) - 1) * LARGEST_ANGLE


def fill(extra_E: np.ndarray, level: int, height: int, width: int, key: int) -> None:
    radius, sigma = CORRUPTION.severities[level - 1]
    fill_points(extra_E, radius, float(sigma), angle_of(key), height, width)


CORRUPTION = Corruption(
    name="motion_blur",
    severities=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, sigma
    stages=(motion_blur,),
    own_kernels="kernels.corruptions.motion_cuda",
    prior="optics",
    subset="blur",
    training=True,
    fill=fill,
)
