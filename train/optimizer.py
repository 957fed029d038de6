"""SGD or AdamW, the learning rate over a run, and the moving average of the weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.config import GroupRule, OptimizerConfig

WARMUP_START = 0.001  # fraction of the rate at step 0
MILESTONES = (8 / 12, 11 / 12)  # of the usual 1x schedule, epochs 8 and 11 of 12


def scaled_rate(config: OptimizerConfig, batch_size: int) -> float:
    """Linear scaling (Goyal et al., arXiv 1706.02677): rate * batch / base batch."""
    return config.learning_rate * batch_size / config.base_batch_size


def rate_factor(config: OptimizerConfig, step: int, total: int) -> float:
    """What the scaled rate is multiplied by at a step: linear warm-up times the schedule."""
    warmup = min(1.0, WARMUP_START + (1 - WARMUP_START) * step / max(config.warmup_steps, 1))
    if config.warmup_steps == 0:
        warmup = 1.0
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / total))
    if config.schedule == "linear":
        assert config.milestones is not None  # OptimizerConfig asks for it
        (start,) = config.milestones
        return warmup * min(1.0, (total - step) / max(total - round(start * total), 1))
    # A milestone at 8/12 of 24 steps is step 16 although 8/12 is not exact in binary.
    milestones = MILESTONES if config.milestones is None else config.milestones
    return warmup * 0.1 ** sum(step >= round(milestone * total) for milestone in milestones)


class Optimizer:
    """torch's fused SGD or AdamW with a switch on the device: a step that is not finite changes nothing at all."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        config: OptimizerConfig,
        kinds: Mapping[str, frozenset[str]] | None = None,
    ):
        """kinds: which of "norm", "bias" and "new" each parameter is (see `kinds_of`)."""
        self.parameters = parameters
        groups, self.factors = group(parameters, config, kinds or {})
        if config.name == "sgd":
            self.inner: torch.optim.Optimizer = torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=True)
        else:
            self.inner = torch.optim.AdamW(groups, lr=0.0, betas=(config.momentum, 0.999), fused=True)
        # Zero buffers from the start: torch's SGD would leave them uninitialised when the first step is skipped.
        for parameter in parameters.values():
            state = self.inner.state[parameter]
            if config.name == "sgd":
                state["momentum_buffer"] = torch.zeros_like(parameter)
            else:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)

    def step(self, rate: float, skip: Tensor) -> None:
        """`skip` is a float32 scalar on the device: 1 leaves weights and buffers as they are."""
        for settings, factor in zip(self.inner.param_groups, self.factors, strict=True):
            settings["lr"] = rate * factor
        self.inner.found_inf = skip  # type: ignore[attr-defined]
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """{"momentum_buffer.<parameter>": tensor, ...}"""
        return {
            f"{buffer}.{name}": value
            for name, parameter in self.parameters.items()
            for buffer, value in self.inner.state[parameter].items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.state().items():
            buffer.copy_(state[name])


def kinds_of(student: nn.Module, methods: Mapping[str, nn.Module]) -> dict[str, frozenset[str]]:
    """For each parameter of a run, by its name in the checkpoint, which rules it falls under.

    norm: the scale and shift of a normalisation. bias: any other bias. new: everything outside `backbone.body`, which
    starts from a random draw although the backbone is pretrained.
    """
    kinds = {}
    for prefix, module in (("", student), *((f"method.{name}.", method) for name, method in methods.items())):
        for owner_name, owner in module.named_modules():
            for name, _ in owner.named_parameters(recurse=False):
                full = f"{owner_name}.{name}" if owner_name else name
                norm = "norm" in type(owner).__name__.lower()
                rules = {"norm"} if norm else {"bias"} & {name}
                if prefix or not full.startswith("backbone.body."):
                    rules = rules | {"new"}
                kinds[prefix + full] = frozenset(rules)
    return kinds


def group(
    parameters: dict[str, nn.Parameter], config: OptimizerConfig, kinds: Mapping[str, frozenset[str]]
) -> tuple[list[dict[str, Any]], list[float]]:
    """torch's parameter groups, one for each weight decay and rate factor, and the groups' rate factors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay, factor = config.weight_decay, 1.0
        for kind in sorted(kinds.get(name, ())):
            rule: GroupRule = getattr(config, kind)
            decay, factor = decay * rule.decay, factor * rule.rate
        groups.setdefault((decay, factor), []).append(parameter)
    return [{"params": values, "weight_decay": decay} for (decay, _), values in groups.items()], [f for _, f in groups]


def clip_gradient(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradient to the largest norm where it exceeds it; returns its norm before. Never waits for a GPU."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if largest > 0:
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


class Ema:
    """Moving average of the trained weights: average = decay * average + (1 - decay) * weight.

    rises: the decay goes up to its value as (1 + step) / (10 + step), so that the start is forgotten.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float, rises: bool = True):
        self.decay, self.rises = decay, rises
        self.weights = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int, skip: Tensor) -> None:
        """`skip` is a float32 scalar on the device: 1 leaves the average as it is (weights are finite)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.rises else self.decay
        averages = list(self.weights.values())
        # Not lerp: its weight would be read on the host.
        steps = torch._foreach_sub([parameters[name] for name in self.weights], averages)
        torch._foreach_mul_(steps, (1 - decay) * (1 - skip))
        torch._foreach_add_(averages, steps)

    @torch.no_grad()
    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange the network's weights and the average; called again, it exchanges them back."""
        for name, average in self.weights.items():
            held = average.clone()
            average.copy_(parameters[name])
            parameters[name].copy_(held)
