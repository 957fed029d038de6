"""JPEG against Pillow, which calls libjpeg: equal bit for bit."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from kernels.checks import oracle
from kernels.corruptions import jpeg
from kernels.severity import TABLES


def pillow(image: np.ndarray, severity: int) -> np.ndarray:
    return oracle.reference("jpeg_compression", image, severity)


def corrupted(new_task, image: np.ndarray, severity: int, stages=jpeg.CORRUPTION.cpu_stages) -> np.ndarray:
    task = new_task(image, "jpeg_compression", severity)
    for stage in stages:
        stage(task, 0, image.shape[0], 0, image.shape[1])
    return task.target.reshape(image.shape)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_pillow_on_every_picture(new_task, pictures, severity):
    for name, picture in pictures.items():
        np.testing.assert_array_equal(corrupted(new_task, picture, severity), pillow(picture, severity), err_msg=name)


@pytest.mark.parametrize("height", [1, 2, 7, 8, 9, 15, 16, 17, 33])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 15, 16, 17, 257])
def test_equals_pillow_at_every_kind_of_border(new_task, height, width):
    """Padding to blocks and to pairs, chroma of one line, chroma too narrow for smoothing, more than one CPU chunk."""
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    for severity in (1, 5):
        expected = pillow(image, severity)
        np.testing.assert_array_equal(corrupted(new_task, image, severity), expected)
        np.testing.assert_array_equal(corrupted(new_task, image, severity, jpeg.CORRUPTION.stages), expected)


def test_regions_and_single_pixels_give_the_same_as_whole_images(new_task, pictures):
    """The way a GPU calls the stages: one 16 x 16 region, then one pixel at a time."""
    picture = pictures["least"][:31, :29]
    task = new_task(picture, "jpeg_compression", 3)
    for y in range(0, 31, jpeg.BLOCK):
        for x in range(0, 29, jpeg.BLOCK):
            jpeg.blocks(task, y, y + jpeg.BLOCK, x, x + jpeg.BLOCK)
    for y in range(31):
        for x in range(29):
            jpeg.colours(task, y, y + 1, x, x + 1)
    np.testing.assert_array_equal(task.target.reshape(picture.shape), pillow(picture, 3))


def test_an_image_inside_a_larger_canvas_does_not_see_the_canvas(new_task, pictures):
    picture = pictures["coffee, wide"]
    height, width, _ = picture.shape
    canvas = np.full((height + 31, width + 7, 3), 255, np.uint8)
    canvas[:height, :width] = picture
    task = new_task(canvas, "jpeg_compression", 2, height=height, width=width)
    for stage in jpeg.CORRUPTION.cpu_stages:
        stage(task, 0, height, 0, width)
    result = task.target.reshape(canvas.shape)
    np.testing.assert_array_equal(result[:height, :width], pillow(picture, 2))
    assert (result[height:] == 77).all()
    assert (result[:, width:] == 77).all()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_quantisation_tables_are_pillows(severity):
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=TABLES["jpeg_compression"][severity - 1])
    tables = Image.open(buffer).quantization
    ours = jpeg.extra(severity).reshape(2, 8, 8)
    for index in range(2):
        np.testing.assert_array_equal(ours[index].T.ravel(), tables[index])
