"""mixture.py: several packed datasets through one loader."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.files.pixels import decode_packed
from pipeline.loading.loader import open_loader
from pipeline.loading.mixture import Mixture
from pipeline.packed.reader import PackedDataset
from tests.pipeline.conftest import write_packed

WIDE = ((40, 90), (41, 70))
MIXED = ((90, 90), (100, 31), (50, 51))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[PackedDataset, PackedDataset]:
    """7 landscape images, and 10 of which some are portrait, on other canvases; both count their ids from the same."""
    folder = tmp_path_factory.mktemp("pair")
    wide, mixed = (write_packed(folder, n, name, sizes) for n, name, sizes in ((7, "wide", WIDE), (10, "mixed", MIXED)))
    return PackedDataset(wide), PackedDataset(mixed)


def test_two_datasets_of_the_same_ids_are_told_apart(pair):
    assert set(pair[0].ids_N) & set(pair[1].ids_N)
    mixture = Mixture(pair)
    assert len(mixture) == 17
    assert len(set(mixture.numbers_N.tolist())) == 17
    np.testing.assert_array_equal(mixture.numbers_N[7:], pair[1].ids_N + 10**12)
    assert mixture.describe(7) == pair[1].describe(0)
    assert bytes(mixture.jpeg(6)) == bytes(pair[0].jpeg(6))
    np.testing.assert_array_equal(mixture.target(9)[0], pair[1].target(2)[0])


def test_a_mixture_of_one_is_the_dataset_itself(pair):
    mixture = Mixture(pair[1:])
    np.testing.assert_array_equal(mixture.numbers_N, pair[1].ids_N)
    assert mixture.checksum == pair[1].checksum
    assert mixture.canvases == pair[1].canvases
    assert mixture.max_boxes == pair[1].max_boxes
    assert (mixture.weight_N == 1).all()
    with open_loader(pair[1], 3, seed=4) as alone, open_loader(mixture, 3, seed=4) as one:
        for _ in range(9):
            first, second = next(alone), next(one)
            assert first.ids_B.tolist() == second.ids_B.tolist()
            assert first.images_BHW3.equal(second.images_BHW3)


def test_canvases_hold_the_images_of_all(pair):
    assert [dataset.canvases for dataset in pair] == [
        {"landscape": (64, 128)},
        {"landscape": (64, 64), "portrait": (128, 32)},
    ]
    assert Mixture(pair).canvases == {"landscape": (64, 128), "portrait": (128, 32)}


@pytest.mark.parametrize("name", ["cpu", "dali"])
def test_loaders_deliver_every_image_of_both_once_with_its_pixels_and_boxes(pair, name):
    if name == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    mixture, seen = Mixture(pair), []
    with open_loader(mixture, 4, name=name, threads=2) as loader:
        assert loader.name == name
        for _ in range(loader.batches_per_epoch):
            batch = next(loader)
            assert batch.epoch == 0
            assert tuple(batch.images_BHW3.shape[1:3]) in mixture.canvases.values()
            for b, number in enumerate(batch.ids_B.tolist()):
                if number < 0:
                    continue
                seen.append(number)
                dataset = pair[number // 10**12]
                row = dataset.index_of(number % 10**12)
                h, w = batch.sizes_B2[b].tolist()
                np.testing.assert_array_equal(batch.images_BHW3[b, :h, :w].numpy(), decode_packed(dataset.jpeg(row)))
                assert not batch.images_BHW3[b, h:].any()
                assert not batch.images_BHW3[b, :, w:].any()
                boxes, labels, _ = dataset.target(row)
                np.testing.assert_array_equal(batch.boxes_BG4[b, : len(boxes)].numpy(), boxes)
                assert batch.labels_BG[b].count_nonzero() == len(labels)
    assert sorted(seen) == sorted(mixture.numbers_N.tolist())


def test_weights_repeat_images_under_numbers_of_their_own(pair):
    with open_loader(Mixture(pair, (1, 2)), 3) as loader:
        batches = [next(loader) for _ in range(loader.batches_per_epoch)]
    numbers = [number for batch in batches for number in batch.ids_B.tolist() if number >= 0]
    assert {batch.epoch for batch in batches} == {0}
    assert len(set(numbers)) == len(numbers) == 7 + 2 * 10
    times = Counter(number % 10**15 for number in numbers)
    assert {times[number] for number in pair[0].ids_N.tolist()} == {1}
    assert {times[number + 10**12] for number in pair[1].ids_N.tolist()} == {2}


def test_a_loader_continued_on_two_ranks_delivers_what_is_left(pair):
    mixture, seen = Mixture(pair, (1, 2)), []
    with open_loader(mixture, 3, seed=1) as loader:
        for _ in range(4):
            seen += next(loader).ids_B.tolist()
        state = loader.state_dict()
    for rank in range(2):
        with open_loader(mixture, 2, seed=1, rank=rank, world=2, **state) as loader:
            while (batch := next(loader)).epoch == 0:
                seen += batch.ids_B.tolist()
    real = [number for number in seen if number >= 0]
    assert len(real) == len(set(real)) == 27


def test_reports_say_what_each_dataset_is(pair):
    first, second = Mixture(pair, (1, 0.5)).records()
    assert (first["name"], first["num_images"], first["weight"]) == ("wide", 7, 1.0)
    assert second["checksum"] == pair[1].checksum
    assert second["domains"] == {"mixed-source": 10}
    line = Mixture(pair, (1, 0.5)).report()[1]
    assert line == f"{pair[1].path}: 10 images, 0.5 an epoch each: mixed-source 10"


def test_the_checksum_depends_on_the_datasets_and_their_order(pair):
    there, back = Mixture(pair).checksum, Mixture(pair[::-1]).checksum
    assert len({there, back, pair[0].checksum, pair[1].checksum}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("car", "bus")}, r"the class lists differ: .*\['bus', 'car'\].*\['car', 'bus'\].*--classes"),
        ({"short_side": 50}, r"--short-side 60 --long-side 100, .* --short-side 50 .*pack them with the same"),
        ({}, r"hold the same images; name them once, with a weight of 2"),
    ],
)
def test_datasets_that_do_not_go_together_are_refused(pair, tmp_path: Path, options, message):
    other = PackedDataset(write_packed(tmp_path, 7, "wide", WIDE, **options))
    with pytest.raises(ValueError, match=message):
        Mixture((pair[0], other))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), r"--data-weights: got 1 for 2 datasets"),
        ((1, 0), r"--data-weights 0: expected 0.001 to 1000"),
        ((1, -2), r"--data-weights -2"),
        ((float("nan"), 1), r"--data-weights nan"),
        ((1, 1001), r"--data-weights 1001"),
    ],
)
def test_wrong_weights_are_refused(pair, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(pair, weights)


def test_no_dataset_is_refused():
    with pytest.raises(ValueError, match="--data: got 0 datasets"):
        Mixture(())


def test_ids_that_leave_no_room_are_refused_where_they_would_collide(pair, monkeypatch):
    monkeypatch.setattr(pair[0], "ids_N", pair[0].ids_N + 10**12)
    Mixture(pair[:1])
    with pytest.raises(ValueError, match="13 digits"):
        Mixture(pair)
    with pytest.raises(ValueError, match="13 digits"):
        Mixture(pair[:1], (2,))


def test_ffcv_says_that_it_reads_one(pair):
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    with pytest.raises(ValueError, match="'ffcv' reads one dataset, not several"):
        open_loader(Mixture(pair), 4, name="ffcv")
