"""bench.py: its dataset of many records is a sound one, and wrong pixels get no speed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bench import BenchOptions, check_loader, make_records
from pipeline.loader_cpu import CpuDecoder
from pipeline.packed import PackedDataset


def test_the_many_records_are_as_the_packer_writes_them(tmp_path):
    make_records(tmp_path / "many", 61)
    dataset = PackedDataset(tmp_path / "many")
    assert len(dataset) == 61
    assert [len(dataset.target(i)[1]) for i in (0, 29, 30, 60)] == [0, 29, 0, 0]
    assert bytes(dataset.jpeg(60)) == bytes(dataset.jpeg(0))


def test_wrong_pixels_are_refused(make_packed, monkeypatch):
    dataset, options, cpu = make_packed(9), BenchOptions(batch_size=4), torch.device("cpu")
    check_loader(dataset, "cpu", options, cpu)
    right = CpuDecoder._decode

    def mirrored(self, index: int, canvas_HW3: np.ndarray) -> None:
        right(self, index, canvas_HW3)
        canvas_HW3[:] = canvas_HW3[::-1].copy()

    monkeypatch.setattr(CpuDecoder, "_decode", mirrored)
    with pytest.raises(ValueError, match="the loader cpu delivers wrong pixels"):
        check_loader(dataset, "cpu", options, cpu)


@pytest.mark.slow
def test_command_line(tmp_path):
    command = [sys.executable, "-m", "pipeline.bench", "--json", str(tmp_path / "bench.json"), "--images", "8"]
    command += ["--threads", "1", "--loaders", "cpu", "--seconds", "0.1", "--rounds", "1", "--records", "30"]
    command += ["--batch-size", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    row = figures["loaders"]["cpu"]["1"]
    assert row["ratio_to_plain"] == pytest.approx(row["images_per_s"] / figures["plain"]["1"])
    assert 0 <= row["waiting_share_at_80_percent"] <= 1
    assert figures["opening"]["records"] == 30
    assert figures["original_bytes"] > figures["packed_bytes"] > 0
    assert figures["packing_images_per_s"] > 0
