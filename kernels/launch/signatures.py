"""Every CUDA kernel of the views with the types that `gpu.py` launches it with: compiled before the first batch."""

from typing import Any

from numba import from_dtype, types

from kernels.launch import clean, cuda_kernels, finish, lists, own
from kernels.severity import NONE
from kernels.task import ROW

BYTES, FLOATS, ROWS = types.uint8[:, :, ::1], types.float32[:, :, ::1], from_dtype(ROW)[::1]
SUMS, POOL = types.uint32[:, ::1], types.uint16[::1]
PLANES, EXTRA = types.float32[:, :, :, ::1], types.float32[:, ::1]
LISTS = (types.int32[::1], types.int64)
LAST = (BYTES, PLANES, BYTES, ROWS, EXTRA, SUMS, types.uint32[::1], POOL)
ARGUMENTS = cuda_kernels.Arguments(*LAST)
OUTPUTS = {"float32": FLOATS, "float16": types.float16[:, :, ::1], "bfloat16": types.uint16[:, :, ::1]}


def signatures() -> dict[str, tuple[Any, tuple]]:
    found: dict[str, tuple[Any, tuple]] = {
        "statistics": (cuda_kernels.statistics, (BYTES, ROWS, SUMS, *LISTS)),
        "boxes": (cuda_kernels.boxes, (FLOATS, PLANES, ROWS)),
        "corrupted": (cuda_kernels.corrupted, (*LAST, BYTES)),
    }
    for number, kernel in enumerate(cuda_kernels.STEP_KERNELS, start=1):
        found[f"step_{number}"] = (kernel, (BYTES, PLANES, ROWS, EXTRA, *LISTS))
    for kernels in own.KERNELS.values():
        for facts in kernels:
            found[facts.name] = (facts.kernel, (*(getattr(ARGUMENTS, name) for name in facts.arrays), *LISTS))
    for name, output in OUTPUTS.items():
        found[f"finish_{name}"] = (finish.FINISH[name], (*LAST, output))
        found[f"clean_{name}"] = (clean.CLEAN[name], (BYTES, ROWS, output))
    return found


def needed(corruptions: tuple[int, ...], dtype: str, clean: bool) -> list[str]:
    """Names of the kernels that the views of images with these corruptions, or with none, launch."""
    kinds = {NONE, *corruptions}
    names = [f"clean_{dtype}"] if clean else []
    for name, members in lists.KINDS.items():
        if kinds.intersection(members):
            names += [facts.name for facts in own.KERNELS[name]] if name in own.KERNELS else [name]
    return ["boxes", *names, f"finish_{dtype}"]
