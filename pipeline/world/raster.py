"""The sample world's camera and rasteriser: flat polygons in, the surface seen at every sample out.

Polygons are drawn on a grid of 2 x 2 samples a pixel with a depth test. Only the number of the nearest surface and its
inverse depth are kept. Light comes afterwards (pipeline/world/light.py), once a pixel and surface.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

SAMPLES = 2  # along a side of a pixel
NEAR_M = 0.25


class Camera(NamedTuple):
    """A pinhole. Rows of `axes_33` are the camera's right, down and forward axes in the world."""

    position_3: np.ndarray
    axes_33: np.ndarray
    focal: float  # pixels
    centre_x: float
    centre_y: float
    width: int
    height: int


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


@njit(cache=True)
def rasterise(vertices_M3, start_P, owner_P, bias_P, num_owners, focal, centre_x, centre_y, height, width):
    """Draw polygons given in camera space (right, down, forward) with a depth test.

    Returns the surface seen at every sample (HsWs int32), its inverse depth and the normals in camera space. Also, for
    every object, the samples it would cover alone. A polygon's inverse depth is linear over the picture: with the plane
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
