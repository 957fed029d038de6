"""Every CUDA kernel of the views with the types that `gpu.py` launches it with: compiled before the first batch."""

from typing import Any

from numba import from_dtype, types

from kernels.launch import clean, cuda_kernels, finish, own, steps
from kernels.severity import NONE
from kernels.task import ROW

BYTES, FLOATS, ROWS = types.uint8[:, :, ::1], types.float32[:, :, ::1], from_dtype(ROW)[::1]
SUMS, POOL = types.uint32[:, ::1], types.uint16[::1]
PLANES, EXTRA = types.float32[:, :, :, ::1], types.float32[:, ::1]
STAGE = (BYTES, PLANES, ROWS, EXTRA)
LAST = (BYTES, PLANES, BYTES, ROWS, EXTRA, SUMS, types.uint32[::1], POOL)
ARGUMENTS = cuda_kernels.Arguments(*LAST)
OUTPUTS = {"float32": FLOATS, "float16": types.float16[:, :, ::1], "bfloat16": types.uint16[:, :, ::1]}
GROUPS = ("others", "heavy")


def signatures() -> dict[str, tuple[Any, tuple]]:
    found: dict[str, tuple[Any, tuple]] = {
        "statistics": (cuda_kernels.statistics, (BYTES, ROWS, SUMS)),
        "whole_rows": (cuda_kernels.whole_rows, STAGE[:3]),
        "boxes": (cuda_kernels.boxes, (FLOATS, PLANES, ROWS)),
    }
    for number, kernel in enumerate(cuda_kernels.STEP_KERNELS, start=1):
        found[f"step_{number}"] = (kernel, STAGE)
    for kernels in own.KERNELS.values():
        for kernel, facts in kernels:
            found[facts.name] = (kernel, tuple(getattr(ARGUMENTS, name) for name in facts.arrays))
    for group, kernel in zip(GROUPS, cuda_kernels.CORRUPTED, strict=True):
        found[f"corrupted_{group}"] = (kernel, (*LAST, BYTES))
    for name, output in OUTPUTS.items():
        found[f"finish_others_{name}"] = (finish.FINISH[name], (*LAST, output, types.int64))
        found[f"finish_heavy_{name}"] = (cuda_kernels.FINISH[name], (*LAST, output, types.int64, types.int64))
        found[f"clean_{name}"] = (clean.CLEAN[name], (BYTES, ROWS, output))
    return found


def needed(corruptions: tuple[int, ...], dtype: str, clean: bool) -> list[str]:
    """Names of the kernels that the views of images with these corruptions, or with none, launch."""
    kinds = {NONE, *corruptions}
    groups = {
        "statistics": steps.STATISTICS, "whole_rows": steps.ROWS,
        **{f"step_{number}": steps.KINDS[number] for number in range(1, len(cuda_kernels.STEP_KERNELS) + 1)},
        f"finish_heavy_{dtype}": steps.HEAVY,
    }  # fmt: skip
    names = [name for name, members in groups.items() if kinds.intersection(members)]
    names += [facts.name for number in sorted(kinds.intersection(steps.OWN)) for _, facts in own.KERNELS[number]]
    return ["boxes", *([f"clean_{dtype}"] if clean else []), *names, f"finish_others_{dtype}"]
