"""COCO and KITTI as other tools write them, and names that cannot be printed."""

import json

import numpy as np
import pytest

from pipeline.sources.options import ReadOptions
from pipeline.sources.read import read_source


def read(root, classes=(), splits=(), **options):
    return read_source(root, classes=classes, splits=splits, options=ReadOptions(**options), quiet=True)


def problems(source) -> str:
    return "\n".join(f"{problem} [{problem.skips}]" for problem in source.problems)


def stems(source) -> list[str]:
    return [sample.path.stem for sample in source.samples]


# --- COCO ---

ROW = {"image_id": 5, "category_id": 3, "bbox": [1, 1, 5, 5]}
SQUARE = [[2, 3, 10, 3, 10, 12.5], [8, 4, 14, 4, 14, 7, 8, 7]]


@pytest.mark.parametrize("bbox", [{}, {"bbox": []}, {"bbox": None}, {"bbox": [0, 0, 0, 0]}])
def test_coco_box_of_the_polygons(make_coco, bbox):
    row = {name: value for name, value in ROW.items() if name != "bbox"}
    source = read(make_coco({5: (20, 30)}, [{**row, **bbox, "segmentation": SQUARE}]))
    assert source.problems == []
    np.testing.assert_array_equal(source.samples[0].boxes_N4, [[2, 3, 14, 12.5]])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "bbox is"),
        ({"counts": "abc", "size": [20, 30]}, "segmentation is a mask"),
        ([[1, 2, 3, 4]], "not a list of at least 3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not a list of at least 3 points"),
        (["123456"], "not a list of at least 3 points"),
        ([[1, 2, "3", 4, 5, 6]], "'3' is not a number"),
        ([[1, 2, 1, 4, 1, 6]], "has no area"),
    ],
)
def test_coco_polygons_that_are_wrong(make_coco, segmentation, message):
    source = read(make_coco({5: (20, 30)}, [ROW, {**ROW, "bbox": [], "segmentation": segmentation}]))
    assert len(source.problems) == 1
    assert message in problems(source)
    assert "annotations[1]" in problems(source)


def test_coco_flags_that_are_null(make_coco):
    source = read(make_coco({5: (20, 30)}, [{**ROW, "iscrowd": None, "ignore": None}]))
    assert source.problems == []
    assert source.samples[0].ignore_N.tolist() == [False]


def test_coco_ids_that_are_text(make_coco, capsys):
    root = make_coco({1: (9, 9), 2: (9, 9), 3: (9, 9)}, [])
    path = root / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    for image, name in zip(data["images"], ("b-2", "007", "12"), strict=True):
        image["id"] = name
    data["categories"] = [{"id": "z", "name": "car"}, {"id": "1", "name": "bus"}]
    data["annotations"] = [
        {"id": "q", "image_id": "b-2", "category_id": "z", "bbox": [1, 1, 5, 5]},
        {"id": 2, "image_id": 12, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 3, "image_id": "7", "category_id": 1, "bbox": [1, 1, 5, 5]},
    ]
    path.write_text(json.dumps(data))
    source = read(root)
    assert source.classes == ("bus", "car")  # numbers before text
    # '12' is the number 12; '007' and 'b-2' are text and come after it.
    assert [(s.path.stem, s.id, s.labels_N.tolist()) for s in source.samples] == [
        ("3", 0, [1]),
        ("2", 1, []),
        ("1", 2, [2]),
    ]
    assert "annotations[2] id 3: belongs to image 7, which is not in 'images'" in problems(source)
    assert "some image ids are text; the 3 images get the numbers 0, 1, ..." in capsys.readouterr().out
    for image, name in zip(data["images"], ("8", "6", "7"), strict=True):
        image["id"] = name
    path.write_text(json.dumps({**data, "annotations": []}))
    assert [(s.path.stem, s.id) for s in read(root).samples] == [("2", 6), ("3", 7), ("1", 8)]


def test_coco_annotation_ids_that_occur_again_are_one_report(make_coco, capsys):
    rows = [{**ROW, "id": 4, "bbox": [n, 1, 5, 5]} for n in range(6)]
    source = read(make_coco({5: (20, 30)}, rows))
    assert source.problems == []
    assert len(source.samples[0].boxes_N4) == 6
    assert "5 annotations with an id of another before (annotations[1] id 4); all are kept" in capsys.readouterr().out
    source = read(make_coco({5: (20, 30)}, rows + 3 * rows[:1]))
    assert len(source.problems) == 1
    assert "annotations[6] id 4: 3 annotations (first: this) with id, image, class and box of one" in problems(source)
    assert len(source.samples[0].boxes_N4) == 6


def test_coco_group_of_roboflow(make_coco, capsys):
    categories = [
        {"id": 0, "name": "bus", "supercategory": "none"},
        {"id": 1, "name": "bus", "supercategory": "bus"},
        {"id": 2, "name": "car", "supercategory": "bus"},
    ]
    source = read(make_coco({5: (20, 30)}, [{**ROW, "category_id": 2}], categories=categories))
    assert source.classes == ("bus", "car")
    assert source.samples[0].labels_N.tolist() == [2]
    assert "category 0 'bus' is the group of the others: left out" in capsys.readouterr().out
    categories[0]["name"] = categories[1]["supercategory"] = categories[2]["supercategory"] = "things"
    used = read(make_coco({5: (20, 30)}, [{**ROW, "category_id": 0}], categories=categories))
    assert used.classes == ("things", "bus", "car")
    categories[2]["supercategory"] = "other"
    assert read(make_coco({5: (20, 30)}, [], categories=categories)).classes == ("things", "bus", "car")


@pytest.mark.parametrize(
    "name",
    [
        "../images/5.jpg",  # from the annotation's own folder
        "../../../home/somebody/label-studio/media/upload/1/5.jpg",
        "/data/upload/1/5.jpg",
        "..\\images\\5.jpg",
        "images/5.jpg",
    ],
)
def test_coco_names_as_label_studio_writes_them(make_coco, name):
    root = make_coco({5: (20, 30)}, [ROW])
    path = root / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data))
    source = read(root)
    assert source.problems == []
    assert source.samples[0].path == root / "images/5.jpg"


@pytest.mark.parametrize(
    "name", ["../../../../../../../etc/passwd", "/etc/passwd", "..", "../", "/", "a\0b", "../\0", ""]
)
def test_coco_names_never_leave_the_root(make_coco, name):
    root = make_coco({5: (20, 30)}, [])
    path = root / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    data["images"].append({"id": 6, "file_name": name})
    path.write_text(json.dumps(data))
    source = read(root)
    assert [sample.id for sample in source.samples] == [5]
    assert "images[1] id 6: " in problems(source)


# --- KITTI ---

LINES = """Car 0.00 0 -1.57 10.5 2 20.25 12 1.5 1.6 3.9 1 2 3 0.1
Pedestrian 0.00 0 0.2 1 2 3 8 1 1 1 1 1 1 0.0
DontCare -1 -1 -10 0 0 5 5 -1 -1 -1 -1000 -1000 -1000 -10
"""


@pytest.fixture
def kitti(tools, tmp_path):
    root = tmp_path / "kitti"
    for number in range(2):
        tools.save(root / f"training/image_2/00000{number}.png", tools.draw(20, 30))
        (root / "training/label_2").mkdir(exist_ok=True)
        (root / f"training/label_2/00000{number}.txt").write_text(LINES if number else "\n")
    tools.save(root / "testing/image_2/000000.png", tools.draw(20, 30))
    return root


@pytest.mark.parametrize("below", ["", "training"])
def test_kitti_labels(kitti, below, capsys):
    source = read(kitti / below, classes=("Pedestrian", "Car"))
    assert source.format == "kitti"
    assert source.problems == []
    first, second = source.samples
    assert len(first.boxes_N4) == 0
    np.testing.assert_array_equal(second.boxes_N4, [[0, 0, 5, 5], [0, 0, 5, 5], [10.5, 2, 20.25, 12], [1, 2, 3, 8]])
    assert second.labels_N.tolist() == [1, 2, 2, 1]
    assert second.ignore_N.tolist() == [True, True, False, False]
    assert "1 region of DontCare, where every class is ignored" in capsys.readouterr().out


def test_kitti_regions_are_of_the_classes_that_are_packed(kitti):
    labels = kitti / "training/label_2"
    labels.joinpath("000001.txt").write_text(LINES + LINES.splitlines()[2].replace("0 0 5 5", "0 0 5 99") + "\n")
    source = read_source(kitti, classes=("human",), rename=("Pedestrian=human",), drop=("Car",), quiet=True)
    assert source.samples[1].labels_N.tolist() == [1, 1, 1]
    assert source.samples[1].boxes_N4[1].tolist() == [0, 0, 5, 20]
    assert problems(source).count("line 4: box [0.0, 0.0, 5.0, 99.0] in a picture of 30x20 sticks out") == 1


def test_kitti_faults_and_missing_files(kitti, tools):
    labels = kitti / "training/label_2"
    labels.joinpath("000001.txt").write_text(LINES.splitlines()[0] + "\nCar 1 2 3\nCar" + " nan" * 14 + "\n")
    tools.save(kitti / "training/image_2/000002.png", tools.draw(9, 9))
    labels.joinpath("000003.txt").write_text(LINES)
    text = problems(read(kitti, classes=("Car",)))
    assert "label_2/000001.txt, line 2: has 4 columns; expected type, 14 numbers and perhaps a score" in text
    assert "label_2/000001.txt, line 3: 'nan' is not a number" in text
    assert "label_2/000002.txt: the label file is missing" in text
    assert "label_2/000003.txt: has no picture" in text
    assert len(read(kitti, classes=("Car",), unlabelled="background").samples) == 3


# --- names that cannot be printed ---


def test_half_a_character_in_a_name_is_an_error_that_names_the_file(make_coco, tools, tmp_path):
    root = make_coco({5: (20, 30)}, [], categories=[{"id": 3, "name": "a\ud800"}])
    with pytest.raises(ValueError, match=r"instances_train.json: categories: .*half a character") as caught:
        read(root)
    str(caught.value).encode()
    root = make_coco({}, [])
    data = {
        "images": [{"id": 5, "file_name": "\ud800\x1b.jpg"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(data))
    text = problems(read(root))
    assert "images[0] id 5: " in text
    text.encode()
    assert "\x1b" not in text
    (tmp_path / "bdd/labels").mkdir(parents=True)
    box = {"x1": 1, "y1": 1, "x2": 5, "y2": 5}
    tools.save(tmp_path / "bdd/images/a.jpg", tools.draw(9, 9))
    frames = [{"name": "a.jpg", "labels": [{"category": "\udfff", "box2d": box}]}, {"name": "\ud800"}]
    (tmp_path / "bdd/labels/train.json").write_text(json.dumps(frames))
    text = problems(read(tmp_path / "bdd", classes=("car",)))
    assert "labels/train.json, [0] a.jpg labels[0]: category" in text
    assert "labels/train.json, [1] \\ud800" in text
    text.encode()


def test_unlabelled_is_refused_where_it_means_nothing(make_coco):
    with pytest.raises(
        ValueError, match="--unlabelled is for formats with a label file for each picture, not for coco"
    ):
        read(make_coco({5: (20, 30)}, []), unlabelled="skip")
