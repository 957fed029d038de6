"""Which steps `--profile` traces."""

from collections import Counter

from torch.profiler import ProfilerAction

PROFILED_STEPS = (10, 15)  # of a start; compiled, as many steps later, when every canvas has been seen
PROFILE_WAIT = 500  # steps for a canvas that is rare

Canvases = tuple[tuple[int, ...] | None, tuple[int, ...] | None]  # of the clean and the corrupted view


class TracePlan:
    """The profiler's schedule: a step of warm-up, then the traced ones, when no canvas is left to be compiled."""

    def __init__(self, canvases: set[Canvases], visits: int, latest: int):
        self.unseen, self.latest = Counter(list(canvases) * visits), latest
        self.first = self.end = self.step = 0  # none is chosen yet
        self.num_new = 0  # traced steps that had an unseen canvas

    def saw(self, canvases: Canvases) -> None:
        """The canvases of the step just made."""
        self.num_new += canvases in self.unseen and self.first <= self.step < self.end
        self.unseen -= Counter([canvases])  # what reaches 0 is left out

    def __call__(self, step: int) -> ProfilerAction:
        self.step = step
        first, last = PROFILED_STEPS
        if not self.end and step + 1 >= first and (not self.unseen or step + 1 >= self.latest):
            self.first, self.end = step + 1, step + 1 + last - first
        if not self.first - 1 <= step < self.end:
            return ProfilerAction.NONE
        if step < self.first:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if step + 1 < self.end else ProfilerAction.RECORD_AND_SAVE
