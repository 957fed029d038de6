"""Checkpoints are whole or ignored, whenever the process dies."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.record.checkpoint import MARKER, Checkpoints, lock, read_state, write_json


def save(checkpoints, step, score=None):
    def write(folder):
        (folder / "weights").write_bytes(step.to_bytes(8, "little") * 1000)

    return checkpoints.save(step, write, {"step": step, "score": score})


def names(checkpoints):
    return [path.name for path in checkpoints.complete()]


def test_newest_of_none_is_none(tmp_path):
    assert Checkpoints(tmp_path, 2).newest() is None
    assert Checkpoints(tmp_path, 2).best() is None


def test_keeps_the_last_few_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step, score in ((1, 10.0), (2, 30.0), (3, None), (4, 20.0), (5, None)):
        save(checkpoints, step, score)
    assert names(checkpoints) == ["step-00000002", "step-00000004", "step-00000005"]
    assert checkpoints.best() == {"checkpoint": "step-00000002", "score": 30.0}
    assert read_state(checkpoints.newest())["step"] == 5


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    save(checkpoints, 3)
    save(checkpoints, 3, 5.0)
    assert names(checkpoints) == ["step-00000003"]
    assert read_state(checkpoints.newest())["score"] == 5.0


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    save(checkpoints, 1)

    def full_disk(folder):
        (folder / "weights").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(2, full_disk, {"step": 2})
    assert names(checkpoints) == ["step-00000001"]
    checkpoints.tidy()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_an_unmarked_directory_is_ignored_and_tidied_away(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    save(checkpoints, 1)
    save(checkpoints, 2)
    (checkpoints.newest() / MARKER).unlink()
    assert checkpoints.newest().name == "step-00000001"
    checkpoints.tidy()
    assert names(checkpoints) == ["step-00000001"]


def test_tidy_finishes_an_update_of_the_best_that_a_kill_cut_off(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    save(checkpoints, 1, 10.0)
    save(checkpoints, 2, 20.0)
    write_json(tmp_path / "best.json", {"checkpoint": "step-00000001", "score": 10.0})
    checkpoints.tidy()
    assert checkpoints.best() == {"checkpoint": "step-00000002", "score": 20.0}


@pytest.fixture
def done(monkeypatch):
    """What reaches the disk, in order: ("sync", path, size), ("rename", old, new), ("mark", path)."""
    events = []
    sync, touch = os.fsync, Path.touch

    def note_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", path, path.stat().st_size if path.is_file() else None))
        sync(descriptor)

    def note_touch(path, *more, **options):
        events.append(("mark", path))
        touch(path, *more, **options)

    def noted(rename):
        def note(old, new):
            assert not list(Path(old).glob(MARKER)), "marked before the rename"
            events.append(("rename", Path(old), Path(new)))
            rename(old, new)

        return note

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "touch", note_touch)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    return events


def test_everything_is_on_the_disk_before_the_rename_and_the_marker_comes_last(tmp_path, done):
    checkpoints = Checkpoints(tmp_path, 2)
    final = save(checkpoints, 1)
    temporary = final.with_name(".step-00000001.writing")
    assert done[0] == ("sync", tmp_path, None)  # the entry of checkpoints/
    files = {("sync", temporary / name, (final / name).stat().st_size) for name in ("weights", "state.json")}
    assert set(done[1:3]) == files
    assert done[3:] == [
        ("sync", temporary, None),
        ("rename", temporary, final),
        ("sync", checkpoints.folder, None),
        ("mark", final / MARKER),
        ("sync", final / MARKER, 0),
        ("sync", final, None),
    ]
    done.clear()
    save(checkpoints, 2)
    assert ("sync", tmp_path, None) not in done  # checkpoints/ was there


def test_a_replaced_file_is_on_the_disk_before_the_rename(tmp_path, done):
    path = tmp_path / "best.json"
    write_json(path, {"score": 1.0})
    temporary = path.with_name(".best.json.writing")
    size = path.stat().st_size
    assert done == [("sync", temporary, size), ("rename", temporary, path), ("sync", tmp_path, None)]


def test_a_run_directory_takes_one_process(tmp_path):
    with lock(tmp_path), pytest.raises(ValueError, match="another process is training"):
        lock(tmp_path)
    lock(tmp_path).close()


SAVER = """
import sys
from pathlib import Path
from train.record.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), 2)
checkpoints.tidy()
newest = checkpoints.newest()
step = int(newest.name[5:]) if newest else 0
print("ready", flush=True)
while True:
    step += 1
    def write(folder):
        for part in range(4):
            (folder / f"part{part}").write_bytes(step.to_bytes(8, "little") * 20000)
    checkpoints.save(step, write, {"step": step, "score": float(step)})
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path):
    """SIGKILL at 8 random moments of continuous saving: what counts as complete holds every byte."""
    generator, last = random.Random(0), 0
    root = Path(__file__).resolve().parents[2]
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0.02, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().split()]
        process.wait()
        checkpoints = Checkpoints(tmp_path, 2)
        newest = checkpoints.newest()
        if newest is None:
            continue
        step = read_state(newest)["step"]
        assert step >= max(reported, default=last)
        for path in checkpoints.complete():
            expected = read_state(path)["step"].to_bytes(8, "little") * 20000
            assert all((path / f"part{part}").read_bytes() == expected for part in range(4))
        last = step
    assert last > 8
    best = json.loads((tmp_path / "best.json").read_text())
    assert (checkpoints.folder / best["checkpoint"]).exists()
