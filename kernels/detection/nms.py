"""Non-maximum suppression with a fixed number of slots: batched, grouped, without a host-device synchronisation.

torchvision.ops.batched_nms returns as many indices as survive, so a graph breaks there and a GPU is waited for. Here
every image gets `num_slots` indices and a count, so that shapes never depend on the data. The rule is torchvision's.
Candidates come in falling order of score (equal scores: lower index first). A candidate goes when its intersection over
union with a kept one of the same group is greater than the threshold. The groups are pyramid levels or classes; they
are compared exactly, without torchvision's detour over shifted coordinates.

One operator, `fairweather::nms`: Numba on the CPU, one Numba CUDA kernel on the GPU, and a fake kernel for tracing.
Legend: B images, N candidates, K slots.
"""

import numpy as np
import torch
from torch import Tensor

from kernels.detection.overlap import overlaps, round_down_to_float32
from kernels.jit import compiled_exactly


def nms(
    boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, iou_threshold: float, num_slots: int
) -> tuple[Tensor, Tensor]:
    """Indices of the kept candidates (B, num_slots) int64 in falling order of score, and how many there are (B,) int64.

    A candidate with score -inf (or NaN) does not exist; slots after the count hold 0. groups_BN: integers from 0.
    """
    if boxes_BN4.ndim != 3 or boxes_BN4.shape[2] != 4 or scores_BN.shape != boxes_BN4.shape[:2]:
        raise ValueError(
            f"nms: got boxes of shape {tuple(boxes_BN4.shape)} and scores of shape {tuple(scores_BN.shape)}; "
            "allowed are (B, N, 4) and (B, N)"
        )
    if groups_BN.shape != scores_BN.shape:
        raise ValueError(f"nms: got groups of shape {tuple(groups_BN.shape)} for scores {tuple(scores_BN.shape)}")
    if torch.compiler.is_exporting():
        return _nms_from_torchvision(boxes_BN4.float(), scores_BN.float(), groups_BN, iou_threshold, num_slots)
    return torch.ops.fairweather.nms(
        boxes_BN4.float(), scores_BN.float(), groups_BN.to(torch.int32), float(iou_threshold), num_slots
    )


def _nms_from_torchvision(
    boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, iou_threshold: float, num_slots: int
) -> tuple[Tensor, Tensor]:
    """The same in operators that other tools know (an exported program must run without this package).

    One torchvision.ops.nms over all images, each group moved right and each image moved down until nothing overlaps;
    then every survivor looks for its slot. Shifted coordinates are rounded: at 10,000 to a thousandth of a pixel, with
    64 images of a canvas 1,024 wide to a two-hundred-and-fiftieth.
    """
    num_images, num_candidates = scores_BN.shape
    extent = (boxes_BN4.max() - boxes_BN4.min() + 1).ceil()
    image_B = torch.arange(num_images, device=boxes_BN4.device)
    shift_BN2 = torch.stack((groups_BN.float(), image_B.float()[:, None].expand_as(scores_BN)), dim=2) * extent
    shifted_BN4 = boxes_BN4 + torch.cat((shift_BN2, shift_BN2), dim=2)
    kept_M = torch.ops.torchvision.nms(shifted_BN4.flatten(0, 1), scores_BN.flatten(), iou_threshold)
    # Best first over all images. The place of a survivor is the number of its image's survivors before it.
    image_M = kept_M // num_candidates
    exists_M = scores_BN.flatten()[kept_M] > -torch.inf
    mine_MB = (image_M[:, None] == image_B) & exists_M[:, None]
    place_M = (mine_MB.to(torch.int64).cumsum(0) * mine_MB).sum(1) - 1
    slot_M = torch.where((place_M >= 0) & (place_M < num_slots), image_M * num_slots + place_M, num_images * num_slots)
    keep = torch.zeros(num_images * num_slots + 1, dtype=torch.int64, device=boxes_BN4.device)
    keep_BK = keep.scatter(0, slot_M, kept_M - image_M * num_candidates)[:-1].reshape(num_images, num_slots)
    return keep_BK, mine_MB.sum(0).clamp(max=num_slots)


@torch.library.custom_op("fairweather::nms", mutates_args=(), device_types="cpu")
def _nms_cpu(
    boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, iou_threshold: float, num_slots: int
) -> tuple[Tensor, Tensor]:
    keep_BK = torch.zeros((boxes_BN4.shape[0], num_slots), dtype=torch.int64)
    count_B = torch.zeros(boxes_BN4.shape[0], dtype=torch.int64)
    _suppress_rows(
        boxes_BN4.detach().contiguous().numpy(),
        scores_BN.detach().contiguous().numpy(),
        groups_BN.contiguous().numpy(),
        round_down_to_float32(iou_threshold),
        keep_BK.numpy(),
        count_B.numpy(),
    )
    return keep_BK, count_B


@_nms_cpu.register_fake
def _nms_fake(boxes_BN4, scores_BN, groups_BN, iou_threshold, num_slots):
    num_images = boxes_BN4.shape[0]
    return (
        boxes_BN4.new_empty((num_images, num_slots), dtype=torch.int64),
        boxes_BN4.new_empty((num_images,), dtype=torch.int64),
    )


@_nms_cpu.register_kernel("cuda")
def _nms_cuda(boxes_BN4, scores_BN, groups_BN, iou_threshold, num_slots):
    from kernels.detection.nms_cuda import suppress

    return suppress(boxes_BN4, scores_BN, groups_BN, round_down_to_float32(iou_threshold), num_slots)


@compiled_exactly
def _suppress_rows(boxes_BN4, scores_BN, groups_BN, threshold, keep_BK, count_B):
    """Greedy suppression, row by row. Candidates of a group are next to each other, so the inner loop is plain SIMD.

    A candidate is looked at once in global order; a kept one marks the later ones of its own group. The loop ends when
    all slots are taken.
    """
    num_slots = keep_BK.shape[1]
    for row in range(boxes_BN4.shape[0]):
        scores, groups, boxes = scores_BN[row], groups_BN[row], boxes_BN4[row]
        existing = np.flatnonzero(scores > -np.inf)
        total = existing.size
        if total == 0:
            continue
        order = existing[np.argsort(-scores[existing], kind="mergesort")]
        ends = np.zeros(groups[existing].max() + 2, np.int64)
        for candidate in order:
            ends[groups[candidate] + 1] += 1
        ends = np.cumsum(ends)
        filled = ends[:-1].copy()
        x1, y1, x2, y2 = (
            np.empty(total, np.float32),
            np.empty(total, np.float32),
            np.empty(total, np.float32),
            np.empty(total, np.float32),
        )
        place = np.empty(total, np.int64)  # of the i-th candidate in score order among its group's
        for i in range(total):
            candidate = order[i]
            at = filled[groups[candidate]]
            filled[groups[candidate]] = at + 1
            place[i] = at
            x1[at], y1[at], x2[at], y2[at] = boxes[candidate]
        gone = np.zeros(total, np.uint8)
        kept = 0
        for i in range(total):
            at = place[i]
            if gone[at]:
                continue
            keep_BK[row, kept] = order[i]
            kept += 1
            if kept == num_slots:
                break
            ax1, ay1, ax2, ay2 = x1[at], y1[at], x2[at], y2[at]
            for j in range(at + 1, ends[groups[order[i]] + 1]):
                gone[j] |= np.uint8(overlaps(ax1, ay1, ax2, ay2, x1[j], y1[j], x2[j], y2[j], threshold))
        count_B[row] = kept
