"""How much diversity the mask pool loses against fresh masks: `python -m kernels.checks.pool_diversity --count 200`.

Draws `count` masks of one canvas from pools of several sizes, and makes as many fresh ones, then prints

- repeats: the largest correlation of each drawn mask with any other, 99th percentile over the draws. One means
  that some image saw the very mask of another;
- twins: the share of pairs of draws whose correlation exceeds 0.5;
- spread: the deviation of a mask's mean over the draws, over that of fresh masks. A small pool misses the rare ones;
- p: two-sample Kolmogorov-Smirnov test of the masks' means against the fresh ones'.

Masks are compared after area averaging by 8, as an object detector's features see them.
"""

import numpy as np
import tyro
from scipy.stats import ks_2samp

from kernels import rng
from kernels.corruptions import fog, frost, snow, spatter
from kernels.corruptions.registry import NEED_MASK
from kernels.launch.pool import Pool
from kernels.severity import INDEX
from kernels.task import ROW

SHRINK = 8


def drawn_masks(pool: Pool, name: str, severity: int, size: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """`count` masks (first channel) as images of this size would draw them, shrunk, one a row."""
    rows = np.zeros(count, ROW)
    rows["corruption"], rows["severity"], rows["height"], rows["width"] = INDEX[name], severity, *size
    words = np.random.default_rng(seed).integers(0, 2**32, (2, count), dtype=np.uint32)
    rows["key0"], rows["key1"] = words
    pool.place(rows)
    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    return np.stack(
        [shrunk(pool.values_M[row["mask_start"] + y * row["mask_step_y"] + x * row["mask_step_x"]]) for row in rows]
    )


def fresh_mask(name: str, severity: int, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """One mask of this size in the pool's units, as the reference makes it for every image."""
    if name == "spatter":
        return spatter.spatter_mask(random.standard_normal(size), severity) * spatter.UNIT
    if name == "snow":
        return snow.snow_layer(random.standard_normal(size), severity, random.uniform(-135, -45))
    if name == "fog":
        plasma = fog.plasma_map(fog.map_side(*size), fog.decay(severity), random.uniform)
        return plasma[: size[0], : size[1]] * fog.UNIT
    return frost.frost_texture(random, *size, int(random.integers(len(frost.LOOKS))))[..., 0]


def shrunk(mask_HW: np.ndarray) -> np.ndarray:
    height, width = (side // SHRINK for side in mask_HW.shape)
    blocks = mask_HW[: height * SHRINK, : width * SHRINK].reshape(height, SHRINK, width, SHRINK)
    return blocks.mean(axis=(1, 3), dtype=np.float64).ravel()


def correlations(masks_NM: np.ndarray) -> np.ndarray:
    centred = masks_NM - masks_NM.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return centred @ centred.T - np.eye(len(masks_NM))


def summary(masks_NM: np.ndarray, fresh_NM: np.ndarray) -> str:
    among = correlations(masks_NM)
    upper = among[np.triu_indices(len(among), 1)]
    means, fresh_means = masks_NM.mean(axis=1), fresh_NM.mean(axis=1)
    return (
        f"repeats {np.percentile(among.max(axis=1), 99):.3f}  twins {100 * (upper > 0.5).mean():7.3f} %  "
        f"spread {means.std() / fresh_means.std():.2f}  p {ks_2samp(means, fresh_means).pvalue:.3f}"
    )


def main(
    count: int = 200,
    height: int = 600,
    width: int = 1000,
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    margins: tuple[int, ...] = (256,),
    severities: tuple[int, ...] = (3, 5),
    corruptions: tuple[str, ...] = NEED_MASK,
    seed: int = 0,
) -> None:
    if count < 2:
        raise ValueError(f"pool_diversity: got count {count}; it compares masks with each other, so give 2 or more")
    for name in corruptions:
        for severity in severities if name != "frost" else severities[:1]:
            random = np.random.default_rng([seed, INDEX[name], severity])
            fresh = np.stack([shrunk(fresh_mask(name, severity, (height, width), random)) for _ in range(2 * count)])
            print(f"{name} {severity}: fresh                  {summary(fresh[:count], fresh[count:])}", flush=True)
            for margin in margins:
                for size in sizes:
                    pool = Pool((height, width), (name,), (severity,), size=size, margin=margin, seed=seed)
                    drawn = drawn_masks(pool, name, severity, (height, width), count, seed=rng.MASK)
                    print(
                        f"{name} {severity}: pool of {size:2d}, margin {margin:3d} {summary(drawn, fresh[count:])}",
                        flush=True,
                    )


if __name__ == "__main__":
    tyro.cli(main, prog="python -m kernels.checks.pool_diversity")
