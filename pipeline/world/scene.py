"""The sample world's scene: models put down on a bending road, as one list of polygons with their owners.

The world is in metres: x right, y up, z along the road. The road bends as x = bend * z^2.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from pipeline.world.light import GROUND_CELL_M, GROUND_FAR_M, GROUND_NEAR_M, GROUND_X_M
from pipeline.world.raster import Camera, to_camera
from pipeline.world.shape import Shape

CAPSULE_ARC = 6  # points of each round end


def turn_matrix(heading: float) -> np.ndarray:
    """Rotation that turns a model from looking along the road to `heading` (radians, clockwise from above)."""
    sine, cosine = np.sin(heading), np.cos(heading)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


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

    def add(self, shape: Shape, position, heading: float, owner: int = -1, size: float = 1.0) -> None:
        """Turn a model to `heading` (0 looks along the road, away from the camera) and put it down."""
        turn = turn_matrix(heading).T * size
        points, counts, rows, capsules = shape.arrays
        a, b = capsules[:, 0:3] @ turn + position, capsules[:, 3:6] @ turn + position
        outlines = self._outline(a, b, size * capsules[:, 6], size * capsules[:, 7])
        self.points += [points @ turn + position, outlines.reshape(-1, 3)]
        self.counts += [counts, np.full(len(capsules), outlines.shape[1])]
        self.rows += [rows, np.concatenate([capsules[:, 8:16], np.zeros((len(capsules), 1))], axis=1)]
        self.owners.append(np.full(len(counts) + len(capsules), owner))

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
        turn = turn_matrix(heading)
        self.shadows.append(corners @ turn.T + position)


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
    return np.stack([cv2.GaussianBlur(sun, (0, 0), sun_blur), cv2.GaussianBlur(sky, (0, 0), 2.2)], axis=2)
