"""The GPU kernels that types have of their own, in the CUDA simulator, beside the stages that a CPU runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from kernels import severity
from kernels.launch import cpu, steps
from kernels.launch import table as parameters

WHOLE_NUMBERS = ("jpeg_compression", "pixelate")  # their arithmetic: equal to the last bit
# No tile divides them; the last takes several blocks of every kernel.
SIZES = ((1, 1), (3, 70), (33, 5), (71, 13), (40, 96))
CANVAS = (71, 96)  # as wide as the last, and whole blocks


def cases(name: str) -> tuple[np.ndarray, parameters.Table]:
    """An image of each size beside one of another type, which must be left alone."""
    num = len(SIZES) + 1
    images, table = np.zeros((num, CANVAS[0], 3 * CANVAS[1]), np.uint8), parameters.Table(num)
    for b, (height, width) in enumerate((*SIZES, (5, 7))):
        picture = data.astronaut()[100 : 100 + height, 180 : 180 + width]
        images[b, :height, : 3 * width] = picture.reshape(height, -1)
        row = table.rows_B[b]
        row["corruption"], row["severity"] = severity.INDEX[name], (5, 4, 1, 3, 5)[b % 5]
        row["height"], row["width"], row["key0"], row["key1"] = height, width, 99 * b, 7
    images[2] = images[2].max()  # one colour stays one
    table.rows_B["corruption"][-1] = severity.NONE
    parameters.fill_extra(table)
    return images, table


@pytest.mark.long
@pytest.mark.parametrize("name", [severity.ALL[number] for number in steps.OWN])
def test_a_types_own_kernels_make_the_pixels_of_its_stages(name, tmp_path):
    images, table = cases(name)
    np.savez(tmp_path / "in.npz", images=images, buffer=table.buffer)
    script = Path(__file__).with_name("simulated_own.py")
    environment = dict(os.environ, NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, env=environment, check=True, timeout=600)
    pixels = np.load(tmp_path / "out.npz")["pixels"]
    for b, row in enumerate(table.rows_B):
        height, width = int(row["height"]), int(row["width"])
        expected = np.full_like(images[b], 77)
        if row["corruption"] != severity.NONE:
            workspace = cpu.Workspace(*images.shape[1:])
            cpu.corrupt_image(images[b], expected, row, table.extra_BE[b], cpu.NO_POOL, workspace)
        error = np.abs(expected.astype(int) - pixels[b])
        assert error.max() <= (0 if name in WHOLE_NUMBERS else 1), (height, width)
        assert (error > 0).mean() < 0.002, (height, width)
