"""Which images of a batch each launch serves: the grid of a launch covers these and no others.

The lists lie one after another in the table, so they travel with it. A launch takes all of them and the place where its
own begins. An image is in few: that of the statistics, of each step that its type has a stage in, of its type's own
kernels.
"""

from typing import Any, NamedTuple

from kernels.corruptions.record import LAUNCHES
from kernels.launch import steps
from kernels.launch.table import Table
from kernels.severity import ALL

STATISTICS = "statistics"
STEPS = {f"step_{launch}": launch for launch in LAUNCHES}


class Place(NamedTuple):
    first: int  # in the lists
    num: int  # of images


class Lists(NamedTuple):
    numbers_M: Any
    places: dict[str, Place]  # by a launch's name, or that of a type with kernels of its own; those that are needed


KINDS = {
    STATISTICS: steps.STATISTICS,
    **{name: steps.KINDS[launch] for name, launch in STEPS.items()},
    **{ALL[number]: (number,) for number in steps.OWN},
}  # in the order in which they run
_NAMES = {number: [name for name, kinds in KINDS.items() if number in kinds] for number in range(len(ALL))}


def write_lists(table: Table) -> dict[str, Place]:
    """The lists of a drawn table, into it."""
    found: dict[str, list[int]] = {}
    for b, number in enumerate(table.rows_B["corruption"].tolist()):
        for name in _NAMES.get(number, ()):
            found.setdefault(name, []).append(b)
    numbers: list[int] = []
    places: dict[str, Place] = {}
    for name in KINDS:
        if name in found:
            places[name] = Place(len(numbers), len(found[name]))
            numbers += found[name]
    table.lists_M[: len(numbers)] = numbers
    return places
