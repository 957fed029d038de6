"""CMKD alone, on given maps and discriminators: both losses, logits, and the gradients of all that is trained."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from model.api import own
from train.distill.cmkd import POOLS, Cmkd, CmkdConfig, Discriminator
from train.golden.cases import GRADIENT, LOSS, OUTPUT, Case, Check, NotRunnable

# The original's names of a discriminator's layers, and ours. Its four maps have strides 4 to 32.
LAYERS = {"conv1": "first", "conv2": "second", "fc1": "hidden", "fc2": "answer"}
STRIDES = (4, 8, 16, 32)


def read_discriminator(case: Case, level: int) -> Discriminator:
    """With the case's weights. Its linear layer fits the case's canvas, so our pooling changes nothing."""
    stride, (height, width) = STRIDES[level], case[f"teacher_feat.{level}"].shape[-2:]
    pools = POOLS.get(stride, (False, False))
    weights = case.named(f"disc.{level}.")
    middle, channels = weights["conv1.weight"].shape[:2]
    grid = (height >> sum(pools), width >> sum(pools))
    made = Discriminator(channels, middle, weights["fc1.weight"].shape[0], pools, grid)
    state = {f"{LAYERS[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in weights.items()}
    made.load_state_dict(state)
    return made


def make_method(case: Case, loss: Any) -> Cmkd:
    config = case.facts["config"]
    network: Any = SimpleNamespace(
        strides=STRIDES[: len(case.levels("teacher_feat"))], channels=case["teacher_feat.0"].shape[1]
    )
    if loss == "mse":
        return Cmkd(CmkdConfig(weight=2 * config["alpha_mse"], faithful=True), network, network, own)
    options = CmkdConfig(loss=loss, reversal=-config["grl_weight"], dropout=config["dropout_p"], faithful=True)
    method = Cmkd(options, network, network, own)
    method.discriminators = nn.ModuleList(read_discriminator(case, level) for level in range(len(network.strides)))
    return method


def run_cmkd(case: Case) -> Iterator[Check]:
    teacher = case.levels("teacher_feat")
    if len(teacher) > len(STRIDES):
        raise NotRunnable(f"CMKD has at most {len(STRIDES)} maps; the case has {len(teacher)}")

    def maps() -> list[torch.Tensor]:
        return [level.clone().requires_grad_() for level in case.levels("student_feat")]

    if "mse.loss" in case:
        student, method = maps(), make_method(case, "mse")
        inside_BHW = torch.ones(0)  # faithful: the padding counts
        squares = [method.squared(*pair, inside_BHW) for pair in zip(student, teacher, strict=True)]
        loss = method.weights["cmkd"] * torch.stack(squares).mean() / 2
        yield Check("mse.loss", loss, case["mse.loss"], LOSS)
        for level, gradient in enumerate(torch.autograd.grad(loss, student)):
            yield Check("mse.gradient", gradient, case[f"mse.grad.student_feat.{level}"], GRADIENT)
    for way in ("adv_nodropout", "adv_dropout"):
        if f"{way}.loss" in case:
            yield from run_adversarial(case, way, maps(), teacher)


def run_adversarial(case: Case, way: str, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> Iterator[Check]:
    method = make_method(case, "adversarial")
    assert method.discriminators is not None
    kept: Any = case.levels(f"{way}.mask") or [None] * len(teacher)
    losses, logits = method.told_apart(student, teacher, kept, torch.ones(len(teacher[0]), dtype=torch.bool))
    for level, logits_2B1 in enumerate(logits):
        yield Check(f"{way}.logits", logits_2B1, case[f"{way}.logits.{level}"], OUTPUT)
    yield Check(f"{way}.loss", losses, case[f"{way}.loss_per_map"], LOSS)
    yield Check(f"{way}.loss", losses.mean(), case[f"{way}.loss"], LOSS)
    losses.mean().backward()
    for level, (maps, discriminator) in enumerate(zip(student, method.discriminators, strict=True)):
        assert maps.grad is not None
        yield Check(f"{way}.gradient.student", maps.grad, case[f"{way}.grad.student_feat.{level}"], GRADIENT)
        for name, expected in case.named(f"{way}.grad.disc.{level}.").items():
            layer, part = name.split(".")
            gradient = discriminator.get_parameter(f"{LAYERS[layer]}.{part}").grad
            assert gradient is not None
            yield Check(f"{way}.gradient.discriminator", gradient, expected, GRADIENT)
