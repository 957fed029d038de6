"""brightness, contrast, saturate: each pixel alone, plus the channel means for contrast.

`imagecorruptions` works in HSV. Let V = max(r, g, b) and m = min(r, g, b). A channel is V (1 - S t) with S = (V - m) /
V and t = (V - channel) / (V - m). t depends on the hue alone. So adding to V scales the pixel, and changing S keeps t;
no hue is ever computed. A grey pixel has hue 0 (red) there, that is t = (0, 1, 1), which shows when saturate adds to S.
"""

from numba import float32, uint8, uint32, uint64

from kernels.corruptions.record import Corruption
from kernels.jit import compiled

# A value that is a whole number in exact arithmetic must not be truncated to the one below it.
TINY = 1 / 512
LARGEST_AREA = (2**32 - 1) // 255  # pixels of an image: the sum of a channel fits 32 bits


@compiled
def brightness(task, y0, y1, x0, x1):
    """V' = min(V + c, 1); extra[0]: 255 c."""
    source, target = task.source, task.target
    added, tiny, origin = task.extra[0], float32(TINY), task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for x in range(x0, x1):
            red = float32(source[uint64(out), uint64(3 * (x - origin))])
            green = float32(source[uint64(out), uint64(3 * (x - origin) + 1)])
            blue = float32(source[uint64(out), uint64(3 * (x - origin) + 2)])
            value = max(red, max(green, blue))
            raised = min(value + added, float32(255))
            factor = raised / max(value, float32(1))
            black = added if value == float32(0) else float32(0)
            target[uint64(out), uint64(3 * (x - origin))] = uint8(red * factor + black + tiny)
            target[uint64(out), uint64(3 * (x - origin) + 1)] = uint8(green * factor + black + tiny)
            target[uint64(out), uint64(3 * (x - origin) + 2)] = uint8(blue * factor + black + tiny)


@compiled
def saturate(task, y0, y1, x0, x1):
    """S' = clip(c0 S + c1, 0, 1); extra[0]: c0, extra[1]: c1."""
    source, target = task.source, task.target
    factor, added, tiny, origin = task.extra[0], task.extra[1], float32(TINY), task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for x in range(x0, x1):
            red = float32(source[uint64(out), uint64(3 * (x - origin))])
            green = float32(source[uint64(out), uint64(3 * (x - origin) + 1)])
            blue = float32(source[uint64(out), uint64(3 * (x - origin) + 2)])
            value = max(red, max(green, blue))
            spread = value - min(red, min(green, blue))
            saturation = min(spread / max(value, float32(1)) * factor + added, float32(1))
            scale = value * saturation / max(spread, float32(1))
            grey = value * saturation if spread == float32(0) else float32(0)
            target[uint64(out), uint64(3 * (x - origin))] = uint8(value - (value - red) * scale + tiny)
            target[uint64(out), uint64(3 * (x - origin) + 1)] = uint8(value - (value - green) * scale - grey + tiny)
            target[uint64(out), uint64(3 * (x - origin) + 2)] = uint8(value - (value - blue) * scale - grey + tiny)


@compiled
def contrast(task, y0, y1, x0, x1):
    """(x - mean) c + mean, with the mean of each channel over the image; extra[0]: c."""
    source, target = task.source, task.target
    factor, origin, tiny = task.extra[0], task.origin_x, float32(TINY)
    count = float32(task.row.height) * float32(task.row.width)
    rest = float32(1) - factor
    red = rest * (float32(task.statistics[0]) / count) + tiny
    green = rest * (float32(task.statistics[1]) / count) + tiny
    blue = rest * (float32(task.statistics[2]) / count) + tiny
    for y in range(y0, y1):
        out = y - task.origin_y
        for x in range(x0, x1):
            i = 3 * (x - origin)
            target[uint64(out), uint64(i)] = uint8(float32(source[uint64(out), uint64(i)]) * factor + red)
            target[uint64(out), uint64(i + 1)] = uint8(float32(source[uint64(out), uint64(i + 1)]) * factor + green)
            target[uint64(out), uint64(i + 2)] = uint8(float32(source[uint64(out), uint64(i + 2)]) * factor + blue)


@compiled
def gather_statistics(source, statistics, height, width):
    """statistics: sums of the three channels over the image, and its largest value."""
    red, green, blue = uint32(0), uint32(0), uint32(0)
    largest = uint8(0)
    for y in range(height):
        for x in range(width):
            red += uint32(source[uint64(y), uint64(3 * x)])
            green += uint32(source[uint64(y), uint64(3 * x + 1)])
            blue += uint32(source[uint64(y), uint64(3 * x + 2)])
        for i in range(3 * width):
            largest = max(largest, source[uint64(y), uint64(i)])
    statistics[0], statistics[1], statistics[2], statistics[3] = red, green, blue, largest


BRIGHTNESS = Corruption(
    name="brightness",
    severities=(0.1, 0.2, 0.3, 0.4, 0.5),  # added to V
    stages=(brightness,),
    prior="none",
    subset="weather",
    training=True,
    unit=255.0,
)
CONTRAST = Corruption(
    name="contrast",
    severities=(0.4, 0.3, 0.2, 0.1, 0.05),  # factor around the channel's mean
    stages=(contrast,),
    prior="none",
    subset="digital",
    training=True,
    statistics=True,
)
SATURATE = Corruption(
    name="saturate",
    severities=((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),  # factor and offset of S
    stages=(saturate,),
    prior="none",
    subset="validation",
    training=True,
)
