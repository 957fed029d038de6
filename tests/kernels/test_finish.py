"""What the host decides for the last kernel of the views: how wide a canvas may be, and how much a block makes."""

import numpy as np
import pytest
import torch

from kernels.checks import host
from kernels.launch import finish, gpu
from kernels.task import ROW


def test_a_canvas_must_be_as_wide_as_whole_stores():
    with pytest.raises(ValueError, match="multiple of 8 pixels wide; got 36"):
        gpu.make_views(
            host.Counted(), torch.zeros(1, 32, 36, 3, dtype=torch.uint8), torch.zeros(1, 0, 4), host.CountedTable(1),
            None, (32, 32), torch.float32, True,
        )  # fmt: skip


def test_columns_of_a_block_fit_its_tile():
    sides = ((1000, 600), (1000, 1000), (1000, 100), (15, 1), (3, 3), (130, 13), (640, 319), (0, 0))
    for width, small in sides:
        num, scale = finish.columns_of_block(width, small), max(1.0, width / max(small, 1))
        assert num % finish.UNIT == 0
        assert num * finish.taps_of(scale) <= finish.WEIGHTS
        assert finish.taps_of(scale) >= 2 * scale
        if width:  # the last weight of the last column that the image has
            columns = min(num, small)
            assert (columns - 1) * scale + finish.taps_of(scale) + 1 <= finish.TILE
    rows_B = np.zeros(len(sides), ROW)
    rows_B["width"], rows_B["small_width"] = np.array(sides).T
    assert finish.fill_columns(rows_B) == min(rows_B["columns"])
    assert rows_B["columns"].tolist() == [finish.columns_of_block(*each) for each in sides]
