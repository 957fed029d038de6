"""What a worker process does first."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """No worker stays behind when its parent was killed: a thread waits for the parent's end and ends the process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
