"""high_pass_filter and phase_scaling on plain waves, whose spectrum is known."""

import numpy as np
import pytest

import kernels
from kernels.checks import oracle


def wave(height, width, rows, columns, phase=0.0):
    """100 and a wave of amplitude 50, with so many periods along either axis."""
    y, x = np.mgrid[:height, :width]
    return 100 + 50 * np.cos(2 * np.pi * (rows * y / height + columns * x / width) + phase)


def as_image(values):
    """Rounded to levels, the same in every channel."""
    return np.repeat(np.round(values).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 0), (3, 4), (-3, 4)])
@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_waves_at_the_radius_pass_and_shorter_ones_do_not(rows, columns, level):
    """Height 130: radii 1, 2, 3, 5, 6. At (3, 4) the distance is exactly 5, so the fourth leaves the wave there."""
    radius = (1, 2, 3, 5, 6)[level - 1]
    got = kernels.corrupt(as_image(wave(130, 77, rows, columns)), level, "high_pass_filter")
    passes = np.hypot(rows, columns) >= radius
    expected = np.abs(wave(130, 77, rows, columns) - 100) if passes else np.zeros((130, 77))
    assert np.abs(got - expected[..., None]).max() <= 1.5


def test_an_image_too_low_for_a_radius_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (99, 20, 3)).astype(np.uint8)
    np.testing.assert_array_equal(kernels.corrupt(image, 1, "high_pass_filter"), image)
    assert (kernels.corrupt(image[:50], 2, "high_pass_filter") != image[:50]).any()


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("phase", [0.0, 1.0, -2.5])
def test_a_waves_phase_is_scaled(level, phase):
    image = as_image(wave(60, 90, 3, 5, phase))
    expected = wave(60, 90, 3, 5, phase * (1 - 0.1 * level))
    # Rounding to levels adds faint waves of its own, whose phases are scaled too.
    assert np.abs(kernels.corrupt(image, level, "phase_scaling") - expected[..., None]).mean() < 1.5


def test_what_leaves_the_range_is_clipped_and_wraps_only_in_the_original(pictures):
    image = pictures["coffee, wide"]
    exact = oracle.spectral("phase_scaling", image, 5)
    assert exact.max() > 300
    assert exact.min() < -10
    got = kernels.corrupt(image, 5, "phase_scaling")
    assert (got[exact > 256] == 255).all()
    assert (got[exact < -1] == 0).all()
