"""`resnet`: the plain generator of CycleGAN and CUT, whose output is a tanh of its last layer."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from model.translation.trunk import Trunk, doubling, normalise, reflect


class ResnetGenerator(nn.Module):
    def __init__(self, width: int, num_blocks: int):
        super().__init__()
        self.trunk = Trunk(width, num_blocks, separable=False)
        self.deconv1, self.deconv2 = doubling(4 * width), doubling(2 * width)
        self.deconv3 = nn.Conv2d(width, 3, 7)

    def forward(self, images_B3HW: Tensor, kept: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """(translated images_B3HW, the trunk's maps after the blocks `kept`); both sides are multiples of 4."""
        *maps, features = self.trunk(images_B3HW, kept)
        features = F.relu(normalise(self.deconv1(features)))
        features = F.relu(normalise(self.deconv2(features)))
        return self.deconv3(reflect(features, 3)).tanh(), maps
