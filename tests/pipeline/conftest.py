"""Small datasets in every format, made of pictures that are drawn here."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset

VOC_OBJECT = (
    "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def draw(h: int, w: int, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture: JPEG decoders differ on noise, hardly on this."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.asarray(small.resize((w, h), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def voc_xml(size: tuple[int, int], objects: Sequence[tuple], extra: str = "") -> str:
    """objects: (name, xmin, ymin, xmax, ymax[, difficult]) as they stand in the file."""
    body = "".join(
        VOC_OBJECT.format(name, f"<difficult>{rest[4]}</difficult>" if len(rest) > 4 else "", *rest[:4])
        for name, *rest in objects
    )
    h, w = size
    return f"<annotation>{extra}<size><width>{w}</width><height>{h}</height><depth>3</depth></size>{body}</annotation>"


@pytest.fixture
def tools() -> SimpleNamespace:
    """The drawing and writing functions of this file, for tests that need a special picture or annotation."""
    return SimpleNamespace(draw=draw, save=save, voc_xml=voc_xml)


def write_voc(root: Path, images: dict, split: str = "train") -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (stem, (size, objects)) in enumerate(images.items()):
        save(root / "JPEGImages" / f"{stem}.jpg", draw(*size, seed))
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(size, objects))
    (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in images))
    return root


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """make_voc({stem: (size, objects)}, split="train", root=...): a plain VOC folder."""

    def make(images: dict, split: str = "train", root: Path | None = None) -> Path:
        return write_voc(root or tmp_path / "voc", images, split)

    return make


@pytest.fixture
def make_yolo(tmp_path: Path) -> Callable[..., Path]:
    """make_yolo({stem: (size, label lines)}, names)."""

    def make(images: dict, names: Sequence[str] = ("car", "bus"), card: str = "") -> Path:
        root = tmp_path / "yolo"
        for seed, (stem, (size, lines)) in enumerate(images.items()):
            save(root / "train/images" / f"{stem}.jpg", draw(*size, seed))
            (root / "train/labels").mkdir(parents=True, exist_ok=True)
            (root / "train/labels" / f"{stem}.txt").write_text("\n".join(lines))
        (root / "data.yaml").write_text(card or f"train: ../train/images\nnc: {len(names)}\nnames: {list(names)}\n")
        return root

    return make


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., Path]:
    """make_coco({id: size}, [annotation, ...]): annotations without id get one; categories 3 car, 7 bus."""

    def make(images: dict, annotations: list[dict], **changes) -> Path:
        root = tmp_path / "coco"
        for number, (h, w) in images.items():
            save(root / "images" / f"{number}.jpg", draw(h, w, number))
        data = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "height": h, "width": w} for n, (h, w) in images.items()],
            "annotations": [{"id": i, "iscrowd": 0, **row} for i, row in enumerate(annotations)],
            "categories": [{"id": 7, "name": "bus"}, {"id": 3, "name": "car"}],
            **changes,
        }
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
        return root

    return make


MIXED_SIZES = [(90, 160), (91, 161), (160, 90), (1, 1), (64, 64), (37, 200), (120, 31)]


def write_packed(
    folder: Path,
    count: int = 23,
    name: str = "packed",
    sizes: Sequence[tuple[int, int]] = tuple(MIXED_SIZES),
    **options,
) -> Path:
    images = {}
    for i in range(count):
        h, w = sizes[i % len(sizes)]
        objects = [("car" if n else "bus", 1, 1, w, h, int(n == 2)) for n in range(i % 4)]
        images[f"image{i:03d}"] = ((h, w), objects)
    root = write_voc(folder / f"{name}-source", images)
    settings = {"classes": ("bus", "car"), "short_side": 60, "long_side": 100, "workers": 1, **options}
    (path,) = pack(PackOptions(root, folder / name, **settings))
    return path


@pytest.fixture
def make_packed(tmp_path: Path) -> Callable[..., PackedDataset]:
    """make_packed(count, **options): a packed dataset of awkward sizes; image i has i % 4 boxes."""

    def make(count: int = 23, **options) -> PackedDataset:
        return PackedDataset(write_packed(tmp_path, count, **options))

    return make


@pytest.fixture(scope="session")
def beton_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One packed dataset with a .beton for all tests that only read it: FFCV compiles for ten seconds a file."""
    pytest.importorskip("ffcv", reason="FFCV is not installed", exc_type=ImportError)
    return write_packed(tmp_path_factory.mktemp("beton"), quality=95, chroma="4:4:4", beton=True)
