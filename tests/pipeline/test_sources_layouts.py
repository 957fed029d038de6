"""Layouts that other tools write: each is read as it lies, or refused with a sentence that names file and place."""

import shutil

import numpy as np
import pytest

from pipeline.sources.options import ReadOptions
from pipeline.sources.read import detect_format, read_source


def read(root, classes=(), splits=(), **options):
    return read_source(root, classes=classes, splits=splits, options=ReadOptions(**options), quiet=True)


def problems(source) -> str:
    return "\n".join(f"{problem} [{problem.skips}]" for problem in source.problems)


def stems(source) -> list[str]:
    return [sample.path.stem for sample in source.samples]


# --- YOLO ---


def test_yolo_any_yaml_by_path_or_name(make_yolo, tmp_path):
    root = make_yolo({"a": ((9, 9), ["0 .5 .5 1 1"])})
    (root / "data.yaml").rename(root / "traffic.yaml")
    (root / "docker-compose.yml").write_text("services: {}\n")
    assert detect_format(root) == "yolo"
    assert stems(read(root)) == ["a"]
    shutil.copy(root / "traffic.yaml", root / "other.yaml")
    with pytest.raises(ValueError, match=r"has other.yaml, traffic.yaml, .* say which: --yaml other.yaml"):
        read(root)
    assert stems(read(root, yaml="traffic.yaml")) == ["a"]
    (root / "traffic.yaml").rename(tmp_path / "elsewhere.yaml")
    (root / "other.yaml").unlink()
    assert stems(read(root, yaml=str(tmp_path / "elsewhere.yaml"))) == ["a"]
    with pytest.raises(ValueError, match=r"--yaml nowhere.yaml: neither"):
        read(root, yaml="nowhere.yaml")
    with pytest.raises(ValueError, match=r"is a file: give the folder of the data, and --yaml"):
        read(tmp_path / "elsewhere.yaml")


def test_yolo_yaml_for_another_format_is_refused(make_voc):
    root = make_voc({"a": ((9, 9), [])})
    with pytest.raises(ValueError, match=r"--yaml x.yaml is for YOLO, and --format is voc"):
        read_source(root, "voc", classes=("car",), options=ReadOptions(yaml="x.yaml"))


@pytest.mark.parametrize("nc", ["", "nc: 2\n", "nc: 6\n"])
@pytest.mark.parametrize("names", ["{5: bus, 2: car}", "{'5': bus, '2': car}"])
def test_yolo_names_with_gaps(make_yolo, names, nc):
    card = f"train: train/images\n{nc}names: {names}\n"
    source = read(make_yolo({"a": ((20, 40), ["5 .5 .5 1 1", "2 .5 .5 .5 1", "3 .5 .5 1 1"])}, card=card))
    assert source.classes == ("car", "bus")
    assert source.samples[0].labels_N.tolist() == [2, 1]
    assert "a.txt, line 3: class '3' is not a number from 0 to 5 that has a name" in problems(source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("{-1: car}", "the key '-1'"),
        ("{car: 0}", "the key 'car'"),
        ("{true: car}", "the key 'True'"),
        ("{1.5: car}", "the key '1.5'"),
        ("{99999999999: car}", "the key '99999999999'"),
        ("{0: car, '0': bus}", "the class number 0 twice"),
        ("{0: 7}", "names: 0 is '7', expected text"),
        ('["\\ud800"]', "data.yaml: .*(half a character|not valid YAML)"),
        ('["a\\u001b[31m"]', "data.yaml: .*control character"),
    ],
)
def test_yolo_names_that_are_wrong(make_yolo, names, message):
    with pytest.raises(ValueError, match=message):
        read(make_yolo({"a": ((9, 9), [])}, card=f"train: train/images\nnames: {names}\n"))


def test_yolo_absolute_paths_inside_the_root(make_yolo, tmp_path):
    root = make_yolo({"a": ((9, 9), []), "b": ((9, 9), [])}, card="train: list.txt\nnames: [car]\n")
    (tmp_path / "link").symlink_to(root)
    lines = [root / "train/images/a.jpg", tmp_path / "outside.jpg", "/etc/passwd", f"{root}/../x.jpg"]
    (root / "list.txt").write_text("\n".join(map(str, lines)))
    source = read(tmp_path / "link")
    assert stems(source) == ["a"]
    text = problems(source)
    assert text.count("points outside the dataset's root") == 3
    for number in (2, 3, 4):
        assert f"list.txt, line {number}: " in text
    card = root / "data.yaml"
    card.write_text(f"path: /home/somebody/data\ntrain: {root}/train/images\nnames: [car]\n")
    assert stems(read(root)) == ["a", "b"]
    card.write_text("path: /home/somebody/data\ntrain: train/images\nnames: [car]\n")
    assert stems(read(root)) == ["a", "b"]


def test_yolo_list_with_a_dot_and_other_lines_that_are_no_pictures(make_yolo):
    root = make_yolo({"a": ((9, 9), [])}, card="train: list.txt\nnames: [car]\n")
    (root / "list.txt").write_text(".\n./\ntrain\ntrain/images/a.jpg\n" + "x" * 254 + "\n\ud7ff.jpg\n")
    source = read(root, unlabelled="error")
    text = problems(source)
    assert stems(source) == ["a"]
    assert "list.txt, line 1: '.' is not a picture; use paths below the root" in text
    assert "list.txt, line 2: '' is not a file name" in text
    assert "train.txt: the label file is missing" in text


def test_yolo_list_relative_to_its_own_folder(make_yolo):
    root = make_yolo({"a": ((9, 9), [])}, card="train: train/list.txt\nnames: [car]\n")
    (root / "train/list.txt").write_text("images/a.jpg\n")
    assert stems(read(root)) == ["a"]


def test_yolo_pictures_without_a_label_file(make_yolo, capsys):
    root = make_yolo({"a": ((9, 9), ["0 .5 .5 1 1"]), "b": ((9, 9), [])})
    (root / "train/labels/b.txt").unlink()
    assert stems(read(root)) == ["a", "b"]
    expected = "1 of 2 pictures without a label file, taken as pictures without objects, as is usual for YOLO"
    assert expected in capsys.readouterr().out
    assert stems(read(root, unlabelled="skip")) == ["a"]
    assert "1 of 2 pictures without a label file, left out\n" in capsys.readouterr().out
    source = read(root, unlabelled="error")
    assert stems(source) == ["a"]
    assert "b.txt: the label file is missing; write an empty file" in problems(source)
    (root / "train/labels/b.txt").symlink_to("nowhere.txt")  # not the same as none
    assert "b.txt: the label file is missing" in problems(read(root))
    (root / "train/labels/b.txt").unlink()
    (root / "train/labels/a.txt").unlink()
    with pytest.raises(ValueError, match=r"none of the 2 pictures has a label file; .*--unlabelled background"):
        read(root)
    assert stems(read(root, unlabelled="background")) == ["a", "b"]


def test_darknet_as_cvat_writes_it(tools, tmp_path):
    root = tmp_path / "cvat"
    for stem, line in (("a", "1 0.5 0.5 0.5 1.0"), ("b", "0 0.5 0.5 1 1")):
        tools.save(root / f"obj_train_data/{stem}.jpg", tools.draw(20, 40))
        (root / f"obj_train_data/{stem}.txt").write_text(line)
    (root / "obj.names").write_text("car\nbus\n\n")
    (root / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (root / "train.txt").write_text("data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n")
    source = read(root)
    assert source.format == "yolo"
    assert source.classes == ("car", "bus")
    assert source.problems == []
    np.testing.assert_array_equal(source.samples[0].boxes_N4, [[10, 0, 30, 20]])
    assert [sample.labels_N.tolist() for sample in source.samples] == [[2], [1]]
    (root / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n")
    with pytest.raises(ValueError, match=r"obj.data: says classes = 3 but obj.names has 2 names"):
        read(root)
    (root / "obj.data").write_text("train = data/train.txt\nnames = ../../etc/passwd\n")
    with pytest.raises(ValueError, match=r"obj.data: names = '../../etc/passwd' is not a file inside"):
        read(root)


def test_yolo_with_a_list_of_classes_alone(make_yolo):
    root = make_yolo({"a": ((9, 9), ["1 .5 .5 1 1"])})
    (root / "data.yaml").unlink()
    for folder in ("images", "labels"):
        (root / "train" / folder).rename(root / folder)
    (root / "classes.txt").write_text("car\nbus\n")
    source = read(root)
    assert source.classes == ("car", "bus")
    assert source.samples[0].labels_N.tolist() == [2]
    for folder, name in (("images", "a.jpg"), ("labels", "a.txt")):
        (root / folder / "val").mkdir()
        (root / folder / name).rename(root / folder / "val" / name)
    assert stems(read(root, splits=("val",))) == ["a"]
    (root / "classes.txt").write_text("car\ncar\n")
    with pytest.raises(ValueError, match=r"classes.txt: has the same class name twice"):
        read(root)


# --- Pascal VOC ---

OBJECT = [("car", 2, 3, 9, 8)]


def write_pair(tools, labels, pictures, stem, objects=OBJECT):
    labels.mkdir(parents=True, exist_ok=True)
    tools.save(pictures / f"{stem}.jpg", tools.draw(11, 13))
    (labels / f"{stem}.xml").write_text(tools.voc_xml((11, 13), objects))


@pytest.mark.parametrize(
    ("labels", "pictures"),
    [("annotations", "images"), ("Annotations", "JPEGImages"), ("Annotations", "images"), (".", "."), ("x", "x")],
)
def test_voc_without_lists(tools, tmp_path, labels, pictures, capsys):
    root = tmp_path / "set"
    for stem in "ab":
        write_pair(tools, root / labels, root / pictures, stem)
    tools.save(root / pictures / "c.jpg", tools.draw(11, 13))
    assert detect_format(root) == "voc"
    source = read(root, classes=("car",))
    assert source.problems == []
    assert stems(source) == ["a", "b"]
    np.testing.assert_array_equal(source.samples[0].boxes_N4, [[1, 2, 9, 8]])
    assert "1 of 3 pictures without a label file, left out, as is usual for VOC without" in capsys.readouterr().out
    assert stems(read(root, classes=("car",), unlabelled="background")) == ["a", "b", "c"]
    assert "c.xml: is missing; add the file [image]" in problems(read(root, classes=("car",), unlabelled="error"))
    (root / pictures / "a.jpg").unlink()
    assert "a.xml: has no picture" in problems(read(root, classes=("car",)))


@pytest.mark.parametrize("labels", ["{}", "{}/annotations", "annotations/{}"])
def test_voc_without_lists_by_folder(tools, tmp_path, labels):
    root = tmp_path / "set"
    for split, stem in (("train", "a"), ("valid", "b")):
        folder = root / labels.format(split)
        write_pair(tools, folder, root / labels.format(split).replace("annotations", "images"), stem)
    with pytest.raises(ValueError, match="has the splits train, valid: say which"):
        read(root, classes=("car",))
    assert stems(read(root, classes=("car",), splits=("valid",))) == ["b"]
    assert stems(read(root, classes=("car",), splits=("all",))) == ["a", "b"]


def test_voc_lists_are_never_passed_over(make_voc, tmp_path):
    make_voc({"a": ((9, 9), [])}, root=tmp_path / "deep/mine")
    with pytest.raises(ValueError, match=r"but these have: .*mine \(voc\)"):
        read(tmp_path / "deep", classes=("car",))


def test_the_folder_above_is_not_named_for_what_lies_beside(tools, tmp_path):
    write_pair(tools, tmp_path / "other", tmp_path / "other", "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no annotations that are known; expected"):
        read(tmp_path / "empty")
    (tmp_path / "other/deep").mkdir()
    with pytest.raises(ValueError, match=r"deep has no annotations that are known, but these have: .*other \(voc\)$"):
        read(tmp_path / "other/deep")


def test_voc_listed_picture_without_xml(make_voc):
    root = make_voc({"a": ((9, 9), []), "b": ((9, 9), [])})
    (root / "Annotations/b.xml").unlink()
    assert "b.xml: is missing" in problems(read(root, classes=("car",)))
    source = read(root, classes=("car",), unlabelled="background")
    assert source.problems == []
    assert stems(source) == ["a", "b"]
    assert stems(read(root, classes=("car",), unlabelled="skip")) == ["a"]
