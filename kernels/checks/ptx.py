"""`python -m kernels.checks.ptx`: compile every GPU kernel without a GPU, and count what its machine code does.

    python -m kernels.checks.ptx --architectures 80 90 100 --json build/ptx.json

PTX comes from Numba and from Triton, machine code from `ptxas`, and `nvdisasm` reads it. Both are those of the package
triton, which torch installs on Linux. Without triton they are those of a CUDA toolkit on PATH. Without either, figures
of the machine code are omitted, and the output names that.
"""

import importlib.util
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

# A multiprocessor's warps, blocks, registers and bytes of shared memory (CUDA C++ Programming Guide, table of
# compute capabilities); a block's shared memory includes 1 KiB of the system's own.
WARPS, BLOCKS, REGISTERS = 64, 32, 65_536
SHARED_BYTES = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}


def find_tool(*names: str) -> str | None:
    """Triton's come first: their version is pinned, and they know the PTX of CUDA 13 for every architecture."""
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        for name in names:
            path = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
            if path.exists():
                return str(path)
    return shutil.which(names[-1])


def find_ptxas() -> str | None:
    return find_tool("ptxas-blackwell", "ptxas")


@contextmanager
def pretend_device(architecture: tuple[int, int]) -> Iterator[None]:
    """Numba compiles device functions for "the current device", of which there need not be one."""
    device = mock.Mock(compute_capability=architecture)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        yield


@dataclass(frozen=True)
class NumbaKernel:
    kernel: Any
    signature: tuple
    threads: int = 256  # a block
    fastmath: bool = True

    def compile(self, architecture: int) -> tuple[str, int]:
        """PTX, and the bytes of shared memory that a launch adds to what the code itself names."""
        (ptx,) = typed(self).get_asm_strs(cc=divmod(architecture, 10))
        return ptx, 0


@cache
def typed(kernel: NumbaKernel) -> Any:
    """A kernel behind Numba's front end, which takes most of the time and answers the same from sm_80 on.

    `cuda.compile_ptx` goes through it for each architecture; this is the function that it calls, of numba-cuda 0.30.
    """
    from numba.cuda.compiler import _compile_pyfunc_with_fixup  # type: ignore[attr-defined]

    with pretend_device((9, 0)):
        library, _ = _compile_pyfunc_with_fixup(
            kernel.kernel.py_func,
            kernel.signature,
            device=False,
            fastmath=kernel.fastmath,
            cc=(9, 0),
            abi="numba",
            launch_bounds=kernel.kernel.targetoptions.get("launch_bounds"),
        )
    return library


@dataclass(frozen=True)
class TritonKernel:
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def compile(self, architecture: int) -> tuple[str, int]:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        types = {name: self.types.get(name, "constexpr") for name in names}
        constants = {(names.index(name),): value for name, value in self.constants.items()}
        # Arrays of torch's begin at a multiple of 16 bytes.
        aligned = {
            (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if types[name].startswith("*")
        }
        source = ASTSource(self.kernel, types, constants, aligned)
        target = GPUTarget("cuda", architecture, 32)
        made = triton.compile(source, target=target, options={"num_warps": self.warps})
        return made.asm["ptx"], made.metadata.shared


def numba_kernels() -> dict[str, NumbaKernel]:
    from numba import types

    from kernels.detection import nms_cuda
    from kernels.launch import clean, cuda_kernels, finish, own
    from kernels.launch.signatures import signatures

    threads = {
        "boxes": cuda_kernels.BLOCK_X,
        **{facts.name: math.prod(facts.block) for kernels in own.KERNELS.values() for facts in kernels},
    }  # fmt: skip
    threads |= {f"finish_{name}": finish.LANES for name in finish.FINISH}
    threads |= {f"clean_{name}": clean.BLOCK_X * clean.BLOCK_Y for name in clean.CLEAN}
    found = {
        name: NumbaKernel(kernel, signature, threads.get(name, cuda_kernels.THREADS))
        for name, (kernel, signature) in signatures().items()
    }
    suppress = (types.float32[:, :, ::1], types.int32[:, ::1], types.float32, types.int64, types.uint8[:, ::1])
    found["nms"] = NumbaKernel(nms_cuda.suppress_groups_kernel, suppress, nms_cuda.THREADS, fastmath=False)
    return found


def triton_kernels() -> dict[str, TritonKernel]:
    """RoIAlign as a detector calls it: 256 channels, crops of 7 x 7."""
    if importlib.util.find_spec("triton") is None:
        return {}
    from kernels.detection import roi_align_triton as roi

    found = {}
    levels = range(roi.MOST_LEVELS)
    for dtype, letters in (("bfloat16", "bf16"), ("float32", "fp32")):
        crop = {f"map{level}": f"*{letters}" for level in levels} | {
            f"{side}{level}": "i32" for level in levels for side in "hw"
        }
        crop |= {f"s{level}": "fp32" for level in levels}
        crop |= {"boxes_N4": "*fp32", "image_N": "*i64", "level_N": "*i64", "crops_NSSC": f"*{letters}"}
        spread = {"grad_NSSC": f"*{letters}", "boxes_N4": "*fp32", "order_N": "*i64", "starts_G": "*i32"}
        spread |= {"scale": "fp32", "map_BHWC": f"*{letters}"}
        spread |= dict.fromkeys(("level", "num_levels", "height", "width"), "i32")
        for way, samples, aligned in (("", 2, False), ("_adaptive", 0, True)):
            common = {"num_channels": 256, "SIZE": 7, "SAMPLES": samples, "ALIGNED": aligned}
            block = {"BLOCK": roi.block_of(256, "crop")}
            found[f"roi_crop{way}_{dtype}"] = TritonKernel(roi.crop_kernel, crop, common | block, roi.NUM_WARPS["crop"])
            block = {"BLOCK": roi.block_of(256, "spread"), "TILE": roi.TILE, "CHUNK": roi.CHUNK}
            found[f"roi_spread{way}_{dtype}"] = TritonKernel(
                roi.spread_kernel, spread, common | block, roi.NUM_WARPS["spread"]
            )
    return found


def all_kernels() -> dict[str, NumbaKernel | TritonKernel]:
    return numba_kernels() | triton_kernels()


def compile_kernel(kernel: NumbaKernel | TritonKernel, architecture: int) -> dict[str, Any]:
    """What is known about a kernel's code. architecture: 90 for sm_90."""
    return inspect(*kernel.compile(architecture), kernel.threads, architecture)


def inspect(ptx: str, shared_bytes: int, threads: int, architecture: int) -> dict[str, Any]:
    target = re.findall(r"\.target (\w+)", ptx)[0]
    record: dict[str, Any] = {
        "architecture": f"sm_{architecture}",
        "target": target,
        "double_precision": len(re.findall(r"\.f64\b", ptx)),
        "long_divisions": len(re.findall(r"\b(?:div|rem)\.[su]64\b", ptx)),
    }
    ptxas, nvdisasm = find_ptxas(), find_tool("nvdisasm")
    if ptxas is None:
        return record
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [ptxas, f"-arch={target}", "-v", "-o", str(binary), str(source)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        listing = ""
        if nvdisasm is not None:
            listing = subprocess.run([nvdisasm, "-c", str(binary)], capture_output=True, text=True, check=True).stdout
    record["registers"] = int(re.findall(r"Used (\d+) registers", output)[0])
    record["spill_bytes"] = sum(int(count) for count in re.findall(r"(\d+) bytes spill", output))
    record["stack_bytes"] = int(re.findall(r"(\d+) bytes stack", output)[0])
    record["shared_bytes"] = shared_bytes + sum(int(count) for count in re.findall(r"(\d+) bytes smem", output))
    record["threads"] = threads
    record["occupancy"] = occupancy(record, architecture)
    return record | (count_instructions(listing) if listing else {})


def count_instructions(listing: str) -> dict[str, int]:
    """Of machine code: how many instructions there are, and of the kinds that a fast kernel lacks."""
    names = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", listing, re.MULTILINE)
    widths = [
        int(found[1]) if (found := re.search(r"\.(64|128|256)\b", name)) else 8 if re.search(r"\.[US]8\b", name)
        else 16 if re.search(r"\.[US]16\b", name) else 32
        for name in names if name.startswith(("LDG", "STG"))
    ]  # fmt: skip
    called = [target for target in re.findall(r"\bCALL\S*\s+(.*)", listing) if "(.L_" not in target]
    return {
        "instructions": len(names),
        "local_loads": sum(name.startswith("LDL") for name in names),
        "local_stores": sum(name.startswith("STL") for name in names),
        # A call to a label of the code's own is a jump; one to a ..sync routine is made by a warp that has diverged.
        "calls": sum("sync" not in name for name in called),
        "diverged_calls": sum("sync" in name for name in called),
        "double_instructions": sum(
            re.match(r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\.\w+64", name) is not None for name in names
        ),
        "widest_global_bytes": max(widths, default=0) // 8,
    }


def occupancy(record: dict[str, Any], architecture: int) -> float:
    """The share of a multiprocessor's warps that can be resident, by registers, shared memory and threads."""
    warps = -(-record["threads"] // 32)
    registers_warp = -(-record["registers"] * 32 // 256) * 256  # given out by 256
    shared = record["shared_bytes"] + 1024
    most = min(BLOCKS, WARPS // warps, REGISTERS // registers_warp // warps, SHARED_BYTES[architecture] // shared)
    return round(most * warps / WARPS, 2)


@dataclass(frozen=True)
class Options:
    architectures: tuple[int, ...] = (80, 90, 100)  # 80 for sm_80
    json: Path | None = None  # where to write the records
    kernels: tuple[str, ...] = ()  # only these; all when empty


def main() -> None:
    import tyro

    options = tyro.cli(Options, prog="python -m kernels.checks.ptx", description=__doc__)
    known = all_kernels()
    for name in options.kernels:
        if name not in known:
            raise SystemExit(f"error: ptx: no kernel is called {name}; there are {', '.join(known)}")
    for number in options.architectures:
        if number not in SHARED_BYTES:
            raise SystemExit(f"error: ptx: --architectures {number} is not known; there are 80, 90 and 100")
    chosen = {name: known[name] for name in options.kernels or known}
    records: dict[str, dict] = {}
    print(
        f"machine code by {find_ptxas() or 'nothing: no ptxas here, what it does is not recorded'}",
        flush=True,
    )
    for architecture in options.architectures:
        for name, kernel in chosen.items():
            record = records[f"{name} sm_{architecture}"] = compile_kernel(kernel, architecture)
            numbers = [
                f"{key.replace('_', ' ')} {value}" for key, value in record.items() if isinstance(value, int | float)
            ]
            print(f"{name} sm_{architecture}: {', '.join(numbers)}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
