"""One run on two datasets: to the bit on resuming, and what it writes down of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.trained_on import SHORT, read_pictures
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from tests.train.conftest import ALONE, draw_pictures, make_trainer, tiny
from train import load
from train.config import Config
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.start import train
from train.trainer import STOPPED


@pytest.fixture(scope="module")
def packed_night(tmp_path_factory) -> Path:
    """9 other pictures with the ids of the first."""
    root = tmp_path_factory.mktemp("night")
    draw_pictures(root / "source", 9, seed=5)
    options = PackOptions(root=root / "source", out=root / "night", short_side=64, long_side=96, workers=1)
    pack(replace(options, domain="night"))
    return root / "night"


@pytest.fixture
def config(packed, packed_night, tmp_path) -> Config:
    config = tiny(RECIPES["corrupt_only_small"][1]())
    return replace(config, data=(packed, packed_night), data_weights=(1.0, 1.5), out=tmp_path / "run", steps=10)


def test_domains_choose_among_all_datasets(config, packed, packed_night):
    chosen, _ = load.open_data(replace(config, data=(packed_night,), data_weights=(), domains=("nig*",)), ALONE)
    assert chosen.records()[0]["domains"] == {"night": 9}
    with pytest.raises(ValueError, match=f"--domains night: {packed} has"):
        load.open_data(replace(config, domains=("night",)), ALONE)


def test_stopped_and_continued_on_two_datasets_equals_uninterrupted_to_the_bit(config, tmp_path, capsys):
    """10 steps of 4 pass the end of the first epoch, of 22 and 13 or 14 images."""
    whole = replace(config, out=tmp_path / "whole")
    assert train(whole, ALONE) == 0
    printed = capsys.readouterr().out
    assert f"{config.data[0]}: 22 images, 1 an epoch each" in printed
    assert f"{config.data[1]}: 9 images, 1.5 an epoch each: night 9" in printed
    trainer = make_trainer(config)
    step = trainer.task.one_step

    def stop_at_4(views, number, stopping):
        trainer.stopping = number == 3
        return step(views, number, trainer.stopping)

    trainer.task.one_step = stop_at_4
    assert trainer.train() == STOPPED
    assert make_trainer(config).train() == 0
    first, second = (
        [line["losses"] for line in read_log(run.out / "log.jsonl") if "losses" in line] for run in (whole, config)
    )
    assert first[-2:] == second[-2:]
    for name in ("model.safetensors", "training.safetensors"):
        ours, theirs = (load_file(Checkpoints(run.out, 1).newest() / name) for run in (whole, config))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_checkpoint_says_what_it_was_trained_on(config):
    assert train(replace(config, steps=1), ALONE) == 0
    newest = Checkpoints(config.out, 1).newest()
    first, second = json.loads((newest / "model.json").read_text())["extra"]["trained_on"]
    assert first == {
        "name": "packed",
        "domains": {"source": 22},
        "checksum": PackedDataset(config.data[0]).checksum,
        "num_images": 22,
        "weight": 1.0,
    }
    assert (second["name"], second["domains"], second["weight"]) == ("night", {"night": 9}, 1.5)
    known = read_pictures(config.out)
    assert all(PackedDataset(path).sha256_of(row)[:SHORT] in known for path in config.data for row in (0, 8))
    # In another order the ids would name other images.
    with pytest.raises(ValueError, match="not the data this run was trained with"):
        make_trainer(replace(config, data=config.data[::-1]))


def test_a_single_datasets_checksum_is_its_own(config, packed):
    config = replace(config, data=(packed,), data_weights=(), steps=1)
    assert train(config, ALONE) == 0
    assert read_state(Checkpoints(config.out, 1).newest())["data_checksum"] == PackedDataset(packed).checksum


def test_other_classes_in_the_second_dataset_are_refused(config, packed_other_classes):
    with pytest.raises(ValueError, match=r"class lists differ: .*\['car', 'person'\].*\['person', 'car'\].*--classes"):
        make_trainer(replace(config, data=(config.data[0], packed_other_classes)))
