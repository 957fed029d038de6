"""Worker processes that neither outlive their parent nor leave it without a word."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager


def end_with_parent() -> None:
    """No worker stays behind when its parent was killed: a thread waits for the parent's end and ends the process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def deaths_explained() -> Iterator[None]:
    """A pool whose process was killed ends in a sentence for the user."""
    try:
        yield
    except BrokenProcessPool:
        raise ValueError(
            "a worker process died (killed, or out of memory?); "
            "run the same command again to continue, with fewer --workers"
        ) from None
