"""Adding a corruption the way docs/kernels.md says: one file and its lines in the registry, and every path has it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DUSK = '''
"""dusk: every value times a share. A first stage into the scratch and a last one, to have both."""

from numba import float32, uint8

from kernels.corruptions.record import Corruption
from kernels.jit import compiled


@compiled
def darken(task, y0, y1, x0, x1):
    for y in range(y0, y1):
        for i in range(3 * x0, 3 * x1):
            task.a[y, i] = float32(task.source[y, i]) * task.extra[0]


@compiled
def store(task, y0, y1, x0, x1):
    for y in range(y0, y1):
        for i in range(3 * x0, 3 * x1):
            task.target[y - task.origin_y, i - 3 * task.origin_x] = uint8(task.a[y, i])


CORRUPTION = Corruption(
    name="dusk",
    severities=(0.75, 0.5, 0.375, 0.25, 0.125),  # share that is left
    stages=(darken, store),
    launches=(1,),
    prior="night",
)
'''

COMPILED = """
import numpy as np
import torch
import kernels
from kernels import severity
from kernels.checks import oracle
from pipeline.batch import Batch
from pipeline.views import ViewConfig, ViewMaker

assert kernels.get_corruption_names("own")[-1] == severity.ALL[-1] == "dusk"
assert "dusk" not in severity.TRAINING + severity.IMAGENET_C  # those are other people's lists
image = np.random.default_rng(0).integers(0, 256, (13, 7, 3)).astype(np.uint8)
for level, share in enumerate((0.75, 0.5, 0.375, 0.25, 0.125), start=1):
    np.testing.assert_array_equal(kernels.corrupt(image, level, "dusk"), np.uint8(image * share))
pixel = image[:1, :1]
number = severity.INDEX["dusk"]
np.testing.assert_array_equal(kernels.corrupt(pixel, 2, corruption_number=number), np.uint8(pixel * 0.5))

batch = Batch(
    images_BHW3=torch.from_numpy(np.pad(image, ((0, 19), (0, 25), (0, 0))))[None],
    sizes_B2=torch.tensor([(13, 7)], dtype=torch.int32),
    boxes_BG4=torch.zeros(1, 1, 4),
    labels_BG=torch.zeros(1, 1, dtype=torch.int64),
    ignore_BG=torch.zeros(1, 1, dtype=torch.bool),
    ids_B=torch.zeros(1, dtype=torch.int64),
    epoch=0,
    seed=0,
)
views = ViewMaker(ViewConfig(corruptions=("dusk",), severities=(2,)), threads=1)(batch)
assert oracle.view_problem(batch, views, np.uint8(image * 0.5)) is None
assert oracle.view_problem(batch, views, image) is not None
"""

SIMULATED = """
import numpy as np
from kernels.launch import cuda_kernels, gpu, signatures
from kernels.launch.cpu import NO_POOL, shots
from kernels.launch.lists import Lists, write_lists
from kernels.launch.table import single_table

cuda_kernels.BLOCK_X, cuda_kernels.BLOCK_Y = 8, 4  # every simulated thread is one of the operating system
image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
table = single_table("dusk", 2, 5, 7, 0)
given, made = image.reshape(1, 5, 21), np.zeros((1, 5, 21), np.uint8)
planes = np.full((2, 1, 5, 21), np.nan, np.float32)
pixels = np.zeros_like(given)
arguments = cuda_kernels.Arguments(
    given, planes, pixels, table.rows_B, table.extra_BE, table.statistics_B4, shots=shots(), pool_M=NO_POOL
)

def launch(name, grid, block, arrays, numbers=()):
    signatures.signatures()[name][0][grid, block](*arrays, *numbers)

gpu.launch_stages(launch, arguments, Lists(table.lists_M, write_lists(table)), 5, 7)
launch("corrupted", *gpu.pixels(1, 5, 7), (*arguments, made))
np.testing.assert_array_equal(made.reshape(5, 7, 3), np.uint8(image * 0.5))
"""

CHANGES = (  # of the registry
    ("    elastic,\n", "    dusk,\n    elastic,\n"),
    ("    spectral.PHASE,\n", "    spectral.PHASE,\n    dusk.CORRUPTION,\n"),
)


@pytest.fixture
def copy(tmp_path) -> Path:
    """The kernels with one file more, and its lines in the registry."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "kernels" / "corruptions"
    (folder / "dusk.py").write_text(DUSK)
    registry = (folder / "registry.py").read_text()
    for before, after in CHANGES:
        assert registry.count(before) == 1
        registry = registry.replace(before, after)
    (folder / "registry.py").write_text(registry)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("script", [COMPILED, SIMULATED], ids=["CPU", "simulated GPU"])
def test_a_new_corruption_is_everywhere(copy, script):
    environment = dict(os.environ, PYTHONPATH=f"{copy}{os.pathsep}{ROOT}", FAIRWEATHER_CACHE=str(copy / "cache"))
    if script == SIMULATED:
        environment |= {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
