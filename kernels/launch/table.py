"""The table that travels with a batch: one ROW, one line of numbers and a few results an image, drawn on the host.

Every draw is a function of the image's key, so of (seed, epoch, sample id); the rest of the batch has no effect.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kernels import rng, severity
from kernels.corruptions.record import LAUNCHES
from kernels.corruptions.registry import CORRUPTIONS
from kernels.jit import compiled
from kernels.task import EXTRA, ROW


class Columns(NamedTuple):
    """One thing for each column of the table: what it holds (COLUMNS), its place in the buffer, or its array."""

    rows_B: Any
    extra_BE: Any
    statistics_B4: Any  # zero; the statistics stage adds to it
    lists_BL: Any  # of images, for a GPU's launches (`lists`): L for each image is more than they take
    # From here on: what a view shows of it.
    keys_B: Any
    clean_sizes_B2: Any
    small_sizes_B2: Any
    ratio_B: Any


# The kind of a column's numbers, and its shape for one image.
COLUMNS = Columns(
    rows_B=(ROW, ()),
    extra_BE=(np.dtype(np.float32), (EXTRA,)),
    statistics_B4=(np.dtype(np.uint32), (4,)),
    lists_BL=(np.dtype(np.int32), (2 + len(LAUNCHES),)),
    keys_B=(np.dtype(np.int64), ()),
    clean_sizes_B2=(np.dtype(np.int32), (2,)),
    small_sizes_B2=(np.dtype(np.int32), (2,)),
    ratio_B=(np.dtype(np.float32), ()),
)
ALIGNMENT = 256


def layout(num: int) -> tuple[Columns, int]:
    """Where each column begins and ends in one buffer of bytes, and the buffer's length."""
    places, at = [], 0
    for dtype, shape in COLUMNS:
        length = num * dtype.itemsize * math.prod(shape)
        places.append((at, at + length))
        at += -(-length // ALIGNMENT) * ALIGNMENT
    return Columns(*places), at


class Table:
    """The columns as NumPy arrays over one buffer, which goes to the device in one copy."""

    def __init__(self, num: int, buffer: np.ndarray | None = None):
        self.num = num
        self.places, length = layout(num)
        self.buffer = np.zeros(length, dtype=np.uint8) if buffer is None else buffer
        self.columns = Columns(
            *(
                self.buffer[begin:end].view(dtype).reshape(num, *shape)
                for (dtype, shape), (begin, end) in zip(COLUMNS, self.places, strict=True)
            )
        )
        self.rows_B: np.ndarray = self.columns.rows_B
        self.extra_BE: np.ndarray = self.columns.extra_BE
        self.statistics_B4: np.ndarray = self.columns.statistics_B4
        self.lists_M: np.ndarray = self.columns.lists_BL.reshape(-1)
        self.keys_B: np.ndarray = self.columns.keys_B
        self.clean_sizes_B2: np.ndarray = self.columns.clean_sizes_B2
        self.small_sizes_B2: np.ndarray = self.columns.small_sizes_B2
        self.ratio_B: np.ndarray = self.columns.ratio_B


@cache
def _extra(index: int, level: int) -> np.ndarray:
    values = CORRUPTIONS[index].numbers(level)
    line_E = np.zeros(EXTRA, dtype=np.float32)
    line_E[: len(values)] = values
    return line_E


def fill_extra(table: Table) -> None:
    """Numbers that depend on an image's corruption, severity, size and key alone."""
    rows_B, extra_BE = table.rows_B, table.extra_BE
    fields = (rows_B[name].tolist() for name in ("corruption", "severity", "height", "width", "key0", "key1"))
    for b, (index, level, height, width, key0, key1) in enumerate(zip(*fields, strict=True)):
        if index == severity.NONE:
            continue
        fill = CORRUPTIONS[index].fill
        if fill is None:
            extra_BE[b] = _extra(index, level)
        else:
            fill(extra_BE[b], level, height, width, key1 << 32 | key0)


@compiled
def draw_rows(columns, ids_B, sizes_B2, seed, epoch, kinds_N, severities_S, lowest, highest, flip_probability):
    """Fill ROWs and results: which corruption, how strong, what ratio in [lowest, highest), mirrored or not."""
    rows_B, keys_B, ratio_B = columns.rows_B, columns.keys_B, columns.ratio_B
    clean_sizes_B2, small_sizes_B2 = columns.clean_sizes_B2, columns.small_sizes_B2
    for b in range(len(rows_B)):
        key = rng.image_key(seed, epoch, ids_B[b])
        height, width = sizes_B2[b, 0], sizes_B2[b, 1]
        real = height > 0 and width > 0
        ratio = lowest + (highest - lowest) * rng.draw(key, rng.RATIO)
        row = rows_B[b]
        row.mask_start = 0
        row.mask_step_y = 0
        row.mask_step_x = 0
        row.corruption = severity.NONE
        if len(kinds_N) > 0 and real:
            row.corruption = kinds_N[int(rng.draw(key, rng.CHOICE) * len(kinds_N))]
        row.severity = severities_S[int(rng.draw(key, rng.SEVERITY) * len(severities_S))]
        row.height = height
        row.width = width
        row.small_height = max(int(height * ratio + 0.5), 1) if real else 0
        row.small_width = max(int(width * ratio + 0.5), 1) if real else 0
        row.flip = 1 if rng.draw(key, rng.FLIP) < flip_probability else 0
        row.variant = 0
        row.key0 = np.uint32(key & np.uint64(0xFFFFFFFF))
        row.key1 = np.uint32(key >> np.uint64(32))
        keys_B[b] = np.int64(key)
        clean_sizes_B2[b, 0], clean_sizes_B2[b, 1] = height, width
        small_sizes_B2[b, 0], small_sizes_B2[b, 1] = row.small_height, row.small_width
        ratio_B[b] = 1.0
        if real:
            ratio_B[b] = math.sqrt(row.small_height * row.small_width / (float(height) * float(width)))


def draw_table(
    table: Table,
    ids_B: np.ndarray,
    sizes_B2: np.ndarray,
    seed: int,
    epoch: int,
    kinds_N: np.ndarray,
    severities_S: np.ndarray,
    ratios: tuple[float, float],
    flip_probability: float,
) -> None:
    """Draw everything about a batch but its masks."""
    draw_rows(table.columns, ids_B, sizes_B2, seed, epoch, kinds_N, severities_S, *ratios, flip_probability)
    fill_extra(table)


def single_table(name: str, level: int, height: int, width: int, key: int) -> Table:
    """The table of one image with a given corruption, at full size."""
    table = Table(1)
    row = table.rows_B[0]
    row["corruption"], row["severity"] = severity.INDEX[name], level
    row["height"] = row["small_height"] = height
    row["width"] = row["small_width"] = width
    row["key0"], row["key1"] = int(key) & 0xFFFFFFFF, int(key) >> 32
    fill_extra(table)
    return table
