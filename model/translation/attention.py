"""`mobile_resnet_attn`: pictures of its own and the input, mixed by attention masks (JoliGEN's generator).

    output = sum of content_i * mask_i over all content pictures + input * the last mask

The masks are a softmax over all of them, at every pixel. So what need not change can be taken from the input as it is.
Layers are named as in JoliGEN, those of the trunk behind `trunk.`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.translation.trunk import Trunk, doubling, normalise, reflect


class AttentionGenerator(nn.Module):
    def __init__(self, width: int, num_blocks: int, num_masks: int):
        super().__init__()
        self.trunk = Trunk(width, num_blocks, separable=True)
        self.num_pictures = num_masks - 1  # the last mask is the input's
        self.deconv1_content, self.deconv1_attention = doubling(4 * width), doubling(4 * width)
        self.deconv2_content, self.deconv2_attention = doubling(2 * width), doubling(2 * width)
        self.deconv3_content = nn.Conv2d(width, 3 * self.num_pictures, 7)
        self.deconv3_attention = nn.Conv2d(width, num_masks, 1)

    def mix(self, images_B3HW: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(output_B3HW, contents_BI3HW in -1..1, masks_BMHW)."""
        content = F.relu(normalise(self.deconv1_content(features)))
        content = F.relu(normalise(self.deconv2_content(content)))
        contents_BI3HW = self.deconv3_content(reflect(content, 3)).tanh().unflatten(1, (self.num_pictures, 3))
        attention = F.relu(normalise(self.deconv1_attention(features)))
        attention = F.relu(normalise(self.deconv2_attention(attention)))
        masks_BMHW = self.deconv3_attention(attention).softmax(dim=1)
        pictures_BM3HW = torch.cat([contents_BI3HW, images_B3HW[:, None]], dim=1)
        return (pictures_BM3HW * masks_BMHW[:, :, None]).sum(1), contents_BI3HW, masks_BMHW

    def forward(self, images_B3HW: Tensor, kept: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """(translated images_B3HW, the trunk's maps after the blocks `kept`); both sides are multiples of 4."""
        *maps, features = self.trunk(images_B3HW, kept)
        return self.mix(images_B3HW, features)[0], maps
