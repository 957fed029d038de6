"""The order of the tests, and what they import."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.command.console import importing, settle_on_cpu

settle_on_cpu()  # as every command does


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """It imports nearly all; afterwards a full collection that looks through that takes a second."""
    with importing():
        return (yield)


# The longest first, which are those beside the folders: pytest's processes then end together, over short ones.
ORDER = ("golden", "train", "eval", "pipeline", "model", "kernels")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorted by folder; inside one nothing moves, so that what its tests share is made once."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return ORDER.index(folder) if folder in ORDER else -1

    items.sort(key=place)
