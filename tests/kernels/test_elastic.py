"""Elastic transform against imagecorruptions with the same noise, and the noise against its law."""

import numpy as np
import pytest
from scipy.stats import kstest

from kernels.checks import oracle
from kernels.corruptions import elastic
from kernels.severity import TABLES
from kernels.task import EXTRA


def with_noise(new_task, image: np.ndarray, noise_2HW: np.ndarray, severity: int) -> np.ndarray:
    height, width, _ = image.shape
    task = new_task(image, "elastic_transform", severity)
    task.a[:, :width], task.a[:, width : 2 * width] = noise_2HW
    for stage in elastic.CORRUPTION.cpu_stages[1:]:
        stage(task, 0, height, 0, width)
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_the_reference_given_its_noise(new_task, pictures, assert_faithful, severity):
    for name, picture in pictures.items():
        noise = np.random.default_rng(severity).uniform(-1, 1, (2, *picture.shape[:2]))
        ours = with_noise(new_task, picture, noise, severity)
        expected = oracle.reference("elastic_transform", picture, severity, noise)
        assert_faithful("elastic_transform", ours, expected)
        assert (ours != picture).any() == (name not in ("black", "white", "one colour"))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (3, 300), (300, 3), (199, 7)])
def test_awkward_sizes(new_task, assert_faithful, size):
    """Displacements longer than a side, and gaussians of one tap."""
    random = np.random.default_rng(7)
    image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    noise = random.uniform(-1, 1, (2, *size))
    expected = oracle.reference("elastic_transform", image, 5, noise)
    assert_faithful("elastic_transform", with_noise(new_task, image, noise, 5), expected)


def test_single_pixels_give_the_same_as_whole_rows(new_task, pictures):
    picture = pictures["cat, odd"][:70, :90]
    whole = new_task(picture, "elastic_transform", 4)
    pixels = new_task(picture, "elastic_transform", 4)
    for stage, wide_stage in zip(elastic.CORRUPTION.stages, elastic.CORRUPTION.cpu_stages, strict=True):
        wide_stage(whole, 0, 70, 0, 90)
        for y in range(70):
            for x in range(90):
                stage(pixels, y, y + 1, x, x + 1)
    # Sums in another order: a displacement may differ in its last bits, and a value be truncated differently.
    error = np.abs(pixels.target.astype(int) - whole.target)
    assert error.max() <= 1
    assert (error > 0).mean() < 0.01


def test_an_image_inside_a_larger_canvas_does_not_see_the_canvas(new_task, pictures, monkeypatch):
    picture = pictures["coffee, wide"]
    height, width, _ = picture.shape
    canvas = np.full((height + 31, width + 7, 3), 255, np.uint8)
    canvas[:height, :width] = picture
    small = new_task(picture, "elastic_transform", 5)
    large = new_task(canvas, "elastic_transform", 5, height=height, width=width)
    for stage in elastic.CORRUPTION.cpu_stages:
        stage(small, 0, height, 0, width)
        stage(large, 0, height, 0, width)
    result = large.target.reshape(canvas.shape)
    np.testing.assert_array_equal(result[:height, :width], small.target.reshape(picture.shape))
    assert (result[height:] == 77).all()
    assert (result[:, width:] == 77).all()


def test_noise_is_uniform_and_independent(new_task):
    height, width = 301, 407
    task = new_task(np.zeros((height, width, 3), np.uint8), "elastic_transform", 1)
    elastic.noise(task, 0, height, 0, width)
    field_y, field_x = task.a[:, :width].astype(float), task.a[:, width : 2 * width].astype(float)
    limit = 4 / np.sqrt(height * width)
    for field in (field_y, field_x):
        assert kstest(field.ravel(), "uniform", args=(-1, 2)).pvalue > 1e-3
        assert abs(np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]) < limit
        assert abs(np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1]) < limit
    assert abs(np.corrcoef(field_y.ravel(), field_x.ravel())[0, 1]) < limit


def test_displacements_have_the_reference_deviation(new_task):
    """Where no border is near, the smoothed field's deviation follows from the two gaussians' weights alone."""
    height, width, severity = 400, 600, 3
    task = new_task(np.zeros((height, width, 3), np.uint8), "elastic_transform", severity)
    for stage in elastic.CORRUPTION.cpu_stages[:-1]:
        stage(task, 0, height, 0, width)
    whole_y, whole_x = np.divmod(task.a[:, 2 * width :], elastic.WHOLE)
    moves_y = whole_y - elastic.WHOLE // 2 + task.a[:, :width]
    moves_x = whole_x - elastic.WHOLE // 2 + task.a[:, width : 2 * width]
    energy = 1.0
    for side in (height, width):
        half = np.zeros(elastic.radius_of(side) + 1)
        elastic.fill_half_gaussian(half, elastic.SIGMA * side)
        energy *= half[0] ** 2 + 2 * (half[1:] ** 2).sum()
    scale = elastic.AMPLITUDE * height * TABLES["elastic_transform"][severity - 1]
    expected = scale * np.sqrt(energy / 3)
    for moves in (moves_y, moves_x):
        inner = moves[20:-20, 30:-30]
        assert inner.std() == pytest.approx(expected, rel=0.1)
        assert abs(inner.mean()) < expected / 3


def test_too_large_an_image_is_refused():
    with pytest.raises(ValueError, match="make it smaller"):
        elastic.fill(np.zeros(EXTRA), 1, 100, 5000, 0)
