"""What a network was trained to see, from what our views give: RGB, ImageNet's mean and deviation, zero padding; other
aligned images from 0 to 1.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN, BackboneConfig


def join_inputs(images_B3HW: Tensor, extra: Mapping[str, Tensor], config: BackboneConfig) -> Tensor:
    """One tensor of all that a network looks at: RGB, then its other inputs (B, C, H, W), in its own order."""
    wanted = config.extra_inputs
    if not wanted:
        return images_B3HW
    for name, channels in wanted.items():
        if name not in extra or extra[name].shape[1] != channels:
            got = f"{extra[name].shape[1]} channels of it" if name in extra else f"only {', '.join(extra) or 'rgb'}"
            raise ValueError(f"the detector looks at {name}, {channels} channels; these images have {got}")
    parts = [images_B3HW, *(extra[name].to(images_B3HW.dtype) for name in wanted)]
    return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


def in_float32(values: Sequence[float], device: torch.device) -> Tensor:
    """(C,), without a copy from the host, which a GPU would wait for. In bfloat16 a mean is a third of a level off."""
    return torch.stack([torch.full((), value, device=device, dtype=torch.float32) for value in values])


def convert_pixels(images_BCHW: Tensor, sizes_B2: Tensor, config: BackboneConfig) -> Tensor:
    """(pixel - mean) / deviation, RGB in the configuration's order of channels; the padding stays zero."""
    if config.sees_imagenet:
        return images_BCHW
    flip = [2, 1, 0] if config.pixel_order == "bgr" else [0, 1, 2]
    # (mean, deviation) of each channel after rgb.
    extra = [config.extra_pixels[name] for name, count in config.extra_inputs.items() for _ in range(count)]
    make = partial(in_float32, device=images_BCHW.device)
    mean_C = make([*config.pixel_mean, *(mean for mean, _ in extra)])
    deviation_C = make([*config.pixel_deviation, *(deviation for _, deviation in extra)])
    # A value x stands for x * given deviation + given mean, in levels of 0 to 255.
    given_mean_C = make([*(IMAGENET_MEAN[channel] for channel in flip), *(0.0 for _ in extra)])
    given_deviation_C = make([*(IMAGENET_DEVIATION[channel] for channel in flip), *(255.0 for _ in extra)])
    scale_C, shift_C = given_deviation_C / deviation_C, (given_mean_C - mean_C) / deviation_C
    num_channels = 3 + len(extra)
    if images_BCHW.shape[1] != num_channels:
        raise ValueError(
            f"the detector looks at {', '.join(config.inputs)}, {num_channels} channels; got {images_BCHW.shape[1]}"
        )
    ordered_BCHW = images_BCHW
    if config.pixel_order == "bgr":  # in slices: a list of indices would be copied from the host
        ordered_BCHW = torch.cat([*images_BCHW[:, :3].split(1, dim=1)[::-1], images_BCHW[:, 3:]], dim=1)
    converted_BCHW = ordered_BCHW.float() * scale_C[:, None, None] + shift_C[:, None, None]
    height, width = images_BCHW.shape[-2:]
    rows_BH = torch.arange(height, device=sizes_B2.device) < sizes_B2[:, :1]
    columns_BW = torch.arange(width, device=sizes_B2.device) < sizes_B2[:, 1:]
    inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
    return torch.where(inside_B1HW, converted_BCHW, 0.0).to(images_BCHW.dtype)
