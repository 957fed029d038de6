"""packed.py: checked, zero-copy reading; damage is named, never passed on."""

import hashlib
import json
import random
import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.packed.reader
from pipeline.packed.reader import PackedDataset


def test_what_a_dataset_says_of_itself(make_packed):
    dataset = make_packed(23)
    assert len(dataset) == 23
    assert repr(dataset) == f"PackedDataset({str(dataset.path)!r}): 23 images, classes bus, car"
    assert dataset.classes == ("bus", "car")
    assert dataset.max_boxes == 8
    assert dataset.domains == ["packed-source"]
    assert dataset.domain_of(22) == "packed-source"
    assert dataset.file_names[22] == "JPEGImages/image022.jpg"
    assert dataset.original_sizes_N2[5].tolist() == [37, 200]
    assert dataset.sizes_N2[5].tolist() == [18, 100]  # 37 * 0.5 = 18.5 rounds to even
    assert dataset.canvases == {"landscape": (64, 128), "portrait": (128, 64)}
    boxes, labels, ignore = dataset.target(7)
    assert dataset.sizes_N2[7].tolist() == [56, 100]
    np.testing.assert_array_equal(boxes, [[0, 0, 100, 56]] * 3)
    np.testing.assert_array_equal(dataset.original_target(7)[0], [[0, 0, 160, 90]] * 3)
    assert labels.tolist() == [1, 2, 2]
    assert ignore.tolist() == [False, False, True]
    assert (boxes.dtype, labels.dtype, ignore.dtype) == (np.float32, np.int64, bool)
    assert dataset.target(0)[0].shape == (0, 4)
    assert dataset.index_of(22) == 22
    with pytest.raises(ValueError, match="no image with id 99"):
        dataset.index_of(99)
    dataset.verify()


def test_canvases_of_one_orientation_alone(make_packed):
    assert make_packed(4, name="wide", sizes=[(72, 128)]).canvases == {"landscape": (64, 128)}
    assert make_packed(4, name="tall", sizes=[(128, 72)]).canvases == {"portrait": (128, 64)}


def test_slices_are_views_and_outlive_the_dataset(make_packed):
    dataset = make_packed(8)
    view = dataset.jpeg(3)
    assert isinstance(view, memoryview)
    assert view.readonly
    copy = bytes(view)
    dataset.close()
    assert bytes(view) == copy
    assert dataset.jpeg(3) == view  # opened again


def test_many_shards_do_not_hold_many_files_open(make_packed, monkeypatch):
    monkeypatch.setattr(pipeline.packed.reader, "MAX_OPEN_SHARDS", 2)
    dataset = make_packed(12, images_per_shard=2)
    views = [bytes(dataset.jpeg(i)) for i in [*range(12), *range(12)]]
    assert views[:12] == views[12:]
    assert len(dataset._maps) == 2


def test_threads_share_a_dataset(make_packed, monkeypatch):
    monkeypatch.setattr(pipeline.packed.reader, "MAX_OPEN_SHARDS", 1)
    dataset = make_packed(12, images_per_shard=3)
    expected = [bytes(dataset.jpeg(i)) for i in range(12)]
    wrong = []

    def read(start: int) -> None:
        for step in range(200):
            i = (start + 5 * step) % 12
            if bytes(dataset.jpeg(i)) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def flip(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_damaged_record_names_its_key_and_leaves_the_others(make_packed):
    dataset = make_packed(9, images_per_shard=4)
    start = dataset._places[""].offset[6]
    dataset.close()
    flip(dataset.path / "shard-000001.tar", int(start) + 20)
    dataset = PackedDataset(dataset.path)
    dataset.jpeg(5)
    with pytest.raises(ValueError, match=r"record 000000000006 of shard-000001.tar is damaged"):
        dataset.jpeg(6)
    with pytest.raises(ValueError, match="000000000006"):
        dataset.verify()


def test_damage_between_records_is_found_by_verify(make_packed):
    dataset = make_packed(4)
    flip(dataset.path / "shard-000000.tar", 3)
    with pytest.raises(ValueError, match=r"shard-000000.tar is damaged \(its checksum"):
        PackedDataset(dataset.path).verify()


def test_missing_and_cut_files(make_packed):
    path = make_packed(9, images_per_shard=4).path
    tar = path / "shard-000002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    with pytest.raises(ValueError, match=r"shard-000002.tar has \d+ bytes where dataset.json says"):
        PackedDataset(path)
    tar.unlink()
    with pytest.raises(ValueError, match=r"shard-000002.tar is missing"):
        PackedDataset(path)
    tar.write_bytes(whole)
    flip(path / "index.parquet", 100)
    with pytest.raises(ValueError, match=r"index.parquet is damaged"):
        PackedDataset(path)
    (path / "index.parquet").unlink()
    with pytest.raises(ValueError, match=r"index.parquet is missing"):
        PackedDataset(path)
    (path / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"is not a packed dataset \(no dataset.json\); make one with"):
        PackedDataset(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(version=2), "has format fairweather-packed version 2, expected"),
        (lambda info: info.pop("shards"), "dataset.json: it lacks shards"),
        (lambda info: info.update(classes=[]), "labels that are not in the class list"),
        (lambda info: info.update(classes=["car"]), "labels that are not in the class list"),
        (lambda info: info["canvases"].update(landscape=[32, 32]), r"has the canvases .*\(32, 32\)"),
        (lambda info: info["canvases"].update(landscape=[64, 160]), r"has the canvases .*\(64, 160\)"),
        (lambda info: info["canvases"].pop("portrait"), "has the canvases"),
        (lambda info: info.update(classes=["bus", "cat\nerror: x"]), r"the name 'cat\\nerror: x' has a control"),
        (lambda info: info["domains"].update({"a\x1b[2J": 1}), r"the name 'a\\x1b\[2J' has a control character"),
        (lambda info: info["domains"].update({" ": 1}), "the name is ' ', expected text"),
        (lambda info: info.update(classes=["bus", "cat"]), "class names .* contradict"),
        (lambda info: info.update(classes=["car", "bus"]), "class names .* contradict"),
        (lambda info: info["objects"]["car"].update(small=5), "numbers of objects that contradict"),
        (lambda info: info["objects"]["car"].update(small="1"), "objects.car.small is '1', not a whole number"),
        (
            lambda info: info["canvases"].update(landscape=[1 << 20, 32]),
            "canvases.landscape.0 is '1048576', not a whole number from 1 to 16384",
        ),
        (lambda info: info["shards"][0].update(file="shard-/../../x"), "shards.0.file is .*, which does not fit"),
        (lambda info: info["index"].update(file="../index.parquet"), "index.file is .*, which does not fit"),
        (lambda info: info.update(canvases=[]), "canvases is '\\[\\]', not an object"),
        (lambda info: info["encoding"].update(short_side="600"), "encoding.short_side is '600', not a whole number"),
        (lambda info: info["encoding"].pop("raw"), "encoding lacks raw"),
        (lambda info: info["encoding"].update(chroma="4:2:1"), "encoding.chroma is '4:2:1', which does not fit"),
        (lambda info: info["domains"].clear(), "domains or numbers of their images that are not those"),
        (lambda info: info.update(num_images=10), r"index\.parquet has 9 images where dataset\.json says 10"),
        (lambda info: info["shards"][0].update(sha256="0"), "shards.0.sha256 is '0', which does not fit"),
        (lambda info: info.update(later=1), r"has \['later'\], which this version does not know"),
    ],
)
def test_a_card_that_is_wrong(make_packed, change, message):
    path = make_packed(9).path
    info = json.loads((path / "dataset.json").read_text())
    change(info)
    (path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"dataset\.json"):
        PackedDataset(path)
    info.pop("checksum")  # as before there was one
    (path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=message):
        PackedDataset(path)


def test_no_flipped_bit_of_the_card_passes(make_packed):
    """Before, a third of them did."""
    path = make_packed(9).path / "dataset.json"
    whole = path.read_bytes()
    content, generator = json.loads(whole), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            assert json.loads(damaged) == content  # another blank between two values
        except (ValueError, AssertionError):
            with pytest.raises(ValueError, match=r"dataset\.json"):
                PackedDataset(path.parent)


def test_a_card_of_before_has_no_checksum(make_packed):
    path = make_packed(9).path
    info = json.loads((path / "dataset.json").read_text())
    del info["checksum"]
    (path / "dataset.json").write_text(json.dumps(info | {"name": "packed"}))
    PackedDataset(path).verify()


def test_data_that_are_gone_are_one_sentence(make_packed):
    dataset = make_packed(9)
    shutil.rmtree(dataset.path)
    with pytest.raises(ValueError, match=r"shard-000000.tar cannot be read any more \(No such file or directory\)"):
        dataset.jpeg(0)


def rewrite_index(path, rows, schema) -> None:
    """With a right checksum, as someone else's tool would write it."""
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path / "index.parquet")
    info = json.loads((path / "dataset.json").read_text())
    info.pop("checksum", None)
    info["index"]["sha256"] = hashlib.sha256((path / "index.parquet").read_bytes()).hexdigest()
    (path / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 1 << 40, "points outside the shards"),
        ("offset", -1, "points outside the shards"),
        ("length", 0, "points outside the shards"),
        ("shard", 7, "points outside the shards"),
        ("id", 0, "negative or duplicate ids"),
        ("id", -1, "negative or duplicate ids"),
        ("height", 0, "without a size"),
        ("height", 4000, "has the canvases"),
        ("boxes", [[0, 0, 1, 1]] * 2, "unequal numbers"),
        ("boxes", [[0, 0, 1, float("nan")]] * 3, "boxes outside their image"),
        ("boxes", [[0, 0, 1000, 1]] * 3, "boxes outside their image"),
        ("boxes", [[5, 0, 5, 1]] * 3, "boxes outside their image or without area"),
        ("labels", [0, 1, 1], "not in the class list"),
        ("labels", [3, 1, 1], "not in the class list"),
        ("ignore", [None, True, True], "empty cells inside a list"),
        ("boxes", [[0, 0, 1, None]] * 3, "empty cells inside a list"),
        ("boxes", [None] * 3, "empty cells inside a list"),
        ("width", None, "empty cells"),
    ],
)
def test_an_index_that_lies(make_packed, column, value, message):
    path = make_packed(9).path
    table = pq.read_table(path / "index.parquet")
    rows = table.to_pylist()
    rows[7][column] = value
    rewrite_index(path, rows, table.schema)
    with pytest.raises(ValueError, match=message):
        PackedDataset(path)


def test_an_index_of_more_than_the_shards_can_hold_is_not_unpacked(make_packed, monkeypatch):
    """Equal values take no place in Parquet: a file of kilobytes would fill the memory."""
    path = make_packed(9).path
    table = pq.read_table(path / "index.parquet")
    rows, before = table.to_pylist(), json.loads((path / "dataset.json").read_text())

    def unpack(*_, **__):
        raise AssertionError("unpacked")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", unpack)
    for count, objects, message in (
        (5000, 0, "has 5000 images and 12 objects, more than .* bytes of shards can hold"),
        (9, 10**12, "has 9 images and 1000000000012 objects, more than"),
    ):
        rewrite_index(path, (rows * count)[:count], table.schema)
        info = json.loads((path / "dataset.json").read_text()) | {"num_images": count}
        info["objects"]["car"] = before["objects"]["car"] | {"ignored": before["objects"]["car"]["ignored"] + objects}
        (path / "dataset.json").write_text(json.dumps(info))
        with pytest.raises(ValueError, match=rf"index\.parquet {message}"):
            PackedDataset(path)
    rows[7]["labels"] = [1] * 100_000
    (path / "dataset.json").write_text(json.dumps(before))
    rewrite_index(path, rows, table.schema)
    with pytest.raises(ValueError, match=r"index\.parquet has more values than dataset\.json has images and objects"):
        PackedDataset(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0, 0, 1, 1]] * 2, "other numbers of original boxes"),
        ([[0, 0, 1, float("nan")]] * 3, "original boxes outside their image"),
        ([[0, 0, 5000, 1]] * 3, "original boxes outside their image"),
        ([[0, 0, 1, None]] * 3, "empty cells inside a list"),
        (None, "empty cells"),
    ],
)
def test_original_boxes_that_lie(make_packed, value, message):
    path = make_packed(9).path
    table = pq.read_table(path / "index.parquet")
    rows = table.to_pylist()
    rows[7]["original_boxes"] = value
    rewrite_index(path, rows, table.schema)
    with PackedDataset(path) as dataset, pytest.raises(ValueError, match=rf"index.parquet .*{message}"):
        dataset.original_target(7)


def test_an_index_damaged_after_opening_is_not_read_again_unseen(make_packed):
    dataset = make_packed(9)
    flip(dataset.path / "index.parquet", 100)
    with pytest.raises(ValueError, match=r"index.parquet is damaged"):
        _ = dataset.file_names
    with pytest.raises(ValueError, match=r"index.parquet is damaged"):
        dataset.original_target(0)
    (dataset.path / "index.parquet").unlink()
    with pytest.raises(ValueError, match=r"index.parquet is missing; pack the dataset again"):
        _ = dataset.file_names


def test_several_groups_of_rows_read_as_one(make_packed, monkeypatch):
    monkeypatch.setattr("pipeline.packed.index.ROW_GROUP", 4)
    split = make_packed(23, name="split")
    monkeypatch.undo()
    whole = make_packed(23, name="whole")
    assert pq.ParquetFile(split.path / "index.parquet").num_row_groups == 6
    for i in range(23):
        for got, expected in zip(split.target(i), whole.target(i), strict=True):
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(split.original_target(i)[0], whole.original_target(i)[0])
        assert split.jpeg(i) == whole.jpeg(i)
    assert split.file_names == whole.file_names


def test_an_index_whose_lists_disagree_row_by_row(make_packed):
    """The totals agree, so nothing but the rows' own lengths shows that boxes would get the labels of another image."""
    path = make_packed(9).path
    table = pq.read_table(path / "index.parquet")
    rows = table.to_pylist()
    rows[5]["labels"], rows[6]["labels"] = [1, 2], [1]  # they have 1 and 2 boxes
    rewrite_index(path, rows, table.schema)
    with pytest.raises(ValueError, match="images with unequal numbers of boxes, labels and flags"):
        PackedDataset(path)
