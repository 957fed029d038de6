"""The first convolution of any backbone, which takes the channels of a configuration's inputs in their order.

It is changed in place, so that padding, stride and name stay the network's own.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.backbones.config import RGB, BackboneConfig


def first_convolution(layers: nn.Module, backbone: str) -> tuple[str, nn.Conv2d]:
    """(its name, the layer): the one that takes RGB, before it is widened."""
    found = [(name, each) for name, each in layers.named_modules() if isinstance(each, nn.Conv2d)]
    if not found or found[0][1].groups != 1:
        raise ValueError(f"--model.inputs: {backbone} does not begin with a plain convolution; choose another backbone")
    return found[0]


def take_inputs(layers: nn.Module, config: BackboneConfig) -> None:
    """Give a new network the inputs of its configuration. The first convolution then learns, whatever is frozen."""
    if config.inputs == (RGB,) and config.first_layer != "fresh":
        return
    _, layer = first_convolution(layers, config.backbone)
    if layer.in_channels != 3:
        raise ValueError(
            f"--model.inputs: the first convolution of {config.backbone} takes {layer.in_channels} channels, not RGB; "
            "choose another backbone"
        )
    drawn = layer.weight.detach()
    layer.in_channels = config.num_channels
    layer.weight = nn.Parameter(drawn.new_empty(drawn.shape[0], config.num_channels, *drawn.shape[2:]))
    layer.reset_parameters()
    if config.first_layer != "fresh":
        layer.weight.data.copy_(widen(drawn, {RGB: 3}, config))
    layer.requires_grad_(True)


def widen(given: Tensor, source: Mapping[str, int], config: BackboneConfig) -> Tensor:
    """Filters for a configuration's inputs: those `given` for what both networks see, and new ones for the rest.

    source: the channels of each input of the network that `given` comes from, in order.
    """
    theirs = dict(zip(source, given.split(list(source.values()), dim=1), strict=True))
    new = theirs[RGB].mean(dim=1, keepdim=True) * (config.first_layer == "mean")
    parts = []
    for name, channels in {RGB: 3, **config.extra_inputs}.items():
        known = source.get(name) == channels
        parts.append(theirs[name] if known else new.expand(-1, channels, -1, -1))
    return torch.cat(parts, dim=1)


def with_inputs(
    state: Mapping[str, Tensor], source: Mapping[str, int], layers: nn.Module, prefix: str, config: BackboneConfig
) -> dict[str, Tensor]:
    """Weights of a network of other inputs for one of a configuration's: its first convolution widened, or left out
    where that is to be fresh. source: as `widen` takes it; prefix: of the names of `layers` in the state.
    """
    fresh = config.first_layer == "fresh"
    if not fresh and list(source.items()) == list({RGB: 3, **config.extra_inputs}.items()):
        return dict(state)
    first = prefix + first_convolution(layers, config.backbone)[0]
    if fresh:
        return {name: value for name, value in state.items() if name.rpartition(".")[0] != first}
    given = state.get(f"{first}.weight")
    if given is None or given.ndim != 4 or given.shape[1] != sum(source.values()):
        return dict(state)  # of another network
    return {**state, f"{first}.weight": widen(given, source, config)}
