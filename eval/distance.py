"""How far datasets look from a target domain: `python -m eval.distance --target DIR --data DIR DIR ...`.

Squared maximum mean discrepancy (Gretton et al., JMLR 2012) between ImageNet features of whole pictures, with the
kernel (x.y / dimensions + 1)^3 of the kernel inception distance (Binkowski et al., ICLR 2018). It is unbiased, so few
pictures do not raise it: two halves of one domain are at 0, give or take the noise that is printed. The features are
MobileNetV2's, averaged over the picture, so figures compare only with figures of this command.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.command.console import importing, run_entry


@dataclass(frozen=True)
class DistanceOptions:
    """Measure how far the looks of datasets are from a target's."""

    target: Path
    """Packed dataset of the domain that the others are compared with."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")]
    """Packed datasets to compare, such as the source and its translation."""
    images: int = 500
    """Pictures of each dataset, spread evenly; 0 takes all."""
    splits: int = 100
    """Random halves from which the noise is measured."""
    seed: int = 0
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        if self.images < 0 or 0 < self.images < 8:
            raise ValueError(f"--images must be 0 or at least 8, got {self.images}")
        if self.splits < 2:
            raise ValueError(f"--splits must be at least 2, got {self.splits}")
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")
        if not self.data:
            raise ValueError("--data is empty; name the datasets to compare with --target")


def main() -> None:
    options = tyro.cli(DistanceOptions)
    for path in (options.target, *options.data):
        if not (path / "dataset.json").is_file():
            from pipeline.packed.reader import PackedDataset

            PackedDataset(path)  # says what is there instead
    with importing():
        from eval.metrics.look import measure_all

    measure_all(options.target, options.data, options.images, options.splits, options.seed, options.out)


if __name__ == "__main__":
    run_entry(main)
