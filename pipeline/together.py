"""Whether packed datasets fit together: `python -m pipeline.together DIR DIR ...`, before hours of work with them.

They have the same classes in the same order and were packed to the same sizes. With --apart no picture is in two of
them.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.command.console import counted, run_entry, say
from pipeline.loading.mixture import check_alike
from pipeline.packed.reader import PackedDataset


@dataclass(frozen=True)
class TogetherOptions:
    """Check that packed datasets fit together."""

    packed: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR ...")]
    """Packed datasets."""
    apart: bool = False
    """Also that no picture is in two of them."""


def check_apart(datasets: list[PackedDataset]) -> None:
    owners: dict[bytes, PackedDataset] = {}
    for dataset in datasets:
        pictures = {dataset.sha256_of(row) for row in range(len(dataset))}
        shared = [owners[picture] for picture in pictures if picture in owners]
        if shared:
            raise ValueError(
                f"{counted(len(shared), 'picture')} of {dataset.path} are also in {shared[0].path}; each belongs in "
                "one of them (python -m pipeline.share splits a dataset)"
            )
        owners |= dict.fromkeys(pictures, dataset)


def main() -> None:
    options = tyro.cli(TogetherOptions)
    if len(options.packed) < 2:
        raise ValueError("two packed datasets are needed at least")
    with ExitStack() as stack:
        datasets = [stack.enter_context(PackedDataset(path)) for path in options.packed]
        check_alike(datasets)
        if options.apart:
            check_apart(datasets)
    say(f"{len(datasets)} datasets fit together: {', '.join(datasets[0].classes)}")


if __name__ == "__main__":
    run_entry(main)
