"""`python -m kernels.checks.ptx`: compile every CUDA kernel without a GPU; record registers, spills, doubles.

    python -m kernels.checks.ptx --architectures 80 90 100 --json build/ptx.json

PTX comes from Numba and NVVM; registers and spills from `ptxas`. It is the one inside the package triton, which torch
installs on Linux. Without triton it is that of a CUDA toolkit on PATH. Without either the figures are omitted, and the
output names that.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock


def find_ptxas() -> str | None:
    """Triton's newest comes first: its version is pinned, and it knows the PTX of CUDA 13 for every architecture."""
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        for name in ("ptxas-blackwell", "ptxas"):
            path = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
            if path.exists():
                return str(path)
    return shutil.which("ptxas")


@contextmanager
def pretend_device(architecture: tuple[int, int]) -> Iterator[None]:
    """Numba compiles device functions for "the current device", of which there need not be one."""
    device = mock.Mock(compute_capability=architecture)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        yield


def signatures() -> dict[str, tuple[Any, tuple, bool]]:
    """Every kernel with the types that `kernels/launch/gpu.py` launches it with, and whether its arithmetic is fast."""
    from numba import from_dtype, types

    from kernels.detection import nms_cuda
    from kernels.launch import cuda_kernels
    from kernels.task import ROW

    bytes_3, floats_3, rows = types.uint8[:, :, ::1], types.float32[:, :, ::1], from_dtype(ROW)[::1]
    sums, pool = types.uint32[:, ::1], types.uint16[::1]
    planes, extra = types.float32[:, :, :, ::1], types.float32[:, ::1]
    stage, last = (bytes_3, planes, rows, extra), (bytes_3, planes, rows, extra, sums, types.uint32[::1], pool)
    outputs = {
        "float32": floats_3,
        "float16": types.float16[:, :, ::1],
        "bfloat16": types.uint16[:, :, ::1],
    }
    found: dict[str, tuple[Any, tuple]] = {
        "statistics": (cuda_kernels.statistics, (bytes_3, rows, sums)),
        "whole_rows": (cuda_kernels.whole_rows, stage[:3]),
        "whole_blocks": (cuda_kernels.whole_blocks, stage),
        "boxes": (cuda_kernels.boxes, (floats_3, types.float32[:, :, :, ::1], rows)),
    }
    for number, kernel in enumerate(cuda_kernels.STEP_KERNELS):
        found[f"step_{number + 1}"] = (kernel, stage)
    for group, kernel in zip(("others", "heavy"), cuda_kernels.CORRUPTED, strict=True):
        found[f"corrupted_{group}"] = (kernel, (*last, bytes_3))
    for name, output in outputs.items():
        for group, kernel in zip(("others", "heavy"), cuda_kernels.FINISH[name], strict=True):
            found[f"finish_{group}_{name}"] = (kernel, (*last, output, types.int64, types.int64))
        found[f"clean_{name}"] = (cuda_kernels.CLEAN[name], (bytes_3, rows, output))
    suppress = (floats_3, extra, types.int32[:, ::1], types.float32, types.uint8[:, ::1])
    counts = (types.int64[:, ::1], types.int64[::1])
    fast = {name: (kernel, signature, True) for name, (kernel, signature) in found.items()}
    return fast | {"nms": (nms_cuda.suppress_rows_kernel, (*suppress, *counts), False)}


def compile_kernel(kernel: Any, signature: tuple, fastmath: bool, architecture: int) -> dict[str, Any]:
    """PTX of one kernel and what is known about it. architecture: 90 for sm_90."""
    from numba import cuda

    with pretend_device(divmod(architecture, 10)):
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=divmod(architecture, 10), fastmath=fastmath)
    record: dict[str, Any] = {
        "architecture": f"sm_{architecture}",
        "target": re.findall(r"\.target (\w+)", ptx)[0],
        "double_precision": len(re.findall(r"\.f64\b", ptx)),
    }
    ptxas = find_ptxas()
    if ptxas:
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            command = [ptxas, f"-arch=sm_{architecture}", "-v", "-o", "/dev/null", file.name]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        record["registers"] = int(re.findall(r"Used (\d+) registers", output)[0])
        record["spill_bytes"] = sum(int(count) for count in re.findall(r"(\d+) bytes spill", output))
        record["stack_bytes"] = int(re.findall(r"(\d+) bytes stack", output)[0])
    return record


@dataclass(frozen=True)
class Options:
    architectures: tuple[int, ...] = (80, 90, 100)  # 80 for sm_80
    json: Path | None = None  # where to write the records
    kernels: tuple[str, ...] = ()  # only these; all when empty


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    chosen = {name: value for name, value in signatures().items() if name in options.kernels or not options.kernels}
    if not chosen:
        raise ValueError(f"ptx: no kernel is called {options.kernels}; there are {', '.join(signatures())}")
    records: dict[str, dict] = {}
    print(
        f"registers and spills by {find_ptxas() or 'nothing: no ptxas here, they are not recorded'}",
        flush=True,
    )
    for architecture in options.architectures:
        for name, kernel in chosen.items():
            record = records[f"{name} sm_{architecture}"] = compile_kernel(*kernel, architecture)
            numbers = [f"{key.replace('_', ' ')} {value}" for key, value in record.items() if isinstance(value, int)]
            print(f"{name} sm_{architecture}: {', '.join(numbers)}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
