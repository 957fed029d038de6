"""Worker processes leave Ctrl-C to their parent, from their first line on."""

import os
import signal
import time

from pipeline.command.workers import WorkerPool, end_with_parent


def interrupt_me(_: int) -> int:
    """Were SIGINT not blocked here, a KeyboardInterrupt would end this."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return os.getpid()


def test_workers_do_not_see_interrupts_and_the_parent_does():
    with WorkerPool(2, end_with_parent) as pool:
        found = list(pool.map(interrupt_me, range(4)))
    assert os.getpid() not in found
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
