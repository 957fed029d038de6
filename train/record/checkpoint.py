"""Checkpoints: one directory a step, complete or ignored, even when the process is killed at any moment.

    checkpoints/step-00000500/
        model.safetensors, model.json   what is evaluated and shipped (the moving average where one is kept)
        pictures.bin                    what it, its teacher and its start were trained on (eval/trained_on.py)
        training.safetensors            what continuing needs beside them (train/record/resume.py)
        state.json                      step, place in the data, score, the data's checksum, versions
        COMPLETE                        sizes and checksums of these files, written last (model/weights/files.py)
    best.json                           {"checkpoint": name, "score": AP50}
    rewound.json                        {"from_step": N} after --from-step N, until a command without it

Files are written under a temporary name, flushed to the disk, renamed, and only then marked COMPLETE. Every random
draw of a run is a function of seed, epoch, step and image id, so there is no generator state to save. What was
measured of a checkpoint is written into it afterwards. It is saved already if measuring fails.

Only folders named as above are ever deleted. A damaged checkpoint is renamed to step-00000500.set-aside.
"""

import errno
import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from model.weights.files import MARKER, complete_checkpoints, describe_file, find_damage, read_marker, step_of
from pipeline.command.console import say
from pipeline.files.own import ANY, Each, OneOf, Whole, json_text, read_json, write_json
from pipeline.files.parse import read_bytes
from pipeline.files.replace import flush, replace_bytes

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a file system without locks answers
UNFINISHED = re.compile(r"\.step-\d{8,18}\.writing", re.ASCII)
STATE = {
    "step": Whole(0),
    "last_read": Whole(0),
    "in_a_row": Whole(0),
    "place": {"epoch": Whole(0), "cursor": Whole(0), "target_epoch?": Whole(0), "target_cursor?": Whole(0)},
    "score": OneOf((float, None)),
    "finished": bool,
    "ranks": Whole(1),
    "data_checksum": str,
    "teacher_checksum": OneOf((str, None)),
    "torch": str,
}


class Checkpoints:
    """The checkpoints of one run directory. Only rank 0 calls what writes."""

    def __init__(self, run: Path, keep: int):
        self.run, self.keep, self.folder = run, keep, run / "checkpoints"

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return complete_checkpoints(self.run)

    def newest(self) -> Path | None:
        return next(reversed(self.complete()), None)

    def choose(self, from_step: int | None = None, check: Callable[[Path], None] = lambda path: None) -> Path | None:
        """The newest sound checkpoint, or the one of a step; what is damaged or newer is set aside, and said.

        `check` may refuse the chosen one: nothing is changed then. Going back to a step is noted in rewound.json and
        done once: where a batch system repeats the command, the run continues from what it has saved since. A command
        without a step ends that.
        """
        if from_step is not None and self.rewound_to() == from_step:
            say(
                f"--from-step {from_step} was done before: continuing from the newest checkpoint; to go back again, "
                f"remove {self.rewound}"
            )
            return self._choose(None, check)
        chosen = self._choose(from_step, check)
        if from_step is not None:
            write_json(self.rewound, {"from_step": from_step})
        else:
            self.rewound.unlink(missing_ok=True)
        return chosen

    @property
    def rewound(self) -> Path:
        return self.run / "rewound.json"

    def rewound_to(self) -> int | None:
        return read_json(self.rewound, {"from_step": Whole(0)})["from_step"] if self.rewound.is_file() else None

    def _choose(self, from_step: int | None, check: Callable[[Path], None]) -> Path | None:
        by_step = {step_of(path): path for path in self.complete()}
        if from_step is not None:
            if from_step not in by_step:
                raise ValueError(f"--from-step {from_step}: {self.run} has checkpoints of steps {list(by_step)}")
            if damage := damage_of(by_step[from_step]):
                raise ValueError(f"--from-step {from_step}: {by_step[from_step]} is damaged: {damage}; choose another")
        reasons: dict[Path, str] = {}
        newest = None
        for step, path in reversed(by_step.items()):
            if from_step is None:
                damage = damage_of(path)
                why = f"is damaged: {damage}" if damage else ""
            else:
                why = f"comes after step {from_step}" if step != from_step else ""
            if not why:
                newest = path
                check(path)
                break
            reasons[path] = why
        for path, why in reasons.items():
            aside = free_name(path.with_name(f"{path.name}.set-aside"))
            path.rename(aside)
            say(f"{path} {why}; it is kept as {aside.name}")
        if by_step and newest is None:
            say(f"warning: {self.run} has no sound checkpoint and starts anew")
        self.update_best()
        return newest

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
        (temporary / "state.json").write_text(json_text(state))
        for path in temporary.iterdir():
            flush(path)
        flush(temporary)
        sums = {path.name: [describe_file(path)] for path in sorted(temporary.iterdir())}
        temporary.rename(final)
        flush(self.folder)
        write_json(final / MARKER, sums)
        self.update_best()
        self.prune()
        return final

    def record(self, checkpoint: Path, score: dict[str, float], finished: bool) -> None:
        """Write what was measured into a saved checkpoint: its card first, and last its state, which records that."""
        card = read_json(checkpoint / "model.json", {"extra": Each(ANY)})
        state = read_state(checkpoint) | {"score": score.get("AP50"), "finished": finished}
        contents = {"model.json": card | {"extra": card["extra"] | score}, "state.json": state}
        texts = {name: json_text(content).encode() for name, content in contents.items()}
        if sums := read_marker(checkpoint):
            for name, text in texts.items():
                new: dict[str, int | str] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
                sums[name] = [describe_file(checkpoint / name), new]
            write_json(checkpoint / MARKER, sums)
        for name, text in texts.items():
            replace_bytes(checkpoint / name, text)
        self.update_best()
        self.prune()

    def update_best(self) -> None:
        """Point best.json at the best checkpoint there is."""
        best, path = self.best(), self.run / "best.json"
        if best is None:
            path.unlink(missing_ok=True)
            return
        text = json_text(best).encode()
        try:
            written = read_bytes(path, len(text))
        except ValueError:  # there is none yet, or none of ours
            written = b""
        if written != text:
            replace_bytes(path, text)

    def best(self) -> dict[str, Any] | None:
        """{"checkpoint", "score"} of the first of the highest scores, which is never pruned; None without a score."""
        scores = {}
        for path in self.complete():
            try:
                score = read_state(path)["score"]
            except ValueError:  # damaged, which is said when it is to be used
                continue
            if score is not None:
                scores[path.name] = score
        name = max(scores, key=lambda name: scores[name], default=None)
        return None if name is None else {"checkpoint": name, "score": scores[name]}

    def prune(self) -> None:
        best = self.best()
        for path in self.complete()[: -self.keep]:
            if best is None or path.name != best["checkpoint"]:
                remove(path)

    def tidy(self) -> None:
        """After a kill: drop what was never completed, and finish what was."""
        for path in self.folder.glob("*"):
            ours = step_of(path) is not None or UNFINISHED.fullmatch(path.name)
            if ours and path.is_dir() and not path.is_symlink() and not (path / MARKER).exists():
                remove(path)
        self.update_best()


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a run from being continued from here; None where nothing does."""
    try:
        read_state(checkpoint)
    except ValueError as error:
        return str(error)
    return find_damage(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    state = read_json(checkpoint / "state.json", STATE, "give another checkpoint")
    if state["step"] != step_of(checkpoint) or state["last_read"] > state["step"]:
        raise ValueError(
            f"{checkpoint / 'state.json'} is of step {state['step']}, last read at {state['last_read']}, and does not "
            "belong to this folder; give another checkpoint"
        )
    return state


def free_name(path: Path) -> Path:
    """The path itself, or with -2, -3 ... where it exists."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def remove(path: Path) -> None:
    """Unmark first, so that a half-deleted checkpoint is never taken for a complete one."""
    (path / MARKER).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


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
