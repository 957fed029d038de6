import math

import pytest
import torch

from train.record.window import Window


def make_window(size=4):
    return Window(("rpn_class", "total", "gradient_norm"), size, torch.device("cpu"))


def test_means_are_of_the_finite_steps():
    window = make_window()
    for step, value in enumerate((1.0, float("nan"), 3.0)):
        skip = window.record(step, torch.tensor([value, 2 * value, 5.0]), torch.tensor([step, 10 + step]), False)
        assert skip.item() == float(math.isnan(value))
        assert skip.dtype == torch.float32
    reading = window.read(0, 3)
    assert reading.means == [2.0, 4.0, 5.0]
    assert reading.skipped == [(1, ["rpn_class", "total"], [1, 11])]
    assert not reading.stop


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_named(bad):
    window = make_window()
    assert window.record(0, torch.tensor([1.0, 1.0, bad]), torch.tensor([7]), False).item() == 1
    assert window.read(0, 1).skipped == [(0, ["gradient_norm"], [7])]


def test_bad_steps_in_a_row_are_counted_across_readings():
    window = make_window(2)
    bad, good = torch.tensor([float("nan")] * 3), torch.ones(3)
    longest = []
    for step, values in enumerate((good, bad, bad, bad, good, bad)):
        window.record(step, values, torch.tensor([step]), False)
        if step % 2:
            longest.append(window.read(step - 1, step + 1).longest)
    assert longest == [1, 3, 1]


def test_all_steps_bad_gives_no_means():
    window = make_window(1)
    window.record(0, torch.full((3,), float("nan")), torch.tensor([0]), False)
    assert window.read(0, 1).means == []


def test_a_request_to_stop_is_seen():
    window = make_window()
    window.record(0, torch.ones(3), torch.tensor([0]), False)
    assert not window.asks_to_stop(0)
    window.record(1, torch.ones(3), torch.tensor([0]), True)
    assert window.asks_to_stop(1)
    assert window.read(0, 2).stop
