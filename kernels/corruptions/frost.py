"""Frost: a photograph of ice crystals blended over the image.

    out = a x + b f        x and the texture f in 0..255

(Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.frost`). The textures come from the pool. The reference's
six photographs are part of that package and not of ours. So by default the textures are drawn by `frost_texture`:
feathered crystals with the colour, mean and deviation of the reference's. They are not the same pictures. A robustness
score is comparable with published ones only when the reference's textures are given (`load_textures`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numba import float32, int32, int64, uint8, uint64

from kernels.corruptions.masks import read_mask
from kernels.corruptions.record import Corruption, MaskPlan, Masks
from kernels.jit import compiled

# mean RGB and mean deviation of the six textures of imagecorruptions-imaug 1.1.5 (the second and third are one picture)
LOOKS = (
    ((78, 149, 166), 19),
    ((201, 205, 214), 22),
    ((201, 205, 214), 22),
    ((138, 153, 165), 29),
    ((112, 123, 135), 43),
    ((71, 95, 105), 42),
)
LONGEST = 256  # pixels of the longest crystal


def frost_texture(random: np.random.Generator, height: int, width: int, look: int) -> np.ndarray:
    """A drawn texture f_HW3 (uint8 RGB)."""
    crystals = np.zeros((height, width), dtype=np.float32)
    for longest in (LONGEST, LONGEST // 2, LONGEST // 4):
        crystals += _crystals(random, height, width, longest)
    eighth = cv2.GaussianBlur(random.standard_normal((height // 8 + 1, width // 8 + 1)).astype(np.float32), (0, 0), 16)
    light = cv2.resize(eighth, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = cv2.GaussianBlur(random.standard_normal((height, width)).astype(np.float32), (0, 0), 1)
    relief = _standardised(crystals) + _standardised(light) * 0.6 + _standardised(grain) * 0.3
    mean_3, deviation = LOOKS[look % len(LOOKS)]
    texture = _standardised(relief)[..., None] * np.float32(deviation) + np.array(mean_3, dtype=np.float32)
    return np.clip(np.round(texture), 0, 255).astype(np.uint8)


def _crystals(random: np.random.Generator, height: int, width: int, longest: int) -> np.ndarray:
    """Feathers: a stem, and barbs at 60 degrees on both its sides that grow shorter towards the tip."""
    bits = 3  # of a pixel, for cv2's fixed-point coordinates
    canvas = np.zeros((height, width), dtype=np.uint8)
    for _ in range(round(9 * (height / longest + 1) * (width / longest + 1))):
        length = longest * random.uniform(0.3, 1.0)
        start = random.uniform((-longest / 2, -longest / 2), (width + longest / 2, height + longest / 2))
        angle = random.uniform(0, 2 * math.pi)
        stem = np.array([math.cos(angle), math.sin(angle)])
        roots = start + np.arange(0, length, random.uniform(4, 9))[:, None] * stem
        lines = [np.stack([start, start + length * stem])]
        for turn in (-math.pi / 3, math.pi / 3):
            barb = np.array([math.cos(angle + turn), math.sin(angle + turn)])
            reach = np.linspace(0.35, 0.02, len(roots)) * length * random.uniform(0.5, 1.0, len(roots))
            lines += list(np.stack([roots, roots + reach[:, None] * barb], axis=1))
        fixed = [np.round(line * 2**bits).astype(np.int32) for line in lines]
        cv2.polylines(canvas, fixed, False, int(random.integers(60, 256)), 1, cv2.LINE_AA, bits)
    return canvas.astype(np.float32)


def _standardised(field_HW: np.ndarray) -> np.ndarray:
    return (field_HW - field_HW.mean()) / max(float(field_HW.std()), 1e-6)


def load_textures(directory: Path) -> list[np.ndarray]:
    """The pictures (.png, .jpg) of a directory in the order of their names, as uint8 RGB: for instance the `frost`
    folder inside an installed imagecorruptions."""
    named = (path for path in Path(directory).glob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    paths = sorted(path for path in named if path.is_file())  # a pipe or a device would never end
    if not paths:
        raise ValueError(
            f"frost textures: no .png or .jpg in {directory}; give a directory of pictures, or none at all"
        )
    textures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"frost textures: {path} is not a picture that can be decoded; remove it")
        textures.append(np.ascontiguousarray(picture[..., ::-1]))
    return textures


def scaled_texture(texture_HW3: np.ndarray, height: int, width: int) -> np.ndarray:
    """The texture at the size the reference gives it for an image of height x width. It is a tenth larger than the
    texture itself or than the least size that covers the image."""
    factor = 1.1 * max(height / texture_HW3.shape[0], width / texture_HW3.shape[1], 1.0)
    size = (math.ceil(texture_HW3.shape[1] * factor), math.ceil(texture_HW3.shape[0] * factor))
    return cv2.resize(texture_HW3, dsize=size, interpolation=cv2.INTER_CUBIC)


@compiled
def blend(task, y0, y1, x0, x1):
    """target: the source under its texture; extra[0]: a, extra[1]: b. The texture's three channels are side by side."""
    row, keep, strength = task.row, task.extra[0], task.extra[1]
    step = int64(row.mask_step_x)
    textures = task.line[: 3 * (x1 - x0)]
    source, target, first = task.source, task.target, 3 * (x0 - task.origin_x)
    for y in range(y0, y1):
        start = row.mask_start + y * row.mask_step_y + x0 * step
        if step == 3:
            read_mask(textures, task.pool, start, 1)
        else:
            for i in range(x1 - x0):
                for channel in range(3):
                    textures[3 * i + channel] = float32(task.pool[uint64(start + i * step + channel)])
        out = y - task.origin_y
        for i in range(3 * (x1 - x0)):
            target[uint64(out), uint64(first + i)] = uint8(
                int32(
                    min(keep * float32(source[uint64(out), uint64(first + i)]) + strength * textures[i], float32(255.0))
                )
            )


def plan(_argument: float, canvas: tuple[int, int], margin: int, _count: int) -> MaskPlan:
    """Drawn textures: six for all severities, as the reference has six photographs."""
    height, width = canvas[0] + margin, canvas[1] + margin

    def make(random: np.random.Generator, number: int) -> np.ndarray:
        return frost_texture(random, height, width, number)

    return MaskPlan(make, [(height, width, 3)] * len(LOOKS), flips=True)


def plan_given(textures: Sequence[np.ndarray], canvas: tuple[int, int]) -> MaskPlan:
    """Given textures: cropped but not flipped, as the reference does."""

    def make(_random: np.random.Generator, number: int) -> np.ndarray:
        return scaled_texture(textures[number], *canvas)

    return MaskPlan(make, [scaled_texture(texture, *canvas).shape for texture in textures], flips=False)


CORRUPTION = Corruption(
    name="frost",
    severities=((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),  # weights of image and frost
    stages=(blend,),
    prior="weather",
    subset="weather",
    masks=Masks(lambda _level: 0.0, plan),
    shared_area=1 << 20,
)
