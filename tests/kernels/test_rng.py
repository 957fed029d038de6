"""Counter-based randomness: the same words in compiled code and in plain Python, the right laws, no two alike."""

import numpy as np
import pytest
from numba import cuda, njit, types
from scipy import stats
from scipy.special import ndtri

from kernels import rng
from kernels.checks import ptx, ptx_run
from kernels.corruptions import noise
from kernels.instructions import as_byte

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


def bits_in_python(key0: int, key1: int, stage: int, y: int, x: int) -> int:
    start = key0 + stage * 0x9E3779B9 + y & MASK32
    start = (start ^ start >> 16) * 0x21F0AAAD & MASK32
    start = ((start ^ start >> 15) + key1 & MASK32) * 0xD35A2D97 & MASK32
    start ^= start >> 15
    z = start + x * 0x248458AD & MASK32
    z = (z ^ z >> 15) * 0xD35A2D97 + start & MASK32
    return z ^ z >> 15


@njit
def many_bits(key0, key1, stage, num_y, num_x):
    out = np.empty((num_y, num_x), np.uint32)
    for y in range(num_y):
        for x in range(num_x):
            out[y, x] = rng.bits(key0, key1, stage, y, x)
    return out


@njit
def normals_of(words, fractions):
    """With the sums of the words' bytes, which are the first result."""
    totals, out = np.empty(len(words), np.uint32), np.empty(len(words), np.float32)
    for i in range(len(words)):
        totals[i] = rng.byte_total(words[i], np.uint32(2 << 16))
        out[i] = rng.normal_of(totals[i], fractions[i])
    return totals - np.uint32(2 << 16), out


@njit
def many_normals(key0, key1, stage, num_y, num_x):
    """Normal numbers, and the words that they are made of, before the last product and after it."""
    out = np.empty((num_y, num_x), np.float32)
    halves, words = np.empty((num_y, num_x), np.uint32), np.empty((num_y, num_x), np.uint32)
    for y in range(num_y):
        start = rng.row_start(key0, key1, stage, y)
        for x in range(num_x):
            out[y, x] = rng.normal(key0, key1, stage, y, x)
            halves[y, x] = rng.half_mixed(start, x)
            words[y, x] = rng.mixed(halves[y, x], start)
    return out, halves, words


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
    """Against the quantile function at the law of a sum of four bytes, worked out here, and a fraction of a step."""
    law = np.ones(1)
    for _ in range(4):
        law = np.convolve(law, np.full(256, 1 / 256))
    below = np.concatenate(([0.0], np.cumsum(law)))
    random = np.random.default_rng(0)
    words = random.integers(0, MASK32, 1 << 22, dtype=np.uint32, endpoint=True)
    ends = random.integers(225, 256, (1 << 20, 4), dtype=np.uint8).view(np.uint32)[:, 0]  # rare sums
    words = np.concatenate((words, ends, ~ends))
    fractions = random.integers(0, MASK32, len(words), dtype=np.uint32, endpoint=True)
    totals, ours = normals_of(words, fractions)
    assert np.array_equal(totals, words.view(np.uint8).reshape(-1, 4).sum(1, dtype=np.uint32))
    places = totals + (fractions >> 19) / 8192 + 2.0**-14
    exact = ndtri(np.interp(np.minimum(places, 1021 - places), np.arange(1022), below))  # of the smaller tail
    exact = np.where(places > 510.5, -exact, exact)
    error, size = np.abs(ours - exact), np.abs(exact)
    for limit, allowed in ((4.2, 7e-4), (4.5, 0.015), (5.0, 0.11)):
        assert error[size <= limit].max() < allowed
    assert size.max() > 5.5  # the ends were there
    assert np.diff(ours[np.argsort(places)]).min() > -1e-5  # rising


@pytest.mark.long
def test_normal_numbers_have_the_normal_law():
    ours, halves, words = (values.ravel() for values in many_normals(np.uint32(3), np.uint32(9), rng.NOISE, 4096, 4096))
    ours = ours.astype(np.float64)
    error = 1 / np.sqrt(len(ours))  # one standard error of the mean
    assert abs(ours.mean()) < 4 * error
    assert ours.std() == pytest.approx(1, abs=1e-4 + 4 * error / np.sqrt(2))
    assert abs(stats.skew(ours)) < 4 * error * np.sqrt(6)
    assert abs(stats.kurtosis(ours)) < 3e-4 + 4 * error * np.sqrt(24)
    assert stats.kstest(ours[: 1 << 21], "norm").pvalue > 1e-4
    # A place between two sums: uniform, whatever the sum is.
    totals = words.view(np.uint8).reshape(-1, 4).sum(1, dtype=np.uint32)
    for part in (totals < 300, totals == 510, totals > 720, totals % 2 == 0, totals % 16 == 3):
        assert stats.chisquare(np.bincount(halves[part] >> 24, minlength=256)).pvalue > 1e-4
    # Neighbours share nothing, nor do their sizes.
    rows = ours.reshape(4096, 4096)
    for values in (rows, rows**2 - 1, np.abs(rows) - np.abs(rows).mean()):
        for shift, axis in ((1, 0), (1, 1), (2, 1), (3, 1), (256, 1)):
            product = values * np.roll(values, shift, axis)
            assert abs(product.mean()) < 4.5 * error * values.var()


def test_words_are_uniform_and_independent():
    """Bytes are uniform; neighbours, stages, keys, and seeds, epochs and ids that differ by one share nothing."""

    def of_key(key0, key1, stage=rng.NOISE):
        return many_bits(np.uint32(key0), np.uint32(key1), stage, 256, 512)

    def field(*names, stage=rng.NOISE):
        key = int(rng.image_key(*names))
        return of_key(key & MASK32, key >> 32, stage)

    key = int(rng.image_key(4, 5, 6))
    base = field(4, 5, 6)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((base >> shift & 0xFF).ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    others = [
        field(4, 5, 6, stage=rng.NOISE + 1),
        field(5, 5, 6),
        field(4, 6, 6),
        field(4, 5, 7),
        of_key(key + 1 & MASK32, key >> 32),
        of_key(key & MASK32, (key >> 32) + 1 & MASK32),
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


def one_of_each(keys, values, table, words, numbers, levels, shots, i):
    """What the instructions of kernels/instructions.py are part of, at one position."""
    word = rng.bits(keys[0], keys[1], rng.NOISE, i * 37, i * 101)
    number = rng.normal(keys[0], keys[1], rng.NOISE, i * 37, i * 101)
    words[i], numbers[i] = word, number
    levels[i] = as_byte(values[i] + np.float32(97) * number)
    shots[i] = noise.shot(table, np.int32(2 * 256 * noise.SHOT_COLUMNS), np.uint8(values[i]), word)


def test_a_gpus_instructions_give_what_a_cpus_do():
    """A kernel's PTX, run in Python, beside the same function compiled for the CPU."""
    kinds = [types.uint32, types.float32, types.uint32, types.uint32, types.float32, types.uint8, types.uint8]
    on_gpu = cuda.jit(device=True)(one_of_each)

    def kernel(keys, values, table, words, numbers, levels, shots):
        on_gpu(keys, values, table, words, numbers, levels, shots, cuda.threadIdx.x)

    with ptx.pretend_device((9, 0)):
        text, _ = cuda.compile_ptx(kernel, tuple(kind[::1] for kind in kinds), cc=(9, 0), fastmath=True)
    for instruction in ("dp4a.u32.u32", "mad.lo", "shf.l.wrap.b32", "cvt.rzi.u8.f32"):
        assert instruction in text
    random = np.random.default_rng(0)
    keys, values = np.uint32([0xFFFFFFF0, 0x9ABCDEF1]), random.integers(0, 256, 40).astype(np.float32)
    values[:4] = 0, 255, 0, 255
    given = [keys, values, noise.shot_table()]
    on_cpu, found = njit(one_of_each), []
    for _ in range(2):
        found.append([np.zeros(40, dtype) for dtype in (np.uint32, np.float32, np.uint8, np.uint8)])
    for i in range(40):
        on_cpu(*given, *found[0], i)
    arrays = [*given, *found[1]]
    numbers = [each for a in arrays for each in (0, 0, a.size, a.itemsize, a.ctypes.data, a.shape[0], a.strides[0])]
    areas = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    code = ptx_run.Code(text)
    for i in range(40):
        ptx_run.Thread(code, tuple(numbers), (0, 0, 0), (i, 0, 0), areas).run()
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.any()
