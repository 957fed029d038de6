"""A generator on whole pictures, one at a time: so a picture's result depends on no other."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.translation.attention import AttentionGenerator
from model.translation.build import Generator

MULTIPLE, LEAST = 4, 16  # the generator halves twice and reflects borders of 3 pixels


def padded(images_B3HW: Tensor) -> Tensor:
    """The last row and column repeated until both sides suit the generator."""
    height, width = images_B3HW.shape[-2:]
    tall, wide = (max(LEAST, -(-side // MULTIPLE) * MULTIPLE) for side in (height, width))
    return F.pad(images_B3HW, (0, wide - width, 0, tall - height), mode="replicate")


@torch.no_grad()
def translate(generator: Generator, picture_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the translated picture, uint8; kept_HW, 0..1: how much of the input stands in it, by its mask).

    The plain generator has no masks: its kept_HW is one minus the mean change.
    """
    device = next(generator.parameters()).device
    height, width = picture_HW3.shape[:2]
    # Not from_numpy: a decoded picture may be read-only.
    images_B3HW = torch.tensor(picture_HW3, device=device).permute(2, 0, 1)[None].float() / 127.5 - 1
    images_B3HW = padded(images_B3HW)
    if isinstance(generator, AttentionGenerator):
        output, _, masks_BMHW = generator.mix(images_B3HW, generator.trunk(images_B3HW)[-1])
        kept_HW = masks_BMHW[0, -1]
    else:
        output = generator(images_B3HW)[0]
        kept_HW = 1 - (output - images_B3HW).abs().mean(1)[0] / 2
    bytes_HW3 = ((output[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return bytes_HW3[:height, :width].cpu().numpy(), kept_HW[:height, :width].float().cpu().numpy()
