"""The GPU kernels that types have of their own (`own_kernels` of their records)."""

import importlib

from kernels.corruptions.record import OwnKernel
from kernels.corruptions.registry import CORRUPTIONS
from kernels.launch import steps


def _kernels(number: int) -> tuple[OwnKernel, ...]:
    return tuple(importlib.import_module(str(CORRUPTIONS[number].own_kernels)).KERNELS)


KERNELS = {CORRUPTIONS[number].name: _kernels(number) for number in steps.OWN}  # in the order in which they run
