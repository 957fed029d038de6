"""The CUDA side of kernels/detection/nms.py: greedy suppression, one block a group of an image, and one merge.

Two stable sorts bring the candidates of a group together, in falling order of score. Blocks share the groups of an
image. A block settles TILE candidates at a time among themselves, and then all its threads strike out what the kept
ones overlap further down. torch puts the survivors of all groups back into the order of scores. Nothing is read back.
Single precision throughout; `threshold` is already rounded down to it (see kernels/detection/nms.py).
"""

# mypy: disable-error-code="call-overload,call-arg,operator,assignment"
# (numba.cuda's stubs describe the host side of cuda.threadIdx and cuda.syncthreads, not their use in a kernel)

import numpy as np
import torch
from numba import cuda, float32, int32
from torch import Tensor

from kernels.detection.overlap import shared_length
from kernels.detection.quotient import make_exceeds
from kernels.jit import compiled_exactly, config, cuda_compiled

TILE = 32
THREADS = 512
GROUP_BLOCKS = 8  # blocks that share the groups of an image: levels of a pyramid, or classes
NO_GROUP = 2**31 - 1  # of a candidate that does not exist; it sorts last

if config.ENABLE_CUDASIM:

    @compiled_exactly
    def product(a, b):
        return a * b

    @compiled_exactly
    def exceeds(a, b, threshold):
        return a / b > threshold
else:
    # A plain product would be fused with the sum it goes into and not be rounded, as the CPU's is.
    from numba.cuda.libdevice import fast_fdividef, fmaf_rn
    from numba.cuda.libdevice import fmul_rn as product

    @compiled_exactly
    def reciprocal(number):
        return fast_fdividef(float32(1), number)

    exceeds = compiled_exactly(make_exceeds(reciprocal, fmaf_rn))


@compiled_exactly
def overlaps_exactly(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, threshold):
    """`overlap.overlaps`, rounded after every operation."""
    intersection = product(shared_length(ax1, ax2, bx1, bx2), shared_length(ay1, ay2, by1, by2))
    area_a, area_b = product(ax2 - ax1, ay2 - ay1), product(bx2 - bx1, by2 - by1)
    return exceeds(intersection, area_a + area_b - intersection, threshold)


@compiled_exactly
def first_from(groups_BN, row, group):
    """The first place of a row, sorted by group, whose group is at least this one."""
    low, high = int32(0), int32(groups_BN.shape[1])
    while low < high:
        middle = (low + high) >> 1
        if groups_BN[row, middle] < group:
            low = middle + 1
        else:
            high = middle
    return low


def suppress_groups_body(boxes_BN4, groups_BN, threshold, num_slots, alive_BN):
    """Leaves 1 in alive_BN for the survivors, at most num_slots a group; given 1 for every candidate that exists."""
    row, thread, num_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    tile_boxes = cuda.shared.array((TILE, 4), float32)
    tile_alive = cuda.shared.array(TILE, int32)
    kept = cuda.shared.array(1, int32)
    num_existing = first_from(groups_BN, row, NO_GROUP)
    if num_existing == 0:
        return
    last_group = groups_BN[row, num_existing - 1]
    group = cuda.blockIdx.y  # loops with `while`: a range whose step is not known here costs a 64-bit division
    while group <= last_group:
        start, end = first_from(groups_BN, row, group), first_from(groups_BN, row, group + 1)
        cuda.syncthreads()
        if thread == 0:
            kept[0] = 0
        cuda.syncthreads()
        while start < end and kept[0] < num_slots:
            if thread < TILE:
                mine = start + thread
                tile_alive[thread] = 0
                if mine < end:
                    for side in range(4):
                        tile_boxes[thread, side] = boxes_BN4[row, mine, side]
                    tile_alive[thread] = alive_BN[row, mine]
            cuda.syncthreads()
            for first in range(TILE):
                if (
                    first < thread < TILE
                    and tile_alive[first] != 0
                    and tile_alive[thread] != 0
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
                    if total == num_slots:
                        tile_alive[first] = 0
                    total += tile_alive[first]
                kept[0] = total
            cuda.syncthreads()
            if thread < TILE and start + thread < end:
                alive_BN[row, start + thread] = tile_alive[thread]
            candidate = start + TILE + thread
            while candidate < end:
                if alive_BN[row, candidate] != 0:
                    x1, y1 = boxes_BN4[row, candidate, 0], boxes_BN4[row, candidate, 1]
                    x2, y2 = boxes_BN4[row, candidate, 2], boxes_BN4[row, candidate, 3]
                    for first in range(TILE):
                        if tile_alive[first] != 0 and overlaps_exactly(
                            tile_boxes[first, 0],
                            tile_boxes[first, 1],
                            tile_boxes[first, 2],
                            tile_boxes[first, 3],
                            x1,
                            y1,
                            x2,
                            y2,
                            threshold,
                        ):
                            alive_BN[row, candidate] = 0
                            break
                candidate += num_threads
            cuda.syncthreads()
            start += TILE
        candidate = start + thread
        while candidate < end:  # all slots are taken
            alive_BN[row, candidate] = 0
            candidate += num_threads
        group += cuda.gridDim.y


suppress_groups_kernel = cuda_compiled(suppress_groups_body, fastmath=False)


def launch(boxes_BN4: Tensor, groups_BN: Tensor, threshold: np.float32, num_slots: int, alive_BN: Tensor) -> None:
    """On torch's stream."""
    arrays = [cuda.as_cuda_array(tensor) for tensor in (boxes_BN4, groups_BN)]
    stream = cuda.external_stream(torch.cuda.current_stream(boxes_BN4.device).cuda_stream)
    grid = (len(boxes_BN4), GROUP_BLOCKS)
    suppress_groups_kernel[grid, THREADS, stream](*arrays, threshold, num_slots, cuda.as_cuda_array(alive_BN))


def suppress(
    boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, threshold: np.float32, num_slots: int
) -> tuple[Tensor, Tensor]:
    """Indices (B, num_slots) of the kept candidates in falling order of score, and how many there are (B,)."""
    num_images, num_candidates = scores_BN.shape
    keep_BK = torch.zeros((num_images, num_slots + 1), dtype=torch.int64, device=scores_BN.device)
    if not num_images or not num_candidates:
        return keep_BK[:, :num_slots].contiguous(), keep_BK.sum(1)
    exists_BN = scores_BN > -torch.inf
    scores_BN = torch.where(exists_BN, scores_BN, -torch.inf)  # NaN would sort first
    by_score_BN = scores_BN.sort(dim=1, descending=True, stable=True).indices
    groups_BN = torch.where(exists_BN, groups_BN, NO_GROUP).gather(1, by_score_BN)
    groups_BN, by_group_BN = groups_BN.sort(dim=1, stable=True)
    order_BN = by_score_BN.gather(1, by_group_BN)
    boxes_BN4 = boxes_BN4.detach().gather(1, order_BN[..., None].expand(-1, -1, 4))
    alive_BN = (groups_BN != NO_GROUP).to(torch.uint8)
    launch(boxes_BN4, groups_BN, threshold, num_slots, alive_BN)
    kept_BN = torch.empty_like(alive_BN).scatter_(1, by_group_BN, alive_BN).to(torch.int64)
    # A survivor's slot is the number of survivors before it; all others share one slot beyond the last.
    slot_BN = torch.where(kept_BN > 0, kept_BN.cumsum(1) - 1, num_slots).clamp_(max=num_slots)
    keep_BK.scatter_(1, slot_BN, by_score_BN)
    # A compiled graph is promised the strides of a tensor of its own.
    return keep_BK[:, :num_slots].contiguous(), kept_BN.sum(1).clamp_(max=num_slots)
