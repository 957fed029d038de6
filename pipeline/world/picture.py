"""One picture of the sample world: a pure function of (seed, domain, split, number, size)."""

from functools import cache
from typing import NamedTuple

import numpy as np

from pipeline.world.gated import Sensors, sense_street
from pipeline.world.light import make_noise, shade
from pipeline.world.raster import SAMPLES, make_camera, rasterise
from pipeline.world.scene import Scene, flatten, make_ground_map
from pipeline.world.street import build_sides, lay_ground, plan_street
from pipeline.world.traffic import Traffic
from pipeline.world.weather import DOMAINS, Weather, draw_weather, make_light, through_weather

SPLITS = ("train", "test")

# An object is labelled when something of it can be made out.
FEWEST_PIXELS = 6
LEAST_VISIBLE = 0.08  # share of what would be seen of the object if nothing stood before it
LEAST_CLEAR = 0.05  # share of its light that fog and rain let through: the contrast that ends visibility by definition
DIFFICULT_BELOW = 0.20  # visible share under which VOC's difficult flag is set


class LabelledObject(NamedTuple):
    name: str
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, 0-based, the right and lower ends outside
    truncated: bool
    difficult: bool
    number: int  # in the id buffer


class Picture(NamedTuple):
    image_HW3: np.ndarray  # uint8 RGB
    objects: list[LabelledObject]
    owner_HW: np.ndarray  # int16: number of the object every pixel shows, -1 for none
    alone_N: np.ndarray  # samples each object would cover with nothing before it
    names: list[str]  # class of every object number
    sensors: Sensors | None  # what other sensors see, where it was asked for


@cache
def noise_tile() -> np.ndarray:
    return make_noise()


def make_scene(rng: np.random.Generator, width: int, height: int, weather: Weather) -> Scene:
    """A street, its sides and its traffic, seen from a car in one of its lanes."""
    street = plan_street(rng)
    ego_lane = int(rng.integers(street.lanes_right))
    eye = ((ego_lane + 0.5) * street.lane + rng.normal(0, 0.4), rng.uniform(1.25, 2.0), 0.0)
    # The field of view of a 16:9 picture; wider and taller pictures keep its scale along their longer side.
    focal = max(width, height * 16 / 9) * rng.uniform(0.82, 1.12)
    camera = make_camera(eye, rng.normal(0, 0.06), rng.normal(-0.015, 0.02), rng.normal(0, 0.008), focal, width, height)
    scene = Scene(camera, bend=rng.normal(0, 0.0009) if rng.random() < 0.6 else 0.0)
    lay_ground(scene, street, rng)
    build_sides(scene, street, rng, weather.lamp_colour, weather.lamp_power)
    traffic = Traffic(
        scene, street, rng, ego_lane, glow=weather.glow, beams=weather.beams, umbrellas=weather.umbrellas
    )  # fmt: skip
    traffic.fill()
    return scene


def find_objects(
    owner_HW: np.ndarray, clear_HW: np.ndarray, alone_N: np.ndarray, names: list[str]
) -> list[LabelledObject]:
    """The objects that can be made out in an id buffer, with the tightest box around their visible pixels.

    `clear_HW` is the share of a pixel's light that comes through the air, `alone_N` counts the samples each object
    would cover with nothing before it.
    """
    height, width = owner_HW.shape
    rows, columns = np.nonzero(owner_HW >= 0)
    owners = owner_HW[rows, columns]
    pixels_N = np.bincount(owners, minlength=len(names))
    clear_N = np.bincount(owners, weights=clear_HW[rows, columns], minlength=len(names)) / np.maximum(pixels_N, 1)
    low_N2 = np.full((len(names), 2), np.iinfo(np.int64).max)
    high_N2 = np.full((len(names), 2), -1)
    places = np.stack([columns, rows], axis=1)
    np.minimum.at(low_N2, owners, places)
    np.maximum.at(high_N2, owners, places)
    found = []
    for number, name in enumerate(names):
        visible = pixels_N[number] * SAMPLES**2 / max(alone_N[number], 1)
        if pixels_N[number] < FEWEST_PIXELS or visible < LEAST_VISIBLE or clear_N[number] < LEAST_CLEAR:
            continue
        (x1, y1), (x2, y2) = low_N2[number].tolist(), (high_N2[number] + 1).tolist()
        truncated = x1 == 0 or y1 == 0 or x2 == width or y2 == height
        found.append(LabelledObject(name, (x1, y1, x2, y2), truncated, bool(visible < DIFFICULT_BELOW), number))
    return found


def draw_picture(
    domain: str, split: str, number: int, width: int, height: int, seed: int, extra: bool = False
) -> Picture:
    """extra: what other sensors see too; the picture is the same with and without."""
    name = [seed, DOMAINS.index(domain), SPLITS.index(split), number]
    rng = np.random.default_rng(name)
    weather = draw_weather(domain, rng)
    scene = make_scene(rng, width, height, weather)
    light, lamps_N11, shadow_blur = make_light(weather, scene, rng)
    vertices_M3, start_P, rows_P9, owner_P = flatten(scene)
    camera = scene.camera
    surface, inverse_depth, normal_P3, alone_N = rasterise(
        vertices_M3, start_P, owner_P, rows_P9[:, 7].copy(), len(scene.objects), camera.focal * SAMPLES,
        camera.centre_x * SAMPLES, camera.centre_y * SAMPLES, height * SAMPLES, width * SAMPLES,
    )  # fmt: skip
    material_P1, colours_P6, seed_P1 = rows_P9[:, 0:1], rows_P9[:, 1:7], rows_P9[:, 8:9]
    table_P11 = np.concatenate([normal_P3 @ camera.axes_33, colours_P6, material_P1, seed_P1], axis=1)
    ground_map = make_ground_map(scene, np.array(light.sun_direction), shadow_blur)
    image, depth, owner_HW, ground = shade(
        surface, inverse_depth, table_P11, owner_P, camera, light, lamps_N11, ground_map, noise_tile()
    )
    sensors = None
    if extra:
        sensors = sense_street(
            surface, inverse_depth, table_P11, camera, light, weather, noise_tile(), image, depth,
            np.random.default_rng([*name, 1]),
        )  # fmt: skip
    image_HW3 = through_weather(image, depth, ground, scene, weather, light, noise_tile(), rng)
    objects = find_objects(owner_HW, np.exp(-light.extinction * depth), alone_N, scene.objects)
    return Picture(image_HW3, objects, owner_HW, alone_N, scene.objects, sensors)
