"""A pyramid's levels beyond those of the backbone, and only the part of a pyramid that is needed."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool


class BackboneWithPyramid(nn.Module):
    """As torchvision's BackboneWithFPN, with its names, for any body that gives maps by name.

    `coarse` makes the levels beyond the body's; without it one is pooled. `fixed_statistics`: the body's batch norms
    never take those of a batch.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: list[int],
        out_channels: int,
        coarse: ExtraFPNBlock | None,
        fixed_statistics: bool,
    ):
        super().__init__()
        self.body, self.fixed_statistics = body, fixed_statistics
        self.fpn = FeaturePyramidNetwork(channels, out_channels, coarse or LastLevelMaxPool())
        self.out_channels = out_channels
        self.train()

    def train(self, mode: bool = True) -> "BackboneWithPyramid":
        super().train(mode)
        if self.fixed_statistics:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(images_B3HW))


class CoarseLevels(ExtraFPNBlock):
    """Two levels by strided convolutions: the first of the backbone's last map (c5) or the pyramid's (p5).

    As torchvision's LastLevelP6P7, with its names, but the ReLU before the second is a choice. mmdetection's RetinaNet,
    ATSS and GFL have none, its FCOS has one.
    """

    def __init__(self, stage_channels: int, channels: int, source: str, relu: bool):
        super().__init__()
        self.source, self.relu = source, relu
        self.p6 = nn.Conv2d(stage_channels if source == "c5" else channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(x[-1] if self.source == "c5" else results[-1])
        p7 = self.p7(F.relu(p6) if self.relu else p6)
        return [*results, p6, p7], [*names, "p6", "p7"]


def pyramid_maps(backbone: BackboneWithPyramid, images_B3HW: Tensor, levels: set[int]) -> dict[int, Tensor]:
    """{level: map} of those levels at least, and no more of the pyramid than they need. The finest costs most."""
    fpn = backbone.fpn
    stages = list(backbone.body(images_B3HW).values())
    last, finest = len(stages) - 1, min(levels)
    inner = fpn.inner_blocks[last](stages[last])
    maps = {}
    if max(levels) >= last:
        maps[last] = fpn.layer_blocks[last](inner)
    if max(levels) > last:
        coarse, _ = fpn.extra_blocks([maps[last]], stages, [""])
        maps |= dict(enumerate(coarse, start=last))
    for level in range(last - 1, finest - 1, -1):
        lateral = fpn.inner_blocks[level](stages[level])
        inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
        if level in levels:
            maps[level] = fpn.layer_blocks[level](inner)
    return maps
