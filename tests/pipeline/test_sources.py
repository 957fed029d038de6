"""sources.py and the four readers: the right boxes, and every fault of the data named on purpose."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.sources.options import ReadOptions
from pipeline.sources.read import detect_format, read_source


def read(root, **options):
    return read_source(root, quiet=True, **options)


def problems(source) -> str:
    return "\n".join(f"{problem} [{problem.skips}]" for problem in source.problems)


# --- Pascal VOC ---


def test_voc_corners_are_one_based_and_inclusive(make_voc):
    root = make_voc({"a": ((20, 30), [("car", 1, 1, 30, 20), ("bus", "2.5", " 3 ", "4.0", "1e1")])})
    source = read(root, classes=("bus", "car"))
    assert source.problems == []
    assert source.classes == ("bus", "car")
    (sample,) = source.samples
    assert sample.size == (20, 30)
    np.testing.assert_array_equal(sample.boxes_N4, [[0, 0, 30, 20], [1.5, 2, 4, 10]])
    np.testing.assert_array_equal(sample.labels_N, [2, 1])
    assert sample.boxes_N4.dtype == np.float32
    assert sample.labels_N.dtype == np.int64
    assert sample.domain == "voc"


def test_voc_difficult_is_ignored_and_empty_images_are_kept(make_voc):
    root = make_voc({"a": ((9, 9), [("car", 1, 1, 5, 5, 1), ("car", 1, 1, 5, 5, 0)]), "b": ((1, 1), [])})
    first, second = read(root, classes=("car",)).samples
    assert first.ignore_N.tolist() == [True, False]
    assert second.boxes_N4.shape == (0, 4)
    assert (first.id, second.id) == (0, 1)


@pytest.mark.parametrize(
    ("objects", "message", "skips"),
    [
        ([("car", 5, 5, 4, 9)], "has no area", "box"),
        ([("car", 5, 5, 4, 5)], "has no area", "box"),
        ([("car", "nan", 1, 4, 5)], "object 2 at line 1: line 1: <xmin> 'nan' is not a number", "box"),
        ([("car", "inf", 1, 4, 5)], "'inf' is not a number", "box"),
        ([("car", "1_0", 1, 4, 5)], "'1_0' is not a number", "box"),
        ([("car", "1e400", 1, 4, 5)], "not a finite number|is not a number", "box"),
        ([("car", "", 1, 4, 5)], "'' is not a number", "box"),
        ([("car", 1, 1, 33, 20)], "sticks out by 3.0 px", "clip"),
        ([("car", -2, 1, 9, 9)], "sticks out by 3.0 px", "clip"),
        ([("car", 41, 1, 49, 9)], "is outside", "box"),
        ([("", 1, 1, 9, 9)], "<name> is empty", "box"),
        ([("car", 1, 1, 9, 9, 2)], "<difficult> is '2'", "box"),
    ],
)
def test_voc_faults_of_a_box(make_voc, objects, message, skips):
    source = read(make_voc({"a": ((20, 30), [("car", 1, 1, 8, 8), *objects])}), classes=("car",))
    assert len(source.problems) == 1
    assert re.search(message, str(source.problems[0])), problems(source)
    assert source.problems[0].skips == skips
    assert "Annotations/a.xml" in str(source.problems[0])
    assert len(source.samples[0].boxes_N4) == (2 if skips == "clip" else 1)


def test_boxes_that_stick_out_by_less_than_two_pixels_are_clipped_and_counted(make_voc):
    source = read(make_voc({"a": ((20, 30), [("car", 0, 0, "31.9", 21)])}), classes=("car",))
    assert source.problems == []
    assert source.num_clipped == 1
    np.testing.assert_array_equal(source.samples[0].boxes_N4, [[0, 0, 30, 20]])
    exactly_two = read(make_voc({"a": ((20, 30), [("car", 1, 1, 32, 20)])}), classes=("car",))
    assert "sticks out by 2.0 px" in problems(exactly_two)


def test_voc_faults_of_files_are_all_collected_together(tools, make_voc):
    good = ((20, 30), [("car", 1, 1, 9, 9)])
    root = make_voc(dict.fromkeys(("ok", "noxml", "nopic", "wrongsize", "cut", "two", "notxml", "text"), good))
    (root / "Annotations/noxml.xml").unlink()
    (root / "JPEGImages/nopic.jpg").unlink()
    (root / "Annotations/wrongsize.xml").write_text(tools.voc_xml((21, 30), []))
    (root / "Annotations/cut.xml").write_text("<annotation><object>")
    (root / "Annotations/notxml.xml").write_text("<note/>")
    (root / "JPEGImages/text.jpg").write_text("not a picture")
    tools.save(root / "JPEGImages/two.png", tools.draw(20, 30))
    with open(root / "ImageSets/Main/train.txt", "a") as file:
        file.write("ok\n../../etc/passwd\nok 1\n\n")
    source = read(root, classes=("car",))
    assert [sample.path.stem for sample in source.samples] == ["ok"]
    text = problems(source)
    for expected in (
        "Annotations/noxml.xml: is missing; add the file, or take the image out of the list",
        "train.txt, line 3: JPEGImages has no picture 'nopic'",
        "the annotation says 30x21 but the picture is 30x20",
        "Annotations/cut.xml: line 1: is not well-formed XML",
        "JPEGImages has two.jpg, two.png",
        "the root element is <note>",
        "JPEGImages/text.jpg: is not a picture of a known format",
        "line 9: 'ok' is listed twice",
        "line 10: '../../etc/passwd' points outside the dataset's root",
        "line 11: 'ok 1' has more than one column",
    ):
        assert expected in text, f"{expected}\nnot in\n{text}"
    assert len(source.problems) == 10


def test_voc_xml_from_strangers(tools, make_voc):
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><object><name>&a;</name></object></annotation>'
    deep = "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>"
    double = tools.voc_xml((9, 9), [("car", 1, 1, 5, 5)]).replace("<xmin>1</xmin>", "<xmin>1</xmin><xmin>2</xmin>")
    root = make_voc({name: ((9, 9), []) for name in ("bomb", "outside", "deep", "double", "latin")})
    for name, text in (("bomb", bomb), ("outside", outside), ("deep", deep), ("double", double)):
        (root / f"Annotations/{name}.xml").write_text(text)
    (root / "Annotations/latin.xml").write_bytes(b'<?xml version="1.0" encoding="no-such"?><annotation/>')
    text = problems(read(root, classes=("car",)))
    assert text.count("document types and entities are not accepted") == 2
    assert "nested deeper than 32 elements" in text
    assert "<bndbox> has 2 <xmin> where one is expected" in text
    assert "latin.xml" in text
    assert "ha" * 2 not in text
    assert "root:" not in text


def test_voc_split_must_be_named_when_there_are_several(make_voc):
    root = make_voc({"a": ((9, 9), [])})
    make_voc({"b": ((9, 9), [])}, split="test", root=root)
    with pytest.raises(ValueError, match="has the splits test, train: say which with --split"):
        read(root, classes=("car",))
    assert [sample.path.stem for sample in read(root, classes=("car",), splits=("test",)).samples] == ["b"]
    assert len(read(root, classes=("car",), splits=("all",)).samples) == 2
    with pytest.raises(ValueError, match=r"--split val: .* has test, train"):
        read(root, classes=("car",), splits=("val",))


# --- pictures ---


def test_exif_rotation_is_applied_and_a_size_from_before_it_is_a_fault(tools, make_voc):
    root = make_voc({"a": ((20, 30), [("car", 1, 1, 20, 30)]), "b": ((20, 30), [("car", 1, 1, 30, 20)])})
    exif = Image.Exif()
    exif[0x0112] = 6
    for stem in "ab":
        tools.save(root / f"JPEGImages/{stem}.jpg", tools.draw(20, 30), exif=exif)
    (root / "Annotations/a.xml").write_text(tools.voc_xml((30, 20), [("car", 1, 1, 20, 30)]))
    source = read(root, classes=("car",))
    assert [sample.size for sample in source.samples] == [(30, 20)]
    assert "says 30x20, the size before the EXIF rotation" in problems(source)
    assert len(source.problems) == 1


# --- classes ---


def test_a_split_may_be_named_without_its_year(make_voc, capsys):
    root = make_voc({"a": ((9, 9), [])}, split="train2017")
    make_voc({"b": ((9, 9), [])}, split="trainval", root=root)
    assert [sample.path.stem for sample in read(root, classes=("car",), splits=("train",)).samples] == ["a"]
    assert capsys.readouterr().out == "--split train: taking train2017, the only one of train2017, trainval that fits\n"
    make_voc({"c": ((9, 9), [])}, split="train2014", root=root)
    with pytest.raises(ValueError, match=r"--split train: .* has train2014, train2017, trainval"):
        read(root, classes=("car",), splits=("train",))


def test_unknown_class_is_an_error_with_the_nearest_name_and_never_a_shifted_id(make_voc):
    root = make_voc({"a": ((9, 9), [("motorcycle", 1, 1, 5, 5), ("Car", 1, 1, 5, 5)])})
    with pytest.raises(
        ValueError,
        match=r"(?s)^2 classes of .* are not .*'motorcycle' \(1 object\) \(nearest: motor\).*'Car' .*\(nearest: car\)",
    ):
        read(root, classes=("car", "motor"))
    source = read(root, classes=("car", "motor"), rename=("motorcycle=motor", "Car=car"))
    assert source.samples[0].labels_N.tolist() == [2, 1]
    source = read(root, classes=("Car",), drop=("motorcycle",))
    assert source.samples[0].labels_N.tolist() == [1]
    assert source.dropped == {"motorcycle": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"no class list of its own: give the order with --classes A B C; found car \(1\)"),
        ({"classes": ("car", "car")}, "names car more than once"),
        ({"classes": ("car",), "rename": ("car",)}, "expected OLD=NEW"),
        ({"classes": ("bus",), "rename": ("car=buss",)}, r"'buss' is not in the class list bus \(nearest: bus\)"),
        ({"classes": ("bus",), "rename": ("car=bus",), "drop": ("car",)}, "--map and --drop both name car"),
        ({"classes": ("bus",), "rename": ("car=bus", "car=van")}, "two new names"),
        ({"classes": ("car",), "format": "vok"}, r"--format vok: .*\(nearest: voc\)"),
    ],
)
def test_class_options_that_are_wrong(make_voc, options, message):
    root = make_voc({"a": ((9, 9), [("car", 1, 1, 5, 5)])})
    with pytest.raises(ValueError, match=message):
        read(root, **options)


def test_options_may_name_classes_that_this_split_lacks_but_a_misspelt_one_cannot_pass(make_voc, capsys):
    root = make_voc({"a": ((9, 9), [("car", 1, 1, 5, 5)])})
    assert len(read(root, classes=("car", "motor"), drop=("cars",), rename=("motorcycle=motor",)).samples) == 1
    assert capsys.readouterr().out.splitlines() == [
        "note: --map motorcycle: no object here has this class",
        "note: --drop cars: no object here has this class (nearest: car)",
    ]
    assert len(read(root, classes=("motor",), drop=("car",)).samples) == 1
    assert capsys.readouterr().out == ""
    root = make_voc({"a": ((9, 9), [("ambulance", 1, 1, 5, 5)])})
    with pytest.raises(ValueError, match=r"(?s)^1 class of the dataset is not in .*'ambulance'"):
        read(root, classes=("car",), drop=("ambulence",))


def test_all_that_the_classes_do_not_name_is_dropped(make_voc, capsys):
    boxes = [(name, 1, 1, 5, 5) for name in ("car", "van", "motorcycle", "person", "person")]
    root = make_voc({"a": ((9, 9), boxes)})
    source = read(root, classes=("car", "motor"), rename=("motorcycle=motor",), drop=("*",))
    assert source.samples[0].labels_N.tolist() == [1, 2]
    assert source.dropped == {"van": 1, "person": 2}
    with pytest.raises(ValueError, match="give --classes too"):
        read(root, drop=("*",))
    with pytest.raises(ValueError, match="give no name beside it"):
        read(root, classes=("car",), drop=("*", "van"))
    capsys.readouterr()
    assert read(root, classes=("caar", "van"), drop=("*",)).dropped["car"] == 1
    assert "note: --classes caar: no object here has this class (nearest: car)" in capsys.readouterr().out


# --- YOLO ---


def test_a_source_with_a_class_list_knows_every_name(make_yolo):
    root = make_yolo({"a": ((9, 9), [])}, names=("car", "ambulance"))
    with pytest.raises(ValueError, match=r"--drop ambulence: .*\(nearest: ambulance\); it has car, ambulance"):
        read(root, drop=("ambulence",))
    with pytest.raises(ValueError, match=r"--map cat: .*\(nearest: car\)"):
        read(root, rename=("cat=car",))
    assert read(root, drop=("ambulance",)).classes == ("car",)


def test_yolo_fractions_polygons_and_class_order(make_yolo):
    root = make_yolo({"a": ((20, 40), ["1 0.5 0.5 0.5 1.0", "0 0 0 0.5 0 0.5 .25", ""]), "b": ((7, 5), [])})
    source = read(root)
    assert source.format == "yolo"
    assert source.classes == ("car", "bus")
    np.testing.assert_array_equal(source.samples[0].boxes_N4, [[10, 0, 30, 20], [0, 0, 20, 5]])
    assert source.samples[0].labels_N.tolist() == [2, 1]
    assert len(source.samples[1].boxes_N4) == 0
    assert source.problems == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 1 1", "class '2' is not a number from 0 to 1"),
        ("-1 0.5 0.5 1 1", "class '-1'"),
        ("٣ 0.5 0.5 1 1", "class '٣'"),
        ("0 0.5 0.5 1", "has 4 columns"),
        ("0 0.5 0.5 1 1 0.9", "has 6 columns"),
        ("0 0.5 nan 1 1", "'nan' is not a number"),
        ("0 0.5 0.5 0 1", "has no area"),
        ("0 0.5 0.5 -1 1", "has no area"),
        ("0 200 100 50 50", "is outside"),
        ("0 0.5 0.5 1.5 1", "sticks out"),
    ],
)
def test_yolo_faults_of_a_line(make_yolo, line, message):
    source = read(make_yolo({"a": ((20, 40), ["0 0.5 0.5 0.5 0.5", line])}))
    assert len(source.problems) == 1
    assert message in str(source.problems[0])
    assert "train/labels/a.txt, line 2" in str(source.problems[0])


def test_yolo_missing_and_orphaned_label_files(make_yolo):
    root = make_yolo({"a": ((9, 9), []), "b": ((9, 9), [])})
    (root / "train/labels/a.txt").rename(root / "train/labels/orphan.txt")
    (root / "train/labels/b.txt").write_bytes(b"\xff\xfe")
    text = problems(read(root, options=ReadOptions(unlabelled="error")))
    assert "train/labels/a.txt: the label file is missing; write an empty file when the picture has no objects" in text
    assert "train/labels/orphan.txt: has no picture" in text
    assert "b.txt: the label file is not UTF-8 text" in text


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("train: ../../elsewhere\nnames: [car]\n", "is no folder or list of pictures inside"),
        ("train: /etc\nnames: [car]\n", "is no folder or list of pictures inside"),
        ("train: train/images\nnc: 3\nnames: [car]\n", "says nc: 3 but has 1 names"),
        ("train: train/images\nnames: [car, car]\n", "same class name twice"),
        ("train: train/images\nnames: {0: car, 0: bus}\n", "line 2: has the key '0' twice"),
        ("train: train/images\n", "has no 'names'"),
        ("a: &a [x]\nnames: [*a, *a]\ntrain: train/images\n", "aliases are not accepted"),
        ("names: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("train: train/images\nkpt_shape: [17, 3]\nnames: [person]\n", "has 'kpt_shape'.*export boxes"),
        ("- car\n", "not a mapping"),
    ],
)
def test_yolo_cards_that_are_wrong(make_yolo, card, message):
    with pytest.raises(ValueError, match=message):
        read(make_yolo({"a": ((9, 9), [])}, card=card))


def test_yolo_lists_of_pictures(make_yolo):
    root = make_yolo({"a": ((9, 9), ["0 .5 .5 1 1"])}, card="train: list.txt\nnames: [car]\n")
    (root / "list.txt").write_text("./train/images/a.jpg\n../outside.jpg\n")
    source = read(root)
    assert [len(sample.boxes_N4) for sample in source.samples] == [1]
    assert "list.txt, line 2: '../outside.jpg' points outside the dataset's root" in problems(source)
    (root / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"list.txt is not UTF-8 text"):
        read(root)


def test_yolo_labels_stay_below_the_root_whatever_the_folders_above_are_called(tools, tmp_path):
    root = tmp_path / "images" / "set"
    tools.save(root / "train/a.jpg", tools.draw(9, 9))
    (root / "train/a.txt").write_text("0 .5 .5 1 1")
    (root / "data.yaml").write_text("train: train\nnames: [car]\n")
    source = read(root)
    assert source.problems == []
    assert len(source.samples[0].boxes_N4) == 1


# --- COCO ---


def test_coco_boxes_crowds_and_category_order(make_coco):
    rows = [
        {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4.5]},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "ignore": 1},
    ]
    source = read(make_coco({9: (4, 4), 5: (20, 30)}, rows))
    assert source.classes == ("car", "bus")  # by category id, not by position in the file
    assert [sample.id for sample in source.samples] == [5, 9]
    np.testing.assert_array_equal(source.samples[0].boxes_N4[0], [1, 2, 4, 6.5])
    assert source.samples[0].labels_N.tolist() == [2, 1, 1]
    assert source.samples[0].ignore_N.tolist() == [False, True, True]
    assert source.problems == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bbox": ["1", 2, 3, 4]}, "'1' is not a number"),
        ({"bbox": [True, 2, 3, 4]}, "'True' is not a number"),
        ({"bbox": [1, 2, 3]}, r"expected \[x, y, width, height\]"),
        ({"bbox": [1, 2, 0, 4]}, "has no area"),
        ({"bbox": [1, 2, -3, 4]}, "has no area"),
        ({"bbox": [1, 2, 3, 10**400]}, "too large a number"),
        ({"bbox": [1, float("nan"), 3, 4]}, "nan is not a finite number"),
        ({"bbox": [1, 2, float("inf"), 4]}, "inf is not a finite number"),
        ({"category_id": float("nan")}, "category_id"),
        ({"iscrowd": float("nan")}, "iscrowd or ignore"),
        ({"image_id": 77}, "belongs to image 77, which is not in 'images'"),
        ({"category_id": 8}, "category_id 8 is not in 'categories'"),
        ({"category_id": [3]}, r"category_id is '\[3\]'"),
        ({"category_id": ""}, "category_id is ''"),
        ({"iscrowd": 2}, "iscrowd or ignore"),
        ({"id": 0}, r"1 annotation \(first: this\) with id, image, class and box of one before"),
    ],
)
def test_coco_faults_of_an_annotation(make_coco, row, message):
    good = {"image_id": 5, "category_id": 3, "bbox": [1, 1, 5, 5]}
    source = read(make_coco({5: (20, 30)}, [good, {**good, **row}]))
    assert len(source.problems) == 1
    assert re.search(message, str(source.problems[0])), problems(source)
    assert "annotations/instances_train.json, annotations[1]" in str(source.problems[0])
    assert len(source.samples[0].boxes_N4) == 1


def test_coco_faults_of_images(make_coco):
    root = make_coco({1: (9, 9), 2: (9, 9), 3: (9, 9), 4: (9, 9)}, [])
    path = root / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    data["images"] += [
        {"id": 1, "file_name": "2.jpg"},
        {"id": 8, "file_name": "../coco/images/33.jpg"},
        {"id": 10, "file_name": "nowhere.jpg"},
        {"id": -1, "file_name": "4.jpg"},
        {"id": 11, "file_name": "4.jpg"},
        "text",
    ]
    data["images"][1]["height"] = 10
    path.write_text(json.dumps(data))
    source = read(root)
    text = problems(source)
    for expected in (
        "the id 1 occurs twice (both images are left out)",
        "'../coco/images/33.jpg' points outside the dataset's root",
        "the picture 'nowhere.jpg' was not found",
        "id is '-1', expected a whole number of at least 0",
        "the picture '4.jpg' is listed twice",
        "images[9]: is not an object",
        "the annotation says 9x10 but the picture is 9x9",
    ):
        assert expected in text, f"{expected}\nnot in\n{text}"
    assert [sample.id for sample in source.samples] == [3, 4]


def test_coco_ids_that_start_again_in_every_split(make_coco):
    root = make_coco({1: (9, 9)}, [])
    folder = root / "annotations"
    (folder / "instances_val.json").write_text((folder / "instances_train.json").read_text())
    source = read(root, splits=("all",))
    assert source.samples == []
    assert "the id 1 belongs to another split too: pack the splits apart" in problems(source)


def test_coco_pictures_listed_in_two_splits(make_coco):
    root = make_coco({1: (9, 9), 2: (9, 9)}, [])
    folder = root / "annotations"
    data = json.loads((folder / "instances_train.json").read_text())
    data["images"] = [{**data["images"][0], "id": 11}]
    (folder / "instances_val.json").write_text(json.dumps(data))
    source = read(root, splits=("all",))
    assert [sample.id for sample in source.samples] == [1, 2]
    assert "instances_val.json, images[0] id 11: the picture '1.jpg' is listed twice" in problems(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": [], "categories": [], "images": []}', "has the key 'images' twice"),
        ('{"images": NaN, "annotations": [], "categories": []}', "'images' is missing or not a list"),
        ('{"images": []', "line 1 column 14: is not valid JSON"),
        ('{"images":' * 100_000, "is nested too deeply|not valid JSON"),
        ('{"annotations": [], "categories": []}', "'categories'|'images' is missing"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "occurs twice",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "categories: 'name'"),
    ],
)
def test_coco_files_that_are_wrong(make_coco, text, message):
    root = make_coco({}, [])
    (root / "annotations/instances_train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(root)


# --- BDD100K ---


def make_bdd(tools, root, frames):
    for frame in frames:
        if isinstance(frame, dict) and "/" not in frame["name"]:
            tools.save(root / "images/100k/train" / frame["name"], tools.draw(20, 30))
    (root / "labels/det_20").mkdir(parents=True)
    (root / "labels/det_20/det_train.json").write_text(json.dumps(frames))
    return root


def test_bdd_boxes_domains_crowds_and_lanes(tools, tmp_path):
    box = {"x1": 1.5, "y1": 2, "x2": 10.25, "y2": 12}
    labels = [
        {"category": "car", "box2d": box, "attributes": {"crowd": True}},
        {"category": "bike", "box2d": box, "attributes": {"occluded": True}},
        {"category": "lane", "poly2d": []},
    ]
    frames = [
        {"name": "a.jpg", "attributes": {"weather": "partly cloudy", "timeofday": "daytime"}, "labels": labels},
        {"name": "b.jpg", "labels": None},
    ]
    source = read(make_bdd(tools, tmp_path / "bdd", frames), classes=("bike", "car"))
    assert source.format == "bdd"
    assert source.problems == []
    first, second = source.samples
    np.testing.assert_array_equal(first.boxes_N4, [[1.5, 2, 10.25, 12]] * 2)
    assert first.labels_N.tolist() == [2, 1]
    assert first.ignore_N.tolist() == [True, False]
    assert (first.domain, second.domain) == ("daytime_partly_cloudy", "bdd")
    assert len(second.boxes_N4) == 0
    named = read(tmp_path / "bdd", classes=("bike", "car"), domain="mine")
    assert [sample.domain for sample in named.samples] == ["mine", "mine"]


def test_bdd_with_a_file_for_each_picture(tools, tmp_path):
    """labels/100k/train/NAME.json of the archive of all labels; a name has no ending there."""
    box = {"x1": 1.5, "y1": 2, "x2": 10.25, "y2": 12}
    objects = [{"category": "car", "id": 0, "box2d": box}, {"category": "lane/road curb", "id": 1, "poly2d": []}]
    attributes = {"weather": "clear", "scene": "city street", "timeofday": "night"}
    one = {"frames": [{"timestamp": 10000, "objects": objects}], "attributes": attributes}
    folder = tmp_path / "bdd/labels/100k/train"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        tools.save(tmp_path / f"bdd/images/100k/train/{name}.jpg", tools.draw(20, 30))
        (folder / f"{name}.json").write_text(json.dumps({"name": name, **one}))
    source = read(tmp_path / "bdd", classes=("car",))
    assert (source.format, source.problems) == ("bdd", [])
    assert [sample.domain for sample in source.samples] == ["night_clear", "night_clear"]
    for sample in source.samples:
        np.testing.assert_array_equal(sample.boxes_N4, [[1.5, 2, 10.25, 12]])

    (folder / "c.json").write_text('{"name": "c", "frames": []}')
    (folder / "d.json").write_text("{")
    (folder / "e.json").write_text(json.dumps({"name": "e", **one}))
    text = problems(read(tmp_path / "bdd", classes=("car",)))
    for expected in ("c.json: is not one frame of BDD100K", "d.json: ", "e.json, e.jpg: the picture 'e.jpg' was not"):
        assert expected in text
    assert len(text.splitlines()) == 3


def test_a_wrong_format_is_told_which_fits(tools, tmp_path):
    box = {"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 3, "y2": 3}}
    root = make_bdd(tools, tmp_path / "bdd", [{"name": "a.jpg", "labels": [box]}])
    with pytest.raises(ValueError, match="this looks like bdd: leave --format out"):
        read(root, format="voc", classes=("car",))


def test_bdd_faults(tools, tmp_path):
    frames = [
        {
            "name": "a.jpg",
            "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3}}, {"category": 4, "box2d": {}}, 5],
        },
        {"name": "a.jpg"},
        {"name": "../b.jpg"},
        7,
    ]
    good = {"name": "c.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 3, "y2": 3}}]}
    text = problems(read(make_bdd(tools, tmp_path / "bdd", [*frames, good]), classes=("car",)))
    for expected in (
        "labels[0]: box2d has no 'y2'",
        "labels[1]: category is '4'",
        "labels[2]: is not an object",
        "[1] a.jpg: the picture is listed twice",
        "points outside the dataset's root",
        "[3]: is not an object",
    ):
        assert expected in text, f"{expected}\nnot in\n{text}"


# --- detection of the format ---


def test_formats_are_told_apart(make_voc, make_yolo, make_coco, tmp_path):
    assert detect_format(make_voc({"a": ((9, 9), [])})) == "voc"
    yolo = make_yolo({"a": ((9, 9), [])})
    assert detect_format(yolo) == "yolo"
    assert detect_format(make_coco({}, [])) == "coco"
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"no annotations that are known.*--format \{voc,yolo,coco,bdd,kitti,stf,pictures\}"
    ):
        detect_format(tmp_path / "empty")
    with pytest.raises(ValueError, match="is not a folder"):
        detect_format(tmp_path / "nowhere")
    (yolo / "annotations.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="looks like yolo and coco"):
        detect_format(yolo)


def test_a_wrong_folder_names_what_would_be_recognised_near_it(make_yolo, make_voc, tmp_path):
    yolo = make_yolo({"a": ((9, 9), [])})
    make_voc({"a": ((9, 9), [])}, root=tmp_path / "deep/daytime_clear/VOC2007")
    expected = f"but these have: {tmp_path / 'deep'} (the diverse-weather benchmark), {yolo} (yolo)"
    with pytest.raises(ValueError, match=f"{re.escape(expected)}$"):
        detect_format(tmp_path)
    with pytest.raises(ValueError, match=rf"but these have: {yolo} \(yolo\)$"):
        detect_format(yolo / "train")


def test_other_json_is_not_taken_for_coco(make_voc, make_coco):
    root = make_voc({"a": ((9, 9), [])})
    (root / "package.json").write_text('{"name": "tools", "version": "1"}')
    (root / "settings.json").write_text('{"window": [1, 2]}')
    assert detect_format(root) == "voc"
    coco = make_coco({5: (9, 9)}, [])
    path = coco / "annotations/instances_train.json"
    head = '{"info": {"description": "' + "x" * 9000 + '"}, '  # long, as some tools write it
    path.write_text(head + path.read_text().lstrip("{"))
    assert detect_format(coco) == "coco"


def test_names_that_are_not_utf8_are_problems_that_can_be_printed(make_yolo):
    root = make_yolo({"a": ((9, 9), ["0 .5 .5 1 1"]), "b": ((9, 9), ["0 .5 .5 1 1"])})
    for file in ("train/images/b.jpg", "train/labels/b.txt"):
        path = os.fsencode(root / file)
        os.rename(path, path.replace(b"/b.", b"/b\xff."))
    source = read(root)
    assert [sample.path.name for sample in source.samples] == ["a.jpg"]
    assert len(source.problems) == 1
    assert "train/images/b\\udcff.jpg: has a name that is not UTF-8" in problems(source)
    problems(source).encode()
