"""Views one step ahead of the training."""

from collections.abc import Iterator
from typing import Any, Protocol


class Data(Protocol):
    """Batches without end, as pipeline.loading's Loader gives them."""

    batches_per_epoch: int
    wait_seconds: float  # time callers spent waiting for a batch

    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, int]: ...  # the place of the next batch
    def __enter__(self) -> Any: ...
    def __exit__(self, *_: Any) -> None: ...


class Started(Protocol):
    def wait(self) -> Any: ...


class Maker(Protocol):
    """Makes what a step sees of a batch, as pipeline.views' ViewMaker does."""

    def start(self, batch: Any, draw: int) -> Started: ...


def views_ahead(loader: Data, maker: Maker, steps: range) -> Iterator[tuple[Any, dict[str, int]]]:
    """For each step its views, and where the data continues once they have been trained on.

    The next step's views are started before this step's are handed out. On a GPU they are made, on a stream of their
    own, while this step trains. So the loader itself is always one batch further than the place returned.
    """
    started = maker.start(next(loader), steps.start)
    for step in steps:
        views, place = started.wait(), loader.state_dict()
        if step + 1 < steps.stop:
            started = maker.start(next(loader), step + 1)
        yield views, place
