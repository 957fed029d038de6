"""The order of the tests, and the collector of garbage."""

import gc
from pathlib import Path

import pytest

# Imports make a million objects that stay. A full collection that looks through them takes a second.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# The longest first: pytest's processes then end together, over short ones.
ORDER = ("train", "eval", "pipeline", "model", "kernels")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorted by folder; inside one nothing moves, so that what its tests share is made once."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)
