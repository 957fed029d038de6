"""One pixel of one step: the stage of whichever corruption the row names.

The CUDA kernels (`kernels/launch/gpu.py`) launch a step once for all images whose type has a stage in it. The
functions here are put together from the records of `kernels/corruptions/registry.py` and compiled like the stages
themselves. So the tests also run them pixel by pixel on the CPU, where they must give what whole rows give.
"""

from collections.abc import Callable, Iterable

from numba import uint64

from kernels.corruptions.record import LAUNCHES
from kernels.corruptions.registry import CORRUPTIONS
from kernels.jit import compiled, compiled_anew
from kernels.severity import NONE

Entries = list[tuple[int, Callable]]  # the number of a corruption and a stage of it


def bits_of(numbers: Iterable[int]) -> int:
    """A set of corruptions as a bit each. Compiled, `number in numbers` is a loop."""
    assert all(NONE <= number < 62 for number in numbers)
    return sum(1 << (number - NONE) for number in set(numbers))


@compiled
def has(bits, number):
    return (bits >> (number - NONE)) & 1 == 1


def whichever(entries: Entries) -> Callable:
    """A stage that calls the stage of the row's corruption; without one it does nothing.

    A loop over functions cannot be compiled, so each function asks for one stage and hands on to the next.
    """
    if not entries:
        return compiled_anew(lambda task, y0, y1, x0, x1: None)
    stage = entries[0][1]
    bits = bits_of([number for number, other in entries if other is stage])
    others = whichever([entry for entry in entries if entry[1] is not stage])

    def look_up(task, y0, y1, x0, x1):
        if has(bits, task.row.corruption):
            stage(task, y0, y1, x0, x1)
        else:
            others(task, y0, y1, x0, x1)

    return compiled_anew(look_up)


def chosen(entries: Entries) -> Callable:
    """The same by halves, for a row whose corruption is one of the entries: few comparisons, whatever it is."""
    if len({stage for _, stage in entries}) == 1:
        return entries[0][1]
    half = len(entries) // 2
    middle, lower, upper = entries[half][0], chosen(entries[:half]), chosen(entries[half:])

    def look_up(task, y0, y1, x0, x1):
        if task.row.corruption < middle:
            lower(task, y0, y1, x0, x1)
        else:
            upper(task, y0, y1, x0, x1)

    return compiled_anew(look_up)


def stages_of(launch: int) -> Entries:
    """The stages that a step runs."""
    return [
        (number, stage)
        for number, corruption in enumerate(CORRUPTIONS)
        for stage, place in zip(corruption.stages[:-1], corruption.launches, strict=not corruption.own_kernels)
        if place == launch
    ]


@compiled
def copy(task, y0, y1, x0, x1):
    """The last stage of an image without a corruption, and of one that kernels of its type's own have corrupted."""
    for y in range(y0, y1):
        for x in range(x0, x1):
            for c in range(3):
                i = uint64(3 * (x - task.origin_x) + c)
                task.target[uint64(y - task.origin_y), i] = task.source[uint64(y - task.origin_y), i]


LAST = [
    (number, copy if corruption.own_kernels else corruption.stages[-1]) for number, corruption in enumerate(CORRUPTIONS)
]
step_1, step_2, step_3, step_4 = (whichever(stages_of(number)) for number in (1, 2, 3, 4))
last = chosen([(NONE, copy), *LAST])

# The numbers of the types that have something to do in a launch.
KINDS = {launch: tuple(number for number, _ in stages_of(launch)) for launch in LAUNCHES}
OWN = tuple(number for number, corruption in enumerate(CORRUPTIONS) if corruption.own_kernels)
WHOLE = tuple(number for number, corruption in enumerate(CORRUPTIONS) if corruption.whole is not None)
STATISTICS = tuple(number for number, corruption in enumerate(CORRUPTIONS) if corruption.statistics)

OWN_BITS = bits_of(OWN)
