"""Mutated files of the layouts that other tools write: no crash, no hang, no silently wrong box (see test_fuzz.py)."""

import importlib.util
import json
import random
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pipeline.sources.options import ReadOptions
from pipeline.sources.read import Source, read_source


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"layouts_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz, tools = load("test_fuzz"), load("conftest")
SIZE = (20, 30)
KITTI = "bus 0.00 0 -1.57 10.5 2 20.25 12 1.5 1.6 3.9 1 2 3 0.1\nDontCare -1 -1 -10 0 0 5 5 -1 -1 -1 -9 -9 -9 -10\n"
POLYGON = [[2, 3, 10, 3.5, 10, 12]]
ATTRIBUTES = {"weather": "clear", "timeofday": "daytime", "indoor": False}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("layouts")
    for place in (
        "cvat/obj_train_data",
        "kitti/image_2",
        "labelimg/images",
        "coco/images",
        "bdd/images",
        "gaps/images",
    ):
        for stem in "ab":
            tools.save(root / place / f"{stem}.jpg", tools.draw(*SIZE))
    files = {
        "cvat/obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        "cvat/obj.names": "car\nbus\n",
        "cvat/train.txt": f"data/obj_train_data/a.jpg\n{root}/cvat/obj_train_data/b.jpg\n",
        "cvat/obj_train_data/a.txt": "0 0.5 0.5 0.25 0.75\n1 0.5 0.5 1 1\n",
        "gaps/any.yaml": f"path: {root}/gaps\ntrain: images\nnames: {{3: car, 7: bus}}\n",
        "gaps/labels/a.txt": "3 0.5 0.5 0.25 0.75\n7 0.1 0.2 0.3 0.4 0.5 0.6\n",
        "kitti/label_2/a.txt": KITTI,
        "kitti/label_2/b.txt": KITTI,
        "labelimg/annotations/a.xml": tools.voc_xml(SIZE, [("car", 2, 3, 20, 19)], "<weather>clear</weather>"),
        "coco/result.json": json.dumps(
            {
                "images": [{"id": stem, "file_name": f"../up/{stem}.jpg", "attributes": ATTRIBUTES} for stem in "ab"],
                "annotations": [
                    {"id": 1, "image_id": "a", "category_id": 1, "bbox": [], "segmentation": POLYGON, "iscrowd": None},
                    {"id": 1, "image_id": "b", "category_id": 2, "bbox": [1, 2, 3.5, 4]},
                ],
                "categories": [
                    {"id": 0, "name": "all", "supercategory": "none"},
                    {"id": 1, "name": "car", "supercategory": "all"},
                    {"id": 2, "name": "bus", "supercategory": "all"},
                ],
            }
        ),
        "bdd/labels/train.json": json.dumps(
            [
                {
                    "name": f"{stem}.jpg",
                    "attributes": ATTRIBUTES,
                    "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 9, "y2": 8}}],
                }
                for stem in "ab"
            ]
        ),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return SimpleNamespace(root=root, files=files)


def truth_of_kitti(path: Path) -> list[tuple] | None:
    try:
        rows = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        names = {"DontCare": "bus"}  # ignored for every class, and the bus is the only one
        return [(names.get(row[0], row[0]), *map(float, row[4:8]), row[0] in names) for row in rows if len(row) >= 15]
    except Exception:
        return None


def truth_of_numbered(path: Path, names: dict[int, str]) -> list[tuple] | None:
    """Labels whose class numbers have gaps: as lines that number the names from 0."""
    try:
        known = list(names)
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        text = "\n".join(" ".join([str(known.index(int(number))), *rest]) for number, *rest in lines)
        other = path.with_suffix(".renumbered")
        other.write_text(text)
        return fuzz.truth_of_label(other, list(names.values()), SIZE)
    except Exception:
        return None


# What was asked for, and the boxes of the pictures by an independent reading; None where that says nothing.
CASES = {
    "cvat/obj.data": {},
    "cvat/obj.names": {},
    "cvat/train.txt": {},
    "cvat/obj_train_data/a.txt": {},
    "gaps/any.yaml": {"unlabelled": "skip"},
    "gaps/labels/a.txt": {},
    "kitti/label_2/a.txt": {},
    "labelimg/annotations/a.xml": {"where": ("weather=clear",), "domain_name": "{weather}"},
    "coco/result.json": {"where_not": ("weather=foggy,indoor=true",)},
    "bdd/labels/train.json": {"domains": ("daytime_*",)},
}


def truth_of(name: str, path: Path) -> dict[str, list[tuple] | None]:
    if name == "kitti/label_2/a.txt":
        return {"a": truth_of_kitti(path)}
    if name == "labelimg/annotations/a.xml":
        return {"a": fuzz.truth_of_xml(path)}
    if name == "cvat/obj_train_data/a.txt":
        return {"a": fuzz.truth_of_label(path, ["car", "bus"], SIZE)}
    if name == "gaps/labels/a.txt":
        return {"a": truth_of_numbered(path, {3: "car", 7: "bus"})}
    if name == "bdd/labels/train.json":
        return fuzz.truth_of_bdd(path)
    return {}


@pytest.mark.parametrize("name", CASES)
def test_mutated_layouts(layouts, name, capsys):
    path, options = layouts.root / name, ReadOptions(**CASES[name])
    folder = name.partition("/")[0]
    classes = {"cvat": (), "gaps": (), "coco": (), "kitti": ("bus",)}.get(folder, ("car", "bus"))
    owner = partial(fuzz.owner_in_bdd, path) if folder == "bdd" else fuzz.own_stem

    def attempt() -> Source | None:
        source = fuzz.read(layouts.root / folder, "auto", classes=classes, options=options)
        capsys.readouterr().out.encode()  # what is printed can be printed
        if source is not None:
            "".join(map(str, source.problems)).encode()
            assert all(sample.path.resolve().is_relative_to(layouts.root) for sample in source.samples)
            if set(source.classes) == set(classes or ("car", "bus")):
                fuzz.check_samples(source, truth_of(name, path), owner)
        return source

    # Without a class that does not exist, the unchanged file passes and has boxes.
    try:
        first = read_source(layouts.root / folder, classes=classes, options=options, quiet=True)
        assert first.problems == []
        assert sum(len(sample.labels_N) for sample in first.samples) >= 1
        attempt()
        for number in range(-(-fuzz.COUNT // len(CASES))):
            seed = f"{name} {number}"
            path.write_bytes(fuzz.mutate(layouts.files[name].encode(), random.Random(seed)))
            try:
                fuzz.within(20, attempt)
            except BaseException as error:
                error.add_note(f"mutation {seed!r}: {path.read_bytes()[:2000]!r}")
                raise
    finally:
        path.write_text(layouts.files[name])
