"""Run by test_cuda.py in a process of its own, under Numba's CUDA simulator: the kernels of one small batch.

argv: an .npz to read (images, the table's buffer, masks, boxes, small canvas) and one to write.
"""

import sys

import numpy as np
import torch

from kernels.launch import clean as clean_kernel
from kernels.launch import cuda_kernels, finish, gpu, signatures
from kernels.launch.cpu import shots
from kernels.launch.lists import Lists, write_lists
from kernels.launch.table import Table
from tests.kernels import simulator


def launch(name, grid, block, arrays, numbers=()):
    """The simulator in place of `gpu.Device.launch`."""
    signatures.signatures()[name][0][grid, block](*arrays, *numbers)


def main() -> None:
    simulator.prepare()
    # Each simulated thread takes its time: smaller blocks, the same code.
    cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y, cuda_kernels.THREADS = 8, 4, 32
    clean_kernel.BLOCK_X, finish.LANES, finish.TILE = 2, 16, 64
    finish.MIDDLE, finish.PACKED, finish.WEIGHTS = finish.HELD * 64 * 4, finish.HELD * 64 * 3, 4 * 64
    cuda_kernels.STATISTICS_BLOCKS = 2
    given = np.load(sys.argv[1])
    images, boxes = given["images"], given["boxes"]
    num, height, values = images.shape
    table = Table(num, given["buffer"].copy())
    planes = np.full((2, num, height, values), np.nan, dtype=np.float32)
    arguments = cuda_kernels.Arguments(
        images,
        planes,
        np.zeros_like(images),
        table.rows_B,
        table.extra_BE,
        table.statistics_B4,
        shots=shots(),
        pool_M=given["pool"],
    )
    small = np.full(tuple(given["small_shape"]), np.nan, dtype=np.float32)
    clean = np.full((num, height, values), np.nan, dtype=np.float32)
    both_boxes = np.full((2, *boxes.shape), np.nan, dtype=np.float32)
    pictures, scratch = torch.from_numpy(images).view(num, height, -1, 3), torch.from_numpy(planes)
    gpu.make_whole(pictures, scratch, table.rows_B)
    gpu.launch_stages(launch, arguments, Lists(table.lists_M, write_lists(table)), height, values // 3)
    canvas = (small.shape[1], small.shape[2] // 3)
    gpu.launch_finish(launch, arguments, finish.fill_columns(table.rows_B), small, "float32", num, canvas)
    gpu.launch_clean(launch, images, table.rows_B, clean, "float32", num, height, values // 3)
    gpu.launch_boxes(launch, boxes, both_boxes, table.rows_B, num, boxes.shape[1])
    corrupted = np.zeros_like(images)
    launch("corrupted", *gpu.pixels(num, height, values // 3), (*arguments, corrupted))
    halves = {}
    for name, dtype in (("float16", np.float16), ("bfloat16", np.uint16)):
        halves[name] = np.zeros((num, height, values), dtype=dtype)
        gpu.launch_clean(launch, images, table.rows_B, halves[name], name, num, height, values // 3)
    np.savez(
        sys.argv[2],
        small=small,
        clean=clean,
        boxes=both_boxes,
        corrupted=corrupted,
        statistics=table.statistics_B4,
        **halves,
    )


if __name__ == "__main__":
    main()
