"""The CUDA driver: one table up, each kernel once at most, on a stream of its own, never waiting for the device.

The two spectral types add some torch operations for each of their images (`make_whole`).

The host knows each image's corruption (it drew it), so it leaves out the launches that no image of the batch needs.
Scratch, pinned tables and mask pools are kept. The views come from torch's caching allocator, which reuses the same
memory after the first batches.

Numba's own launch spends microseconds of Python on each array. Here an array is the tuple of numbers that Numba would
make of it: its shape's are made once, and a batch puts the address in. `cuda.core` launches with those.
"""

import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from kernels.corruptions.registry import CORRUPTIONS
from kernels.launch import clean, cuda_kernels, finish, own, steps
from kernels.launch.cpu import NO_POOL, shots
from kernels.launch.cuda_kernels import Arguments
from kernels.launch.lists import STATISTICS, STEPS, Lists, write_lists
from kernels.launch.signatures import needed, signatures
from kernels.launch.table import COLUMNS, Table, layout

TABLES = 8  # pinned tables in turn; the host waits only if it runs this many batches ahead of the device
GUARD = 1 << 14  # values before and after the masks, read for an image less than four pixels wide, and not used
TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

# The lists of launches that read or write the planes.
USE_PLANES = {
    *STEPS,
    *(name for name, kernels in own.KERNELS.items() if any("planes_2BHX" in k.arrays for k in kernels)),
}

# launch(name of a kernel, grid, block, its arrays, its numbers): `Device.launch`, or the simulator in the tests
Launch = Callable[..., None]


@lru_cache(maxsize=512)
def _around_address(shape: tuple[int, ...], item_bytes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    strides = tuple(item_bytes * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return (0, 0, math.prod(shape), item_bytes), (*shape, *strides)


def as_numbers(tensor: Tensor, item_bytes: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor's memory as a kernel of Numba's takes an array: two owners (none), values, bytes of one, address, shape,
    strides. item_bytes: of a value as the kernel sees it."""
    before, after = _around_address(shape, item_bytes)
    return (*before, tensor.data_ptr(), *after)


def blocks(num: int, size: int) -> int:
    return -(-num // size)


class Device:
    """What one GPU keeps between batches."""

    def __init__(self, device: torch.device):
        from cuda import core  # installed with numba-cuda, on Linux

        self.device, self.core = device, core
        cuda.select_device(self.device.index)
        self.stream = torch.cuda.Stream(self.device)
        self.core_stream = core.Stream.from_handle(self.stream.cuda_stream)
        self.kernels: dict[str, Any] = {}  # compiled and loaded
        self.lock = threading.Lock()
        self.scratch = torch.empty(0, dtype=torch.float32, device=device)
        self.pixel_scratch = torch.empty(0, dtype=torch.uint8, device=device)
        self.pools: dict[int, Tensor] = {}
        self.tables: dict[int, list[DeviceTable]] = {}
        self.turn = 0
        with torch.cuda.stream(self.stream):
            self.shots_tensor = torch.from_numpy(shots().view(np.int32)).to(self.device)
        self.shots = as_numbers(self.shots_tensor, 4, tuple(self.shots_tensor.shape))

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Everything inside goes to this device's stream, from one thread at a time: all share the scratch."""
        with self.lock, torch.cuda.stream(self.stream), cuda.gpus[self.device.index]:
            yield

    def launch(self, name: str, grid: Any, block: Any, arrays: tuple, numbers: tuple[int, ...] = ()) -> None:
        """Queue a kernel of `signatures`, compiled if it was not. Inside `queue`."""
        if name not in self.kernels:
            self.compile((name,))
        configuration = self.core.LaunchConfig(grid=grid, block=block)
        values = chain.from_iterable(arrays)
        self.core.launch(self.core_stream, configuration, self.kernels[name], *values, *numbers)

    def compile(self, names: tuple[str, ...]) -> None:
        known = signatures()
        for name in names:
            kernel, signature = known[name]
            self.kernels[name] = kernel.compile(signature).library.get_cufunc().kernel

    def table(self, num: int) -> "DeviceTable":
        """The next table for num images, free to be written."""
        if num not in self.tables:
            self.tables[num] = [DeviceTable(num, self.device) for _ in range(TABLES)]
        self.turn += 1
        table = self.tables[num][self.turn % TABLES]
        table.free.synchronize()  # long past, unless the device is TABLES batches behind
        table.host.statistics_B4[:] = 0
        return table

    def planes(self, num: int, height: int, width: int, used: bool) -> Any:
        """Two float32 planes for each image, 2 x B x H x X: the same memory for all, as large as the largest batch that
        used them. A kernel that does not use them may take them: no address in them is read."""
        shape = (2, num, height, 3 * width)
        if used and math.prod(shape) > self.scratch.numel():
            self.scratch = torch.empty(0, device=self.device)  # freed before the larger one is allocated
            self.scratch = torch.empty(math.prod(shape), dtype=torch.float32, device=self.device)
        return as_numbers(self.scratch, 4, shape)

    def pixels(self, num: int, height: int, width: int, used: bool) -> Any:
        """Corrupted pixels for each image, B x H x X uint8: the same memory for all, as the planes."""
        shape = (num, height, 3 * width)
        if used and math.prod(shape) > self.pixel_scratch.numel():
            self.pixel_scratch = torch.empty(0, dtype=torch.uint8, device=self.device)
            self.pixel_scratch = torch.empty(math.prod(shape), dtype=torch.uint8, device=self.device)
        return as_numbers(self.pixel_scratch, 1, shape)

    def pool(self, values_M: np.ndarray) -> Any:
        """The masks on the device; copied when first seen, freed with the host's."""
        key = id(values_M)
        if key not in self.pools:
            guarded = torch.zeros(len(values_M) + 2 * GUARD, dtype=torch.int16, device=self.device)
            guarded[GUARD:-GUARD] = torch.from_numpy(values_M.view(np.int16))
            self.pools[key] = guarded
            weakref.finalize(values_M, self.pools.pop, key, None).atexit = False
        return as_numbers(self.pools[key][GUARD:], 2, values_M.shape)


class DeviceTable:
    """A Table in pinned memory and its copy on the device."""

    def __init__(self, num: int, device: torch.device):
        self.pinned = torch.zeros(layout(num)[1], dtype=torch.uint8, pin_memory=True)
        self.host = Table(num, self.pinned.numpy())
        self.tensor = torch.empty_like(self.pinned, device=device)
        self.free = torch.cuda.Event()
        self._point()

    def _point(self) -> None:
        self.rows_B, self.extra_BE, self.statistics_B4 = map(self._as_numbers, ("rows_B", "extra_BE", "statistics_B4"))
        begin, end = self.host.places.lists_BL
        self.lists_M = as_numbers(self.tensor[begin:end], 4, self.host.lists_M.shape)
        places = [getattr(self.host.places, name)[0] for name in Shown._fields]
        self.shown_from = min(places)
        self.shown_places = []  # shape, strides and first value of each column in the copy
        for name, begin in zip(Shown._fields, places, strict=True):
            dtype, shape = getattr(COLUMNS, name)
            strides = (math.prod(shape), *(1 for _ in shape))
            self.shown_places.append(((self.host.num, *shape), strides, (begin - self.shown_from) // dtype.itemsize))

    def _as_numbers(self, name: str) -> tuple[int, ...]:
        begin, end = getattr(self.host.places, name)
        dtype, shape = getattr(COLUMNS, name)
        return as_numbers(self.tensor[begin:end], dtype.itemsize, (self.host.num, *shape))

    def upload(self, stream: torch.cuda.Stream) -> None:
        self.tensor.copy_(self.pinned, non_blocking=True)
        self.free.record(stream)

    def shown(self) -> "Shown":
        """What a view shows of the table, in memory of its own: one copy of all columns."""
        copy = self.tensor[self.shown_from :].clone()
        as_kind = {kind: copy.view(kind) for kind in SHOWN}
        return Shown(*(as_kind[kind].as_strided(*place) for kind, place in zip(SHOWN, self.shown_places, strict=True)))


class Shown(NamedTuple):
    """The columns that a view shows, or their types."""

    keys_B: Any
    clean_sizes_B2: Any
    small_sizes_B2: Any
    ratio_B: Any


SHOWN = Shown(keys_B=torch.int64, clean_sizes_B2=torch.int32, small_sizes_B2=torch.int32, ratio_B=torch.float32)
_devices: dict[torch.device, Device] = {}


def device_of(device: torch.device) -> Device:
    """One for each GPU: "cuda" is the current one."""
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if device not in _devices:
        _devices[device] = Device(device)
    return _devices[device]


def compile_kernels(keep: Device, corruptions: tuple[int, ...], dtype: torch.dtype, clean: bool) -> None:
    """Before the first batch: a type that is drawn late would otherwise stop a training run to be compiled."""
    with keep.queue():
        keep.compile(tuple(needed(corruptions, TYPES[dtype], clean)))


def pixels(num: int, height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Grid and block of a launch with one thread a pixel."""
    block_x, block_y = cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y
    return (blocks(width, block_x), blocks(height, block_y), num), (block_x, block_y)


def make_whole(images_BHW3: Tensor, planes: Tensor, rows_B: np.ndarray) -> None:
    """What torch makes of the whole images of some types, into the first of the planes: a few operations an image.

    Queued on torch's current stream. rows_B: the rows on the host.
    """
    if set(rows_B["corruption"].tolist()).isdisjoint(steps.WHOLE):
        return
    plane_BHW3 = planes.flatten()[: images_BHW3.numel()].view(images_BHW3.shape)
    for b in np.flatnonzero(np.isin(rows_B["corruption"], steps.WHOLE)):
        corruption, level = CORRUPTIONS[rows_B["corruption"][b]], int(rows_B["severity"][b])
        height, width = int(rows_B["height"][b]), int(rows_B["width"][b])
        plane_BHW3[b, :height, :width] = corruption.make_whole(torch, images_BHW3[b, :height, :width], level)


def launch_stages(launch: Launch, arguments: Arguments, lists: Lists, height: int, width: int) -> None:
    """All stages but the last, each for the images of its list."""
    images, planes = arguments.images_BHX, arguments.planes_2BHX
    rows, extra = arguments.rows_B, arguments.extra_BE
    for name, (first, num) in lists.places.items():
        if name == STATISTICS:
            block = (cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y)
            arrays = (images, rows, arguments.statistics_B4, lists.numbers_M)
            launch(name, (cuda_kernels.STATISTICS_BLOCKS, 1, num), block, arrays, (first,))
        elif name in STEPS:
            launch(name, *pixels(num, height, width), (images, planes, rows, extra, lists.numbers_M), (first,))
        else:
            for facts in own.KERNELS[name]:
                grid = (blocks(width, facts.tile[1]), blocks(height, facts.tile[0]), num)
                arrays = tuple(getattr(arguments, array) for array in facts.arrays)
                launch(facts.name, grid, facts.block, (*arrays, lists.numbers_M), (first,))


def launch_clean(
    launch: Launch, images_BHX: Any, rows_B: Any, out_BHX: Any, dtype: str, num: int, height: int, width: int
) -> None:
    grid = (blocks(width, clean.PIXELS * clean.BLOCK_X), blocks(height, clean.BLOCK_Y), num)
    launch(f"clean_{dtype}", grid, (clean.BLOCK_X, clean.BLOCK_Y), (images_BHX, rows_B, out_BHX))


def launch_boxes(launch: Launch, boxes_BG4: Any, boxes_2BG4: Any, rows_B: Any, num: int, most: int) -> None:
    """most: boxes of an image."""
    grid = (blocks(most, cuda_kernels.BLOCK_X), num)
    launch("boxes", grid, cuda_kernels.BLOCK_X, (boxes_BG4, boxes_2BG4, rows_B))


def launch_finish(
    launch: Launch,
    arguments: Arguments,
    columns: int,
    out_Bhx: Any,
    dtype: str,
    num: int,
    canvas: tuple[int, int],
) -> None:
    """The last stage and everything after it, into the small view's memory. columns: of `finish.fill_columns`."""
    grid = (blocks(canvas[1], columns), blocks(canvas[0], finish.ROWS), num)
    launch(f"finish_{dtype}", grid, finish.LANES, (*arguments, out_Bhx))


def prepare(
    keep: Device, images_BHW3: Tensor, table: DeviceTable, pool_M: np.ndarray | None
) -> tuple[Arguments, Lists]:
    """Write the lists, upload the table, and collect what the kernels take. Scratch grows only where it is used."""
    num, height, width = images_BHW3.shape[:3]
    lists = Lists(table.lists_M, write_lists(table.host))
    table.upload(keep.stream)
    whole = not set(table.host.rows_B["corruption"].tolist()).isdisjoint(steps.WHOLE)
    arguments = Arguments(
        images_BHX=as_numbers(images_BHW3, 1, (num, height, 3 * width)),
        planes_2BHX=keep.planes(num, height, width, whole or not USE_PLANES.isdisjoint(lists.places)),
        pixels_BHX=keep.pixels(num, height, width, not own.KERNELS.keys().isdisjoint(lists.places)),
        rows_B=table.rows_B,
        extra_BE=table.extra_BE,
        statistics_B4=table.statistics_B4,
        shots=keep.shots,
        pool_M=keep.pool(NO_POOL if pool_M is None else pool_M),
    )
    return arguments, lists


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
    name, rows_B = TYPES[dtype], table.host.rows_B
    num, height, width = images_BHW3.shape[:3]
    if width % finish.UNIT or small_canvas[1] % finish.UNIT:
        raise ValueError(
            f"views: on a GPU a canvas must be a multiple of {finish.UNIT} pixels wide; got {width}, and "
            f"{small_canvas[1]} for the corrupted view; pad the images"
        )
    columns = finish.fill_columns(rows_B)
    arguments, lists = prepare(keep, images_BHW3, table, pool_M)
    clean_BHW3 = None
    if want_clean:
        clean_BHW3 = torch.empty((num, height, width, 3), dtype=dtype, device=keep.device)
        out = as_numbers(clean_BHW3, dtype.itemsize, (num, height, 3 * width))
        launch_clean(keep.launch, arguments.images_BHX, table.rows_B, out, name, num, height, width)
    make_whole(images_BHW3, keep.scratch, rows_B)
    launch_stages(keep.launch, arguments, lists, height, width)
    small_Bhw3 = torch.empty((num, *small_canvas, 3), dtype=dtype, device=keep.device)
    out = as_numbers(small_Bhw3, dtype.itemsize, (num, small_canvas[0], 3 * small_canvas[1]))
    launch_finish(keep.launch, arguments, columns, out, name, num, small_canvas)
    boxes_2BG4 = torch.empty((2, *boxes_BG4.shape), dtype=torch.float32, device=keep.device)
    if boxes_BG4.numel():
        given, made = (as_numbers(boxes, 4, tuple(boxes.shape)) for boxes in (boxes_BG4, boxes_2BG4))
        launch_boxes(keep.launch, given, made, table.rows_B, num, boxes_BG4.shape[1])
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
        arguments, lists = prepare(keep, source[None], device_table, values_M)
        out = as_numbers(target, 1, (1, height, 3 * width))
        make_whole(source[None], keep.scratch, table.rows_B)
        launch_stages(keep.launch, arguments, lists, height, width)
        keep.launch("corrupted", *pixels(1, height, width), (*arguments, out))
    caller.wait_stream(keep.stream)
    source.record_stream(keep.stream)
    target.record_stream(caller)
    return target
