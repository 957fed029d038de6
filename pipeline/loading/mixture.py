"""Several packed datasets as one: what the loaders read. A single dataset is a mixture of one.

Positions run through the datasets in the order given. An image's number is its id in its own dataset plus 10**12 for
each dataset before it. Every random draw about the image starts from that number, and batches carry it as its id. So
two datasets may hold the same ids, and the numbers of a single one are its ids. An epoch brings an image of weight 2
twice. The second time has 10**15 added (order.py), so that it is seen another way.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from pipeline.command.console import counted, say
from pipeline.packed.reader import PackedDataset

DATASET_STRIDE = 10**12  # ids have fewer digits, as the keys of packed records do
MAX_DATASETS = 1000  # the second time's 10**15 comes after the last dataset's numbers
LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.001, 1000.0


class Mixture:
    """Packed datasets of one class list and one packing size, each with a weight: how often its images come an epoch.

    Safe to use from several threads. Its datasets stay the caller's to close.
    """

    def __init__(self, datasets: Sequence[PackedDataset], weights: Sequence[float] = ()):
        """weights: one for each dataset; none: 1 each."""
        self.datasets = tuple(datasets)
        self.weights = tuple(map(float, weights)) or (1.0,) * len(self.datasets)
        check_weights(len(self.datasets), self.weights)
        self._check_agreement()
        first = self.datasets[0]
        self.classes = first.classes
        self.canvases = {
            name: (max(h for h, _ in sides), max(w for _, w in sides))
            for name in ("landscape", "portrait")
            if (sides := [dataset.canvases[name] for dataset in self.datasets if name in dataset.canvases])
        }
        self.max_boxes = max(dataset.max_boxes for dataset in self.datasets)
        self.sizes_N2 = np.concatenate([dataset.sizes_N2 for dataset in self.datasets])
        self.numbers_N = np.concatenate(
            [dataset.ids_N + DATASET_STRIDE * place for place, dataset in enumerate(self.datasets)]
        )
        self.weight_N = np.repeat(self.weights, [len(dataset) for dataset in self.datasets])
        self._starts = [0, *accumulate(len(dataset) for dataset in self.datasets)]

    def _check_agreement(self) -> None:
        check_alike(self.datasets)
        for i, dataset in enumerate(self.datasets):
            for other in self.datasets[:i]:
                if other.checksum == dataset.checksum:
                    raise ValueError(
                        f"{other.path} and {dataset.path} hold the same images; name them once, with a weight of 2"
                    )
        if (len(self.datasets) > 1 or max(self.weights) > 1) and any(
            (dataset.ids_N >= DATASET_STRIDE).any() for dataset in self.datasets
        ):
            raise ValueError(
                f"an image id of 13 digits or more can be neither mixed nor given a weight above 1: "
                f"{', '.join(str(dataset.path) for dataset in self.datasets)}; number the images anew and pack again"
            )

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def checksum(self) -> str:
        """Fingerprint of the data: a single dataset's own, or one over those of all in their order."""
        checksums = [dataset.checksum for dataset in self.datasets]
        return checksums[0] if len(checksums) == 1 else hashlib.sha256(json.dumps(checksums).encode()).hexdigest()

    def records(self) -> list[dict[str, Any]]:
        """What a model says of its training data, in plain values."""
        return [
            {
                "name": dataset.path.resolve().name,
                "domains": dataset.domain_counts,
                "checksum": dataset.checksum,
                "num_images": len(dataset),
                "weight": weight,
            }
            for dataset, weight in zip(self.datasets, self.weights, strict=True)
        ]

    def report(self) -> list[str]:
        """A line for each dataset: its images, how often they come in an epoch, and their domains."""
        return [
            f"{dataset.path}: {counted(len(dataset), 'image')}, {weight:g} an epoch each: "
            + ", ".join(f"{name} {count}" for name, count in dataset.domain_counts.items())
            + (f"; {unlabelled} unlabelled" if (unlabelled := int(dataset.unlabelled_N.sum())) else "")
            for dataset, weight in zip(self.datasets, self.weights, strict=True)
        ]

    @property
    def sides(self) -> dict[str, Any]:
        """short_side and long_side, to which the pictures were packed."""
        return sides_of(self.datasets[0])

    def locate(self, i: int) -> tuple[PackedDataset, int]:
        """The dataset of an image, and its position there."""
        place = bisect_right(self._starts, i) - 1
        return self.datasets[place], i - self._starts[place]

    @property
    def extra(self) -> dict[str, int]:
        """{modality: channels} of what every dataset has beside its pictures."""
        first, *others = (dataset.extra for dataset in self.datasets)
        return {name: channels for name, channels in first.items() if all(name in other for other in others)}

    def check_extra(self, names: Sequence[str]) -> None:
        """Every dataset must have these modalities, made of the same channels and values."""
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise ValueError(f"{twice[0]} is asked for twice; name each modality once")
        for name in names:
            first, *others = ((one.path, one.members_of(name), one.range_of(name)) for one in self.datasets)
            path, members, (low, high) = first
            for other, theirs, (their_low, their_high) in others:
                if list(theirs.items()) != list(members.items()):
                    raise ValueError(
                        f"{path} has {name} of {', '.join(members)}, {other} of {', '.join(theirs)}; pack one of "
                        "them again"
                    )
                if (their_low, their_high) != (low, high):
                    raise ValueError(
                        f"{path} has {name} of values from {low:g} to {high:g}, {other} from {their_low:g} to "
                        f"{their_high:g}; pack one of them again with the other's --extra-range"
                    )

    def members_of(self, name: str) -> dict[str, int]:
        return self.datasets[0].members_of(name)

    def read_extra(self, i: int, name: str) -> np.ndarray:
        dataset, row = self.locate(i)
        return dataset.read_extra(row, name)

    def target(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dataset, row = self.locate(i)
        return dataset.target(row)

    @property
    def weighted(self) -> bool:
        """Whether boxes of any dataset have weights of their own."""
        return any(dataset.weighted for dataset in self.datasets)

    def box_weights(self, i: int) -> np.ndarray:
        dataset, row = self.locate(i)
        return dataset.box_weights(row)

    def jpeg(self, i: int) -> memoryview:
        dataset, row = self.locate(i)
        return dataset.jpeg(row)

    def encoded(self, i: int, member: str) -> memoryview:
        dataset, row = self.locate(i)
        return dataset.encoded(row, member)

    def name(self, number: int) -> str:
        """What a person calls the image of this number: its id, and its dataset where there are several."""
        place, own = divmod(number % (DATASET_STRIDE * MAX_DATASETS), DATASET_STRIDE)
        return f"{own} of {self.datasets[place].path}" if len(self.datasets) > 1 else str(own)

    def describe(self, i: int) -> str:
        dataset, row = self.locate(i)
        return dataset.describe(row)


def sides_of(dataset: PackedDataset) -> dict[str, Any]:
    return {side: dataset.info["encoding"].get(side) for side in ("short_side", "long_side")}


def describe_sides(sides: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in sides.items())


def warn_of_other_sides(who: str, learned: Mapping[str, Any], dataset: PackedDataset) -> None:
    """Where a dataset was packed to another size than that of the pictures which a network learned from."""
    sides = sides_of(dataset)
    known = {side: learned.get(side) for side in sides}
    if None not in known.values() and known != sides:
        say(
            f"warning: {who} learned from pictures of {describe_sides(known)}, {dataset.path} was packed with "
            f"{describe_sides(sides)}: objects have another size there"
        )


def check_alike(datasets: Sequence[PackedDataset]) -> None:
    """One class list, one packing size."""
    first, sides = datasets[0], [sides_of(dataset) for dataset in datasets]
    for i, dataset in enumerate(datasets):
        if dataset.classes != first.classes:
            raise ValueError(
                f"the class lists differ: {first.path} has {list(first.classes)}, {dataset.path} has "
                f"{list(dataset.classes)}; pack one of them again with --classes in the other's order"
            )
        if sides[i] != sides[0]:
            raise ValueError(
                f"{first.path} was packed with {describe_sides(sides[0])}, {dataset.path} with "
                f"{describe_sides(sides[i])}; pack them with the same --short-side and --long-side"
            )


def check_weights(num_datasets: int, weights: Sequence[float]) -> None:
    if not 1 <= num_datasets <= MAX_DATASETS:
        raise ValueError(f"--data: got {num_datasets} datasets, expected 1 to {MAX_DATASETS}")
    if len(weights) != num_datasets:
        raise ValueError(
            f"--data-weights: got {len(weights)} for {num_datasets} datasets; give one for each of --data, or none"
        )
    for weight in weights:
        if not LOWEST_WEIGHT <= weight <= HIGHEST_WEIGHT:  # false for NaN too
            raise ValueError(f"--data-weights {weight:g}: expected {LOWEST_WEIGHT:g} to {HIGHEST_WEIGHT:g}")
