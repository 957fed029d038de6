"""The sample world's light: colours of every pixel from the surfaces seen there, the sky, the sun and the lamps.

Every surface is lit once a pixel and the samples are averaged, so that edges are smooth while shading stays cheap.
Colours are linear light.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.world.shape import FOLIAGE, GLASS, GRASS, LAMP, MARK, PAINT, PAVEMENT, ROAD, WALL

NOISE_SIZE = 512
GROUND_CELL_M = 0.16  # the ground map holds the sun's shadow and the darkness under things, seen from above
GROUND_X_M = 36.0  # it spans -GROUND_X_M..GROUND_X_M across
GROUND_NEAR_M, GROUND_FAR_M = -4.0, 124.0
FOG_HEIGHT_M = 6.0

Triple = tuple[float, float, float]


class Light(NamedTuple):
    """All that lights a scene but its lamps. Colours are linear RGB; plain numbers are quicker than arrays in Numba."""

    sun_direction: Triple  # towards the sun
    sun: Triple
    ambient_sky: Triple
    ambient_ground: Triple
    zenith: Triple
    horizon: Triple
    cloud: Triple
    airlight: Triple
    cloud_cover: float
    cloud_seed: float
    extinction: float  # 1/m: transmission is exp(-extinction * distance), Koschmieder's law
    lit_windows: float  # share
    lights_on: float  # multiplies what lamps and windows emit
    wetness: float  # 0 dry .. 1: darker ground


# Columns of the table of surfaces: normal in the world, own colour, emission, material, seed of its pattern.
NORMAL, ALBEDO, EMISSION, MATERIAL, SEED = 0, 3, 6, 9, 10


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


@njit(cache=True)
def hash_unit(a, b, c):
    """Three integers to 0..1 (the products are cut to 32 bits by hand: Numba widens them)."""
    mask = np.int64(0xFFFFFFFF)
    h = (np.int64(a) * 374761393 + np.int64(b) * 668265263 + np.int64(c) * 1013904223) & mask
    h = ((h ^ (h >> 13)) * 1274126177) & mask
    h = h ^ (h >> 16)
    return np.float64(h) / 4294967296.0


@njit(cache=True)
def look_up(noise, u, v):
    """Bilinear sample of the noise tile, in cells."""
    iu, iv = int(np.floor(u)), int(np.floor(v))
    fu, fv = u - iu, v - iv
    x0, y0, x1, y1 = iu & 511, iv & 511, (iu + 1) & 511, (iv + 1) & 511  # NOISE_SIZE - 1
    top = noise[y0, x0] * (1 - fu) + noise[y0, x1] * fu
    bottom = noise[y1, x0] * (1 - fu) + noise[y1, x1] * fu
    return top * (1 - fv) + bottom * fv


@njit(cache=True)
def mix(a, b, share):
    """Colour a towards colour b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


@njit(cache=True)
def scale(a, factor):
    return (a[0] * factor, a[1] * factor, a[2] * factor)


@njit(cache=True)
def plus(a, b):
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


@njit(cache=True)
def times(a, b):
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


@njit(cache=True)
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def sky_colour(ray, light, noise):
    """Light from direction `ray`, of length 1: a gradient, clouds on a plane above, the sun and its aureole."""
    up = max(ray[1], 0.0)
    colour = mix(light.horizon, light.zenith, 1.0 - (1.0 - up) ** 4)
    if light.cloud_cover > 0 and ray[1] > 0.01:
        u, v = ray[0] / (ray[1] + 0.12), ray[2] / (ray[1] + 0.12)
        n = 0.65 * look_up(noise, 45 * u + light.cloud_seed, 45 * v + 0.37 * light.cloud_seed)
        n += 0.35 * look_up(noise, 150 * u, 150 * v + light.cloud_seed)
        cover = (n - (0.78 - 0.6 * light.cloud_cover)) / 0.22
        cover = min(max(cover, 0.0), 1.0) * min(1.0, ray[1] / 0.12)
        shade = 0.72 + 0.5 * look_up(noise, 60 * u + 9, 60 * v + light.cloud_seed)
        colour = mix(colour, scale(light.cloud, shade), cover)
    sun = dot(ray, light.sun_direction)
    if sun > 0.8:
        glow = 0.25 * sun**24 + 2.0 * sun**900 + (30.0 if sun > 0.99985 else 0.0)
        colour = plus(colour, scale(light.sun, 0.25 * glow))
    return colour


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True)
def wall_pattern(along, py, z, seed, light, noise, albedo):
    """Windows on a grid along a wall; the lowest floor is a row of shop fronts. Returns (albedo, emission, mirror)."""
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
        if abs(u - 0.5) < 0.02 or (floor >= 1 and abs(v - 0.56) < 0.015):
            return scale(albedo, 0.8), 0.0, 0.0  # glazing bars
        house = int(seed * 1e6)
        tone = 0.05 + 0.07 * hash_unit(cell, floor, house + 7)
        emission = 0.0
        if hash_unit(cell, floor, house) < light.lit_windows * (2.0 if floor < 1 else 1.0):
            emission = (0.25 + 0.75 * hash_unit(cell, floor, 3)) * (1.6 if floor < 1 else 1.0)
            emission *= light.lights_on * (0.55 + 0.6 * look_up(noise, 40 * along, 40 * py))
        return (tone, tone, tone), emission, 0.35
    fine = min(1.0, 14.0 / z)
    texture = 1.0 + 0.5 * fine * (look_up(noise, 23 * along, 23 * py) - 0.5)
    texture += 0.5 * (look_up(noise, 2.3 * along, 1.1 * py) - 0.5)
    texture *= 0.75 + 0.25 * min(1.0, py / 3.0)
    if abs(u - 0.5) < share_u / 2 + 0.04 and abs(v - 0.46) < share_v / 2 + 0.05:
        texture = 1.25 if seed > 0.4 else 0.55  # window frame
    elif v > 0.95:
        texture *= 0.8  # a ledge between floors
    return scale(albedo, texture), 0.0, 0.0


@njit(cache=True)
def lamp_light(lamps_N11, p, normal, is_ground):
    """Light of street lamps and head lights on a surface, which falls off with distance and ends at their reach."""
    total = (0.0, 0.0, 0.0)
    for i in range(lamps_N11.shape[0]):
        lx, ly, lz = lamps_N11[i, 0] - p[0], lamps_N11[i, 1] - p[1], lamps_N11[i, 2] - p[2]
        square = lx * lx + ly * ly + lz * lz
        reach = lamps_N11[i, 10]
        if square > reach * reach:
            continue
        far = np.sqrt(square) + 1e-6
        along = -(lx * lamps_N11[i, 3] + ly * lamps_N11[i, 4] + lz * lamps_N11[i, 5]) / far
        limit = lamps_N11[i, 9]
        beam = (along - limit) / (1 - limit)
        if beam <= 0:
            continue
        beam = beam * beam * (3 - 2 * beam)
        # Asphalt scatters back what comes in flat, and lights what stands on it.
        flat = 0.25 if is_ground else 0.18
        cosine = flat + (1 - flat) * max(dot(normal, (lx, ly, lz)) / far, 0.0)
        fade = 1 - square / (reach * reach)
        power = beam * cosine * fade * fade / (1.0 + square * 0.12)
        total = plus(total, scale((lamps_N11[i, 6], lamps_N11[i, 7], lamps_N11[i, 8]), power))
    return total


@njit(cache=True)
def add_mirror(colour, mirror, gloss, ray, normal, light):
    """What glass and paint mirror: the sky above, something dark below the horizon, the sun as a highlight."""
    facing = dot(ray, normal)
    bounced = (ray[0] - 2 * facing * normal[0], ray[1] - 2 * facing * normal[1], ray[2] - 2 * facing * normal[2])
    graze = (1 + facing) ** 4
    amount = min(mirror * (0.35 + 0.65 * graze) + 0.25 * graze, 0.9)
    if bounced[1] > 0:
        seen = mix(light.horizon, light.zenith, min(bounced[1], 1.0))
    else:
        seen = scale(light.ambient_ground, 0.35)
    colour = plus(scale(colour, 1 - 0.5 * amount), scale(seen, 0.7 * amount))
    highlight = dot(bounced, light.sun_direction)
    if gloss > 0 and highlight > 0:
        colour = plus(colour, scale(light.sun, gloss * 0.6 * highlight**40))
    return colour


@njit(cache=True)
def light_surface(table_P11, index, p, ray, z, light, lamps_N11, ground_map, noise):
    """Light that the surface in row `index` of the table sends back along `ray` from the point p."""
    material, seed = int(table_P11[index, MATERIAL]), table_P11[index, SEED]
    normal = (table_P11[index, NORMAL], table_P11[index, NORMAL + 1], table_P11[index, NORMAL + 2])
    albedo = (table_P11[index, ALBEDO], table_P11[index, ALBEDO + 1], table_P11[index, ALBEDO + 2])
    sun_reaches, open_sky, emission, mirror, gloss = 1.0, 1.0, 0.0, 0.0, 0.0
    is_ground = material in (ROAD, PAVEMENT, GRASS, MARK)
    if is_ground:
        albedo = scale(albedo, ground_pattern(material, p[0], p[2], z, seed, light.wetness, noise))
        sun_reaches, open_sky = ground_light(ground_map, p[0], p[2])
    elif material == WALL:
        along = p[0] * normal[2] - p[2] * normal[0]
        albedo, emission, mirror = wall_pattern(along, p[1], z, seed, light, noise, albedo)
        open_sky = 0.75
    elif material == FOLIAGE:
        u, v = p[0] + 0.6 * p[2], p[1] - 0.3 * p[2]
        leaf = 1.1 * (look_up(noise, 17 * u + 40, 17 * v) - 0.5)
        leaf += 2.4 * min(1.0, 20.0 / z) * (look_up(noise, 97 * u, 97 * v) - 0.5)
        albedo = scale(albedo, max(0.25, 1 + leaf))
        normal = (normal[0], normal[1] + 0.35, normal[2])
    elif material == GLASS:
        mirror, gloss = 0.4, 0.5
    elif material == PAINT:
        mirror, gloss = 0.07, 0.35
    facing = max(dot(normal, light.sun_direction), 0.0) * sun_reaches
    if material == FOLIAGE:
        facing = 0.35 + 0.5 * facing  # leaves let light through
    arriving = scale(mix(light.ambient_ground, light.ambient_sky, 0.5 + 0.5 * normal[1]), open_sky)
    arriving = plus(arriving, scale(light.sun, facing))
    if lamps_N11.shape[0] > 0:
        arriving = plus(arriving, scale(lamp_light(lamps_N11, p, normal, is_ground), 0.4 + 0.6 * open_sky))
    colour = times(albedo, arriving)
    if mirror > 0:
        colour = add_mirror(colour, mirror, gloss, ray, normal, light)
    if emission > 0:
        warm = hash_unit(int(seed * 1e6), int(p[0] // 9), int(p[2] // 9))
        colour = plus(colour, scale((1.0, 0.62 + 0.3 * warm, 0.28 + 0.6 * warm), emission))
    strength = light.lights_on if material == LAMP else 1.0
    return plus(
        colour,
        scale((table_P11[index, EMISSION], table_P11[index, EMISSION + 1], table_P11[index, EMISSION + 2]), strength),
    )


@njit(cache=True)
def find_owner(a, b, c, d):
    """The object that at least half of a pixel's four samples show, or -1."""
    if a >= 0 and (a in (b, c, d)):
        return a
    if b >= 0 and (b in (c, d)):
        return b
    return c if c == d else -1


@njit(cache=True, error_model="numpy")
def shade(surface, inverse_depth, table_P11, owner_P, camera, light, lamps_N11, ground_map, noise):
    """Light of every pixel, its depth in metres (0 = sky), which object it shows (-1 none) and how far it is ground."""
    height, width, focal = camera.height, camera.width, camera.focal
    image = np.zeros((height, width, 3), np.float32)
    depth = np.zeros((height, width), np.float32)
    owner_HW = np.full((height, width), -1, np.int16)
    ground = np.zeros((height, width), np.float32)
    axes = camera.axes_33
    right = (axes[0, 0], axes[0, 1], axes[0, 2])
    down = (axes[1, 0], axes[1, 1], axes[1, 2])
    forward = (axes[2, 0], axes[2, 1], axes[2, 2])
    eye = (camera.position_3[0], camera.position_3[1], camera.position_3[2])
    for row in range(height):
        for column in range(width):
            i, j = 2 * row, 2 * column
            seen = (surface[i, j], surface[i, j + 1], surface[i + 1, j], surface[i + 1, j + 1])
            near = (inverse_depth[i, j], inverse_depth[i, j + 1], inverse_depth[i + 1, j], inverse_depth[i + 1, j + 1])
            nearest = max(max(near[0], near[1]), max(near[2], near[3]))
            depth[row, column] = 1.0 / nearest if nearest > 0 else 0.0
            owner_HW[row, column] = find_owner(
                owner_P[seen[0]] if seen[0] >= 0 else -1,
                owner_P[seen[1]] if seen[1] >= 0 else -1,
                owner_P[seen[2]] if seen[2] >= 0 else -1,
                owner_P[seen[3]] if seen[3] >= 0 else -1,
            )
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
                x, y, z = column + 0.5, row + 0.5, 0.0
                if weight < 0.9:
                    x, y = column + 0.25 + 0.5 * (s % 2), row + 0.25 + 0.5 * (s // 2)
                rx, ry = (x - camera.centre_x) / focal, (y - camera.centre_y) / focal
                stretch = np.sqrt(rx * rx + ry * ry + 1)
                towards = plus(plus(scale(right, rx), scale(down, ry)), forward)  # at depth 1
                ray = scale(towards, 1 / stretch)
                if index < 0:
                    colour = sky_colour(ray, light, noise)
                    path = FOG_HEIGHT_M / max(ray[1], 0.02)  # a slanted ray leaves the layer of fog
                else:
                    z = 1.0 / near[s] if weight < 0.9 else 4.0 / (near[0] + near[1] + near[2] + near[3])
                    path = z * stretch
                    p = plus(eye, scale(towards, z))
                    colour = light_surface(table_P11, index, p, ray, z, light, lamps_N11, ground_map, noise)
                    material = int(table_P11[index, MATERIAL])
                    if material == ROAD or material == PAVEMENT or material == MARK:  # noqa: SIM109
                        ground[row, column] += weight
                    elif material == GRASS:
                        ground[row, column] += 0.35 * weight
                colour = mix(light.airlight, colour, np.exp(-light.extinction * path))
                image[row, column, 0] += weight * colour[0]
                image[row, column, 1] += weight * colour[1]
                image[row, column, 2] += weight * colour[2]
    return image, depth, owner_HW, ground
