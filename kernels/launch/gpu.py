"""The CUDA driver: one table up, at most eleven launches, on a stream of its own, never waiting for the device.

The two spectral types add some torch operations for each of their images (`make_whole`).

The host knows each image's corruption (it drew it), so it leaves out the launches that no image of the batch needs.
Scratch, pinned tables and mask pools are kept. The views come from torch's caching allocator, which reuses the same
memory after the first batches.
"""

import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from kernels.corruptions.jpeg import BLOCK
from kernels.corruptions.registry import CORRUPTIONS
from kernels.jit import config
from kernels.launch import cuda_kernels, steps
from kernels.launch.cpu import NO_POOL, shots
from kernels.launch.cuda_kernels import Arguments
from kernels.launch.signatures import needed, signatures
from kernels.launch.table import COLUMNS, Table, layout

config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # Numba would warn of every small launch, such as that of the boxes

TABLES = 8  # pinned tables in turn; the host waits only if it runs this many batches ahead of the device
TYPES: dict[torch.dtype, tuple[str, Any]] = {
    torch.float32: ("float32", np.float32),
    torch.float16: ("float16", np.float16),
    torch.bfloat16: ("bfloat16", np.uint16),  # Numba has no such arrays: seen as bits
}


class _Interface:
    """A tensor's memory as Numba needs it, without a stream: an array with one would make the host wait."""

    def __init__(self, tensor: Tensor, dtype: np.dtype, shape: tuple[int, ...]):
        self.tensor = tensor
        self.__cuda_array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": shape,
            "typestr": dtype,  # the dtype itself: the text for a record, "|V56", says nothing of its fields
            "version": 2,
        }


def as_numba(tensor: Tensor, dtype: Any, shape: tuple[int, ...]) -> Any:
    return cuda.as_cuda_array(_Interface(tensor, np.dtype(dtype), shape), sync=False)


def blocks(num: int, size: int) -> int:
    return -(-num // size)


class Device:
    """What one GPU keeps between batches."""

    def __init__(self, device: torch.device):
        self.device = device
        cuda.select_device(self.device.index)
        self.stream = torch.cuda.Stream(self.device)
        self.numba_stream = cuda.external_stream(self.stream.cuda_stream)
        self.lock = threading.Lock()
        self.scratch = torch.empty(0, dtype=torch.float32, device=device)
        self.scratch_seen: dict[tuple[int, ...], Any] = {}  # the scratch as Numba sees it, by its shape
        self.pools: dict[int, tuple[Tensor, Any]] = {}
        self.tables: dict[int, list[DeviceTable]] = {}
        self.turn = 0
        with torch.cuda.stream(self.stream):
            self.shots_tensor = torch.from_numpy(shots().view(np.int32)).to(self.device)
        self.shots = as_numba(self.shots_tensor, np.uint32, (len(shots()),))

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Everything inside goes to this device's stream, from one thread at a time: all share the scratch."""
        with self.lock, torch.cuda.stream(self.stream), cuda.gpus[self.device.index]:
            yield

    def table(self, num: int) -> "DeviceTable":
        """The next table for num images, free to be written."""
        if num not in self.tables:
            self.tables[num] = [DeviceTable(num, self.device) for _ in range(TABLES)]
        self.turn += 1
        table = self.tables[num][self.turn % TABLES]
        table.free.synchronize()  # long past, unless the device is TABLES batches behind
        table.host.statistics_B4[:] = 0
        return table

    def planes(self, num: int, height: int, width: int) -> Any:
        """Two float32 planes for each image, 2 x B x H x X: the same memory for all, as large as the largest batch."""
        shape = (2, num, height, 3 * width)
        if math.prod(shape) > self.scratch.numel():
            self.scratch_seen.clear()
            self.scratch = torch.empty(0, device=self.device)  # freed before the larger one is allocated
            self.scratch = torch.empty(math.prod(shape), dtype=torch.float32, device=self.device)
        if shape not in self.scratch_seen:
            if len(self.scratch_seen) >= KEPT:
                del self.scratch_seen[next(iter(self.scratch_seen))]
            self.scratch_seen[shape] = as_numba(self.scratch, np.float32, shape)
        return self.scratch_seen[shape]

    def pool(self, values_M: np.ndarray) -> Any:
        """The masks on the device; copied when first seen, freed with the host's."""
        key = id(values_M)
        if key not in self.pools:
            tensor = torch.from_numpy(values_M.view(np.int16)).to(self.device)
            self.pools[key] = (tensor, as_numba(tensor, np.uint16, values_M.shape))
            weakref.finalize(values_M, self.pools.pop, key, None).atexit = False
        return self.pools[key][1]


class DeviceTable:
    """A Table in pinned memory and its copy on the device."""

    def __init__(self, num: int, device: torch.device):
        self.pinned = torch.zeros(layout(num)[1], dtype=torch.uint8, pin_memory=True)
        self.host = Table(num, self.pinned.numpy())
        self.tensor = torch.empty_like(self.pinned, device=device)
        self.free = torch.cuda.Event()
        self.rows_B = self._as_numba("rows_B")
        self.extra_BE = self._as_numba("extra_BE")
        self.statistics_B4 = self._as_numba("statistics_B4")

    def _as_numba(self, name: str) -> Any:
        begin, end = getattr(self.host.places, name)
        dtype, shape = getattr(COLUMNS, name)
        return as_numba(self.tensor[begin:end], dtype, (self.host.num, *shape))

    def upload(self, stream: torch.cuda.Stream) -> None:
        self.tensor.copy_(self.pinned, non_blocking=True)
        self.free.record(stream)

    def shown(self) -> "Shown":
        """What a view shows of the table, in memory of its own: one copy of all columns."""
        places = {name: getattr(self.host.places, name) for name in Shown._fields}
        first = min(begin for begin, _ in places.values())
        copy = self.tensor[first:].clone()
        columns = {}
        for name, (begin, end) in places.items():
            shape = (self.host.num, *getattr(COLUMNS, name)[1])
            columns[name] = copy[begin - first : end - first].view(getattr(SHOWN, name)).view(shape)
        return Shown(**columns)


class Shown(NamedTuple):
    """The columns that a view shows, or their types."""

    keys_B: Any
    clean_sizes_B2: Any
    small_sizes_B2: Any
    ratio_B: Any


SHOWN = Shown(keys_B=torch.int64, clean_sizes_B2=torch.int32, small_sizes_B2=torch.int32, ratio_B=torch.float32)
KEPT = 64  # so many shapes of the scratch
MOST_SHRINK = (min(cuda_kernels.TILE_HEIGHT, cuda_kernels.TILE_WIDTH) - 2) / 2  # see `tile`
_devices: dict[torch.device, Device] = {}


def device_of(device: torch.device) -> Device:
    """One for each GPU: "cuda" is the current one."""
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if device not in _devices:
        _devices[device] = Device(device)
    return _devices[device]


def compile_kernels(keep: Device, corruptions: tuple[int, ...], dtype: torch.dtype, clean: bool) -> None:
    """Before the first batch: a type that is drawn late would otherwise stop a training run to be compiled."""
    known = signatures()
    with keep.queue():
        for name in needed(corruptions, TYPES[dtype][0], clean):
            kernel, signature = known[name]
            kernel.compile(signature)


def pixels(num: int, height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Grid and block of a launch with one thread a pixel."""
    block_x, block_y = cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y
    return (blocks(width, block_x), blocks(height, block_y), num), (block_x, block_y)


def make_whole(images_BHW3: Tensor, planes: Tensor, rows_B: np.ndarray) -> None:
    """What torch makes of the whole images of some types, into the first of the planes: a few operations an image.

    Queued on torch's current stream. rows_B: the rows on the host.
    """
    plane_BHW3 = planes.flatten()[: images_BHW3.numel()].view(images_BHW3.shape)
    for b in np.flatnonzero(np.isin(rows_B["corruption"], steps.WHOLE)):
        corruption, level = CORRUPTIONS[rows_B["corruption"][b]], int(rows_B["severity"][b])
        height, width = int(rows_B["height"][b]), int(rows_B["width"][b])
        plane_BHW3[b, :height, :width] = corruption.make_whole(torch, images_BHW3[b, :height, :width], level)


def launch_stages(arguments: Arguments, rows_B: np.ndarray, stream: Any) -> None:
    """All stages but the last. rows_B: the rows on the host."""
    images, planes = arguments.images_BHX, arguments.planes_2BHX
    rows, extra = arguments.rows_B, arguments.extra_BE
    num, height, values = images.shape
    width = values // 3
    kinds = set(rows_B["corruption"].tolist())
    if not kinds.isdisjoint(steps.STATISTICS):
        grid = (cuda_kernels.STATISTICS_BLOCKS, num)
        cuda_kernels.statistics[grid, (cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y), stream](
            images, rows, arguments.statistics_B4
        )
    if not kinds.isdisjoint(steps.ROWS):
        grid = (blocks(height, cuda_kernels.ROW_THREADS), num)
        cuda_kernels.whole_rows[grid, cuda_kernels.ROW_THREADS, stream](images, planes, rows)
    if not kinds.isdisjoint(steps.BLOCKS):
        grid_3 = (blocks(blocks(width, BLOCK), cuda_kernels.BLOCK_THREADS), blocks(height, BLOCK), num)
        cuda_kernels.whole_blocks[grid_3, cuda_kernels.BLOCK_THREADS, stream](images, planes, rows, extra)
    for number, kernel in enumerate(cuda_kernels.STEP_KERNELS, start=1):
        if not kinds.isdisjoint(steps.KINDS[number]):
            kernel[*pixels(num, height, width), stream](images, planes, rows, extra)


def launch_clean(images_BHX: Any, rows_B: Any, out_BHX: Any, dtype: str, stream: Any) -> None:
    num, height, values = out_BHX.shape
    block_x, block_y = cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y
    grid = (blocks(values, cuda_kernels.CLEAN_VALUES * block_x), blocks(height, block_y), num)
    cuda_kernels.CLEAN[dtype][grid, (block_x, block_y), stream](images_BHX, rows_B, out_BHX)


def launch_boxes(boxes_BG4: Any, boxes_2BG4: Any, rows_B: Any, stream: Any) -> None:
    grid = (blocks(boxes_BG4.shape[1], cuda_kernels.BLOCK_X), boxes_BG4.shape[0])
    cuda_kernels.boxes[grid, cuda_kernels.BLOCK_X, stream](boxes_BG4, boxes_2BG4, rows_B)


def launch_finish(arguments: Arguments, rows_B: np.ndarray, out_Bhx: Any, dtype: str, stream: Any) -> None:
    """The last stage and everything after it, into the small view's memory."""
    num_rows, num_columns = tile(rows_B)
    num, small_height, values = out_Bhx.shape
    grid = (blocks(values // 3, num_columns), blocks(small_height, num_rows), num)
    kinds = set(rows_B["corruption"].tolist())
    for members, kernel in zip(
        (kinds.difference(steps.HEAVY), kinds.intersection(steps.HEAVY)), cuda_kernels.FINISH[dtype], strict=True
    ):
        if members:
            kernel[grid, (cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y), stream](
                *arguments, out_Bhx, num_rows, num_columns
            )


def tile(rows_B: np.ndarray) -> tuple[int, int]:
    """How many of the small view's pixels a block can make from the source pixels it can hold: n need (n + 1) s + 2."""
    scales = []
    for side, small in (("height", "small_height"), ("width", "small_width")):
        scales.append(float((rows_B[side] / np.maximum(rows_B[small], 1)).max(initial=1.0)))
    num_rows = int((cuda_kernels.TILE_HEIGHT - 2) / scales[0]) - 1
    num_columns = int((cuda_kernels.TILE_WIDTH - 2) / scales[1]) - 1
    assert num_rows >= 1, f"an image would shrink {scales} times; `ViewMaker` allows {MOST_SHRINK}"
    assert num_columns >= 1
    return num_rows, num_columns


def make_views(
    keep: Device,
    images_BHW3: Tensor,
    boxes_BG4: Tensor,
    table: DeviceTable,
    pool_M: np.ndarray | None,
    small_canvas: tuple[int, int],
    dtype: torch.dtype,
    want_clean: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Shown]:
    """Queue both views, inside `keep.queue()`.

    Returns the clean and the small view's images (B x H x W x 3). Then the boxes of both (2 x B x G x 4) and the
    columns.
    """
    name, numba_dtype = TYPES[dtype]
    num, height, width = images_BHW3.shape[:3]
    rows_B, stream = table.host.rows_B, keep.numba_stream
    table.upload(keep.stream)
    arguments = Arguments(
        images_BHX=as_numba(images_BHW3, np.uint8, (num, height, 3 * width)),
        planes_2BHX=keep.planes(num, height, width),
        rows_B=table.rows_B,
        extra_BE=table.extra_BE,
        statistics_B4=table.statistics_B4,
        shots=keep.shots,
        pool_M=keep.pool(NO_POOL if pool_M is None else pool_M),
    )
    clean_BHW3 = None
    if want_clean:
        clean_BHW3 = torch.empty((num, height, width, 3), dtype=dtype, device=keep.device)
        out = as_numba(clean_BHW3, numba_dtype, (num, height, 3 * width))
        launch_clean(arguments.images_BHX, table.rows_B, out, name, stream)
    make_whole(images_BHW3, keep.scratch, rows_B)
    launch_stages(arguments, rows_B, stream)
    small_Bhw3 = torch.empty((num, *small_canvas, 3), dtype=dtype, device=keep.device)
    out = as_numba(small_Bhw3, numba_dtype, (num, small_canvas[0], 3 * small_canvas[1]))
    launch_finish(arguments, rows_B, out, name, stream)
    boxes_2BG4 = torch.empty((2, *boxes_BG4.shape), dtype=torch.float32, device=keep.device)
    if boxes_BG4.numel():
        given = as_numba(boxes_BG4, np.float32, tuple(boxes_BG4.shape))
        made = as_numba(boxes_2BG4, np.float32, tuple(boxes_2BG4.shape))
        launch_boxes(given, made, table.rows_B, stream)
    return clean_BHW3, small_Bhw3, boxes_2BG4, table.shown()


def corrupt_tensor(image_HW3: Tensor, table: Table, values_M: np.ndarray) -> Tensor:
    """`kernels.corrupt` for a tensor on a GPU: the corrupted pixels as uint8, ordered before the caller's next work."""
    height, width = image_HW3.shape[:2]
    keep = device_of(image_HW3.device)
    caller = torch.cuda.current_stream(keep.device)
    keep.stream.wait_stream(caller)
    with keep.queue():
        source = image_HW3.contiguous()
        target = torch.empty_like(source)
        device_table = keep.table(1)
        device_table.host.buffer[:] = table.buffer
        device_table.upload(keep.stream)
        arguments = Arguments(
            images_BHX=as_numba(source, np.uint8, (1, height, 3 * width)),
            planes_2BHX=keep.planes(1, height, width),
            rows_B=device_table.rows_B,
            extra_BE=device_table.extra_BE,
            statistics_B4=device_table.statistics_B4,
            shots=keep.shots,
            pool_M=keep.pool(values_M),
        )
        out = as_numba(target, np.uint8, (1, height, 3 * width))
        make_whole(source[None], keep.scratch, table.rows_B)
        launch_stages(arguments, table.rows_B, keep.numba_stream)
        kernel = cuda_kernels.CORRUPTED[int(table.rows_B["corruption"][0]) in steps.HEAVY]
        kernel[*pixels(1, height, width), keep.numba_stream](*arguments, out)
    caller.wait_stream(keep.stream)
    source.record_stream(keep.stream)
    target.record_stream(caller)
    return target
