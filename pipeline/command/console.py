"""What a person sees while a command runs: the hardware line, progress with time left, one sentence for a mistake."""

import ctypes
import errno
import gc
import inspect
import os
import platform
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.files.escape import printable

T = TypeVar("T")

FIXES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it continues",
    errno.EDQUOT: "your quota of disk space is used up: free some and run the same command again, it continues",
    errno.EFBIG: "no file may become this large here (ulimit -f, or the file system): choose another folder",
    errno.EROFS: "the file system is read-only: choose another output folder",
    errno.EACCES: "permission denied: give yourself access, or choose another folder",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "there is a folder where a file is needed: remove it, or choose another name",
    errno.ENOTDIR: "there is a file where a folder is needed: remove it, or choose another folder",
    errno.EEXIST: "there is a file where a folder is needed: remove it, or choose another folder",
}

PLAIN_INTERVAL_S = 10.0
SHORT_S = 3.0  # what took less needs no line
RECENT_S = 60.0  # what the rate is measured over, unless two steps take longer
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h

typed = ""  # a command's name where it is not `python -m`: fairweather.py sets it


def say(text: str) -> None:
    """Print a line at once, so that logs of a batch system show it as it happens."""
    print(printable(text), flush=True)


def describe_hardware() -> str:
    """One line: processor or GPU, cores, memory and the versions that matter."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    machine = f"{cores} {platform.machine()} cores, {memory_gb:.0f} GB"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        machine = f"{len(names)} x {names[0]}, {machine}"
    else:
        machine = f"no GPU, {machine}"
    return f"{machine}; Python {platform.python_version()}, torch {torch.__version__}"


def counted(count: int, one: str, several: str = "") -> str:
    """'1 box', '2 boxes': a number with its noun; `several` where an s does not make the plural."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def format_seconds(seconds: float) -> str:
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """A bar on a terminal, a plain line every ten seconds elsewhere; both show the rate and the time left.

    Until the first `advance` a command loads and compiles, and later it may compile for a shape that is new. So the
    rate is that of the last minute, and there is none before the second `advance`.

    Use as a context manager and call `advance(count, note)`. Nothing is printed when `quiet` (ranks other than 0).
    """

    def __init__(self, description: str, total: int, unit: str = "images", done: int = 0, quiet: bool = False):
        self.description, self.total, self.unit, self.quiet = description, total, unit, quiet
        self.done = self.before = done
        self.started = self.printed = time.monotonic()
        self.marks: deque[tuple[float, int]] = deque()  # time and what was done then, at most one a second
        self.terminal = sys.stderr.isatty() and not quiet
        self.bar: Any = None  # rich is imported only where there is a terminal

    def __enter__(self) -> "Progress":
        if self.terminal:
            from rich.console import Console, RenderableType
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Columns
            from rich.text import Text

            class Bar(Columns):
                def get_renderables(self) -> Iterable[RenderableType]:
                    """The note has lines of its own: beside the bar it would squeeze rate and time off the screen."""
                    yield from super().get_renderables()
                    yield from (Text(task.fields["note"], style="dim") for task in self.tasks if task.fields["note"])

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(
                escape(printable(self.description)), total=self.total, completed=self.done, rate="", note=""
            )
        return self

    def rate(self) -> float:
        """Per second, 0 while it is not known."""
        if not self.marks:
            return 0.0
        since, done = self.marks[0]
        return (self.done - done) / max(time.monotonic() - since, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.done))
        while len(self.marks) > 2 and now - self.marks[1][0] > RECENT_S:
            self.marks.popleft()
        if self.bar is not None:
            rate = self.rate()
            text = f"{rate:.1f} {self.unit}/s" if rate else ""
            self.bar.update(self.task, completed=self.done, rate=text, note=printable(note))
        elif not self.quiet and now - self.printed >= PLAIN_INTERVAL_S:
            self.printed = now
            self._line(note)

    def _line(self, note: str = "") -> None:
        rate = self.rate()
        text = f"{self.description}: {self.done}/{self.total} {self.unit}"
        if rate > 0:
            text += f", {rate:.1f}/s, {format_seconds((self.total - self.done) / rate)} left"
        print(printable(f"{text}, {note}" if note else text), file=sys.stderr, flush=True)

    def __exit__(self, *exception) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif not self.quiet and exception[0] is None:
            spent = time.monotonic() - self.started
            if spent >= SHORT_S:
                line = f"{self.description}: {self.done - self.before} {self.unit} in {format_seconds(spent)}"
                print(printable(line), file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int, unit: str = "images", quiet: bool = False) -> Iterator[T]:
    """Iterate with a progress display; without one when there is nothing to do."""
    with Progress(description, total, unit, quiet=quiet or not total) as progress:
        for item in items:
            yield item
            progress.advance()


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take seconds, such as torch's: a million objects that stay.

    Nobody looks for garbage among them, now (a fifth of the time) or in a training's full collections.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def settle_on_cpu() -> None:
    """Before torch is imported. Have what it frees on a CPU stay with the process, and its threads sleep when idle.

    Each operation takes new memory for its result. From the system that is memory whose pages must first be found and
    cleared, which costs a tenth to a fifth of a training step. Threads that wait by spinning take the core from those
    they wait for where others use the machine, too: a training was four to eight times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # pages of 2 MB
    settings = getattr(ctypes.CDLL(None), "mallopt", None)  # of the GNU C library
    if settings is not None:
        settings(M_MMAP_MAX, 0)
        settings(M_TRIM_THRESHOLD, 2**31 - 1)


def tidy_help() -> None:
    """Have usage lines say what was typed, `python -m pipeline.pack`, and not the path of its file.

    And have an option's description be one paragraph: tyro begins a line wherever the source has one, because it joins
    lines before it takes their indentation away.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if typed:
        sys.argv[0] = typed
    elif spec is not None:
        sys.argv[0] = f"python -m {spec.name.removesuffix('.__main__')}"
    strings: Any = sys.modules.get("tyro._strings")
    if join := getattr(strings, "remove_single_line_breaks", None):
        strings.remove_single_line_breaks = lambda text: join(inspect.cleandoc(text))


def run_entry(main: Callable[[], int | None], stopped: str = "") -> None:
    """Run a command's `main`: a user's mistake ends in one sentence and exit code 2, a bug keeps its traceback.

    stopped: what to say of the command's work after Ctrl-C, where it is known.

    ValueError, missing files, a full or read-only disk are the user's to fix; everything else is ours.
    """
    settle_on_cpu()
    tidy_help()
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print(f"stopped by the user{stopped and ': '}{stopped}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and output_is_gone():
            sys.exit(141)  # as SIGPIPE ends other programs
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    finally:
        output_is_gone()


def output_is_gone() -> bool:
    """Whether nobody reads what is printed any more, as after `| head`. It then goes nowhere, without an error."""
    watch = select.poll()
    watch.register(1, 0)
    gone = any(event & select.POLLERR for _, event in watch.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return gone


def explain(error: BaseException) -> str | None:
    """The sentence for a user's mistake, a missing file, a full or read-only disk; None for everything else."""
    if isinstance(error, ValueError):
        return printable(str(error))
    if not isinstance(error, OSError) or error.errno not in FIXES:
        return None
    return FIXES[error.errno] + (f" ({printable(str(error.filename))})" if error.filename else "")
