"""Which images each launch of a GPU serves, and what a batch makes it keep memory for."""

import pytest
import torch

from kernels import severity
from kernels.checks import host
from kernels.launch import gpu, own
from kernels.launch.lists import write_lists
from kernels.launch.table import Table

NAMES = ("contrast", None, "jpeg_compression", "fog", "zoom_blur", "jpeg_compression", "gaussian_noise", "contrast")


def put(table: Table, names) -> None:
    for row, name in zip(table.rows_B, names, strict=True):
        row["corruption"] = severity.NONE if name is None else severity.INDEX[name]
        row["height"] = row["width"] = row["small_height"] = row["small_width"] = 32


def launch(names) -> host.Counted:
    keep, table = host.Counted(), host.CountedTable(len(names))
    put(table.host, names)
    images_BHW3, boxes_BG4 = torch.zeros(len(names), 32, 64, 3, dtype=torch.uint8), torch.zeros(len(names), 5, 4)
    gpu.make_views(keep, images_BHW3, boxes_BG4, table, None, (32, 64), torch.bfloat16, True)
    return keep


def test_a_list_has_the_images_of_its_types():
    table = Table(len(NAMES))
    put(table, NAMES)
    lists = {name: table.lists_M[place.first :][: place.num].tolist() for name, place in write_lists(table).items()}
    assert lists == {"statistics": [0, 3, 7], "zoom_blur": [4], "jpeg_compression": [2, 5]}
    assert list(lists) == ["statistics", "zoom_blur", "jpeg_compression"]  # the order in which they run


@pytest.mark.parametrize("name", severity.ALL)
def test_lists_of_one_type_fit_the_table(name):
    table = Table(3)
    put(table, (name,) * 3)
    for first, num in write_lists(table).values():
        assert table.lists_M[first : first + num].tolist() == [0, 1, 2]


def test_a_grid_covers_the_images_of_its_list():
    launched = {each.name: each for each in launch(NAMES).launched}
    served = {"statistics": 3, "zoom_pack": 1, "zoom_blur": 1, "jpeg_transform": 2, "jpeg_convert": 2}
    assert {name: launched[name].grid[2] for name in served} == served
    assert launched["clean_bfloat16"].grid[2] == launched["finish_bfloat16"].grid[2] == len(NAMES)
    assert launched["jpeg_transform"].numbers[-1] == launched["statistics"].numbers[-1] + 4  # after 0, 3, 7 and 4


def test_only_types_that_use_scratch_make_it_grow():
    keep = launch(("brightness", None, "fog", "shot_noise"))
    assert keep.scratch.numel() == keep.pixel_scratch.numel() == 0
    keep = launch(("motion_blur", None))
    assert (keep.scratch.numel(), keep.pixel_scratch.numel()) == (0, 2 * 32 * 3 * 64)
    for name in own.KERNELS.keys() - {"motion_blur", "gaussian_blur", "pixelate"}:
        assert launch((name,)).scratch.numel() == 2 * 32 * 3 * 64
