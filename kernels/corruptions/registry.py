"""Every corruption, in the order of their numbers: the one list that all tables come from."""

from kernels.corruptions import (
    color,
    defocus,
    elastic,
    fog,
    frost,
    gaussian,
    glass,
    jpeg,
    motion,
    noise,
    pixelate,
    snow,
    spatter,
    spectral,
    zoom,
)
from kernels.corruptions.record import Corruption

# The first 19 in the order of the package `imagecorruptions`.
CORRUPTIONS: tuple[Corruption, ...] = (
    noise.GAUSSIAN_NOISE,
    noise.SHOT_NOISE,
    noise.IMPULSE_NOISE,
    defocus.CORRUPTION,
    glass.CORRUPTION,
    motion.CORRUPTION,
    zoom.CORRUPTION,
    snow.CORRUPTION,
    frost.CORRUPTION,
    fog.CORRUPTION,
    color.BRIGHTNESS,
    color.CONTRAST,
    elastic.CORRUPTION,
    pixelate.CORRUPTION,
    jpeg.CORRUPTION,
    noise.SPECKLE_NOISE,
    gaussian.CORRUPTION,
    spatter.CORRUPTION,
    color.SATURATE,
    # Ours.
    spectral.HIGH_PASS,
    spectral.PHASE,
)
BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}
if len(BY_NAME) < len(CORRUPTIONS):
    raise ValueError(f"two corruptions have one name: {sorted(corruption.name for corruption in CORRUPTIONS)}")

NEED_MASK = tuple(corruption.name for corruption in CORRUPTIONS if corruption.masks is not None)
