"""PatchGAN with the least-squares loss: is the neighbourhood of a place real? (Isola et al., CVPR 2017; LSGAN, 2017)

discriminator: 0.5 (mean (D(real) - 1)^2 + mean D(fake)^2);  generator: mean (D(fake) - 1)^2
"""

from torch import Tensor, nn


class PatchGan(nn.Module):
    """images_B3HW -> scores_B1hw; 4x4 convolutions, `num_layers` of stride 2, instance norms without parameters."""

    def __init__(self, width: int, num_layers: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = width
        for index in range(1, num_layers + 1):
            after = width * min(2**index, 8)
            stride = 2 if index < num_layers else 1
            layers += [nn.Conv2d(before, after, 4, stride, padding=1), nn.InstanceNorm2d(after), nn.LeakyReLU(0.2)]
            before = after
        layers.append(nn.Conv2d(before, 1, 4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.model(images_B3HW)

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())

    def deceived(self, fake: Tensor) -> Tensor:
        """The generator's loss."""
        return (fake - 1).square().mean()
