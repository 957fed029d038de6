"""Spatter: drops of water (severity 1 to 3) or mud (4 and 5) on the lens.

    water   out = x + m * (175, 238, 238)              m: edges of the drops times their thickness, 0 to 0.6
    mud     out = x * (1 - m) + m * (63, 42, 20)       m: 0, or 0.8 to 1

x in 0..255. The mask m never looks at the image, so it comes from the pool (`kernels.launch.pool`). `spatter_mask`
makes one as the reference does (Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.spatter`). The stage lays
it on.
"""

import cv2
import numpy as np
from numba import float32, int32, uint8, uint64

from kernels.corruptions.masks import read_mask
from kernels.corruptions.record import Corruption, MaskPlan, Masks
from kernels.jit import compiled

UNIT = 65535  # the pool's number for m = 1


def is_mud(level: int) -> bool:
    return CORRUPTION.severities[level - 1][5] == 1


def spatter_mask(normal_HW: np.ndarray, level: int) -> np.ndarray:
    """The mask m_HW (float32) that the reference makes of this standard normal field.

    Zero where the reference would divide by an empty mask (a tiny field without one drop); it turns black there.
    """
    mean, deviation, sigma, threshold, last, mud = CORRUPTION.severities[level - 1]
    liquid_HW = _blurred(mean + deviation * normal_HW, sigma)
    if mud:
        mud_HW = _blurred((liquid_HW > threshold).astype(np.float32), last)
        mud_HW[mud_HW < 0.8] = 0
        return mud_HW
    liquid_HW[liquid_HW < threshold] = 0
    drops_HW = (liquid_HW * 255).astype(np.uint8)
    distance_HW = cv2.distanceTransform(255 - cv2.Canny(drops_HW, 50, 150), cv2.DIST_L2, 5)
    distance_HW = cv2.blur(np.minimum(distance_HW, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief_HW = cv2.filter2D(cv2.equalizeHist(distance_HW), cv2.CV_8U, emboss)
    water_HW = drops_HW * cv2.blur(relief_HW, (3, 3)).astype(np.float32)
    return water_HW * np.float32(last / max(float(water_HW.max()), 1.0))


def _blurred(image_HW: np.ndarray, sigma: float) -> np.ndarray:
    """A gaussian cut at 4 sigma, border pixels repeated: skimage.filters.gaussian, in a third of its time."""
    taps = cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, sigma, cv2.CV_64F)
    return cv2.sepFilter2D(image_HW, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


@compiled
def drop(value, keep, mask, color):
    """One channel value under the mask."""
    return uint8(int32(min(value * keep + mask * color, float32(255.0))))


@compiled
def blend(task, y0, y1, x0, x1):
    """target: the source under its mask; extra[5]: 1 for mud."""
    row, mud = task.row, task.extra[5]
    red, green, blue = float32(175.0), float32(238.0), float32(238.0)
    if mud == float32(1.0):
        red, green, blue = float32(63.0), float32(42.0), float32(20.0)
    masks = task.line[: x1 - x0]
    source, target, first = task.source, task.target, 3 * (x0 - task.origin_x)
    for y in range(y0, y1):
        read_mask(masks, task.pool, row.mask_start + y * row.mask_step_y + x0 * row.mask_step_x, row.mask_step_x)
        out = y - task.origin_y
        for i in range(x1 - x0):
            mask = masks[i] * float32(1.0 / UNIT)
            keep = float32(1.0) - mud * mask
            target[uint64(out), uint64(first + 3 * i)] = drop(
                float32(source[uint64(out), uint64(first + 3 * i)]), keep, mask, red
            )
            target[uint64(out), uint64(first + 3 * i + 1)] = drop(
                float32(source[uint64(out), uint64(first + 3 * i + 1)]), keep, mask, green
            )
            target[uint64(out), uint64(first + 3 * i + 2)] = drop(
                float32(source[uint64(out), uint64(first + 3 * i + 2)]), keep, mask, blue
            )


def plan(level: float, canvas: tuple[int, int], margin: int, count: int) -> MaskPlan:
    height, width = canvas[0] + margin, canvas[1] + margin

    def make(random: np.random.Generator, _number: int) -> np.ndarray:
        mask_HW = spatter_mask(random.standard_normal((height, width), np.float32), int(level))
        return np.round(mask_HW * UNIT)

    # The water's relief is lit from one corner: a flip would move the light.
    return MaskPlan(make, [(height, width, 1)] * count, flips=is_mud(int(level)))


CORRUPTION = Corruption(
    name="spatter",
    severities=(  # mean, deviation, sigma, threshold, strength (water) or sigma of the rim (mud), 1 where mud
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    stages=(blend,),
    prior="weather",
    subset="validation",
    training=True,
    masks=Masks(float, plan),
    shared_area=1 << 20,
)
