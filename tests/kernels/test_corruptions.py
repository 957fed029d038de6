"""The corruptions without a mask against `imagecorruptions`, on natural and degenerate pictures, every severity."""

from dataclasses import replace

import imagecorruptions
import numpy as np
import pytest
from scipy import stats
from skimage import data

import kernels
from kernels import dropin, rng, severity
from kernels.checks import oracle
from kernels.corruptions import glass, motion, noise
from kernels.corruptions.registry import BY_NAME, NEED_MASK
from kernels.launch import cpu
from kernels.launch import table as parameters

COMPARED = (
    *("contrast", "brightness", "saturate", "pixelate", "defocus_blur", "gaussian_blur", "zoom_blur"),
    *("gaussian_noise", "speckle_noise", "impulse_noise"),
    *("high_pass_filter", "phase_scaling"),
)
SEED = 3


@pytest.mark.parametrize("level", severity.SEVERITIES)
@pytest.mark.parametrize("name", COMPARED)
def test_the_references_pixels(name, level, pictures, assert_faithful):
    """Given the draws of one of our seeds, where the type draws anything."""
    for picture in pictures.values():
        expected = oracle.expected_pixels(name, picture, level, SEED)
        assert_faithful(name, kernels.corrupt(picture, level, name, seed=SEED), expected)


def test_zoom_layers_that_lose_their_last_pixel(assert_faithful):
    """At these sides scipy's rounding puts the last row or column of a layer outside the crop (zoom.py)."""
    for shape in ((36, 139), (78, 136), (71, 36)):
        picture = np.ascontiguousarray(data.astronaut()[: shape[0], 180 : 180 + shape[1]])
        for level in (3, 4, 5):
            expected = oracle.reference("zoom_blur", picture, level)
            assert_faithful("zoom_blur", kernels.corrupt(picture, level, "zoom_blur"), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("level", severity.SEVERITIES)
def test_motion_blur_at_its_angle(level, seed, pictures, assert_faithful):
    for picture in pictures.values():
        expected = oracle.expected_pixels("motion_blur", picture, level, seed)
        assert_faithful("motion_blur", kernels.corrupt(picture, level, "motion_blur", seed=seed), expected)


def test_motion_angles_are_uniform():
    angles = [motion.angle_of(int(rng.image_key(0, 0, sample))) for sample in range(500)]
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > 1e-3


@pytest.mark.parametrize("level", severity.SEVERITIES)
def test_shot_table_holds_the_law(level):
    """For each value, the probabilities of the table's levels are those of the reference's formula."""
    photons = severity.TABLES["shot_noise"][level - 1]
    table = noise.shot_table().reshape(5, 256, noise.SHOT_COLUMNS)[level - 1]
    for value in range(256):
        entries = table[value].astype(np.int64)
        keep = entries / 2**32  # how many words are below the entry, and take the first level
        ours = np.zeros(256)
        np.add.at(ours, entries & 0xFF, keep / noise.SHOT_COLUMNS)
        np.add.at(ours, entries >> 8 & 0xFF, (1 - keep) / noise.SHOT_COLUMNS)
        counts = np.arange(400)
        levels = np.uint8(np.clip(counts / float(photons), 0, 1) * 255)
        expected = np.bincount(levels, stats.poisson.pmf(counts, value / 255 * photons), minlength=256)
        assert np.abs(ours - expected).max() < 1e-5
        assert ours[expected < 1e-8].sum() < 1e-7  # what practically never happens
        assert value > 0 or ours[0] == 1


@pytest.mark.parametrize("level", severity.SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "impulse_noise", "shot_noise"])
def test_same_law_on_flat_patches(name, level):
    np.random.seed(0)
    options = {"seed": 0} if name == "impulse_noise" else {}  # the only one with a generator of its own
    for value in (40, 200):
        patch = np.full((192, 192, 3), value, np.uint8)
        ours = kernels.corrupt(patch, level, name, seed=value).astype(float)
        theirs = oracle.reference(name, patch, level, **options).astype(float)
        # The draws are fixed (our seed, the reference's), so this bound is met always or never.
        assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 1e-4
        deviation = theirs.std() + 1e-9
        assert abs(ours.mean() - theirs.mean()) < 5 * deviation * np.sqrt(2 / ours.size)
        assert abs(ours.std() / deviation - 1) < 0.05
        for quantile in () if name == "shot_noise" else (0.05, 0.5, 0.95):  # counts: quantiles jump
            assert abs(np.quantile(ours, quantile) - np.quantile(theirs, quantile)) <= max(0.1 * deviation, 1)
        ours -= ours.mean()
        for neighbour in (np.roll(ours, 1, axis=0), np.roll(ours, 1, axis=1), np.roll(ours, 1, axis=2)):
            assert abs((ours * neighbour).mean()) < 0.03 * max(ours.var(), 1e-9)


@pytest.mark.parametrize("level", severity.SEVERITIES)
def test_same_glass(level, pictures, assert_faithful):
    """The reference's own walk, one pixel after the other, with our offsets."""
    for name in ("least", "grey photograph", "one colour"):
        picture = pictures[name][:61]
        expected = oracle.expected_pixels("glass_blur", picture, level, SEED)
        ours = kernels.corrupt(picture, level, "glass_blur", seed=SEED)
        # Where the first blur lies on the edge between two levels, float32 and float64 truncate to different ones.
        assert_faithful("glass_blur", ours, expected)


def test_glass_offsets_are_uniform():
    key0, key1 = oracle.our_draws("glass_blur", (1, 1), int(rng.image_key(SEED, 0, 0)))
    for reach in (1, 2, 3, 4):
        pairs = np.array([glass.offsets(key0, key1, 0, y, x, reach) for y in range(60) for x in range(60)])
        assert pairs.min() == -reach
        assert pairs.max() == reach - 1
        index = (pairs[:, 0] + reach) * 2 * reach + pairs[:, 1] + reach
        assert stats.chisquare(np.bincount(index, minlength=4 * reach**2)).pvalue > 1e-4


@pytest.mark.parametrize("name", severity.ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 3), (5, 32)])
def test_tiny_images(name, shape):
    """Too small for the reference; ours must run, write every pixel and nothing beside them, and read no stale scratch:
    the scratch holds NaN, and the image is the middle of a canvas."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, 3 * width)).astype(np.uint8)
    for level in (1, 3, 5):
        table = parameters.single_table(name, level, height, width, int(rng.image_key(1, 0, 0)))
        pool_M = cpu.NO_POOL
        if name in NEED_MASK:
            pool = dropin.pool_for(name, level, height, width)
            pool.place(table.rows_B)
            pool_M = pool.values_M
        made = []
        for stale in (0, 255):
            workspace = cpu.Workspace(height + 2, width)
            workspace.planes[:], workspace.line[:] = np.nan, np.nan
            target = np.full((height + 2, 3 * width), stale, np.uint8)
            source = np.full((height + 2, 3 * width), stale, np.uint8)
            source[1:-1] = image
            cpu.corrupt_image(source[1:-1], target[1:-1], table.rows_B[0], table.extra_BE[0], pool_M, workspace)
            assert (target[[0, -1]] == stale).all()
            assert np.isnan(workspace.planes.reshape(2, height + 2, -1)[:, height:]).all()
            made.append(target[1:-1].reshape(height, width, 3))
        np.testing.assert_array_equal(made[0], made[1])
        np.testing.assert_array_equal(kernels.corrupt(image.reshape(height, width, 3), level, name, seed=1), made[0])


def test_seeds_differ_and_input_is_untouched(pictures):
    picture = pictures["cat, odd"]
    before = picture.copy()
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur"):
        assert (kernels.corrupt(picture, 3, name, seed=0) != kernels.corrupt(picture, 3, name, seed=1)).any()
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("name", severity.ALL)
def test_threads_share_the_rows(name, pictures, monkeypatch):
    """Split anywhere, even into more shares than there are rows of JPEG blocks, the pixels are the same."""
    monkeypatch.setattr(dropin, "BY_NAME", {name: replace(BY_NAME[name], shared_area=0)})
    asked = []
    monkeypatch.setattr(dropin, "_executor", lambda *key, real=dropin._executor: asked.append(key) or real(*key))
    for picture in (pictures["cat, odd"], pictures["least"][:9, :7]):
        expected = kernels.corrupt(picture, 4, name, seed=2)
        for threads in (2, 5):
            np.testing.assert_array_equal(kernels.corrupt(picture, 4, name, seed=2, threads=threads), expected)
    assert len(asked) == 4


def test_accepted_forms(pictures):
    picture = pictures["cat, odd"]
    expected = kernels.corrupt(picture, 2, "saturate")
    frozen = picture.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(kernels.corrupt(frozen, 2, "saturate"), expected)
    np.testing.assert_array_equal(kernels.corrupt(picture[::-1][::-1], 2, "saturate"), expected)
    np.testing.assert_array_equal(kernels.corrupt(picture, 2, corruption_number=18), expected)
    np.testing.assert_array_equal(kernels.corrupt(picture[:, ::-1], 2, "saturate"), expected[:, ::-1])
    grey = picture[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(kernels.corrupt(grey, 2, "contrast"), kernels.corrupt(three, 2, "contrast"))
    np.testing.assert_array_equal(
        kernels.corrupt(grey[..., None], 2, "contrast"), kernels.corrupt(three, 2, "contrast")
    )


@pytest.mark.parametrize(
    ("image", "options", "words_of_the_error"),
    [
        (np.zeros((4, 4, 3), np.float32), {}, "uint8"),
        (np.zeros((4, 4, 3), np.int64), {}, "uint8"),
        (np.zeros((0, 4, 3), np.uint8), {}, "empty"),
        (np.zeros((4, 4, 2), np.uint8), {}, "shape"),
        (np.zeros((4,), np.uint8), {}, "shape"),
        (np.zeros((1, 20000, 3), np.uint8), {}, "at most"),
        (np.broadcast_to(np.uint8(255), (4200, 4200, 3)), {}, "in all"),
        (np.zeros((4, 4, 3), np.uint8), {"threads": 0}, "threads"),
        ([[1, 2]], {}, "NumPy array or a torch tensor"),
        (np.zeros((4, 4, 3), np.uint8), {"severity": 0}, "severity"),
        (np.zeros((4, 4, 3), np.uint8), {"severity": 6}, "severity"),
        (np.zeros((4, 4, 3), np.uint8), {"severity": 1.5}, "severity"),
        (np.zeros((4, 4, 3), np.uint8), {"corruption_name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        (np.zeros((4, 4, 3), np.uint8), {"corruption_name": None}, "corruption_name"),
        (np.zeros((4, 4, 3), np.uint8), {"corruption_name": None, "corruption_number": 21}, "0 to 20"),
    ],
)
def test_bad_input(image, options, words_of_the_error):
    with pytest.raises(ValueError, match=words_of_the_error):
        kernels.corrupt(image, **({"corruption_name": "fog"} | options))


@pytest.mark.parametrize("subset", ["common", "validation", "all", "noise", "blur", "weather", "digital"])
def test_names_are_the_reference_s(subset):
    assert kernels.get_corruption_names(subset) == imagecorruptions.get_corruption_names(subset)


def test_training_names():
    names = kernels.get_corruption_names("training")
    assert len(names) == 15
    assert set(severity.IMAGENET_C) - set(names) == {"snow", "frost", "fog", "gaussian_blur"}
    assert kernels.get_corruption_names("own") == ["high_pass_filter", "phase_scaling"] == list(severity.ALL[19:])
    with pytest.raises(ValueError, match="unknown subset"):
        kernels.get_corruption_names("weathers")
