"""Writing a file whole or not at all, even when the process is killed at any moment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, temporary: Path | None = None, *, flushed: bool = True) -> Iterator[Path]:
    """A place to write to that becomes `path` at once: a reader sees the old or the new file, never half.

    The bytes reach the disk before the name does, and the name before this returns. An error leaves `path` as it was.
    temporary: that place, on the same file system; where several processes write `path`, each needs its own.
    flushed: without it nothing waits for the disk, so a power cut may leave less: for what a command makes again.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name}.writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if flushed:
            flush(temporary)
        os.replace(temporary, path)
    except BaseException:  # a full disk, an interrupt
        temporary.unlink(missing_ok=True)
        raise
    if flushed:
        flush(path.parent)


def replace_bytes(path: Path, data: bytes, *, flushed: bool = True) -> None:
    with replacing(path, flushed=flushed) as temporary:
        temporary.write_bytes(data)


def flush(path: Path) -> None:
    """Force a file or a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
