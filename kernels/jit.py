"""How the scalar code of this folder is compiled, and where the compiled code is kept.

`compiled` is `numba.njit` with the options all of it shares. The same functions are called from CUDA kernels, where
Numba compiles them again for the GPU. Machine code is cached in a folder named after a hash of every source file here
and below. Numba's own check looks at one file only. It would go on using a caller compiled against an older callee.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

config: Any = numba_config  # its settings are set at run time
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # Numba would warn of every small launch, such as that of the boxes


def source_hash() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """$FAIRWEATHER_CACHE, else $XDG_CACHE_HOME/fairweather, else ~/.cache/fairweather; then the sources' hash."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("FAIRWEATHER_CACHE") or Path(home) / "fairweather") / f"kernels-{source_hash()}"


CACHE = str(cache_folder())


def compiled(function: Callable, fastmath: bool = True) -> Callable:
    """Compile for the CPU: releases the GIL, float32 arithmetic may be reordered, division does not check for zero."""
    if config.DISABLE_JIT:  # the CUDA simulator runs the bodies as plain Python
        return function
    before = config.CACHE_DIR
    config.CACHE_DIR = CACHE
    try:
        return numba.njit(nogil=True, cache=True, fastmath=fastmath, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before


def compiled_anew(function: Callable) -> Callable:
    """The same without a file in the cache: for a function that closes over compiled ones, which look new in every
    process. What calls it is kept, and holds its code."""
    if config.DISABLE_JIT:
        return function
    return numba.njit(nogil=True, fastmath=True, error_model="numpy")(function)


def compiled_exactly(function: Callable) -> Callable:
    """The same with every operation as it is written, for results that must be another library's to the last bit."""
    return compiled(function, fastmath=False)


def cuda_compiled(function: Callable, fastmath: bool = True, launch_bounds: tuple[int, int] | None = None) -> Any:
    """A CUDA kernel: compiled when first launched, float32 with fast division and square roots.

    launch_bounds: threads of a block at most, and blocks that a multiprocessor must be able to hold.
    """
    from numba import cuda

    before = config.CACHE_DIR
    config.CACHE_DIR = CACHE
    try:
        options = {} if config.ENABLE_CUDASIM else {"cache": True, "launch_bounds": launch_bounds}
        return cuda.jit(fastmath=fastmath, **options)(function)
    finally:
        config.CACHE_DIR = before
