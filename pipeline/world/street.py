"""The sample world's street: its plan, the ground with its paint, and what stands along both sides."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.world.furniture import NUM_TREES, furniture, sign, street_lamp, traffic_light, tree
from pipeline.world.scene import Scene
from pipeline.world.shape import GRASS, MARK, MATTE, PAVEMENT, ROAD, WALL, Colour, pick, vary

BEHIND_M, FAR_M = -6.0, 220.0
KERB_M = 0.12
PAINT_BIAS = 0.0008
CLOTHS: list[Colour] = [
    (0.35, 0.03, 0.03),
    (0.05, 0.18, 0.08),
    (0.60, 0.58, 0.54),
    (0.02, 0.05, 0.16),
    (0.5, 0.32, 0.04),
]
WALLS: list[Colour] = [
    (0.36, 0.24, 0.17), (0.42, 0.36, 0.28), (0.30, 0.13, 0.09), (0.45, 0.43, 0.40), (0.24, 0.24, 0.25),
    (0.50, 0.44, 0.30), (0.28, 0.31, 0.33), (0.20, 0.11, 0.08), (0.52, 0.50, 0.46), (0.33, 0.38, 0.36),
]  # fmt: skip


@dataclass(frozen=True)
class Street:
    """The plan. Sides are metres right of the middle line; traffic keeps right."""

    lane: float
    lanes_left: int
    lanes_right: int
    parking: float  # width of the parking lane at either side, 0 when there is none
    pavement: float
    crossing: float | None  # z of the middle of a cross street
    crossing_half: float

    @property
    def left(self) -> float:
        return -self.lanes_left * self.lane - self.parking

    @property
    def right(self) -> float:
        return self.lanes_right * self.lane + self.parking

    @property
    def edges(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """Both kerbs as (which way is outwards, side)."""
        return (-1, self.left), (1, self.right)

    def in_crossing(self, z: float, margin: float = 1.0) -> bool:
        return self.crossing is not None and abs(z - self.crossing) < self.crossing_half + margin

    @property
    def spans(self) -> list[tuple[float, float]]:
        """The stretches along the road without a cross street."""
        if self.crossing is None:
            return [(BEHIND_M, FAR_M)]
        return [(BEHIND_M, self.crossing - self.crossing_half), (self.crossing + self.crossing_half, FAR_M)]


def plan_street(rng: np.random.Generator) -> Street:
    lanes = int(rng.integers(1, 4))
    return Street(
        lane=rng.uniform(3.1, 3.6),
        lanes_left=max(1, lanes - int(rng.random() < 0.3)),
        lanes_right=lanes,
        parking=2.3 if rng.random() < 0.6 else 0.0,
        pavement=rng.uniform(2.2, 5.0),
        crossing=rng.uniform(13, 38) if rng.random() < 0.5 else None,
        crossing_half=rng.uniform(3.6, 6.5),
    )


def lay_ground(scene: Scene, street: Street, rng: np.random.Generator) -> None:
    """Road, kerbs, pavements, verges and paint."""
    grey = 0.085 * rng.uniform(0.75, 1.4)
    asphalt = vary(rng, (grey, grey, grey * 1.03), 0.05)
    paving = vary(rng, pick(rng, [(0.26, 0.25, 0.23), (0.20, 0.195, 0.19), (0.28, 0.22, 0.18)]), 0.1)
    verge = pick(rng, [paving, (0.08, 0.13, 0.04), (0.10, 0.13, 0.05), (0.17, 0.16, 0.14)])
    verge_material = GRASS if verge[1] > verge[0] else PAVEMENT
    kerb = tuple(1.25 * c for c in paving)
    seed = rng.random()
    scene.strip(street.left, street.right, BEHIND_M, FAR_M, 0.0, asphalt, ROAD, seed=seed)
    if street.crossing is not None:
        (_, low), (high, _) = street.spans
        x, _ = scene.on_road(0, street.crossing)
        corners = [(x - 150, 0, low), (x + 150, 0, low), (x + 150, 0, high), (x - 150, 0, high)]
        scene.flat(corners, asphalt, ROAD, seed=seed)
    for z0, z1 in street.spans:
        for out, inner in street.edges:
            outer = inner + out * street.pavement
            scene.strip(min(inner, outer), max(inner, outer), z0, z1, KERB_M, paving, PAVEMENT, seed=seed)
            scene.strip(
                min(outer, outer + out * 150),
                max(outer, outer + out * 150),
                z0,
                z1,
                KERB_M - 0.02,
                verge,
                verge_material,
                seed=seed,
            )
            scene.strip(
                min(inner, inner + out * 0.18),
                max(inner, inner + out * 0.18),
                z0,
                z1,
                KERB_M,
                kerb,
                PAVEMENT,
                bias=0.0004,
            )
            for za, zb in pairwise(np.linspace(z0, z1, max(2, int((z1 - z0) / 14)))):
                xa, xb = scene.on_road(inner, za)[0], scene.on_road(inner, zb)[0]
                scene.flat([(xa, 0, za), (xb, 0, zb), (xb, KERB_M, zb), (xa, KERB_M, za)], kerb, MATTE)
    paint_lines(scene, street, rng)


def paint_lines(scene: Scene, street: Street, rng: np.random.Generator) -> None:
    white, yellow = (0.62, 0.62, 0.60), (0.60, 0.40, 0.06)
    middle = yellow if rng.random() < 0.4 else white
    dash, gap = rng.uniform(2.5, 4), rng.uniform(3.5, 6)
    solid_middle = street.lanes_left + street.lanes_right > 2

    def line(x: float, half_width: float, z0: float, z1: float, colour: Colour) -> None:
        scene.strip(x - half_width, x + half_width, z0, z1, 0.0, colour, MARK, bias=PAINT_BIAS)

    for z0, z1 in street.spans:
        for number in range(-street.lanes_left + 1, street.lanes_right):
            x = number * street.lane
            if number == 0 and solid_middle:
                line(-0.105, 0.055, z0, z1, middle)
                line(0.105, 0.055, z0, z1, middle)
                continue
            for z in np.arange(z0 + rng.uniform(0, 3), min(z1, 90), dash + gap):
                line(x, 0.07, z, min(z + dash, z1), middle if number == 0 else white)
        for x in (-street.lanes_left * street.lane, street.lanes_right * street.lane):
            line(x, 0.06, z0, z1, white)
    zebra = None
    if street.crossing is not None:
        stop = street.spans[0][1]
        zebra = stop - 3.4
        scene.strip(0.2, street.lanes_right * street.lane, stop - 4.6, stop - 4.2, 0.0, white, MARK, bias=PAINT_BIAS)
    elif rng.random() < 0.35:
        zebra = rng.uniform(9, 26)
    if zebra is not None:
        for x in np.arange(street.left + 0.4, street.right - 0.6, 1.0):
            line(x + 0.25, 0.25, zebra, zebra + 2.6, white)


def build_sides(scene: Scene, street: Street, rng: np.random.Generator, lamp_colour: Colour, lamp_power: float) -> None:
    """Houses, trees, lamps, signs along both sides, and a skyline where the road ends."""
    add_skyline(scene, rng)
    for out, edge in street.edges:
        built = rng.random() < 0.8
        if built:
            setback = street.pavement + (rng.uniform(0, 2) if rng.random() < 0.7 else rng.uniform(3, 9))
            build_houses(scene, street, rng, out, edge + out * setback)
        plant_trees(scene, street, rng, out, edge, built)
        for z in np.arange(rng.uniform(6, 20), 130, rng.uniform(18, 28)):
            if street.in_crossing(z, 0):
                continue
            shape, hangs = street_lamp(rng, -out, lamp_colour)
            x, _ = scene.on_road(edge + out * 0.5, z)
            scene.add(shape, (x, KERB_M, z), 0.0)
            if lamp_power > 0 and z < 85:
                light = tuple(lamp_power * c for c in lamp_colour)
                scene.lamps.append((x + hangs[0], hangs[1], z, 0, -1, 0, *light, 0.1, 19.0))
        for z in rng.uniform(7, 60, int(rng.integers(1, 6))):
            if not street.in_crossing(z):
                x, turn = scene.on_road(edge + out * rng.uniform(0.6, street.pavement * 0.5), z)
                scene.add(sign(rng) if rng.random() < 0.5 else furniture(rng), (x, KERB_M, z), turn)
                scene.box_shadow(np.array([x, 0.1, z]), 0.0, (0.5, 1.0, 0.5))
        if street.crossing is not None and rng.random() < 0.7:
            z = street.crossing - street.crossing_half - 1.0
            x, _ = scene.on_road(edge + out * 0.4, z)
            scene.add(traffic_light(rng), (x, KERB_M, z), 0.0)


def add_skyline(scene: Scene, rng: np.random.Generator) -> None:
    """Far roofs and tree tops, so that the ground does not end in a line."""
    x = -330.0
    while x < 330:
        width, height = rng.uniform(9, 30), rng.uniform(5, 13) + (rng.random() < 0.25) * rng.uniform(0, 22)
        z = rng.uniform(205, 219)
        colour = vary(
            rng, pick(rng, [(0.07, 0.10, 0.05), (0.09, 0.11, 0.06), (0.25, 0.24, 0.23), (0.20, 0.15, 0.12)]), 0.2
        )
        top = [
            (x + width * s, height * rng.uniform(0.8, 1.0) if colour[1] > colour[0] else height, z)
            for s in (1, 0.7, 0.4, 0)
        ]
        scene.flat([(x, 0, z), (x + width, 0, z), *top], colour, MATTE)
        x += width * rng.uniform(0.6, 1.1)


def build_houses(scene: Scene, street: Street, rng: np.random.Generator, out: int, front: float) -> None:
    """A row of houses whose fronts stand `front` metres right of the middle; cross streets stay open."""
    z = rng.uniform(-8, 2)
    while z < 150:
        end = z + rng.uniform(8, 22)
        if street.crossing is not None:
            low, high = street.crossing - street.crossing_half - 4, street.crossing + street.crossing_half + 4
            if z < high and end > low:
                end = low
                if end - z < 5:
                    z = high
                    continue
        if rng.random() < 0.9:
            build_house(scene, rng, out, front, z, end)
        z = end + (rng.uniform(0, 0.5) if rng.random() < 0.75 else rng.uniform(2, 8))


def build_house(scene: Scene, rng: np.random.Generator, out: int, front: float, z: float, end: float) -> None:
    height = int(rng.integers(2, 8)) * rng.uniform(3.0, 3.6) + rng.uniform(0.3, 1.2)
    colour, seed, depth = vary(rng, pick(rng, WALLS), 0.15), rng.random(), rng.uniform(10, 16)
    near, far = scene.on_road(front, z)[0], scene.on_road(front, end)[0]
    corners = [(near, z), (far, end), (far + out * depth, end), (near + out * depth, z)]
    for (xa, za), (xb, zb) in pairwise([*corners, corners[0]]):
        scene.flat([(xa, 0, za), (xb, 0, zb), (xb, height, zb), (xa, height, za)], colour, WALL, seed=seed)
    eaves = out * 0.3
    ledge = [(near - eaves, height - 0.4, z), (far - eaves, height - 0.4, end)]
    ledge += [(far - eaves, height + 0.15, end), (near - eaves, height + 0.15, z)]
    scene.flat(ledge, tuple(0.6 * c for c in colour), MATTE)
    if rng.random() < 0.35:  # an awning over the shop
        za, zb = z + 1.0, min(end - 1, z + 7)
        xa, xb = scene.on_road(front, za)[0], scene.on_road(front, zb)[0]
        low = -out * 1.2
        cloth = [(xa, 3.0, za), (xb, 3.0, zb), (xb + low, 2.5, zb), (xa + low, 2.5, za)]
        scene.flat(cloth, vary(rng, pick(rng, CLOTHS), 0.3), MATTE)
    centre = np.array([(near + far) / 2 + out * depth / 2, 0, (z + end) / 2])
    scene.box_shadow(centre, scene.on_road(0, z)[1], (depth, height, end - z))


def plant_trees(scene: Scene, street: Street, rng: np.random.Generator, out: int, edge: float, built: bool) -> None:
    """A row along the kerb, and a park where there are no houses."""
    places = []
    if rng.random() < (0.55 if built else 0.9):
        for z in np.arange(rng.uniform(9, 16), 110, rng.uniform(8, 14)):
            places.append((edge + out * (rng.uniform(0.7, 1.1) if built else rng.uniform(0.8, street.pavement + 4)), z))
    if not built:
        for z in rng.uniform(10, 150, int(rng.integers(6, 16))):
            places.append((edge + out * rng.uniform(street.pavement + 2, 40), z))
    for side, z in places:
        if street.in_crossing(z, 5):
            continue
        x, _ = scene.on_road(side, z)
        scene.add(
            tree(int(rng.integers(NUM_TREES))), (x, 0.1, z), rng.uniform(0, 2 * np.pi), size=rng.uniform(0.75, 1.15)
        )
        scene.box_shadow(np.array([x, 3.5, z]), rng.uniform(0, 1), (2.6, 4.0, 2.6))
