"""Run by test_own_kernels.py in its own process, under Numba's CUDA simulator: the kernels that types have alone.

argv: pairs of an .npz to read (one image, its table's buffer) and one to write.
"""

import sys

import numpy as np
from numba import config

from kernels.launch import gpu, signatures
from kernels.launch.cuda_kernels import Arguments
from kernels.launch.lists import Lists, write_lists
from kernels.launch.table import Table
from tests.kernels import simulator


def launch(name, grid, block, arrays, numbers=()):
    """The simulator in place of `gpu.Device.launch`."""
    signatures.signatures()[name][0][grid, block](*arrays, *numbers)


def main() -> None:
    assert config.ENABLE_CUDASIM
    assert config.DISABLE_JIT
    simulator.prepare()
    for given, made in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        case = np.load(given)
        images = case["images"]
        num, height, values = images.shape
        table = Table(num, case["buffer"].copy())
        pixels, nothing = np.full_like(images, 77), np.zeros(4, np.uint32)
        planes = np.full((2, num, height, values), np.nan, np.float32)
        arguments = Arguments(
            images, planes, pixels, table.rows_B, table.extra_BE, table.statistics_B4, nothing, nothing
        )
        gpu.launch_stages(launch, arguments, Lists(table.lists_M, write_lists(table)), height, values // 3)
        np.savez(made, pixels=pixels)


if __name__ == "__main__":
    main()
