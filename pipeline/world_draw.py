"""The sample world's camera, rasteriser and light: flat polygons in, light per pixel, depth and object ids out.

A scene is a list of flat polygons in metres (x right, y up, z along the road). `rasterise` draws them on a grid of
2 x 2 samples a pixel with a depth test and remembers only which surface is seen; `shade` lights every surface once a
pixel and averages the samples, so that edges are smooth while shading stays cheap. Colours are linear light.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

SAMPLES = 2  # along a side of a pixel
NEAR_M = 0.25
NO_SURFACE = -1

# Materials: how a surface answers light, and which pattern it wears.
MATTE, PAINT, GLASS, ROAD, PAVEMENT, GRASS, MARK, WALL, FOLIAGE, LAMP = range(10)

NOISE_SIZE = 512
GROUND_CELL_M = 0.16  # the ground map holds the sun's shadow and the darkness under things, seen from above
GROUND_X_M = 36.0  # it spans -GROUND_X_M..GROUND_X_M across
GROUND_NEAR_M, GROUND_FAR_M = -4.0, 124.0


class Camera(NamedTuple):
    """A pinhole. Rows of `axes_33` are the camera's right, down and forward axes in the world."""

    position_3: np.ndarray
    axes_33: np.ndarray
    focal: float  # pixels
    centre_x: float
    centre_y: float
    width: int
    height: int


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
    lamps_N11: (
        np.ndarray
    )  # position 3, direction 3, colour 3, cosine of the half angle (-1: all round), reach in metres
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


def make_camera(position_3, yaw: float, pitch: float, roll: float, focal: float, width: int, height: int) -> Camera:
    """Angles in radians: yaw turns right, pitch up, roll clockwise."""
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    down = np.cross(right, forward)
    axes = np.stack(
        [np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right, forward],
    )
    return Camera(np.asarray(position_3, np.float64), axes, float(focal), width / 2, height / 2, width, height)


def to_camera(camera: Camera, points_N3: np.ndarray) -> np.ndarray:
    return (points_N3 - camera.position_3) @ camera.axes_33.T


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
def rasterise(vertices_M3, start_P, owner_P, bias_P, num_owners, focal, centre_x, centre_y, height, width):
    """Draw polygons given in camera space (right, down, forward) with a depth test.

    Returns the surface seen at every sample (HsWs int32), its inverse depth, the normals in camera space, and for every
    object the samples it would cover alone. A polygon's inverse depth is linear over the picture: with the plane
    n.X = d and the ray r = (x, y, 1), 1/z = n.r / d. `bias` multiplies it, so that a decal wins over what it lies on.
    Simple polygons of any shape are filled by the even-odd rule, row by row, at sample centres.
    """
    surface = np.full((height, width), -1, np.int32)
    inverse_depth = np.zeros((height, width), np.float32)
    stamp = np.full((height, width), -1, np.int16)
    alone_N = np.zeros(max(num_owners, 1), np.int64)
    num_polygons = start_P.shape[0] - 1
    normal_P3 = np.zeros((num_polygons, 3), np.float32)
    clipped = np.empty((128, 3))
    flat = np.empty((128, 2))
    crossing = np.empty(128)
    for polygon in range(num_polygons):
        first, last = start_P[polygon], start_P[polygon + 1]
        count = last - first
        # Newell's normal
        nx, ny, nz = 0.0, 0.0, 0.0
        sx, sy, sz = 0.0, 0.0, 0.0
        for i in range(count):
            a = first + i
            b = first + (i + 1) % count
            ax, ay, az = vertices_M3[a, 0], vertices_M3[a, 1], vertices_M3[a, 2]
            bx, by, bz = vertices_M3[b, 0], vertices_M3[b, 1], vertices_M3[b, 2]
            nx += (ay - by) * (az + bz)
            ny += (az - bz) * (ax + bx)
            nz += (ax - bx) * (ay + by)
            sx += ax
            sy += ay
            sz += az
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if length < 1e-12:
            continue
        nx /= length
        ny /= length
        nz /= length
        d = (nx * sx + ny * sy + nz * sz) / count
        if d > 0:  # turn the normal towards the camera
            nx, ny, nz, d = -nx, -ny, -nz, -d
        normal_P3[polygon, 0] = nx
        normal_P3[polygon, 1] = ny
        normal_P3[polygon, 2] = nz
        if d > -1e-5:
            continue  # seen edge-on
        # Sutherland-Hodgman against z = NEAR_M
        kept = 0
        for i in range(count):
            a = first + i
            b = first + (i + 1) % count
            az, bz = vertices_M3[a, 2], vertices_M3[b, 2]
            if az >= NEAR_M:
                for k in range(3):
                    clipped[kept, k] = vertices_M3[a, k]
                kept += 1
            if (az >= NEAR_M) != (bz >= NEAR_M):
                t = (NEAR_M - az) / (bz - az)
                for k in range(3):
                    clipped[kept, k] = vertices_M3[a, k] + t * (vertices_M3[b, k] - vertices_M3[a, k])
                kept += 1
        if kept < 3:
            continue
        low, high = 1e18, -1e18
        for i in range(kept):
            flat[i, 0] = focal * clipped[i, 0] / clipped[i, 2] + centre_x
            flat[i, 1] = focal * clipped[i, 1] / clipped[i, 2] + centre_y
            low = min(low, flat[i, 1])
            high = max(high, flat[i, 1])
        row_first = int(max(0.0, np.ceil(low - 0.5)))
        row_last = int(min(float(height - 1), np.ceil(high - 0.5) - 1))
        scale = (1.0 + bias_P[polygon]) / d
        slope_x = nx / focal * scale
        owner = owner_P[polygon]
        for row in range(row_first, row_last + 1):
            y = row + 0.5
            found = 0
            for i in range(kept):
                j = (i + 1) % kept
                y0, y1 = flat[i, 1], flat[j, 1]
                if (y0 <= y) != (y1 <= y):
                    x = flat[i, 0] + (y - y0) / (y1 - y0) * (flat[j, 0] - flat[i, 0])
                    k = found
                    while k > 0 and crossing[k - 1] > x:
                        crossing[k] = crossing[k - 1]
                        k -= 1
                    crossing[k] = x
                    found += 1
            row_term = (ny * (y - centre_y) / focal + nz) * scale
            for pair in range(0, found - 1, 2):
                column_first = int(max(0.0, np.ceil(crossing[pair] - 0.5)))
                column_last = int(min(float(width - 1), np.ceil(crossing[pair + 1] - 0.5) - 1))
                for column in range(column_first, column_last + 1):
                    value = row_term + slope_x * (column + 0.5 - centre_x)
                    if owner >= 0 and stamp[row, column] != owner:
                        stamp[row, column] = owner
                        alone_N[owner] += 1
                    if value > inverse_depth[row, column]:
                        inverse_depth[row, column] = value
                        surface[row, column] = polygon
    return surface, inverse_depth, normal_P3, alone_N


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
    colour = np.zeros(3)
    albedo = np.zeros(3)
    sun = light.sun_direction_3
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
            for s in range(4):
                owner = surfaces.owner_P[seen[s]] if seen[s] >= 0 else -1
                if owner >= 0:
                    same = 0
                    for other in range(4):
                        if seen[other] >= 0 and surfaces.owner_P[seen[other]] == owner:
                            same += 1
                    if same >= 2:
                        owner_HW[row, column] = owner
                        break
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
                # The ray of this sample (of the pixel's centre when all samples agree).
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
                    # Fog is a layer over the ground: a slanted ray leaves it after some 25 m of height.
                    path = 25.0 / max(dy, 0.02)
                    through = np.exp(-light.extinction * path)
                    for k in range(3):
                        fogged = colour[k] * through + light.airlight_3[k] * (1 - through)
                        image[row, column, k] += weight * fogged
                    continue
                z = 1.0 / inverse_depth[2 * row + s // 2, 2 * column + s % 2]
                px, py, pz = eye[0] + wx * z, eye[1] + wy * z, eye[2] + wz * z
                distance = z * stretch
                material = surfaces.material_P[index]
                seed = surfaces.seed_P[index]
                nx, ny, nz = surfaces.normal_P3[index, 0], surfaces.normal_P3[index, 1], surfaces.normal_P3[index, 2]
                for k in range(3):
                    albedo[k] = surfaces.albedo_P3[index, k]
                emission = 0.0
                fine = min(1.0, 14.0 / z)  # patterns fade with distance instead of flickering
                sun_reaches, open_sky, mirror, gloss = 1.0, 1.0, 0.0, 0.0
                is_ground = material in (ROAD, PAVEMENT, GRASS, MARK)
                if is_ground:
                    ground[row, column] += weight * (0.35 if material == GRASS else 1.0)
                    n = 0.5 * look_up(noise, 19 * px, 19 * pz) + 0.5 * look_up(noise, 83 * px, 83 * pz)
                    rough = 0.38 * fine + 0.06
                    if material == GRASS:
                        rough = 0.9
                    elif material == MARK:
                        rough *= 1.6  # worn paint
                    factor = 1.0 + rough * 2.0 * (n - 0.5)
                    if material == ROAD:
                        factor += 0.3 * (
                            look_up(noise, 6.1 * px + 99 * seed, 0.6 * pz) - 0.5
                        )  # worn by wheels, along the road
                    if material == PAVEMENT:
                        line = min(abs(px - np.floor(px + 0.5)), abs(pz - np.floor(pz + 0.5)))
                        if line < 0.025 and z < 25:
                            factor *= 1 - 0.3 * fine
                    factor = max(factor, 0.15) * (1 - (0.12 if material == MARK else 0.45) * light.wetness)
                    for k in range(3):
                        albedo[k] *= factor
                    gx = (px + GROUND_X_M) / GROUND_CELL_M
                    gz = (pz - GROUND_NEAR_M) / GROUND_CELL_M
                    ix, iz = int(gx), int(gz)
                    if gx >= 0 and gz >= 0 and ix < ground_map.shape[1] - 1 and iz < ground_map.shape[0] - 1:
                        fx, fz = gx - ix, gz - iz
                        for c in range(2):
                            value = (
                                ground_map[iz, ix, c] * (1 - fx) * (1 - fz)
                                + ground_map[iz, ix + 1, c] * fx * (1 - fz)
                                + ground_map[iz + 1, ix, c] * (1 - fx) * fz
                                + ground_map[iz + 1, ix + 1, c] * fx * fz
                            ) / 255.0
                            if c == 0:
                                sun_reaches = value
                            else:
                                open_sky = value
                elif material == WALL:
                    # Windows on a grid along the wall; the lowest floor is a row of shop fronts.
                    along = px * nz - pz * nx
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
                    texture = 1.0 + 0.5 * fine * (look_up(noise, 23 * along, 23 * py) - 0.5)
                    texture += 0.5 * (look_up(noise, 2.3 * along, 1.1 * py) - 0.5)
                    texture *= 0.75 + 0.25 * min(1.0, py / 3.0)
                    inside = abs(u - 0.5) < share_u / 2 and abs(v - 0.46) < share_v / 2
                    frame = abs(u - 0.5) < share_u / 2 + 0.04 and abs(v - 0.46) < share_v / 2 + 0.05
                    if inside:
                        chance = hash_unit(int(cell), int(floor), int(seed * 1e6))
                        tone = 0.05 + 0.07 * hash_unit(int(cell), int(floor), int(seed * 1e6) + 7)
                        for k in range(3):
                            albedo[k] = tone
                        mirror = 0.35
                        lit = light.lit_windows * (2.0 if floor < 1 else 1.0)
                        if chance < lit:
                            emission = (0.25 + 0.75 * hash_unit(int(cell), int(floor), 3)) * light.lights_on
                            if floor < 1:
                                emission *= 1.6
                    elif frame:
                        for k in range(3):
                            albedo[k] *= 1.25 if seed > 0.4 else 0.55
                    else:
                        if v > 0.95:
                            texture *= 0.8
                        for k in range(3):
                            albedo[k] *= texture
                    open_sky = 0.75
                elif material == FOLIAGE:
                    n = look_up(noise, 61 * (px + 0.6 * pz), 61 * (py - 0.3 * pz))
                    m = look_up(noise, 17 * (px + 0.6 * pz) + 40, 17 * (py - 0.3 * pz))
                    factor = max(0.25, 1 + 1.5 * fine * (n - 0.5) + 1.6 * (m - 0.5))
                    for k in range(3):
                        albedo[k] *= factor
                    ny += 0.35
                elif material == GLASS:
                    mirror = 0.55
                    gloss = 0.5
                elif material == PAINT:
                    mirror = 0.07
                    gloss = 0.35
                # Light from the sky and the ground, then the sun, then lamps.
                lean = 0.5 + 0.5 * ny
                facing = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0) * sun_reaches
                if material == FOLIAGE:
                    facing = 0.35 + 0.5 * facing
                for k in range(3):
                    ambient = light.ambient_ground_3[k] * (1 - lean) + light.ambient_sky_3[k] * lean
                    colour[k] = albedo[k] * (ambient * open_sky + light.sun_3[k] * facing)
                for i in range(light.lamps_N11.shape[0]):
                    lx = light.lamps_N11[i, 0] - px
                    ly = light.lamps_N11[i, 1] - py
                    lz = light.lamps_N11[i, 2] - pz
                    square = lx * lx + ly * ly + lz * lz
                    reach = light.lamps_N11[i, 10]
                    if square > reach * reach:
                        continue
                    far = np.sqrt(square) + 1e-6
                    cosine = (nx * lx + ny * ly + nz * lz) / far
                    if is_ground:
                        cosine = 0.25 + 0.75 * max(cosine, 0.0)  # asphalt scatters back what comes in flat
                    elif cosine <= 0:
                        continue
                    limit = light.lamps_N11[i, 9]
                    beam = 1.0
                    if limit > -1:
                        along = (
                            -(lx * light.lamps_N11[i, 3] + ly * light.lamps_N11[i, 4] + lz * light.lamps_N11[i, 5])
                            / far
                        )
                        beam = (along - limit) / (1 - limit)
                        if beam <= 0:
                            continue
                        beam = beam * beam * (3 - 2 * beam)
                    fade = 1 - square / (reach * reach)
                    power = beam * cosine * fade * fade / (1.0 + square * 0.12)
                    for k in range(3):
                        colour[k] += albedo[k] * light.lamps_N11[i, 6 + k] * power * (0.4 + 0.6 * open_sky)
                if mirror > 0:
                    # What the surface mirrors: the sky above, something dark below the horizon.
                    dot = dx * nx + dy * ny + dz * nz
                    my = dy - 2 * dot * ny
                    graze = (1 + dot) ** 4
                    amount = min(mirror * (0.35 + 0.65 * graze) + 0.25 * graze, 0.9)
                    for k in range(3):
                        above = light.horizon_3[k] + (light.zenith_3[k] - light.horizon_3[k]) * min(max(my, 0.0), 1.0)
                        value = above if my > 0 else 0.35 * light.ambient_ground_3[k]
                        colour[k] += amount * (0.7 * value - colour[k] * 0.5)
                    if gloss > 0:
                        mx, mz = dx - 2 * dot * nx, dz - 2 * dot * nz
                        highlight = mx * sun[0] + my * sun[1] + mz * sun[2]
                        if highlight > 0:
                            for k in range(3):
                                colour[k] += gloss * 0.6 * highlight**40 * light.sun_3[k]
                if emission > 0:
                    warm = hash_unit(int(seed * 1e6), 5, int(emission * 97))
                    colour[0] += 1.0 * emission
                    colour[1] += (0.62 + 0.3 * warm) * emission
                    colour[2] += (0.28 + 0.6 * warm) * emission
                strength = light.lights_on if material == LAMP else 1.0
                through = np.exp(-light.extinction * distance)
                for k in range(3):
                    colour[k] += surfaces.emission_P3[index, k] * strength
                    fogged = colour[k] * through + light.airlight_3[k] * (1 - through)
                    image[row, column, k] += weight * fogged
    return image, depth, owner_HW, ground
