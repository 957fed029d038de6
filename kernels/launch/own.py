"""The GPU kernels that types have of their own (`own_kernels` of their records)."""

import importlib
from typing import Any, NamedTuple

from kernels.corruptions.record import OwnKernel
from kernels.corruptions.registry import CORRUPTIONS
from kernels.launch import steps


class Made(NamedTuple):
    kernel: Any
    facts: OwnKernel


def _made(number: int) -> tuple[Made, ...]:
    module = importlib.import_module(str(CORRUPTIONS[number].own_kernels))
    return tuple(Made(facts.make(number), facts) for facts in module.KERNELS)


KERNELS = {number: _made(number) for number in steps.OWN}  # in the order in which they run
