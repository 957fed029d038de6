"""jpeg, elastic and the weather one pixel at a time in the CUDA simulator against the same stages compiled for the CPU.

The simulator runs the bodies as plain Python: what it and compiled code agree on does not hang on Numba's types.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels.corruptions.registry import BY_NAME, NEED_MASK
from kernels.launch.pool import Pool
from kernels.task import ROW, Task

NAMES = ("jpeg_compression", "elastic_transform", *NEED_MASK)
HEIGHT, WIDTH = 9, 18

SIMULATED = """
import sys
import numpy as np
from numba import cuda, config, float32
assert config.ENABLE_CUDASIM and config.DISABLE_JIT
from kernels.corruptions import jpeg
from kernels.corruptions.registry import BY_NAME
from kernels.task import Task
from tests.kernels import simulator

simulator.prepare()

@cuda.jit
def launch(stage, step, source, target, a, b, rows, extra, statistics, shots, pool):
    x, y = cuda.blockIdx.x * step, cuda.blockIdx.y * step
    line = cuda.local.array(jpeg.CUDA_LINE, float32)
    task = Task(source, target, a, b, line, rows[0], extra, statistics, shots, pool, 0, 0)
    height, width = rows[0].height, rows[0].width
    stage(task, y, min(y + step, height), x, min(x + step, width))

for path in sys.argv[1:]:
    case = np.load(path)
    name = str(case["name"])
    target, a, b = (case[key].copy() for key in ("target", "a", "b"))
    rows = case["rows"].view(np.recarray)
    height, width = int(rows[0].height), int(rows[0].width)
    with np.errstate(over="ignore"):
        for stage in BY_NAME[name].stages:
            step = jpeg.BLOCK if stage is jpeg.blocks else 1
            grid = (-(-width // step), -(-height // step))
            launch[grid, 1](stage, step, case["source"], target, a, b, rows, case["extra"], case["statistics"],
                            case["shots"], case["pool"])
    error = np.abs(target.astype(int) - case["expected"])
    assert error.max() <= 1 and (error > 0).mean() <= 0.01, (name, error.max(), (error > 0).mean())
    if name == "jpeg_compression":
        assert error.max() == 0
"""


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool((HEIGHT, WIDTH), NEED_MASK, (2, 5), size=2, margin=4)


@pytest.mark.long
def test_the_simulator_gives_what_compiled_code_gives(new_task, pool, tmp_path):
    image = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    paths = []
    for name in NAMES:
        for severity in (2, 5):
            task: Task = new_task(image, name, severity, pool.values_M)
            rows = np.zeros(1, ROW)
            rows[0] = task.row
            pool.place(rows)
            task = task._replace(row=rows[0])
            before = {key: getattr(task, key).copy() for key in ("target", "a", "b")}
            for stage in BY_NAME[name].stages:
                stage(task, 0, HEIGHT, 0, WIDTH)
            assert (task.target != before["target"]).mean() > 0.9
            path = tmp_path / f"{name}-{severity}.npz"
            constant = {key: getattr(task, key) for key in ("source", "extra", "statistics", "shots", "pool")}
            np.savez(path, name=name, rows=rows, expected=task.target, **before, **constant)
            paths.append(str(path))
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command, root = [sys.executable, "-c", SIMULATED, *paths], Path(__file__).parents[2]
    subprocess.run(command, check=True, env=environment, cwd=root)
