"""Run by test_cuda.py in a process of its own, under Numba's CUDA simulator: what surrounds the corruptions on a GPU.

The clean view, the channel sums, the shrinking of `finish` and the boxes, beside the CPU's code, which must give the
same bits: images of awkward sizes, none at all, and one that takes several blocks. Every second image has a type with
kernels of its own, whose pixels are random numbers here.
"""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from kernels import severity
from kernels.corruptions import registry

OWN = severity.INDEX["brightness"]
sys.modules["no_kernels"] = ModuleType("no_kernels")
vars(sys.modules["no_kernels"])["KERNELS"] = ()
registry.CORRUPTIONS = tuple(
    replace(each, own_kernels="no_kernels") if number == OWN else each
    for number, each in enumerate(registry.CORRUPTIONS)
)

# Only now, because the launches follow from the registry.
from kernels.launch import boxes, clean, cuda_kernels, finish, gpu, resize, signatures  # noqa: E402
from kernels.launch.lists import Lists, write_lists  # noqa: E402
from kernels.launch.table import Table, fill_extra  # noqa: E402
from tests.kernels import simulator  # noqa: E402

# Height, width, small height, small width, mirrored.
SMALL = ((9, 13, 6, 9, 0), (14, 18, 14, 18, 1), (1, 1, 1, 1, 1), (13, 17, 4, 5, 1), (5, 3, 4, 2, 1), (0, 0, 0, 0, 0))
LARGE = ((37, 101, 11, 31, 1), (37, 101, 37, 101, 0))


def launch(name, grid, block, arrays, numbers=()):
    """The simulator in place of `gpu.Device.launch`."""
    signatures.signatures()[name][0][grid, block](*arrays, *numbers)


def run(cases, canvas, small_canvas) -> None:
    num, (height, width) = len(cases), canvas
    random, table = np.random.default_rng(0), Table(len(cases))
    images = np.zeros((num, height, 3 * width), np.uint8)
    for b, case in enumerate(cases):
        images[b, : case[0], : 3 * case[1]] = random.integers(0, 256, (case[0], 3 * case[1]))
        for name, value in zip(("height", "width", "small_height", "small_width", "flip"), case, strict=True):
            table.rows_B[name][b] = value
    table.rows_B["severity"] = 1
    table.rows_B["corruption"] = [severity.NONE if b % 2 else OWN for b in range(num)]
    pixels = random.integers(0, 256, images.shape).astype(np.uint8)
    planes, nothing = np.zeros((2, num, height, 3 * width), np.float32), np.zeros(4, np.uint32)
    arguments = cuda_kernels.Arguments(
        images, planes, pixels, table.rows_B, table.extra_BE, table.statistics_B4, nothing, nothing.astype(np.uint16)
    )
    small = np.full((num, small_canvas[0], 3 * small_canvas[1]), np.nan, np.float32)
    clean = np.full(images.shape, np.nan, np.float32)
    gpu.launch_finish(launch, arguments, finish.fill_columns(table.rows_B), small, "float32", num, small_canvas)
    gpu.launch_clean(launch, images, table.rows_B, clean, "float32", num, height, width)
    wanted_small, wanted_clean = np.full_like(small, np.nan), np.full_like(clean, np.nan)
    line, taps = np.zeros(3 * width, np.float32), np.zeros(8 * width + 64, np.float32)
    rows = [SimpleNamespace(**dict(zip(table.rows_B.dtype.names, row.tolist(), strict=True))) for row in table.rows_B]
    for b, row in enumerate(rows):
        resize.shrink_rows((pixels, images)[b % 2][b], wanted_small[b], row, line, taps, 0, small_canvas[0])
        resize.clean_rows(images[b], wanted_clean[b], row, 0, height)
    np.testing.assert_allclose(small, wanted_small, atol=4e-6)  # additions in another order
    if num > 2:
        check_halves(arguments, table.rows_B, small, small_canvas)
    np.testing.assert_array_equal(clean, wanted_clean)
    given = np.zeros((num, 3, 4), np.float32)
    given[:, 0] = (1, 2, 6, 7)
    made, wanted = np.full((2, *given.shape), np.nan, np.float32), np.empty((2, *given.shape), np.float32)
    gpu.launch_boxes(launch, given, made, table.rows_B, num, 3)
    boxes.place_boxes(given, wanted[0], wanted[1], rows)
    np.testing.assert_array_equal(made, wanted)
    whole = np.full_like(images, 77)
    launch("corrupted", *gpu.pixels(num, height, width), (*arguments, whole))
    for b, case in enumerate(cases):
        part = np.s_[b, : case[0], : 3 * case[1]]
        np.testing.assert_array_equal(whole[part], (pixels, images)[b % 2][part])
    table.rows_B["corruption"] = severity.INDEX["contrast"]
    fill_extra(table)
    gpu.launch_stages(launch, arguments, Lists(table.lists_M, write_lists(table)), height, width)
    for b, case in enumerate(cases):
        picture = images[b, : case[0], : 3 * case[1]].reshape(-1, 3).astype(np.uint32)
        np.testing.assert_array_equal(table.statistics_B4[b], [*picture.sum(0), picture.max(initial=0)])


def check_halves(arguments, rows_B, small, small_canvas) -> None:
    """The view in 16 bits is the one in 32, rounded."""
    rounded = torch.from_numpy(small).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    for name, wanted in (("bfloat16", rounded), ("float16", small.astype(np.float16))):
        made = np.full(small.shape, 77, wanted.dtype)
        gpu.launch_finish(launch, arguments, finish.fill_columns(rows_B), made, name, len(rows_B), small_canvas)
        np.testing.assert_array_equal(made, wanted)


def main() -> None:
    simulator.prepare()
    # Each simulated thread takes its time: smaller blocks, the same code.
    cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y, cuda_kernels.THREADS = 8, 4, 32
    clean.BLOCK_X, finish.LANES, finish.TILE = 2, 16, 64
    finish.MIDDLE, finish.PACKED, finish.WEIGHTS = finish.HELD * 64 * 4, finish.HELD * 64 * 3, 4 * 64
    cuda_kernels.STATISTICS_BLOCKS = 2
    run(SMALL, (14, 24), (16, 32))
    run(LARGE, (37, 104), (64, 128))


if __name__ == "__main__":
    main()
