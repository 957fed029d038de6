"""Worker processes that neither outlive their parent nor leave it without a word."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


class WorkerPool(ProcessPoolExecutor):
    """Fresh processes: forked ones would inherit the caller's threads. Ctrl-C is left to the parent."""

    def __init__(self, workers: int, initializer: Callable[[], None]):
        super().__init__(workers, multiprocessing.get_context("spawn"), initializer)

    def submit(self, *args: Any, **options: Any) -> Future:
        # A process started here inherits what is blocked, so that Ctrl-C leaves no traceback even while it imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
