"""Counter-based randomness: the same words in compiled code and in plain Python, the right laws, no two alike."""

import numpy as np
import pytest
from numba import njit
from scipy import stats
from scipy.special import ndtri

from kernels import rng

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


def bits_in_python(key0: int, key1: int, stage: int, y: int, x: int) -> int:
    z = (y << 16 | x) + key0 + stage * 0x9E3779B9 & MASK32
    z = (z ^ z >> 16) * 0x7FEB352D & MASK32
    z = ((z ^ z >> 15) + key1 & MASK32) * 0x846CA68B & MASK32
    return z ^ z >> 16


@njit
def many_bits(key0, key1, stage, num_y, num_x):
    out = np.empty((num_y, num_x), np.uint32)
    for y in range(num_y):
        for x in range(num_x):
            out[y, x] = rng.bits(key0, key1, stage, y, x)
    return out


@njit
def all_normals(num):
    out = np.empty(num, np.float32)
    for i in range(num):
        out[i] = rng.normal(np.uint32(i << 9))
    return out


def test_bits_wrap_as_written():
    random = np.random.default_rng(0)
    for key0, key1 in [(0, 0), (MASK32, MASK32), *random.integers(0, MASK32, (20, 2)).tolist()]:
        for stage, y, x in [(0, 0, 0), (17, 65535, 65535), (26, 1, 49151)]:
            got = rng.bits(np.uint32(key0), np.uint32(key1), stage, y, x)
            assert int(got) == bits_in_python(key0, key1, stage, y, x)


def test_keys_wrap_as_written():
    def mix(value):
        value = value + 0x9E3779B97F4A7C15 & MASK64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK64
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK64
        return value ^ value >> 31

    for seed, epoch, sample in [(0, 0, 0), (1, 2, 3), (2**62, 999, 2**40), (0, 0, -1)]:
        expected = mix(mix(mix(seed & MASK64) ^ epoch & MASK64) ^ sample & MASK64)
        assert int(rng.image_key(seed, epoch, sample)) == expected
    # splitmix64's published first output for the state 0
    assert int(rng.mix64(np.uint64(0))) == 0xE220A8397B1DCDAF


def test_normal_quantiles():
    """All 2^23 numbers against the quantile function, and their moments."""
    ours = all_normals(1 << 23)
    exact = ndtri((np.arange(1 << 23) + 0.5) / (1 << 23))
    assert np.abs(ours - exact).max() < 5e-4
    assert np.diff(ours).min() > -5e-5  # rising, but for tiny steps where the exponent of 1 - x^2 changes
    assert abs(ours.mean()) < 1e-6
    assert ours.std() == pytest.approx(1, abs=1e-5)
    assert stats.kurtosis(ours[::64]) == pytest.approx(0, abs=1e-2)


def test_words_are_uniform_and_independent():
    """Bytes are uniform; neighbours, stages, and seeds, epochs and ids that differ by one share nothing.

    Keys are those of images: two that agree in their first half alone (one pair in 2^32) would be alike here and there.
    """

    def field(*names, stage=rng.NOISE):
        key = int(rng.image_key(*names))
        return many_bits(np.uint32(key & MASK32), np.uint32(key >> 32), stage, 256, 512)

    base = field(4, 5, 6)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((base >> shift & 0xFF).ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    others = [
        field(4, 5, 6, stage=rng.NOISE + 1),
        field(5, 5, 6),
        field(4, 6, 6),
        field(4, 5, 7),
        np.roll(base, 1, axis=1),
        np.roll(base, 1, axis=0),
        np.roll(base, (7, 13), axis=(0, 1)),
    ]
    for other in others:
        flipped = np.unpackbits((base ^ other).view(np.uint8)).mean()
        assert flipped == pytest.approx(0.5, abs=2e-3)
        correlation = np.corrcoef((base >> 8).ravel(), (other >> 8).ravel())[0, 1]
        assert abs(correlation) < 0.012


def test_draws_are_uniform_over_ids_epochs_and_seeds():
    for index in range(3):
        arguments = [[0, 0, 0] for _ in range(4000)]
        for number, argument in enumerate(arguments):
            argument[index] = number
        values = [rng.draw(np.uint64(rng.image_key(*argument)), rng.RATIO) for argument in arguments]
        assert stats.kstest(values, "uniform").pvalue > 1e-4
        assert len(set(values)) == len(values)
