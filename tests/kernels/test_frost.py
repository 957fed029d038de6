"""Frost against imagecorruptions with the reference's own textures, and the drawn textures against their statistics."""

import os
from importlib.resources import as_file, files

import numpy as np
import pytest

from kernels.checks import oracle
from kernels.corruptions import frost


@pytest.fixture(scope="module")
def textures() -> list[np.ndarray]:
    with as_file(files("imagecorruptions") / "frost") as directory:
        return frost.load_textures(directory)


def laid_on(new_task, image: np.ndarray, texture_HW3: np.ndarray, severity: int) -> np.ndarray:
    pool = np.ascontiguousarray(texture_HW3).astype(np.uint16)
    task = new_task(image, "frost", severity, pool.ravel(), mask_step_y=3 * pool.shape[1], mask_step_x=3)
    for stage in frost.CORRUPTION.stages:
        stage(task, 0, image.shape[0], 0, image.shape[1])
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_the_reference_given_its_textures(new_task, pictures, assert_faithful, textures, severity):
    assert len(textures) == 6
    for index, texture in enumerate(textures):
        for picture in list(pictures.values())[index % 3 :: 3]:
            height, width, _ = picture.shape
            scaled = frost.scaled_texture(texture, height, width)
            expected = oracle.reference("frost", picture, severity, (index, 7, 11))
            assert_faithful("frost", laid_on(new_task, picture, scaled[7:, 11:], severity), expected)


def test_a_texture_smaller_than_the_image_is_enlarged(new_task, assert_faithful, textures):
    image = np.random.default_rng(1).integers(0, 256, (400, 700, 3)).astype(np.uint8)
    expected = oracle.reference("frost", image, 5, (3, 2, 5))
    scaled = frost.scaled_texture(textures[3], 400, 700)
    assert scaled.shape[0] > 400
    assert scaled.shape[1] > 700
    assert_faithful("frost", laid_on(new_task, image, scaled[2:, 5:], 5), expected)


@pytest.mark.parametrize("look", range(6))
def test_drawn_textures_have_the_mean_and_deviation_of_the_references(textures, look):
    drawn = frost.frost_texture(np.random.default_rng(look), 300, 500, look)
    assert drawn.dtype == np.uint8
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), textures[look].mean(axis=(0, 1)), atol=3)
    assert drawn.std(axis=(0, 1)).mean() == pytest.approx(textures[look].std(axis=(0, 1)).mean(), rel=0.15)


def test_drawn_textures_are_seeded_and_differ():
    first = frost.frost_texture(np.random.default_rng(1), 60, 90, 0)
    np.testing.assert_array_equal(first, frost.frost_texture(np.random.default_rng(1), 60, 90, 0))
    assert (first != frost.frost_texture(np.random.default_rng(2), 60, 90, 0)).mean() > 0.5


def test_a_directory_without_pictures_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    with pytest.raises(ValueError, match=r"no \.png or \.jpg"):
        frost.load_textures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        frost.load_textures(tmp_path)
