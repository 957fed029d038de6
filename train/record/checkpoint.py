"""Checkpoints: one directory a step, complete or ignored, even when the process is killed at any moment.

    checkpoints/step-00000500/
        model.safetensors, model.json   what is evaluated and shipped (the moving average where one is kept)
        training.safetensors            what continuing needs beside them (train/record/resume.py)
        state.json                      step, place in the data, score, the data's checksum, versions
        COMPLETE                        written last
    best.json                           {"checkpoint": name, "score": AP50}

Files are written under a temporary name, flushed to the disk, renamed, and only then marked COMPLETE. Every random
draw of a run is a function of seed, epoch, step and image id, so there is no generator state to save. What was
measured of a checkpoint is written into it afterwards. It is saved already if measuring fails.
"""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pipeline.command.console import say
from pipeline.files.replace import flush, replacing

MARKER = "COMPLETE"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a file system without locks answers


class Checkpoints:
    """The checkpoints of one run directory. Only rank 0 calls what writes."""

    def __init__(self, run: Path, keep: int):
        self.run, self.keep, self.folder = run, keep, run / "checkpoints"

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f"step-*/{MARKER}"))

    def newest(self) -> Path | None:
        return next(reversed(self.complete()), None)

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """`write(folder)` puts the tensors there; `state` is stored as JSON, its "score" may make this the best."""
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.writing"
        for leftover in (temporary, final):
            remove(leftover)
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            flush(self.run)
        temporary.mkdir()
        write(temporary)
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        for path in temporary.iterdir():
            flush(path)
        flush(temporary)
        temporary.rename(final)
        flush(self.folder)
        (final / MARKER).touch()
        flush(final / MARKER)
        flush(final)
        self.update_best()
        self.prune()
        return final

    def record(self, checkpoint: Path, score: dict[str, float], finished: bool) -> None:
        """Write what was measured into a saved checkpoint: its card first, and last its state, which records that."""
        card = json.loads((checkpoint / "model.json").read_text())
        write_json(checkpoint / "model.json", card | {"extra": card["extra"] | score})
        state = read_state(checkpoint) | {"score": score.get("AP50"), "finished": finished}
        write_json(checkpoint / "state.json", state)
        self.update_best()
        self.prune()

    def update_best(self) -> None:
        """Point best.json at the newest checkpoint when its score is higher than the best one's."""
        newest, best = self.newest(), self.best()
        if newest is None:
            return
        score = read_state(newest).get("score")
        if score is not None and (best is None or score > best["score"]):
            write_json(self.run / "best.json", {"checkpoint": newest.name, "score": score})

    def best(self) -> dict[str, Any] | None:
        """{"checkpoint", "score"}; None before the first score."""
        path = self.run / "best.json"
        return json.loads(path.read_text()) if path.exists() else None

    def prune(self) -> None:
        best = self.best()
        for path in self.complete()[: -self.keep]:
            if best is None or path.name != best["checkpoint"]:
                remove(path)

    def tidy(self) -> None:
        """After a kill: drop what was never completed, and finish what was."""
        for path in self.folder.glob("*"):
            if not (path / MARKER).exists():
                remove(path)
        self.update_best()


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "state.json").read_text())


def remove(path: Path) -> None:
    """Unmark first, so that a half-deleted checkpoint is never taken for a complete one."""
    (path / MARKER).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


def write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old or the new one, never half."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def lock(run: Path) -> IO[str]:
    """Hold the run directory until the returned file is closed, so that two processes cannot train into it."""
    run.mkdir(parents=True, exist_ok=True)
    handle = (run / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ValueError(f"another process is training into {run}; wait for it, or choose another --out") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say(f"warning: the file system of {run} has no locks ({error.strerror}): start no second process on this run")
    return handle
