"""The distance between the looks of domains, with its noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision

from eval.detecting.detect import spread
from kernels.launch.resize import DEVIATION, MEAN
from model.config import small_model
from model.weights.pretrained import find_imagenet_file, load_body
from pipeline.command.console import counted, say, track
from pipeline.files.own import write_json
from pipeline.files.pixels import decode_packed
from pipeline.packed.reader import PackedDataset

SCALE = 1000  # distances are printed times this
LEAST_IMAGES = 8


class Distance(NamedTuple):
    value: float
    noise: float  # standard deviation


def make_network() -> torch.nn.Module:
    network = torchvision.models.mobilenet_v2().features
    load_body(network, find_imagenet_file("mobilenet_v2"), small_model())
    return network.eval()


@torch.no_grad()
def features_of(network: torch.nn.Module, dataset: PackedDataset, num: int) -> np.ndarray:
    """(M, 1280) float64: the last map's mean over each picture."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    rows = spread(np.arange(len(dataset)), num)
    found = []
    for row in track(rows, f"looking at {dataset.path.name}", len(rows)):
        picture_3HW = torch.tensor(decode_packed(dataset.jpeg(int(row)))).permute(2, 0, 1).float() / 255
        found.append(network(((picture_3HW - mean) / deviation)[None]).mean((2, 3))[0].double().numpy())
    return np.stack(found)


def kernel(x_MF: np.ndarray, y_NF: np.ndarray) -> np.ndarray:
    return (x_MF @ y_NF.T / x_MF.shape[1] + 1) ** 3


def discrepancy(k_XX: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared MMD of two disjoint sets of rows, from the kernel of all rows with all rows."""

    def within(rows: np.ndarray) -> float:
        own = k_XX[np.ix_(rows, rows)]
        return float((own.sum() - np.trace(own)) / (len(rows) * (len(rows) - 1)))

    return within(first) + within(second) - 2 * float(k_XX[np.ix_(first, second)].mean())


def distance(one_MF: np.ndarray, two_NF: np.ndarray, splits: int, seed: int) -> Distance:
    """With the standard deviation of its value over random halves of both sets.

    A half drawn without replacement varies around the whole as the whole does around the truth: s^2 / n each.
    """
    both_XF = np.concatenate([one_MF, two_NF])
    k_XX = kernel(both_XF, both_XF)
    rows = np.arange(len(one_MF)), len(one_MF) + np.arange(len(two_NF))
    generator = np.random.default_rng(seed)
    halves = [
        discrepancy(k_XX, *(generator.permutation(each)[: max(2, len(each) // 2)] for each in rows))
        for _ in range(splits)
    ]
    return Distance(SCALE * discrepancy(k_XX, *rows), SCALE * float(np.std(halves, ddof=1)))


def own_noise(one_MF: np.ndarray, splits: int, seed: int) -> Distance:
    """Two random halves of one set: the mean distance, which is about 0, and the deviation of a single one."""
    k_MM = kernel(one_MF, one_MF)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        mixed = generator.permutation(len(one_MF))
        found.append(discrepancy(k_MM, mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]))
    return Distance(SCALE * float(np.mean(found)), SCALE * float(np.std(found, ddof=1)))


def measure_all(
    target: Path, data: Sequence[Path], images: int, splits: int, seed: int, out: Path | None = None
) -> None:
    """Print the distance of each dataset to the target, and write it where `out` says."""
    network = make_network()
    features = []
    for path in (target, *data):
        with PackedDataset(path) as dataset:
            if len(dataset) < LEAST_IMAGES:
                raise ValueError(
                    f"{path} has {counted(len(dataset), 'image')}; a distance needs {LEAST_IMAGES} or more"
                )
            features.append(features_of(network, dataset, images))
    target_MF = features[0]
    itself = own_noise(target_MF, splits, seed)
    rows = [("two halves of the target", len(target_MF), itself)]
    for path, other_NF in zip(data, features[1:], strict=True):
        rows.append((str(path), len(other_NF), distance(other_NF, target_MF, splits, seed)))
    wide = max(len(name) for name, _, _ in rows)
    say(f"distance to {target} ({counted(len(target_MF), 'image')}): squared MMD x {SCALE} +- its deviation")
    for name, count, (value, noise) in rows:
        say(f"  {name:<{wide}}  {counted(count, 'image'):>12}  {value:8.2f} +- {noise:.2f}")
    if out is not None:
        content = {name: {"images": count, "value": value, "noise": noise} for name, count, (value, noise) in rows}
        write_json(out, {"target": str(target), "distances": content})
