"""The reference's pixels: `imagecorruptions` given the random numbers that ours draws.

high_pass_filter and phase_scaling are not of that package. There it is DivAlign's formula in double precision.

The tests and `kernels.bench` ask this file and no other, so a wrong pixel shows, not only a wrong mean.

`reference` runs the package itself with numbers put in place of its draws. `expected_pixels` gives it those that
`kernels.corrupt(image, ..., seed=0)` draws. Weather masks are cut from a pool, so there it is the type's formula with
the pool's mask. Shot noise draws in another way: only the law of what it adds is compared.
"""

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
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
def normals(key0, key1, stage, height, values):
    numbers = np.empty((height, values), np.float64)
    for y in range(height):
        for i in range(values):
            numbers[y, i] = rng.normal(key0, key1, stage, y, i)
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


def draws_in_place(name: str, given: Any) -> dict[str, Any]:
    """What stands for which function of numpy.random (of glass_blur: for the reference's own loop).

    given, by type:
        gaussian_noise, speckle_noise   H x W x 3 standard normal numbers
        impulse_noise                   H x W x 3 numbers in 0..1, below the share where a value is hit; 1 where salt
        motion_blur                     the angle in degrees
        glass_blur                      both halves of our key, from which our offsets are drawn
        elastic_transform               2 x H x W numbers in -1..1: displacements in y, then in x
        snow                            H x W standard normal numbers, the angle in degrees
        spatter                         H x W standard normal numbers
        fog                             a function like numpy.random.uniform
        frost                           the number of a picture, and the place in it: top, left
    """
    if name in ("gaussian_noise", "speckle_noise"):
        return {"normal": lambda size, scale: scale * np.asarray(given, float)}
    if name in ("snow", "spatter"):
        normal_HW, angle = given if name == "snow" else (given, None)
        return {"normal": lambda size, loc, scale: loc + scale * normal_HW, "uniform": lambda low, high: angle}
    if name == "impulse_noise":
        draws = iter([given[0], np.where(given[1], 0.0, 1.0)])
        return {"default_rng": lambda _seed: SimpleNamespace(random=lambda _shape: next(draws))}
    if name == "motion_blur":
        return {"uniform": lambda low, high: given}
    if name == "elastic_transform":
        halves = iter([given[1], given[0]])  # the reference draws the x field first
        return {"uniform": lambda low, high, size: high * next(halves)}
    if name == "fog":
        return {"uniform": given}
    if name == "frost":
        places = iter(given)
        return {"randint": lambda *_: next(places)}
    if name == "glass_blur":
        return {"walk": lambda height, width, image, numbers, _seed: walk(height, width, image, numbers, given)}
    raise ValueError(f"oracle: {name} takes no random numbers from outside; leave them out")


def reference(name: str, image: np.ndarray, level: int, given: Any = None, **options: Any) -> np.ndarray:
    """The pixels of `imagecorruptions` given the random numbers of `draws_in_place`; without any it draws its own.

    options: further arguments of the package's function.
    """
    import imagecorruptions.corruptions as package
    from PIL import Image

    if not hasattr(package, name):
        raise ValueError(f"oracle: imagecorruptions has no {name}; compare it with values computed by hand")
    with ExitStack() as stack:
        for function, replaced in ({} if given is None else draws_in_place(name, given)).items():
            owner, function = (package, WALK) if function == "walk" else (np.random, function)
            stack.enter_context(mock.patch.object(owner, function, replaced))
        return np.asarray(getattr(package, name)(Image.fromarray(image), level, **options)).astype(np.uint8)


WALK = "_shuffle_pixels_njit_glass_blur"


def our_draws(name: str, shape: tuple[int, ...], key: int) -> Any:
    """What our corruption draws for an image with this key, as `reference` takes it; None where nothing is random."""
    height, width = shape[:2]
    halves = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    if name in ("gaussian_noise", "speckle_noise"):
        return normals(*halves, rng.NOISE, height, 3 * width).reshape(height, width, 3)
    if name == "impulse_noise":
        words = random_words(*halves, rng.NOISE, height, 3 * width).reshape(height, width, 3)
        # Ours draws 23 bits and compares them with a share cut to as many: the upper end of what a draw stands for.
        return ((words >> 9) + 0.999) / 2.0**23, words & 1
    if name == "motion_blur":
        return motion.angle_of(key)
    if name == "glass_blur":
        return halves
    if name == "elastic_transform":
        row = parameters.single_table(name, 1, height, width, key).rows_B[0]
        fields = np.zeros((height, 3 * width), np.float32)
        task = Task(fields, fields, fields, fields, fields, row, fields, fields, fields, fields, 0, 0)
        elastic.noise(task, 0, height, 0, width)
        return np.stack([fields[:, :width], fields[:, width : 2 * width]])
    return None


def expected_pixels(name: str, image: np.ndarray, level: int, seed: int = 0) -> np.ndarray:
    """What the reference makes of the image given the draws of our seed (of shot_noise: a draw of its own)."""
    key = int(rng.image_key(seed, 0, 0))
    if name in ("high_pass_filter", "phase_scaling"):
        return np.clip(spectral(name, image, level), 0, 255).astype(np.uint8)
    if name in NEED_MASK:
        height, width, _ = image.shape
        row = parameters.single_table(name, level, height, width, key).rows_B[0]
        return under_mask(name, image, level, row, dropin.pool_for(name, level, height, width))
    return reference(name, image, level, our_draws(name, image.shape, key))


def spectral(name: str, image: np.ndarray, level: int) -> np.ndarray:
    """What DivAlign's code makes of an image before it casts to uint8."""
    height, width, _ = image.shape
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(float), axes=(0, 1)), axes=(0, 1))
    if name == "high_pass_filter":
        y, x = np.ogrid[:height, :width]
        spectrum[np.hypot(y - height // 2, x - width // 2) < int(0.01 * level * height)] = 0
        return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(0, 1)), axes=(0, 1)))
    spectrum = np.abs(spectrum) * np.exp(1j * (1 - 0.1 * level) * np.angle(spectrum))
    return np.real(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(0, 1)), axes=(0, 1)))


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
        got, expected = ours(level), expected_pixels(name, image, level)
        if name == "shot_noise" and got.shape == expected.shape:
            wrong = unlike(got.astype(float) - image, expected.astype(float) - image)
        else:
            wrong = apart(name, got, expected, share=EDGE_SHARE if (name, level) == ("glass_blur", 4) else SHARE)
        if wrong:
            return f"severity {level}: {wrong}"
    return None


SHARE = 0.001  # of the values may be 2 levels off, the others 1
# At severity 4 the reference's weights sum to a little less than 1 in double precision. So it truncates plain white to
# 254 before it shuffles. Ours stays 255, and the two blurs make that 2 levels beside an edge.
EDGE_SHARE = 0.005
MOST = {  # levels of 255 between ours and the reference, given the same numbers; 2 for the others
    "impulse_noise": 0,
    "jpeg_compression": 0,
    **dict.fromkeys(("elastic_transform", "high_pass_filter", "phase_scaling", *NEED_MASK), 1),
}


def apart(name: str, got: np.ndarray, expected: np.ndarray, share: float = SHARE) -> str | None:
    """How our pixels differ from the reference's by more than the project's bound, if they do."""
    if got.shape != expected.shape or got.dtype != np.uint8:
        return f"{got.dtype} {got.shape}"
    error = np.abs(got.astype(int) - expected.astype(int))
    if error.max() > MOST.get(name, 2) or (error > 1).mean() > share:
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
    shrunk = functional.interpolate(source, small, mode="bilinear", antialias=True)[0]
    # bfloat16 has 8 bits: up to a level where values are largest. A GPU's pixels may be a level off the CPU's.
    slack = 0.1 if views.corrupted.images_B3HW.dtype == torch.float32 else 2.5
    for name, view, expected in (("clean", views.clean, clean), ("corrupted", views.corrupted, shrunk)):
        got = levels_of(view.images_B3HW[0, :, : expected.shape[1], : expected.shape[2]])
        error = min((got - turned).abs().max().item() for turned in (expected, expected.flip(2)))
        if not error <= slack:
            return f"the {name}'s view is off by {error:.1f} levels"
    return None
