"""`python -m pipeline.packed DIR`: print a packed dataset's report and verify every byte of it."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.command.console import run_entry, say
from pipeline.packed.card import report
from pipeline.packed.reader import PackedDataset


@dataclass(frozen=True)
class VerifyOptions:
    """Print a packed dataset's report and verify every byte of it."""

    path: tyro.conf.Positional[Path]


def main() -> None:
    with PackedDataset(tyro.cli(VerifyOptions).path) as dataset:
        say(report(dataset.info, dataset.path.resolve().name))
        dataset.verify()
        say(f"{dataset.path}: all {len(dataset)} records are as they were packed")


if __name__ == "__main__":
    run_entry(main)
