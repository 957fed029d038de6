"""Which stages make which corruption: the one list that the CPU and the CUDA driver read."""

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
    zoom,
)
from kernels.severity import ALL

STAGES: dict[str, tuple] = {
    "gaussian_noise": noise.GAUSSIAN_STAGES,
    "shot_noise": noise.SHOT_STAGES,
    "impulse_noise": noise.IMPULSE_STAGES,
    "defocus_blur": defocus.STAGES,
    "glass_blur": glass.STAGES,
    "motion_blur": motion.STAGES,
    "zoom_blur": zoom.STAGES,
    "snow": snow.STAGES,
    "frost": frost.STAGES,
    "fog": fog.STAGES,
    "brightness": color.BRIGHTNESS_STAGES,
    "contrast": color.CONTRAST_STAGES,
    "elastic_transform": elastic.STAGES,
    "pixelate": pixelate.STAGES,
    "jpeg_compression": jpeg.STAGES,
    "speckle_noise": noise.SPECKLE_STAGES,
    "gaussian_blur": gaussian.STAGES,
    "spatter": spatter.STAGES,
    "saturate": color.SATURATE_STAGES,
}
assert tuple(STAGES) == ALL

# The CPU does whole images: it may walk in an order, or do many blocks side by side. The pixels are the same.
CPU_STAGES = STAGES | {
    "glass_blur": glass.CPU_STAGES,
    "jpeg_compression": jpeg.CPU_STAGES,
    "elastic_transform": elastic.CPU_STAGES,
}

WHOLE_STAGES = (glass.shuffle_in_order,)  # must walk through the whole image: one thread does it alone

NEED_STATISTICS = ("contrast", "fog")  # read task.statistics
NEED_MASK = ("snow", "frost", "fog", "spatter")  # read task.pool
