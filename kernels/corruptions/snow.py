"""Snow: streaks of motion-blurred flakes over a whitened image.

    out = c x + (1 - c) max(x, 1.5 gray(x) + 127.5) + s(y, x) + s(h-1-y, w-1-x)        x in 0..255

The layer s never looks at the image, so it comes from the pool (`kernels.launch.pool`). It is made as the reference
does (Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.snow`): normal noise, zoomed, cut below a threshold,
blurred along a line. Each pixel gets the layer twice, the second time turned by 180 degrees inside the image.
"""

import math

import numpy as np
from numba import float32, int32, uint8, uint64
from scipy.ndimage import zoom

from kernels.corruptions.masks import read_mask
from kernels.corruptions.record import Corruption, MaskPlan, Masks
from kernels.jit import compiled


def snow_layer(normal_HW: np.ndarray, level: int, angle: float) -> np.ndarray:
    """The layer s_HW (whole levels 0..255) that the reference makes of this standard normal field.

    `angle` is in degrees, -135 to -45 in the reference.
    """
    mean, deviation, zoom_factor, threshold, radius, sigma, _ = CORRUPTION.severities[level - 1]
    height, width = normal_HW.shape
    part = [math.ceil(side / zoom_factor) for side in (height, width)]
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    noise = mean + deviation * normal_HW[top : top + part[0], left : left + part[1]]
    flakes = zoom(noise, zoom_factor, order=1)
    flakes[flakes < threshold] = 0
    flakes = np.clip(flakes, 0, 1)

    length = 2 * radius + 1
    taps = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    ahead = (length * math.sin(math.radians(angle)), length * math.cos(math.radians(angle)))
    distance = math.hypot(*ahead)
    # The border line is repeated where a moved layer left it.
    padded = np.pad(flakes, length, mode="edge")
    streaks = np.zeros_like(flakes)
    for step in range(length):
        down = -math.ceil(step * ahead[0] / distance - 0.5)
        right = -math.ceil(step * ahead[1] / distance - 0.5)
        if abs(down) >= flakes.shape[0] or abs(right) >= flakes.shape[1]:
            break
        top, left = length - down, length - right
        streaks += float(taps[step]) * padded[top : top + flakes.shape[0], left : left + flakes.shape[1]]
    return np.round(streaks[:height, :width] * 255)


@compiled
def snowed(value, gray, keep, flakes):
    """One channel value, whitened, under its flakes."""
    white = max(value, gray * float32(1.5) + float32(127.5))
    return uint8(int32(min(keep * value + (float32(1.0) - keep) * white + flakes, float32(255.0))))


@compiled
def blend(task, y0, y1, x0, x1):
    """target: the source in snow; extra[6]: c."""
    row, keep = task.row, task.extra[6]
    num = x1 - x0
    here, turned = task.line[:num], task.line[num : 2 * num]
    source, target, first = task.source, task.target, 3 * (x0 - task.origin_x)
    for y in range(y0, y1):
        read_mask(here, task.pool, row.mask_start + y * row.mask_step_y + x0 * row.mask_step_x, row.mask_step_x)
        back = row.mask_start + (row.height - 1 - y) * row.mask_step_y + (row.width - 1 - x0) * row.mask_step_x
        read_mask(turned, task.pool, back, -row.mask_step_x)
        out = y - task.origin_y
        for i in range(num):
            red, green, blue = (
                float32(source[uint64(out), uint64(first + 3 * i)]),
                float32(source[uint64(out), uint64(first + 3 * i + 1)]),
                float32(source[uint64(out), uint64(first + 3 * i + 2)]),
            )
            gray = float32(0.299) * red + float32(0.587) * green + float32(0.114) * blue
            flakes = here[i] + turned[i]
            target[uint64(out), uint64(first + 3 * i)] = snowed(red, gray, keep, flakes)
            target[uint64(out), uint64(first + 3 * i + 1)] = snowed(green, gray, keep, flakes)
            target[uint64(out), uint64(first + 3 * i + 2)] = snowed(blue, gray, keep, flakes)


def plan(level: float, canvas: tuple[int, int], margin: int, count: int) -> MaskPlan:
    height, width = canvas[0] + margin, canvas[1] + margin

    def make(random: np.random.Generator, _number: int) -> np.ndarray:
        normal_HW = random.standard_normal((height, width), np.float32)
        return snow_layer(normal_HW, int(level), random.uniform(-135, -45))

    return MaskPlan(make, [(height, width, 1)] * count, flips=True)


CORRUPTION = Corruption(
    name="snow",
    severities=(  # mean, deviation, zoom, threshold, blur radius, blur sigma, share of the image kept
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    stages=(blend,),
    prior="weather",
    subset="weather",
    masks=Masks(float, plan),
)
