"""What both generators share: a 7x7 convolution, two halvings and residual blocks (Johnson et al., ECCV 2016).

Every norm is an instance norm without scale and shift, so a picture's result depends on no other picture.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def reflect(images: Tensor, margin: int) -> Tensor:
    return F.pad(images, (margin,) * 4, mode="reflect")


def normalise(features: Tensor) -> Tensor:
    """Each channel of each picture to mean 0 and variance 1."""
    return F.instance_norm(features)


class Separable(nn.Module):
    """A 3x3 convolution as one a channel, an instance norm, and one over the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, groups=width), nn.InstanceNorm2d(width), nn.Conv2d(width, width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class Block(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), with reflected borders."""

    def __init__(self, width: int, separable: bool):
        super().__init__()
        self.conv1: nn.Module = Separable(width) if separable else nn.Conv2d(width, width, 3)
        self.conv2: nn.Module = Separable(width) if separable else nn.Conv2d(width, width, 3)

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(normalise(self.conv1(reflect(features, 1))))
        return features + normalise(self.conv2(reflect(inner, 1)))


class Trunk(nn.Module):
    """images_B3HW in -1..1 -> features at a quarter of the size with four times the width."""

    def __init__(self, width: int, num_blocks: int, separable: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.resnet_blocks = nn.ModuleList(Block(4 * width, separable) for _ in range(num_blocks))

    def forward(self, images_B3HW: Tensor, kept: Sequence[int] = (), last: int | None = None) -> list[Tensor]:
        """The maps after the blocks `kept`, then the one after block `last` (none: the last there is)."""
        features = F.relu(normalise(self.conv1(reflect(images_B3HW, 3))))
        features = F.relu(normalise(self.conv2(features)))
        features = F.relu(normalise(self.conv3(features)))
        maps = []
        for index, block in enumerate(self.resnet_blocks[: None if last is None else last + 1]):
            features = block(features)
            if index in kept:
                maps.append(features)
        return [*maps, features]


def doubling(width: int) -> nn.ConvTranspose2d:
    """To twice the size and half the width."""
    return nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)
