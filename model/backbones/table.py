"""Every backbone, an entry each: its module, its stages, what of them enters a pyramid. Detectors read nothing else.

A stage ends at the layer whose map is its result, and begins at the first layer that learns together with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torchvision
from torch import nn

from model.backbones import swin, timm_body
from model.backbones.stages import NormedStages, NormedStagesOfRows, Stages

ANCHOR_SIZES = ((32,), (64,), (128,), (256,), (512,))
SMALL_ANCHOR_SIZES = ((16, 24), (32, 48), (64, 96), (128, 192))

NormLayer = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Backbone:
    """A classifier without its head, cut into stages, stem first. All tuples but `returned` have an entry a stage."""

    layers: Callable[[NormLayer, bool], nn.Module]
    """(batch norm of so many channels, whether it is frozen) -> a module whose children are its layers in order."""
    ends: tuple[str, ...]
    begins: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    returned: tuple[int, ...] = (1, 2, 3, 4)
    """Stages in the pyramid of a two-stage detector."""
    norm: str = "batch"
    """"batch": its statistics may be frozen. "layer": it has none."""
    anchor_sizes: tuple[tuple[int, ...], ...] = ANCHOR_SIZES
    rpn_score_threshold: float = 0.0
    bottleneck: bool = False
    """Whether it has bottlenecks whose stride caffe's weights have in the first 1x1."""
    stages: Callable[[nn.Module, dict[str, str], list[int]], nn.Module] = Stages
    """(layers, {layer: key of its map}, channels of the maps) -> a module that gives the maps."""

    def at_strides(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """The last stage of each stride."""
        missing = sorted(set(strides) - set(self.strides))
        if missing:
            raise ValueError(f"its stages have strides {self.strides}; this pyramid needs {strides}")
        return tuple(max(stage for stage, own in enumerate(self.strides) if own == stride) for stride in strides)


def resnet(name: str, width: int) -> Backbone:
    names = ("conv1", "layer1", "layer2", "layer3", "layer4")

    def layers(norm_layer: NormLayer, frozen: bool) -> nn.Module:
        return getattr(torchvision.models, name)(weights=None, norm_layer=norm_layer)

    channels = (64, *(width * 2**stage for stage in range(4)))
    return Backbone(layers, names, names, channels, (2, 4, 8, 16, 32), bottleneck=width == 256)


def mobilenet(name: str, ends: tuple[str, ...], channels: tuple[int, ...], **changes) -> Backbone:
    def layers(norm_layer: NormLayer, frozen: bool) -> nn.Module:
        return getattr(torchvision.models, name)(weights=None, norm_layer=norm_layer).features

    return Backbone(layers, ends, ends, channels, (2, 4, 8, 16, 32, 32), **changes)


def transformer_like(make: Callable[[], nn.Module], stages: type[nn.Module]) -> Backbone:
    """Swin and ConvNeXt: stem, then blocks and what halves the map in turn.

    No stochastic depth: every random number of a step is a function of seed, epoch and image, and its are not.
    """

    def layers(norm_layer: NormLayer, frozen: bool) -> nn.Module:
        network = make()
        for module in network.modules():
            if isinstance(module, torchvision.ops.StochasticDepth):
                module.p = 0.0
        return network

    ends, begins = ("0", "1", "3", "5", "7"), ("0", "1", "2", "4", "6")
    return Backbone(layers, ends, begins, (96, 96, 192, 384, 768), (4, 4, 8, 16, 32), norm="layer", stages=stages)


BACKBONES = {
    "resnet18": resnet("resnet18", 64),
    "resnet34": resnet("resnet34", 64),
    "resnet50": resnet("resnet50", 256),
    "resnet101": resnet("resnet101", 256),
    # V2 has strides 8, 16 and 32. torchvision publishes no detector for it, and its own default there would see no
    # small object.
    "mobilenet_v2": mobilenet(
        "mobilenet_v2",
        ("0", "2", "4", "7", "14", "18"),
        (32, 24, 32, 64, 160, 1280),
        returned=(2, 3, 5),
        anchor_sizes=SMALL_ANCHOR_SIZES,
    ),
    # torchvision's own choice: both maps at stride 32, and proposals that need a score.
    "mobilenet_v3_large": mobilenet(
        "mobilenet_v3_large",
        ("0", "2", "4", "7", "13", "16"),
        (16, 24, 40, 80, 160, 960),
        returned=(4, 5),
        anchor_sizes=((32, 64, 128, 256, 512),) * 3,
        rpn_score_threshold=0.05,
    ),
    "swin_t": transformer_like(lambda: swin.layers("swin_t"), NormedStagesOfRows),
    "swin_s": transformer_like(lambda: swin.layers("swin_s"), NormedStagesOfRows),
    "convnext_tiny": transformer_like(lambda: torchvision.models.convnext_tiny(weights=None).features, NormedStages),
}


@cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights up to the last stage, without counters of batches."""
    entry = BACKBONES[name]
    with torch.device("meta"):
        layers = entry.layers(nn.BatchNorm2d, False)
        body = Stages(layers, {entry.ends[-1]: "0"}, [])
    shapes = {key: tuple(value.shape) for key, value in body.state_dict().items()}
    return {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def recognise_backbone(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Whose weights these are; `shapes` has those of a body, whatever stands beside its layers."""
    fitting = [name for name in BACKBONES if shapes_of(name).items() <= shapes.items()]
    return max(fitting, key=lambda name: len(shapes_of(name)), default=None)  # a ResNet-50 is a part of a ResNet-101


def find_backbone(name: str) -> Backbone:
    """The entry of a name: one of the table, or `timm:` and a network of timm's."""
    if name.startswith(timm_body.PREFIX):
        return describe_timm(name)
    if name not in BACKBONES:
        raise ValueError(f"got {name!r}; allowed: {', '.join(BACKBONES)}, or timm:NAME of the package timm")
    return BACKBONES[name]


@cache
def describe_timm(name: str) -> Backbone:
    """As timm itself says."""
    channels, strides, ends, begins, batch_norm = timm_body.describe(name)
    return Backbone(
        lambda norm_layer, frozen: timm_body.layers(name, frozen),
        ends,
        begins,
        channels,
        strides,
        tuple(stage for stage, stride in enumerate(strides) if 4 <= stride <= 32),
        "batch" if batch_norm else "layer",
        stages=timm_body.TimmStages,
    )
