"""Snow against imagecorruptions with the same noise and angle."""

import numpy as np
import pytest

from kernels.checks import oracle
from kernels.corruptions import snow


def laid_on(new_task, image: np.ndarray, layer_HW: np.ndarray, severity: int) -> np.ndarray:
    pool = layer_HW.astype(np.uint16)
    task = new_task(image, "snow", severity, pool.ravel(), mask_step_y=pool.shape[1], mask_step_x=1)
    for stage in snow.CORRUPTION.stages:
        stage(task, 0, image.shape[0], 0, image.shape[1])
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("angle", [-135.0, -90.0, -77.3, -45.0])
def test_equals_the_reference_given_its_noise(new_task, pictures, assert_faithful, severity, angle):
    for picture in pictures.values():
        normal = np.random.default_rng(severity).standard_normal(picture.shape[:2])
        ours = laid_on(new_task, picture, snow.snow_layer(normal, severity, angle), severity)
        assert_faithful("snow", ours, oracle.reference("snow", picture, severity, (normal, angle)))


def test_without_flakes_dark_pixels_turn_white_and_bright_ones_stay(new_task):
    """c x + (1 - c) max(x, 1.5 gray + 127.5) by hand, c = 0.8."""
    image = np.array([[[0, 0, 0], [255, 255, 255], [100, 100, 100]]], np.uint8)
    result = laid_on(new_task, image, np.zeros((1, 3)), 1)
    assert np.abs(result[0, :, 0].astype(int) - [25, 255, 135]).max() <= 1


def test_flakes_come_from_here_and_from_the_turned_point(new_task):
    layer = np.zeros((3, 4))
    layer[0, 1] = 60
    black = np.zeros((3, 4, 3), np.uint8)
    difference = laid_on(new_task, black, layer, 1).astype(int) - laid_on(new_task, black, np.zeros((3, 4)), 1)
    expected = np.zeros((3, 4))
    expected[0, 1] = expected[2, 2] = 60
    np.testing.assert_array_equal(difference[..., 0], expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3)])
def test_tiny_layers_are_made(size):
    for severity in range(1, 6):
        layer = snow.snow_layer(np.zeros(size), severity, -60.0)
        assert layer.shape == size
        assert np.isfinite(layer).all()
