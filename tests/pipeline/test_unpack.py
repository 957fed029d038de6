"""unpack.py: what was packed comes out again, and our own readers and pycocotools read it as it was."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from pipeline.files.pixels import decode_packed
from pipeline.pack import PackOptions, pack
from pipeline.packed.derive import Objects, derive
from pipeline.packed.reader import PackedDataset
from pipeline.sources.options import ReadOptions
from pipeline.sources.read import read_source
from pipeline.unpack import UnpackOptions, unpack


def compare(dataset: PackedDataset, root: Path, to: str, domain_name: str = "") -> None:
    """Read what was written with our own reader: ids, boxes, classes, flags, pixels."""
    classes = dataset.classes if to == "voc" else ()
    source = read_source(root, classes=classes, options=ReadOptions(domain_name=domain_name), quiet=True)
    assert (source.format, source.problems, source.classes) == (to, [], dataset.classes)
    assert [int(sample.path.stem) for sample in source.samples] == sorted(dataset.ids_N.tolist())
    for sample in source.samples:
        i = dataset.index_of(int(sample.path.stem))
        boxes_N4, labels_N, ignore_N = dataset.target(i)
        assert sample.size == tuple(dataset.sizes_N2[i])
        if to == "yolo":
            boxes_N4, labels_N, ignore_N = boxes_N4[~ignore_N], labels_N[~ignore_N], ignore_N[~ignore_N]
        np.testing.assert_allclose(sample.boxes_N4, boxes_N4, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(sample.labels_N, labels_N)
        np.testing.assert_array_equal(sample.ignore_N, ignore_N)
        if domain_name:
            assert sample.domain == dataset.domain_of(i)
        if sample.path.suffix == ".jpg":
            assert sample.path.read_bytes() == bytes(dataset.jpeg(i))
        else:
            np.testing.assert_array_equal(np.asarray(Image.open(sample.path)), decode_packed(dataset.jpeg(i)))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_round_trips(make_packed, tmp_path, to, raw, capsys):
    with make_packed(11, raw=raw) as dataset:
        unpack(UnpackOptions(dataset.path, tmp_path / "out", to, split="val"))
        said = capsys.readouterr().out
        num_ignored = int(sum(dataset.target(i)[2].sum() for i in range(len(dataset))))
        assert num_ignored > 0
        assert (f"{num_ignored} ignored boxes left out" in said) == (to == "yolo")
        compare(dataset, tmp_path / "out", to, "{domain}" if to in ("coco", "voc") else "")
    (path,) = pack(
        PackOptions(
            tmp_path / "out",
            tmp_path / "again",
            classes=("bus", "car"),
            short_side=60,
            long_side=100,
            raw=raw,
            workers=1,
        )
    )
    with PackedDataset(path) as again:
        assert again.sizes_N2.tolist() == dataset.sizes_N2.tolist()


def test_weights_that_are_lost_are_named(make_packed, tmp_path, capsys):
    with make_packed(5) as dataset:
        halves = [Objects(*dataset.original_target(i), np.full(len(dataset.target(i)[0]), 0.5)) for i in range(5)]
        derive(dataset, tmp_path / "weighed", range(5), {}, lambda rows: [halves[row] for row in rows], weighted=True)
        unpack(UnpackOptions(dataset.path, tmp_path / "plain", "coco"))
        assert "the boxes' weights" not in capsys.readouterr().out
    unpack(UnpackOptions(tmp_path / "weighed", tmp_path / "out", "coco"))
    assert "the boxes' weights are left out" in capsys.readouterr().out


def test_boxes_computed_by_hand(make_voc, tmp_path):
    """A picture of 200x100 packed at half its size: 10 20 50 60 becomes 5 10 25 30."""
    root = make_voc(
        {"a": ((100, 200), [("car &amp; &lt;bus>", 11, 21, 50, 60), ("car &amp; &lt;bus>", 101, 21, 150, 60, 1)])}
    )
    options = PackOptions(root, tmp_path / "packed", classes=("van", "car & <bus>"), short_side=50, workers=1)
    pack(options)
    for to in ("coco", "voc", "yolo"):
        unpack(UnpackOptions(options.out, tmp_path / "out" / to, to))
    data = json.loads((tmp_path / "out/coco/annotations/instances_train.json").read_text())
    assert [(row["bbox"], row["iscrowd"], row["category_id"]) for row in data["annotations"]] == [
        ([5, 10, 20, 20], 0, 2),
        ([50, 10, 25, 20], 1, 2),
    ]
    assert data["images"][0]["original_file_name"] == "JPEGImages/a.jpg"
    text = (tmp_path / "out/voc/Annotations/000000000000.xml").read_text()
    assert "<xmin>6.0</xmin><ymin>11.0</ymin><xmax>25.0</xmax><ymax>30.0</ymax>" in text
    assert "<name>car &amp; &lt;bus&gt;</name>" in text
    assert (tmp_path / "out/yolo/labels/train/000000000000.txt").read_text() == "1 0.15 0.4 0.2 0.4\n"
    with PackedDataset(options.out) as dataset:
        for to in ("coco", "voc", "yolo"):
            compare(dataset, tmp_path / "out" / to, to)


def test_pycocotools_reads_it(make_packed, tmp_path):
    from pycocotools.coco import COCO

    with make_packed(5) as dataset:
        unpack(UnpackOptions(dataset.path, tmp_path / "out", "coco"))
    coco = COCO(tmp_path / "out/annotations/instances_train.json")
    assert sorted(coco.imgs) == list(range(5))
    assert len(coco.anns) == sum(len(dataset.target(i)[1]) for i in range(5))


def test_domains_are_chosen(make_voc, tmp_path, tools):
    root = make_voc({"a": ((9, 9), []), "b": ((9, 9), [])})
    (root / "Annotations/b.xml").write_text(tools.voc_xml((9, 9), [], "<weather>snow</weather>"))
    read = ReadOptions(domain_name="{weather}")
    pack(PackOptions(root, tmp_path / "packed", classes=("car",), workers=1, read=read))
    unpack(UnpackOptions(tmp_path / "packed", tmp_path / "out", "yolo", domains=("sn*",)))
    assert [path.name for path in (tmp_path / "out/images/train").iterdir()] == ["000000000001.jpg"]
    with pytest.raises(ValueError, match=r"--domains rain: .* has undefined, snow"):
        unpack(UnpackOptions(tmp_path / "packed", tmp_path / "out2", "yolo", domains=("rain",)))
    assert not (tmp_path / "out2").exists()


def test_folders_that_hold_something_are_left_alone(make_packed, tmp_path):
    with make_packed(2) as dataset:
        path = dataset.path
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="full is not empty: choose an empty or new folder"):
        unpack(UnpackOptions(path, tmp_path / "full", "voc"))
    with pytest.raises(ValueError, match="is a file: choose a folder"):
        unpack(UnpackOptions(path, tmp_path / "full/mine.txt", "voc"))
    with pytest.raises(ValueError, match=r"is inside .* the packed dataset: choose a folder elsewhere"):
        unpack(UnpackOptions(path, path / "out", "voc"))
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "pipeline.unpack", str(path), str(tmp_path / "empty"), "--to", "voc"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout.splitlines()[-1].split(": ")[1]) == (
        0,
        "2 pictures with their boxes as voc, split train",
    )


def test_options_on_the_command_line():
    options = tyro.cli(UnpackOptions, args=["a", "b", "--to", "coco", "--domains", "x", "y*"])
    assert options == UnpackOptions(Path("a"), Path("b"), "coco", domains=("x,y*",))
