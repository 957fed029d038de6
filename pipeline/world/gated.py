"""What a gated near-infrared camera on the car sees of the sample world: three slices of distance, and the distance.

A laser beside the camera lights the street in pulses; the shutter opens a little later, so that light from one range of
distances alone is gathered (Bijelic et al., CVPR 2020, whose camera has three such slices at 808 nm). A surface of
reflectance r at distance d gives

    r / pi * cos * g(d) * exp(-2 k d) / d^2

with g the slice's gate and k the extinction of the air: light goes there and back. What the air throws back before it
gets there is k / S times the integral of g(z) exp(-2 k z) / z^2 up to d, S the lidar ratio. A gate that opens late
leaves most of it out; that is why the slices see through fog and rain. Daylight and lamps add a little to each slice.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numba import njit

from pipeline.world.light import (
    ALBEDO,
    MATERIAL,
    NORMAL,
    SEED,
    Light,
    dot,
    ground_pattern,
    look_up,
    plus,
    scale,
    wall_pattern,
)
from pipeline.world.shape import FOLIAGE, GLASS, GRASS, LAMP, MARK, PAINT, PAVEMENT, ROAD, WALL
from pipeline.world.weather import Weather

SLICES = ("gated0", "gated1", "gated2")
# Metres at which each gate begins to open, is open, begins to close and is closed.
GATES_S4 = np.array([(3.0, 9.0, 22.0, 40.0), (18.0, 34.0, 52.0, 78.0), (42.0, 62.0, 110.0, 150.0)])
REFERENCES_S = np.array([16.0, 42.0, 78.0])  # metres at which a surface of reflectance 0.3 gives 0.3
LIDAR_RATIO = 18.0  # of droplets, steradian
PASSIVE = 0.03  # of the light in the picture
READ_NOISE, SHOT_NOISE = 0.006, 0.020
LOWEST_GAIN, HIGHEST_GAIN = 0.5, 5.0  # the camera brings its brightest pixels to one level
BRIGHT = 1.1
STEP_M, FAR_M = 0.25, 200.0  # of the table of back-scatter
CENTIMETRE = 100.0
FARTHEST = 65535  # in the depth: sky, or more than 655 m


class Sensors(NamedTuple):
    slices_SHW: np.ndarray  # uint8
    depth_HW: np.ndarray  # uint16: centimetres along the camera's axis


def gate(distance_N: np.ndarray, corners_4: np.ndarray) -> np.ndarray:
    return np.interp(distance_N, corners_4, (0.0, 1.0, 1.0, 0.0))


def back_scatter(extinction: float) -> np.ndarray:
    """(3, N): what comes back from the air before each distance, in steps of STEP_M."""
    z_N = np.arange(STEP_M, FAR_M + STEP_M, STEP_M)
    fall_N = np.exp(-2 * extinction * z_N) / z_N**2
    return np.stack([np.cumsum(gate(z_N, corners_4) * fall_N) * STEP_M * extinction / LIDAR_RATIO
                     for corners_4 in GATES_S4])  # fmt: skip


@njit(cache=True)
def near_infrared(table_P11, index, p, z, light, noise):
    """(reflectance, share of the light that does not fall off with the angle): dyes and leaves are bright."""
    material, seed = int(table_P11[index, MATERIAL]), table_P11[index, SEED]
    own = (table_P11[index, ALBEDO] + table_P11[index, ALBEDO + 1] + table_P11[index, ALBEDO + 2]) / 3
    if material in (ROAD, PAVEMENT, GRASS, MARK):
        pattern = ground_pattern(material, p[0], p[2], z, seed, 0.0, noise)
        # Water mirrors the laser away from the car.
        dry = 1 - 0.8 * light.wetness
        if material == GRASS:
            return 0.5 * pattern * (1 - 0.3 * light.wetness), 0.5
        return (1.1 if material == MARK else 0.08 + 0.7 * own) * pattern * dry, 0.25 if material == MARK else 0.05
    if material == WALL:
        normal = (table_P11[index, NORMAL], table_P11[index, NORMAL + 1], table_P11[index, NORMAL + 2])
        along = p[0] * normal[2] - p[2] * normal[0]
        colour, _, mirror = wall_pattern(along, p[1], z, seed, light, noise, (own, own, own))
        return 0.04 if mirror > 0 else 0.12 + 0.7 * colour[0], 0.1
    if material == FOLIAGE:
        u, v = p[0] + 0.6 * p[2], p[1] - 0.3 * p[2]
        leaf = 1.1 * (look_up(noise, 17 * u + 40, 17 * v) - 0.5) + 1.6 * (look_up(noise, 97 * u, 97 * v) - 0.5)
        return 0.5 * max(0.2, 1 + leaf), 0.6
    if material == GLASS:
        return 0.03, 0.0
    if material == LAMP:
        return 2.5, 0.6  # reflectors send light back to where it came from
    if material == PAINT:
        return 0.14 + 0.6 * own, 0.15
    if own > 0.7:
        return 3.0, 0.6  # number plates
    return 0.04 + (0.34 + 0.4 * own) * min(own / 0.05, 1.0), 0.2  # tyres stay dark; cloth is bright whatever its dye


@njit(cache=True, error_model="numpy")
def see(surface, inverse_depth, table_P11, camera, light, noise, gates_S4, references_S, air_SN, image):
    """(3, H, W) float32: linear light of each slice, before the sensor."""
    height, width, focal = camera.height, camera.width, camera.focal
    slices = np.zeros((3, height, width), np.float32)
    axes = camera.axes_33
    right = (axes[0, 0], axes[0, 1], axes[0, 2])
    down = (axes[1, 0], axes[1, 1], axes[1, 2])
    forward = (axes[2, 0], axes[2, 1], axes[2, 2])
    eye = (camera.position_3[0], camera.position_3[1], camera.position_3[2])
    for row in range(height):
        for column in range(width):
            passive = (image[row, column, 0] + image[row, column, 1] + image[row, column, 2]) / 3
            rx, ry = (column + 0.5 - camera.centre_x) / focal, (row + 0.5 - camera.centre_y) / focal
            stretch = np.sqrt(rx * rx + ry * ry + 1)
            beam = np.exp(-1.6 * (rx * rx + 1.5 * ry * ry))  # the laser is brightest ahead
            towards = plus(plus(scale(right, rx), scale(down, ry)), forward)
            ray = scale(towards, 1 / stretch)
            for k in range(4):
                index, near = surface[2 * row + k // 2, 2 * column + k % 2], 0.0
                reflected, distance, place = 0.0, 1e9, air_SN.shape[1] - 1
                if index >= 0:
                    near = inverse_depth[2 * row + k // 2, 2 * column + k % 2]
                    distance = stretch / near
                    place = min(max(int(distance / STEP_M) - 1, 0), air_SN.shape[1] - 1)
                    p = plus(eye, scale(towards, 1 / near))
                    own, flat = near_infrared(table_P11, index, p, 1 / near, light, noise)
                    normal = (table_P11[index, NORMAL], table_P11[index, NORMAL + 1], table_P11[index, NORMAL + 2])
                    facing = flat + (1 - flat) * abs(dot(normal, ray))
                    reflected = own / np.pi * facing * np.exp(-2 * light.extinction * distance) / distance**2
                for s in range(3):
                    corners = gates_S4[s]
                    open_ = min((distance - corners[0]) / (corners[1] - corners[0]),
                                (corners[3] - distance) / (corners[3] - corners[2]))  # fmt: skip
                    active = reflected * min(max(open_, 0.0), 1.0) + air_SN[s, place]
                    value = active * beam * np.pi * references_S[s] ** 2 + PASSIVE * min(passive, 8.0)
                    slices[s, row, column] += 0.25 * value
    return slices


def add_drops(slices_SHW: np.ndarray, rain: float, rng: np.random.Generator) -> None:
    """Rain in the first gate: drops a few metres away, lit by the laser; pulses are too short to draw them out."""
    _, height, width = slices_SHW.shape
    size = max(height, width) / 640
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(130 * rain * height * width / (640 * 360))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        long = size * rng.uniform(1.0, 5.0)
        ends = np.round(np.array([(x, y), (x + rng.normal(0, 0.3), y + long)]) * 16).astype(np.int32)
        cv2.line(
            mask, ends[0].tolist(), ends[1].tolist(), int(rng.uniform(40, 200)), max(1, round(size)), cv2.LINE_AA, 4
        )
    slices_SHW[0] += cv2.GaussianBlur(mask, (0, 0), 0.6).astype(np.float32) * (0.9 / 255)


def sense(slices_SHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Optics, automatic gain, shot and read noise, and 8 bits with a square root for gamma."""
    made = []
    for slice_HW in slices_SHW:
        light_HW = cv2.GaussianBlur(slice_HW, (0, 0), 0.6)
        gain = float(np.clip(BRIGHT / max(np.percentile(light_HW, 99), 1e-6), LOWEST_GAIN, HIGHEST_GAIN))
        noise_HW = rng.standard_normal(light_HW.shape, dtype=np.float32)
        light_HW = light_HW + noise_HW * np.sqrt(READ_NOISE**2 + SHOT_NOISE**2 * np.minimum(light_HW, 2.0))
        shown_HW = np.sqrt(1 - np.exp(-np.maximum(gain * light_HW, 0)))  # a shoulder instead of a hard limit
        made.append(np.round(255 * shown_HW).astype(np.uint8))
    return np.stack(made)


def sense_street(
    surface, inverse_depth, table_P11, camera, light: Light, weather: Weather, noise, image, depth, rng
) -> Sensors:
    """image: linear light of the picture, before the weather; depth: metres, 0 for the sky."""
    slices_SHW = see(
        surface, inverse_depth, table_P11, camera, light, noise, GATES_S4, REFERENCES_S,
        back_scatter(light.extinction), image,
    )  # fmt: skip
    if weather.rain:
        add_drops(slices_SHW, weather.rain, rng)
    centimetres = np.where(depth > 0, np.minimum(np.rint(depth * CENTIMETRE), FARTHEST), FARTHEST)
    return Sensors(sense(slices_SHW, rng), centimetres.astype(np.uint16))
