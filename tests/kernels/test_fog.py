"""Fog against imagecorruptions with the same random draws."""

import numpy as np
import pytest
from imagecorruptions import corruptions as reference

from kernels.checks import oracle
from kernels.corruptions import fog


def laid_on(new_task, image: np.ndarray, plasma_SS: np.ndarray, severity: int) -> np.ndarray:
    pool = np.round(plasma_SS * fog.UNIT).astype(np.uint16)
    task = new_task(image, "fog", severity, pool.ravel(), mask_step_y=pool.shape[1], mask_step_x=1)
    for stage in fog.CORRUPTION.stages:
        stage(task, 0, image.shape[0], 0, image.shape[1])
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_the_reference_given_its_draws(new_task, pictures, assert_faithful, severity):
    for picture in pictures.values():
        draws = [np.random.default_rng(severity) for _ in range(2)]
        plasma = fog.plasma_map(fog.map_side(*picture.shape[:2]), fog.decay(severity), draws[0].uniform)
        expected = oracle.reference("fog", picture, severity, draws[1].uniform)
        assert_faithful("fog", laid_on(new_task, picture, plasma, severity), expected)


@pytest.mark.parametrize("side", [2, 4, 64, 256])
def test_map_equals_the_references(side):
    ours = fog.plasma_map(side, 1.7, np.random.default_rng(5).uniform)
    random = np.random.default_rng(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "uniform", random.uniform)
        expected = reference.plasma_fractal(side, 1.7)
    np.testing.assert_array_equal(ours, expected)
    assert ours.min() == 0
    assert ours.max() == 1


@pytest.mark.parametrize(
    ("size", "side"), [((1, 1), 4), ((3, 4), 4), ((5, 1), 8), ((256, 256), 256), ((257, 3), 512), ((600, 1000), 1024)]
)
def test_map_side_is_the_next_power_of_two(size, side):
    assert fog.map_side(*size) == side


def test_every_second_point_is_a_map_of_half_the_side():
    """Why a small image may read the large map with a stride: the first steps of both are the same."""
    large, small = (np.random.default_rng(9) for _ in range(2))
    coarse = fog.plasma_map(128, 2.0, large.uniform)[::2, ::2]
    expected = fog.plasma_map(64, 2.0, small.uniform)
    # Equal but for the normalisation, a linear map.
    slope, offset = np.polyfit(expected.ravel(), coarse.ravel(), 1)
    np.testing.assert_allclose(coarse, slope * expected + offset, atol=1e-5)
    assert 0.5 < slope <= 1.0


def test_black_stays_black_and_a_dark_image_keeps_its_maximum(new_task):
    full = np.ones((4, 4))
    assert (laid_on(new_task, np.zeros((2, 3, 3), np.uint8), full, 3) == 0).all()
    # x = 51 = top: (51 + 255 c) * 0.2 / (0.2 + c) = 51
    assert np.abs(laid_on(new_task, np.full((2, 3, 3), 51, np.uint8), full, 3).astype(int) - 51).max() <= 1
