"""Frost: a photograph of ice crystals blended over the image.

    out = a x + b f        x and the texture f in 0..255

(Hendrycks and Dietterich 2019, `imagecorruptions.corruptions.frost`). The textures come from the pool. The reference's
six photographs are part of that package and not of ours, so by default the textures are drawn by `frost_tile`:
feathered crystals with the colour, mean and deviation of the reference's. They are frost, but not the same pictures, and
a robustness score is comparable with published ones only when the reference's textures are given (`load_textures`).
"""

import math
from pathlib import Path

import cv2
import numpy as np
from numba import njit

# share a of the image, share b of the texture
PARAMETERS = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))

# mean RGB and mean deviation of the six textures of imagecorruptions-imaug 1.1.5 (the second and third are one picture)
LOOKS = (
    ((78, 149, 166), 19),
    ((201, 205, 214), 22),
    ((201, 205, 214), 22),
    ((138, 153, 165), 29),
    ((112, 123, 135), 43),
    ((71, 95, 105), 42),
)
REACH = 256  # the longest crystal


def frost_tile(random: np.random.Generator, side: int, look: int) -> np.ndarray:
    """A texture f_HW3 (uint8 RGB) of side x side that continues into itself at its borders."""
    crystals = np.zeros((side, side), dtype=np.float32)
    for longest in (REACH, REACH // 2, REACH // 4):
        num_crystals = max(round(9 * (side / longest) ** 2), 1)
        crystals += _crystals(random, side, longest, num_crystals) / np.float32(255)
    grain = random.standard_normal((side, side)).astype(np.float32)
    light = _smooth(random.standard_normal((side, side)).astype(np.float32), side / 8)
    texture = _standardised(crystals) + _standardised(light) * 0.6 + _standardised(_smooth(grain, 1.0)) * 0.3
    mean_3, deviation = LOOKS[look]
    texture = _standardised(texture)[..., None] * np.float32(deviation) + np.array(mean_3, dtype=np.float32)
    return np.clip(np.round(texture), 0, 255).astype(np.uint8)


def _crystals(random: np.random.Generator, side: int, longest: int, num_crystals: int) -> np.ndarray:
    """Feathers: a stem, and barbs at 60 degrees on both its sides that grow shorter towards the tip."""
    bits = 3  # of a pixel, for cv2's fixed-point coordinates
    canvas = np.zeros((side + 2 * longest, side + 2 * longest), dtype=np.uint8)
    for _ in range(num_crystals):
        length = longest * random.uniform(0.3, 1.0)
        start = random.uniform(longest, longest + side, 2)
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
    # What grew over a border comes back in at the opposite one.
    for _ in range(2):
        middle = canvas[longest : longest + side]
        rows = np.arange(-longest, 0) % side
        np.maximum.at(middle, rows, canvas[:longest])
        np.maximum.at(middle, np.arange(longest) % side, canvas[longest + side :])
        canvas = middle.T
    return np.ascontiguousarray(canvas)


def _smooth(field_HW: np.ndarray, sigma: float) -> np.ndarray:
    """A gaussian blur of a field that continues into itself, through its spectrum."""
    rows = np.fft.fftfreq(field_HW.shape[0])[:, None]
    columns = np.fft.rfftfreq(field_HW.shape[1])
    response = np.exp(-2 * (math.pi * sigma) ** 2 * (rows**2 + columns**2))
    return np.fft.irfft2(np.fft.rfft2(field_HW) * response, s=field_HW.shape).astype(np.float32)


def _standardised(field_HW: np.ndarray) -> np.ndarray:
    return (field_HW - field_HW.mean()) / max(float(field_HW.std()), 1e-6)


def load_textures(directory: Path) -> list[np.ndarray]:
    """The pictures (.png, .jpg) of a directory in the order of their names, as uint8 RGB: for instance the `frost`
    folder inside an installed imagecorruptions."""
    paths = sorted(path for path in Path(directory).glob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
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
    """The texture at the size the reference gives it for an image of height x width: a tenth larger than either the
    texture itself or the least size that covers the image."""
    factor = 1.1 * max(height / texture_HW3.shape[0], width / texture_HW3.shape[1], 1.0)
    size = (math.ceil(texture_HW3.shape[1] * factor), math.ceil(texture_HW3.shape[0] * factor))
    return cv2.resize(texture_HW3, dsize=size, interpolation=cv2.INTER_CUBIC)


@njit(inline="never")
def frost_value(value, texture, keep, strength):
    """One channel value (float32, 0..255) under the texture's value."""
    return min(keep * value + strength * texture, np.float32(255.0))
