"""The sample world's other sensors: the physics of the gates, what they see that the camera does not, the files."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.integrate import quad

from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sample_world import SampleWorld, make_sample_world
from pipeline.sources.options import ReadOptions
from pipeline.world.gated import FAR_M, GATES_S4, LIDAR_RATIO, SLICES, STEP_M, back_scatter, gate
from pipeline.world.picture import draw_picture
from tests.pipeline.test_sample_world import digests

SMALL = SampleWorld(train=2, test=1, target=1, size="160x96", workers=1)


def test_back_scatter_is_the_integral_over_the_open_gate():
    extinction = 0.03
    table_SN = back_scatter(extinction)
    assert table_SN.shape == (3, FAR_M / STEP_M)
    for corners_4, row_N in zip(GATES_S4, table_SN, strict=True):
        for distance in (30.0, 65.0, 200.0):
            whole, _ = quad(
                lambda z, corners=corners_4: gate(np.array([z]), corners)[0] * np.exp(-2 * extinction * z) / z**2,
                1.0, distance, points=[c for c in corners_4 if c < distance], limit=200,
            )  # fmt: skip
            assert row_N[int(distance / STEP_M) - 1] == pytest.approx(whole * extinction / LIDAR_RATIO, rel=0.05)
    assert table_SN[0, -1] > 10 * table_SN[1, -1] > 100 * table_SN[2, -1]  # late gates leave the near air out


def contrast(image_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    """Of an object with what is around it, in deviations of both."""
    ring_HW = (cv2.dilate(mask_HW.astype(np.uint8), np.ones((9, 9))) > 0) & ~mask_HW
    inside, outside = image_HW[mask_HW], image_HW[ring_HW]
    return abs(inside.mean() - outside.mean()) / np.hypot(inside.std(), outside.std())


@pytest.mark.parametrize(("domain", "seen", "ahead"), [("night_sunny", 0.35, 3), ("night_rainy", 0.25, 2.5),
                                                       ("daytime_foggy", 0.08, 1.3)])  # fmt: skip
def test_at_night_and_in_fog_the_slices_see_what_the_camera_does_not(domain, seen, ahead):
    camera, slices = [], []
    for number in range(8):
        picture = draw_picture(domain, "train", number, 320, 180, 4, extra=True)
        for item in picture.objects:
            mask_HW = picture.owner_HW == item.number
            if mask_HW.sum() >= 40:
                camera.append(contrast(picture.image_HW3.mean(axis=2), mask_HW))
                slices.append(max(contrast(one_HW.astype(float), mask_HW) for one_HW in picture.sensors.slices_SHW))
    hidden_N = np.array(camera) < 0.5
    assert (hidden_N & (np.array(slices) > 1)).mean() > seen
    assert np.median(slices) > ahead * np.median(camera)


def test_depth_is_the_distance_in_centimetres_and_slices_follow_it():
    picture = draw_picture("night_sunny", "train", 0, 320, 180, 0, extra=True)
    depth_HW = picture.sensors.depth_HW / 100
    assert depth_HW[0].max() == 655.35  # sky
    below_HW = depth_HW[150:]  # road
    assert (np.diff(below_HW.min(axis=1)) <= 0).all()
    # What is nearer than a gate opens is as dark in its slice as what is not lit at all.
    near_HW = depth_HW < 12
    assert picture.sensors.slices_SHW[0][near_HW].mean() > 3 * picture.sensors.slices_SHW[2][near_HW].mean()


def test_the_picture_is_the_same_with_and_without(tmp_path):
    for domain in ("night_rainy", "daytime_foggy"):
        plain, with_extra = (draw_picture(domain, "train", 3, 161, 97, 2, extra) for extra in (False, True))
        assert plain.sensors is None
        assert np.array_equal(plain.image_HW3, with_extra.image_HW3)
        assert plain.objects == with_extra.objects
        assert with_extra.sensors.slices_SHW.shape == (3, 97, 161)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gated")
    make_sample_world(replace(SMALL, out=out, extra=True), quiet=True)
    return out


def test_the_option_adds_files_to_a_world_and_changes_none(world, tmp_path):
    make_sample_world(replace(SMALL, out=tmp_path), quiet=True)
    before = digests(tmp_path)
    assert not any("gated" in name for name in before)
    make_sample_world(replace(SMALL, out=tmp_path, extra=True, workers=2), quiet=True)
    after = digests(tmp_path)
    assert before.items() <= after.items()
    assert after == digests(world)
    added = {Path(name).parent.name for name in after.keys() - before.keys()}
    assert added == {*SLICES, "depth"}
    with Image.open(world / "night_rainy/VOC2007/gated1/night_rainy_train_000000.jpg") as image:
        assert (image.size, image.mode) == ((160, 96), "L")


def test_it_is_packed_as_the_benchmark_with_its_sensors(world, tmp_path):
    read = ReadOptions(extra=("gated=gated0,gated1,gated2 depth",), extra_range=("depth=0:10000",))
    made = pack(PackOptions(world, tmp_path / "packed", read=read, workers=1))
    assert len(made) == 6
    for path in made:
        with PackedDataset(path) as dataset:
            assert dataset.extra == {"gated": 3, "depth": 1}
            assert dataset.read_extra(0, "depth").max() == 255  # sky, and all beyond 100 m
