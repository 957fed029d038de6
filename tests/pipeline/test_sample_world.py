"""The sample world: its layout, its boxes, its weather, and that it is the same every time."""

import hashlib
import subprocess
import sys
import xml.dom.minidom
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import sample_world
from pipeline.sample_world import SampleWorld, make_sample_world, parse_size
from pipeline.world.light import SEED, make_noise, shade
from pipeline.world.picture import draw_picture, find_objects
from pipeline.world.raster import make_camera, rasterise, to_camera
from pipeline.world.scene import Scene, flatten
from pipeline.world.shape import LAMP, MATTE, PAVEMENT, ROAD, Shape
from pipeline.world.traffic import CLASSES
from pipeline.world.weather import DOMAINS, clear_day, draw_weather, foggy_day, make_light, mirror_road

SMALL = SampleWorld(train=3, test=2, target=2, size="160x96", workers=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world")
    make_sample_world(replace(SMALL, out=out), quiet=True)
    return out


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_voc(path: Path) -> tuple[tuple[int, int], list[tuple[str, list[int], int]]]:
    """An annotation by another parser than its writer's: ((width, height), [(class, corners, difficult)])."""
    document = xml.dom.minidom.parse(str(path))

    def text(node, tag: str) -> str:
        (element,) = node.getElementsByTagName(tag)
        return element.firstChild.data

    found = []
    for node in document.getElementsByTagName("object"):
        corners = [int(text(node, tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
        found.append((text(node, "name"), corners, int(text(node, "difficult"))))
    return (int(text(document, "width")), int(text(document, "height"))), found


def test_layout_is_the_benchmarks(world):
    assert sorted(path.name for path in world.iterdir() if path.is_dir()) == sorted(DOMAINS)
    for domain in DOMAINS:
        folder = world / domain / "VOC2007"
        lists = {path.name: path.read_text().split() for path in (folder / "ImageSets/Main").iterdir()}
        counts = {name: len(names) for name, names in lists.items()}
        assert counts == ({"train.txt": 3, "test.txt": 2} if domain == "daytime_clear" else {"train.txt": 2})
        names = [name for listed in lists.values() for name in listed]
        assert sorted(path.stem for path in (folder / "JPEGImages").iterdir()) == sorted(names)
        assert sorted(path.stem for path in (folder / "Annotations").iterdir()) == sorted(names)
        for name in names:
            with Image.open(folder / "JPEGImages" / f"{name}.jpg") as image:
                assert (image.size, image.mode, image.format) == ((160, 96), "RGB", "JPEG")
            size, objects = read_voc(folder / "Annotations" / f"{name}.xml")
            assert size == (160, 96)
            for label, (x1, y1, x2, y2), difficult in objects:
                assert label in CLASSES
                assert 1 <= x1 <= x2 <= 160
                assert 1 <= y1 <= y2 <= 96
                assert difficult in (0, 1)


def test_written_boxes_are_one_based_with_both_corners_inside(world):
    picture = draw_picture("dusk_rainy", "train", 1, 160, 96, 0)
    _, objects = read_voc(world / "dusk_rainy/VOC2007/Annotations/dusk_rainy_train_000001.xml")
    assert len(objects) == len(picture.objects) > 0
    for (label, corners, difficult), item in zip(objects, picture.objects, strict=True):
        x1, y1, x2, y2 = item.box
        assert (label, corners, difficult) == (item.name, [x1 + 1, y1 + 1, x2, y2], int(item.difficult))


@pytest.mark.parametrize("domain", DOMAINS)
def test_boxes_are_tight_to_the_visible_pixels(domain):
    picture = draw_picture(domain, "train", 5, 333, 187, 3)
    assert picture.image_HW3.shape == (187, 333, 3)
    assert len(picture.objects) >= 3
    for item in picture.objects:
        x1, y1, x2, y2 = item.box
        mask = picture.owner_HW == item.number
        assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0, "pixels outside the box"
        for edge in (mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]):
            assert edge.any(), "a side of the box touches no pixel of the object"
        assert picture.names[item.number] == item.name


def test_every_unlabelled_object_can_hardly_be_seen():
    hidden = 0
    for number in range(6):
        picture = draw_picture("daytime_clear", "train", number, 320, 180, 1)
        labelled = {item.number for item in picture.objects}
        for index in set(range(len(picture.names))) - labelled:
            pixels = int((picture.owner_HW == index).sum())
            assert pixels < 6 or pixels * 4 < 0.08 * picture.alone_N[index]
            hidden += 1
    assert hidden > 0, "no object was ever hidden: the test looked at nothing"


@pytest.mark.parametrize("size", [(64, 64), (187, 333), (333, 187), (641, 65)])
def test_odd_sizes(size):
    width, height = size
    picture = draw_picture("night_rainy", "train", 0, width, height, 0)
    assert picture.image_HW3.shape == (height, width, 3)
    assert picture.owner_HW.shape == (height, width)
    assert picture.image_HW3.std() > 1


@pytest.mark.long
def test_same_bytes_whatever_the_workers(world, tmp_path):
    make_sample_world(replace(SMALL, out=tmp_path, workers=2), quiet=True)
    assert digests(tmp_path) == digests(world)


def test_other_seed_split_domain_and_number_give_other_scenes():
    def scene(domain="daytime_clear", split="train", number=0, seed=0):
        return draw_picture(domain, split, number, 96, 64, seed).owner_HW.tobytes()

    scenes = [scene(), scene(seed=1), scene(split="test"), scene(number=1), *(scene(domain) for domain in DOMAINS[1:])]
    assert len(set(scenes)) == len(scenes)


def test_all_classes_in_every_domain():
    for domain in DOMAINS:
        seen: set[str] = set()
        for number in range(40):
            seen |= {item.name for item in draw_picture(domain, "train", number, 160, 90, 0).objects}
            if seen == set(CLASSES):
                break
        assert seen == set(CLASSES), domain


def test_riders_sit_on_a_bike_or_a_motor():
    riders = 0
    for number in range(8):
        picture = draw_picture("daytime_clear", "train", number, 320, 180, 2)
        for item in picture.objects:
            if item.name == "rider":
                assert picture.names[item.number - 1] in ("bike", "motor")
                riders += 1
    assert riders > 0


def test_interrupted_run_continues(world, tmp_path, monkeypatch):
    drawn = []

    def stop_after_four(task):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(task)
        write_picture(task)

    write_picture = sample_world.write_picture
    monkeypatch.setattr(sample_world, "write_picture", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        make_sample_world(replace(SMALL, out=tmp_path), quiet=True)
    assert len(list(tmp_path.rglob("*.xml"))) == 4
    assert not list(tmp_path.rglob("*.txt")), "a list was written before its pictures"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    first_annotation = min(tmp_path.rglob("*.xml"))
    first_annotation.unlink()  # as if the interrupt had come between picture and annotation

    drawn.clear()
    monkeypatch.setattr(sample_world, "write_picture", lambda task: (drawn.append(task), write_picture(task)))
    make_sample_world(replace(SMALL, out=tmp_path), quiet=True)
    assert len(drawn) == 13 - 3
    again = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert again == {path for path in kept if path.stem == first_annotation.stem}
    assert digests(tmp_path) == digests(world)


def test_a_finished_world_grows_and_draws_nothing_twice(tmp_path, monkeypatch):
    config = SampleWorld(out=tmp_path, train=1, test=0, target=0, size="64x64", workers=1)
    make_sample_world(config, quiet=True)
    before = digests(tmp_path)
    drawn = []
    write_picture = sample_world.write_picture
    monkeypatch.setattr(sample_world, "write_picture", lambda task: (drawn.append(task), write_picture(task)))
    make_sample_world(config, quiet=True)
    assert (drawn, digests(tmp_path)) == ([], before)
    make_sample_world(replace(config, train=2), quiet=True)
    assert len(drawn) == 1
    assert (tmp_path / "daytime_clear/VOC2007/ImageSets/Main/train.txt").read_text().count("\n") == 2


def test_refuses_to_mix_worlds(tmp_path):
    config = SampleWorld(out=tmp_path, train=1, test=0, target=0, size="64x64", workers=1)
    make_sample_world(config, quiet=True)
    with pytest.raises(ValueError, match=r"seed 0 \(now 1\)"):
        make_sample_world(replace(config, seed=1), quiet=True)
    with pytest.raises(ValueError, match=r"width 64 \(now 80\)"):
        make_sample_world(replace(config, size="80x64"), quiet=True)
    (tmp_path / "world.json").write_text("7")
    with pytest.raises(ValueError, match=r"world\.json: it is '7', not an object; remove"):
        make_sample_world(config, quiet=True)
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(ValueError, match=r"world\.json is not JSON"):
        make_sample_world(config, quiet=True)


@pytest.mark.parametrize("text", ["640", "640x", "0x0", "63x64", "64x4097", "64x64x3", "-64x64", "a x b"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match="--size"):
        parse_size(text)


@pytest.mark.parametrize("change", [{"train": -1}, {"seed": -1}, {"workers": 0}])
def test_bad_numbers(change, tmp_path):
    (option,) = change
    with pytest.raises(ValueError, match=f"--{option}: got {change[option]}"):
        make_sample_world(replace(SMALL, out=tmp_path / "world", **change), quiet=True)
    assert not (tmp_path / "world").exists()


def test_command_line(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pipeline.sample_world", "--out", str(tmp_path / "world"), "--workers", "1"]
    counts = ["--train", "1", "--test", "1", "--target", "0", "--size", "64x64"]
    done = subprocess.run([*command, *counts], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 pictures" in done.stdout
    wrong = subprocess.run([*command, "--size", "wide"], cwd=root, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "error: --size: got 'wide', expected WIDTHxHEIGHT in pixels, for example 640x360"


def test_weather_owes_nothing_to_the_corruptions():
    """The targets must not be drawn with what students train on."""
    code = 'import sys, pipeline.sample_world; print({name.split(".")[0] for name in sys.modules})'
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert "'pipeline'" in done.stdout
    assert "'kernels'" not in done.stdout
    assert "'imagecorruptions'" not in done.stdout


# The parts, on scenes small enough to work out by hand.


def level_camera(height_m: float = 0.0):
    """Focal length 20 pixels, 40 x 30 pixels, looking along z: a metre at 10 m is 2 pixels."""
    return make_camera((0.0, height_m, 0.0), 0.0, 0.0, 0.0, 20.0, 40, 30)


def draw(camera, squares, samples: int = 1):
    """Rasterise upright squares (x0, x1, y0, y1, z, owner) in world space."""
    points = [(x, y, z) for x0, x1, y0, y1, z, _ in squares for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    owners = np.array([square[5] for square in squares], np.int32)
    return rasterise(
        to_camera(camera, np.array(points, float)), np.arange(len(squares) + 1, dtype=np.int64) * 4, owners,
        np.zeros(len(squares)), int(max(owners.max(), 0)) + 1, camera.focal * samples, camera.centre_x * samples,
        camera.centre_y * samples, camera.height * samples, camera.width * samples,
    )  # fmt: skip


def test_camera_axes():
    camera = make_camera((1.0, 2.0, 3.0), 0.0, 0.0, 0.0, 20.0, 40, 30)
    np.testing.assert_allclose(to_camera(camera, np.array([[2.0, 5.0, 7.0]])), [[1.0, -3.0, 4.0]], atol=1e-12)
    right = make_camera((0.0, 0.0, 0.0), np.pi / 2, 0.0, 0.0, 20.0, 40, 30)  # a yaw of 90 degrees looks along x
    np.testing.assert_allclose(to_camera(right, np.array([[5.0, 0.0, 0.0]])), [[0.0, 0.0, 5.0]], atol=1e-12)
    up = make_camera((0.0, 0.0, 0.0), 0.0, np.pi / 2, 0.0, 20.0, 40, 30)
    np.testing.assert_allclose(to_camera(up, np.array([[0.0, 5.0, 0.0]])), [[0.0, 0.0, 5.0]], atol=1e-12)
    for camera in (right, up, make_camera((0, 0, 0), 0.3, -0.2, 0.1, 20.0, 40, 30)):
        np.testing.assert_allclose(camera.axes_33 @ camera.axes_33.T, np.eye(3), atol=1e-12)


def test_a_square_covers_its_pixels_and_has_its_depth():
    surface, inverse_depth, normal, alone = draw(level_camera(), [(-2, 3, -1, 4, 10.0, 0)])
    # columns 20 + 2 x = 16..26, rows 15 - 2 y = 7..17
    expected = np.full((30, 40), -1)
    expected[7:17, 16:26] = 0
    np.testing.assert_array_equal(surface, expected)
    np.testing.assert_allclose(inverse_depth[expected == 0], 0.1, rtol=1e-6)
    assert (inverse_depth[expected < 0] == 0).all()
    np.testing.assert_allclose(normal[0], [0, 0, -1], atol=1e-6)
    assert alone[0] == 100


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_square_hides_the_farther_in_any_order(order):
    squares = [(-2, 2, -2, 2, 10.0, 0), (0, 4, -4, 4, 20.0, 1)]
    surface, _, _, alone = draw(level_camera(), [squares[i] for i in order])
    owner = np.where(surface >= 0, np.array([squares[i][5] for i in order])[surface], -1)
    assert (owner == 0).sum() == 64
    assert (owner == 1).sum() == 4 * 8 - 4 * 8  # columns 20..23 and rows 11..18 lie inside the nearer one
    assert alone.tolist() == [64, 32]


def test_polygons_behind_and_across_the_camera_are_clipped():
    camera = level_camera(1.0)
    surface, *_ = draw(camera, [(-5, 5, 0, 2, -3.0, 0)])
    assert (surface == -1).all()
    # A floor from behind the camera to the horizon fills the lower half.
    floor = to_camera(camera, np.array([(-500, 0, -10), (500, 0, -10), (500, 0, 1e5), (-500, 0, 1e5)], float))
    surface, inverse_depth, *_ = rasterise(
        floor, np.array([0, 4]), np.array([-1], np.int32), np.zeros(1), 1, 20.0, 20.0, 15.0, 30, 40
    )
    assert (surface[:15] == -1).all()
    assert (surface[15:] == 0).all()
    np.testing.assert_allclose(inverse_depth[20], (20.5 - 15) / 20.0, rtol=1e-5)  # z = f H / (row - horizon)


def test_objects_hidden_or_nearly_hidden_are_dropped():
    owner = np.full((20, 30), -1, np.int16)
    owner[2:12, 3:13] = 0  # in full view
    owner[0:6, 20] = 2  # six pixels of a thin one, at the upper border
    owner[10:12, 20:23] = 3  # six pixels of a big one: too little of it
    owner[15:20, 20:30] = 4  # a sixth of a big one, difficult, cut off by two borders
    owner[14:20, 0:10] = 5  # lost in the fog
    clear = np.ones((20, 30))
    clear[14:20, 0:10] = 0.04
    alone = np.array([400, 300, 24, 600, 1200, 240])
    objects = find_objects(owner, clear, alone, ["car", "bus", "person", "truck", "bus", "car"])
    assert [(o.name, o.box, o.truncated, o.difficult, o.number) for o in objects] == [
        ("car", (3, 2, 13, 12), False, False, 0),
        ("person", (20, 0, 21, 6), True, False, 2),
        ("bus", (20, 15, 30, 20), True, True, 4),
    ]
    assert find_objects(np.full((3, 3), -1, np.int16), np.ones((3, 3)), np.zeros(1, np.int64), []) == []


def lit(squares, extinction: float, airlight=(0.5, 0.6, 0.7), colour=(0.2, 0.1, 0.05)):
    """Shade white-lit matte squares in the fog."""
    camera = level_camera()
    surface, inverse_depth, normal, _ = draw(camera, squares, samples=2)
    weather = draw_weather("daytime_foggy", np.random.default_rng(0))
    values, _, _ = foggy_day(weather, np.random.default_rng(0))
    light, _, _ = make_light(weather, Scene(camera, 0.0), np.random.default_rng(0))
    assert values["extinction"] > 0
    light = light._replace(
        extinction=extinction, airlight=airlight, ambient_sky=(1.0, 1.0, 1.0), ambient_ground=(1.0, 1.0, 1.0)
    )
    table = np.zeros((len(squares), SEED + 1))
    table[:, 0:3], table[:, 3:6], table[:, 9] = normal @ camera.axes_33, colour, MATTE
    owners = np.array([square[5] for square in squares], np.int32)
    ground_map = np.full((4, 4, 2), 255, np.uint8)
    return shade(surface, inverse_depth, table, owners, camera, light, np.zeros((0, 11)), ground_map, make_noise())


def test_fog_follows_koschmieder():
    """Colour = own * exp(-extinction d) + airlight * (1 - exp(-extinction d))."""
    image, depth, owner, _ = lit([(-2, 2, -2, 2, 10.0, 0), (-100, 100, -100, 100, 80.0, 1)], extinction=0.03)
    assert depth[15, 20] == pytest.approx(10, rel=1e-5)
    assert (owner[15, 20], owner[2, 2]) == (0, 1)
    for row, column, z in ((15, 20, 10.0), (2, 2, 80.0)):
        x, y = (column + 0.5 - 20) / 20, (row + 0.5 - 15) / 20
        through = np.exp(-0.03 * z * np.sqrt(1 + x * x + y * y))
        expected = np.array([0.2, 0.1, 0.05]) * through + np.array([0.5, 0.6, 0.7]) * (1 - through)
        np.testing.assert_allclose(image[row, column], expected, rtol=1e-4)


def test_edges_are_averaged_over_the_samples():
    image, _, owner, _ = lit([(-2, 2.25, -2, 2, 10.0, 0), (-2000, 2000, -2000, 2000, 1000.0, 1)], extinction=0.0)
    edge = image[15, 24]  # the square ends at column 24.5: half its samples
    np.testing.assert_allclose(edge, image[15, 23], rtol=1e-4)  # both are lit alike, so nothing changes ...
    assert owner[15, 24] == 0  # ... and half is enough for the object to have the pixel
    assert owner[15, 25] == 1


def test_wet_road_mirrors_a_lamp_at_its_mirrored_row():
    """A lamp of height h at depth z is mirrored where a lamp at -h would be: row = horizon + f (H + h) / z."""
    camera = make_camera((0.0, 1.5, 0.0), 0.0, 0.0, 0.0, 200.0, 320, 180)
    scene = Scene(camera, 0.0)
    scene.flat([(-50, 0, 1), (50, 0, 1), (50, 0, 400), (-50, 0, 400)], (0.1, 0.1, 0.1), ROAD)
    board = Shape()
    board.front(0.0, (-1.0, 1.0), (1.8, 2.2), (0.5, 0.5, 0.5), LAMP, (9.0, 9.0, 9.0))
    scene.add(board, (0.0, 0.0, 20.0), 0.0)
    vertices, starts, rows, owners = flatten(scene)
    surface, inverse_depth, normal, _ = rasterise(
        vertices, starts, owners, rows[:, 7].copy(), 0, 400.0, 320.0, 180.0, 360, 640
    )  # fmt: skip
    values, _, _ = clear_day(draw_weather("daytime_clear", np.random.default_rng(0)), np.random.default_rng(0))
    assert values["lights_on"] == 1.0
    light, lamps, _ = make_light(
        draw_weather("daytime_clear", np.random.default_rng(0)), scene, np.random.default_rng(0)
    )
    table = np.concatenate([normal @ camera.axes_33, rows[:, 1:7], rows[:, 0:1], rows[:, 8:9]], axis=1)
    noise = np.full((512, 512), 0.5, np.float32)  # no ripples
    ground_map = np.full((4, 4, 2), 255, np.uint8)
    image, depth, _, ground = shade(surface, inverse_depth, table, owners, camera, light, lamps, ground_map, noise)
    mirrored = mirror_road(image * (image > 4), depth, ground, camera, noise, 1.0)
    bright = np.nonzero(mirrored[:, 160, 0] > 0)[0]
    low, high = 90 + 200 * (1.5 + 1.8) / 20, 90 + 200 * (1.5 + 2.2) / 20  # 123 and 127
    # The search takes surfaces to be a fifth of their distance thick, which draws the mirror image out a little.
    assert low - 7 <= bright.min() <= low
    assert high - 2 <= bright.max() <= high + 1
    assert (np.diff(bright) == 1).all()
    columns = np.nonzero(mirrored.max(axis=(0, 2)) > 0)[0]
    assert columns.min() == pytest.approx(160 - 10, abs=2)  # one metre at 20 m is ten pixels
    assert columns.max() == pytest.approx(160 + 10, abs=2)


def test_weathers_look_as_they_are_called():
    """Medians over a few pictures, in 8-bit values: nights are dark, fog takes the contrast of what is far."""
    brightness, far_contrast = {}, {}
    for domain in DOMAINS:
        pictures = [draw_picture(domain, "train", number, 160, 90, 0).image_HW3.astype(float) for number in range(5)]
        brightness[domain] = np.median([np.median(picture) for picture in pictures])
        far_contrast[domain] = np.mean([picture[30:45].std() for picture in pictures])  # just above the horizon
    assert brightness["night_sunny"] < 0.5 * brightness["daytime_clear"]
    assert brightness["night_rainy"] < 0.6 * brightness["daytime_clear"]
    assert brightness["night_sunny"] < brightness["dusk_rainy"] < brightness["daytime_clear"]
    assert far_contrast["daytime_foggy"] < 0.5 * far_contrast["daytime_clear"]


def test_night_lamps_light_what_is_near_them():
    night = draw_weather("night_sunny", np.random.default_rng(1))
    scene = Scene(level_camera(1.5), 0.0)
    scene.lamps.append((0.0, 7.0, 20.0, 0.0, -1.0, 0.0, 1.0, 0.6, 0.3, 0.1, 19.0))
    light, lamps, _ = make_light(night, scene, np.random.default_rng(1))
    assert lamps.shape == (2, 11)  # the street lamp and our own head lights
    scene.flat([(-50, 0, 1), (50, 0, 1), (50, 0, 400), (-50, 0, 400)], (0.1, 0.1, 0.1), PAVEMENT)
    vertices, starts, rows, owners = flatten(scene)
    camera = scene.camera
    surface, inverse_depth, normal, _ = rasterise(
        vertices, starts, owners, rows[:, 7].copy(), 0, 40.0, 40.0, 30.0, 60, 80
    )
    table = np.concatenate([normal @ camera.axes_33, rows[:, 1:7], rows[:, 0:1], rows[:, 8:9]], axis=1)
    noise = np.full((512, 512), 0.5, np.float32)
    ground_map = np.full((4, 4, 2), 255, np.uint8)

    def under_lamp(kept) -> np.ndarray:
        image, depth, _, _ = shade(surface, inverse_depth, table, owners, camera, light, kept, ground_map, noise)
        assert depth[16, 20] == pytest.approx(20 * 1.5 / 1.75)  # the nearest of its samples
        return image[16, 20]

    with_lamp, without = under_lamp(lamps[:1]), under_lamp(lamps[:0])
    assert (with_lamp > 1.5 * without).all()
    assert with_lamp[0] - without[0] > with_lamp[2] - without[2]  # the lamp is warm


def test_only_some_domains_and_no_list_of_nothing(tmp_path):
    world = SampleWorld(tmp_path, train=0, test=1, target=1, size="96x64", workers=1)
    lists = make_sample_world(replace(world, domains=("daytime_clear", "night_rainy")), quiet=True)
    assert set(lists) == {"daytime_clear/test", "night_rainy/train"}
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.txt")}
    assert found == {"daytime_clear", "night_rainy"}
    assert not (tmp_path / "daytime_clear" / "VOC2007" / "ImageSets" / "Main" / "train.txt").exists()
    with pytest.raises(ValueError, match="--domains: got dawn, allowed are daytime_clear"):
        make_sample_world(replace(world, domains=("dawn",)), quiet=True)
