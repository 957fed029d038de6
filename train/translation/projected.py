"""Projected discriminator: heads that judge a frozen pretrained network's features, mixed at random (NeurIPS 2021).

    discriminator: 0.5 (mean relu(1 - D(real)) + mean relu(1 + D(fake)));  generator: -mean D(fake)

Each level's features pass a frozen random convolution (channels). From the coarsest level on, each passes another one
and is added to the next finer level (scales); maps are enlarged to twice their sides before. A head on each level is
all that is trained.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (64, 128, 256, 512)  # of the mixed channels, by level
HALVED = (64, 128, 256, 512)  # of a head on maps: the finest level's sides are 128 for pictures of 256, the coarsest 16


class Mixing(nn.Module):
    """Frozen random mixing of four levels of features: maps (B, C, H, W), or sequences (B, C, length) of one length."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int] = WIDTHS, sequences: bool = False):
        super().__init__()
        conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if sequences else nn.Conv2d
        self.sequences = sequences
        self.out = (widths[0], *widths[:-1])
        self.across_channels = nn.ModuleList(
            conv(before, after, 1) for before, after in zip(channels, widths, strict=True)
        )
        self.across_scales = nn.ModuleList(
            conv(before, after, 1) for before, after in zip(widths, self.out, strict=True)
        )
        # As torch draws them: each level is mostly its own, where a larger draw would add the coarser ones up.
        self.requires_grad_(False)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        mixed: list[Tensor] = []
        for index in reversed(range(len(levels))):
            features = self.across_channels[index](levels[index])
            if mixed:
                features = features + mixed[0]
            if not self.sequences:
                # Twice as large, which is the next finer level's size; that of an odd side is one less.
                size = levels[index - 1].shape[-2:] if index else [2 * side for side in features.shape[-2:]]
                features = F.interpolate(features, size=size, mode="bilinear", align_corners=True)
            mixed.insert(0, self.across_scales[index](features))
        return mixed


def sequence_head(num_values: int) -> nn.Sequential:
    """JoliGEN's head on a transformer's features: 100 scores of all of a level's values."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_values, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100)
    )


def map_head(channels: int, level: int) -> nn.Sequential:
    """The original's on maps: halved until a side is about 8, then a score of every 4x4 places.

    Spectral norms bound how steep a score is, which the generator climbs without end.
    """
    layers: list[nn.Module] = []
    for width in HALVED[level:]:
        halving = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        layers += [spectral_norm(halving), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        channels = width
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 4, bias=False)))


class Projected(nn.Module):
    """images_B3HW in -1..1 -> scores (B, any number)."""

    def __init__(self, body: nn.Module, mixing: Mixing, heads: Sequence[nn.Module]):
        """body: images -> four levels of features; frozen."""
        super().__init__()
        self.body, self.mixing, self.heads = body.eval().requires_grad_(False), mixing, nn.ModuleList(heads)

    def train(self, mode: bool = True) -> "Projected":
        """The body stays as it is: its norms have their statistics."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, images_B3HW: Tensor) -> Tensor:
        levels = self.mixing(self.body(images_B3HW))
        return torch.cat([head(level).flatten(1) for head, level in zip(self.heads, levels, strict=True)], dim=1)

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())

    def deceived(self, fake: Tensor) -> Tensor:
        """The generator's loss."""
        return -fake.mean()
