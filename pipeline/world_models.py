"""The sample world's things: cars, buses, trucks, people, bikes, motors and street furniture, as flat polygons.

Every model stands on the ground at its own origin and looks along +z: x right, y up, metres. A `Shape` collects
polygons and capsules (a limb or a tube: two ends and two radii, turned towards the camera when it is placed).
Colours are linear light, so they look darker as numbers than on the screen.
"""

from itertools import pairwise

import numpy as np

from pipeline.world_draw import FOLIAGE, GLASS, LAMP, MATTE, PAINT

BLACK = (0.012, 0.012, 0.013)
RUBBER = (0.02, 0.02, 0.021)
STEEL = (0.28, 0.29, 0.30)
GLASS_COLOUR = (0.025, 0.032, 0.04)
PLATE = (0.75, 0.75, 0.7)
HEAD_EMISSION = (26.0, 24.0, 19.0)
TAIL_EMISSION = (7.0, 0.35, 0.18)
CAR_COLOURS = [
    (0.72, 0.72, 0.70), (0.62, 0.62, 0.62), (0.30, 0.31, 0.33), (0.10, 0.105, 0.11), (0.03, 0.03, 0.034),
    (0.035, 0.035, 0.04), (0.42, 0.02, 0.02), (0.28, 0.015, 0.03), (0.03, 0.08, 0.30), (0.05, 0.16, 0.42),
    (0.015, 0.03, 0.10), (0.04, 0.14, 0.07), (0.40, 0.33, 0.20), (0.52, 0.20, 0.03), (0.55, 0.42, 0.04),
]  # fmt: skip
BUS_COLOURS = [
    (0.55, 0.03, 0.03), (0.75, 0.74, 0.70), (0.04, 0.17, 0.45), (0.62, 0.42, 0.03), (0.06, 0.33, 0.14),
    (0.70, 0.25, 0.03), (0.05, 0.35, 0.42), (0.35, 0.05, 0.22),
]  # fmt: skip
CLOTHES = [
    (0.02, 0.02, 0.025), (0.05, 0.06, 0.09), (0.02, 0.05, 0.16), (0.35, 0.03, 0.03), (0.60, 0.58, 0.54),
    (0.18, 0.19, 0.20), (0.05, 0.18, 0.08), (0.50, 0.32, 0.04), (0.22, 0.12, 0.06), (0.40, 0.10, 0.22),
    (0.10, 0.25, 0.40), (0.65, 0.16, 0.03), (0.10, 0.05, 0.14),
]  # fmt: skip
TROUSERS = [(0.02, 0.02, 0.024), (0.03, 0.05, 0.12), (0.06, 0.09, 0.17), (0.25, 0.20, 0.13), (0.10, 0.10, 0.11)]
SKINS = [(0.55, 0.33, 0.23), (0.46, 0.26, 0.17), (0.28, 0.14, 0.085), (0.12, 0.06, 0.04)]
HAIRS = [(0.01, 0.009, 0.008), (0.035, 0.02, 0.012), (0.14, 0.08, 0.03), (0.30, 0.22, 0.11), (0.25, 0.25, 0.25)]

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)),
                   np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))], axis=1)  # fmt: skip


class Shape:
    """Polygons and capsules of one model."""

    def __init__(self) -> None:
        self.points: list[tuple] = []
        self.counts: list[int] = []
        self.rows: list[tuple] = []  # material, colour, emission, bias, seed of each polygon
        self.capsules: list[tuple] = []  # end a, end b, radius a, radius b, material, colour, emission, bias

    def polygon(self, points, colour, material=MATTE, emission=(0.0, 0.0, 0.0), bias=0.0, seed=0.0) -> None:
        self.points.extend(points)
        self.counts.append(len(points))
        self.rows.append((material, *colour, *emission, bias, seed))

    def capsule(self, a, b, radius_a, radius_b, colour, material=MATTE, emission=(0.0, 0.0, 0.0), bias=0.0) -> None:
        self.capsules.append((*a, *b, radius_a, radius_b, material, *colour, *emission, bias))

    def box(self, x, y, z, colour, material=MATTE, top=None) -> None:
        """x, y, z are (low, high). `top` is the colour of the lid, when it differs."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        self.polygon([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], colour, material)
        self.polygon([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], colour, material)
        self.polygon([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], colour, material)
        self.polygon([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], colour, material)
        self.polygon([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], top or colour, material)

    def side(self, x, y, z, colour, material=MATTE, emission=(0.0, 0.0, 0.0), bias=0.001) -> None:
        """An upright rectangle in the plane x, facing sideways."""
        points = [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]
        self.polygon(points, colour, material, emission, bias)

    def front(self, z, x, y, colour, material=MATTE, emission=(0.0, 0.0, 0.0), bias=0.001) -> None:
        """An upright rectangle in the plane z, facing along or against the heading."""
        points = [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]
        self.polygon(points, colour, material, emission, bias)

    def disc(self, x, y, z, radius, colour, material=MATTE, emission=(0.0, 0.0, 0.0), bias=0.001) -> None:
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
    factor = 1 + amount * rng.uniform(-1, 1, 3)
    return tuple(float(c * f) for c, f in zip(colour, factor, strict=True))


def lamp_pair(shape: Shape, z: float, x: tuple[float, float], y: tuple[float, float], emission, colour) -> None:
    for sign in (-1, 1):
        low, high = sorted((sign * x[0], sign * x[1]))
        shape.front(z, (low, high), y, colour, LAMP, emission, bias=0.002)


def car(rng: np.random.Generator, glow: float) -> tuple[Shape, tuple[float, float, float]]:
    """A passenger car; returns it with (width, height, length). `glow` scales its lamps (brakes shine by day too)."""
    kind = pick(rng, ["sedan", "sedan", "hatch", "hatch", "suv", "suv", "wagon", "van"])
    length, width, height = {
        "sedan": (4.65, 1.82, 1.45), "hatch": (4.05, 1.76, 1.50), "suv": (4.55, 1.88, 1.72),
        "wagon": (4.7, 1.82, 1.50), "van": (4.9, 1.95, 1.95),
    }[kind]  # fmt: skip
    length, width, height = (
        length * rng.uniform(0.94, 1.05),
        width * rng.uniform(0.97, 1.04),
        height * rng.uniform(0.96, 1.04),
    )
    w, e = width / 2, length / 2
    belt = height * rng.uniform(0.58, 0.64)
    nose = belt * rng.uniform(0.76, 0.88)
    hood_end = e - length * {"sedan": 0.27, "hatch": 0.24, "suv": 0.25, "wagon": 0.26, "van": 0.17}[kind]
    roof_front = hood_end - length * {"sedan": 0.16, "hatch": 0.15, "suv": 0.13, "wagon": 0.15, "van": 0.15}[kind]
    roof_back = {"sedan": -0.20, "hatch": -0.36, "suv": -0.40, "wagon": -0.41, "van": -0.45}[kind] * length
    back_base = {"sedan": -0.36, "hatch": -0.47, "suv": -0.475, "wagon": -0.48, "van": -0.485}[kind] * length
    tail = belt * (0.98 if kind == "sedan" else 0.92)
    floor = 0.24 if kind != "suv" else 0.30
    roof_w = w * rng.uniform(0.74, 0.82) if kind != "van" else w * 0.88
    paint = vary(rng, pick(rng, CAR_COLOURS))
    shape = Shape()
    # Strips from the front bumper over the roof to the rear bumper.
    profile = [
        (e, floor, w * 0.94),
        (e, nose, w * 0.94),
        (hood_end, belt, w * 0.98),
        (roof_front, height, roof_w),
        (roof_back, height, roof_w),
        (back_base, belt, w * 0.97),
        (-e, tail, w * 0.95),
        (-e, floor, w * 0.95),
    ]
    for (za, ya, wa), (zb, yb, wb) in pairwise(profile):
        shape.polygon([(-wa, ya, za), (wa, ya, za), (wb, yb, zb), (-wb, yb, zb)], paint, PAINT)
    windscreen = [
        (-w * 0.98, belt, hood_end),
        (w * 0.98, belt, hood_end),
        (roof_w, height, roof_front),
        (-roof_w, height, roof_front),
    ]
    back_glass = [
        (-w * 0.97, belt, back_base),
        (w * 0.97, belt, back_base),
        (roof_w, height, roof_back),
        (-roof_w, height, roof_back),
    ]
    shape.pane(windscreen, (0.06, 0.94), (0.05, 0.93), GLASS_COLOUR)
    shape.pane(back_glass, (0.09, 0.91), (0.12, 0.88), GLASS_COLOUR)
    for sign in (-1, 1):
        x = sign * w
        shape.polygon(
            [
                (x, floor, e * 0.98),
                (x, nose, e * 0.98),
                (x, belt, hood_end),
                (x, belt, back_base),
                (x, tail, -e * 0.98),
                (x, floor, -e * 0.98),
            ],
            paint,
            PAINT,
        )
        shape.side(x, (floor, floor + 0.1), (-e * 0.95, e * 0.95), BLACK)
        panel = [
            (x, belt, back_base),
            (x, belt, hood_end),
            (sign * roof_w, height, roof_front),
            (sign * roof_w, height, roof_back),
        ]
        shape.polygon(panel, paint, PAINT)
        split = rng.uniform(0.46, 0.54)
        shape.pane(panel, (0.05, split - 0.015), (0.08, 0.86), GLASS_COLOUR)
        shape.pane(panel, (split + 0.015, 0.93), (0.08, 0.86), GLASS_COLOUR)
        mirror = sorted((x, x + sign * 0.17))
        shape.box(tuple(mirror), (belt, belt + 0.13), (hood_end - 0.45, hood_end - 0.33), paint, PAINT)
    shape.polygon([(-w, floor, -e), (w, floor, -e), (w, floor, e), (-w, floor, e)], BLACK)
    # Face: grille, lamps, plate. Rear: lamps, plate, bumper.
    shape.front(e, (-w * 0.5, w * 0.5), (floor + 0.16, nose * 0.82), BLACK)
    shape.front(e, (-w * 0.94, w * 0.94), (floor, floor + 0.12), BLACK)
    shape.front(e, (-0.24, 0.24), (floor + 0.12, floor + 0.23), PLATE, bias=0.002)
    lamp_y = (nose - rng.uniform(0.17, 0.24), nose - 0.05)
    lamp_pair(shape, e, (w * 0.55, w * 0.92), lamp_y, tuple(glow * c for c in HEAD_EMISSION), (0.75, 0.76, 0.78))
    upright = kind in ("suv", "van", "wagon") and rng.random() < 0.7
    tail_x = (w * 0.72, w * 0.94) if upright else (w * 0.5, w * 0.94)
    tail_y = (tail - 0.34, tail + 0.0) if upright else (tail - 0.2, tail - 0.03)
    lamp_pair(shape, -e, tail_x, tail_y, tuple(glow * c for c in TAIL_EMISSION), (0.42, 0.012, 0.012))
    shape.front(-e, (-0.25, 0.25), (tail - 0.28, tail - 0.16), PLATE, bias=0.002)
    shape.front(-e, (-w * 0.95, w * 0.95), (floor, floor + 0.16), BLACK)
    hub = pick(rng, [STEEL, (0.45, 0.45, 0.46), (0.08, 0.08, 0.085)])
    shape.wheels((e * 0.64, -e * 0.62), w, 0.32 if kind != "suv" else 0.36, hub)
    return shape, (width, height, length)


def bus(rng: np.random.Generator, glow: float) -> tuple[Shape, tuple[float, float, float]]:
    """A city bus or coach: a long box with a band of windows, doors, a lit destination board."""
    length, width, height = rng.uniform(9.0, 12.5), 2.5, rng.uniform(2.9, 3.35)
    w, e, floor = width / 2, length / 2, 0.32
    paint = vary(rng, pick(rng, BUS_COLOURS))
    second = vary(
        rng, pick(rng, [paint, (0.72, 0.72, 0.7), (0.72, 0.72, 0.7), (0.03, 0.03, 0.035), pick(rng, BUS_COLOURS)])
    )
    window_low, window_high = rng.uniform(1.25, 1.5), height - rng.uniform(0.55, 0.75)
    shape = Shape()
    shape.box((-w, w), (floor, height), (-e, e), paint, PAINT, top=(0.5, 0.5, 0.5))
    stripe = rng.uniform(0.75, 1.05)
    for z in (-e, e):
        shape.front(z, (-w, w), (floor, stripe), second, PAINT, bias=0.0005)
    door_side = 1
    for sign in (-1, 1):
        x = sign * w
        shape.side(x, (floor, stripe), (-e, e), second, PAINT, bias=0.0005)
        shape.side(x, (window_low - 0.06, window_high + 0.06), (-e * 0.97, e * 0.985), BLACK, bias=0.001)
        num_windows = int(rng.integers(5, 8))
        step = length * 0.95 / num_windows
        for i in range(num_windows):
            z0 = -e * 0.95 + i * step
            shape.side(x, (window_low, window_high), (z0 + 0.05, z0 + step - 0.05), GLASS_COLOUR, GLASS,
                       tuple(0.12 * glow * c for c in (1.0, 0.85, 0.55)), bias=0.0015)  # fmt: skip
        if sign == door_side:
            for z in (e * 0.78, -e * 0.05):
                shape.side(x, (floor + 0.08, window_high), (z - 0.6, z + 0.6), BLACK, bias=0.002)
                for half in (-0.3, 0.3):
                    shape.side(
                        x,
                        (floor + 0.2, window_high - 0.08),
                        (z + half - 0.24, z + half + 0.24),
                        GLASS_COLOUR,
                        GLASS,
                        bias=0.0025,
                    )
        mirror = sorted((x * 0.98, x * 1.16))
        shape.box(tuple(mirror), (1.9, 2.4), (e, e + 0.18), BLACK)
    # Front: a windscreen nearly as wide as the bus under the destination board.
    shape.front(e, (-w * 0.94, w * 0.94), (1.0, height - 0.18), BLACK, bias=0.001)
    shape.front(e, (-w * 0.9, w * 0.9), (1.05, height - 0.55), GLASS_COLOUR, GLASS, bias=0.0015)
    shape.front(e, (-0.03, 0.03), (1.05, height - 0.55), BLACK, bias=0.002)
    letters = (0.7, 0.28, 0.02)
    for i in range(6):
        if rng.random() < 0.8:
            x0 = -w * 0.6 + i * w * 0.2
            shape.front(e, (x0, x0 + w * 0.14), (height - 0.45, height - 0.26), letters, LAMP,
                        tuple(c * (0.5 + 4 * glow) for c in letters), bias=0.002)  # fmt: skip
    lamp_pair(shape, e, (w * 0.62, w * 0.9), (0.62, 0.84), tuple(glow * c for c in HEAD_EMISSION), (0.75, 0.76, 0.78))
    shape.front(e, (-w, w), (floor, 0.5), BLACK, bias=0.001)
    shape.front(e, (-0.26, 0.26), (0.52, 0.66), PLATE, bias=0.002)
    # Rear: a small window above the engine's grille, lamps in columns.
    shape.front(-e, (-w * 0.8, w * 0.8), (1.65, height - 0.4), GLASS_COLOUR, GLASS, bias=0.0015)
    shape.front(-e, (-w * 0.55, w * 0.55), (0.65, 1.35), BLACK, bias=0.0015)
    for i in range(4):
        shape.front(-e, (-w * 0.52, w * 0.52), (0.72 + 0.16 * i, 0.78 + 0.16 * i), (0.12, 0.12, 0.12), bias=0.002)
    tail = tuple(glow * c for c in TAIL_EMISSION)
    lamp_pair(shape, -e, (w * 0.8, w * 0.95), (0.8, 1.4), tail, (0.42, 0.012, 0.012))
    lamp_pair(shape, -e, (w * 0.8, w * 0.95), (1.42, 1.6), tuple(0.3 * glow * c for c in (8, 3, 0.2)), (0.5, 0.2, 0.01))
    shape.front(-e, (-0.26, 0.26), (0.42, 0.55), PLATE, bias=0.002)
    if rng.random() < 0.6:
        shape.box((-w * 0.6, w * 0.6), (height, height + 0.22), (-e * 0.2, e * 0.4), (0.6, 0.6, 0.6))
    shape.wheels((e * 0.56, -e * 0.48), w, 0.48, STEEL, 0.3)
    return shape, (width, height, length)


def truck_cab(
    shape: Shape, rng: np.random.Generator, paint, back: float, front: float, w: float, height: float, glow: float
) -> None:
    """A cab over its engine between z = back and z = front."""
    floor, slope = 0.45, 0.25
    belt = height * 0.55
    shape.box((-w, w), (floor, belt), (back, front), paint, PAINT)
    shape.box((-w, w), (belt, height), (back, front - slope), paint, PAINT)
    glass = [(-w, belt, front), (w, belt, front), (w * 0.97, height, front - slope), (-w * 0.97, height, front - slope)]
    shape.polygon(glass, paint, PAINT)
    shape.pane(glass, (0.05, 0.95), (0.08, 0.8), GLASS_COLOUR)
    for sign in (-1, 1):
        x = sign * w
        shape.side(
            x,
            (belt, height * 0.88),
            (back + (front - back) * 0.35, front - slope - 0.05),
            GLASS_COLOUR,
            GLASS,
            bias=0.0015,
        )
        shape.side(x, (floor, floor + 0.15), (back, front), BLACK)
        mirror = sorted((x, x * 1.18))
        shape.box(tuple(mirror), (belt + 0.1, belt + 0.65), (front - 0.2, front - 0.08), BLACK)
    shape.front(front, (-w * 0.62, w * 0.62), (floor + 0.28, belt - 0.12), BLACK)
    for i in range(3):
        y = floor + 0.36 + i * (belt - floor - 0.5) / 3
        shape.front(front, (-w * 0.58, w * 0.58), (y, y + 0.06), STEEL, bias=0.0015)
    shape.front(front, (-w, w), (floor - 0.05, floor + 0.22), pick(rng, [BLACK, STEEL]), bias=0.0005)
    lamp_pair(
        shape,
        front,
        (w * 0.62, w * 0.92),
        (floor + 0.26, floor + 0.48),
        tuple(glow * c for c in HEAD_EMISSION),
        (0.75, 0.76, 0.78),
    )


def truck(rng: np.random.Generator, glow: float) -> tuple[Shape, tuple[float, float, float]]:
    """A lorry: box body, tipper, tanker or tarpaulin on a frame behind a cab."""
    kind = pick(rng, ["box", "box", "box", "tarpaulin", "tipper", "tanker"])
    length = rng.uniform(6.2, 8.5) if kind != "tarpaulin" else rng.uniform(7.5, 12.0)
    width, height = rng.uniform(2.3, 2.5), rng.uniform(2.9, 3.6)
    w, e = width / 2, length / 2
    cab_length = 1.9
    cab_height = min(height, rng.uniform(2.3, 2.8))
    back_of_cab = e - cab_length
    paint = vary(
        rng,
        pick(
            rng,
            [
                (0.7, 0.7, 0.68),
                (0.6, 0.6, 0.6),
                (0.45, 0.02, 0.02),
                (0.03, 0.08, 0.3),
                (0.6, 0.4, 0.03),
                (0.05, 0.2, 0.1),
            ],
        ),
    )
    shape = Shape()
    truck_cab(shape, rng, paint, back_of_cab, e, w * 0.96, cab_height, glow)
    shape.box((-w * 0.5, w * 0.5), (0.5, 0.85), (-e * 0.99, e - 0.4), BLACK)
    bed, front = 0.9, back_of_cab - 0.15
    if kind in ("box", "tarpaulin"):
        load = pick(
            rng,
            [
                (0.78, 0.78, 0.76),
                (0.72, 0.72, 0.7),
                (0.55, 0.55, 0.52),
                (0.4, 0.03, 0.03),
                (0.04, 0.1, 0.32),
                (0.5, 0.36, 0.05),
                (0.06, 0.22, 0.1),
            ],
        )
        load = vary(rng, load)
        shape.box(
            (-w, w),
            (bed, height),
            (-e, front),
            load,
            PAINT if kind == "box" else MATTE,
            top=tuple(0.9 * c for c in load),
        )
        stripe = vary(rng, pick(rng, CAR_COLOURS), 0.3)
        for sign in (-1, 1):
            x = sign * w
            if kind == "box":
                if rng.random() < 0.7:
                    y0 = bed + rng.uniform(0.3, 0.8) * (height - bed) * 0.6
                    shape.side(x, (y0, y0 + 0.45), (-e * 0.85, front - 0.5), stripe, bias=0.0008)
                shape.side(x, (bed, bed + 0.12), (-e, front), STEEL, bias=0.001)
                shape.side(x, (height - 0.1, height), (-e, front), STEEL, bias=0.001)
            else:
                for i in range(8):
                    z = -e + (i + 0.5) * (front + e) / 8
                    shape.side(x, (bed, height), (z - 0.04, z + 0.04), tuple(0.7 * c for c in load), bias=0.001)
        # Rear doors: a gap, locking bars, hinges.
        shape.front(-e, (-0.02, 0.02), (bed, height), BLACK, bias=0.001)
        for x in (-w * 0.55, -w * 0.12, w * 0.12, w * 0.55):
            shape.front(-e, (x - 0.025, x + 0.025), (bed + 0.05, height - 0.05), STEEL, bias=0.0015)
        for x in (-w, w):
            shape.front(-e, sorted((x, x * 0.95)), (bed, height), STEEL, bias=0.0012)
        shape.front(-e, (-w, w), (height - 0.09, height), STEEL, bias=0.0012)
    elif kind == "tipper":
        body = vary(
            rng,
            pick(rng, [(0.55, 0.3, 0.03), (0.5, 0.42, 0.05), (0.3, 0.3, 0.3), (0.35, 0.04, 0.03), (0.05, 0.2, 0.25)]),
        )
        top = rng.uniform(1.9, 2.5)
        shape.box((-w, w), (bed, top), (-e, front), body, PAINT, top=(0.12, 0.09, 0.06))
        heap = top + rng.uniform(0.0, 0.5)
        shape.polygon(
            [
                (-w * 0.8, top, -e * 0.9),
                (w * 0.8, top, -e * 0.9),
                (w * 0.4, heap, -e * 0.4),
                (-w * 0.4, heap, -e * 0.4),
            ],
            (0.14, 0.1, 0.07),
        )
        shape.polygon(
            [
                (-w * 0.8, top, front * 0.8),
                (-w * 0.8, top, -e * 0.9),
                (-w * 0.4, heap, -e * 0.4),
                (-w * 0.4, heap, front * 0.2),
            ],
            (0.12, 0.09, 0.06),
        )
        shape.polygon(
            [
                (w * 0.8, top, front * 0.8),
                (w * 0.8, top, -e * 0.9),
                (w * 0.4, heap, -e * 0.4),
                (w * 0.4, heap, front * 0.2),
            ],
            (0.12, 0.09, 0.06),
        )
        for sign in (-1, 1):
            for i in range(6):
                z = -e + (i + 0.5) * (front + e) / 6
                shape.side(sign * w, (bed, top), (z - 0.06, z + 0.06), tuple(0.6 * c for c in body), bias=0.001)
        for x in (-w * 0.5, w * 0.5):
            shape.front(-e, (x - 0.06, x + 0.06), (bed, top), tuple(0.6 * c for c in body), bias=0.001)
        height = max(heap, cab_height)
    else:
        metal = vary(rng, pick(rng, [(0.6, 0.6, 0.6), (0.72, 0.72, 0.7), (0.45, 0.3, 0.05)]))
        radius, centre = w * 0.98, 0.95 + w * 0.98
        ring = [(radius * c, centre + radius * 0.92 * s) for c, s in CIRCLE.tolist()]
        for (xa, ya), (xb, yb) in zip(ring, ring[1:] + ring[:1], strict=True):
            shape.polygon([(xa, ya, -e), (xb, yb, -e), (xb, yb, front), (xa, ya, front)], metal, PAINT)
        for z in (-e, front):
            shape.polygon([(x, y, z) for x, y in ring], tuple(0.85 * c for c in metal), PAINT)
        shape.front(-e - 0.01, (-0.3, 0.3), (centre - 0.3, centre + 0.3), (0.6, 0.3, 0.02), bias=0.001)
        for sign in (-1, 1):
            shape.side(sign * w, (0.75, 0.95), (-e, front), STEEL)
        height = max(cab_height, centre + radius)
    # Under-run guard with hazard stripes and lamps.
    shape.front(-e, (-w, w), (0.45, 0.62), BLACK)
    shape.front(-e, (-w, w), (0.72, 0.9), BLACK, bias=0.0005)
    for i in range(8):
        x0 = -w + i * w / 4
        colour = (0.5, 0.02, 0.02) if i % 2 else (0.75, 0.75, 0.72)
        shape.front(-e, (x0, x0 + w / 4), (0.48, 0.6), colour, bias=0.0015)
    lamp_pair(shape, -e, (w * 0.66, w * 0.95), (0.7, 0.9), tuple(glow * c for c in TAIL_EMISSION), (0.42, 0.012, 0.012))
    shape.front(-e, (-0.25, 0.25), (0.74, 0.87), PLATE, bias=0.0015)
    axles = [e - 1.1, -e * 0.6] + ([-e * 0.6 - 1.1] if length > 7.4 else [])
    shape.wheels(axles, w * 0.98, 0.48, pick(rng, [STEEL, (0.1, 0.1, 0.1)]), 0.35)
    return shape, (width, height, length)


def limbs(shape: Shape, parts, colour) -> None:
    for a, b, radius_a, radius_b in parts:
        shape.capsule(a, b, radius_a, radius_b, colour)


def head(shape: Shape, rng: np.random.Generator, y: float, z: float, scale: float, helmet: str = "none") -> None:
    """`y` is the chin's height. A helmet is "none", "bike" (a light cap) or "motor" (round, with a visor)."""
    skin = vary(rng, pick(rng, SKINS))
    if helmet == "motor":
        colour = vary(rng, pick(rng, [*CAR_COLOURS, (0.7, 0.7, 0.7)]))
        shape.capsule(
            (0, y + 0.14 * scale, z), (0, y + 0.17 * scale, z - 0.01), 0.155 * scale, 0.15 * scale, colour, PAINT
        )
        shape.front(
            z + 0.15 * scale,
            (-0.1 * scale, 0.1 * scale),
            (y + 0.10 * scale, y + 0.19 * scale),
            GLASS_COLOUR,
            GLASS,
            bias=0.004,
        )
        return
    shape.capsule((0, y - 0.05 * scale, z - 0.01), (0, y + 0.05, z), 0.055 * scale, 0.055 * scale, skin)
    shape.capsule((0, y + 0.08 * scale, z + 0.01), (0, y + 0.14 * scale, z), 0.085 * scale, 0.1 * scale, skin)
    if helmet == "bike":
        colour = vary(
            rng,
            pick(rng, [(0.7, 0.7, 0.7), (0.6, 0.05, 0.03), (0.03, 0.03, 0.03), (0.05, 0.15, 0.5), (0.6, 0.55, 0.05)]),
        )
        shape.capsule(
            (0, y + 0.2 * scale, z - 0.07),
            (0, y + 0.2 * scale, z + 0.07),
            0.1 * scale,
            0.09 * scale,
            colour,
            bias=0.002,
        )
    else:
        hair = pick(rng, HAIRS)
        low = y + (0.12 if rng.random() < 0.6 else -0.05) * scale
        shape.capsule((0, y + 0.175 * scale, z - 0.015), (0, low, z - 0.05), 0.1 * scale, 0.085 * scale, hair)
        shape.capsule(
            (0, y + 0.19 * scale, z + 0.02),
            (0, y + 0.19 * scale, z - 0.03),
            0.088 * scale,
            0.09 * scale,
            hair,
            bias=0.001,
        )


def person(rng: np.random.Generator, glow: float, umbrella: bool = False) -> tuple[Shape, tuple[float, float, float]]:
    """Someone walking or standing."""
    height = rng.uniform(1.55, 1.9) if rng.random() < 0.88 else rng.uniform(1.1, 1.4)
    k = height / 1.75
    girth = k * rng.uniform(0.9, 1.2)
    top, bottom = vary(rng, pick(rng, CLOTHES), 0.3), vary(rng, pick(rng, TROUSERS), 0.3)
    skin = vary(rng, pick(rng, SKINS))
    stride = rng.uniform(0.0, 0.36) * k
    shape = Shape()
    hip, shoulder = 0.9 * k, 1.4 * k
    coat = rng.random() < 0.25
    skirt = not coat and rng.random() < 0.18
    leg = skin if skirt and rng.random() < 0.6 else bottom
    for sign in (-1, 1):
        foot_z, lift = sign * stride, 0.06 * k if sign < 0 and stride > 0.1 else 0.0
        x = sign * 0.09 * k
        knee = (x, 0.48 * k, 0.55 * foot_z + 0.05 * k * (stride > 0.1))
        ankle = (x, 0.09 * k + lift, foot_z)
        shape.capsule((x, hip, 0), knee, 0.092 * girth, 0.07 * girth, leg)
        shape.capsule(knee, ankle, 0.068 * girth, 0.05 * girth, leg)
        shape.capsule(
            (x, 0.05 * k + lift, foot_z - 0.05), (x, 0.045 * k + lift, foot_z + 0.13 * k), 0.05 * k, 0.04 * k, BLACK
        )
        hand_z = -sign * stride * 0.75
        raised = umbrella and sign == 1
        elbow = (sign * 0.25 * girth, 1.13 * k, 0.4 * hand_z) if not raised else (0.27 * girth, 1.12 * k, 0.1)
        hand = (sign * 0.26 * girth, 0.88 * k, hand_z) if not raised else (0.2 * girth, 1.3 * k, 0.25)
        shape.capsule((sign * 0.19 * girth, shoulder - 0.03, 0), elbow, 0.062 * girth, 0.052 * girth, top)
        shape.capsule(elbow, hand, 0.05 * girth, 0.04 * girth, top)
        shape.capsule(hand, hand, 0.05 * k, 0.05 * k, skin)
    for sign in (-1, 1):  # two halves make the chest wider than deep
        x = sign * 0.08 * girth
        shape.capsule((x, hip - 0.02, 0), (x * 1.15, shoulder - 0.05, 0), 0.105 * girth, 0.115 * girth, top)
        if coat or skirt:
            colour = top if coat else bottom
            shape.capsule((x, hip, 0), (x * 1.3, 0.55 * k, 0), 0.11 * girth, 0.13 * girth, colour)
    head(shape, rng, 1.5 * k, 0.01, k)
    if rng.random() < 0.35:
        bag = vary(rng, pick(rng, CLOTHES), 0.3)
        shape.capsule((0, 1.32 * k, -0.17), (0, 1.05 * k, -0.2), 0.14 * k, 0.15 * k, bag)
    if umbrella:
        colour = vary(rng, pick(rng, CLOTHES), 0.3)
        centre, tip = (0.2 * girth, 1.85 * k, 0.2), 2.12 * k
        shape.capsule((0.2 * girth, 1.2 * k, 0.25), (0.2 * girth, tip, 0.2), 0.012, 0.012, STEEL)
        rim = [(centre[0] + 0.52 * c, centre[1], centre[2] + 0.52 * s) for c, s in CIRCLE[::2].tolist()]
        for a, b in zip(rim, rim[1:] + rim[:1], strict=True):
            shape.polygon([a, b, (centre[0], tip, centre[2])], colour)
    return shape, (0.55, height, max(0.35, 2 * stride))


def ring(shape: Shape, y: float, z: float, radius: float, thickness: float, colour) -> None:
    """A tyre in the plane x = 0."""
    points = [(0.0, y + radius * s, z + radius * c) for c, s in CIRCLE.tolist()]
    for a, b in zip(points, points[1:] + points[:1], strict=True):
        shape.capsule(a, b, thickness, thickness, colour)


def bike(rng: np.random.Generator, glow: float) -> tuple[Shape, tuple[float, float, float]]:
    """A bicycle: two thin rings, a frame of tubes, saddle and handlebar."""
    shape = Shape()
    radius, half = rng.uniform(0.33, 0.36), rng.uniform(0.5, 0.56)
    paint = vary(rng, pick(rng, [*CAR_COLOURS, (0.6, 0.05, 0.03), (0.05, 0.4, 0.4)]), 0.3)
    tube = rng.uniform(0.022, 0.032)
    for z in (-half, half):
        ring(shape, radius, z, radius - 0.02, 0.026, RUBBER)
        for angle in (0.2, 1.25, 2.3):
            dy, dz = (radius - 0.03) * np.sin(angle), (radius - 0.03) * np.cos(angle)
            shape.capsule((0, radius - dy, z - dz), (0, radius + dy, z + dz), 0.005, 0.005, STEEL)
        shape.capsule((0, radius, z), (0, radius, z), 0.045, 0.045, STEEL)
    crank, seat, stem, neck = (0, 0.3, -0.06), (0, 0.88, -0.22), (0, 0.9, half - 0.18), (0, 0.76, half - 0.14)
    frame = [
        (crank, seat),
        (crank, neck),
        ((0, 0.74, -0.18), stem),
        (crank, (0, radius, -half)),
        (seat, (0, radius, -half)),
        (stem, (0, radius, half)),
    ]
    if rng.random() < 0.3:
        frame[2] = ((0, 0.5, -0.12), neck)  # step-through
    for a, b in frame:
        shape.capsule(a, b, tube, tube, paint, PAINT)
    shape.capsule((0, 0.95, -0.34), (0, 0.95, -0.1), 0.055, 0.035, BLACK)
    shape.capsule(stem, (0, 1.02, half - 0.2), 0.018, 0.018, STEEL)
    shape.capsule((-0.29, 1.03, half - 0.24), (0.29, 1.03, half - 0.24), 0.02, 0.02, BLACK)
    shape.capsule((0.06, 0.3, -0.06), (0.07, 0.15, 0.02), 0.015, 0.015, STEEL)
    shape.capsule((-0.06, 0.3, -0.06), (-0.07, 0.45, -0.14), 0.015, 0.015, STEEL)
    if rng.random() < 0.45:
        shape.box((-0.18, 0.18), (0.85, 1.08), (half - 0.12, half + 0.15), (0.14, 0.09, 0.05))  # basket
    shape.front(
        half + 0.03,
        (-0.035, 0.035),
        (0.92, 0.99),
        (0.7, 0.7, 0.7),
        LAMP,
        tuple(0.4 * glow * c for c in HEAD_EMISSION),
        bias=0.003,
    )
    shape.front(
        -half - 0.03,
        (-0.035, 0.035),
        (0.6, 0.67),
        (0.4, 0.01, 0.01),
        LAMP,
        tuple(0.7 * glow * c for c in TAIL_EMISSION),
        bias=0.003,
    )
    return shape, (0.6, 1.1, 2 * (half + radius))


def motor(rng: np.random.Generator, glow: float) -> tuple[Shape, tuple[float, float, float]]:
    """A motorcycle or a scooter: fat wheels and a solid painted body."""
    shape = Shape()
    paint = vary(
        rng, pick(rng, [*CAR_COLOURS, (0.5, 0.02, 0.02), (0.6, 0.25, 0.02), (0.05, 0.2, 0.5), (0.7, 0.7, 0.68)]), 0.25
    )
    scooter = rng.random() < 0.4
    radius, half = (0.24, 0.62) if scooter else (0.31, 0.70)
    for z in (-half, half):
        for x in (-0.065, 0.065):
            shape.disc(x, radius, z, radius, RUBBER)
            shape.disc(x * 1.05, radius, z, radius * 0.55, (0.2, 0.2, 0.21), bias=0.002)
        shape.capsule((0, 0.065, z), (0, 2 * radius - 0.065, z), 0.075, 0.075, RUBBER)
    lamp_y, lamp_z = (0.95, half - 0.05) if scooter else (0.92, half - 0.12)
    if scooter:
        for sign in (-1, 1):  # leg shield, floor and rear body
            shape.polygon(
                [
                    (0, 0.3, half - 0.08),
                    (0, 1.0, half - 0.2),
                    (sign * 0.26, 0.95, half - 0.3),
                    (sign * 0.2, 0.32, half - 0.25),
                ],
                paint,
                PAINT,
            )
            shape.polygon(
                [
                    (sign * 0.19, 0.3, -0.05),
                    (sign * 0.21, 0.72, -0.02),
                    (sign * 0.19, 0.8, -half - 0.25),
                    (sign * 0.12, 0.5, -half - 0.22),
                    (sign * 0.16, 0.3, -half + 0.1),
                ],
                paint,
                PAINT,
            )
        shape.box((-0.2, 0.2), (0.28, 0.34), (-0.1, half - 0.25), paint, PAINT)
        shape.box((-0.19, 0.19), (0.5, 0.76), (-half - 0.22, -0.04), paint, PAINT)
        shape.box((-0.16, 0.16), (0.76, 0.85), (-half - 0.15, 0.0), BLACK)
        shape.capsule((0, 0.35, half - 0.02), (0, 0.52, half - 0.08), 0.1, 0.09, paint, PAINT)
        if rng.random() < 0.4:
            shape.box(
                (-0.22, 0.22), (0.85, 1.22), (-half - 0.35, -half + 0.08), vary(rng, pick(rng, CLOTHES))
            )  # delivery box
    else:
        shape.box((-0.19, 0.19), (0.24, 0.62), (-0.22, 0.28), (0.09, 0.09, 0.095), PAINT)
        shape.capsule((0, 0.84, 0.22), (0, 0.8, -0.12), 0.17, 0.13, paint, PAINT)
        shape.capsule((0, 0.8, -0.14), (0, 0.82, -0.5), 0.13, 0.12, BLACK)
        shape.capsule((0, 0.84, -0.45), (0, 0.92, -half - 0.12), 0.12, 0.07, paint, PAINT)
        shape.capsule((0, 0.5, -0.1), (0, radius, -half), 0.05, 0.05, STEEL)
        shape.capsule((0.2, 0.3, 0.1), (0.22, 0.4, -half - 0.1), 0.05, 0.065, STEEL, PAINT)
        if rng.random() < 0.45:  # fairing
            for sign in (-1, 1):
                shape.polygon(
                    [
                        (sign * 0.05, 1.12, half - 0.2),
                        (sign * 0.2, 0.95, half - 0.35),
                        (sign * 0.22, 0.35, 0.0),
                        (sign * 0.2, 0.35, 0.3),
                        (sign * 0.04, 0.75, half + 0.02),
                    ],
                    paint,
                    PAINT,
                )
    for sign in (-1, 1):
        shape.capsule((sign * 0.08, radius, half), (sign * 0.1, 0.95, half - 0.25), 0.035, 0.035, STEEL)
        shape.capsule((sign * 0.05, 1.05, half - 0.28), (sign * 0.36, 1.05, half - 0.36), 0.022, 0.03, BLACK)
        shape.capsule((sign * 0.27, 1.05, half - 0.3), (sign * 0.33, 1.25, half - 0.3), 0.012, 0.012, BLACK)
        shape.capsule((sign * 0.31, 1.25, half - 0.3), (sign * 0.38, 1.25, half - 0.3), 0.05, 0.05, BLACK)
    shape.capsule((0, lamp_y, lamp_z), (0, lamp_y, lamp_z), 0.12, 0.12, paint, PAINT)
    lamp = [(0.09 * c, lamp_y + 0.09 * s, lamp_z + 0.12) for c, s in CIRCLE.tolist()]
    shape.polygon(lamp, (0.7, 0.71, 0.72), LAMP, tuple(1.3 * glow * c for c in HEAD_EMISSION), bias=0.003)
    shape.capsule((0, 2 * radius + 0.03, half + 0.12), (0, 2 * radius + 0.04, half - 0.15), 0.07, 0.07, paint, PAINT)
    rear = -half - 0.26
    shape.front(
        rear, (-0.09, 0.09), (0.74, 0.84), (0.4, 0.01, 0.01), LAMP, tuple(glow * c for c in TAIL_EMISSION), bias=0.003
    )
    shape.front(rear, (-0.1, 0.1), (0.5, 0.66), PLATE, bias=0.003)
    return shape, (0.75, 1.15, 2 * (half + radius))


def rider(rng: np.random.Generator, glow: float, on: str) -> Shape:
    """Who sits on a bike or a motor of this module: hands on the bar, feet on the pedals or pegs."""
    shape = Shape()
    top, bottom = vary(rng, pick(rng, CLOTHES), 0.3), vary(rng, pick(rng, TROUSERS), 0.3)
    skin = vary(rng, pick(rng, SKINS))
    girth = rng.uniform(0.92, 1.15)
    phase = rng.uniform(0, 2 * np.pi)
    if on == "bike":
        hip, chest, hand_z, hand_y, hand_x = (0.98, -0.2), (1.47, rng.uniform(0.0, 0.16)), 0.3, 1.05, 0.26
    else:
        hip, chest, hand_z, hand_y, hand_x = (0.92, -0.3), (1.42, rng.uniform(-0.12, 0.05)), 0.36, 1.08, 0.33
    for sign in (-1, 1):
        x = sign * 0.1
        if on == "bike":
            pedal_y, pedal_z = 0.3 + sign * 0.17 * np.sin(phase), -0.06 + sign * 0.17 * np.cos(phase)
            knee = (x, 0.5 * (pedal_y + hip[0]) + 0.06, 0.5 * (pedal_z + hip[1]) + 0.24)
        else:
            x = sign * 0.22
            pedal_y, pedal_z = 0.38, -0.02
            knee = (x, 0.78, 0.18)
        shape.capsule((x, hip[0], hip[1]), knee, 0.1 * girth, 0.075 * girth, bottom)
        shape.capsule(knee, (x, pedal_y + 0.05, pedal_z - 0.03), 0.07 * girth, 0.052 * girth, bottom)
        shape.capsule((x, pedal_y, pedal_z - 0.05), (x, pedal_y, pedal_z + 0.13), 0.048, 0.042, BLACK)
        elbow = (sign * 0.31, 1.2, 0.5 * (chest[1] + hand_z) - 0.04)
        shape.capsule((sign * 0.19 * girth, chest[0] - 0.03, chest[1]), elbow, 0.065 * girth, 0.055 * girth, top)
        shape.capsule(elbow, (sign * hand_x, hand_y, hand_z), 0.052 * girth, 0.042 * girth, top)
        shape.capsule(
            (sign * hand_x, hand_y, hand_z),
            (sign * hand_x, hand_y, hand_z),
            0.05,
            0.05,
            skin if on == "bike" else BLACK,
        )
        x = sign * 0.085 * girth
        shape.capsule(
            (x, hip[0] + 0.02, hip[1]), (x * 1.15, chest[0] - 0.06, chest[1]), 0.115 * girth, 0.12 * girth, top
        )
    helmet = "motor" if on == "motor" else pick(rng, ["none", "bike"])
    head(shape, rng, chest[0] + 0.09, chest[1] + 0.07, 1.0, helmet)
    if rng.random() < 0.3:
        shape.capsule(
            (0, chest[0] - 0.05, chest[1] - 0.2),
            (0, hip[0] + 0.2, hip[1] - 0.16),
            0.15,
            0.15,
            vary(rng, pick(rng, CLOTHES)),
        )
    return shape


def tree(rng: np.random.Generator) -> Shape:
    """A trunk and a crown of leafy blobs."""
    shape = Shape()
    height, spread = rng.uniform(5, 10), rng.uniform(1.4, 2.6)
    bark = vary(rng, (0.09, 0.06, 0.04), 0.3)
    green = vary(rng, pick(rng, [(0.06, 0.14, 0.03), (0.05, 0.11, 0.03), (0.10, 0.16, 0.03), (0.14, 0.12, 0.03)]), 0.2)
    shape.capsule((0, 0, 0), (0, height * 0.6, 0), 0.16, 0.10, bark)
    for _ in range(int(rng.integers(16, 26))):
        y = height * rng.uniform(0.45, 0.97)
        belly = 1.15 - abs(y / height - 0.66) * 1.6
        angle, away = rng.uniform(0, 2 * np.pi), spread * belly * np.sqrt(rng.uniform(0, 0.8))
        x, z = away * np.cos(angle), away * np.sin(angle)
        radius = spread * rng.uniform(0.26, 0.46)
        tone = 0.55 + 1.1 * (y / height - 0.45) + rng.uniform(-0.12, 0.12)
        leaf = tuple(tone * g for g in green)
        for half_turn in (0.0, np.pi / 2):
            ragged = radius * rng.uniform(0.62, 1.15, 16)
            turn_x, turn_z = np.cos(angle + half_turn), np.sin(angle + half_turn)
            points = [
                (x + r * c * turn_x, y + r * s, z + r * c * turn_z)
                for r, (c, s) in zip(ragged.tolist(), CIRCLE.tolist(), strict=True)
            ]
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
