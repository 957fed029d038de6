"""The sample world's building blocks: materials, colours, and `Shape`, a heap of flat polygons and capsules.

Every model stands on the ground at its own origin and looks along +z: x right, y up, metres. A capsule is a limb or a
tube: two ends and two radii, turned towards the camera when it is placed. Colours are linear light, so they look darker
as numbers than on the screen.
"""

from functools import cached_property

import numpy as np

# Materials: how a surface answers light, and which pattern it wears.
MATTE, PAINT, GLASS, ROAD, PAVEMENT, GRASS, MARK, WALL, FOLIAGE, LAMP = range(10)

Colour = tuple[float, float, float]
Size = tuple[float, float, float]  # width, height, length in metres

DARK: Colour = (0.0, 0.0, 0.0)
BLACK = (0.012, 0.012, 0.013)
RUBBER = (0.02, 0.02, 0.021)
STEEL = (0.28, 0.29, 0.30)
GLASS_COLOUR = (0.025, 0.032, 0.04)
PLATE = (0.75, 0.75, 0.7)
HEAD_EMISSION = (26.0, 24.0, 19.0)
TAIL_EMISSION = (7.0, 0.35, 0.18)
BODY_COLOURS: list[Colour] = [
    (0.72, 0.72, 0.70), (0.62, 0.62, 0.62), (0.30, 0.31, 0.33), (0.10, 0.105, 0.11), (0.03, 0.03, 0.034),
    (0.035, 0.035, 0.04), (0.42, 0.02, 0.02), (0.28, 0.015, 0.03), (0.03, 0.08, 0.30), (0.05, 0.16, 0.42),
    (0.015, 0.03, 0.10), (0.04, 0.14, 0.07), (0.40, 0.33, 0.20), (0.52, 0.20, 0.03), (0.55, 0.42, 0.04),
]  # fmt: skip

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)),
                   np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))], axis=1)  # fmt: skip


class Shape:
    """Polygons and capsules of one model."""

    def __init__(self) -> None:
        self.points: list[tuple] = []
        self.counts: list[int] = []
        self.rows: list[tuple] = []  # material, colour, emission, bias, seed of each polygon
        self.capsules: list[tuple] = []  # end a, end b, radius a, radius b, material, colour, emission, bias

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points (M, 3), counts (P,), rows (P, 9), capsules (N, 16): the finished shape."""
        points, rows = np.array(self.points).reshape(-1, 3), np.array(self.rows).reshape(-1, 9)
        return points, np.array(self.counts, np.int64), rows, np.array(self.capsules).reshape(-1, 16)

    def polygon(self, points, colour, material=MATTE, emission=DARK, bias=0.0, seed=0.0) -> None:
        self.points.extend(points)
        self.counts.append(len(points))
        self.rows.append((material, *colour, *emission, bias, seed))

    def capsule(self, a, b, radius_a, radius_b, colour, material=MATTE, emission=DARK, bias=0.0) -> None:
        self.capsules.append((*a, *b, radius_a, radius_b, material, *colour, *emission, bias))

    def box(self, x, y, z, colour, material=MATTE, top=None) -> None:
        """x, y, z are (low, high). `top` is the colour of the lid, when it differs."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        self.polygon([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], colour, material)
        self.polygon([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], colour, material)
        self.polygon([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], colour, material)
        self.polygon([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], colour, material)
        self.polygon([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], top or colour, material)

    def side(self, x, y, z, colour, material=MATTE, emission=DARK, bias=0.001) -> None:
        """An upright rectangle in the plane x, facing sideways."""
        points = [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]
        self.polygon(points, colour, material, emission, bias)

    def front(self, z, x, y, colour, material=MATTE, emission=DARK, bias=0.001) -> None:
        """An upright rectangle in the plane z, facing along or against the heading."""
        points = [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]
        self.polygon(points, colour, material, emission, bias)

    def disc(self, x, y, z, radius, colour, material=MATTE, emission=DARK, bias=0.001) -> None:
        """A disc in the plane x: a wheel seen from the side."""
        points = [(x, y + radius * s, z + radius * c) for c, s in CIRCLE.tolist()]
        self.polygon(points, colour, material, emission, bias)

    def pane(self, corners, u, v, colour, material=GLASS, bias=0.0015) -> None:
        """A rectangle inside a four-cornered panel: u runs from corner 0 to 1, v from 0 to 3."""
        a, b, c, d = (np.asarray(corner, float) for corner in corners)

        def at(s, t):
            return tuple((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c))

        self.polygon([at(u[0], v[0]), at(u[1], v[0]), at(u[1], v[1]), at(u[0], v[1])], colour, material, bias=bias)

    def wheels(self, axles, half_width, radius, hub=STEEL, width=0.22) -> None:
        """Wheels with dark arches at both sides of every axle."""
        for z in axles:
            for sign in (-1, 1):
                x = sign * half_width
                inner = sign * (half_width - width)
                self.box((min(x, inner), max(x, inner)), (0.0, radius * 1.3), (z - radius * 0.55, z + radius * 0.55),
                         RUBBER)  # fmt: skip
                self.disc(x * 1.002, radius * 1.05, z, radius * 1.18, BLACK, bias=0.0006)
                self.disc(x * 1.006, radius, z, radius, RUBBER, bias=0.0012)
                self.disc(x * 1.01, radius, z, radius * 0.6, hub, bias=0.0018)
                self.disc(x * 1.012, radius, z, radius * 0.2, BLACK, bias=0.0024)


def pick(rng: np.random.Generator, items):
    return items[int(rng.integers(len(items)))]


def vary(rng: np.random.Generator, colour, amount=0.15) -> tuple[float, float, float]:
    red, green, blue = (1 + amount * rng.uniform(-1, 1, 3)) * colour
    return float(red), float(green), float(blue)
