"""Pictures that nobody has labelled: everything in them is ignored, for every class."""

import pytest

from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.options import ReadOptions


def pack_pictures(root, out, **options):
    (path,) = pack(PackOptions(root, out, **{"short_side": 30, "long_side": 60, "workers": 1, **options}))
    return PackedDataset(path)


def test_a_folder_of_pictures_is_unlabelled(tools, tmp_path):
    for number, (place, size) in enumerate((("b.png", (1, 1)), ("a/z.jpg", (40, 61)), ("a/deep/y.JPG", (61, 40)))):
        tools.save(tmp_path / "root" / place, tools.draw(*size, number), **({"format": "JPEG"} if "J" in place else {}))
    (tmp_path / "root/a/notes.txt").write_text("no picture")
    night = pack_pictures(
        tmp_path / "root", tmp_path / "out", format="pictures", classes=("car", "bus"), domain="night"
    )
    assert night.file_names == ["a/deep/y.JPG", "a/z.jpg", "b.png"]
    assert night.domain_counts == {"night": 3}
    assert night.unlabelled_N.all()
    for i in range(3):
        boxes_N4, labels_N, ignore_N = night.target(i)
        h, w = night.sizes_N2[i]
        assert boxes_N4.tolist() == [[0, 0, w, h]] * 2
        assert (labels_N.tolist(), ignore_N.all()) == ([1, 2], True)


def test_missing_label_files_may_mean_that_nobody_looked(make_yolo, tools, tmp_path):
    root = make_yolo({"a": ((30, 40), ["0 0.5 0.5 0.5 0.5"]), "b": ((30, 40), [])})
    tools.save(root / "train/images/c.jpg", tools.draw(30, 40))
    dataset = pack_pictures(root, tmp_path / "out", read=ReadOptions(unlabelled="ignore"))
    assert dataset.unlabelled_N.tolist() == [False, False, True]


def test_what_cannot_be_is_one_sentence(tools, tmp_path):
    (tmp_path / "none").mkdir()
    options = {"format": "pictures", "classes": ("car",)}
    with pytest.raises(ValueError, match="no picture is in this folder or below"):
        pack_pictures(tmp_path / "none", tmp_path / "out", **options)
    tools.save(tmp_path / "root/a.png", tools.draw(5, 5))
    with pytest.raises(ValueError, match="a folder of pictures has no lists; give ROOT/train as ROOT"):
        pack_pictures(tmp_path / "root", tmp_path / "out", split=("train",), **options)
    with pytest.raises(ValueError, match="give the order with --classes"):
        pack_pictures(tmp_path / "root", tmp_path / "out", format="pictures")
    with pytest.raises(ValueError, match="pictures that nobody labelled are --format pictures"):
        pack_pictures(tmp_path / "root", tmp_path / "out", classes=("car",))
