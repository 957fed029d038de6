"""The GPU kernels that types have of their own, in the CUDA simulator, beside the stages that a CPU runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from kernels import severity
from kernels.launch import cpu, own, steps
from kernels.launch import table as parameters

WHOLE_NUMBERS = ("jpeg_compression", "pixelate")  # their arithmetic: equal to the last bit
# No tile divides most of these. The canvas is as large as the largest sides: (40, 96) is as wide as it, which is
# whole blocks. Each has another severity.
SIZES = ((1, 1), (3, 70), (33, 5), (71, 13), (40, 96))
LONGEST = (150, 300)


def batches(name: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Batches of sizes: those above, then one image down and one along. Both take three blocks of each of the type's
    kernels, a middle one between two neighbours and a last one of a few rows or columns; of elastic_transform's, whose
    tiles are the longest, two blocks."""
    tiles = np.array([facts.tile for facts in own.KERNELS[name]])
    height, width = np.minimum(2 * tiles.max(axis=0) + (7, 11), LONGEST)
    return SIZES, ((int(height), 20),), ((9, int(width)),)


def cases(name: str, sizes: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, parameters.Table]:
    """An image of each size beside one of another type, which must be left alone."""
    num, (height, width) = len(sizes) + 1, np.max(sizes, axis=0)
    images, table = np.zeros((num, height, 3 * width), np.uint8), parameters.Table(num)
    for b, (height, width) in enumerate((*sizes, (5, 7))):
        picture = data.astronaut()[100 : 100 + height, 180 : 180 + width]
        images[b, :height, : 3 * width] = picture.reshape(height, -1)
        row = table.rows_B[b]
        row["corruption"], row["severity"] = severity.INDEX[name], (5, 4, 1, 3, 2)[b % 5]
        row["height"], row["width"], row["key0"], row["key1"] = height, width, 99 * b, 7
    if num > 3:
        images[2] = images[2].max()  # one colour stays one
    table.rows_B["corruption"][-1] = severity.NONE
    parameters.fill_extra(table)
    return images, table


@pytest.mark.long
@pytest.mark.parametrize("part", [0, 1])
def test_a_types_own_kernels_make_the_pixels_of_its_stages(part, tmp_path):
    """Every other type in one process, for starting one takes longer than most kernels."""
    names = [severity.ALL[number] for number in steps.OWN][part::2]
    given = [(name, *cases(name, sizes)) for name in names for sizes in batches(name)]
    files = [(tmp_path / f"in{i}.npz", tmp_path / f"out{i}.npz") for i in range(len(given))]
    for (_, images, table), (path, _) in zip(given, files, strict=True):
        np.savez(path, images=images, buffer=table.buffer)
    script = Path(__file__).with_name("simulated_own.py")
    environment = dict(os.environ, NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "ignore", str(script), *(str(path) for pair in files for path in pair)]
    subprocess.run(command, env=environment, check=True, timeout=600)
    for (name, images, table), (_, made) in zip(given, files, strict=True):
        pixels = np.load(made)["pixels"]
        for b, row in enumerate(table.rows_B):
            height, width = int(row["height"]), int(row["width"])
            expected = np.full_like(images[b], 77)
            if row["corruption"] != severity.NONE:
                workspace = cpu.Workspace(*images.shape[1:])
                cpu.corrupt_image(images[b], expected, row, table.extra_BE[b], cpu.NO_POOL, workspace)
            error = np.abs(expected.astype(int) - pixels[b])
            assert error.max() <= (0 if name in WHOLE_NUMBERS else 1), (name, height, width)
            assert (error > 0).mean() < 0.002, (name, height, width)
