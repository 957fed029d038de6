"""The CUDA side of kernels/detection/nms.py: greedy suppression of sorted rows in one launch, one block a row.

A block settles TILE candidates at a time among themselves and writes the kept ones to their slots. Then all its threads
strike out what those overlap further down the row. Nothing is read back, nothing depends on the data but the number of
rounds. Single precision throughout; `threshold` is already rounded down to it (see kernels/detection/nms.py).
"""

# mypy: disable-error-code="call-overload,call-arg"
# (numba.cuda's stubs describe the host side of cuda.threadIdx and cuda.syncthreads, not their use in a kernel)

import numpy as np
import torch
from numba import cuda, float32, int32
from torch import Tensor

from kernels.detection.overlap import exceeds, shared_length
from kernels.jit import compiled_exactly, config, cuda_compiled

TILE = 32
THREADS = 512

if config.ENABLE_CUDASIM:

    @compiled_exactly
    def product(a, b):
        return a * b
else:
    # A plain product would be fused with the sum it goes into and not be rounded, as the CPU's is.
    from numba.cuda.libdevice import fmul_rn as product


@compiled_exactly
def overlaps_exactly(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, threshold):
    """`nms.overlaps`, rounded after every operation."""
    intersection = product(shared_length(ax1, ax2, bx1, bx2), shared_length(ay1, ay2, by1, by2))
    return exceeds(intersection, product(ax2 - ax1, ay2 - ay1), product(bx2 - bx1, by2 - by1), threshold)


def suppress_rows_body(boxes_BN4, scores_BN, groups_BN, threshold, alive_BN, slots_BK, count_B):
    """Row = block. scores fall along a row; alive_BN and count_B are scratch and result, both written here."""
    row = cuda.blockIdx.x
    thread = cuda.threadIdx.x
    num_threads = cuda.blockDim.x
    num_candidates = boxes_BN4.shape[1]
    num_slots = slots_BK.shape[1]

    tile_boxes = cuda.shared.array((TILE, 4), float32)
    tile_groups = cuda.shared.array(TILE, int32)
    tile_alive = cuda.shared.array(TILE, int32)
    kept = cuda.shared.array(1, int32)

    for candidate in range(thread, num_candidates, num_threads):
        alive_BN[row, candidate] = scores_BN[row, candidate] > float32(-np.inf)
    if thread == 0:
        kept[0] = 0
    cuda.syncthreads()

    start = 0
    while start < num_candidates and kept[0] < num_slots and scores_BN[row, start] > float32(-np.inf):
        if thread < TILE:
            mine = start + thread
            tile_alive[thread] = 0
            if mine < num_candidates:
                for side in range(4):
                    tile_boxes[thread, side] = boxes_BN4[row, mine, side]
                tile_groups[thread] = groups_BN[row, mine]
                tile_alive[thread] = alive_BN[row, mine]
        cuda.syncthreads()
        for first in range(TILE):
            if (
                first < thread < TILE
                and tile_alive[first] != 0
                and tile_groups[first] == tile_groups[thread]
                and overlaps_exactly(
                    tile_boxes[first, 0],
                    tile_boxes[first, 1],
                    tile_boxes[first, 2],
                    tile_boxes[first, 3],
                    tile_boxes[thread, 0],
                    tile_boxes[thread, 1],
                    tile_boxes[thread, 2],
                    tile_boxes[thread, 3],
                    threshold,
                )
            ):
                tile_alive[thread] = 0
            cuda.syncthreads()
        if thread == 0:
            total = kept[0]
            for first in range(TILE):
                if tile_alive[first] != 0 and total < num_slots:
                    slots_BK[row, total] = start + first
                    total += 1
            kept[0] = total
        for candidate in range(start + TILE + thread, num_candidates, num_threads):
            if alive_BN[row, candidate] != 0:
                for first in range(TILE):
                    if (
                        tile_alive[first] != 0
                        and tile_groups[first] == groups_BN[row, candidate]
                        and overlaps_exactly(
                            tile_boxes[first, 0],
                            tile_boxes[first, 1],
                            tile_boxes[first, 2],
                            tile_boxes[first, 3],
                            boxes_BN4[row, candidate, 0],
                            boxes_BN4[row, candidate, 1],
                            boxes_BN4[row, candidate, 2],
                            boxes_BN4[row, candidate, 3],
                            threshold,
                        )
                    ):
                        alive_BN[row, candidate] = 0
                        break
        cuda.syncthreads()
        start += TILE
    if thread == 0:
        count_B[row] = kept[0]


suppress_rows_kernel = cuda_compiled(suppress_rows_body, fastmath=False)


def suppress_rows(
    boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, threshold: np.float32, num_slots: int
) -> tuple[Tensor, Tensor]:
    """Slots (B, num_slots) of kept positions in rows of falling score, and their number (B,), on torch's stream."""
    num_images, num_candidates = scores_BN.shape
    alive_BN = torch.empty((num_images, num_candidates), dtype=torch.uint8, device=scores_BN.device)
    slots_BK = torch.zeros((num_images, num_slots), dtype=torch.int64, device=scores_BN.device)
    count_B = torch.zeros(num_images, dtype=torch.int64, device=scores_BN.device)
    if num_images:
        arrays = [cuda.as_cuda_array(tensor.detach().contiguous()) for tensor in (boxes_BN4, scores_BN, groups_BN)]
        results = [cuda.as_cuda_array(tensor) for tensor in (alive_BN, slots_BK, count_B)]
        stream = cuda.external_stream(torch.cuda.current_stream(scores_BN.device).cuda_stream)
        suppress_rows_kernel[num_images, THREADS, stream](*arrays, threshold, *results)
    return slots_BK, count_B
