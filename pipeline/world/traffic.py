"""The sample world's traffic: everything that has a label, placed where such things go."""

import numpy as np

from pipeline.world.riders import bike, motor, person, rider
from pipeline.world.scene import Scene
from pipeline.world.shape import Colour
from pipeline.world.street import KERB_M, Street
from pipeline.world.vehicles import bus, car, truck

CLASSES = ("bus", "bike", "car", "motor", "person", "rider", "truck")
# How often each is tried; most bikes and motors bring a rider.
WEIGHTS = {"car": 0.30, "bus": 0.125, "truck": 0.13, "person": 0.17, "bike": 0.145, "motor": 0.135}
BEAM: Colour = (2.6, 2.45, 2.0)


def near_to_far(rng: np.random.Generator, low: float, high: float) -> float:
    """A distance: equal shares for equal ratios of size, with a little more weight to the far end."""
    return float(low * (high / low) ** (rng.random() ** 0.85))


class Traffic:
    """Fills a street. `glow` is how bright vehicles' lamps are, `beams` whether they light the road before them."""

    def __init__(
        self,
        scene: Scene,
        street: Street,
        rng: np.random.Generator,
        ego_lane: int,
        *,
        glow: float,
        beams: bool,
        umbrellas: float,
    ):
        self.scene, self.street, self.rng, self.ego_lane = scene, street, rng, ego_lane
        self.glow, self.beams, self.umbrellas = glow, beams, umbrellas
        self.taken: list[tuple[float, float, float, float]] = []
        self.take((ego_lane + 0.5) * street.lane, 0, 2.2, 13, 0)

    def fill(self) -> None:
        wanted = int(self.rng.integers(9, 18))
        share = np.array(list(WEIGHTS.values()))
        placed = 0
        for name in self.rng.choice(list(WEIGHTS), size=2 * wanted, p=share / share.sum()):
            if name == "person":
                placed += self.add_people()
            elif name in ("bike", "motor"):
                placed += self.add_two_wheeler(str(name))
            else:
                placed += self.add_vehicle(str(name))
            if placed >= wanted:
                break

    def take(self, x: float, z: float, width: float, length: float, margin: float) -> bool:
        """Claim a rectangle of ground; False when something stands there already."""
        x0, x1 = x - width / 2 - margin, x + width / 2 + margin
        z0, z1 = z - length / 2 - margin, z + length / 2 + margin
        if any(x0 < b and a < x1 and z0 < d and c < z1 for a, b, c, d in self.taken):
            return False
        self.taken.append((x0, x1, z0, z1))
        return True

    def kerbside(self, right_share: float, low: float, high: float) -> tuple[int, float]:
        """A place on a pavement, `low` to `high` metres from the kerb: (which way is outwards, side)."""
        out = 1 if self.rng.random() < right_share else -1
        edge = self.street.right if out > 0 else self.street.left
        return out, edge + out * self.rng.uniform(low, max(high, low))

    def lane_place(self, low: float, high: float, with_us: float) -> tuple[float, float]:
        """A place in a lane, as (side, heading); `low` to `high` is the share of the lane's width."""
        rng, street = self.rng, self.street
        if rng.random() < with_us:
            return (int(rng.integers(street.lanes_right)) + rng.uniform(low, high)) * street.lane, 0.0
        return -(int(rng.integers(street.lanes_left)) + rng.uniform(low, high)) * street.lane, np.pi

    def add_beam(self, position: np.ndarray, heading: float, ahead: float, height: float) -> None:
        forward = np.array([np.sin(heading), 0.0, np.cos(heading)])
        start = position + forward * ahead + np.array([0, height, 0])
        direction = (forward - np.array([0, 0.12, 0])) / np.hypot(1, 0.12)
        self.scene.lamps.append((*start, *direction, *BEAM, 0.86, 24.0))

    def add_vehicle(self, name: str) -> bool:
        rng, street, scene = self.rng, self.street, self.scene
        maker = {"car": car, "bus": bus, "truck": truck}[name]
        half_length = 2.3 if name == "car" else 5.0
        role = rng.random()
        if role < 0.18 and street.crossing is not None:  # on the cross street, seen from the side
            leftwards = rng.random() < 0.5
            x = scene.on_road(0, street.crossing)[0] + rng.uniform(-0.9, 0.9) * (8 + 0.45 * street.crossing)
            z = street.crossing + (0.45 if leftwards else -0.45) * street.crossing_half
            heading = -np.pi / 2 if leftwards else np.pi / 2
            shape, size = maker(rng, self.glow)
            footprint, parked = (size[2], size[0]), False
        else:
            z = near_to_far(rng, 7.5 + half_length, 60.0 if name == "car" else 75.0)
            parked = role < 0.45 and street.parking > 0 and name != "bus"
            if parked:
                out = 1 if rng.random() < 0.5 else -1
                side = (street.right if out > 0 else street.left) - out * 1.1
                heading = 0.0 if (out > 0) == (rng.random() < 0.75) else np.pi
            else:
                side, heading = self.lane_place(0.44, 0.56, with_us=0.53)
                if 0 < side - self.ego_lane * street.lane < street.lane:
                    z += 4.0  # leave the view open
            if street.in_crossing(z, half_length + 3 if parked else -1.0):
                return False
            x, turn = scene.on_road(side, z)
            heading += turn + rng.normal(0, 0.025)
            shape, size = maker(rng, 0.0 if parked and rng.random() < 0.8 else self.glow)
            footprint = (size[0], size[2])
        if not self.take(x, z, *footprint, margin=0.4):
            return False
        position = np.array([x, 0.0, z])
        scene.add(shape, position, heading, scene.new_object(name))
        scene.box_shadow(position, heading, size)
        if self.beams and not parked:
            self.add_beam(position, heading, size[2] / 2 + 0.1, 0.7)
        return True

    def add_people(self) -> bool:
        rng, street, scene = self.rng, self.street, self.scene
        z = near_to_far(rng, 6.0, 36)
        along = (0.0 if rng.random() < 0.5 else np.pi) + rng.normal(0, 0.3)
        facing = along if rng.random() < 0.75 else rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.72:
            _, side = self.kerbside(0.55, 0.5, street.pavement - 0.3)
            ground = KERB_M
            if street.in_crossing(z, 0):
                return False
        else:  # crossing the road
            side, ground, z = rng.uniform(street.left + 0.5, street.right - 0.5), 0.0, max(z, 9.0)
            if street.crossing is not None and rng.random() < 0.7:
                z = street.crossing - street.crossing_half - 2.1 + rng.normal(0, 0.5)
            facing = (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2) + rng.normal(0, 0.2)
        added = False
        for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 4))):
            x, turn = scene.on_road(side, z)
            if self.take(x, z, 0.5, 0.5, 0.08):
                shape, size = person(rng, umbrella=rng.random() < self.umbrellas)
                position, heading = np.array([x, ground, z]), turn + facing + rng.normal(0, 0.15)
                scene.add(shape, position, heading, scene.new_object("person"))
                scene.box_shadow(position, heading, size)
                added = True
            side += rng.uniform(-0.9, 0.9)
            z += rng.uniform(-0.8, 0.8)
        return added

    def add_two_wheeler(self, name: str) -> bool:
        rng, street, scene = self.rng, self.street, self.scene
        ridden = rng.random() < 0.78
        z, ground = near_to_far(rng, 6.0, 34), 0.0
        if ridden and street.crossing is not None and rng.random() < 0.25:
            z = street.crossing + rng.uniform(-0.7, 0.7) * street.crossing_half
            side = rng.uniform(street.left - 4, street.right + 4)
            heading = (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2) + rng.normal(0, 0.15)
        elif ridden:
            side, heading = self.lane_place(0.2, 0.95, with_us=0.6)
            heading += rng.normal(0, 0.6 if rng.random() < 0.15 else 0.15)
        else:
            _, side = self.kerbside(0.6, 0.6, min(2.2, street.pavement - 0.5))
            heading, ground = rng.uniform(0, 2 * np.pi), KERB_M
            if street.in_crossing(z, 1):
                return False
        x, turn = scene.on_road(side, z)
        if not self.take(x, z, 1.0, 1.6, 0.15):
            return False
        position, heading = np.array([x, ground, z]), heading + turn
        shape, (_, height, length) = (bike if name == "bike" else motor)(rng, self.glow if ridden else 0.0)
        scene.add(shape, position, heading, scene.new_object(name))
        if ridden:
            scene.add(rider(rng, name), position, heading, scene.new_object("rider"))
            height = 1.7
            if self.beams and name == "motor":
                self.add_beam(position, heading, 0.9, 0.9)
        scene.box_shadow(position, heading, (0.4, height, length))
        return True
