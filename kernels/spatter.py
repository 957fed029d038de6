"""Spatter: drops of water (severity 1 to 3) or mud (4 and 5) on the lens.

    water   out = x + m * (175, 238, 238)              m: edges of the drops times their thickness, 0 to 0.6
    mud     out = x * (1 - m) + m * (63, 42, 20)       m: 0, or 0.8 to 1

x in 0..255. The mask m never looks at the image, so it comes from the pool (`kernels.pool`); `spatter_mask` makes one
as the reference does (Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.spatter`), `spatter_pixel` lays it
on a pixel.
"""

import cv2
import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter

# mean and deviation of the noise, sigma of its blur, threshold, strength (water) or sigma of the second blur (mud)
PARAMETERS = (
    (0.65, 0.3, 4.0, 0.69, 0.6),
    (0.65, 0.3, 3.0, 0.68, 0.6),
    (0.65, 0.3, 2.0, 0.68, 0.5),
    (0.65, 0.3, 1.0, 0.65, 1.5),
    (0.67, 0.4, 1.0, 0.65, 1.5),
)
LAST_WATER_SEVERITY = 3
# How far a mask's pixel can see: two blurs cut at 4 sigma and the distance cut at 20 px, with the filters after it.
REACH = 48


def spatter_mask(normal_HW: np.ndarray, severity: int) -> np.ndarray:
    """The mask m_HW (float32) that the reference makes of this standard normal field.

    Zero where the reference would divide by an empty mask (a tiny field without one drop); it turns black there.
    """
    mean, deviation, sigma, threshold, last = PARAMETERS[severity - 1]
    liquid_HW = gaussian_filter(mean + deviation * normal_HW, sigma, mode="nearest", truncate=4.0)
    if severity > LAST_WATER_SEVERITY:
        mud_HW = gaussian_filter((liquid_HW > threshold).astype(np.float32), last, mode="nearest", truncate=4.0)
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


@njit(inline="never")
def spatter_pixel(red, green, blue, mask, severity):
    """One pixel (float32, 0..255) under mask value `mask`: three float32 in 0..255."""
    if severity <= 3:
        keep = np.float32(1.0)
        red_drop, green_drop, blue_drop = np.float32(175.0), np.float32(238.0), np.float32(238.0)
    else:
        keep = np.float32(1.0) - mask
        red_drop, green_drop, blue_drop = np.float32(63.0), np.float32(42.0), np.float32(20.0)
    top = np.float32(255.0)
    return (
        min(red * keep + mask * red_drop, top),
        min(green * keep + mask * green_drop, top),
        min(blue * keep + mask * blue_drop, top),
    )
