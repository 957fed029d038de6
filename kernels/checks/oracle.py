"""What `kernels.bench` asks of a result before it prints a time for it.

The expected pixels are those of `imagecorruptions` (the masks of the weather: of its formula) given the very random
numbers that `kernels.corrupt(image, ..., seed=0)` draws; so a wrong pixel shows, not only a wrong mean. Of shot noise,
which draws in another way, the law of what it adds is compared.
"""

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from numba import njit
from torch.nn import functional

import kernels
from kernels import dropin, rng, severity
from kernels.corruptions import elastic, fog, glass, motion, spatter
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import resize
from kernels.launch import table as parameters
from kernels.launch.pool import Pool
from kernels.task import Task


@njit
def random_words(key0, key1, stage, height, values):
    words = np.empty((height, values), np.uint32)
    for y in range(height):
        for i in range(values):
            words[y, i] = rng.bits(key0, key1, stage, y, i)
    return words


@njit
def normals(words):
    numbers = np.empty(words.shape, np.float64)
    for y in range(words.shape[0]):
        for i in range(words.shape[1]):
            numbers[y, i] = rng.normal(words[y, i])
    return numbers


@njit
def walk(height, width, image, numbers, keys):
    """The loop of the reference's glass_blur, one pixel after the other, with our offsets."""
    _, reach, passes = numbers
    for turn in range(passes):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                dy, dx = glass.offsets(keys[0], keys[1], turn, y, x, reach)
                image[y, x] = image[y + dy, x + dx]
    return image


def expected_pixels(name: str, image: np.ndarray, level: int) -> np.ndarray:
    """What the reference makes of the image given the draws of seed 0 (of shot_noise: a draw of its own)."""
    import imagecorruptions.corruptions as reference

    height, width, _ = image.shape
    table = parameters.single_table(name, level, height, width, int(rng.image_key(0, 0, 0)))
    row = table.rows_B[0]
    keys = row["key0"], row["key1"]
    if name in NEED_MASK:
        return under_mask(name, image, level, row, dropin.pool_for(name, level, height, width))
    given: list = []
    if name in ("gaussian_noise", "speckle_noise"):
        field = normals(random_words(*keys, rng.NOISE, height, 3 * width)).reshape(image.shape)
        given.append(mock.patch.object(np.random, "normal", lambda size, scale: scale * field))
    elif name == "impulse_noise":
        words = random_words(*keys, rng.NOISE, height, 3 * width).reshape(image.shape)
        # Ours draws 23 bits and compares them with a share cut to as many: the upper end of what a draw stands for.
        draws = iter([((words >> 9) + 0.999) / 2.0**23, np.where(words & 1, 0.0, 1.0)])
        generator = SimpleNamespace(random=lambda _shape: next(draws))
        given.append(mock.patch.object(np.random, "default_rng", return_value=generator))
    elif name == "motion_blur":
        angle = motion.angle_of(int(row["key1"]) << 32 | int(row["key0"]))
        given.append(mock.patch.object(np.random, "uniform", return_value=angle))
    elif name == "glass_blur":
        given.append(
            mock.patch.object(
                reference,
                "_shuffle_pixels_njit_glass_blur",
                lambda height, width, image, numbers, _seed: walk(height, width, image, numbers, keys),
            )
        )
    elif name == "elastic_transform":
        fields = np.zeros((height, 3 * width), np.float32)
        task = Task(fields, fields, fields, fields, fields, row, fields, fields, fields, fields, 0, 0)
        elastic.noise(task, 0, height, 0, width)
        halves = iter([fields[:, width : 2 * width], fields[:, :width]])  # the reference draws the x field first
        given.append(mock.patch.object(np.random, "uniform", lambda low, high, size: high * next(halves)))
    from PIL import Image

    with ExitStack() as stack:
        for patch in given:
            stack.enter_context(patch)
        return np.asarray(getattr(reference, name)(Image.fromarray(image), level)).astype(np.uint8)


def under_mask(name: str, image: np.ndarray, level: int, row: np.void, pool: Pool) -> np.ndarray:
    """The formula of the type (see its file) with the mask that the image draws from the pool."""
    height, width, _ = image.shape
    rows_1 = np.array([row])
    pool.place(rows_1)
    row = rows_1[0]
    y, x = np.arange(height)[:, None], np.arange(width)
    places = row["mask_start"] + y * row["mask_step_y"] + x * row["mask_step_x"]
    pixels, numbers = image.astype(float), severity.TABLES[name][level - 1]
    mask_HW1 = pool.values_M[places].astype(float)[..., None]
    if name == "fog":
        thickness, top = numbers[0], image.max() / 255
        out = (pixels + 255 * thickness * mask_HW1 / fog.UNIT) * top / (top + thickness)
    elif name == "frost":
        texture = np.stack([pool.values_M[places + channel] for channel in range(3)], axis=2)
        out = numbers[0] * pixels + numbers[1] * texture
    elif name == "snow":
        keep, gray = numbers[6], pixels @ [0.299, 0.587, 0.114]
        white = np.maximum(pixels, 1.5 * gray[..., None] + 127.5)
        out = keep * pixels + (1 - keep) * white + mask_HW1 + mask_HW1[::-1, ::-1]
    else:
        mask_HW1 /= spatter.UNIT
        mud = spatter.is_mud(level)
        out = pixels * (1 - mask_HW1 * mud) + mask_HW1 * ((63, 42, 20) if mud else (175, 238, 238))
    return np.clip(out, 0, 255).astype(np.uint8)


def problem(name: str, image: np.ndarray, ours: Callable[[int], np.ndarray]) -> str | None:
    """What is wrong with our result (of seed 0) at one of the severities, if anything."""
    for level in severity.SEVERITIES:
        got = ours(level)
        if got.shape != image.shape or got.dtype != np.uint8:
            return f"severity {level}: {got.dtype} {got.shape}"
        expected = expected_pixels(name, image, level)
        if name == "shot_noise":
            wrong = unlike(got.astype(float) - image, expected.astype(float) - image)
        else:
            # At severity 4 the reference's weights sum to a little less than 1 in double precision: it truncates plain
            # white to 254 before it shuffles. Ours stays 255, and the two blurs make that 2 levels beside an edge.
            share = 0.005 if name == "glass_blur" and level == 4 else 0.001
            wrong = apart(got, expected, name == "jpeg_compression", share)
        if wrong:
            return f"severity {level}: {wrong}"
    return None


def apart(got: np.ndarray, expected: np.ndarray, is_jpeg: bool, share: float) -> str | None:
    """More than 2 levels anywhere, or more than 1 in too large a share; of jpeg more than 8, or 0.5 in the mean."""
    error = np.abs(got.astype(int) - expected.astype(int))
    if is_jpeg and (error.max() > 8 or error.mean() > 0.5):
        return f"off by {error.max()} levels, {error.mean():.2f} in the mean"
    if not is_jpeg and (error.max() > 2 or (error > 1).mean() > share):
        return f"off by {error.max()} levels, {(error > 1).mean():.2%} by more than one"
    return None


def unlike(added: np.ndarray, expected: np.ndarray) -> str | None:
    """What was added to an image against what the reference adds: mean and deviation."""
    slack = 5 * expected.std() * np.sqrt(2 / expected.size)
    if abs(added.mean() - expected.mean()) > slack or abs(added.std() / expected.std() - 1) > 0.02:
        means = f"mean {added.mean():.2f} for {expected.mean():.2f}"
        return f"what is added has {means}, deviation {added.std():.2f} for {expected.std():.2f}"
    return None


def differs_from_cpu(name: str, image: np.ndarray, ours: Callable[[int], np.ndarray]) -> str | None:
    for level in severity.SEVERITIES:
        error = np.abs(ours(level).astype(int) - kernels.corrupt(image, level, name).astype(int)).max()
        if error > 1:
            return f"severity {level}: off by {error} levels from the CPU's pixels"
    return None


def levels_of(images_3HW: torch.Tensor) -> torch.Tensor:
    """Normalised pixels as levels of 255."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (resize.MEAN, resize.DEVIATION))
    return (images_3HW.float().cpu() * deviation + mean) * 255


def view_problem(batch, views, corrupted_HW3: np.ndarray) -> str | None:
    """What is wrong with the first image's views, if anything; corrupted_HW3: that image as it was corrupted."""
    height, width = batch.sizes_B2[0].tolist()
    small = tuple(views.corrupted.sizes_B2[0].tolist())
    clean = batch.images_BHW3[0, :height, :width].cpu().permute(2, 0, 1).float()
    source = torch.from_numpy(corrupted_HW3).permute(2, 0, 1)[None].float()
    student = functional.interpolate(source, small, mode="bilinear", antialias=True)[0]
    # bfloat16 has 8 bits: up to a level where values are largest. A GPU's pixels may be a level off the CPU's.
    slack = 0.1 if views.corrupted.images_B3HW.dtype == torch.float32 else 2.5
    for name, view, expected in (("clean", views.clean, clean), ("corrupted", views.corrupted, student)):
        got = levels_of(view.images_B3HW[0, :, : expected.shape[1], : expected.shape[2]])
        error = min((got - turned).abs().max().item() for turned in (expected, expected.flip(2)))
        if not error <= slack:
            return f"the {name}'s view is off by {error:.1f} levels"
    return None
