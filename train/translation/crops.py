"""What a step sees: square crops around objects of both domains, made on the device.

JoliGEN's crops: a side of `size` give or take `delta` pixels, and no less than the longer side of a box drawn among
the picture's, as far as the picture reaches, brought to `size`; at a random place that holds the box; at any in a
picture without boxes; flipped one time in two. Every draw is a function of seed, epoch, image id and purpose, so it is
the same on any rank.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import rng
from pipeline.batch import Batch
from pipeline.loading.order import hash64
from train.translation.semantic import fill_boxes

BOX, SIDE, LEFT, TOP, FLIP = range(5)  # what a draw is for
SOURCE, TARGET = 101, 102  # both may have the same ids


@dataclass(frozen=True)
class CropConfig:
    size: int = 256
    """Side of the crops in pixels; a multiple of 4."""
    delta: int = 64
    """The side that is cut out of a picture is `size` give or take this many pixels, and is then brought to `size`."""
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 4:
            raise ValueError(f"--crop.size must be a multiple of 4 from 32, got {self.size}")
        if not 0 <= self.delta < self.size:
            raise ValueError(f"--crop.delta must be from 0 to below --crop.size {self.size}, got {self.delta}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"--crop.flip-probability must be in 0..1, got {self.flip_probability}")


class Crops(NamedTuple):
    """images in -1..1; masks are labels of filled boxes, 0 the background, -1 not known."""

    source_B3SS: Tensor
    target_B3SS: Tensor
    source_mask_BSS: Tensor
    target_mask_BSS: Tensor
    present_B: Tensor  # 1; 0 where a last batch has no picture for this rank: what it shows counts for nothing
    keys_B: Tensor  # on the device: the step's other draws start here
    ids_B: Tensor  # of the source, on the host

    def part(self, index: int, num: int) -> "Crops":
        """One of `num` equal parts of the batch."""
        size = len(self.ids_B) // num
        return Crops(*(value[index * size : (index + 1) * size] for value in self))

    def wait(self) -> "Crops":
        """They are queued on the caller's own stream: nothing to wait for."""
        return self


def draw(batch: Batch, rows_B: np.ndarray, purpose: int, what: int) -> np.ndarray:
    """Numbers in [0, 1), a function of seed, epoch, id, purpose, what; a row that stands in for padding draws anew."""
    place_B = np.arange(len(rows_B)) * (rows_B != np.arange(len(rows_B)))
    words_B = hash64(batch.seed, batch.epoch, batch.ids_B.numpy()[rows_B], purpose, what, place_B)
    return ((words_B >> np.uint64(40)) * 2.0**-24).astype(np.float32)


def crop(batch: Batch, config: CropConfig, purpose: int) -> tuple[Tensor, Tensor]:
    """(images_B3SS in -1..1, masks_BSS) of a batch on its own device."""
    device = batch.images_BHW3.device
    valid = np.flatnonzero(batch.ids_B.numpy() >= 0)
    # A row of padding shows another crop of a picture of the batch.
    rows_B = np.where(batch.ids_B.numpy() >= 0, np.arange(len(batch.ids_B)), np.resize(valid, len(batch.ids_B)))
    sizes_B2 = batch.sizes_B2.numpy()[rows_B].astype(np.float32)
    draws = (draw(batch, rows_B, purpose, what) for what in (SIDE, BOX, LEFT, TOP, FLIP))
    host_BX = np.column_stack((sizes_B2, *draws))
    values_BX = torch.from_numpy(host_BX.astype(np.float32)).to(device, non_blocking=True)
    height_B, width_B, drawn_B, box_B, left_B, top_B, flip_B = values_BX.unbind(1)
    rows = torch.from_numpy(rows_B).to(device, non_blocking=True)
    boxes_BG4, labels_BG = batch.boxes_BG4[rows], batch.labels_BG[rows]

    # The n-th of the picture's boxes, n drawn. Ignored ones are around a group, or all of an unlabelled picture.
    given_BG = (labels_BG > 0) & ~batch.ignore_BG[rows]
    num_B = given_BG.sum(1)
    wanted_B = (box_B * num_B).long().clamp(max=given_BG.shape[1] - 1)
    slot_B = ((given_BG.cumsum(1) - 1 == wanted_B[:, None]) & given_BG).int().argmax(1)
    chosen_B4 = boxes_BG4[torch.arange(len(slot_B), device=device), slot_B]
    whole_B4 = torch.stack((torch.zeros_like(width_B), torch.zeros_like(width_B), width_B, height_B), dim=1)
    longer_B = (chosen_B4[:, 2:] - chosen_B4[:, :2]).amax(1) * (num_B > 0)
    chosen_B4 = torch.where((num_B > 0)[:, None], chosen_B4, whole_B4)
    least_B, most_B = (longer_B.clamp(min=config.size + change) for change in (-config.delta, config.delta))
    side_B1 = torch.minimum(least_B + drawn_B * (most_B - least_B), torch.minimum(height_B, width_B))

    def start(low_B: Tensor, high_B: Tensor, limit_B: Tensor, drawn_B: Tensor) -> Tensor:
        """Where the crop begins: between the places at which it just holds one end of the box or the other, inside the
        picture."""
        ends = torch.stack((high_B - side_B1, low_B)).clamp(min=0)
        first_B, last_B = torch.minimum(ends, limit_B - side_B1).sort(dim=0).values
        return first_B + drawn_B * (last_B - first_B)

    x_B = start(chosen_B4[:, 0], chosen_B4[:, 2], width_B, left_B)
    y_B = start(chosen_B4[:, 1], chosen_B4[:, 3], height_B, top_B)
    flipped_B = flip_B < config.flip_probability

    canvas = batch.images_BHW3.shape[1:3]
    step_S = (torch.arange(config.size, device=device) + 0.5) / config.size
    across_BS = torch.where(flipped_B[:, None], 1 - step_S, step_S) * side_B1[:, None] + x_B[:, None]
    down_BS = step_S * side_B1[:, None] + y_B[:, None]
    # Pixel i's centre is i + 0.5; grid_sample wants -1 and 1 at the borders. Staying half a pixel inside the picture
    # keeps what is beside it in the canvas out.
    across_BS = torch.minimum(across_BS.clamp(min=0.5), width_B[:, None] - 0.5) * 2 / canvas[1] - 1
    down_BS = torch.minimum(down_BS.clamp(min=0.5), height_B[:, None] - 0.5) * 2 / canvas[0] - 1
    shape = (len(rows_B), config.size, config.size)
    grid_BSS2 = torch.stack((across_BS[:, None].expand(shape), down_BS[:, :, None].expand(shape)), dim=-1)
    images_B3HW = batch.images_BHW3[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
    images_B3SS = F.grid_sample(images_B3HW, grid_BSS2, mode="bilinear", padding_mode="border", align_corners=False)

    scale_B1 = (config.size / side_B1)[:, None]
    x1_BG, x2_BG = ((boxes_BG4[..., corner] - x_B[:, None]) * scale_B1 for corner in (0, 2))
    y1_BG, y2_BG = ((boxes_BG4[..., corner] - y_B[:, None]) * scale_B1 for corner in (1, 3))
    left_BG = torch.where(flipped_B[:, None], config.size - x2_BG, x1_BG)
    right_BG = torch.where(flipped_B[:, None], config.size - x1_BG, x2_BG)
    placed_BG4 = torch.stack((left_BG, y1_BG, right_BG, y2_BG), dim=-1)
    return images_B3SS, fill_boxes(placed_BG4, labels_BG, batch.ignore_BG[rows], config.size)


class CropMaker:
    """Crops of a batch of either domain."""

    def __init__(self, config: CropConfig, device: torch.device):
        self.config, self.device = config, device

    def start(self, pair: tuple[Batch, Batch], draw: int) -> Crops:
        source, target = pair
        # All that is random follows from the image and the step; rows that only fill up count for nothing.
        keys = [int(rng.image_key(source.seed, draw, max(0, number))) for number in source.ids_B.tolist()]
        keys_B = torch.from_numpy(np.array(keys, np.uint64).view(np.int64)).to(self.device, non_blocking=True)
        source_B3SS, source_mask_BSS = crop(source, self.config, SOURCE)
        target_B3SS, target_mask_BSS = crop(target, self.config, TARGET)
        present = all(bool((batch.ids_B >= 0).any()) for batch in pair)
        present_B = torch.full((len(keys),), float(present)).to(self.device, non_blocking=True)
        return Crops(source_B3SS, target_B3SS, source_mask_BSS, target_mask_BSS, present_B, keys_B, source.ids_B)
