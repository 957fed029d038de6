import math

import pytest
import torch
from torch import nn

from train.config import OptimizerConfig
from train.optimizer import Ema, Optimizer, clip_gradient, rate_factor, scaled_rate


def make_parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2), "b": (5,), "c": ()}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def set_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_rate_scales_with_the_global_batch():
    config = OptimizerConfig(learning_rate=0.02, base_batch_size=16)
    assert scaled_rate(config, 16) == pytest.approx(0.02)
    assert scaled_rate(config, 64) == pytest.approx(0.08)
    assert scaled_rate(config, 4) == pytest.approx(0.005)


def test_step_schedule_by_hand():
    config = OptimizerConfig(warmup_steps=4)
    factors = [rate_factor(config, step, 24) for step in range(24)]
    assert factors[0] == pytest.approx(0.001)
    assert factors[2] == pytest.approx(0.5005)
    assert factors[4:16] == pytest.approx([1.0] * 12)
    assert factors[16:22] == pytest.approx([0.1] * 6)
    assert factors[22:] == pytest.approx([0.01] * 2)


def test_cosine_schedule_by_hand():
    config = OptimizerConfig(warmup_steps=0, schedule="cosine")
    assert [rate_factor(config, step, 4) for step in range(5)] == pytest.approx(
        [1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0]
    )


def test_linear_schedule_by_hand():
    config = OptimizerConfig(warmup_steps=0, schedule="linear", milestones=(2 / 3,))
    assert [rate_factor(config, step, 6) for step in range(7)] == pytest.approx([1, 1, 1, 1, 1, 0.5, 0])


def test_equals_plain_sgd_with_momentum_and_decay():
    config = OptimizerConfig(momentum=0.9, weight_decay=0.01)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = Optimizer(ours, config)
    reference = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.step(0.1 / (step + 1), torch.zeros(()))
        reference.step()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])


def test_equals_plain_adamw():
    config = OptimizerConfig(name="adamw", momentum=0.8, weight_decay=0.05)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = Optimizer(ours, config)
    reference = torch.optim.AdamW(theirs.values(), lr=0.1, betas=(0.8, 0.999), weight_decay=0.05, foreach=False)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.step(0.1 / (step + 1), torch.zeros(()))
        reference.step()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("skipped", [0, 2])
def test_a_skipped_step_changes_nothing_even_the_first(skipped, kind):
    """Weights and buffers after steps 0..3 with one skipped equal those of a run that never had that step."""
    config = OptimizerConfig(name=kind)
    ours, theirs = make_parameters(), make_parameters()
    optimizer, reference = Optimizer(ours, config), Optimizer(theirs, config)
    for step in range(4):
        set_gradients(ours, step)
        if step == skipped:
            ours["a"].grad[0, 0] = float("nan")
            before = {name: value.detach().clone() for name, value in ours.items()}
            optimizer.step(0.1, torch.ones(()))
            assert all(torch.equal(before[name], ours[name]) for name in ours)
            continue
        set_gradients(theirs, step)
        optimizer.step(0.1, torch.zeros(()))
        reference.step(0.1, torch.zeros(()))
    for name in ours:
        assert torch.equal(ours[name], theirs[name])
    for name, buffer in optimizer.state().items():
        assert torch.equal(buffer, reference.state()[name]), name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_buffers_are_saved_and_loaded(kind):
    """A second optimizer that loads the state continues as the first one does."""
    ours, theirs = make_parameters(), make_parameters()
    first, second = (Optimizer(each, OptimizerConfig(name=kind)) for each in (ours, theirs))
    for step in range(3):
        set_gradients(ours, step)
        first.step(0.1, torch.zeros(()))
    with torch.no_grad():
        for name in ours:
            theirs[name].copy_(ours[name])
    second.load({name: value.clone() for name, value in first.state().items()})
    for parameters, optimizer in ((ours, first), (theirs, second)):
        set_gradients(parameters, 9)
        optimizer.step(0.1, torch.zeros(()))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_clipping_by_hand():
    parameters = make_parameters()
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    parameters["b"].grad[:2] = torch.tensor([3.0, 4.0])
    norm = clip_gradient(list(parameters.values()), 1.0)
    assert norm.item() == pytest.approx(5)
    assert parameters["b"].grad[:2].tolist() == pytest.approx([0.6, 0.8], rel=1e-4)
    clip_gradient(list(parameters.values()), 10.0)
    assert parameters["b"].grad[:2].tolist() == pytest.approx([0.6, 0.8], rel=1e-4)
    clip_gradient(list(parameters.values()), 0.0)
    assert parameters["b"].grad[:2].tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


def test_moving_average_by_hand_and_swap():
    parameters = {"w": nn.Parameter(torch.tensor([1.0]))}
    for rises, expected in ((True, 1 + 2 * 0.9), (False, 1 + 2 * 0.5)):  # at step 0 the decay is 1 / 10, or its value
        ema = Ema(parameters, 0.5, rises)
        ema.update({"w": torch.tensor([3.0])}, 0, torch.zeros(()))
        assert ema.weights["w"].item() == pytest.approx(expected)
    ema = Ema(parameters, 0.5)
    with torch.no_grad():
        parameters["w"].fill_(3.0)
    ema.update(parameters, 100, torch.tensor(1.0))
    assert ema.weights["w"].item() == 1.0, "a skipped step leaves the average alone too"
    ema.update(parameters, 100, torch.tensor(0.0))  # (1 + 100) / (10 + 100) is above 0.5
    assert ema.weights["w"].item() == pytest.approx(2.0)
    ema.swap(parameters)
    assert (parameters["w"].item(), ema.weights["w"].item()) == (2.0, 3.0)
    ema.swap(parameters)
    assert (parameters["w"].item(), ema.weights["w"].item()) == (3.0, 2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"milestones": (0.9, 0.5)},
        {"milestones": (0.5,), "schedule": "cosine"},
        {"milestones": (0.5, 0.9), "schedule": "linear"},
        {"ema_decay": 1.0},
        {"clip_norm": -1.0},
    ],
)
def test_senseless_values_are_errors_that_name_the_option(wrong):
    with pytest.raises(ValueError, match="--optimizer." + next(iter(wrong)).replace("_", "-")):
        OptimizerConfig(**wrong)
