"""`corrupt`: one image, one corruption, the way `imagecorruptions.corrupt` is called, with a seed."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from kernels import rng
from kernels.corruptions import color
from kernels.corruptions.registry import BY_NAME
from kernels.launch import cpu
from kernels.launch import table as parameters
from kernels.launch.pool import Pool
from kernels.severity import ALL, SEVERITIES, check_name, check_severity

POOL_MASKS, POOL_STEP = 8, 256  # masks of a kind; a pool serves all sizes up to the next multiple of the step
POOL_BYTES = 1 << 30  # all weather at all severities takes 0.4 GB for images of 600 x 1000
_workspaces = cpu.Workspaces()
_pools: dict[tuple, Pool] = {}  # the one used last comes last
_pools_lock = threading.Lock()


def pool_for(name: str, level: int, height: int, width: int) -> Pool:
    """The masks of an image of this size. Severities that share their masks share a pool."""
    height, width = (-(-side // POOL_STEP) * POOL_STEP for side in (height, width))
    masks = BY_NAME[name].masks
    assert masks is not None
    levels = tuple(other for other in SEVERITIES if masks.argument(other) == masks.argument(level))
    key = (name, levels, height, width)
    with _pools_lock:
        pool = _pools.get(key)
    if pool is None:
        pool = Pool((height, width), (name,), levels, size=POOL_MASKS)
    with _pools_lock:
        _pools.pop(key, None)
        _pools[key] = pool
        while len(_pools) > 1 and sum(kept.values_M.nbytes for kept in _pools.values()) > POOL_BYTES:
            del _pools[next(iter(_pools))]
    return pool


@lru_cache(maxsize=4)
def _executor(threads: int, _process: int) -> ThreadPoolExecutor:
    """One for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="corrupt")


def corrupt(
    image: Any,
    severity: int = 1,
    corruption_name: str | None = None,
    corruption_number: int = -1,
    seed: int = 0,
    threads: int = 1,
) -> Any:
    """The image corrupted: same size, uint8, RGB; a new array, or a tensor on the image's device.

    image: uint8 NumPy array or torch tensor of any size from 1 x 1. Its shape is height x width (grey, returned as RGB)
    or height x width x channels (1 or 3). severity: 1 to 5. corruption_name, or corruption_number: its place in
    `get_corruption_names("all")`, then in "own". The same seed gives the same pixels, on a CPU and on a GPU. Give each
    image another seed, or all get the same noise field and the same drops. threads: how many the CPU uses for an image
    of some size (small ones stay on one). One is right inside a data loader's worker.
    """
    if corruption_name is None and corruption_number == -1:
        raise ValueError("corrupt: give corruption_name or corruption_number")
    if corruption_name is None:
        if not 0 <= corruption_number < len(ALL):
            raise ValueError(f"corrupt: corruption_number must be 0 to {len(ALL) - 1}; got {corruption_number}")
        corruption_name = ALL[corruption_number]
    name, level = check_name(corruption_name), check_severity(severity)
    is_array = isinstance(image, np.ndarray)
    if not is_array and not hasattr(image, "device"):
        raise ValueError(f"corrupt: image must be a NumPy array or a torch tensor; got {type(image).__name__}")
    if str(image.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"corrupt: image must hold uint8 in 0..255; got {image.dtype}; convert it first")
    shape = tuple(image.shape)
    if image.ndim not in (2, 3) or (image.ndim == 3 and shape[2] not in (1, 3)):
        raise ValueError(f"corrupt: image must be height x width or height x width x (1 or 3); got shape {shape}")
    height, width = shape[:2]
    if height == 0 or width == 0:
        raise ValueError(f"corrupt: the image is empty, its shape is {shape}")
    if max(height, width) > rng.LARGEST_SIDE or height * width > color.LARGEST_AREA:
        raise ValueError(
            f"corrupt: at most {rng.LARGEST_SIDE} pixels a side and {color.LARGEST_AREA} in all; got {height} x {width}"
        )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"corrupt: threads must be a whole number from 1; got {threads!r}")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"corrupt: seed must be a whole number from 0 to 2**63 - 1; got {seed!r}")
    if not is_array and image.device.type not in ("cpu", "cuda"):
        raise ValueError(f"corrupt: a tensor must be on the CPU or a CUDA device; got {image.device}; move it first")

    table = parameters.single_table(name, level, height, width, int(rng.image_key(int(seed), 0, 0)))
    values_M = cpu.NO_POOL
    corruption = BY_NAME[name]
    if corruption.masks is not None:
        pool = pool_for(name, level, height, width)
        pool.place(table.rows_B)
        values_M = pool.values_M
    if not is_array and image.device.type == "cuda":
        from kernels.launch import gpu

        return gpu.corrupt_tensor(image.reshape(height, width, -1).expand(-1, -1, 3), table, values_M)
    array = image if is_array else image.numpy()
    array = np.broadcast_to(array.reshape(height, width, -1), (height, width, 3))
    source_HX = np.require(array, requirements=["C", "W"]).reshape(height, 3 * width)
    target_HX = np.empty_like(source_HX)
    with _workspaces.borrow(height, width) as workspace:
        shared = threads > 1 and height * width >= corruption.shared_area
        executor = _executor(threads, os.getpid()) if shared else None
        row, extra_E = table.rows_B[0], table.extra_BE[0]
        cpu.corrupt_image(source_HX, target_HX, row, extra_E, values_M, workspace, threads, executor)
    result = target_HX.reshape(height, width, 3)
    if is_array:
        return result
    import torch

    return torch.from_numpy(result)
