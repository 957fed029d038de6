"""Every write, sync, rename and deletion of saving fails once, or is the last thing before the power goes."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import model.weights.files
from model.weights.files import save_tensors
from pipeline.files.own import json_text, read_json
from tests.train.runs import state_of
from train.record.checkpoint import Checkpoints, damage_of, read_state

STEPS = (2, 3, 4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Real syncs would take minutes; what they are for is computed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Crash(BaseException):
    """The process or the machine ends here."""


class Disk:
    """Counts what is done to the disk, ends or fails at one of these, and knows what has surely reached it.

    A file's bytes are safe once the file was synced, its name once the folder was: a name that was given before and
    not synced is gone after `lose`, and one that was deleted is back.
    """

    def __init__(self, root: Path):
        self.root, self.count, self.last, self.error = root, 0, -1, None
        self.bytes, self.names, self.held = {}, {}, []
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            for path in (*folder.iterdir(), folder):
                self.keep(os.open(path, os.O_RDONLY))

    def keep(self, descriptor: int) -> None:
        """What is behind it is on the disk now; held open, so that no other file gets its number."""
        self.held.append(descriptor)
        number, path = os.fstat(descriptor).st_ino, Path(f"/proc/self/fd/{descriptor}")
        if path.is_dir():
            self.names[number] = {}
            for entry in os.scandir(path):
                self.held.append(os.open(entry.path, os.O_RDONLY))
                self.names[number][entry.name] = entry.inode()
        else:
            self.bytes[number] = path.read_bytes()

    def do(self, action, half=None):
        """One operation; a write that fails has written half."""
        self.count += 1
        if self.count - 1 == self.last:
            if half is not None:
                half()
            raise self.error
        return action()

    def install(self, monkeypatch, last: int, error: BaseException) -> None:
        self.last, self.error = last, error
        for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", lambda descriptor: self.do(lambda: self.keep(os.dup(descriptor))))
        write = Path.write_bytes

        def write_bytes(path, data):
            self.do(lambda: write(path, data), lambda: write(path, data[: len(data) // 2]))

        def save_file(tensors, path):
            try:
                write_bytes(path, save(tensors))
            except OSError as error:  # as it says it
                raise SafetensorError(f"I/O error: (os error {error.errno})") from None

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        monkeypatch.setattr(Path, "write_text", lambda path, text: write_bytes(path, text.encode()))
        monkeypatch.setattr(model.weights.files, "save_file", save_file)

    def counted(self, call):
        return lambda *given, **options: self.do(lambda: call(*given, **options))

    def lose(self, target: Path) -> None:
        """The folder after a power cut: with everything that was synced, and nothing else."""

        def build(number: int, place: Path) -> None:
            if number not in self.names:
                place.write_bytes(self.bytes.get(number, b""))
                return
            place.mkdir()
            for name, inner in self.names[number].items():
                build(inner, place / name)

        build(self.root.stat().st_ino, target)


def save_step(checkpoints: Checkpoints, step: int) -> Path:
    def write(folder):
        for name in ("model", "training"):
            save_tensors({"weight": torch.full((50,), float(step))}, folder / f"{name}.safetensors")
        (folder / "model.json").write_text(json_text({"extra": {"step": step}}))

    return checkpoints.save(step, write, state_of(step))


def train_on(checkpoints: Checkpoints, done: list) -> None:
    """What a run does: save, measure, save; the second measured is worse than the first; one checkpoint is kept."""
    for step in STEPS:
        folder = save_step(checkpoints, step)
        done.append(("saved", step))
        if step < 4:
            checkpoints.record(folder, {"AP50": 10.0 / step}, finished=False)
            done.append(("measured", step))


def begin(folder: Path) -> Checkpoints:
    folder.mkdir()
    checkpoints = Checkpoints(folder, 1)
    save_step(checkpoints, 1)
    return checkpoints


def check(run: Path, done: list) -> None:
    """What the next start finds: everything that was reported as done, and whole."""
    checkpoints = Checkpoints(run, 1)
    checkpoints.tidy()
    before = checkpoints.complete()
    newest = checkpoints.choose()
    assert checkpoints.complete() == before, "a checkpoint was damaged"
    steps = [step for what, step in done if what == "saved"]
    assert read_state(newest)["step"] >= max(steps, default=1)
    for folder in before:
        assert damage_of(folder) is None
        step = read_state(folder)["step"]
        for name in ("model", "training"):
            assert load_file(folder / f"{name}.safetensors")["weight"].tolist() == [step] * 50
        if ("measured", step) in done:
            assert read_state(folder)["score"] == 10.0 / step
            assert read_json(folder / "model.json")["extra"]["AP50"] == 10.0 / step
    if ("measured", 2) in done:
        assert read_json(run / "best.json") == {"checkpoint": "step-00000002", "score": 5.0}
    assert not list(checkpoints.folder.glob(".*"))


def count_operations(tmp_path: Path) -> int:
    checkpoints, done = begin(tmp_path / "counted"), []
    disk = Disk(checkpoints.run)
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch, -1, Crash())
        train_on(checkpoints, done)
    assert len(done) == 5
    check(checkpoints.run, done)
    return disk.count


@pytest.mark.parametrize(
    "how",
    ["killed", *(pytest.param(how, marks=pytest.mark.long) for how in ("full disk", "failing disk", "power cut"))],
)
def test_the_newest_checkpoint_is_loadable_wherever_saving_ends(tmp_path, how):
    number = count_operations(tmp_path)
    assert number > 70
    error = {"full disk": OSError(errno.ENOSPC, "full"), "failing disk": OSError(errno.EIO, "input/output error")}
    for last in range(number):
        checkpoints, done = begin(tmp_path / f"{last}"), []
        disk = Disk(checkpoints.run)
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch, last, error.get(how, Crash()))
            with suppress(OSError, Crash):  # a folder that is there already need not be made
                train_on(checkpoints, done)
        assert disk.count >= last
        run = checkpoints.run
        if how == "power cut":
            run = tmp_path / f"{last}-after"
            disk.lose(run)
        check(run, done)
        save_step(Checkpoints(run, 1), 5)  # and it goes on
        check(run, [*done, ("saved", 5)])
        for descriptor in disk.held:
            os.close(descriptor)


def test_the_shim_shows_a_sync_that_is_missing(tmp_path, monkeypatch):
    """The power-cut test would mean nothing if it passed without syncing."""
    checkpoints, done = begin(tmp_path / "run"), []
    monkeypatch.setattr("train.record.checkpoint.flush", lambda path: None)
    disk = Disk(checkpoints.run)
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch, -1, Crash())
        train_on(checkpoints, done)
    disk.lose(tmp_path / "after")
    with pytest.raises(AssertionError):
        check(tmp_path / "after", done)
