"""bench.py: its dataset of many records is a sound one, and wrong pixels are named."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.bench
from pipeline.bench import BenchOptions, check_loader, make_records, measure_opening
from pipeline.files.pixels import decode_packed
from pipeline.loading.cpu import CpuDecoder
from pipeline.packed.reader import PackedDataset


def test_the_many_records_are_as_the_packer_writes_them(tmp_path):
    make_records(tmp_path / "many", 61)
    dataset = PackedDataset(tmp_path / "many")
    assert len(dataset) == 61
    assert [len(dataset.target(i)[1]) for i in (0, 29, 30, 60)] == [0, 29, 0, 0]
    assert len({bytes(dataset.jpeg(i)) for i in range(61)}) == 61
    assert len({box.tobytes() for i in range(61) for box in dataset.target(i)[0]}) == 870
    assert decode_packed(dataset.jpeg(60)).shape == (16, 16, 3)
    dataset.original_target(29)


@pytest.mark.long
def test_opening_many_records_stays_small(tmp_path):
    """The whole process, its imports included: 100,000 records have to stay under 300 MB, see `measure_opening`."""
    make_records(tmp_path / "many", 100_000)
    assert measure_opening(tmp_path / "many", rounds=1)["peak_mb"] < 250


def test_wrong_pixels_are_refused(make_packed, monkeypatch):
    dataset, options, cpu = make_packed(9), BenchOptions(batch_size=4), torch.device("cpu")
    assert check_loader(dataset, "cpu", options, cpu) is None
    right = CpuDecoder._decode

    def mirrored(self, index: int, canvas_HW3: np.ndarray) -> None:
        right(self, index, canvas_HW3)
        canvas_HW3[:] = canvas_HW3[::-1].copy()

    monkeypatch.setattr(CpuDecoder, "_decode", mirrored)
    assert "the loader cpu delivers wrong pixels" in check_loader(dataset, "cpu", options, cpu)


def test_a_wrong_loader_fails_the_command(monkeypatch, tmp_path, capsys):
    figures = {"wrong": {"cpu": "delivers wrong pixels"}}
    monkeypatch.setattr(pipeline.bench, "bench", lambda options, folder: figures)
    monkeypatch.setattr(pipeline.bench, "show", str)
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert pipeline.bench.main() == 1
    figures["wrong"] = {}
    assert pipeline.bench.main() == 0


@pytest.mark.long
@pytest.mark.parametrize("break_cpu", [False, True])
def test_bench_of_a_few_pictures_marks_what_is_wrong(monkeypatch, tmp_path, break_cpu):
    """Through `bench` itself: a wrong loader is entered as wrong and timed; a missing FFCV is not wrong."""
    if break_cpu:
        monkeypatch.setattr(CpuDecoder, "_decode", lambda self, index, canvas_HW3: canvas_HW3.fill(0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = BenchOptions(images=8, threads=(1,), loaders=("cpu", "ffcv"), seconds=0.1, rounds=1, records=0)
    figures = pipeline.bench.bench(options, tmp_path)
    assert ("cpu" in figures["wrong"]) == break_cpu
    assert figures["loaders"]["cpu"][1]["images_per_s"] > 0
    assert "ffcv" not in figures["wrong"]
    assert ("WRONG" in pipeline.bench.show(figures)) == break_cpu


def test_a_default_loader_that_is_not_asked_for_is_not_opened(monkeypatch, tmp_path, make_packed):
    """As on a GPU without DALI with --loaders cpu."""
    dataset, opened = make_packed(9), []

    def loader_rate(dataset, name, options, threads, device, prefetch=None):
        opened.append((name, prefetch))
        return 100.0, 0.0

    monkeypatch.setattr(pipeline.bench, "choose_loader", lambda name, device: "dali")
    monkeypatch.setattr(
        pipeline.bench, "make_originals", lambda root, count, extra: (root / "JPEGImages").mkdir(parents=True)
    )
    monkeypatch.setattr(pipeline.bench, "run_pack", lambda folder: (folder / "originals/JPEGImages/0.jpg").touch())
    monkeypatch.setattr(pipeline.bench, "PackedDataset", lambda path: dataset)
    monkeypatch.setattr(pipeline.bench, "plain_rate", lambda *_: 50.0)
    monkeypatch.setattr(pipeline.bench, "loader_rate", loader_rate)
    options = BenchOptions(batch_size=4, threads=(1,), loaders=("cpu",), rounds=1, prefetch=(2,), records=0)
    figures = pipeline.bench.bench(options, tmp_path)
    assert opened == [("cpu", None), ("cpu", 2)]
    assert figures["prefetch_loader"] == "cpu"
    assert not figures["wrong"]


@pytest.mark.long
def test_command_line(tmp_path):
    command = [sys.executable, "-m", "pipeline.bench", "--json", str(tmp_path / "bench.json"), "--images", "8"]
    command += ["--threads", "1", "--loaders", "cpu", "--seconds", "0.1", "--rounds", "1", "--records", "30"]
    command += ["--batch-size", "2", "--prefetch", "1", "4", "--extra", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    row = figures["loaders"]["cpu"]["1"]
    assert row["ratio_to_plain"] == pytest.approx(row["images_per_s"] / figures["plain"]["1"])
    assert 0 <= row["waiting_share_at_80_percent"] <= 1
    assert list(figures["prefetch"]) == ["1", "4"]
    assert "prefetch 4: " in done.stdout
    assert figures["opening"]["records"] == 30
    assert figures["original_bytes"] > figures["packed_bytes"] > 0
    assert figures["packing_images_per_s"] > 0
    assert figures["extra"]["images"] == 2
    for kind in ("jpeg", "raw"):
        assert figures["extra"]["loading_ratio"][kind]["cpu"] > 0
        assert figures["extra"]["packing_ratio"][kind] > 0
    assert "with 2 grey images beside each picture" in done.stdout
