"""The sample world's people, bikes, motors and their riders, as skeletons of capsules."""

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
    PAINT,
    PLATE,
    RUBBER,
    STEEL,
    TAIL_EMISSION,
    Colour,
    Shape,
    Size,
    pick,
    vary,
)

CLOTHES: list[Colour] = [
    (0.02, 0.02, 0.025), (0.05, 0.06, 0.09), (0.02, 0.05, 0.16), (0.35, 0.03, 0.03), (0.60, 0.58, 0.54),
    (0.18, 0.19, 0.20), (0.05, 0.18, 0.08), (0.50, 0.32, 0.04), (0.22, 0.12, 0.06), (0.40, 0.10, 0.22),
    (0.10, 0.25, 0.40), (0.65, 0.16, 0.03), (0.10, 0.05, 0.14),
]  # fmt: skip
TROUSERS = [(0.02, 0.02, 0.024), (0.03, 0.05, 0.12), (0.06, 0.09, 0.17), (0.25, 0.20, 0.13), (0.10, 0.10, 0.11)]
SKINS = [(0.55, 0.33, 0.23), (0.46, 0.26, 0.17), (0.28, 0.14, 0.085), (0.12, 0.06, 0.04)]
HAIRS = [(0.01, 0.009, 0.008), (0.035, 0.02, 0.012), (0.14, 0.08, 0.03), (0.30, 0.22, 0.11), (0.25, 0.25, 0.25)]


def head(shape: Shape, rng: np.random.Generator, y: float, z: float, scale: float, helmet: str = "none") -> None:
    """`y` is the chin's height. A helmet is "none", "bike" (a light cap) or "motor" (round, with a visor)."""
    skin = vary(rng, pick(rng, SKINS))
    if helmet == "motor":
        colour = vary(rng, pick(rng, [*BODY_COLOURS, (0.7, 0.7, 0.7)]))
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


def person(rng: np.random.Generator, umbrella: bool) -> tuple[Shape, Size]:
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
        shape.capsule((x, hip + 0.08, 0), (x * 1.15, shoulder - 0.05, 0), 0.1 * girth, 0.115 * girth, top)
        if coat or skirt:
            colour = top if coat else bottom
            shape.capsule((x, hip, 0), (x * 1.3, 0.55 * k, 0), 0.11 * girth, 0.13 * girth, colour)
    if not skirt:
        shape.capsule(
            (-0.06 * girth, hip, 0), (0.06 * girth, hip, 0), 0.115 * girth, 0.115 * girth, bottom, bias=-0.002
        )
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


def bike(rng: np.random.Generator, glow: float) -> tuple[Shape, Size]:
    """A bicycle: two thin rings, a frame of tubes, saddle and handlebar."""
    shape = Shape()
    radius, half = rng.uniform(0.33, 0.36), rng.uniform(0.5, 0.56)
    paint = vary(rng, pick(rng, [*BODY_COLOURS, (0.6, 0.05, 0.03), (0.05, 0.4, 0.4)]), 0.3)
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


def motor(rng: np.random.Generator, glow: float) -> tuple[Shape, Size]:
    """A motorcycle or a scooter: fat wheels and a solid painted body."""
    shape = Shape()
    paint = vary(
        rng, pick(rng, [*BODY_COLOURS, (0.5, 0.02, 0.02), (0.6, 0.25, 0.02), (0.05, 0.2, 0.5), (0.7, 0.7, 0.68)]), 0.25
    )
    scooter = rng.random() < 0.4
    radius, half = (0.24, 0.62) if scooter else (0.31, 0.70)
    for z in (-half, half):
        for x in (-0.06, 0.06):
            shape.disc(x, radius, z, radius, RUBBER)
            shape.disc(x * 1.05, radius, z, radius * 0.55, (0.2, 0.2, 0.21), bias=0.002)
        rim = [(radius + radius * s, z + radius * c) for c, s in CIRCLE.tolist()]
        for (ya, za), (yb, zb) in pairwise([*rim, rim[0]]):  # the tread
            shape.polygon([(-0.06, ya, za), (0.06, ya, za), (0.06, yb, zb), (-0.06, yb, zb)], RUBBER)
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


def rider(rng: np.random.Generator, on: str) -> Shape:
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
            (x, hip[0] + 0.13, hip[1] + 0.03), (x * 1.15, chest[0] - 0.06, chest[1]), 0.1 * girth, 0.12 * girth, top
        )
    shape.capsule((-0.07, hip[0], hip[1]), (0.07, hip[0], hip[1]), 0.12 * girth, 0.12 * girth, bottom, bias=-0.002)
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
