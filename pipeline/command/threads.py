"""Numba's parallel code beside torch: both may use one OpenMP library, and what one sets holds for the other."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads_kept() -> Iterator[None]:
    """Run Numba's parallel code inside; torch and Numba compute with as many threads afterwards as before.

    On its first parallel call Numba starts its threads, and its OpenMP layer then sets their number for the whole
    process. Torch would sum in another order from there on, and a resumed run, which measured at other steps, would not
    equal the undisturbed one.
    """
    import numba
    import torch

    before = torch.get_num_threads()  # first: asking Numba for its number starts its threads
    numba_before = numba.get_num_threads()
    try:
        yield
    finally:
        numba.set_num_threads(numba_before)
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
