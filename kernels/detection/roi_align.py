"""RoIAlign over a pyramid: each region from its own level, channels-last in and out.

torchvision.ops.roi_align works on one level at a time. It needs either nonzero() to pick the regions of
a level, or every region on every level. It copies its maps out of channels-last, and loops over channels with a stride.
Here a region reads its own map once, and the inner loop runs over neighbouring channels. Same samples, same weights.

One operator, `fairweather::roi_align_levels`: Numba on the CPU, whose crops are float32, and Triton on a GPU
(`roi_align_triton.py`), whose crops have the maps' precision. Legend: B images, C channels, H W map, N regions, S crop
side.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.jit import compiled_exactly


@torch.library.custom_op("fairweather::roi_align_levels", mutates_args=(), device_types="cpu")
def roi_align_levels(
    features: list[Tensor],
    boxes_N4: Tensor,
    image_N: Tensor,
    level_N: Tensor,
    scales: list[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool = False,
) -> Tensor:
    """Crops (N, C, S, S), channels-last; region n is cut from features[level_N[n]][image_N[n]], scale = map / view.

    sampling_ratio 0: ceil(bin) samples a side. aligned: regions are moved by half a pixel, and may be thinner than one.
    """
    num_channels = features[0].shape[1]
    crops_NSSC = torch.empty((boxes_N4.shape[0], output_size, output_size, num_channels))
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        _crop(
            _channels_last(feature),
            boxes_N4.detach().float().contiguous().numpy(),
            image_N.contiguous().numpy(),
            level_N.contiguous().numpy(),
            level,
            np.float32(scale),
            sampling_ratio,
            aligned,
            crops_NSSC.numpy(),
        )
    return crops_NSSC.permute(0, 3, 1, 2)


@roi_align_levels.register_fake
def _(features, boxes_N4, image_N, level_N, scales, output_size, sampling_ratio, aligned=False):
    shape = (boxes_N4.shape[0], output_size, output_size, features[0].shape[1])
    dtype = torch.float32 if features[0].device.type == "cpu" else features[0].dtype
    return features[0].new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


def _on_gpu() -> Any:
    try:
        from kernels.detection import roi_align_triton
    except ImportError as error:
        raise ValueError(
            f"roi_align: on a GPU it needs the package triton, which PyTorch's builds for CUDA bring along: {error}"
        ) from None
    return roi_align_triton


@roi_align_levels.register_kernel("cuda")
def _(features, boxes_N4, image_N, level_N, scales, output_size, sampling_ratio, aligned=False):
    return _on_gpu().crop_levels(features, boxes_N4, image_N, level_N, scales, output_size, sampling_ratio, aligned)


@torch.library.custom_op("fairweather::roi_align_levels_backward", mutates_args=(), device_types="cpu")
def roi_align_levels_backward(
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
    """Gradients of the maps; sizes holds the height and width of each in turn."""
    grad_NSSC = grad_NCSS.detach().permute(0, 2, 3, 1).contiguous().numpy()
    grads = []
    for level, scale in enumerate(scales):
        grad_BHWC = torch.zeros((num_images, sizes[2 * level], sizes[2 * level + 1], grad_NCSS.shape[1]))
        _spread(
            grad_NSSC,
            boxes_N4.detach().float().contiguous().numpy(),
            image_N.contiguous().numpy(),
            level_N.contiguous().numpy(),
            level,
            np.float32(scale),
            sampling_ratio,
            aligned,
            grad_BHWC.numpy(),
        )
        grads.append(grad_BHWC.permute(0, 3, 1, 2))
    return grads


@roi_align_levels_backward.register_fake
def _(grad_NCSS, boxes_N4, image_N, level_N, scales, sizes, num_images, sampling_ratio, aligned):
    return [
        grad_NCSS.new_empty((num_images, sizes[2 * level], sizes[2 * level + 1], grad_NCSS.shape[1])).permute(
            0, 3, 1, 2
        )
        for level in range(len(scales))
    ]


@roi_align_levels_backward.register_kernel("cuda")
def _(grad_NCSS, boxes_N4, image_N, level_N, scales, sizes, num_images, sampling_ratio, aligned):
    return _on_gpu().spread_levels(
        grad_NCSS, boxes_N4, image_N, level_N, scales, sizes, num_images, sampling_ratio, aligned
    )


def _remember(ctx, inputs, output):
    features, boxes_N4, image_N, level_N, scales, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes_N4, image_N, level_N)
    ctx.scales, ctx.sampling_ratio, ctx.aligned = scales, sampling_ratio, aligned
    ctx.num_images = features[0].shape[0]
    ctx.sizes = [side for feature in features for side in feature.shape[-2:]]
    ctx.dtypes = [feature.dtype for feature in features]


def _backward(ctx, grad_NCSS):
    grads = roi_align_levels_backward(
        grad_NCSS, *ctx.saved_tensors, ctx.scales, ctx.sizes, ctx.num_images, ctx.sampling_ratio, ctx.aligned
    )
    return [grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True)], *(None,) * 7


roi_align_levels.register_autograd(_backward, setup_context=_remember)


def _channels_last(feature_BCHW: Tensor) -> np.ndarray:
    return feature_BCHW.detach().float().permute(0, 2, 3, 1).contiguous().numpy()


@compiled_exactly
def _taps(position, size):
    """Bilinear taps (low, high, weight of low, weight of high) of a sample; no weight beyond one pixel outside."""
    if position < np.float32(-1) or position > np.float32(size):
        return 0, 0, np.float32(0), np.float32(0)
    position = max(position, np.float32(0))
    low = int(position)
    if low >= size - 1:
        return size - 1, size - 1, np.float32(1), np.float32(0)
    high_weight = position - np.float32(low)
    return low, low + 1, np.float32(1) - high_weight, high_weight


@compiled_exactly
def _grid(box, scale, output_size, samples, aligned):
    """Left, top, size of a bin in map pixels, samples across and along it; unaligned regions are a pixel wide and high
    at least.
    """
    offset = np.float32(0.5) if aligned else np.float32(0)
    left, top = box[0] * scale - offset, box[1] * scale - offset
    width, height = box[2] * scale - offset - left, box[3] * scale - offset - top
    if not aligned:
        width, height = max(width, np.float32(1)), max(height, np.float32(1))
    bin_width, bin_height = width / np.float32(output_size), height / np.float32(output_size)
    across, along = samples, samples
    if samples == 0:
        across, along = max(int(np.ceil(bin_width)), 0), max(int(np.ceil(bin_height)), 0)
    return left, top, bin_width, bin_height, across, along


@compiled_exactly
def _crop(map_BHWC, boxes_N4, image_N, level_N, level, scale, samples, aligned, crops_NSSC):
    _, height, width, num_channels = map_BHWC.shape
    size = crops_NSSC.shape[1]
    for region in range(boxes_N4.shape[0]):
        if level_N[region] != level:
            continue
        pixels = map_BHWC[image_N[region]]
        left, top, bin_width, bin_height, across, along = _grid(boxes_N4[region], scale, size, samples, aligned)
        share = np.float32(1) / np.float32(max(across * along, 1))
        for row in range(size):
            for column in range(size):
                crop_C = crops_NSSC[region, row, column]
                crop_C[:] = np.float32(0)
                for i in range(along):
                    y = top + np.float32(row) * bin_height + (np.float32(i) + np.float32(0.5)) * bin_height / along
                    y0, y1, wy0, wy1 = _taps(np.float32(y), height)
                    for j in range(across):
                        x = (
                            left
                            + np.float32(column) * bin_width
                            + (np.float32(j) + np.float32(0.5)) * bin_width / across
                        )
                        x0, x1, wx0, wx1 = _taps(np.float32(x), width)
                        w00, w01, w10, w11 = wy0 * wx0 * share, wy0 * wx1 * share, wy1 * wx0 * share, wy1 * wx1 * share
                        a, b, c, d = pixels[y0, x0], pixels[y0, x1], pixels[y1, x0], pixels[y1, x1]
                        for channel in range(num_channels):
                            crop_C[channel] += w00 * a[channel] + w01 * b[channel] + w10 * c[channel] + w11 * d[channel]


@compiled_exactly
def _spread(grad_NSSC, boxes_N4, image_N, level_N, level, scale, samples, aligned, grad_BHWC):
    _, height, width, num_channels = grad_BHWC.shape
    size = grad_NSSC.shape[1]
    for region in range(boxes_N4.shape[0]):
        if level_N[region] != level:
            continue
        pixels = grad_BHWC[image_N[region]]
        left, top, bin_width, bin_height, across, along = _grid(boxes_N4[region], scale, size, samples, aligned)
        share = np.float32(1) / np.float32(max(across * along, 1))
        for row in range(size):
            for column in range(size):
                grad_C = grad_NSSC[region, row, column]
                for i in range(along):
                    y = top + np.float32(row) * bin_height + (np.float32(i) + np.float32(0.5)) * bin_height / along
                    y0, y1, wy0, wy1 = _taps(np.float32(y), height)
                    for j in range(across):
                        x = (
                            left
                            + np.float32(column) * bin_width
                            + (np.float32(j) + np.float32(0.5)) * bin_width / across
                        )
                        x0, x1, wx0, wx1 = _taps(np.float32(x), width)
                        for y_tap, wy in ((y0, wy0), (y1, wy1)):
                            for x_tap, wx in ((x0, wx0), (x1, wx1)):
                                weight = wy * wx * share
                                if weight != np.float32(0):
                                    pixel_C = pixels[y_tap, x_tap]
                                    for channel in range(num_channels):
                                        pixel_C[channel] += weight * grad_C[channel]
