"""The sample world's light: colours of every pixel from the surfaces seen there, the sky, the sun and the lamps.

Every surface is lit once a pixel and the samples are averaged, so that edges are smooth while shading stays cheap.
Colours are linear light.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.world_shape import FOLIAGE, GLASS, GRASS, LAMP, MARK, PAINT, PAVEMENT, ROAD, WALL

NOISE_SIZE = 512
GROUND_CELL_M = 0.16  # the ground map holds the sun's shadow and the darkness under things, seen from above
GROUND_X_M = 36.0  # it spans -GROUND_X_M..GROUND_X_M across
GROUND_NEAR_M, GROUND_FAR_M = -4.0, 124.0
FOG_HEIGHT_M = 25.0


class Light(NamedTuple):
    """All that lights a scene. Colours are linear RGB; directions point towards the light."""

    sun_direction_3: np.ndarray
    sun_3: np.ndarray
    ambient_sky_3: np.ndarray
    ambient_ground_3: np.ndarray
    zenith_3: np.ndarray
    horizon_3: np.ndarray
    cloud_3: np.ndarray
    cloud_cover: float
    cloud_seed: float
    airlight_3: np.ndarray
    extinction: float  # 1/m: transmission is exp(-extinction * distance), Koschmieder's law
    lamps_N11: np.ndarray  # position 3, direction 3, colour 3, cosine of half the beam's angle, reach in metres
    lit_windows: float  # share
    lights_on: float  # multiplies what head lights, tail lights and lamps emit
    wetness: float  # 0 dry .. 1: darker ground


class Surfaces(NamedTuple):
    """One row a polygon."""

    normal_P3: np.ndarray  # world, towards the camera
    albedo_P3: np.ndarray
    emission_P3: np.ndarray
    material_P: np.ndarray
    owner_P: np.ndarray  # object number, -1 for scenery
    seed_P: np.ndarray  # float in 0..1: varies the patterns


def make_noise() -> np.ndarray:
    """A tile of smooth noise in 0..1 that repeats without a seam: white noise with amplitude 1/f (pink in 2 D)."""
    rng = np.random.default_rng(20)
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))
    frequency_y = np.fft.fftfreq(NOISE_SIZE)[:, None] * NOISE_SIZE
    frequency_x = np.fft.rfftfreq(NOISE_SIZE)[None, :] * NOISE_SIZE
    radius = np.maximum(np.hypot(frequency_y, frequency_x), 4.0)
    noise = np.fft.irfft2(spectrum / radius**1.1, s=(NOISE_SIZE, NOISE_SIZE))
    order = np.clip((noise - noise.mean()) / (4 * noise.std()) + 0.5, 0, 1)
    return order.astype(np.float32)


@njit(cache=True, inline="always")
def hash_unit(a, b, c):
    """Three integers to 0..1 (the products are cut to 32 bits by hand: Numba widens them)."""
    mask = np.int64(0xFFFFFFFF)
    h = (np.int64(a) * 374761393 + np.int64(b) * 668265263 + np.int64(c) * 1013904223) & mask
    h = ((h ^ (h >> 13)) * 1274126177) & mask
    h = h ^ (h >> 16)
    return np.float64(h) / 4294967296.0


@njit(cache=True, inline="always")
def look_up(noise, u, v):
    """Bilinear sample of the noise tile, in cells."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    x0, y0 = int(iu) % 512, int(iv) % 512
    x1, y1 = (x0 + 1) % 512, (y0 + 1) % 512
    top = noise[y0, x0] * (1 - fu) + noise[y0, x1] * fu
    bottom = noise[y1, x0] * (1 - fu) + noise[y1, x1] * fu
    return top * (1 - fv) + bottom * fv


@njit(cache=True)
def sky_colour(dx, dy, dz, light, noise, out):
    """Light from direction (dx, dy, dz), of length 1: a gradient, clouds on a plane above, the sun and its aureole."""
    up = max(dy, 0.0)
    blend = 1.0 - (1.0 - up) ** 4
    for k in range(3):
        out[k] = light.horizon_3[k] * (1 - blend) + light.zenith_3[k] * blend
    if light.cloud_cover > 0 and dy > 0.01:
        u, v = dx / (dy + 0.12), dz / (dy + 0.12)
        n = 0.65 * look_up(noise, 45 * u + light.cloud_seed, 45 * v + 0.37 * light.cloud_seed)
        n += 0.35 * look_up(noise, 150 * u, 150 * v + light.cloud_seed)
        cover = (n - (0.78 - 0.6 * light.cloud_cover)) / 0.22
        cover = min(max(cover, 0.0), 1.0) * min(1.0, dy / 0.12)
        shade = 0.72 + 0.5 * look_up(noise, 60 * u + 9, 60 * v + light.cloud_seed)
        for k in range(3):
            out[k] += cover * (light.cloud_3[k] * shade - out[k])
    sun = dx * light.sun_direction_3[0] + dy * light.sun_direction_3[1] + dz * light.sun_direction_3[2]
    if sun > 0:
        glow = 0.25 * sun**24 + 2.0 * sun**900 + (30.0 if sun > 0.99985 else 0.0)
        for k in range(3):
            out[k] += glow * light.sun_3[k] * 0.25


@njit(cache=True, inline="always")
def ground_pattern(material, px, pz, z, seed, wetness, noise):
    """Grain of asphalt, slabs and grass: a factor on the surface's own colour. Patterns fade with distance `z`."""
    fine = min(1.0, 14.0 / z)
    n = 0.5 * look_up(noise, 19 * px, 19 * pz) + 0.5 * look_up(noise, 83 * px, 83 * pz)
    rough = 0.38 * fine + 0.06
    if material == GRASS:
        rough = 0.9
    elif material == MARK:
        rough *= 1.6  # worn paint
    factor = 1.0 + rough * 2.0 * (n - 0.5)
    if material == ROAD:
        factor += 0.3 * (look_up(noise, 6.1 * px + 99 * seed, 0.6 * pz) - 0.5)  # worn by wheels, along the road
    if material == PAVEMENT:
        joint = min(abs(px - np.floor(px + 0.5)), abs(pz - np.floor(pz + 0.5)))
        if joint < 0.025 and z < 25:
            factor *= 1 - 0.3 * fine
    return max(factor, 0.15) * (1 - (0.12 if material == MARK else 0.45) * wetness)


@njit(cache=True, inline="always")
def ground_light(ground_map, px, pz):
    """Shares of the sun and of the sky that reach a place on the ground."""
    gx = (px + GROUND_X_M) / GROUND_CELL_M
    gz = (pz - GROUND_NEAR_M) / GROUND_CELL_M
    ix, iz = int(gx), int(gz)
    if gx < 0 or gz < 0 or ix >= ground_map.shape[1] - 1 or iz >= ground_map.shape[0] - 1:
        return 1.0, 1.0
    fx, fz = gx - ix, gz - iz
    a, b, c, d = (1 - fx) * (1 - fz) / 255, fx * (1 - fz) / 255, (1 - fx) * fz / 255, fx * fz / 255
    sun = ground_map[iz, ix, 0] * a + ground_map[iz, ix + 1, 0] * b
    sun += ground_map[iz + 1, ix, 0] * c + ground_map[iz + 1, ix + 1, 0] * d
    sky = ground_map[iz, ix, 1] * a + ground_map[iz, ix + 1, 1] * b
    sky += ground_map[iz + 1, ix, 1] * c + ground_map[iz + 1, ix + 1, 1] * d
    return sun, sky


@njit(cache=True, inline="always")
def wall_pattern(along, py, z, seed, light, noise, albedo):
    """Windows on a grid along a wall; the lowest floor is a row of shop fronts. Returns (emission, mirror)."""
    floor_height = 2.9 + 1.1 * seed
    step = 1.7 + 1.6 * ((seed * 7.31) % 1.0)
    share_u = 0.40 + 0.35 * ((seed * 13.7) % 1.0)
    share_v = 0.45 + 0.2 * ((seed * 29.3) % 1.0)
    floor = np.floor(py / floor_height)
    if floor < 1:
        step *= 2.2
        share_u, share_v = 0.8, 0.72
    cell = np.floor(along / step)
    u, v = along / step - cell, py / floor_height - floor
    if abs(u - 0.5) < share_u / 2 and abs(v - 0.46) < share_v / 2:
        house = int(seed * 1e6)
        tone = 0.05 + 0.07 * hash_unit(int(cell), int(floor), house + 7)
        bar = abs(u - 0.5) < 0.02 or (floor >= 1 and abs(v - 0.56) < 0.015)
        for k in range(3):
            albedo[k] = albedo[k] * 0.8 if bar else tone
        emission = 0.0
        if hash_unit(int(cell), int(floor), house) < light.lit_windows * (2.0 if floor < 1 else 1.0) and not bar:
            emission = (0.25 + 0.75 * hash_unit(int(cell), int(floor), 3)) * (1.6 if floor < 1 else 1.0)
            emission *= light.lights_on * (0.55 + 0.6 * look_up(noise, 40 * along, 40 * py))
        return emission, 0.0 if bar else 0.35
    fine = min(1.0, 14.0 / z)
    texture = 1.0 + 0.5 * fine * (look_up(noise, 23 * along, 23 * py) - 0.5)
    texture += 0.5 * (look_up(noise, 2.3 * along, 1.1 * py) - 0.5)
    texture *= 0.75 + 0.25 * min(1.0, py / 3.0)
    if abs(u - 0.5) < share_u / 2 + 0.04 and abs(v - 0.46) < share_v / 2 + 0.05:
        texture = 1.25 if seed > 0.4 else 0.55  # window frame
    elif v > 0.95:
        texture *= 0.8  # a ledge between floors
    for k in range(3):
        albedo[k] *= texture
    return 0.0, 0.0


@njit(cache=True, inline="always")
def add_lamps(lamps_N11, px, py, pz, nx, ny, nz, is_ground, open_sky, albedo, colour):
    """Light of street lamps and head lights, which falls off with distance and ends at their reach."""
    for i in range(lamps_N11.shape[0]):
        lx, ly, lz = lamps_N11[i, 0] - px, lamps_N11[i, 1] - py, lamps_N11[i, 2] - pz
        square = lx * lx + ly * ly + lz * lz
        reach = lamps_N11[i, 10]
        if square > reach * reach:
            continue
        far = np.sqrt(square) + 1e-6
        cosine = (nx * lx + ny * ly + nz * lz) / far
        if is_ground:
            cosine = 0.25 + 0.75 * max(cosine, 0.0)  # asphalt scatters back what comes in flat
        else:
            cosine = 0.18 + 0.82 * max(cosine, 0.0)  # and lights what stands on it
        limit = lamps_N11[i, 9]
        along = -(lx * lamps_N11[i, 3] + ly * lamps_N11[i, 4] + lz * lamps_N11[i, 5]) / far
        beam = (along - limit) / (1 - limit)
        if beam <= 0:
            continue
        beam = beam * beam * (3 - 2 * beam)
        fade = 1 - square / (reach * reach)
        power = beam * cosine * fade * fade / (1.0 + square * 0.12) * (0.4 + 0.6 * open_sky)
        for k in range(3):
            colour[k] += albedo[k] * lamps_N11[i, 6 + k] * power


@njit(cache=True, inline="always")
def add_mirror(mirror, gloss, dx, dy, dz, nx, ny, nz, light, colour):
    """What glass and paint mirror: the sky above, something dark below the horizon, the sun as a highlight."""
    dot = dx * nx + dy * ny + dz * nz
    mx, my, mz = dx - 2 * dot * nx, dy - 2 * dot * ny, dz - 2 * dot * nz
    graze = (1 + dot) ** 4
    amount = min(mirror * (0.35 + 0.65 * graze) + 0.25 * graze, 0.9)
    for k in range(3):
        above = light.horizon_3[k] + (light.zenith_3[k] - light.horizon_3[k]) * min(max(my, 0.0), 1.0)
        value = above if my > 0 else 0.35 * light.ambient_ground_3[k]
        colour[k] += amount * (0.7 * value - colour[k] * 0.5)
    sun = light.sun_direction_3
    highlight = mx * sun[0] + my * sun[1] + mz * sun[2]
    if gloss > 0 and highlight > 0:
        for k in range(3):
            colour[k] += gloss * 0.6 * highlight**40 * light.sun_3[k]


@njit(cache=True, inline="always")
def find_owner(seen, owner_P):
    """The object that at least half of a pixel's samples show, or -1."""
    for s in range(4):
        owner = owner_P[seen[s]] if seen[s] >= 0 else -1
        same = 0
        for other in range(4):
            if seen[other] >= 0 and owner_P[seen[other]] == owner:
                same += 1
        if owner >= 0 and same >= 2:
            return owner
    return -1


@njit(cache=True)
def light_surface(index, px, py, pz, dx, dy, dz, z, surfaces, light, ground_map, noise, albedo, colour):
    """Light from one point of a surface, seen along (dx, dy, dz), into `colour`."""
    material, seed = surfaces.material_P[index], surfaces.seed_P[index]
    nx, ny, nz = surfaces.normal_P3[index, 0], surfaces.normal_P3[index, 1], surfaces.normal_P3[index, 2]
    for k in range(3):
        albedo[k] = surfaces.albedo_P3[index, k]
    sun_reaches, open_sky, emission, mirror, gloss = 1.0, 1.0, 0.0, 0.0, 0.0
    is_ground = material in (ROAD, PAVEMENT, GRASS, MARK)
    if is_ground:
        factor = ground_pattern(material, px, pz, z, seed, light.wetness, noise)
        for k in range(3):
            albedo[k] *= factor
        sun_reaches, open_sky = ground_light(ground_map, px, pz)
    elif material == WALL:
        emission, mirror = wall_pattern(px * nz - pz * nx, py, z, seed, light, noise, albedo)
        open_sky = 0.75
    elif material == FOLIAGE:
        u, v = px + 0.6 * pz, py - 0.3 * pz
        leaf = 1.1 * (look_up(noise, 17 * u + 40, 17 * v) - 0.5)
        leaf += 2.4 * min(1.0, 20.0 / z) * (look_up(noise, 97 * u, 97 * v) - 0.5)
        for k in range(3):
            albedo[k] *= max(0.25, 1 + leaf)
        ny += 0.35
    elif material == GLASS:
        mirror, gloss = 0.55, 0.5
    elif material == PAINT:
        mirror, gloss = 0.07, 0.35
    lean = 0.5 + 0.5 * ny
    sun = light.sun_direction_3
    facing = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0) * sun_reaches
    if material == FOLIAGE:
        facing = 0.35 + 0.5 * facing  # leaves let light through
    for k in range(3):
        ambient = light.ambient_ground_3[k] * (1 - lean) + light.ambient_sky_3[k] * lean
        colour[k] = albedo[k] * (ambient * open_sky + light.sun_3[k] * facing)
    add_lamps(light.lamps_N11, px, py, pz, nx, ny, nz, is_ground, open_sky, albedo, colour)
    if mirror > 0:
        add_mirror(mirror, gloss, dx, dy, dz, nx, ny, nz, light, colour)
    if emission > 0:
        warm = hash_unit(int(seed * 1e6), int(px // 9), int(pz // 9))
        colour[0] += emission
        colour[1] += (0.62 + 0.3 * warm) * emission
        colour[2] += (0.28 + 0.6 * warm) * emission
    strength = light.lights_on if material == LAMP else 1.0
    for k in range(3):
        colour[k] += surfaces.emission_P3[index, k] * strength


@njit(cache=True)
def shade(surface, inverse_depth, surfaces, camera, light, ground_map, noise):
    """Light of every pixel, its depth in metres (0 = sky), which object it shows (-1 none) and how far it is ground.

    A pixel belongs to an object when at least half of its samples show it.
    """
    height, width = camera.height, camera.width
    image = np.zeros((height, width, 3), np.float32)
    depth = np.zeros((height, width), np.float32)
    owner_HW = np.full((height, width), -1, np.int16)
    ground = np.zeros((height, width), np.float32)
    axes, eye = camera.axes_33, camera.position_3
    colour, albedo = np.zeros(3), np.zeros(3)
    for row in range(height):
        for column in range(width):
            seen = (
                surface[2 * row, 2 * column],
                surface[2 * row, 2 * column + 1],
                surface[2 * row + 1, 2 * column],
                surface[2 * row + 1, 2 * column + 1],
            )
            nearest = 0.0
            for s in range(4):
                nearest = max(nearest, inverse_depth[2 * row + s // 2, 2 * column + s % 2])
            depth[row, column] = 1.0 / nearest if nearest > 0 else 0.0
            owner_HW[row, column] = find_owner(seen, surfaces.owner_P)
            for s in range(4):
                index = seen[s]
                weight, repeated = 0.25, False
                for other in range(4):
                    if other < s and seen[other] == index:
                        repeated = True
                    if other > s and seen[other] == index:
                        weight += 0.25
                if repeated:
                    continue
                # The ray of this sample, or of the pixel's centre when all samples agree.
                x, y = column + 0.5, row + 0.5
                if weight < 0.9:
                    x, y = column + 0.25 + 0.5 * (s % 2), row + 0.25 + 0.5 * (s // 2)
                rx, ry = (x - camera.centre_x) / camera.focal, (y - camera.centre_y) / camera.focal
                wx = rx * axes[0, 0] + ry * axes[1, 0] + axes[2, 0]
                wy = rx * axes[0, 1] + ry * axes[1, 1] + axes[2, 1]
                wz = rx * axes[0, 2] + ry * axes[1, 2] + axes[2, 2]
                stretch = np.sqrt(rx * rx + ry * ry + 1)
                dx, dy, dz = wx / stretch, wy / stretch, wz / stretch
                if index < 0:
                    sky_colour(dx, dy, dz, light, noise, colour)
                    path = FOG_HEIGHT_M / max(dy, 0.02)  # a slanted ray leaves the layer of fog
                else:
                    z = 1.0 / inverse_depth[2 * row + s // 2, 2 * column + s % 2]
                    path = z * stretch
                    px, py, pz = eye[0] + wx * z, eye[1] + wy * z, eye[2] + wz * z
                    light_surface(index, px, py, pz, dx, dy, dz, z, surfaces, light, ground_map, noise, albedo, colour)
                    material = surfaces.material_P[index]
                    if material in (ROAD, PAVEMENT, MARK):
                        ground[row, column] += weight
                    elif material == GRASS:
                        ground[row, column] += 0.35 * weight
                through = np.exp(-light.extinction * path)
                for k in range(3):
                    image[row, column, k] += weight * (colour[k] * through + light.airlight_3[k] * (1 - through))
    return image, depth, owner_HW, ground
