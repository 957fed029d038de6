"""Snow: streaks of motion-blurred flakes over a whitened image.

    out = c x + (1 - c) max(x, 1.5 gray(x) + 127.5) + s(y, x) + s(h-1-y, w-1-x)        x in 0..255

The layer s never looks at the image, so it comes from the pool (`kernels.pool`). It is made as the reference does
(Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.snow`): normal noise, zoomed, cut below a threshold,
blurred along a line. Each pixel gets the layer twice, the second time turned by 180 degrees inside the image.
"""

import math

import numpy as np
from numba import njit
from scipy.ndimage import zoom

# mean and deviation of the noise, zoom, threshold, radius and sigma of the motion blur, share c of the image that stays
PARAMETERS = (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
)
# The longest streak: a tile is made with this much of itself repeated around it.
REACH = 32


def snow_layer(normal_HW: np.ndarray, severity: int, angle: float) -> np.ndarray:
    """The layer s_HW (whole levels 0..255) that the reference makes of this standard normal field.

    `angle` is in degrees, -135 to -45 in the reference.
    """
    zoom_factor = PARAMETERS[severity - 1][2]
    height, width = normal_HW.shape
    part = [math.ceil(side / zoom_factor) for side in (height, width)]
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    zoomed = zoom(normal_HW[top : top + part[0], left : left + part[1]], zoom_factor, order=1)
    return _streaks(zoomed, severity, angle)[:height, :width]


def snow_tile(random: np.random.Generator, side: int, severity: int) -> np.ndarray:
    """A layer of side x side that continues into itself at its borders, at an angle of its own."""
    cells = max(round(side / PARAMETERS[severity - 1][2]), 1)
    normal = random.standard_normal((cells, cells))
    position = np.arange(-REACH, side + REACH) * (cells / side)
    low = np.floor(position).astype(np.int64)
    high_share = position - low
    rows = normal[low % cells] * (1 - high_share)[:, None] + normal[(low + 1) % cells] * high_share[:, None]
    zoomed = rows[:, low % cells] * (1 - high_share) + rows[:, (low + 1) % cells] * high_share
    return _streaks(zoomed, severity, random.uniform(-135, -45))[REACH : REACH + side, REACH : REACH + side]


def _streaks(zoomed_HW: np.ndarray, severity: int, angle: float) -> np.ndarray:
    mean, deviation, _, threshold, radius, sigma, _ = PARAMETERS[severity - 1]
    flakes = mean + deviation * zoomed_HW
    flakes[flakes < threshold] = 0
    flakes = np.clip(flakes, 0, 1)

    length = 2 * radius + 1
    taps = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    ahead = (length * math.sin(math.radians(angle)), length * math.cos(math.radians(angle)))
    distance = math.hypot(*ahead)
    streaks = np.zeros(flakes.shape)
    for step in range(length):
        down = -math.ceil(step * ahead[0] / distance - 0.5)
        right = -math.ceil(step * ahead[1] / distance - 0.5)
        if abs(down) >= flakes.shape[0] or abs(right) >= flakes.shape[1]:
            break
        streaks += taps[step] * _shift(flakes, down, right)
    return np.round(streaks * 255)


def _shift(image_HW: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved by whole pixels; the border line is repeated where it left."""
    height, width = image_HW.shape
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return image_HW[rows[:, None], columns]


@njit(inline="never")
def snow_pixel(red, green, blue, layer, turned_layer, keep):
    """One pixel (float32, 0..255); `layer` and `turned_layer` are s here and at the point turned by 180 degrees."""
    gray = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    white = gray * np.float32(1.5) + np.float32(127.5)
    whiten, top = np.float32(1.0) - keep, np.float32(255.0)
    flakes = layer + turned_layer
    return (
        min(keep * red + whiten * max(red, white) + flakes, top),
        min(keep * green + whiten * max(green, white) + flakes, top),
        min(keep * blue + whiten * max(blue, white) + flakes, top),
    )
