"""contact_sheet.py: the boxes are where the index says, in the colour of their class."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from pipeline.contact_sheet import COLOURS, IGNORED, SheetOptions, cell_height, draw_sample, make_sheet
from pipeline.packed.reader import PackedDataset


def test_boxes_are_drawn_where_they_are(make_voc, tmp_path):
    from pipeline.pack import PackOptions, pack

    objects = [("car", 11, 21, 50, 60), ("bus", 101, 21, 150, 60), ("car", 11, 81, 50, 90, 1)]
    root = make_voc({"a": ((100, 200), objects)})
    (path,) = pack(
        PackOptions(root, tmp_path / "out", classes=("bus", "car"), short_side=200, long_side=400, workers=1)
    )
    with PackedDataset(path) as dataset:
        sheet = np.asarray(draw_sample(dataset, 0, 400, 200))  # as large as packed: twice the original
    for row, colour, (x1, y1, x2, y2) in (
        (0, COLOURS[1], (20, 40, 100, 120)),
        (1, COLOURS[0], (200, 40, 300, 120)),
        (2, IGNORED, (20, 160, 100, 180)),
    ):
        rgb = ImageColor.getrgb(colour)
        for line in (sheet[y1, x1:x2], sheet[y2 - 1, x1:x2], sheet[y1:y2, x1], sheet[y1:y2, x2 - 1]):
            assert (line == rgb).all(), row
        assert not (sheet[y1 - 1, x1 + 40 : x2] == rgb).all(axis=-1).any()  # right of the name
        assert not (sheet[y2, x1:x2] == rgb).all(axis=-1).any()


def test_the_sheet_holds_every_sample_once_when_there_are_few(make_packed):
    dataset = make_packed(7)
    sheet = make_sheet(dataset, SheetOptions(dataset.path, count=16, columns=3, cell=64))
    h = sheet.height // 3
    assert sheet.size == (3 * 64, 3 * h)
    cells = [sheet.crop((c * 64, r * h, c * 64 + 64, r * h + h)) for r in range(3) for c in range(3)]
    assert [np.asarray(cell).any() for cell in cells] == [True] * 7 + [False] * 2
    height = cell_height(dataset.sizes_N2, 64)
    for i in range(7):
        np.testing.assert_array_equal(np.asarray(cells[i]), np.asarray(draw_sample(dataset, i, 64, height)))
    with pytest.raises(ValueError, match="--count and --columns must be at least 1"):
        make_sheet(dataset, SheetOptions(dataset.path, count=0))


def test_most_pictures_fill_their_place():
    sizes = np.array([(576, 1024), (576, 1024), (576, 1024), (1000, 600)])
    assert cell_height(sizes, 480) == 270


def test_command_line(make_packed, tmp_path):
    dataset = make_packed(5)
    command = [sys.executable, "-m", "pipeline.contact_sheet", str(dataset.path), "--count", "4", "--out"]
    run = {"cwd": Path(__file__).parents[2], "capture_output": True, "text": True}
    done = subprocess.run([*command, str(tmp_path / "sheet.png")], **run)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "sheet.png").width == 4 * 480
    done = subprocess.run([*command, str(tmp_path / "sheet.txt")], **run)
    assert (done.returncode, "ends in .jpg or .png" in done.stderr) == (2, True)
