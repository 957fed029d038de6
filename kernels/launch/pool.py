"""A pool of weather masks: what spatter, snow, frost and fog lay over an image never depends on that image.

The masks are made once, by the reference's own algorithms (`spatter_mask`, `snow_layer`, `plasma_map`; frost is drawn),
each larger than the canvas by a margin. Every image then draws from its own key alone: one mask of its corruption and
severity, and an offset in it. Where the mask's law is symmetric, it also draws flips. docs/kernels-masks.md measures
how much diversity is lost to fresh masks, and where the default size and margin come from.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import int64, uint32, uint64

from kernels import rng
from kernels.corruptions import frost
from kernels.corruptions.record import MaskPlan
from kernels.corruptions.registry import BY_NAME, NEED_MASK
from kernels.jit import compiled
from kernels.severity import ALL, INDEX, SEVERITIES

# One record a mask. Elements are counted in values_M.
MASK = np.dtype([("start", np.int64), ("height", np.int32), ("width", np.int32), ("channels", np.int32)], align=True)
# One record a corruption and severity: which masks it may draw.
GROUP = np.dtype(
    [(name, np.int32) for name in ("first", "count", "flips", "map_side", "canvas_height", "canvas_width")], align=True
)


class Pool:
    """Masks for images of at most `canvas`.

    size: masks a corruption and severity. Frost has six textures in all, like the reference, or `frost_textures`.
    margin: pixels by which a mask is larger than the canvas, each way.
    frost_textures: pictures to use instead of drawn frost, for instance the reference's own (`frost.load_textures`).
    generation: another number makes other masks.
    """

    def __init__(
        self,
        canvas: tuple[int, int],
        corruptions: Sequence[str] = NEED_MASK,
        severities: Sequence[int] = SEVERITIES,
        size: int = 16,
        margin: int = 256,
        seed: int = 0,
        generation: int = 0,
        frost_textures: Sequence[np.ndarray] | None = None,
    ):
        if min(canvas) < 1 or size < 1 or margin < 0:
            raise ValueError(
                f"mask pool: canvas {canvas} and size {size} must be at least 1, margin {margin} at least 0"
            )
        self.canvas, self.size, self.margin, self.seed = canvas, size, margin, seed
        self.generation = generation
        self.frost_textures = list(frost_textures) if frost_textures is not None else None
        self.groups = np.zeros((len(ALL), len(SEVERITIES)), GROUP)
        masks: list[tuple[int, int, int]] = []  # height, width, channels
        self._makers: list[tuple[Callable, tuple]] = []
        shared: dict[tuple, int] = {}  # severities that differ only in how the mask is laid on share their masks
        for name in corruptions:
            if name not in NEED_MASK:
                continue
            for severity in sorted(set(severities)):
                argument, plan = self._plan(name, severity)
                if (name, argument) not in shared:
                    shared[name, argument] = len(masks)
                    self._makers += [(plan.make, (name, argument, number)) for number in range(len(plan.shapes))]
                    masks += plan.shapes
                group = (shared[name, argument], len(plan.shapes), plan.flips, plan.map_side, *canvas)
                self.groups[INDEX[name], severity - 1] = group
        self.masks = np.zeros(len(masks), MASK)
        for record, shape in zip(self.masks, masks, strict=True):
            record["height"], record["width"], record["channels"] = shape
        lengths = np.array([height * width * channels for height, width, channels in masks], dtype=np.int64)
        self.masks["start"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(masks) else 0
        self.values_M = np.zeros(max(int(lengths.sum()), 1), np.uint16)
        self._fill()

    def _fill(self) -> None:
        """Make all masks: each a pure function of (seed, generation), independent of the other masks."""

        def make(index: int) -> None:
            maker, (name, argument, number) = self._makers[index]
            key = [self.seed, self.generation, INDEX[name], round(argument * 1000), number]
            record = self.masks[index]
            shape = (int(record["height"]), int(record["width"]), int(record["channels"]))
            values = maker(np.random.default_rng(key), number).reshape(-1)
            start = int(record["start"])
            self.values_M[start : start + int(np.prod(shape))] = values

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
            list(workers.map(make, range(len(self._makers))))

    def _plan(self, name: str, severity: int) -> tuple[float, MaskPlan]:
        """From which number masks are made (severities of one number share masks), and how."""
        masks = BY_NAME[name].masks
        assert masks is not None
        argument = masks.argument(severity)
        if name == "frost" and self.frost_textures is not None:
            return argument, frost.plan_given(self.frost_textures, self.canvas)
        return argument, masks.plan(argument, self.canvas, self.margin, self.size)

    def place(self, rows: np.ndarray) -> None:
        """Draw the mask of every row (dtype task.ROW) whose corruption has one.

        Sets mask_start, mask_step_y, mask_step_x and variant (the number of the mask in its group).
        """
        fault = place_rows(rows, self.groups, self.masks)
        if fault >= 0:
            row = rows[fault]
            name = ALL[row["corruption"]]
            if self.groups[row["corruption"], row["severity"] - 1]["count"] == 0:
                raise ValueError(
                    f"mask pool: made without {name} of severity {row['severity']}; name both when making it"
                )
            raise ValueError(
                f"mask pool: an image of {row['height']} x {row['width']} does not fit the pool's canvas "
                f"{self.canvas[0]} x {self.canvas[1]}; make the pool for a larger canvas"
            )


@compiled
def below(row, draw, limit):
    """A whole number in [0, limit), drawn from the image's key."""
    word = uint64(rng.bits(row.key0, row.key1, uint32(rng.MASK), uint32(draw), uint32(0)))
    return int64((word * uint64(limit)) >> uint64(32))


MASKED = tuple(INDEX[name] for name in NEED_MASK)


@compiled
def place_rows(rows, groups, masks):
    """Places every row; the number of the first that the pool has no mask for, else -1."""
    for index in range(rows.shape[0]):
        row = rows[index]
        kind = row.corruption
        if kind not in MASKED:
            continue
        group = groups[kind, row.severity - 1]
        if group.count == 0:
            return index
        number = below(row, 0, group.count)
        mask = masks[group.first + number]
        stride = int64(1)
        if group.map_side > 0:  # fog: a smaller image takes every second, fourth, ... point of the map
            needed = int64(4)
            while needed < max(row.height, row.width):
                needed *= 2
            stride = max(int64(group.map_side) // needed, int64(1))
        if row.height > group.canvas_height or row.width > group.canvas_width:
            return index
        reach_y, reach_x = (row.height - 1) * stride, (row.width - 1) * stride
        y = below(row, 1, mask.height - reach_y)
        x = below(row, 2, mask.width - reach_x)
        step_y, step_x = stride * mask.width * mask.channels, stride * mask.channels
        if group.flips and below(row, 3, 2) == 1:
            y, step_y = y + reach_y, -step_y
        if group.flips and below(row, 4, 2) == 1:
            x, step_x = x + reach_x, -step_x
        row.mask_start = mask.start + (y * mask.width + x) * mask.channels
        row.mask_step_y = step_y
        row.mask_step_x = step_x
        row.variant = number
    return -1
