"""The scalars of the last n steps, kept on the device and read all at once, and the check that they are finite."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from train import distributed


@dataclass(frozen=True)
class Reading:
    """What one read-out brings to the host: means of the finite steps, and the steps that were skipped."""

    means: list[float]  # of every column; empty where no step was finite
    skipped: list[tuple[int, list[str], list[int]]]  # (step, names that were not finite, image ids of all ranks)
    longest: int  # most skipped steps in a row, those before this reading included
    stop: bool


class Window:
    """A table with a row a step. Writing it never waits for the device; every rank holds the same table.

    A row that is not finite tells the optimizer, still on the device, to skip its step. Rows are averaged over ranks
    first, which carries a NaN or infinity of one rank to all: they agree without asking.
    """

    def __init__(self, names: tuple[str, ...], size: int, device: torch.device):
        self.names = names
        self.table_nT = torch.zeros(size, len(names) + 1, device=device)  # the last column: someone asks to stop
        self.ids: dict[int, list[int]] = {}
        self.in_a_row = 0

    def load(self, table_nT: Tensor, in_a_row: int) -> None:
        """Continue a saved table; the request to stop that ended the earlier process is not carried over."""
        self.table_nT.copy_(table_nT)
        self.table_nT[:, -1] = 0
        self.in_a_row = in_a_row

    def record(self, step: int, values_T: Tensor, ids_B: Tensor, stop: bool) -> Tensor:
        """Write one step's row; returns 1 where it is not finite, else 0, as float32 on the device."""
        flag = torch.full((1,), float(stop), device=values_T.device)
        row_T = distributed.mean(torch.cat([values_T.float(), flag]))
        self.table_nT[step % len(self.table_nT)] = row_T
        self.ids[step % len(self.table_nT)] = ids_B.tolist()
        return row_T.isfinite().all().logical_not().float()

    def asks_to_stop(self, step: int) -> bool:
        """Whether some rank asked to stop at this step; waits for the device."""
        return bool(self.table_nT[step % len(self.table_nT), -1] > 0)

    def read(self, first: int, last: int) -> Reading:
        """The rows of steps first..last-1; waits for the device, once."""
        table_nT = self.table_nT.cpu()
        rows = [(step, table_nT[step % len(table_nT)]) for step in range(first, last)]
        skipped, longest = [], 0
        for step, row in rows:
            names = [name for name, value in zip(self.names, row, strict=False) if not value.isfinite()]
            self.in_a_row = self.in_a_row + 1 if names else 0
            longest = max(longest, self.in_a_row)
            if names:
                # Every rank sees the same table, so all come here together.
                ids = distributed.gather(self.ids.get(step % len(table_nT), []))
                skipped.append((step, names, sorted(itertools.chain(*ids))))
        finite = [row for _, row in rows if row.isfinite().all()]
        means = torch.stack(finite).mean(dim=0).tolist() if finite else []
        stop = any(row[-1] > 0 for _, row in rows)
        return Reading(means[: len(self.names)], skipped, longest, stop)
