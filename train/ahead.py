"""Views one step ahead of the training."""

from collections.abc import Iterator

from pipeline.batch import Views
from pipeline.loading.loader import Loader
from pipeline.views import ViewMaker


def views_ahead(loader: Loader, maker: ViewMaker, steps: range) -> Iterator[tuple[Views, dict[str, int]]]:
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
