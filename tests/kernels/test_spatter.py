"""Spatter against imagecorruptions with the same noise."""

import cv2
import numpy as np
import pytest

from kernels.checks import oracle
from kernels.corruptions import spatter


def laid_on(new_task, image: np.ndarray, mask_HW: np.ndarray, severity: int) -> np.ndarray:
    pool = np.round(mask_HW * spatter.UNIT).astype(np.uint16)
    task = new_task(image, "spatter", severity, pool.ravel(), mask_step_y=pool.shape[1], mask_step_x=1)
    for stage in spatter.CORRUPTION.stages:
        stage(task, 0, image.shape[0], 0, image.shape[1])
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_the_reference_given_its_noise(new_task, pictures, assert_faithful, severity):
    changed = 0
    for picture in pictures.values():
        normal = np.random.default_rng(severity).standard_normal(picture.shape[:2])
        mask = spatter.spatter_mask(normal, severity)
        if not mask.any():
            continue  # the reference divides zero by zero there; see the next test
        ours = laid_on(new_task, picture, mask, severity)
        assert_faithful("spatter", ours, oracle.reference("spatter", picture, severity, normal))
        changed += (ours != picture).any()
    assert changed >= 3


def test_no_drop_means_no_change(new_task, pictures):
    """The reference makes the image black here (0 / 0); we leave it as it was."""
    picture = pictures["least"]
    mask = spatter.spatter_mask(np.full(picture.shape[:2], -3.0), 1)
    assert not mask.any()
    np.testing.assert_array_equal(laid_on(new_task, picture, mask, 1), picture)


def test_blur_is_skimages():
    from skimage.filters import gaussian

    field = np.random.default_rng(0).standard_normal((60, 41))
    for sigma in (1.0, 2.0, 4.0):
        np.testing.assert_allclose(spatter._blurred(field, sigma), gaussian(field, sigma), atol=1e-12)


def test_water_and_mud_by_hand(new_task):
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0.0, 0.2], [0.4, 0.6]], np.float32)
    water = laid_on(new_task, image, mask, 1)
    assert water[0, 0].tolist() == [100, 100, 100]
    assert np.abs(water[0, 1].astype(int) - [135, 147, 147]).max() <= 1  # 100 + 0.2 * (175, 238, 238)
    assert np.abs(water[1, 1].astype(int) - [205, 242, 242]).max() <= 1
    mud = laid_on(new_task, image, np.array([[0, 0.8], [0.9, 1.0]], np.float32), 4)
    assert mud[0, 0].tolist() == [100, 100, 100]
    assert np.abs(mud[0, 1].astype(int) - [70, 53, 36]).max() <= 1  # 100 * 0.2 + 0.8 * (63, 42, 20)
    assert mud[1, 1].tolist() == [63, 42, 20]


def test_water_saturates_at_white(new_task):
    white = np.full((1, 3, 3), 255, np.uint8)
    assert (laid_on(new_task, white, np.full((1, 3), 0.6, np.float32), 2) == 255).all()


def test_opencv_threads_do_not_change_a_mask():
    normal = np.random.default_rng(3).standard_normal((90, 120))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = spatter.spatter_mask(normal, 2)
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(alone, spatter.spatter_mask(normal, 2))
