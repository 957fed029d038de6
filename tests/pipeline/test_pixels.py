"""pixels.py: every kind of picture file becomes upright 8-bit RGB, or a ValueError that says why."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from pipeline.files import pixels


def encode(image: Image.Image, format: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 31)])
def test_lossless_formats_are_exact(tools, size):
    rgb = tools.draw(*size)
    for format in ("PNG", "BMP", "PPM", "TIFF"):
        np.testing.assert_array_equal(pixels.decode_rgb(encode(Image.fromarray(rgb), format)), rgb)


def test_jpeg_equals_pillow_within_a_rounding(tools):
    data = encode(Image.fromarray(tools.draw(37, 53)), "JPEG", quality=95)
    ours, theirs = pixels.decode_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_grey_palette_transparency_and_sixteen_bits():
    grey = np.array([[0, 128], [255, 7]], np.uint8)
    for format in ("PNG", "JPEG"):
        decoded = pixels.decode_rgb(
            encode(Image.fromarray(grey), format, **({"quality": 100} if format == "JPEG" else {}))
        )
        assert decoded.shape == (2, 2, 3)
        np.testing.assert_allclose(decoded.astype(int), np.repeat(grey[:, :, None], 3, 2), atol=2)
    deep = np.array([[0, 257], [65535, 32768]], np.uint16)
    np.testing.assert_array_equal(
        pixels.decode_rgb(encode(Image.fromarray(deep), "PNG"))[:, :, 1], [[0, 1], [255, 128]]
    )
    rgba = np.array([[[10, 20, 30, 0], [1, 2, 3, 255]]], np.uint8)
    np.testing.assert_array_equal(pixels.decode_rgb(encode(Image.fromarray(rgba), "PNG")), rgba[:, :, :3])
    colours = Image.fromarray(np.array([[[200, 0, 0], [0, 0, 9]]], np.uint8)).quantize(2)
    np.testing.assert_array_equal(pixels.decode_rgb(encode(colours, "PNG")), [[[200, 0, 0], [0, 0, 9]]])
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels.decode_rgb(encode(bits, "PNG"))[0, :, 0], [0, 255])


def test_cmyk_jpeg_is_converted():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    red = pixels.decode_rgb(encode(ink, "JPEG", quality=100)).reshape(-1, 3).mean(0)
    np.testing.assert_allclose(red, (255, 0, 0), atol=4)


def test_float_pictures_are_refused():
    with pytest.raises(ValueError, match="32 bits a channel"):
        pixels.decode_rgb(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_equal_pillows(orientation, format):
    rgb = np.kron(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encode(Image.fromarray(rgb), format, exif=exif, **options.get(format, {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_allclose(pixels.decode_rgb(data).astype(int), upright, atol=3 if format == "JPEG" else 0)
    displayed, stored = pixels.read_size(io.BytesIO(data))
    assert displayed == upright.shape[:2]
    assert stored == (32, 48)


def test_cut_and_damaged_files_are_errors_not_grey_blocks(tools):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    for format in ("JPEG", "PNG", "WEBP", "BMP"):
        data = encode(picture, format)
        for keep in (0, 1, 10, len(data) // 2, len(data) - 40):
            with pytest.raises(ValueError, match=r"picture|header|decoded"):
                pixels.decode_rgb(data[:keep])
    data = encode(picture, "JPEG")
    with pytest.raises(ValueError, match="cannot be decoded"):
        pixels.decode_rgb(data[:-2])  # only the end marker is missing
    with pytest.raises(ValueError, match="cannot be decoded"):
        pixels.decode_rgb(data[: len(data) // 2] + b"\xff\xd9" * 8 + data[len(data) // 2 + 16 :])


def test_bombs_and_animations_are_refused():
    with pytest.raises(ValueError, match="100 megapixels"):
        pixels.read_size(io.BytesIO(encode(Image.new("1", (20000, 6000)), "PNG")))
    with pytest.raises(ValueError, match="more than 100 megapixels"):  # beyond what Pillow itself opens
        pixels.read_size(io.BytesIO(encode(Image.new("1", (20000, 20000)), "PNG")))
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds more than one picture"):
        pixels.read_size(io.BytesIO(data))


def test_a_cameras_second_view_is_left_alone(tools):
    """MPO, as phones and stereo cameras write it: a JPEG with another behind it."""
    first, second = (Image.fromarray(tools.draw(24, 32, seed)) for seed in (0, 1))
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert pixels.read_size(io.BytesIO(data))[0] == (24, 32)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(pixels.decode_rgb(data).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((720, 1280), (562, 1000)),
        ((1280, 720), (1000, 562)),
        ((416, 416), (600, 600)),
        ((1080, 1440), (600, 800)),
        ((1, 5000), (1, 1000)),
    ],
)
def test_training_size_keeps_the_aspect_inside_both_limits(size, expected):
    assert pixels.training_size(size, 600, 1000) == expected


def test_resizing_is_antialiased():
    """Stripes of one pixel become their mean; plain bilinear sampling would keep or alias them."""
    stripes = np.zeros((40, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_allclose(pixels.resize(stripes, (10, 100)), 100, atol=1)
    assert pixels.resize(stripes, (40, 400)) is stripes
    np.testing.assert_array_equal(pixels.resize(np.full((1, 1, 3), 9, np.uint8), (5, 3)), np.full((5, 3, 3), 9))


@pytest.mark.parametrize("channels", [1, 4, 5, 9])
def test_resizing_takes_any_number_of_channels(channels):
    """Several slices under one name; OpenCV shrinks four channels at most."""
    image = np.random.default_rng(0).integers(0, 256, (40, 61, channels), dtype=np.uint8)
    for size in ((20, 31), (80, 90)):
        expected = np.concatenate([pixels.resize(image[..., c : c + 1], size) for c in range(channels)], axis=2)
        np.testing.assert_array_equal(pixels.resize(image, size), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
def test_packed_records(tools, size):
    rgb = tools.draw(*size)
    np.testing.assert_array_equal(pixels.decode_packed(memoryview(pixels.encode(rgb, 90, "4:2:0", raw=True))), rgb)
    data = pixels.encode(rgb, 100, "4:4:4", raw=False)
    assert simplejpeg.decode_jpeg_header(data)[3] == "444"
    assert np.abs(pixels.decode_packed(memoryview(data)).astype(int) - rgb).max() <= 6
    with pytest.raises(ValueError, match="neither JPEG nor PPM"):
        pixels.decode_packed(memoryview(b"GIF89a"))


@pytest.mark.long
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.filterwarnings("error")
def test_pictures_just_below_the_limit_decode(format):
    """99 megapixels: Pillow warns from 89 on, for TIFF when it decodes."""
    size = (9900, 10000)
    data = encode(Image.new("L", size[::-1], 30), format)
    image = pixels.decode_rgb(data)
    assert image.shape == (*size, 3)
    assert image[0, 0].tolist() == image[-1, -1].tolist() == [30, 30, 30]


def many_scans(h: int, w: int, scans: int) -> bytes:
    """A legal progressive JPEG, grey 128, that refines every coefficient bit by bit, each in a scan of a few bytes."""

    def segment(marker: int, data: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + (len(data) + 2).to_bytes(2) + data

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")

    left = blocks = -(-h // 8) * -(-w // 8)
    nothing = ""  # ends of blocks, up to 2 ** 15 - 1 at once: the number of bits, then the bits below the first
    while left:
        run = min(left, 2**15 - 1)
        bits = run.bit_length() - 1
        nothing += f"{bits:04b}" + f"{run:b}"[1:]
        left -= run
    tables = segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0]))
    tables += segment(0xC4, bytes([0x10, 0, 0, 0, 15] + [0] * 12 + [bits << 4 for bits in range(15)]))
    frame = segment(0xC2, bytes([8]) + h.to_bytes(2) + w.to_bytes(2) + bytes([1, 1, 0x11, 0]))
    head = b"\xff\xd8" + segment(0xDB, bytes([0] + [1] * 64)) + frame + tables
    parts = [segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + packed("0" * blocks)]
    for place in range(1, 64):
        for low in range(13, -1, -1):
            high = 0 if low == 13 else low + 1
            parts.append(segment(0xDA, bytes([1, 1, 0, place, place, high << 4 | low])) + packed(nothing))
    return head + b"".join(parts[:scans]) + b"\xff\xd9"


def test_a_picture_of_very_many_scans_is_refused(tmp_path):
    """20 kB that would decode for minutes at the largest size."""
    assert (pixels.decode_rgb(many_scans(100, 333, 100)) == 128).all()
    assert (pixels.decode_rgb(many_scans(3000, 3000, 3)) == 128).all()
    with pytest.raises(ValueError, match="it has 883 scans, more than the 100 allowed here"):
        pixels.decode_rgb(many_scans(9900, 10000, 883))
    path = tmp_path / "many.jpg"
    path.write_bytes(many_scans(9900, 10000, 883))
    with pytest.raises(ValueError, match="it has 883 scans, more than the 100 allowed here"):
        pixels.read_extra(path, None)


def test_a_packed_picture_is_refused_by_its_header():
    """Too large, of another size than the index says, or of very many scans: before anything is decoded."""
    huge = memoryview(many_scans(16000, 16000, 1))
    with pytest.raises(ValueError, match="is 16000x16000, more than 100 megapixels"):
        pixels.decode_packed(huge, 1)
    with pytest.raises(ValueError, match="is 16000x16000 where the index says another size; pack again"):
        pixels.decode_packed(huge, 1, (100, 333))
    with pytest.raises(ValueError, match="it has 883 scans, more than the 100 allowed here"):
        pixels.decode_packed(memoryview(many_scans(9900, 10000, 883)), 1)
    assert (pixels.decode_packed(memoryview(many_scans(100, 333, 100)), 1, (100, 333)) == 128).all()
    with pytest.raises(ValueError, match="is 1x2 where the index says another size"):
        pixels.decode_packed(memoryview(b"P5\n2 1\n255\nab"), 1, (1, 1))


def test_only_a_sequential_frame_is_read_without_counting_scans(tools):
    """What hides a frame behind a marker that this reader does not know is counted, too."""
    plain = pixels.encode(tools.draw(16, 16), 90, "4:2:0", raw=False)
    assert pixels.is_sequential(memoryview(plain))
    assert not pixels.is_sequential(memoryview(many_scans(8, 8, 2)))
    hidden = plain[:2] + b"\xff\x01" + plain[2:]  # TEM, which has no length
    assert not pixels.is_sequential(memoryview(hidden))
    assert not pixels.is_sequential(memoryview(plain[:20]))
