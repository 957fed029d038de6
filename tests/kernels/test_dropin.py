"""`kernels.corrupt` between calls: what it keeps, and what it says to a user's mistake."""

import numpy as np
import pytest
import torch

import kernels
from kernels import dropin, severity
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import cpu


def test_a_workspace_serves_every_size(monkeypatch):
    """One for each thread at work, as large as the largest image so far, however many sizes there were."""
    monkeypatch.setattr(dropin, "_workspaces", cpu.Workspaces())
    expected = {}
    for side in (90, 30, 61, 77, 31):
        image = np.random.default_rng(side).integers(0, 256, (side, 120 - side, 3)).astype(np.uint8)
        for name in ("glass_blur", "elastic_transform", "jpeg_compression", "pixelate"):
            expected[side, name] = kernels.corrupt(image, 4, name)
            (workspace,) = dropin._workspaces.idle
            monkeypatch.setattr(dropin, "_workspaces", cpu.Workspaces())
            np.testing.assert_array_equal(kernels.corrupt(image, 4, name), expected[side, name])
            monkeypatch.setattr(dropin._workspaces, "idle", [workspace])
    assert workspace.values == 3 * max(side * (120 - side) for side in (90, 30, 61, 77, 31))
    assert workspace.width == 90
    with dropin._workspaces.borrow(10, 10), dropin._workspaces.borrow(10, 10):
        assert not dropin._workspaces.idle
    assert len(dropin._workspaces.idle) == 2


@pytest.fixture
def made(monkeypatch) -> list:
    """The pools that are made, none before."""
    pools: list = []

    class Counted(dropin.Pool):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pools.append(self)

    monkeypatch.setattr(dropin, "Pool", Counted)
    monkeypatch.setattr(dropin, "_pools", {})
    monkeypatch.setattr(dropin, "POOL_STEP", 64)
    monkeypatch.setattr(dropin, "POOL_MASKS", 2)
    return pools


def test_a_second_pass_makes_no_pool(made):
    """The natural loop: every kind of weather at every severity, of images of two orientations, again and again."""
    images = [np.full(shape, 90, np.uint8) for shape in ((40, 60, 3), (70, 50, 3))]
    counts = []
    for _ in range(2):
        for image in images:
            for name in NEED_MASK:
                for level in severity.SEVERITIES:
                    kernels.corrupt(image, level, name)
        counts.append(len(made))
    assert counts == [30, 30]  # for each canvas 5 of spatter, 5 of snow, 4 of fog, 1 of frost


def test_pools_are_bounded_by_their_bytes(made, monkeypatch):
    image = np.full((40, 60, 3), 90, np.uint8)
    kernels.corrupt(image, 1, "snow")
    monkeypatch.setattr(dropin, "POOL_BYTES", 2 * made[0].values_M.nbytes)
    for level in (2, 1, 3, 1):  # 2 goes when 3 comes: 1 was used since
        kernels.corrupt(image, level, "snow")
    assert list(dropin._pools.values()) == [made[2], made[0]]
    assert len(made) == 3


PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 2**63}, "seed must be a whole number from 0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": None}, "got None"),
        ({"seed": 1.5}, "got 1.5"),
        ({"corruption_name": ["fog"]}, "unknown corruption"),
        ({"severity": np.array([1, 2])}, "severity must be one of"),
        ({"severity": None}, "severity must be one of"),
        ({"image": torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta")}, "meta"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        kernels.corrupt(**({"image": PICTURE, "corruption_name": "fog"} | options))


def test_whole_numbers_of_numpy_are_seeds():
    noise = kernels.corrupt(PICTURE, 1, "gaussian_noise", seed=7)
    np.testing.assert_array_equal(kernels.corrupt(PICTURE, np.int64(1), "gaussian_noise", seed=np.uint64(7)), noise)
    assert (kernels.corrupt(PICTURE, 1, "gaussian_noise", seed=2**63 - 1) != noise).any()
