"""order.py: every image exactly once an epoch, whoever asks and however the ranks change on the way."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.loading.order import Order, hash64


def make_order(num_landscape: int, num_portrait: int, seed: int = 0, shuffle: bool = True) -> Order:
    """Images in mixed positions, with ids that are not their positions."""
    sizes = np.array([(2, 3)] * num_landscape + [(3, 2)] * num_portrait, np.int32).reshape(-1, 2)
    mixed = np.random.default_rng(7).permutation(len(sizes))
    return Order(sizes[mixed], 1000 + 3 * np.arange(len(sizes)), seed, shuffle)


def weighted(num_landscape: int, num_portrait: int, weight_N: np.ndarray | float, seed: int = 0) -> Order:
    sizes = np.array([(2, 3)] * num_landscape + [(3, 2)] * num_portrait, np.int32).reshape(-1, 2)
    return Order(sizes, 1000 + 3 * np.arange(len(sizes)), seed, True, weight_N)


def run_epoch(order: Order, worlds: list[tuple[int, int]], epoch: int = 0, cursor: int = 0) -> list[list[np.ndarray]]:
    """Batches of every rank, step by step until the epoch ends; each step on the next (world, batch size)."""
    steps = []
    while True:
        world, batch_size = worlds[min(len(steps), len(worlds) - 1)]
        ranks = [order.step(epoch, cursor, rank, world, batch_size) for rank in range(world)]
        if ranks[0] is None:
            assert ranks == [None] * world
            return steps
        assert len({step.after for step in ranks}) == 1, "every rank must save the same state"
        assert len({step.portrait for step in ranks}) == 1
        assert all(len(step.indices_B) == batch_size for step in ranks)
        for step in ranks:
            real = step.indices_B[step.indices_B >= 0]
            assert np.isin(real, order.pools[step.portrait]).all()
        steps.append([step.indices_B for step in ranks])
        following, cursor = ranks[0].after
        if following != epoch:
            assert cursor == 0
            assert following == epoch + 1
            return steps


def delivered(steps: list[list[np.ndarray]]) -> list[int]:
    return sorted(int(index) for ranks in steps for batch in ranks for index in batch if index >= 0)


counts = st.integers(0, 40)
worlds = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=12)


@given(counts, counts, worlds, st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_image_exactly_once_whatever_the_ranks_do(num_landscape, num_portrait, worlds, seed, epoch, shuffle):
    order = make_order(num_landscape, num_portrait, seed, shuffle)
    assert delivered(run_epoch(order, worlds, epoch)) == list(range(num_landscape + num_portrait))


def test_two_to_one_to_four_ranks():
    order = make_order(50, 31)
    steps = run_epoch(order, [(2, 4)] * 3 + [(1, 4)] * 5 + [(4, 4)] * 99)
    assert [len(ranks) for ranks in steps[:9]] == [2] * 3 + [1] * 5 + [4]
    assert delivered(steps) == list(range(81))


@given(counts, counts, st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_padding_is_only_in_the_last_batch_of_an_orientation(num_landscape, num_portrait, world, batch_size):
    order = make_order(num_landscape, num_portrait)
    steps = run_epoch(order, [(world, batch_size)])
    assert len(steps) == order.batches_per_epoch(world * batch_size)
    short = [ranks for ranks in steps if (np.concatenate(ranks) < 0).any()]
    assert len(short) == (num_landscape % (world * batch_size) > 0) + (num_portrait % (world * batch_size) > 0)
    for ranks in short:  # real rows come first, so that rank order is row order
        row = np.concatenate(ranks) >= 0
        assert (np.sort(row)[::-1] == row).all()


def test_same_global_batches_on_one_rank_and_on_four():
    order = make_order(37, 22)
    one, four = run_epoch(order, [(1, 12)]), run_epoch(order, [(4, 3)])
    assert len(one) == len(four)
    for whole, parts in zip(one, four, strict=True):
        np.testing.assert_array_equal(whole[0], np.concatenate(parts))


def test_resuming_continues_with_the_same_batches():
    order = make_order(30, 17, seed=5)
    state, seen = (0, 0), []
    for _ in range(25):
        step = order.step(*state, 0, 1, 4)
        again = make_order(30, 17, seed=5).step(*state, 0, 1, 4)
        np.testing.assert_array_equal(step.indices_B, again.indices_B)
        seen.append(step.epoch)
        state = step.after
    assert seen[0] == 0
    assert seen[-1] == 1


def test_epochs_and_seeds_differ_and_orientations_mix():
    def flat(seed: int, epoch: int) -> list[int]:
        steps = run_epoch(make_order(200, 200, seed), [(1, 10)], epoch)
        return [int(index) for ranks in steps for index in ranks[0]]

    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)
    order = make_order(200, 200)
    kinds = [bool(np.isin(ranks[0][0], order.pools[1])) for ranks in run_epoch(order, [(1, 10)])]
    changes = sum(a != b for a, b in pairwise(kinds))
    assert 10 <= changes <= 30  # 40 batches of a fair mixture change orientation 20 times on average


def test_the_shuffle_is_uniform():
    """Where image 0 lands over many epochs: chi-square of 10 bins below its 0.999 quantile (9 degrees of freedom)."""
    order = make_order(10, 0)
    places = [int(np.flatnonzero(order.step(epoch, 0, 0, 1, 10).indices_B == 0)[0]) for epoch in range(2000)]
    observed = np.bincount(places, minlength=10)
    assert ((observed - 200) ** 2 / 200).sum() < 27.88


def test_without_shuffle_index_order_landscape_first_and_then_stop():
    order = make_order(5, 3, shuffle=False)
    steps = run_epoch(order, [(1, 4)])
    flat = [int(index) for ranks in steps for index in ranks[0] if index >= 0]
    assert flat == [*order.pools[0], *order.pools[1]]
    end = (0, order.encode(0, 5, 3))
    assert order.step(*end, 0, 1, 4) is None


def test_cursor_of_another_dataset_is_refused():
    with pytest.raises(ValueError, match="cursor 99 is outside an epoch of 5 landscape and 3 portrait"):
        make_order(5, 3).decode(0, 99)
    with pytest.raises(ValueError, match="cursor -1"):
        make_order(5, 3).decode(0, -1)


def test_hash_is_fixed_for_ever():
    """splitmix64 of 0 (published first output of seed 0); and two values that would change every run's order."""
    assert int(hash64(0)) == 0xE220A8397B1DCDAF
    assert int(hash64(1, 2, 3)) == int(hash64(np.array([1]), 2, np.array([3], np.int64))[0])
    assert hash64(-1) == hash64(2**64 - 1)


@given(counts, counts, worlds, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**64))
@settings(max_examples=200, deadline=None)
def test_whole_weights_count_exactly_whatever_the_ranks_do(num_landscape, num_portrait, worlds, weights, epoch):
    weight_N = np.resize(weights, num_landscape + num_portrait)
    order = weighted(num_landscape, num_portrait, weight_N)
    assert delivered(run_epoch(order, worlds, epoch)) == np.repeat(np.arange(len(weight_N)), weight_N).tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_weighted_ranks_together_make_the_batches_of_one(world):
    order = weighted(23, 9, np.resize([1, 2.5, 0.3], 32))
    one, several = run_epoch(order, [(1, 6)], epoch=3), run_epoch(order, [(world, 6 // world)], epoch=3)
    for whole, parts in zip(one, several, strict=True):
        np.testing.assert_array_equal(whole[0], np.concatenate(parts))


def test_an_epoch_of_fractional_weights_continued_on_other_ranks_is_the_same_epoch():
    order = weighted(40, 21, np.resize([0.5, 1.75], 61))
    assert delivered(run_epoch(order, [(2, 3)] * 2 + [(1, 5)] * 3 + [(3, 2)] * 99, epoch=7)) == delivered(
        run_epoch(order, [(1, 4)], epoch=7)
    )


def test_a_fractional_weight_is_floor_or_ceil_and_exact_over_epochs():
    weights = np.array([0.25, 1.0, 1.5, 2.75])
    order = weighted(200, 0, np.repeat(weights, 50))
    epochs = [np.bincount(delivered(run_epoch(order, [(1, 64)], epoch)), minlength=200) for epoch in range(8)]
    for times in epochs:
        wanted = np.repeat(weights, 50)
        assert ((times == np.floor(wanted)) | (times == np.ceil(wanted))).all()
    # Weights of whole quarters: any four epochs together are exact, for every single image.
    for first in range(5):
        assert (sum(epochs[first : first + 4]) == np.repeat(4 * weights, 50)).all()
    quarter = np.concatenate([times[:50] for times in epochs]).mean()
    assert quarter == 0.25
    assert 0 < epochs[0][:50].sum() < 50  # not all in the same epoch
    assert not np.array_equal(epochs[0], np.bincount(delivered(run_epoch(weighted(200, 0, np.repeat(weights, 50), 1),
                                                                         [(1, 64)])), minlength=200))  # fmt: skip


def test_every_delivery_has_an_id_of_its_own_and_the_first_keeps_the_images():
    order = weighted(5, 2, 3.0)
    ids, epoch, cursor = [], 0, 0
    while epoch == 0:
        step = order.step(epoch, cursor, 0, 1, 4)
        assert ((step.ids_B < 0) == (step.indices_B < 0)).all()
        real = step.indices_B >= 0
        assert (step.ids_B[real] % 10**15 == 1000 + 3 * step.indices_B[real]).all()
        ids += step.ids_B[real].tolist()
        epoch, cursor = step.after
    assert sorted(ids) == sorted(1000 + 3 * i + again * 10**15 for i in range(7) for again in range(3))


def test_weight_one_leaves_the_order_as_it_was():
    """The permutation of an epoch by its definition: ids in the order of their hashes."""
    order = weighted(11, 0, 1.0, seed=5)
    wanted = np.argsort(hash64(5, 2, 1000 + 3 * np.arange(11)), kind="stable")
    np.testing.assert_array_equal(order.step(2, 0, 0, 1, 11).indices_B, wanted)


def test_an_epoch_may_be_empty_when_weights_are_small():
    order = weighted(1, 0, 0.25)
    steps = [order.step(epoch, 0, 0, 1, 2) for epoch in range(8)]
    assert sum(step is not None for step in steps) == 2
    assert order.batches_per_epoch(2) == 1
