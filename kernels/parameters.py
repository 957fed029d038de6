"""The table that travels with a batch: one ROW and one line of numbers an image, drawn on the host.

Every draw is a function of the image's key, so of (seed, epoch, sample id), whatever the batch around it.
"""

from functools import lru_cache

import numpy as np

from kernels import defocus, elastic, gaussian, glass, jpeg, motion, pixelate, rng, severity, zoom
from kernels.jit import compiled
from kernels.task import EXTRA, ROW

LARGEST_SIDE = rng.LARGEST_SIDE
MOTION, ANGLES = severity.INDEX["motion_blur"], 45.0

# A strength that is one or two numbers goes straight from its table; the factor turns it into the body's unit.
NUMBERS = {
    "gaussian_noise": 255.0,
    "speckle_noise": 1.0,
    "impulse_noise": float(1 << 23),
    "brightness": 255.0,
    "contrast": 1.0,
    "saturate": 1.0,
}
COMPUTED = {
    "gaussian_blur": gaussian.extra,
    "glass_blur": glass.extra,
    "defocus_blur": defocus.extra,
    "zoom_blur": zoom.extra,
    "pixelate": pixelate.extra,
    "elastic_transform": elastic.extra,
    "jpeg_compression": jpeg.extra,
}


@lru_cache(maxsize=4096)
def _extra(index: int, level: int, height: int, width: int) -> np.ndarray:
    name = severity.ALL[index]
    line_E = np.zeros(EXTRA, dtype=np.float32)
    if name in NUMBERS:
        values = np.atleast_1d(severity.TABLES[name][level - 1]) * NUMBERS[name]
    elif name in COMPUTED:
        values = np.asarray(COMPUTED[name](level, height, width))
    else:
        return line_E  # the body reads its severity's numbers itself
    line_E[: len(values)] = values
    return line_E


def fill_extra(rows_B: np.ndarray, extra_BE: np.ndarray) -> None:
    """Numbers that depend on an image's corruption, severity, size and key alone."""
    fields = (rows_B["corruption"].tolist(), rows_B["severity"].tolist(), rows_B["height"].tolist())
    for b, (index, level, height, width) in enumerate(zip(*fields, rows_B["width"].tolist(), strict=True)):
        if index == severity.NONE or height == 0:
            continue
        if index == MOTION:
            key = int(rows_B["key1"][b]) << 32 | int(rows_B["key0"][b])
            angle = (2 * rng.draw(np.uint64(key), rng.ANGLE) - 1) * ANGLES
            motion.fill(extra_BE[b], *severity.TABLES["motion_blur"][level - 1], angle, height, width)
        else:
            extra_BE[b] = _extra(index, level, height, width)


@compiled
def draw_rows(rows_B, keys_B, ids_B, sizes_B2, seed, epoch, kinds_N, severities_S, lowest, highest, flip_probability):
    """Fill ROWs: which corruption, how strong, what ratio in [lowest, highest), mirrored or not."""
    for b in range(len(rows_B)):
        key = rng.image_key(seed, epoch, ids_B[b])
        keys_B[b] = np.int64(key)
        height, width = sizes_B2[b, 0], sizes_B2[b, 1]
        ratio = lowest + (highest - lowest) * rng.draw(key, rng.RATIO)
        row = rows_B[b]
        row.mask_start = 0
        row.mask_step_y = 0
        row.mask_step_x = 0
        row.corruption = severity.NONE
        if len(kinds_N) > 0 and height > 0:
            row.corruption = kinds_N[int(rng.draw(key, rng.CHOICE) * len(kinds_N))]
        row.severity = severities_S[int(rng.draw(key, rng.SEVERITY) * len(severities_S))]
        row.height = height
        row.width = width
        row.student_height = max(int(height * ratio + 0.5), 1) if height > 0 else 0
        row.student_width = max(int(width * ratio + 0.5), 1) if width > 0 else 0
        row.flip = 1 if rng.draw(key, rng.FLIP) < flip_probability else 0
        row.variant = 0
        row.key0 = np.uint32(key & np.uint64(0xFFFFFFFF))
        row.key1 = np.uint32(key >> np.uint64(32))


def single_row(name: str, level: int, height: int, width: int, key: int) -> np.ndarray:
    """The table of one image with a given corruption, at full size."""
    rows_B = np.zeros(1, dtype=ROW)
    row = rows_B[0]
    row["corruption"], row["severity"] = severity.INDEX[name], level
    row["height"] = row["student_height"] = height
    row["width"] = row["student_width"] = width
    row["key0"], row["key1"] = int(key) & 0xFFFFFFFF, int(key) >> 32
    return rows_B
