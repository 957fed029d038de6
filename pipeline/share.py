"""Split a packed dataset in two: `python -m pipeline.share DIR FIRST REST --share 0.2`.

Both are packed datasets with the pictures of DIR, byte for byte. Which image goes where is a function of its id and
--seed alone: the images with the lowest hashes go to FIRST, of every domain the same share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from pipeline.command.console import run_entry
from pipeline.loading.order import hash64
from pipeline.packed.derive import check_place, derive, nothing_known, own_objects
from pipeline.packed.reader import PackedDataset


@dataclass(frozen=True)
class ShareOptions:
    """Split a packed dataset in two."""

    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Packed dataset to split."""
    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FIRST")]
    """Folder to write the chosen share to."""
    rest: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REST")]
    """Folder to write the other images to."""
    share: float = 0.2
    """Part of the images of every domain that goes to FIRST, at least one image of each and not all."""
    seed: int = 0
    """Another seed chooses other images."""
    hide: bool = False
    """Write REST without its boxes: unlabelled, everything in it is ignored."""


def choose(dataset: PackedDataset, share: float, seed: int) -> np.ndarray:
    """chosen_N bool: of each domain the images of the lowest hashes."""
    hash_N = hash64(seed, dataset.ids_N)
    domain_N = np.array([dataset.domain_of(i) for i in range(len(dataset))])
    chosen_N = np.zeros(len(dataset), bool)
    for domain in dataset.domains:
        rows = np.flatnonzero(domain_N == domain)
        if len(rows) < 2:
            raise ValueError(f"{dataset.path}: {domain} has one image, and both parts need one; give it more")
        rows = rows[np.argsort(hash_N[rows], kind="stable")]
        chosen_N[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return chosen_N


def share(options: ShareOptions) -> None:
    if not 0 < options.share < 1:
        raise ValueError(f"--share {options.share:g}: expected more than 0 and less than 1, for example 0.2")
    first, rest = options.first.resolve(), options.rest.resolve()
    if first.is_relative_to(rest) or rest.is_relative_to(first):
        raise ValueError(f"FIRST {options.first} and REST {options.rest} lie in each other; give two folders")
    with PackedDataset(options.packed) as dataset:
        for out in (options.first, options.rest):
            check_place(dataset, out)
        chosen_N = choose(dataset, options.share, options.seed)
        annotate = own_objects(dataset)
        origin: dict[str, Any] = {"share": options.share, "seed": options.seed}
        derive(dataset, options.first, np.flatnonzero(chosen_N), origin | {"part": "first"}, annotate, dataset.weighted)
        origin |= {"part": "rest", "hidden": options.hide}
        hidden = nothing_known(dataset) if options.hide else annotate
        weighted = dataset.weighted and not options.hide
        derive(dataset, options.rest, np.flatnonzero(~chosen_N), origin, hidden, weighted)


def main() -> None:
    share(tyro.cli(ShareOptions))


if __name__ == "__main__":
    run_entry(main, "run the same command again to continue")
