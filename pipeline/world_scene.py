"""A street of the sample world: where everything stands, as one list of polygons with their owners.

The road bends as x = bend * z^2; everything is placed beside that line. Traffic keeps right.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from pipeline import world_models as models
from pipeline.world_draw import (
    GRASS,
    GROUND_CELL_M,
    GROUND_FAR_M,
    GROUND_NEAR_M,
    GROUND_X_M,
    MARK,
    MATTE,
    PAVEMENT,
    ROAD,
    WALL,
    Camera,
    make_camera,
    to_camera,
)

CLASSES = ("bus", "bike", "car", "motor", "person", "rider", "truck")
FAR_M = 220.0
CAPSULE_ARC = 6  # points of each round end


@dataclass
class Scene:
    """Polygons in world space, in the order of their owners, and what lights the street."""

    camera: Camera
    bend: float
    points: list[np.ndarray] = field(default_factory=list)  # (M, 3)
    counts: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # (P, 9): material, colour, emission, bias, seed
    owners: list[np.ndarray] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)  # class of each object number
    shadows: list[np.ndarray] = field(default_factory=list)  # (8, 3) corners of what casts a shadow
    lamps: list[tuple] = field(default_factory=list)  # position 3, direction 3, colour 3, cosine, reach

    def on_road(self, side: float, z: float) -> tuple[float, float]:
        """World x of a place `side` metres right of the middle of the road, and the road's heading there."""
        return side + self.bend * z * z, float(np.arctan(2 * self.bend * z))

    def new_object(self, name: str) -> int:
        self.objects.append(name)
        return len(self.objects) - 1

    def add(self, shape: models.Shape, position, heading: float, owner: int = -1) -> None:
        """Turn a model to `heading` (0 looks along the road, away from the camera) and put it down."""
        sine, cosine = np.sin(heading), np.cos(heading)
        turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        if shape.points:
            self.points.append(np.array(shape.points) @ turn.T + position)
            self.counts.append(np.array(shape.counts))
            self.rows.append(np.array(shape.rows))
            self.owners.append(np.full(len(shape.counts), owner))
        if shape.capsules:
            table = np.array(shape.capsules)
            a, b = table[:, 0:3] @ turn.T + position, table[:, 3:6] @ turn.T + position
            points = self._outline(a, b, table[:, 6], table[:, 7])
            self.points.append(points.reshape(-1, 3))
            self.counts.append(np.full(len(table), points.shape[1]))
            self.rows.append(np.concatenate([table[:, 8:16], np.zeros((len(table), 1))], axis=1))
            self.owners.append(np.full(len(table), owner))

    def _outline(self, a_N3, b_N3, radius_a_N, radius_b_N) -> np.ndarray:
        """Outlines of tapered capsules, turned towards the camera. No tube gets thinner than half a sample."""
        middle = (a_N3 + b_N3) / 2
        view = middle - self.camera.position_3
        distance = np.linalg.norm(view, axis=1, keepdims=True)
        view /= distance
        thinnest = 0.28 * distance[:, 0] / self.camera.focal
        radius_a_N, radius_b_N = np.maximum(radius_a_N, thinnest), np.maximum(radius_b_N, thinnest)
        along = b_N3 - a_N3
        along -= (along * view).sum(1, keepdims=True) * view
        length = np.linalg.norm(along, axis=1, keepdims=True)
        upright = np.array([0.0, 1.0, 0.0]) - view[:, 1:2] * view
        upright /= np.linalg.norm(upright, axis=1, keepdims=True)
        along = np.where(length > 1e-4, along / np.maximum(length, 1e-9), upright)
        across = np.cross(along, view)
        arc = np.linspace(0, np.pi, CAPSULE_ARC)
        cosine, sine = np.cos(arc)[None, :, None], np.sin(arc)[None, :, None]
        # Every end keeps its own depth, so that limbs in front of a body stay in front.
        end_b = b_N3[:, None] + radius_b_N[:, None, None] * (across[:, None] * cosine + along[:, None] * sine)
        end_a = a_N3[:, None] - radius_a_N[:, None, None] * (across[:, None] * cosine + along[:, None] * sine)
        return np.concatenate([end_b, end_a], axis=1)

    def flat(self, points, colour, material, bias=0.0, seed=0.0) -> None:
        """One polygon of scenery, in world space."""
        self.points.append(np.asarray(points, float))
        self.counts.append(np.array([len(points)]))
        self.rows.append(np.array([[material, *colour, 0, 0, 0, bias, seed]]))
        self.owners.append(np.array([-1]))

    def strip(
        self, left: float, right: float, z0: float, z1: float, y: float, colour, material, bias=0.0, seed=0.0
    ) -> None:
        """A band of ground along the bending road, in pieces short enough to follow it."""
        pieces = max(1, int(np.ceil((z1 - z0) / 14))) if self.bend else 1
        edges = np.linspace(z0, z1, pieces + 1)
        for za, zb in pairwise(edges):
            xa, xb = self.bend * za * za, self.bend * zb * zb
            self.flat(
                [(left + xa, y, za), (right + xa, y, za), (right + xb, y, zb), (left + xb, y, zb)],
                colour,
                material,
                bias,
                seed,
            )

    def box_shadow(self, position, heading: float, size) -> None:
        """Remember a box (width, height, length) that keeps the sun and the sky from the ground."""
        width, height, length = size
        corners = np.array(
            [(x, y, z) for y in (0.1, height) for x in (-width / 2, width / 2) for z in (-length / 2, length / 2)]
        )
        sine, cosine = np.sin(heading), np.cos(heading)
        turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        self.shadows.append(corners @ turn.T + position)


@dataclass(frozen=True)
class Street:
    """The plan of the street. Sides are metres right of the middle line."""

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
    """Road, kerbs, pavements, verge and paint."""
    asphalt = models.vary(rng, (0.085, 0.085, 0.088), 0.08)
    asphalt = tuple(c * rng.uniform(0.8, 1.35) for c in [asphalt[0]]) * 3
    paving = models.vary(rng, models.pick(rng, [(0.26, 0.25, 0.23), (0.20, 0.195, 0.19), (0.28, 0.22, 0.18)]), 0.1)
    verge = models.pick(rng, [paving, (0.08, 0.13, 0.04), (0.10, 0.13, 0.05), (0.17, 0.16, 0.14)])
    verge_material = GRASS if verge[1] > verge[0] else PAVEMENT
    seed = rng.random()
    scene.strip(street.left, street.right, -6, FAR_M, 0.0, asphalt, ROAD, seed=seed)
    spans = [(-6.0, FAR_M)]
    if street.crossing is not None:
        low, high = street.crossing - street.crossing_half, street.crossing + street.crossing_half
        spans = [(-6.0, low), (high, FAR_M)]
        middle, _ = scene.on_road(0, street.crossing)
        scene.flat(
            [(middle - 150, 0, low), (middle + 150, 0, low), (middle + 150, 0, high), (middle - 150, 0, high)],
            asphalt,
            ROAD,
            seed=seed,
        )
    kerb = tuple(1.25 * c for c in paving)
    for z0, z1 in spans:
        for sign, edge in ((-1, street.left), (1, street.right)):
            inner, outer = edge, edge + sign * street.pavement
            scene.strip(*sorted((inner, outer)), z0, z1, 0.12, paving, PAVEMENT, seed=seed)
            scene.strip(*sorted((outer, outer + sign * 150)), z0, z1, 0.10, verge, verge_material, seed=seed)
            pieces = max(1, int(np.ceil((z1 - z0) / 14)))
            edges = np.linspace(z0, z1, pieces + 1)
            for za, zb in pairwise(edges):
                xa, xb = scene.on_road(inner, za)[0], scene.on_road(inner, zb)[0]
                scene.flat([(xa, 0, za), (xb, 0, zb), (xb, 0.12, zb), (xa, 0.12, za)], kerb, MATTE)
            scene.strip(*sorted((inner, inner + sign * 0.18)), z0, z1, 0.122, kerb, PAVEMENT, bias=0.0004)
    white, yellow = (0.62, 0.62, 0.60), (0.60, 0.40, 0.06)
    middle_colour = yellow if rng.random() < 0.4 else white
    dash, gap = rng.uniform(2.5, 4), rng.uniform(3.5, 6)
    for z0, z1 in spans:
        for side in range(-street.lanes_left + 1, street.lanes_right):
            x = side * street.lane
            if side == 0 and street.lanes_left + street.lanes_right > 2:
                scene.strip(x - 0.16, x - 0.05, z0, z1, 0.0, middle_colour, MARK, bias=0.0008)
                scene.strip(x + 0.05, x + 0.16, z0, z1, 0.0, middle_colour, MARK, bias=0.0008)
                continue
            z = z0 + rng.uniform(0, 3)
            while z < min(z1, 90):
                scene.strip(
                    x - 0.07,
                    x + 0.07,
                    z,
                    min(z + dash, z1),
                    0.0,
                    middle_colour if side == 0 else white,
                    MARK,
                    bias=0.0008,
                )
                z += dash + gap
        for x in (-street.lanes_left * street.lane, street.lanes_right * street.lane):
            scene.strip(x - 0.06, x + 0.06, z0, z1, 0.0, white, MARK, bias=0.0008)
    stripes = []
    if street.crossing is not None:
        low = street.crossing - street.crossing_half
        stripes.append(low - 3.4)
        scene.strip(0.2, street.lanes_right * street.lane, low - 4.6, low - 4.2, 0.0, white, MARK, bias=0.0008)
    elif rng.random() < 0.35:
        stripes.append(rng.uniform(9, 26))
    for z in stripes:
        for x in np.arange(street.left + 0.4, street.right - 0.4, 1.0):
            scene.strip(x, x + 0.5, z, z + 2.6, 0.0, white, MARK, bias=0.0009)


def in_crossing(street: Street, z: float, margin: float = 1.0) -> bool:
    return street.crossing is not None and abs(z - street.crossing) < street.crossing_half + margin


def build_sides(scene: Scene, street: Street, rng: np.random.Generator, lamp_colour, lamp_power: float) -> None:
    """Houses, trees, lamps, signs along both sides."""
    wall_colours = [
        (0.36, 0.24, 0.17),
        (0.42, 0.36, 0.28),
        (0.30, 0.13, 0.09),
        (0.45, 0.43, 0.40),
        (0.24, 0.24, 0.25),
        (0.50, 0.44, 0.30),
        (0.28, 0.31, 0.33),
        (0.20, 0.11, 0.08),
        (0.52, 0.50, 0.46),
        (0.33, 0.38, 0.36),
    ]
    for sign, edge in ((-1, street.left), (1, street.right)):
        built = rng.random() < 0.8
        setback = street.pavement + (rng.uniform(0, 2) if rng.random() < 0.7 else rng.uniform(3, 9))
        z = rng.uniform(-8, 2)
        while z < 150:
            length = rng.uniform(8, 22)
            end = z + length
            inside = (
                street.crossing is not None
                and z < street.crossing + street.crossing_half + 3
                and end > street.crossing - street.crossing_half - 3
            )
            if inside and street.crossing is not None:
                if z < street.crossing - street.crossing_half - 9:
                    end = street.crossing - street.crossing_half - 4
                else:
                    z = street.crossing + street.crossing_half + 4
                    continue
            if built and rng.random() < 0.9:
                storeys = int(rng.integers(2, 8))
                height = storeys * rng.uniform(3.0, 3.6) + rng.uniform(0.3, 1.2)
                colour, seed = models.vary(rng, models.pick(rng, wall_colours), 0.15), rng.random()
                near, _ = scene.on_road(edge + sign * setback, z)
                far, _ = scene.on_road(edge + sign * setback, end)
                depth = rng.uniform(10, 16)
                corners = [(near, z), (far, end), (far + sign * depth, end), (near + sign * depth, z)]
                for (xa, za), (xb, zb) in zip(corners, corners[1:] + corners[:1], strict=True):
                    scene.flat([(xa, 0, za), (xb, 0, zb), (xb, height, zb), (xa, height, za)], colour, WALL, seed=seed)
                roof = tuple(0.6 * c for c in colour)
                ledge = [(near - sign * 0.3, z), (far - sign * 0.3, end)]
                scene.flat(
                    [
                        (ledge[0][0], height - 0.4, ledge[0][1]),
                        (ledge[1][0], height - 0.4, ledge[1][1]),
                        (ledge[1][0], height + 0.15, ledge[1][1]),
                        (ledge[0][0], height + 0.15, ledge[0][1]),
                    ],
                    roof,
                    MATTE,
                )
                if rng.random() < 0.35:  # awning over the shop
                    cloth = models.vary(rng, models.pick(rng, models.CLOTHES), 0.3)
                    za, zb = z + 1.0, min(end - 1, z + 7)
                    xa, xb = (scene.on_road(edge + sign * setback, v)[0] for v in (za, zb))
                    out = -sign * 1.2
                    scene.flat([(xa, 3.0, za), (xb, 3.0, zb), (xb + out, 2.5, zb), (xa + out, 2.5, za)], cloth, MATTE)
                centre = np.array([(near + far) / 2 + sign * depth / 2, 0, (z + end) / 2])
                scene.box_shadow(centre, scene.on_road(0, z)[1], (depth, height, end - z))
            z = end + (rng.uniform(0, 0.5) if rng.random() < 0.75 else rng.uniform(2, 8))
        # Trees, lamps and small things stand near the kerb.
        if rng.random() < (0.55 if built else 0.95):
            step = rng.uniform(8, 14)
            for z in np.arange(rng.uniform(4, 12), 120, step):
                if in_crossing(street, z, 3):
                    continue
                away = rng.uniform(0.7, 1.1) if built else rng.uniform(0.8, street.pavement + 4)
                x, _ = scene.on_road(edge + sign * away, z)
                scene.add(models.tree(rng), (x, 0.1, z), rng.uniform(0, np.pi))
                centre = np.array([x, 3.5, z])
                scene.box_shadow(centre, rng.uniform(0, 1), (2.6, 4.0, 2.6))
        if not built:
            for _ in range(int(rng.integers(6, 16))):
                z = rng.uniform(8, 150)
                if not in_crossing(street, z, 6):
                    x, _ = scene.on_road(edge + sign * rng.uniform(street.pavement + 2, 40), z)
                    scene.add(models.tree(rng), (x, 0.1, z), rng.uniform(0, np.pi))
        step = rng.uniform(18, 28)
        for z in np.arange(rng.uniform(2, 14), 130, step):
            if in_crossing(street, z, 0):
                continue
            shape, (dx, y, _) = models.street_lamp(rng, -sign, lamp_colour)
            x, _ = scene.on_road(edge + sign * 0.5, z)
            scene.add(shape, (x, 0.12, z), 0.0)
            if lamp_power > 0 and z < 85:
                scene.lamps.append((x + dx, y, z, 0, -1, 0, *(lamp_power * c for c in lamp_colour), 0.1, 17.0))
        for z in rng.uniform(6, 60, int(rng.integers(1, 6))):
            if not in_crossing(street, z):
                x, turn = scene.on_road(edge + sign * rng.uniform(0.6, street.pavement * 0.5), z)
                shape = models.sign(rng) if rng.random() < 0.5 else models.furniture(rng)
                scene.add(shape, (x, 0.12, z), turn)
                scene.box_shadow(np.array([x, 0.1, z]), 0.0, (0.5, 1.0, 0.5))
        if street.crossing is not None and rng.random() < 0.7:
            z = street.crossing - street.crossing_half - 1.0
            x, _ = scene.on_road(edge + sign * 0.4, z)
            scene.add(models.traffic_light(rng), (x, 0.12, z), 0.0)


class Places:
    """Which ground is taken: rectangles (x0, x1, z0, z1) that must not overlap."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float, float, float]] = []

    def take(self, x: float, z: float, width: float, length: float, margin: float) -> bool:
        x0, x1, z0, z1 = (
            x - width / 2 - margin,
            x + width / 2 + margin,
            z - length / 2 - margin,
            z + length / 2 + margin,
        )
        if any(x0 < b and a < x1 and z0 < d and c < z1 for a, b, c, d in self.taken):
            return False
        self.taken.append((x0, x1, z0, z1))
        return True


def near_to_far(rng: np.random.Generator, low: float, high: float) -> float:
    """A distance; equal shares for equal ratios of size, a little more weight to the far end."""
    return float(low * (high / low) ** (rng.random() ** 0.85))


def add_traffic(
    scene: Scene, street: Street, rng: np.random.Generator, ego_lane: int, glow: float, beams: bool, umbrellas: float
) -> None:
    """Everything that has a label. `glow` is how bright vehicles' lamps are, `beams` whether they light the road."""
    places = Places()
    places.take((ego_lane + 0.5) * street.lane, 0, 2.2, 13, 0)
    makers = {"car": models.car, "bus": models.bus, "truck": models.truck}
    weights = {"car": 0.30, "bus": 0.115, "truck": 0.13, "person": 0.17, "bike": 0.15, "motor": 0.135}
    names = list(weights)
    share = np.array([weights[name] for name in names])
    wanted = int(rng.integers(9, 18))
    queue = rng.choice(names, size=wanted * 2, p=share / share.sum())
    placed = 0
    for name in queue:
        if placed >= wanted:
            break
        if name in makers:
            placed += add_vehicle(scene, street, rng, str(name), makers[name], places, ego_lane, glow, beams)
        elif name == "person":
            placed += add_people(scene, street, rng, places, umbrellas)
        else:
            placed += add_two_wheeler(scene, street, rng, str(name), places, glow, beams)


def add_beam(scene: Scene, position, heading: float, z_front: float, height: float) -> None:
    """The light a vehicle throws ahead."""
    sine, cosine = np.sin(heading), np.cos(heading)
    start = (position[0] + sine * z_front, height, position[2] + cosine * z_front)
    direction = np.array([sine, -0.12, cosine])
    direction /= np.linalg.norm(direction)
    scene.lamps.append((*start, *direction, 2.6, 2.45, 2.0, 0.86, 24.0))


def add_vehicle(scene, street, rng, name, maker, places, ego_lane, glow, beams) -> bool:
    role = rng.random()
    size_guess = 4.6 if name == "car" else 10.0
    parked = False
    if role < 0.16 and street.crossing is not None:  # on the cross street, seen from the side
        away = rng.uniform(-0.9, 0.9) * (8 + 0.45 * street.crossing)
        towards = rng.random() < 0.5
        z = street.crossing + (1 if towards else -1) * street.crossing_half * 0.45
        heading = -np.pi / 2 if towards else np.pi / 2
        x = scene.on_road(0, street.crossing)[0] + away
        shape, size = maker(rng, glow)
        if not places.take(x, z, size[2], size[0], 0.6):
            return False
    else:
        far = 62.0 if name == "car" else 80.0
        z = near_to_far(rng, 7.5 + size_guess / 2, far)
        if role < 0.45 and street.parking and name != "bus":
            parked = True
            sign = 1 if rng.random() < 0.5 else -1
            side = (street.right - 1.1) if sign > 0 else (street.left + 1.1)
            away = rng.random() < 0.75 if sign > 0 else rng.random() < 0.25
        elif role < 0.74:
            lane = int(rng.integers(street.lanes_right))
            if lane == ego_lane:
                z += 5
            side, away = (lane + 0.5) * street.lane + rng.normal(0, 0.15), True
        else:
            lane = int(rng.integers(street.lanes_left))
            side, away = -(lane + 0.5) * street.lane + rng.normal(0, 0.15), False
        if not parked and in_crossing(street, z, -1.0):
            return False
        if parked and in_crossing(street, z, size_guess / 2 + 3):
            return False
        x, turn = scene.on_road(side, z)
        heading = turn + (0 if away else np.pi) + rng.normal(0, 0.03 if not parked else 0.02)
        shape, size = maker(rng, 0.0 if parked and rng.random() < 0.8 else glow)
        if not places.take(x, z, size[0], size[2], 0.35):
            return False
    position = np.array([x, 0.0, z])
    scene.add(shape, position, heading, scene.new_object(name))
    scene.box_shadow(position, heading, size)
    if beams and not parked:
        add_beam(scene, position, heading, size[2] / 2 + 0.1, 0.7)
    return True


def add_people(scene, street, rng, places, umbrellas) -> bool:
    where = rng.random()
    z = near_to_far(rng, 5.5, 36)
    facing = rng.uniform(0, 2 * np.pi)
    if where < 0.72:
        sign = 1 if rng.random() < 0.55 else -1
        edge = street.right if sign > 0 else street.left
        side, ground = edge + sign * rng.uniform(0.5, street.pavement - 0.3), 0.12
        if rng.random() < 0.75:
            facing = (0 if rng.random() < 0.5 else np.pi) + rng.normal(0, 0.3)
        if in_crossing(street, z, 0):
            return False
    else:  # crossing the road
        side, ground = rng.uniform(street.left + 0.5, street.right - 0.5), 0.0
        z = max(z, 9.0)
        if street.crossing is not None and rng.random() < 0.7:
            z = street.crossing - street.crossing_half - 2.1 + rng.normal(0, 0.5)
        facing = (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2) + rng.normal(0, 0.2)
    added = False
    for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 4))):
        x, turn = scene.on_road(side, z)
        if places.take(x, z, 0.5, 0.5, 0.06):
            shape, size = models.person(rng, 0.0, umbrella=rng.random() < umbrellas)
            position = np.array([x, ground, z])
            scene.add(shape, position, turn + facing, scene.new_object("person"))
            scene.box_shadow(position, facing, size)
            added = True
        side += rng.uniform(-0.9, 0.9)
        z += rng.uniform(-0.8, 0.8)
    return added


def add_two_wheeler(scene, street, rng, name, places, glow, beams) -> bool:
    maker = models.bike if name == "bike" else models.motor
    ridden = rng.random() < 0.78
    z = near_to_far(rng, 5.5, 34)
    if ridden and street.crossing is not None and rng.random() < 0.25:
        z = street.crossing + rng.uniform(-0.7, 0.7) * street.crossing_half
        side, ground = rng.uniform(street.left - 4, street.right + 4), 0.0
        facing = (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2) + rng.normal(0, 0.15)
    elif ridden:
        if rng.random() < 0.6:
            lane = int(rng.integers(street.lanes_right))
            side, facing = (lane + rng.uniform(0.2, 0.95)) * street.lane, 0.0
        else:
            lane = int(rng.integers(street.lanes_left))
            side, facing = -(lane + rng.uniform(0.2, 0.95)) * street.lane, np.pi
        facing, ground = facing + rng.normal(0, 0.15 + 0.5 * (rng.random() < 0.15)), 0.0
    else:
        sign = 1 if rng.random() < 0.6 else -1
        edge = street.right if sign > 0 else street.left
        side, ground = edge + sign * rng.uniform(0.6, min(2.2, street.pavement - 0.5)), 0.12
        facing = rng.uniform(0, 2 * np.pi)
        if in_crossing(street, z, 1):
            return False
    x, turn = scene.on_road(side, z)
    if not places.take(x, z, 1.0, 1.6, 0.15):
        return False
    shape, size = maker(rng, glow if ridden else 0.0)
    position, heading = np.array([x, ground, z]), turn + facing
    scene.add(shape, position, heading, scene.new_object(name))
    if ridden:
        scene.add(models.rider(rng, glow, name), position, heading, scene.new_object("rider"))
        size = (size[0], 1.7, size[2])
        if beams and name == "motor":
            add_beam(scene, position, heading, 0.9, 0.9)
    scene.box_shadow(position, heading, (0.4, size[1], size[2]))
    return True


def make_scene(
    rng: np.random.Generator, width: int, height: int, *, lamp_colour, lamp_power, glow, beams, umbrellas
) -> Scene:
    """A street, its sides and its traffic, seen from a car in one of its lanes."""
    street = plan_street(rng)
    ego_lane = int(rng.integers(street.lanes_right))
    eye = ((ego_lane + 0.5) * street.lane + rng.normal(0, 0.4), rng.uniform(1.25, 2.0), 0.0)
    # The field of view fits a 16:9 picture; other shapes see as much along their shorter relative side.
    focal = max(width, height * 16 / 9) * rng.uniform(0.82, 1.12)
    camera = make_camera(eye, rng.normal(0, 0.06), rng.normal(-0.015, 0.02), rng.normal(0, 0.008), focal, width, height)
    scene = Scene(camera, bend=rng.normal(0, 0.0009) if rng.random() < 0.6 else 0.0)
    lay_ground(scene, street, rng)
    build_sides(scene, street, rng, lamp_colour, lamp_power)
    add_traffic(scene, street, rng, ego_lane, glow, beams, umbrellas)
    return scene


def flatten(scene: Scene):
    """The scene as arrays for the rasteriser: vertices in camera space, starts, rows and owners, in owner order."""
    points, rows = np.concatenate(scene.points), np.concatenate(scene.rows)
    counts, owners = np.concatenate(scene.counts), np.concatenate(scene.owners)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return to_camera(scene.camera, points), starts.astype(np.int64), rows, owners.astype(np.int32)


def make_ground_map(scene: Scene, sun_direction_3: np.ndarray, sun_blur: float) -> np.ndarray:
    """What reaches the ground, from above: (Hg, Wg, 2) uint8 with the sun's share and the sky's share."""
    height = int((GROUND_FAR_M - GROUND_NEAR_M) / GROUND_CELL_M)
    width = int(2 * GROUND_X_M / GROUND_CELL_M)
    sun, sky = np.full((height, width), 255, np.uint8), np.full((height, width), 255, np.uint8)

    def cells(xz):
        return np.round((xz - (-GROUND_X_M, GROUND_NEAR_M)) / GROUND_CELL_M * 16).astype(np.int32)

    up = max(float(sun_direction_3[1]), 0.05)
    for corners in scene.shadows:
        thrown = corners[:, [0, 2]] - corners[:, 1:2] * sun_direction_3[[0, 2]] / up
        cv2.fillConvexPoly(sun, cv2.convexHull(cells(thrown)), 0, cv2.LINE_8, 4)
        if corners[0, 1] < 0.5:
            cv2.fillConvexPoly(sky, cv2.convexHull(cells(corners[:4, [0, 2]])), 40, cv2.LINE_8, 4)
    sun = cv2.GaussianBlur(sun, (0, 0), sun_blur)
    sky = cv2.GaussianBlur(sky, (0, 0), 2.2)
    return np.stack([sun, sky], axis=2)
