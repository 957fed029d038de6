"""Picture files: size without decoding, strict decoding to RGB, resizing to training size, encoding.

JPEG goes through libjpeg-turbo in strict mode (simplejpeg). The reason: OpenCV and Pillow pass cut or corrupt JPEG data
silently as grey blocks. Everything else goes through Pillow.
"""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.files.parse import MAX_IMAGE_BYTES, read_bytes

MAX_PIXELS = 100_000_000
MAX_SCANS = 100  # of a progressive JPEG, ten or so in practice; thousands decode for minutes out of a few kilobytes
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
BITS = 258  # TIFF's tag: of each channel
WITHOUT_RANGE = "has more than 8 bits a channel, and nothing says which values become 0 and 255"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

# EXIF orientation -> what to do with the stored pixels to display them (EXIF 2.32, tag 0x0112).
ROTATIONS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, k=-1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image, k=1),
}


def _open(file: BinaryIO) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=FORMATS)
            # MPO is a camera's JPEG with a second view behind it.
            several = image.format != "MPO" and getattr(image, "n_frames", 1) != 1
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"is not a picture of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's parsers raise all sorts on damaged headers
        raise ValueError(f"has a damaged header ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"is {image.width}x{image.height}, more than {MAX_PIXELS // 10**6} megapixels")
    if several:
        raise ValueError("holds more than one picture; expected one")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block says nothing about the orientation; viewers ignore it too
        return 1


def read_size(file: BinaryIO) -> tuple[tuple[int, int], tuple[int, int]]:
    """((h, w) as displayed after EXIF rotation, (h, w) as stored), from the header alone."""
    image = _open(file)
    first = (image.height, image.width)
    second = first[::-1] if _orientation(image) in (5, 6, 7, 8) else first
    return (first, second) if image.format == "TIFF" else (second, first)  # Pillow turns TIFF itself, its size too


class Kind(NamedTuple):
    size: tuple[int, int]  # (h, w) as displayed after EXIF rotation
    channels: int  # 1 or 3
    wide: bool  # more than 8 bits a channel


def read_kind(file: BinaryIO) -> Kind:
    """From the header alone."""
    kind = _kind(_open(file), file)
    file.seek(0)
    return Kind(read_size(file)[0], *kind)


def _kind(image: Image.Image, file: BinaryIO) -> tuple[int, bool]:
    """(channels, whether they have more than 8 bits)."""
    wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if not wide:  # Pillow keeps the upper 8 bits of colours
        if image.format == "PNG":
            file.seek(24)
            wide = file.read(1) == b"\x10"
        elif image.format == "PPM":
            wide = is_wide_pnm(file)
        elif isinstance(image, TiffImageFile) and max(image.tag_v2.get(BITS, (8,))) > 8:
            raise ValueError("is a TIFF in colours with more than 8 bits a channel; save it as PNG")
    return 1 if (wide and image.mode[0] in "IF") or image.mode in ("1", "L", "LA") else 3, wide


def is_wide_pnm(file: BinaryIO) -> bool:
    """By its largest value, the fourth word of the header."""
    file.seek(0)
    words = re.sub(rb"#[^\n]*", b"", file.read(100_000)).split(maxsplit=4)
    if words[0] not in (b"P2", b"P3", b"P5", b"P6"):
        return False
    if len(words) < 4 or not words[3].isdigit():
        raise ValueError("has a damaged header")
    return int(words[3]) > 255


def read_rgb(path: Path) -> np.ndarray:
    """`decode_rgb` of a regular file of bounded size."""
    return decode_rgb(read_bytes(path, MAX_IMAGE_BYTES))


def read_extra(path: Path, limits: tuple[float, float] | None) -> np.ndarray:
    """uint8 (h, w, 1) or (h, w, 3) of a file beside a picture. Cut or damaged data is a ValueError.

    limits (low, high): round(255 (value - low) / (high - low)), clipped; without, values are of 0 to 255 as they are.
    """
    data = read_bytes(path, MAX_IMAGE_BYTES)
    image = _open(io.BytesIO(data))
    orientation = _orientation(image)
    channels, wide = _kind(image, io.BytesIO(data))
    if wide and limits is None:
        raise ValueError(WITHOUT_RANGE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_jpeg = image.format in ("JPEG", "MPO")
            if is_jpeg:
                check_scans(data)
            if is_jpeg and image.mode in ("RGB", "L"):
                values = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=True)
            elif wide and (image.mode[0] not in "IF" or (image.format == "PPM" and image.mode != "F")):
                # Pillow would make other values of it.
                image.load()  # refuses what is cut or damaged, as OpenCV does not
                flags = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
                flags |= cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
                values = cv2.imdecode(np.frombuffer(data + b"\n", np.uint8), flags)  # numbers in text need an end
                if values is None:
                    raise ValueError("its pixels are damaged")
            else:
                values = np.asarray(image if wide else image.convert("L" if channels == 1 else "RGB"))
    except Exception as error:
        raise ValueError(f"cannot be decoded ({error})") from None
    if limits is not None:
        low, high = limits
        scaled = np.nan_to_num((values.astype(np.float64) - low) * (255 / (high - low)), posinf=255)
        values = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    if orientation in ROTATIONS and image.format != "TIFF":
        values = ROTATIONS[orientation](values)
    return np.ascontiguousarray(values.reshape(*values.shape[:2], channels))


def decode_rgb(data: bytes) -> np.ndarray:
    """uint8 RGB (h, w, 3), EXIF rotation applied. Cut or damaged data is a ValueError, never a grey block.

    Grey is repeated, CMYK converted, 16-bit grey divided by 257, palettes looked up, transparency ignored.
    """
    image = _open(io.BytesIO(data))
    orientation = _orientation(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rgb = _decode(image, data)
    except Exception as error:  # ValueError of libjpeg; Pillow: OSError when cut, SyntaxError, struct.error ...
        raise ValueError(f"cannot be decoded ({error})") from None
    if orientation in ROTATIONS and image.format != "TIFF":  # which Pillow has turned already
        rgb = ROTATIONS[orientation](rgb)
    return np.ascontiguousarray(rgb)


def check_scans(data: bytes) -> None:
    """Of a JPEG."""
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, more than the {MAX_SCANS} allowed here")


def _decode(image: Image.Image, data: bytes) -> np.ndarray:
    if image.format in ("JPEG", "MPO"):
        check_scans(data)
        if image.mode in ("RGB", "L"):
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint16)
        return np.repeat(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise ValueError(f"has {image.mode} pixels (32 bits a channel), whose range is unknown; convert it to 8 bits")
    indexed = image.mode == "P" and "transparency" in image.info
    return np.asarray((image.convert("RGBA") if indexed else image).convert("RGB"))


def training_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(h, w) after scaling by min(short_side / min(h, w), long_side / max(h, w)), at least one pixel a side."""
    scale = min(short_side / min(size), long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased: each target pixel is the mean of the area it covers; bilinear where the picture grows."""
    if image.shape[:2] == size:
        return image
    if image.shape[2] > 4:  # OpenCV takes no more when it shrinks
        parts = (np.ascontiguousarray(image[..., start : start + 4]) for start in range(0, image.shape[2], 4))
        return np.concatenate([resize(part, size) for part in parts], axis=2)
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(*size, image.shape[2])  # OpenCV leaves a single channel out


def encode(image: np.ndarray, quality: int, chroma: str, raw: bool) -> bytes:
    """JPEG, or with `raw` a binary PPM (grey: PGM): a short header and the pixels as they are."""
    grey = image.shape[2] == 1
    if raw:
        return b"P%d\n%d %d\n255\n" % (5 if grey else 6, image.shape[1], image.shape[0]) + image.tobytes()
    if grey:
        return simplejpeg.encode_jpeg(image, quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(image, quality, "RGB", chroma.replace(":", ""))


BEFORE_FRAME = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # segments of a JPEG: tables, comments


def is_sequential(data: memoryview) -> bool:
    """Whether a JPEG's frame is sequential, as `encode` writes it: then all scans together cost what their bytes do."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] not in BEFORE_FRAME:
            return data[place + 1] in (0xC0, 0xC1)
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return False


def decode_packed(data: memoryview, channels: int = 3, size: Sequence[int] | None = None) -> np.ndarray:
    """uint8 (h, w, channels) of a record written by `encode`; size: the (h, w) that its header must say."""
    start, is_jpeg = 0, bytes(data[:2]) == b"\xff\xd8"
    if is_jpeg:
        h, w = simplejpeg.decode_jpeg_header(data)[:2]
    else:
        header = bytes(data[:32]).split(b"\n", 3)
        if header[0] != (b"P5" if channels == 1 else b"P6") or len(header) < 4:
            raise ValueError("is neither JPEG nor PPM")
        w, h = (int(number) for number in header[1].split())
        start = len(b"\n".join(header[:3])) + 1
    if size is not None and (h, w) != tuple(size):
        raise ValueError(f"is {h}x{w} where the index says another size; pack again")
    if h * w > MAX_PIXELS:
        raise ValueError(f"is {w}x{h}, more than {MAX_PIXELS // 10**6} megapixels")
    if not is_jpeg:
        return np.frombuffer(data, np.uint8, offset=start).reshape(h, w, channels)
    if not is_sequential(data):
        check_scans(bytes(data))
    return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=True)
