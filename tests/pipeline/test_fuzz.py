"""Mutated files: no crash, no hang, no silently wrong box.

An independent reading of the same mutated bytes (ElementTree, plain JSON, str.split) says which boxes the file holds:
every box we return must be one of them, every one of them must be returned or reported.

    FAIRWEATHER_FUZZ=10000 python -m pytest tests/pipeline/test_fuzz.py     the full count; the default is a share
    FAIRWEATHER_FUZZ_DATA=DIR[:DIR]                                          mutate real datasets (VOC or YOLO) as well
"""

import io
import json
import os
import random
import re
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.files import pixels
from pipeline.files.problems import Problem
from pipeline.loading.loader import open_loader
from pipeline.packed.reader import PackedDataset
from pipeline.sources.read import Source, read_source

COUNT = int(os.environ.get("FAIRWEATHER_FUZZ", "1100"))
REAL = [Path(name) for name in os.environ.get("FAIRWEATHER_FUZZ_DATA", "").split(":") if name]
TARGETS = ("xml", "list", "label", "card", "coco", "bdd", "picture", "dataset.json", "index.parquet", "shard")
NASTY = (
    b"nan",
    b"-1",
    b"1e999",
    b"0",
    b"-0.0",
    b"99999999999999999999",
    b"1.5",
    b"inf",
    b'"3"',
    b"null",
    b"[]",
    b"{}",
    b"\xff",
    b"\0",
    b"../..",
    b"&a;",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three edits: flipped, cut, doubled or inserted bytes; numbers and words replaced by nasty ones."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(result) + 1)
        end = min(len(result), start + rng.choice((1, 1, 2, 8, 64)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(result):
            result[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del result[start:end]
        elif kind == 2:
            result[start:start] = result[start:end]
        elif kind == 3:
            result[start:start] = rng.randbytes(rng.choice((1, 4)))
        elif kind == 4:
            result = result[:start]
        else:  # a whole token
            while end < len(result) and chr(result[end]).isalnum():
                end += 1
            while start > 0 and start < len(result) and chr(result[start - 1]).isalnum():
                start -= 1
            result[start:end] = rng.choice(NASTY)
    return bytes(result)


def check_message(error: ValueError) -> None:
    assert len(str(error)) > 12, f"{error!r} says nothing"


class TooLong(BaseException):
    """Not an Exception, so that no handler of ours can swallow it."""


def within(seconds: float, work: Callable[[], object]) -> object:
    """The result of `work`; a hang is an error."""

    def ring(*_):
        raise TooLong

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def own_stem(problem: Problem) -> str | None:
    """The picture a fault belongs to, where every picture has an annotation file of its own."""
    return Path(problem.file).stem


def check_samples(
    source: Source, truth: dict[str, list[tuple] | None], owner: Callable[[Problem], str | None] = own_stem
) -> None:
    """Against {picture stem: [(class name, x1, y1, x2, y2, ignore), ...] as anyone would read it, None: unreadable}.

    owner: a fault -> the stem of its picture, or None when nobody can know (it may then excuse any).
    """
    faulty = Counter(owner(problem) for problem in source.problems if problem.skips == "box")
    for sample in source.samples:
        h, w = sample.size
        boxes, labels = sample.boxes_N4, sample.labels_N
        assert np.isfinite(boxes).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= (w, h)).all()
        assert len(boxes) == len(labels) == len(sample.ignore_N)
        expected = truth.get(sample.path.stem)
        if expected is None:
            continue
        wanted = [(name, ignore, np.clip(np.array(box), 0, (w, h, w, h))) for name, *box, ignore in expected]
        for box, label, ignore in zip(boxes, labels, sample.ignore_N.tolist(), strict=True):
            name = source.classes[label - 1]
            near = [
                i
                for i, (*other, ref) in enumerate(wanted)
                if other == [name, ignore] and np.abs(ref - box).max() < 1e-3 * max(h, w)
            ]
            assert near, f"{sample.path.name}: {name} {box} {ignore} is not in the file, which has {wanted}"
            del wanted[near[0]]
        excused = faulty[sample.path.stem] + faulty[None]
        assert len(wanted) <= excused, f"{sample.path.name}: {wanted} were lost without a word"


def truth_of_xml(path: Path) -> list[tuple] | None:
    try:
        root = ElementTree.fromstring(path.read_bytes())
        return [
            (
                node.findtext("name", "").strip(),
                *(float(node.find("bndbox").findtext(tag)) - shift for tag, shift in CORNERS),
                node.findtext("difficult", "").strip() == "1",
            )
            for node in root.findall("object")
        ]
    except Exception:
        return None


CORNERS = (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0))


def truth_of_label(path: Path, names: list[str], size: tuple[int, int]) -> list[tuple] | None:
    h, w = size
    try:
        rows = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        found = []
        for row in rows:
            values = [float(word) for word in row[1:]]
            if len(values) == 4:
                cx, cy, bw, bh = values
                box = (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
            else:
                box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
            found.append((names[int(row[0])], box[0] * w, box[1] * h, box[2] * w, box[3] * h, False))
        return found
    except Exception:
        return None


def truth_of_coco(path: Path) -> dict[str, list[tuple] | None]:
    try:
        data = json.loads(path.read_bytes())
        names = {row["id"]: row["name"].strip() for row in data["categories"]}
        found = {str(row["file_name"]).removesuffix(".jpg"): row["id"] for row in data["images"]}
        result: dict[str, list[tuple] | None] = {}
        for stem, number in found.items():
            rows = [row for row in data["annotations"] if row["image_id"] == number]
            result[stem] = [
                (
                    names[row["category_id"]],
                    *row["bbox"][:2],
                    row["bbox"][0] + row["bbox"][2],
                    row["bbox"][1] + row["bbox"][3],
                    bool(row.get("iscrowd", 0) or row.get("ignore", 0)),
                )
                for row in rows
            ]
        return result
    except Exception:
        return {}


def truth_of_bdd(path: Path) -> dict[str, list[tuple] | None]:
    try:
        return {
            frame["name"].removesuffix(".jpg"): [
                (
                    label["category"].strip(),
                    *(float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2")),
                    bool(label.get("attributes", {}).get("crowd")),
                )
                for label in frame["labels"]
            ]
            for frame in json.loads(path.read_bytes())
        }
    except Exception:
        return {}


def owner_in_coco(path: Path, problem: Problem) -> str | None:
    try:
        data = json.loads(path.read_bytes())
        row = data["annotations"][int(re.match(r"annotations\[(\d+)\]", problem.where)[1])]
        (name,) = (image["file_name"] for image in data["images"] if image["id"] == row["image_id"])
        return Path(name).stem
    except Exception:
        return None


def owner_in_bdd(path: Path, problem: Problem) -> str | None:
    try:
        return Path(json.loads(path.read_bytes())[int(re.match(r"\[(\d+)\]", problem.where)[1])]["name"]).stem
    except Exception:
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Two images in each format, and the VOC ones packed."""
    from importlib import util

    spec = util.spec_from_file_location("packing_conftest", Path(__file__).with_name("conftest.py"))
    tools = util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    folder = tmp_path_factory.mktemp("fuzz")
    objects = [("car", 2, 3, 20, 21), ("bus", "4.5", 5, 30, 20, 1), ("car", 1, 1, 30, 20)]
    voc = tools.write_voc(folder / "voc", {"a": ((20, 30), objects), "b": ((40, 25), objects[:1])})
    yolo = folder / "yolo"
    (yolo / "train/labels").mkdir(parents=True)
    for stem, lines in (("a", "0 0.5 0.5 0.25 0.75\n1 0.1 0.2 0.3 0.4 0.5 0.6\n"), ("b", "1 0.5 0.5 1 1\n")):
        tools.save(yolo / f"train/images/{stem}.jpg", tools.draw(20, 30))
        (yolo / f"train/labels/{stem}.txt").write_text(lines)
    (yolo / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['car', 'bus']\n")
    rows = [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4.5], "iscrowd": 0},
        {"id": 2, "image_id": 6, "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [10, 10.25, 8, 5], "iscrowd": 0},
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 30} for n in (5, 6)]
    data = {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "bus"}]}
    for n in (5, 6):
        tools.save(folder / f"coco/images/{n}.jpg", tools.draw(20, 30, n))
        tools.save(folder / f"bdd/images/{n}.jpg", tools.draw(20, 30, n))
    (folder / "coco/annotations").mkdir()
    (folder / "coco/annotations/instances_train.json").write_text(json.dumps(data))
    box = {"x1": 1.5, "y1": 2.25, "x2": 10, "y2": 12}
    labels = [
        {"category": "car", "box2d": box, "attributes": {"crowd": True}},
        {"category": "bus", "box2d": {**box, "x2": 20.5}},
    ]
    (folder / "bdd/labels").mkdir()
    frames = [
        {"name": "5.jpg", "attributes": {"weather": "clear"}, "labels": labels},
        {"name": "6.jpg", "labels": labels[:1]},
    ]
    (folder / "bdd/labels/train.json").write_text(json.dumps(frames))
    packed = tools.write_packed(folder, 9)
    return {"voc": voc, "yolo": yolo, "coco": folder / "coco", "bdd": folder / "bdd", "packed": packed}


def read(root: Path, format: str, **options) -> Source | None:
    """None when the whole dataset was refused with a message."""
    try:
        return read_source(root, format, quiet=True, **options)
    except ValueError as error:
        check_message(error)
        return None


def try_annotations(world: dict[str, Path], target: str) -> None:
    options = {"classes": ("bus", "car")}
    owner: Callable[[Problem], str | None] = own_stem
    if target in ("xml", "list"):
        source = read(world["voc"], "voc", **options)
        truth = {stem: truth_of_xml(world["voc"] / f"Annotations/{stem}.xml") for stem in "ab"}
    elif target in ("label", "card"):
        source = read(world["yolo"], "yolo")
        truth = {}
        if source is not None and set(source.classes) == {"car", "bus"}:
            names = list(source.classes)
            truth = {stem: truth_of_label(world["yolo"] / f"train/labels/{stem}.txt", names, (20, 30)) for stem in "ab"}
    elif target == "coco":
        source = read(world["coco"], "coco")
        path = world["coco"] / "annotations/instances_train.json"
        truth, owner = truth_of_coco(path), partial(owner_in_coco, path)
    else:
        source = read(world["bdd"], "bdd", **options)
        path = world["bdd"] / "labels/train.json"
        truth, owner = truth_of_bdd(path), partial(owner_in_bdd, path)
    if source is not None:
        check_samples(source, truth, owner)


def try_packed(path: Path, names: tuple, reference: list[tuple], records: list[bytes]) -> None:
    """Whatever was changed: refused with a message, or the very same data."""
    try:
        with PackedDataset(path) as dataset:
            assert (dataset.classes, dataset.canvases) == names
            for i in range(len(dataset)):
                assert bytes(dataset.jpeg(i)) == records[i]
                for got, expected in zip(dataset.target(i), reference[i], strict=True):
                    np.testing.assert_array_equal(got, expected)
            with open_loader(dataset, 4, shuffle=False, threads=1) as loader:
                for _ in loader:
                    pass
    except ValueError as error:
        check_message(error)


FILES = {
    "xml": ("voc", "Annotations/a.xml"),
    "list": ("voc", "ImageSets/Main/train.txt"),
    "label": ("yolo", "train/labels/a.txt"),
    "card": ("yolo", "data.yaml"),
    "coco": ("coco", "annotations/instances_train.json"),
    "bdd": ("bdd", "labels/train.json"),
    "picture": ("voc", "JPEGImages/a.jpg"),
    "dataset.json": ("packed", "dataset.json"),
    "index.parquet": ("packed", "index.parquet"),
    "shard": ("packed", "shard-000000.tar"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files(world, target):
    kind, name = FILES[target]
    path = world[kind] / name
    whole = path.read_bytes()
    names, reference, records = (), [], []
    if kind == "packed":
        with PackedDataset(world["packed"]) as dataset:
            reference = [tuple(part.copy() for part in dataset.target(i)) for i in range(len(dataset))]
            records = [bytes(dataset.jpeg(i)) for i in range(len(dataset))]
            names = (dataset.classes, dict(dataset.canvases))
    clean = pixels.decode_rgb(whole) if target == "picture" else None

    def attempt() -> None:
        if kind == "packed":
            try_packed(world["packed"], names, reference, records)
        elif clean is not None:
            try:
                image = pixels.decode_rgb(path.read_bytes())
                assert image.dtype == np.uint8
                assert image.ndim == 3
            except ValueError as error:
                check_message(error)
            read(world["voc"], "voc", classes=("bus", "car"))
        else:
            try_annotations(world, target)

    attempt()  # the unchanged file must pass its own oracle
    try:
        for number in range(-(-COUNT // len(TARGETS))):
            seed = f"{target} {number}"
            path.write_bytes(mutate(whole, random.Random(seed)))
            try:
                within(20, attempt)
            except BaseException as error:
                error.add_note(f"mutation {seed!r} of {name}: {path.read_bytes()[:2000]!r}")
                raise
    finally:
        path.write_bytes(whole)


@pytest.mark.ffcv
@pytest.mark.slow
def test_mutated_beton(beton_path, tmp_path):
    """FFCV follows the pointers of the file blindly: nothing of it may reach FFCV unverified."""
    shutil.copytree(beton_path, tmp_path / "packed")
    path = tmp_path / "packed/data.beton"
    whole = path.read_bytes()

    def read_all() -> torch.Tensor:
        with (
            PackedDataset(tmp_path / "packed") as dataset,
            open_loader(dataset, 4, name="ffcv", shuffle=False, threads=2) as loader,
        ):
            return torch.cat([batch.images_BHW3.flatten() for batch in loader])

    clean = read_all()

    def attempt() -> None:
        try:
            assert torch.equal(read_all(), clean)
        except ValueError as error:
            check_message(error)

    for number in range(COUNT // 10):
        rng = random.Random(f"beton {number}")
        data = mutate(whole, rng)
        if number % 2:  # of the right size, so that more than the size has to be looked at
            data = data[: len(whole)] + whole[len(data) :]
        path.write_bytes(data)
        try:
            within(30, attempt)
        except BaseException as error:
            error.add_note(f"mutation {number} of data.beton")
            raise


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP", "PPM", "MPO"])
def test_mutated_pictures_of_other_formats(format):
    colours = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    first, second = map(Image.fromarray, colours)
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    # Frames after the first and EXIF where the format has them: their structures are parsed as well.
    more = {"save_all": True, "append_images": [second]} if format in ("TIFF", "MPO") else {}
    first.save(sink, format, **more, **({"exif": exif} if format in ("PNG", "WEBP") else {}))
    for number in range(COUNT // 10):
        data = mutate(sink.getvalue(), random.Random(f"{format} {number}"))
        for read_picture in (lambda data: pixels.read_size(io.BytesIO(data)), pixels.decode_rgb):
            try:
                within(20, partial(read_picture, data))
            except ValueError as error:
                check_message(error)
            except BaseException as error:
                error.add_note(f"mutation {number}: {data!r}")
                raise


@pytest.mark.skipif(not REAL, reason="FAIRWEATHER_FUZZ_DATA names no real datasets")
@pytest.mark.parametrize("root", REAL, ids=lambda path: path.name)
def test_mutated_real_files(root, tmp_path):
    """Twelve images of a real dataset, one of its annotation files mutated each time."""
    voc = (root / "Annotations").is_dir()
    label_files = sorted((root / "Annotations").glob("*.xml") if voc else root.glob("*/labels/*.txt"))
    label_files = sorted(label_files, key=lambda path: -path.stat().st_size)[:12]
    copies = []
    for file in label_files:
        target = tmp_path / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        folder = root / "JPEGImages" if voc else file.parent.parent / "images"
        picture = next(path for path in folder.glob(f"{file.stem}.*") if path.suffix in pixels.SUFFIXES)
        (tmp_path / picture.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / picture.relative_to(root))
        copies.append((target, pixels.read_size(io.BytesIO(picture.read_bytes()))[0]))
    names: list[str] = []
    if voc:
        (tmp_path / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(path.stem for path, _ in copies))
        names = sorted({name for path, _ in copies for name, *_ in truth_of_xml(path)})
    else:
        shutil.copy(root / "data.yaml", tmp_path / "data.yaml")
    for number in range(COUNT // 10):
        rng = random.Random(f"{root.name} {number}")
        path, size = rng.choice(copies)
        whole = path.read_bytes()
        path.write_bytes(mutate(whole, rng))
        try:
            source = within(
                20,
                lambda: read(tmp_path, "voc" if voc else "yolo", classes=names, splits=("train",) if voc else ("all",)),
            )
            if source is not None:
                truth = truth_of_xml(path) if voc else truth_of_label(path, list(source.classes), size)
                check_samples(source, {path.stem: truth})
        except BaseException as error:
            error.add_note(f"mutation {number} of {path}: {path.read_bytes()[:2000]!r}")
            raise
        finally:
            path.write_bytes(whole)
