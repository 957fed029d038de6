"""gaussian_noise, shot_noise, impulse_noise, speckle_noise: one draw of 32 bits a channel value.

Formulas in that order (`imagecorruptions`, x in 0..1, n standard normal). x + c n. poisson(c x) / c. A share c of the
values becomes 0 or 1. x + c x n. All are clipped to 0..1 and truncated to 8 bits.
"""

import numpy as np
from numba import float32, int32, uint8, uint32, uint64

from kernels.corruptions.record import Corruption
from kernels.instructions import as_byte
from kernels.jit import compiled
from kernels.rng import NOISE, bits, normal

PHOTONS = (60, 25, 12, 5, 3)  # of a white pixel
SHOT_COLUMNS = 64  # at least one more than the most photons that matter (60)


@compiled
def gaussian_noise(task, y0, y1, x0, x1):
    """extra[0]: 255 c."""
    source, target = task.source, task.target
    key0, key1, scale = task.row.key0, task.row.key1, task.extra[0]
    origin = 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(3 * x0, 3 * x1):
            n = normal(key0, key1, NOISE, y, i)
            target[uint64(out), uint64(i - origin)] = as_byte(
                float32(source[uint64(out), uint64(i - origin)]) + scale * n
            )


@compiled
def speckle_noise(task, y0, y1, x0, x1):
    """extra[0]: c."""
    source, target = task.source, task.target
    key0, key1, scale = task.row.key0, task.row.key1, task.extra[0]
    origin = 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(3 * x0, 3 * x1):
            n = normal(key0, key1, NOISE, y, i)
            x = float32(source[uint64(out), uint64(i - origin)])
            target[uint64(out), uint64(i - origin)] = as_byte(x + x * (scale * n))


@compiled
def impulse_noise(task, y0, y1, x0, x1):
    """extra[0]: c times 2^23; 23 bits decide whether, one bit whether salt or pepper."""
    source, target = task.source, task.target
    key0, key1 = task.row.key0, task.row.key1
    threshold = uint32(task.extra[0])
    origin = 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(3 * x0, 3 * x1):
            word = bits(key0, key1, NOISE, y, i)
            extreme = uint8(255) if word & uint32(1) else uint8(0)
            hit = uint32(word >> uint32(9)) < threshold
            value = extreme if hit else source[uint64(out), uint64(i - origin)]
            target[uint64(out), uint64(i - origin)] = value


@compiled
def shot(shots, table, value, word):
    """The level of one entry of the alias table: 6 bits choose its column, the others between its two levels."""
    row = uint32(uint32(value) * uint32(SHOT_COLUMNS))
    entry = shots[uint64(uint32(uint32(table) + uint32(row | uint32(word & uint32(SHOT_COLUMNS - 1)))))]
    return uint8(uint32(entry if word < entry else uint32(entry >> uint32(8))) & uint32(0xFF))


@compiled
def shot_noise(task, y0, y1, x0, x1):
    source, target, shots = task.source, task.target, task.shots
    key0, key1 = task.row.key0, task.row.key1
    table = int32((task.row.severity - 1) * 256 * SHOT_COLUMNS)
    origin = 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(3 * x0, 3 * x1):
            word = bits(key0, key1, NOISE, y, i)
            target[uint64(out), uint64(i - origin)] = shot(shots, table, source[uint64(out), uint64(i - origin)], word)


@compiled
def shot_noise_lines(task, y0, y1, x0, x1):
    """The same in two loops, because the first is vectorised and the second, which reads the table, is not.

    Between them the words are in task.line, as the numbers that their bits make.
    """
    source, target, shots, line = task.source, task.target, task.shots, task.line
    key0, key1 = task.row.key0, task.row.key1
    table = int32((task.row.severity - 1) * 256 * SHOT_COLUMNS)
    first, origin = 3 * x0, 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(first, 3 * x1):
            line[uint64(i - first)] = np.uint32(bits(key0, key1, NOISE, y, i)).view(np.float32)
        for i in range(first, 3 * x1):
            word = np.float32(line[uint64(i - first)]).view(np.uint32)
            target[uint64(out), uint64(i - origin)] = shot(shots, table, source[uint64(out), uint64(i - origin)], word)


def shot_table() -> np.ndarray:
    """Alias tables (Walker 1977) of what shot noise makes of each value, for all severities, flat: 5 x 256 x 64 uint32.

    A white pixel has c <= 60 photons, and more than c are clipped. So a value v has c + 1 outcomes with the
    probabilities of Poisson(c v / 255); the last one holds the whole tail. An entry holds the level of its own column
    and of its alias (8 bits each), already scaled, clipped and truncated, then a threshold (16 bits). A word below the
    entry takes its own level. The two levels move that threshold by 2^-16 at most.
    """
    from scipy.special import gammainc, gammaln, xlogy

    tables = []
    for photons in PHOTONS:
        counts = np.arange(SHOT_COLUMNS)
        mean_V1 = (np.arange(256) / 255.0 * photons)[:, None]
        mass_VS = np.exp(xlogy(counts, mean_V1) - mean_V1 - gammaln(counts + 1))
        probability_VS = np.where(counts < photons, mass_VS, 0.0)
        probability_VS[:, photons] = gammainc(photons, mean_V1[:, 0])  # P(count >= photons)
        levels_S = (np.clip(counts / float(photons), 0, 1) * 255).astype(np.uint8)

        rest_VS = probability_VS * SHOT_COLUMNS  # mean 1 a column; move the surplus of the rich to the poor
        threshold_VS = np.full(rest_VS.shape, 65536.0)
        alias_VS = np.tile(counts, (256, 1))
        open_VS = np.ones(rest_VS.shape, dtype=bool)
        rows = np.arange(256)
        for _ in range(SHOT_COLUMNS - 1):
            poor = np.where(open_VS, rest_VS, np.inf).argmin(axis=1)
            rich = np.where(open_VS, rest_VS, -np.inf).argmax(axis=1)
            threshold_VS[rows, poor] = np.rint(rest_VS[rows, poor] * 65536)
            alias_VS[rows, poor] = rich
            rest_VS[rows, rich] -= 1.0 - rest_VS[rows, poor]
            open_VS[rows, poor] = False
        # A threshold of 65,536 does not fit 16 bits: such a column is its own alias, at any threshold.
        full = threshold_VS >= 65536
        alias_VS = np.where(full, counts, alias_VS)
        threshold_VS = np.where(full, 0, np.maximum(threshold_VS, 0))
        own_VS = np.broadcast_to(levels_S, rest_VS.shape)
        own_VS = np.where(threshold_VS == 0, levels_S[alias_VS], own_VS)  # the levels alone may be above a word
        packed = threshold_VS.astype(np.uint32) << 16 | own_VS.astype(np.uint32)
        tables.append(packed | levels_S[alias_VS].astype(np.uint32) << 8)
    return np.concatenate([table.ravel() for table in tables])


GAUSSIAN_NOISE = Corruption(
    name="gaussian_noise",
    severities=(0.08, 0.12, 0.18, 0.26, 0.38),  # deviation, image in 0..1
    stages=(gaussian_noise,),
    prior="none",
    subset="noise",
    training=True,
    unit=255.0,
)
SHOT_NOISE = Corruption(
    name="shot_noise",
    severities=PHOTONS,
    stages=(shot_noise,),
    cpu_stages=(shot_noise_lines,),
    prior="none",
    subset="noise",
    training=True,
)
IMPULSE_NOISE = Corruption(
    name="impulse_noise",
    severities=(0.03, 0.06, 0.09, 0.17, 0.27),  # share of values replaced
    stages=(impulse_noise,),
    prior="none",
    subset="noise",
    training=True,
    unit=float(1 << 23),
    shared_area=1 << 20,
)
SPECKLE_NOISE = Corruption(
    name="speckle_noise",
    severities=(0.15, 0.2, 0.35, 0.45, 0.6),  # deviation relative to the value
    stages=(speckle_noise,),
    prior="none",
    subset="validation",
    training=True,
)
