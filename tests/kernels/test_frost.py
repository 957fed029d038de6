"""Frost against imagecorruptions with the reference's own textures, and the drawn textures against their statistics."""

from importlib.resources import as_file, files

import numpy as np
import pytest
from imagecorruptions import corruptions as reference

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
def test_equals_the_reference_given_its_textures(new_task, pictures, assert_faithful, monkeypatch, textures, severity):
    assert len(textures) == 6
    for index, texture in enumerate(textures):
        for picture in list(pictures.values())[index % 3 :: 3]:
            height, width, _ = picture.shape
            scaled = frost.scaled_texture(texture, height, width)
            draws = [index, 7, 11]
            with monkeypatch.context() as patch:
                patch.setattr(np.random, "randint", lambda *_, draws=draws: draws.pop(0))
                expected = np.uint8(reference.frost(picture, severity))
            assert_faithful(laid_on(new_task, picture, scaled[7:, 11:], severity), expected, most=1)


def test_a_texture_smaller_than_the_image_is_enlarged(new_task, assert_faithful, monkeypatch, textures):
    image = np.random.default_rng(1).integers(0, 256, (400, 700, 3)).astype(np.uint8)
    draws = [3, 2, 5]
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *_: draws.pop(0))
        expected = np.uint8(reference.frost(image, 5))
    scaled = frost.scaled_texture(textures[3], 400, 700)
    assert scaled.shape[0] > 400
    assert scaled.shape[1] > 700
    assert_faithful(laid_on(new_task, image, scaled[2:, 5:], 5), expected, most=1)


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
    with pytest.raises(ValueError, match=r"no \.png or \.jpg"):
        frost.load_textures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        frost.load_textures(tmp_path)
