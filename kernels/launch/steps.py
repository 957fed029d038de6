"""One pixel of one step: which stage of which corruption, looked up by the row's corruption.

The CUDA kernels (`kernels/launch/gpu.py`) launch a step for all images together; an image whose type has nothing to do
in it returns at once. They are compiled functions like the stages themselves, so the tests also run them pixel by pixel
on the CPU, where they must give what whole rows give.
"""

from numba import uint64

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
from kernels.jit import compiled
from kernels.severity import INDEX, NONE

GAUSSIAN_NOISE, SHOT_NOISE, IMPULSE_NOISE = INDEX["gaussian_noise"], INDEX["shot_noise"], INDEX["impulse_noise"]
DEFOCUS_BLUR, GLASS_BLUR, GAUSSIAN_BLUR = INDEX["defocus_blur"], INDEX["glass_blur"], INDEX["gaussian_blur"]
MOTION_BLUR, ZOOM_BLUR = INDEX["motion_blur"], INDEX["zoom_blur"]
SNOW, FROST, FOG, SPATTER = INDEX["snow"], INDEX["frost"], INDEX["fog"], INDEX["spatter"]
BRIGHTNESS, CONTRAST, SATURATE = INDEX["brightness"], INDEX["contrast"], INDEX["saturate"]
ELASTIC, PIXELATE, JPEG = INDEX["elastic_transform"], INDEX["pixelate"], INDEX["jpeg_compression"]
SPECKLE_NOISE = INDEX["speckle_noise"]

# Which types have a stage in which step, for the host.
STEPS = (
    (GLASS_BLUR, GAUSSIAN_BLUR, PIXELATE, ELASTIC),
    (GLASS_BLUR, DEFOCUS_BLUR, PIXELATE, ELASTIC),
    (GLASS_BLUR, ELASTIC),
    (GLASS_BLUR,),
)


@compiled
def step_1(task, y, x):
    kind = task.row.corruption
    if kind in (GLASS_BLUR, GAUSSIAN_BLUR):
        gaussian.rows_of_source(task, y, y + 1, x, x + 1)
    elif kind == PIXELATE:
        pixelate.box_rows(task, y, y + 1, x, x + 1)
    elif kind == ELASTIC:
        elastic.noise(task, y, y + 1, x, x + 1)


@compiled
def step_2(task, y, x):
    kind = task.row.corruption
    if kind == GLASS_BLUR:
        glass.truncated_columns(task, y, y + 1, x, x + 1)
    elif kind == DEFOCUS_BLUR:
        defocus.disk_sums(task, y, y + 1, x, x + 1)
    elif kind == PIXELATE:
        pixelate.box_columns(task, y, y + 1, x, x + 1)
    elif kind == ELASTIC:
        elastic.down(task, y, y + 1, x, x + 1)


@compiled
def step_3(task, y, x):
    kind = task.row.corruption
    if kind == GLASS_BLUR:
        glass.shuffle(task, y, y + 1, x, x + 1)
    elif kind == ELASTIC:
        elastic.along(task, y, y + 1, x, x + 1)


@compiled
def step_4(task, y, x):
    if task.row.corruption == GLASS_BLUR:
        glass.rows_again(task, y, y + 1, x, x + 1)


@compiled
def is_heavy(kind):
    """Whether the last stage needs many registers: those are launched apart, so that the others run more threads."""
    return kind in (DEFOCUS_BLUR, GLASS_BLUR, MOTION_BLUR, ZOOM_BLUR, GAUSSIAN_BLUR, JPEG)


@compiled
def last_of_heavy(task, y, x):
    """The last stage of the types that need many registers."""
    kind = task.row.corruption
    if kind == DEFOCUS_BLUR:
        defocus.soften(task, y, y + 1, x, x + 1)
    elif kind == GLASS_BLUR:
        glass.columns_again(task, y, y + 1, x, x + 1)
    elif kind == MOTION_BLUR:
        motion.motion_blur(task, y, y + 1, x, x + 1)
    elif kind == ZOOM_BLUR:
        zoom.zoom_blur(task, y, y + 1, x, x + 1)
    elif kind == GAUSSIAN_BLUR:
        gaussian.columns_to_target(task, y, y + 1, x, x + 1)
    elif kind == JPEG:
        jpeg.colours(task, y, y + 1, x, x + 1)


@compiled
def last_of_others(task, y, x):
    """The last stage of all other types; without a corruption the pixel is copied."""
    kind = task.row.corruption
    if kind == NONE:
        for c in range(3):
            value = task.source[uint64(y), uint64(3 * x + c)]
            task.target[uint64(y - task.origin_y), uint64(3 * (x - task.origin_x) + c)] = value
    elif kind == GAUSSIAN_NOISE:
        noise.gaussian_noise(task, y, y + 1, x, x + 1)
    elif kind == SHOT_NOISE:
        noise.shot_noise(task, y, y + 1, x, x + 1)
    elif kind == IMPULSE_NOISE:
        noise.impulse_noise(task, y, y + 1, x, x + 1)
    elif kind == SPECKLE_NOISE:
        noise.speckle_noise(task, y, y + 1, x, x + 1)
    elif kind == SNOW:
        snow.blend(task, y, y + 1, x, x + 1)
    elif kind == FROST:
        frost.blend(task, y, y + 1, x, x + 1)
    elif kind == FOG:
        fog.blend(task, y, y + 1, x, x + 1)
    elif kind == SPATTER:
        spatter.blend(task, y, y + 1, x, x + 1)
    elif kind == BRIGHTNESS:
        color.brightness(task, y, y + 1, x, x + 1)
    elif kind == CONTRAST:
        color.contrast(task, y, y + 1, x, x + 1)
    elif kind == SATURATE:
        color.saturate(task, y, y + 1, x, x + 1)
    elif kind == ELASTIC:
        elastic.sample(task, y, y + 1, x, x + 1)
    elif kind == PIXELATE:
        pixelate.enlarge(task, y, y + 1, x, x + 1)
