"""What a network was trained to see, from what our views give: RGB, ImageNet's mean and deviation, zero padding."""

import torch
from torch import Tensor

from model.backbones.config import IMAGENET_DEVIATION, IMAGENET_MEAN, BackboneConfig


def convert_pixels(images_B3HW: Tensor, sizes_B2: Tensor, config: BackboneConfig) -> Tensor:
    """(pixel - mean) / deviation in the configuration's order of channels; the padding stays zero."""
    if config.sees_imagenet:
        return images_B3HW
    flip = [2, 1, 0] if config.pixel_order == "bgr" else [0, 1, 2]
    make = images_B3HW.new_tensor
    mean_C, deviation_C = make(config.pixel_mean), make(config.pixel_deviation)
    given_mean_C, given_deviation_C = make(IMAGENET_MEAN)[flip], make(IMAGENET_DEVIATION)[flip]
    scale_C, shift_C = given_deviation_C / deviation_C, (given_mean_C - mean_C) / deviation_C
    converted_B3HW = images_B3HW[:, flip] * scale_C[:, None, None] + shift_C[:, None, None]
    height, width = images_B3HW.shape[-2:]
    rows_BH = torch.arange(height, device=sizes_B2.device) < sizes_B2[:, :1]
    columns_BW = torch.arange(width, device=sizes_B2.device) < sizes_B2[:, 1:]
    inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
    return torch.where(inside_B1HW, converted_B3HW, 0.0)
