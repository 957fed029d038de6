"""RoIAlign over a pyramid on a GPU, in Triton: the same samples and weights as `kernels/detection/roi_align.py`.

Maps, crops and gradients keep the network's precision and lie channels-last. All sums are in float32.

    crop_kernel     a program cuts a row of bins of one region, from that region's own map
    spread_kernel   a program makes the gradient of a tile of one map, from the regions that touch it, in their order

RoIAlign is a product of an operator along y and one along x. A sample at y gives row p the weight max(0, 1 - |y - p|),
with y moved into the map. So a tile asks each region for its weights and adds; nothing is added atomically, and the
same inputs give the same bits.

Legend: B images, C channels, H W map, N regions, S crop side, L levels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_LEVELS = 4
TILE = 8  # rows and columns of a map's gradient that a program of spread_kernel makes
CHUNK = 128  # regions that it looks at together
BLOCK_C = {"crop": 256, "spread": 128}  # channels of a program, at most
NUM_WARPS = {"crop": 1, "spread": 4}


@triton.jit
def grid_of(box, scale, SIZE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr):
    """Left, top, size of a bin in map pixels, samples across and along it. box: its address, or a block of those."""
    offset = 0.5 if ALIGNED else 0.0
    left, top = tl.load(box) * scale - offset, tl.load(box + 1) * scale - offset
    width, height = tl.load(box + 2) * scale - offset - left, tl.load(box + 3) * scale - offset - top
    if not ALIGNED:
        width, height = tl.maximum(width, 1.0), tl.maximum(height, 1.0)
    bin_width, bin_height = width / SIZE, height / SIZE
    if SAMPLES > 0:
        across, along = SAMPLES, SAMPLES
    else:
        across = tl.maximum(tl.ceil(bin_width), 0.0).to(tl.int32)
        along = tl.maximum(tl.ceil(bin_height), 0.0).to(tl.int32)
    return left, top, bin_width, bin_height, across, along


@triton.jit
def place_of(start, bin_size, place, sample, num_samples):
    """Where a sample of a bin lies on the map."""
    return start + place * bin_size + (sample + 0.5) * bin_size / num_samples


@triton.jit
def taps(position, size):
    """Bilinear taps (low, high, weight of low, weight of high) of a sample; no weight beyond one pixel outside."""
    inside = (position >= -1.0) & (position <= size)
    position = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), size - 1.0)
    low = position.to(tl.int32)
    high_weight = position - low
    low_weight = tl.where(inside, 1.0 - high_weight, 0.0)
    return low, tl.minimum(low + 1, size - 1), low_weight, tl.where(inside, high_weight, 0.0)


@triton.jit
def pick(level, zero, one, two, three):
    return tl.where(level < 2, tl.where(level == 0, zero, one), tl.where(level == 2, two, three))


@triton.jit
def sample_of(pixels, channels, kept, y, x, height, width, num_channels):
    """The map at a point, float32 (BLOCK_C,)."""
    y0, y1, above, below = taps(y, height)
    x0, x1, before, after = taps(x, width)
    first, second = pixels + y0 * width * num_channels + channels, pixels + y1 * width * num_channels + channels
    a = tl.load(first + x0 * num_channels, kept, 0.0).to(tl.float32)
    b = tl.load(first + x1 * num_channels, kept, 0.0).to(tl.float32)
    c = tl.load(second + x0 * num_channels, kept, 0.0).to(tl.float32)
    d = tl.load(second + x1 * num_channels, kept, 0.0).to(tl.float32)
    return above * before * a + above * after * b + below * before * c + below * after * d


@triton.jit(do_not_specialize=["h0", "h1", "h2", "h3", "w0", "w1", "w2", "w3"])
def crop_kernel(
    map0, map1, map2, map3, h0, h1, h2, h3, w0, w1, w2, w3, s0, s1, s2, s3,
    boxes_N4, image_N, level_N, crops_NSSC,
    num_channels: tl.constexpr, SIZE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    region, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    kept = channels < num_channels
    level = tl.load(level_N + region)
    height, width = pick(level, h0, h1, h2, h3), pick(level, w0, w1, w2, w3)
    pixels = pick(level, map0, map1, map2, map3) + tl.load(image_N + region) * height * width * num_channels
    left, top, bin_width, bin_height, across, along = grid_of(
        boxes_N4 + 4 * region, pick(level, s0, s1, s2, s3), SIZE, SAMPLES, ALIGNED
    )
    share = 1.0 / tl.maximum(across * along, 1)
    for column in range(SIZE):
        total_C = tl.zeros([BLOCK], tl.float32)
        if SAMPLES > 0:  # unrolled, so that all loads of a bin are under way together
            for i in tl.static_range(SAMPLES):
                for j in tl.static_range(SAMPLES):
                    y, x = place_of(top, bin_height, row, i, along), place_of(left, bin_width, column, j, across)
                    total_C += sample_of(pixels, channels, kept, y, x, height, width, num_channels)
        else:
            for i in range(along):
                for j in range(across):
                    y, x = place_of(top, bin_height, row, i, along), place_of(left, bin_width, column, j, across)
                    total_C += sample_of(pixels, channels, kept, y, x, height, width, num_channels)
        place = (region * SIZE + row) * SIZE + column
        tl.store(crops_NSSC + place * num_channels + channels, total_C * share, kept)


@triton.jit
def reaches(start, bin_size, first, size, SIZE: tl.constexpr, TILE: tl.constexpr):
    """Whether a region may touch the rows (or columns) first .. first + TILE - 1."""
    end = start + SIZE * bin_size
    low = tl.minimum(tl.maximum(tl.minimum(start, end), 0.0), size - 1.0)
    high = tl.minimum(tl.maximum(tl.maximum(start, end), 0.0), size - 1.0)
    return (low < first + TILE) & (high > first - 1)


@triton.jit
def weights_of(start, bin_size, place, num_samples, pixels, size, SAMPLES: tl.constexpr):
    """What each of `pixels` gives to a bin, the sum over its samples along one axis."""
    total = tl.zeros_like(pixels).to(tl.float32)
    if SAMPLES > 0:
        for i in tl.static_range(SAMPLES):
            total += tap_weight(place_of(start, bin_size, place, i, num_samples), pixels, size)
    else:
        for i in range(num_samples):
            total += tap_weight(place_of(start, bin_size, place, i, num_samples), pixels, size)
    return total


@triton.jit
def tap_weight(position, pixels, size):
    inside = (position >= -1.0) & (position <= size)
    position = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), size - 1.0)
    return tl.where(inside, tl.maximum(1.0 - tl.abs(position - pixels), 0.0), 0.0)


@triton.jit(do_not_specialize=["level", "num_levels", "height", "width"])
def spread_kernel(
    grad_NSSC, boxes_N4, order_N, starts_G, scale, level, num_levels, height, width, map_BHWC,
    num_channels: tl.constexpr, SIZE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    num_across = (width + TILE - 1) // TILE
    first_y, first_x = tl.program_id(0) // num_across * TILE, tl.program_id(0) % num_across * TILE
    image = tl.program_id(2)
    rows, columns = first_y + tl.arange(0, TILE), first_x + tl.arange(0, TILE)
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = channels < num_channels
    group = image * num_levels + level
    start, end = tl.load(starts_G + group), tl.load(starts_G + group + 1)
    places = tl.arange(0, CHUNK)
    total_HWC = tl.zeros([TILE, TILE, BLOCK], tl.float32)
    for first in range(start, end, CHUNK):
        exists = first + places < end
        regions = tl.load(order_N + first + places, exists, 0)
        lefts, tops, bin_widths, bin_heights, _, _ = grid_of(boxes_N4 + 4 * regions, scale, SIZE, SAMPLES, ALIGNED)
        touches = exists & reaches(tops, bin_heights, first_y, height, SIZE, TILE)
        touches = touches & reaches(lefts, bin_widths, first_x, width, SIZE, TILE)
        at = tl.min(tl.where(touches, places, CHUNK), 0)
        while at < CHUNK:
            region = tl.load(order_N + first + at)
            left, top, bin_width, bin_height, across, along = grid_of(
                boxes_N4 + 4 * region, scale, SIZE, SAMPLES, ALIGNED
            )
            share = 1.0 / tl.maximum(across * along, 1)
            for row in range(SIZE):
                weight_H = weights_of(top, bin_height, row, along, rows, height, SAMPLES) * share
                if tl.max(weight_H, 0) > 0:
                    for column in range(SIZE):
                        weight_W = weights_of(left, bin_width, column, across, columns, width, SAMPLES)
                        if tl.max(weight_W, 0) > 0:
                            place = (region * SIZE + row) * SIZE + column
                            grad_C = tl.load(grad_NSSC + place * num_channels + channels, kept, 0.0).to(tl.float32)
                            weight_HW = weight_H[:, None] * weight_W[None, :]
                            total_HWC += weight_HW[:, :, None] * grad_C[None, None, :]
            at = tl.min(tl.where(touches & (places > at), places, CHUNK), 0)
    pixel_HW = (image.to(tl.int64) * height + rows[:, None]) * width + columns[None, :]
    inside_HW = (rows[:, None] < height) & (columns[None, :] < width)
    address_HWC = map_BHWC + pixel_HW[:, :, None] * num_channels + channels[None, None, :]
    tl.store(address_HWC, total_HWC, inside_HW[:, :, None] & kept[None, None, :])


def block_of(num_channels: int, kind: str) -> int:
    return min(triton.next_power_of_2(num_channels), BLOCK_C[kind])


def crop_levels(
    features: list[Tensor],
    boxes_N4: Tensor,
    image_N: Tensor,
    level_N: Tensor,
    scales: list[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Crops (N, C, S, S) in the maps' precision, channels-last."""
    if len(features) > MOST_LEVELS:
        raise ValueError(f"roi_align: got {len(features)} maps; the GPU's kernel takes {MOST_LEVELS} at most")
    num_regions, num_channels = len(boxes_N4), features[0].shape[1]
    shape = (num_regions, output_size, output_size, num_channels)
    crops_NSSC = torch.empty(shape, dtype=features[0].dtype, device=boxes_N4.device)
    if num_regions:
        missing = MOST_LEVELS - len(features)
        maps = [feature.detach().contiguous(memory_format=torch.channels_last) for feature in features]
        maps += maps[:1] * missing
        heights, widths = ([each.shape[axis] for each in maps] for axis in (2, 3))
        block = block_of(num_channels, "crop")
        grid = (num_regions, output_size, triton.cdiv(num_channels, block))
        crop_kernel[grid](
            *maps, *heights, *widths, *scales, *scales[:1] * missing,
            boxes_N4.detach().float().contiguous(), image_N.contiguous(), level_N.contiguous(), crops_NSSC,
            num_channels, output_size, sampling_ratio, aligned, block, num_warps=NUM_WARPS["crop"],
        )  # fmt: skip
    return crops_NSSC.permute(0, 3, 1, 2)


def spread_levels(
    grad_NCSS: Tensor,
    boxes_N4: Tensor,
    image_N: Tensor,
    level_N: Tensor,
    scales: list[float],
    sizes: list[int],
    num_images: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """Gradients of the maps in the crops' precision; sizes holds the height and width of each in turn."""
    num_levels, num_channels, output_size = len(scales), grad_NCSS.shape[1], grad_NCSS.shape[2]
    device = grad_NCSS.device
    grad_NSSC = grad_NCSS.detach().permute(0, 2, 3, 1).contiguous()
    boxes_N4 = boxes_N4.detach().float().contiguous()
    # The regions of an image and level stand together, in their order.
    group_N, order_N = (image_N * num_levels + level_N).sort(stable=True)
    groups = torch.arange(num_images * num_levels + 1, device=device)
    starts_G = torch.searchsorted(group_N, groups).to(torch.int32)
    block = block_of(num_channels, "spread")
    grads = []
    for level, scale in enumerate(scales):
        height, width = sizes[2 * level : 2 * level + 2]
        shape = (num_images, height, width, num_channels)
        grad_BHWC = torch.empty(shape, dtype=grad_NCSS.dtype, device=device)
        if grad_BHWC.numel():
            tiles = triton.cdiv(height, TILE) * triton.cdiv(width, TILE)
            spread_kernel[tiles, triton.cdiv(num_channels, block), num_images](
                grad_NSSC, boxes_N4, order_N, starts_G, scale, level, num_levels, height, width, grad_BHWC,
                num_channels, output_size, sampling_ratio, aligned, TILE, CHUNK, block, num_warps=NUM_WARPS["spread"],
            )  # fmt: skip
        grads.append(grad_BHWC.permute(0, 3, 1, 2))
    return grads
