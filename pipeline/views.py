"""The two views of a batch: the clean one, and the corrupted and downscaled one.

Every draw is a pure function of (seed, epoch, sample id), and the bucket of ratios of (seed, draw). So the same images
give the same pixels on a CPU and on a GPU, in any batch, on any rank. Order, as in CD-FKD: corrupt at the full size,
downscale with antialiasing, mirror, normalise. A plain bilinear downscale would alias the noise away.
"""

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernels import rng, severity
from kernels.corruptions import color, frost
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import table as parameters
from kernels.launch.boxes import place_boxes
from kernels.launch.pool import Pool
from kernels.launch.table import Table
from kernels.task import ROW
from pipeline.batch import Batch, View, Views

STRIDE = 32  # canvases are multiples of it
MASKS = {"masks", "mask_epochs"}  # options about the weather masks


def option(field: str) -> str:
    """What a field of ViewConfig is called on the command line."""
    return f"--views.{field.replace('_', '-')}"


@dataclass(frozen=True)
class ViewConfig:
    """How the corrupted view differs from the clean one."""

    corruptions: tuple[str, ...] = severity.TRAINING  # all equally likely; () for none
    severities: tuple[int, ...] = severity.SEVERITIES  # all equally likely
    ratio_range: tuple[float, float] = (0.6, 1.0)  # corrupted size / clean size, uniform
    full_size_probability: float = 0.0  # of a batch to keep its size (ratio 1) for any range
    ratio_buckets: int = 4  # a batch draws one, its images a ratio inside it: that many canvases an orientation
    flip_probability: float = 0.5
    masks: int = 16  # weather masks of each kind in the pool; docs/kernels-masks.md says why so many
    mask_epochs: int = 0  # other masks every so many epochs (making them takes a second or two); 0 keeps them
    frost_pictures: Path | None = None  # folder of ice pictures, such as the reference's own; none: frost is drawn

    def __post_init__(self) -> None:
        for name in self.corruptions:
            severity.check_name(name)
        for level in self.severities:
            severity.check_severity(level)
        low, high = self.ratio_range
        if not 0 < low <= high <= 1:
            raise ValueError(f"--views.ratio-range must be 0 < low <= high <= 1; got ({low}, {high})")
        for field in ("full_size_probability", "flip_probability"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{option(field)} must be in 0..1; got {getattr(self, field)}")
        for field, least in (("ratio_buckets", 1), ("masks", 1), ("mask_epochs", 0)):
            number = getattr(self, field)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{option(field)} must be a whole number from {least}; got {number!r}")
        if self.frost_pictures is not None and "frost" not in self.corruptions:
            raise ValueError("--views.frost-pictures is given, but frost is not among the corruptions; leave it out")
        if not self.severities:
            raise ValueError("--views.severities is empty; to train without corruption give --views.corruptions alone")
        self._check_effects()

    def _check_effects(self) -> None:
        """An option that another one leaves without effect is an error."""
        changed = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        without: list[tuple[str, str]] = []
        if not self.corruptions and "severities" in changed:
            without.append(("severities", "corruptions is ()"))
        if self.ratio_range == (1, 1):
            if self.full_size_probability > 0:
                without.append(("full_size_probability", "ratio_range is (1, 1): every batch keeps its size"))
            if self.ratio_buckets != 1 and "ratio_buckets" in changed:
                without.append(("ratio_buckets", "ratio_range is (1, 1): there is nothing to divide"))
        if not set(self.corruptions) & set(NEED_MASK):
            without += [(name, f"none of {', '.join(NEED_MASK)} is among the corruptions") for name in MASKS & changed]
        if without:
            name, reason = sorted(without)[0]
            raise ValueError(f"{option(name)} is set to {getattr(self, name)!r}, but {reason}; leave it out")

    def buckets(self) -> list[tuple[float, float]]:
        """Ratio ranges, from the smallest."""
        low, high = self.ratio_range
        num = self.ratio_buckets if high > low else 1
        edges = [low + (high - low) * index / num for index in range(num + 1)]
        return list(itertools.pairwise(edges))


def corrupted_canvas(canvas: tuple[int, int], highest: float) -> tuple[int, int]:
    """The canvas that holds every image of `canvas` downscaled by at most `highest`."""
    height, width = (max(math.floor(side * highest + 0.5), 1) for side in canvas)
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


class ViewMaker:
    """Makes Views of Batches.

    On a CPU the images are spread over `threads` threads. On a GPU everything is queued on a stream of its own, without
    waiting for the device. The views come back ordered before the next work of the caller's current stream.
    """

    def __init__(
        self,
        config: ViewConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        clean: bool = True,
        threads: int | None = None,
    ):
        self.config, self.device, self.clean = config, torch.device(device), clean
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.kinds_N = np.array([severity.INDEX[name] for name in config.corruptions], dtype=np.int32)
        self.severities_S = np.array(config.severities, dtype=np.int32)
        self.pools: dict[tuple[int, int], Pool] = {}
        self.textures = None if config.frost_pictures is None else frost.load_textures(config.frost_pictures)
        self.executor: ThreadPoolExecutor | None = None
        if self.device.type == "cuda":
            from kernels.launch import finish, gpu

            if self.dtype not in gpu.TYPES:
                raise ValueError(f"views: dtype must be float32, float16 or bfloat16 on a GPU; got {self.dtype}")
            # A side is rounded to whole pixels, 1 at least: one of 1.5 / ratio may become 1.
            lowest = 1.5 / finish.MOST_SHRINK
            if config.ratio_range[0] < lowest:
                raise ValueError(
                    f"--views.ratio-range must begin at {lowest} or above on a GPU; got {config.ratio_range[0]}"
                )
            if self.dtype != torch.float32 and torch.cuda.get_device_capability(self.device) < (8, 0):
                raise ValueError("views: 16-bit views need a GPU of compute capability 8.0 or more; use float32")
            self.kept = gpu.device_of(self.device)
            self.device = self.kept.device  # "cuda" becomes the current one
            gpu.compile_kernels(self.kept, tuple(self.kinds_N.tolist()), self.dtype, self.clean)
        elif self.device.type == "cpu":
            from kernels.launch.cpu import Workspaces

            self.workspaces = Workspaces()
            self.device = torch.device("cpu")  # "cpu:0" is another name of it
            threads = threads or len(os.sched_getaffinity(0))
            if threads > 1:
                self.executor = ThreadPoolExecutor(threads, thread_name_prefix="views")
        else:
            raise ValueError(f"views: device must be cpu or cuda; got {self.device}")

    def corrupted_canvases(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Every (h, w) that the corrupted view of one canvas can have, smallest first."""
        highest = [high for _, high in self.config.buckets()]
        if self.config.full_size_probability > 0:
            highest.append(1.0)
        return sorted({corrupted_canvas(canvas, high) for high in highest})

    def draw_bucket(self, seed: int, draw: int) -> tuple[float, float]:
        """The ratio range of a batch."""
        key = np.uint64(rng.image_key(seed, draw, rng.BUCKET))
        if rng.draw(key, rng.FLIP) < self.config.full_size_probability:
            return 1.0, 1.0
        buckets = self.config.buckets()
        return buckets[int(rng.draw(key, rng.BUCKET) * len(buckets))]

    def pool(self, canvas: tuple[int, int], epoch: int) -> Pool | None:
        """The weather masks for a canvas, made when it is first seen and every `mask_epochs` epochs."""
        names = tuple(name for name in self.config.corruptions if name in NEED_MASK)
        if not names:
            return None
        config = self.config
        generation = epoch // config.mask_epochs if config.mask_epochs else 0
        if canvas not in self.pools:
            self.pools[canvas] = Pool(
                canvas, names, config.severities, config.masks, generation=generation, frost_textures=self.textures
            )
        elif self.pools[canvas].generation != generation:
            del self.pools[canvas]  # before the next is made: they are large, here and on the device
            return self.pool(canvas, epoch)
        return self.pools[canvas]

    def __call__(self, batch: Batch, draw: int | None = None) -> Views:
        """The views of a batch. Batches of one global step pass the same `draw` and so get the same corrupted canvas.
        Without `draw` it follows from the epoch and the batch's first id."""
        return self.start(batch, draw).wait()

    def start(self, batch: Batch, draw: int | None = None) -> "StartedViews":
        """Queue the views and go on. On a GPU they are made beside all that the caller queues until it calls `wait`.
        Start the next batch's views, queue the training step of this one, then wait."""
        check(batch, self.device)
        height, width = batch.images_BHW3.shape[1:3]
        if draw is None:
            draw = int(rng.image_key(batch.seed, batch.epoch, int(batch.ids_B[0])) >> np.uint64(1))
        bucket = self.draw_bucket(batch.seed, draw)
        small = corrupted_canvas((height, width), bucket[1])
        pool = self.pool((height, width), batch.epoch)
        if self.device.type == "cuda":
            return self._on_gpu(batch, bucket, small, pool)
        return StartedViews(self._on_cpu(batch, bucket, small, pool), None)

    def draw_table(self, table: Table, batch: Batch, bucket: tuple[float, float], pool: Pool | None) -> None:
        """Draw everything about a batch."""
        ids_B, sizes_B2 = batch.ids_B.numpy(), batch.sizes_B2.numpy()
        kinds = (self.kinds_N, self.severities_S)
        flip = self.config.flip_probability
        parameters.draw_table(table, ids_B, sizes_B2, batch.seed, batch.epoch, *kinds, bucket, flip)
        if pool is not None:
            pool.place(table.rows_B)

    def _on_cpu(self, batch: Batch, bucket: tuple[float, float], small: tuple[int, int], pool: Pool | None) -> Views:
        from kernels.launch import cpu

        num, height, width = batch.images_BHW3.shape[:3]
        table = Table(num)
        self.draw_table(table, batch, bucket, pool)
        clean_BHW3 = torch.empty(num, height, width, 3) if self.clean else None
        corrupted_Bhw3 = torch.empty(num, *small, 3)
        cpu.make_views(
            batch.images_BHW3.contiguous().numpy().reshape(num, height, 3 * width),
            table,
            cpu.NO_POOL if pool is None else pool.values_M,
            None if clean_BHW3 is None else clean_BHW3.numpy().reshape(num, height, 3 * width),
            corrupted_Bhw3.numpy().reshape(num, small[0], 3 * small[1]),
            self.workspaces,
            self.executor,
        )
        boxes_BG4 = batch.boxes_BG4.contiguous()
        clean_boxes_BG4, corrupted_boxes_BG4 = torch.empty_like(boxes_BG4), torch.empty_like(boxes_BG4)
        place_boxes(boxes_BG4.numpy(), clean_boxes_BG4.numpy(), corrupted_boxes_BG4.numpy(), table.rows_B)
        return Views(
            clean=make_view(clean_BHW3, self.dtype, torch.from_numpy(table.clean_sizes_B2), clean_boxes_BG4),
            corrupted=make_view(
                corrupted_Bhw3, self.dtype, torch.from_numpy(table.small_sizes_B2), corrupted_boxes_BG4
            ),
            ratio_B=torch.from_numpy(table.ratio_B),
            labels_BG=batch.labels_BG,
            ignore_BG=batch.ignore_BG,
            weight_BG=weights_of(batch),
            keys_B=torch.from_numpy(table.keys_B),
            ids_B=batch.ids_B,
            extra=self._extra_on_cpu(batch, table),
        )

    def _extra_on_cpu(self, batch: Batch, table: Table) -> dict[str, Tensor]:
        flips, widths = table.rows_B["flip"].tolist(), table.rows_B["width"].tolist()
        extra = {}
        for name, images_BHWC in batch.extra.items():
            turned_BHWC = images_BHWC.clone()
            for b, (flip, width) in enumerate(zip(flips, widths, strict=True)):
                if flip:
                    turned_BHWC[b, :, :width] = images_BHWC[b, :, :width].flip(1)
            extra[name] = to_unit(turned_BHWC, self.dtype)
        return extra

    def _on_gpu(
        self, batch: Batch, bucket: tuple[float, float], small: tuple[int, int], pool: Pool | None
    ) -> "StartedViews":
        from kernels.launch import gpu

        kept = self.kept
        caller = torch.cuda.current_stream(kept.device)
        kept.stream.wait_stream(caller)
        with kept.queue():
            table = kept.table(len(batch.ids_B))
            self.draw_table(table.host, batch, bucket, pool)
            images_BHW3, boxes_BG4 = batch.images_BHW3.contiguous(), batch.boxes_BG4.contiguous()
            pool_M = None if pool is None else pool.values_M
            made = gpu.make_views(kept, images_BHW3, boxes_BG4, table, pool_M, small, self.dtype, self.clean)
            clean_BHW3, corrupted_Bhw3, boxes_2BG4, columns = made
            extra = self._extra_on_gpu(batch, table.host, columns.clean_sizes_B2)
            weight_BG = weights_of(batch)
            done = torch.cuda.Event()
            done.record(kept.stream)
        for tensor in (batch.images_BHW3, batch.boxes_BG4, *batch.extra.values()):
            tensor.record_stream(kept.stream)
        views = Views(
            clean=make_view(clean_BHW3, self.dtype, columns.clean_sizes_B2, boxes_2BG4[0]),
            corrupted=make_view(corrupted_Bhw3, self.dtype, columns.small_sizes_B2, boxes_2BG4[1]),
            ratio_B=columns.ratio_B,
            labels_BG=batch.labels_BG,
            ignore_BG=batch.ignore_BG,
            weight_BG=weight_BG,
            keys_B=columns.keys_B,
            ids_B=batch.ids_B,
            extra=extra,
        )
        return StartedViews(views, done)

    def _extra_on_gpu(self, batch: Batch, host: Table, sizes_B2: Tensor) -> dict[str, Tensor]:
        if not batch.extra:
            return {}
        flip_B = torch.from_numpy(host.rows_B["flip"].copy()).pin_memory().to(self.device, non_blocking=True)
        columns_BW = flipped_columns(flip_B, sizes_B2, batch.images_BHW3.shape[2])
        return {
            name: to_unit(take_columns(images_BHWC, columns_BW), self.dtype)
            for name, images_BHWC in batch.extra.items()
        }


@dataclass(frozen=True)
class StartedViews:
    """Views that may still be in the making."""

    views: Views
    done: "torch.cuda.Event | None"

    def wait(self) -> Views:
        """Order the views before what the caller's current stream does next; the host does not wait."""
        if self.done is not None:
            caller = torch.cuda.current_stream(self.views.keys_B.device)
            caller.wait_event(self.done)
            for tensor in tensors_of(self.views):
                if tensor.is_cuda:
                    tensor.record_stream(caller)
        return self.views


def make_view(images_BHW3: Tensor | None, dtype: torch.dtype, sizes_B2: Tensor, boxes_BG4: Tensor) -> View | None:
    """A view of images whose channels come last; None of none."""
    return None if images_BHW3 is None else View(images_BHW3.permute(0, 3, 1, 2).to(dtype), sizes_B2, boxes_BG4)


def flipped_columns(flip_B: Tensor, sizes_B2: Tensor, width: int) -> Tensor:
    """The column that each column of the canvas shows, where some images are mirrored inside their own size."""
    column_W, width_B1 = torch.arange(width, device=sizes_B2.device), sizes_B2[:, 1:].long()
    return torch.where((flip_B[:, None] > 0) & (column_W < width_B1), width_B1 - 1 - column_W, column_W)


def take_columns(images_BHWC: Tensor, columns_BW: Tensor) -> Tensor:
    return images_BHWC.gather(2, columns_BW[:, None, :, None].expand_as(images_BHWC))


def to_unit(images_BHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Levels of 0 to 255 as 0 to 1, BCHW, channels-last."""
    return (images_BHWC.float() / 255).to(dtype).permute(0, 3, 1, 2)


def weights_of(batch: Batch) -> Tensor:
    return torch.ones_like(batch.boxes_BG4[..., 0]) if batch.weight_BG is None else batch.weight_BG


def tensors_of(views: Views | View) -> Iterator[Tensor]:
    for field in fields(views):
        value = getattr(views, field.name)
        if isinstance(value, View):
            yield from tensors_of(value)
        elif isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, Tensor):
            yield value


@cache
def pixel_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of a channel in levels; copied once, because the host waits for such a copy."""
    from kernels.launch import resize

    return torch.tensor(resize.MEAN, device=device) * 255, 1 / (torch.tensor(resize.DEVIATION, device=device) * 255)


def clean_view(batch: Batch, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """images_B3HW normalised and channels-last, zero where padded, and sizes_B2 on the device: what evaluation sees."""
    images_BHW3 = batch.images_BHW3
    device = images_BHW3.device
    check(batch, device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    num, height, width = images_BHW3.shape[:3]
    from kernels.launch import resize

    if device.type == "cpu":
        out_BHW3 = torch.empty(num, height, width, 3)
        rows_B = np.zeros(num, ROW)
        rows_B["height"], rows_B["width"] = batch.sizes_B2.numpy().T
        images_BHX = images_BHW3.contiguous().numpy().reshape(num, height, 3 * width)
        out_BHX = out_BHW3.numpy().reshape(num, height, 3 * width)
        for b in range(num):
            resize.clean_rows(images_BHX[b], out_BHX[b], rows_B[b], 0, height)
        return out_BHW3.permute(0, 3, 1, 2).to(dtype), batch.sizes_B2.clone()
    sizes_B2 = batch.sizes_B2.to(device, non_blocking=True)
    mean, scale = pixel_constants(device)
    inside_BHW = torch.arange(height, device=device)[None, :, None] < sizes_B2[:, 0, None, None]
    inside_BHW = inside_BHW & (torch.arange(width, device=device)[None, None] < sizes_B2[:, 1, None, None])
    out_BHW3 = torch.where(inside_BHW[..., None], (images_BHW3.float() - mean) * scale, 0).to(dtype)
    return out_BHW3.permute(0, 3, 1, 2), sizes_B2


def clean_extra(batch: Batch, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """What goes with `clean_view`: the batch's other images, {name: BCHW} from 0 to 1."""
    device = batch.images_BHW3.device
    check(batch, device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    return {name: to_unit(images_BHWC, dtype) for name, images_BHWC in batch.extra.items()}


def check(batch: Batch, device: torch.device) -> None:
    images, sizes, ids = batch.images_BHW3, batch.sizes_B2, batch.ids_B
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"views: images_BHW3 must be uint8 of shape (B, H, W, 3); got {got}")
    num, height, width = images.shape[:3]
    if num == 0 or height == 0 or width == 0:
        raise ValueError(f"views: the batch is empty: images have shape {tuple(images.shape)}")
    if images.device != device:
        raise ValueError(f"views: images are on {images.device} but the views are made on {device}; move one of them")
    for name, extra in batch.extra.items():
        if extra.dtype != torch.uint8 or extra.ndim != 4 or extra.shape[:3] != images.shape[:3]:
            raise ValueError(
                f"views: extra {name} must be uint8 of shape ({num}, {height}, {width}, C), as the images; "
                f"got {extra.dtype} {tuple(extra.shape)}"
            )
        if extra.device != device:
            raise ValueError(f"views: extra {name} is on {extra.device}, the images on {device}; move one of them")
    if sizes.device.type != "cpu" or ids.device.type != "cpu":
        raise ValueError("views: sizes_B2 and ids_B must be on the host; call .cpu() where the batch is made")
    if sizes.shape != (num, 2) or ids.shape != (num,):
        raise ValueError(f"views: {num} images, but sizes {tuple(sizes.shape)} and ids {tuple(ids.shape)}")
    for name, numbers in (("sizes_B2", sizes), ("ids_B", ids)):
        if numbers.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"views: {name} must be int32 or int64; got {numbers.dtype}")
    if max(height, width) > rng.LARGEST_SIDE or height * width > color.LARGEST_AREA:
        raise ValueError(
            f"views: images can have at most {rng.LARGEST_SIDE} pixels a side and {color.LARGEST_AREA} in all; "
            f"got {height} x {width}"
        )
    boxes = batch.boxes_BG4
    if boxes.dtype != torch.float32 or boxes.ndim != 3 or boxes.shape[0] != num or boxes.shape[2] != 4:
        got = f"{boxes.dtype} {tuple(boxes.shape)}"
        raise ValueError(f"views: boxes_BG4 must be float32 of shape ({num}, G, 4); got {got}")
    if boxes.device != images.device:
        raise ValueError(f"views: boxes_BG4 is on {boxes.device}, the images on {images.device}; move one of them")
    low, (most_high, most_wide) = int(sizes.min()), sizes.amax(0).tolist()
    if low < 0 or most_high > height or most_wide > width:
        raise ValueError(f"views: a size is outside the canvas of {height} x {width}: {sizes.tolist()}")
