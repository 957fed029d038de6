"""The sample world's cars, buses and lorries. Each maker returns a shape and its (width, height, length).

`glow` scales what the lamps emit: about 1 at night, a little by day (brakes).
"""

from itertools import pairwise

import numpy as np

from pipeline.world.shape import (
    BLACK,
    BODY_COLOURS,
    CIRCLE,
    GLASS,
    GLASS_COLOUR,
    HEAD_EMISSION,
    LAMP,
    MATTE,
    PAINT,
    PLATE,
    STEEL,
    TAIL_EMISSION,
    Colour,
    Shape,
    Size,
    pick,
    vary,
)

BUS_COLOURS: list[Colour] = [
    (0.55, 0.03, 0.03), (0.75, 0.74, 0.70), (0.04, 0.17, 0.45), (0.62, 0.42, 0.03), (0.06, 0.33, 0.14),
    (0.70, 0.25, 0.03), (0.05, 0.35, 0.42), (0.35, 0.05, 0.22),
]  # fmt: skip


def lamp_pair(shape: Shape, z: float, x: tuple[float, float], y: tuple[float, float], emission, colour) -> None:
    for sign in (-1, 1):
        low, high = sorted((sign * x[0], sign * x[1]))
        shape.front(z, (low, high), y, colour, LAMP, emission, bias=0.002)


def car(rng: np.random.Generator, glow: float) -> tuple[Shape, Size]:
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
    paint = vary(rng, pick(rng, BODY_COLOURS))
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


def bus(rng: np.random.Generator, glow: float) -> tuple[Shape, Size]:
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


def truck(rng: np.random.Generator, glow: float) -> tuple[Shape, Size]:
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
        stripe = vary(rng, pick(rng, BODY_COLOURS), 0.3)
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
