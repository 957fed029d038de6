"""Seeing Through Fog: a generated set of its exact layout; columns, classes and lists as its own tools read them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.kitti import find_kitti
from pipeline.sources.options import ReadOptions
from pipeline.sources.read import detect_format, read_source
from pipeline.sources.seeing_through_fog import CLASSES, PUBLISHED, compare, domain_of, scored_parts

OTHERS = ("PassengerCar", "RidableVehicle", "LargeVehicle")
W, H = 192, 102  # a tenth of 1920 x 1024, cut
DAY, NIGHT = {"day": True, "night": False}, {"day": False, "night": True}


def frame(number: int) -> str:
    return f"2018-02-03_20-48-{number:02d}_00400"


def row(name: str, box: tuple[float, float, float, float], seen: str = "True True False False") -> str:
    """27 columns: the class, 3 numbers, the box, 10 of KITTI's and their own, the score, a quaternion, who sees it."""
    return f"{name} 0 1 -1.57 {' '.join(map(str, box))} 1.5 1.6 3.9 2.0 0.5 20.1 0.1 0.0 0.1 0.0 1.0 1 0 0 0 {seen}"


def write_frame(root: Path, number: int, rows: list[str], conditions: dict | None = None) -> None:
    stem = frame(number)
    for folder in ("cam_stereo_left_lut", "gt_labels/cam_left_labels_TMP", "labeltool_labels", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H), (number, 90, 30)).save(root / "cam_stereo_left_lut" / f"{stem}.png")
    (root / "gt_labels/cam_left_labels_TMP" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in rows))
    if conditions is not None:
        (root / "labeltool_labels" / f"{stem}.json").write_text(json.dumps(conditions))


def write_list(path: Path, numbers: list[int]) -> None:
    path.write_text("".join(re.sub(r"_(\d+)$", r",\1", frame(number)) + "\n" for number in numbers))


@pytest.fixture
def fog(tmp_path) -> Path:
    root = tmp_path / "SeeingThroughFogData"
    rows = [
        row("PassengerCar", (10.5, 20.25, 60.0, 70.0)),
        row("Pedestrian_is_group", (1, 1, 20, 40)),
        row("Pedestrian", (30, 1, 50, 40), "False True False False"),  # only the gated camera sees it
        row("RidableVehicle", (70, 50, 90, 80), "Unknown True True True"),
        row("Vehicle", (100, 50, 120, 60)),
        row("DontCare", (130, 50, 150, 60)),
        row("LargeVehicle", (150, 50, 150, 60)),  # no width
    ]
    dense = {"clear": False, "light_fog": False, "dense_fog": True, "rain": True, "snow": False}
    write_frame(root, 0, rows, {"daytime": DAY, "weather": "clear", "meta": {"illumination": "active_light"}})
    write_frame(root, 1, [], {"daytime": NIGHT, "weather": dense, "meta": {}})
    write_frame(root, 2, ["Pedestrian 0 0 0 5 5 25 45 1 1 1 1 1 1 0"])  # KITTI's 15 columns, no conditions
    write_frame(root, 3, [row("PassengerCar", (1, 1, 9, 9))])
    for name, numbers in {"train_clear_day": [0], "test_clear_night": [1, 2], "dense_fog_night": [3],
                          "all": [0, 1, 2, 3]}.items():  # fmt: skip
        write_list(root / "splits" / f"{name}.txt", numbers)
    return root


def test_recognised_by_its_folders_though_kitti_reads_such_lines(fog):
    assert detect_format(fog) == "stf"
    (fog / "gt_labels/cam_left_labels_TMP").rename(fog / "labels")
    (fog / "cam_stereo_left_lut").rename(fog / "images")
    (fog / f"labels/{frame(0)}.txt").write_text("Car 0 0 0 5 5 25 45 1 1 1 1 1 1 0\n")
    assert find_kitti(fog)
    assert detect_format(fog) == "kitti"


def test_columns_classes_and_what_is_ignored(fog):
    source = read_source(fog, splits=("train_clear_day",), quiet=True)
    assert source.classes == CLASSES == ("PassengerCar", "Pedestrian", "RidableVehicle", "LargeVehicle")
    assert source.problems == []
    (sample,) = source.samples
    assert sample.domain == "clear_day"
    found = list(zip(sample.labels_N.tolist(), sample.ignore_N.tolist(), sample.boxes_N4.tolist(), strict=True))
    assert found == [
        (1, False, [10.5, 20.25, 60, 70]),
        (2, True, [1, 1, 20, 40]),  # a group
        (2, True, [30, 1, 50, 40]),  # unseen by this camera
        (3, False, [70, 50, 90, 80]),
        *((label, True, [100, 50, 120, 60]) for label in (1, 3, 4)),  # some vehicle
        *((label, True, [130, 50, 150, 60]) for label in (1, 2, 3, 4)),
    ]


def test_one_packed_dataset_a_list_named_by_it_and_counted_against_the_published(fog, tmp_path, capsys):
    made = pack(PackOptions(fog, tmp_path / "out", workers=1))
    assert [path.name for path in made] == ["dense_fog_night", "test_clear_night", "train_clear_day"]  # not `all`
    said = capsys.readouterr().out
    assert "test_clear_night: DIFFERS from the published number of images: 2 (published 877)" in said
    with PackedDataset(tmp_path / "out/test_clear_night") as dataset:
        assert dataset.domain_counts == {"clear_night": 2}
        assert dataset.file_names == [f"cam_stereo_left_lut/{frame(n)}.png" for n in (1, 2)]
        assert dataset.target(0)[1].tolist() == []
    assert compare("rain", 282, {}) == ["rain: the number of images equals the published one"]
    assert compare("mine", 282, {}) == []
    assert len(PUBLISHED) == 14
    assert pack(PackOptions(fog, tmp_path / "some", workers=1, split=("dense_fog_night",)))[0].name == "dense_fog_night"
    night = PackOptions(fog, tmp_path / "night", workers=1, read=ReadOptions(domains=("*_night",)))
    assert len(pack(night)) == 2
    dark = PackOptions(fog, tmp_path / "dark", workers=1, read=ReadOptions(where=("weather=dense_fog*",)))
    with pytest.raises(ValueError, match=r"dense_fog_night: --where: no image of .* has the attribute 'weather'"):
        pack(dark)


def test_names_of_lists_give_domains():
    assert [domain_of(name) for name in ("train_clear_day", "val_clear_night", "light_fog_day", "rain", "test")] == [
        "clear_day", "clear_night", "light_fog_day", "rain", "test",
    ]  # fmt: skip


def test_conditions_are_attributes(fog):
    def stems(*where: str) -> list[str]:
        source = read_source(fog, splits=("all",), options=ReadOptions(where=where), quiet=True)
        return [sample.path.stem for sample in source.samples]

    (fog / "splits/train_clear_day.txt").unlink()
    (fog / "splits/test_clear_night.txt").unlink()
    (fog / "splits/dense_fog_night.txt").unlink()
    assert stems("daytime=night") == [frame(1)]
    assert stems("weather=clear", "illumination=active_light") == [frame(0)]
    assert stems("weather=dense_fog*") == [frame(1)]
    named = read_source(fog, splits=("all",), options=ReadOptions(domain_name="{daytime}"), quiet=True)
    assert [sample.domain for sample in named.samples] == ["day", "night", "undefined", "undefined"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / f"cam_stereo_left_lut/{frame(3)}.png").unlink(), "line 1: cam_stereo_left_lut has no p"),
        (lambda root: write_list(root / "splits/dense_fog_night.txt", [3, 3]), "line 2: .* is listed twice"),
        (lambda root: (root / f"gt_labels/cam_left_labels_TMP/{frame(3)}.txt").unlink(), "00400.txt: is missing"),
        (
            lambda root: (root / f"gt_labels/cam_left_labels_TMP/{frame(3)}.txt").write_text("Pedestrian 1 2 3 4 5"),
            "line 1: has 6 columns; expected 15, 16 or 27",
        ),
        (
            lambda root: (root / f"gt_labels/cam_left_labels_TMP/{frame(3)}.txt").write_text(
                row("Pedestrian", (1, 1, 9, 9)).replace(" 9 ", " nine ")
            ),
            "'nine' is not a number",
        ),
        (lambda root: (root / f"labeltool_labels/{frame(3)}.json").write_text("{"), "is not valid JSON"),
        (
            lambda root: (root / "splits/dense_fog_night.txt").write_text(f"{frame(3)}\n../../etc/passwd\n"),
            "points outside|has no picture",
        ),
    ],
)  # fmt: skip
def test_faults_are_named(fog, harm, message):
    harm(fog)
    source = read_source(fog, splits=("dense_fog_night",), quiet=True)
    assert len(source.problems) == 1
    assert re.search(message, str(source.problems[0]))


def test_the_archive_of_cmkd_scales_the_gated_cameras_boxes(tmp_path):
    root = tmp_path / "data"
    for folder in ("images", "gated0", "gated1", "gated2", "gated_labels"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        stem = frame(number)
        Image.new("RGB", (1280, 768)).save(root / "images" / f"{stem}.png")
        for place in range(3):
            Image.new("L", (1280, 768), 40 * place + number).save(root / f"gated{place}" / f"{stem}.png")
    lines = [
        row("Pedestrian", (100, 90, 200, 360), "False True True True"),  # the labels' own camera sees it
        row("Pedestrian", (300, 90, 400, 360), "True False True True"),
        row("Pedestrian_is_group", (0, 0, 1280, 720)),
        row("PassengerCar", (0, 0, 9, 9)),
    ]
    (root / "gated_labels" / f"{frame(0)}.txt").write_text("\n".join(lines))
    (root / "gated_labels" / f"{frame(1)}.txt").write_text("")
    write_list(root / "train_night.txt", [0])
    write_list(root / "val_night.txt", [1])
    (root / "notes.txt").write_text("not a list\n")
    assert [(name, domain) for name, domain, *_ in scored_parts(root)] == [
        ("train_night", "night"),
        ("val_night", "night"),
    ]
    read = ReadOptions(extra=("gated=gated0,gated1,gated2",))
    made = pack(PackOptions(root, tmp_path / "out", drop=OTHERS, workers=1, read=read))
    assert [path.name for path in made] == ["train_night", "val_night"]
    with PackedDataset(made[0]) as dataset:
        boxes_N4, _, ignore_N = dataset.original_target(0)
        np.testing.assert_allclose(
            boxes_N4, [(100, 96, 200, 384), (300, 96, 400, 384), (0, 0, 1280, 768)]
        )  # y 768 / 720
        assert ignore_N.tolist() == [False, True, True]
        assert dataset.extra == {"gated": 3}
        assert dataset.read_extra(0, "gated")[5, 5].tolist() == [0, 40, 80]


def test_slices_of_the_published_cameras_are_refused_because_they_are_not_aligned(fog):
    for number in range(4):
        (fog / "gated0_8bit").mkdir(exist_ok=True)
        Image.new("L", (128, 72)).save(fog / "gated0_8bit" / f"{frame(number)}.png")
    source = read_source(fog, splits=("all",), options=ReadOptions(extra=("gated=gated0_8bit",)), quiet=True)
    assert len(source.problems) == 4
    for problem in source.problems:
        assert "is 128x72 and the picture 192x102: of another shape, it is not aligned" in str(problem)


def test_a_frame_without_labels_may_be_kept(fog):
    (fog / f"gt_labels/cam_left_labels_TMP/{frame(1)}.txt").unlink()
    for word, expected in (("background", 2), ("ignore", 2), ("skip", 1)):
        options = ReadOptions(unlabelled=word)
        source = read_source(fog, splits=("test_clear_night",), options=options, quiet=True)
        assert (source.problems, len(source.samples)) == ([], expected)
