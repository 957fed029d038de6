"""What stands along the sample world's street and has no label: trees, lamps, signs, bins."""

from functools import cache

import numpy as np

from pipeline.world.shape import BLACK, CIRCLE, FOLIAGE, LAMP, PAINT, STEEL, Shape, pick, vary

NUM_TREES = 40


@cache
def tree(number: int) -> Shape:
    """A trunk and a crown of leafy blobs; trees are many and costly, so a forest of NUM_TREES is grown once."""
    rng = np.random.default_rng([NUM_TREES, number])
    shape = Shape()
    height, spread = rng.uniform(5, 10), rng.uniform(1.4, 2.6)
    bark = vary(rng, (0.09, 0.06, 0.04), 0.3)
    green = vary(rng, pick(rng, [(0.06, 0.14, 0.03), (0.05, 0.11, 0.03), (0.10, 0.16, 0.03), (0.14, 0.12, 0.03)]), 0.2)
    shape.capsule((0, 0, 0), (0, height * 0.6, 0), 0.16, 0.10, bark)
    for _ in range(int(rng.integers(22, 34))):
        y = height * rng.uniform(0.45, 0.97)
        belly = 1.15 - abs(y / height - 0.66) * 1.6
        angle, away = rng.uniform(0, 2 * np.pi), spread * belly * np.sqrt(rng.uniform(0, 0.8))
        x, z = away * np.cos(angle), away * np.sin(angle)
        radius = spread * rng.uniform(0.26, 0.46)
        tone = 0.55 + 1.1 * (y / height - 0.45) + rng.uniform(-0.12, 0.12)
        leaf = tuple(tone * g for g in green)
        for half_turn in (0.0, np.pi / 2):
            outline = radius * rng.uniform(0.7, 1.15, 30)
            angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
            turn_x, turn_z = np.cos(angle + half_turn), np.sin(angle + half_turn)
            across, up = outline * np.cos(angles), outline * np.sin(angles)
            points = list(zip(x + across * turn_x, y + up, z + across * turn_z, strict=True))
            shape.polygon(points, leaf, FOLIAGE)
    return shape


def street_lamp(rng: np.random.Generator, side: int, colour) -> tuple[Shape, tuple[float, float, float]]:
    """A post with an arm over the road; returns it with where its lamp hangs. `side` is the way the arm points."""
    shape = Shape()
    height, arm = rng.uniform(6.0, 7.5), side * rng.uniform(1.2, 1.8)
    shape.capsule((0, 0, 0), (0, height, 0), 0.09, 0.055, (0.10, 0.11, 0.11))
    shape.capsule((0, height, 0), (arm, height + 0.25, 0), 0.05, 0.045, (0.10, 0.11, 0.11))
    low, high = sorted((arm - side * 0.1, arm + side * 0.45))
    shape.box((low, high), (height + 0.16, height + 0.3), (-0.14, 0.14), (0.2, 0.2, 0.2))
    glow = tuple(16 * c for c in colour)
    shape.polygon(
        [
            (low, height + 0.15, -0.14),
            (high, height + 0.15, -0.14),
            (high, height + 0.15, 0.14),
            (low, height + 0.15, 0.14),
        ],
        (0.7, 0.7, 0.65),
        LAMP,
        glow,
    )
    shape.front(-0.145, (low, high), (height + 0.15, height + 0.22), (0.7, 0.7, 0.65), LAMP, glow)
    return shape, (arm + side * 0.2, height + 0.1, 0.0)


def traffic_light(rng: np.random.Generator) -> Shape:
    shape = Shape()
    shape.capsule((0, 0, 0), (0, 3.0, 0), 0.06, 0.06, (0.12, 0.12, 0.12))
    shape.box((-0.17, 0.17), (2.6, 3.5), (-0.12, 0.12), BLACK)
    shown = int(rng.integers(3))
    colours = [(1.0, 0.05, 0.03), (1.0, 0.5, 0.02), (0.05, 1.0, 0.4)]
    for i, colour in enumerate(colours):
        y = 3.32 - 0.27 * i
        lens = [(0.1 * c, y + 0.1 * s, -0.13) for c, s in CIRCLE.tolist()]
        emission = tuple(6.0 * c for c in colour) if i == shown else (0.0, 0.0, 0.0)
        shape.polygon(lens, tuple(0.12 * c for c in colour), LAMP, emission, bias=0.002)
    return shape


def sign(rng: np.random.Generator) -> Shape:
    shape = Shape()
    shape.capsule((0, 0, 0), (0, 2.5, 0), 0.035, 0.035, STEEL)
    colour = pick(rng, [(0.5, 0.02, 0.02), (0.03, 0.1, 0.45), (0.6, 0.45, 0.03), (0.7, 0.7, 0.7)])
    if rng.random() < 0.5:
        disc = [(0.32 * c, 2.5 + 0.32 * s, -0.05) for c, s in CIRCLE.tolist()]
        shape.polygon(disc, colour)
        shape.polygon([(0.6 * x, 2.5 + 0.6 * (y - 2.5), -0.06) for x, y, _ in disc], (0.72, 0.72, 0.7), bias=0.001)
    else:
        shape.front(-0.05, (-0.32, 0.32), (2.1, 2.8), colour)
        shape.front(-0.06, (-0.2, 0.2), (2.3, 2.6), (0.72, 0.72, 0.7))
    return shape


def furniture(rng: np.random.Generator) -> Shape:
    """A bin, a letter box, a bollard row, a hedge in a tub: things that are none of the classes."""
    shape = Shape()
    kind = int(rng.integers(4))
    if kind == 0:
        colour = pick(rng, [(0.03, 0.1, 0.04), (0.1, 0.1, 0.1), (0.03, 0.06, 0.2)])
        shape.box((-0.3, 0.3), (0.05, 1.05), (-0.3, 0.3), colour, top=tuple(1.6 * c for c in colour))
    elif kind == 1:
        shape.box((-0.25, 0.25), (0.0, 1.3), (-0.25, 0.25), pick(rng, [(0.5, 0.02, 0.02), (0.6, 0.45, 0.03)]), PAINT)
    elif kind == 2:
        for z in (-1.5, 0.0, 1.5):
            shape.capsule((0, 0, z), (0, 0.85, z), 0.08, 0.08, (0.12, 0.12, 0.12))
    else:
        shape.box((-0.5, 0.5), (0, 0.5), (-1.0, 1.0), (0.2, 0.12, 0.07))
        for z in (-0.7, -0.2, 0.3, 0.8):
            blob = [(0.5 * c, 0.8 + 0.45 * s, z) for c, s in CIRCLE.tolist()]
            shape.polygon(blob, (0.05, 0.12, 0.03), FOLIAGE)
            blob = [(0.0, 0.8 + 0.45 * s, z + 0.5 * c) for c, s in CIRCLE.tolist()]
            shape.polygon(blob, (0.05, 0.12, 0.03), FOLIAGE)
    return shape
