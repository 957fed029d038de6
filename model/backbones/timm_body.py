"""Any network of the optional package timm that gives feature maps: `timm:resnet50d.ra2_in1k`."""

from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from model.backbones.frozen_norm import keep_type, normed

PREFIX = "timm:"
PROBE = (96, 160)  # a canvas to try a network on


class TimmStages(nn.Module):
    def __init__(self, layers: nn.Module, return_layers: dict[str, str], channels: list[int]):
        super().__init__()
        self.network = layers
        self.kept = [int(stage) for stage in return_layers]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.network(x)
        return OrderedDict((str(level), maps[stage]) for level, stage in enumerate(self.kept))


def make_network(name: str, **options: Any) -> Any:
    """timm's own network, its maps only. `name` has the prefix."""
    if find_spec("timm") is None:
        raise ValueError(f"{name}: timm is not installed; pip install -c constraints.txt -e '.[timm]'")
    import timm

    short = name.removeprefix(PREFIX)
    if not timm.is_model(short):
        near = ", ".join(PREFIX + found for found in timm.list_models(f"*{short.split('.')[0]}*")[:5])
        raise ValueError(f"{name}: timm has no such network{f'; near: {near}' if near else ''}")
    try:
        return timm.create_model(short, features_only=True, **options)
    except (RuntimeError, AttributeError, ValueError, TypeError, AssertionError, KeyError) as error:
        raise ValueError(f"{name}: timm makes no feature maps of it ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def layers(name: str, frozen: bool) -> nn.Module:
    network = make_network(name)
    if frozen:
        from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d

        class FrozenNormAct2d(FrozenBatchNormAct2d):
            def forward(self, x: Tensor) -> Tensor:
                return self.act(self.drop(normed(x, self)))

        network = keep_type(freeze_batch_norm_2d(network))
        for module in network.modules():
            if type(module) is FrozenBatchNormAct2d:
                module.__class__ = FrozenNormAct2d
    return network


@cache
def describe(name: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...], tuple[str, ...], bool]:
    """(channels, strides, where stages end, where they begin, whether there is a batch norm), tried on a small canvas.

    Nothing is computed: the network is made and run without memory.
    """
    with torch.device("meta"):
        network: Any = make_network(name).eval()
        channels, strides = tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
        try:
            maps = network(torch.zeros(2, 3, *PROBE))
        except Exception as error:
            raise ValueError(
                f"{name}: it takes no canvas of {PROBE[0]} x {PROBE[1]} ({first_line(error)}); choose a network "
                "for any image size"
            ) from None
    for level, width, stride in zip(maps, channels, strides, strict=True):
        wanted = (2, width, *(-(-side // stride) for side in PROBE))
        if tuple(level.shape) != wanted:
            raise ValueError(
                f"{name}: a map of {PROBE[0]} x {PROBE[1]} has shape {tuple(level.shape)}, its description "
                f"says {wanted}; choose a network whose maps are (batch, channels, height, width)"
            )
    children = [child for child, _ in network.named_children()]
    ends = [module.replace(".", "_") for module in network.feature_info.module_name()]
    begins: tuple[str, ...] = ()
    if set(ends) <= set(children):
        begins = (children[0], *(children[children.index(end) + 1] for end in ends[:-1]))
    batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return channels, strides, tuple(str(stage) for stage in range(len(ends))), begins, batch_norm


def imagenet_state(body: TimmStages, name: str) -> dict[str, Tensor]:
    """timm's own weights of that name for a body, from its cache or downloaded by it."""
    try:
        pretrained = make_network(name, pretrained=True)
    except Exception as error:
        raise ValueError(
            f"ImageNet weights of {name}: neither in timm's cache nor downloaded ({first_line(error)}); give "
            "--model.weights a file of them, or none"
        ) from None
    state = pretrained.state_dict()
    return {f"network.{key}": state[key] for key in body.network.state_dict()}


def check_exportable(body: nn.Module, name: str, num_channels: int) -> None:
    """Training compiles a whole step into one graph, and exporting needs one too; a network that breaks it is refused.

    Any of a hundred errors may come out of a foreign network, so all are caught.
    """
    try:
        with torch.no_grad():
            torch.export.export(body, (torch.zeros(2, num_channels, *PROBE),), strict=True)
    except Exception as error:
        raise ValueError(f"{name}: torch cannot make one graph of it ({first_line(error)})") from None
