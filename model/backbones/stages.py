"""A classifier's layers, run one after the other, and the maps of some of them."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter


class Stages(IntermediateLayerGetter):
    """{layer's name: key of its map}; the layers after the last one are left out."""

    def __init__(self, layers: nn.Module, return_layers: dict[str, str], channels: list[int]):
        super().__init__(layers, return_layers)


class NormedStages(IntermediateLayerGetter):
    """Each map gets a layer norm of its own, as Swin's and ConvNeXt's detectors have it (Liu et al. 2021, 2022)."""

    channels_last = False

    def __init__(self, layers: nn.Module, return_layers: dict[str, str], channels: list[int]):
        super().__init__(layers, return_layers)
        self.output_norms = nn.ModuleList(nn.LayerNorm(width) for width in channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for name, layer in self.items():
            if name == "output_norms":
                continue
            x = layer(x)
            if name in self.return_layers:
                rows_BHWC = x if self.channels_last else x.permute(0, 2, 3, 1)
                maps[self.return_layers[name]] = self.output_norms[len(maps)](rows_BHWC).permute(0, 3, 1, 2)
        return maps


class NormedStagesOfRows(NormedStages):
    """Of layers that work on (B, H, W, C)."""

    channels_last = True
