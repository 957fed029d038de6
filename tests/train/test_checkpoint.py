"""Checkpoints are whole or ignored, whenever the process dies."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from pipeline.files.own import write_json
from tests.jobs import KILLED, Job
from tests.train.runs import state_of
from train.record.checkpoint import MARKER, Checkpoints, damage_of, lock, read_state


def save(checkpoints, step, score=None):
    def write(folder):
        (folder / "weights").write_bytes(step.to_bytes(8, "little") * 1000)

    return checkpoints.save(step, write, state_of(step, score))


def names(checkpoints):
    return [path.name for path in checkpoints.complete()]


def test_a_best_that_cannot_be_read_is_written_anew(tmp_path):
    """It follows from the checkpoints, and must not stop a training."""
    checkpoints, best = Checkpoints(tmp_path, keep=2), tmp_path / "best.json"
    save(checkpoints, 1, score=0.5)
    whole = best.read_bytes()
    for content in (b"\xff\xfe", b"", whole * 9):
        best.write_bytes(content)
        checkpoints.update_best()
        assert best.read_bytes() == whole
    best.unlink()
    os.mkfifo(best)
    checkpoints.update_best()
    assert best.read_bytes() == whole


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
        checkpoints.save(2, full_disk, state_of(2))
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


def flip(path, place=7):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / "weights"), "weights is not as it was written"),
        (lambda folder: (folder / "weights").write_bytes(b""), "weights is not as it was written"),
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: flip(folder / MARKER, 1), "COMPLETE"),
        (lambda folder: flip(folder / MARKER, 4), "is missing"),
        (lambda folder: flip(folder / "state.json", -3), "state.json"),
        (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
        (lambda folder: write_json(folder / "state.json", state_of(-5)), "step is '-5', not a whole number from 0"),
        (lambda folder: write_json(folder / "state.json", state_of(7)), "does not belong to this folder"),
        (lambda folder: write_json(folder / "state.json", state_of(3) | {"ranks": 2}), "state.json is not as it was"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_kept_aside_for_the_newest_good_one(tmp_path, capsys, damage, said):
    checkpoints = Checkpoints(tmp_path, 3)
    save(checkpoints, 1)
    save(checkpoints, 2)
    damage(save(checkpoints, 3, 5.0))
    assert checkpoints.choose().name == "step-00000002"
    line = capsys.readouterr().out
    assert "step-00000003 is damaged: " in line
    assert said in line
    assert names(checkpoints) == ["step-00000001", "step-00000002"]
    assert (checkpoints.folder / "step-00000003.set-aside").is_dir()
    assert checkpoints.best() is None  # it was the best
    assert not (tmp_path / "best.json").exists()
    save(checkpoints, 3)
    checkpoints.tidy()
    assert checkpoints.choose().name == "step-00000003"


def test_without_a_good_checkpoint_the_run_starts_anew_and_says_so(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, 3)
    assert checkpoints.choose() is None
    assert capsys.readouterr().out == ""
    flip(save(checkpoints, 1) / "weights")
    assert checkpoints.choose() is None
    assert "no sound checkpoint and starts anew" in capsys.readouterr().out


def test_a_step_can_be_chosen(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, 5)
    for step in range(1, 5):
        save(checkpoints, step, float(step))
    flip(checkpoints.complete()[0] / "weights")
    with pytest.raises(ValueError, match=r"--from-step 7: .* has checkpoints of steps \[1, 2, 3, 4\]"):
        checkpoints.choose(7)
    with pytest.raises(ValueError, match=r"--from-step 1: .*step-00000001 is damaged: weights is not"):
        checkpoints.choose(1)
    assert len(names(checkpoints)) == 4
    assert checkpoints.choose(2).name == "step-00000002"
    assert "step-00000004 comes after step 2; it is kept as step-00000004.set-aside" in capsys.readouterr().out
    assert names(checkpoints) == ["step-00000001", "step-00000002"]
    assert checkpoints.best() == {"checkpoint": "step-00000002", "score": 2.0}


def test_going_back_to_a_step_is_done_once(tmp_path, capsys):
    """A batch system repeats the command after each time limit: the run goes on from what it saved since."""
    checkpoints = Checkpoints(tmp_path, 5)
    for step in (1, 2, 3):
        save(checkpoints, step)
    assert checkpoints.choose(2).name == "step-00000002"
    save(checkpoints, 3)
    capsys.readouterr()
    assert checkpoints.choose(2).name == "step-00000003"
    assert "--from-step 2 was done before" in capsys.readouterr().out
    assert checkpoints.choose(1).name == "step-00000001"  # another step is another wish
    assert (checkpoints.folder / "step-00000003.set-aside").is_dir()
    assert (checkpoints.folder / "step-00000003.set-aside-2").is_dir()  # what was kept before still is
    save(checkpoints, 2)
    assert checkpoints.choose().name == "step-00000002"
    assert checkpoints.choose(1).name == "step-00000001"  # and so is the same step after a command without it


def test_who_is_refused_finds_all_checkpoints_in_their_place(tmp_path):
    checkpoints = Checkpoints(tmp_path, 5)
    for step in (1, 2, 3):
        save(checkpoints, step)

    def refuse(path):
        raise ValueError(f"{path.name} has another length")

    with pytest.raises(ValueError, match="step-00000001 has another length"):
        checkpoints.choose(1, refuse)
    assert len(names(checkpoints)) == 3
    assert not (tmp_path / "rewound.json").exists()


def test_what_was_measured_is_written_and_summed(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)

    def write(folder):
        write_json(folder / "model.json", {"extra": {"step": 1}})

    folder = checkpoints.save(1, write, state_of(1))
    before = (folder / "state.json").read_bytes()
    for _ in range(2):
        checkpoints.record(folder, {"AP50": 12.5}, finished=True)
        assert damage_of(folder) is None
        assert checkpoints.best() == {"checkpoint": "step-00000001", "score": 12.5}
        assert json.loads((folder / "model.json").read_text())["extra"]["AP50"] == 12.5
    (folder / "state.json").write_bytes(before)  # killed between the two files, of which the first is new
    checkpoints.record(folder, {"AP50": 12.5}, finished=True)
    assert damage_of(folder) is None
    flip(folder / "model.json", -4)
    assert "model.json" in damage_of(folder)


def test_only_what_the_run_made_is_ever_touched(tmp_path):
    """Before, a stray file stopped it, other folders were deleted, and one that sorts last cost the real ones."""
    checkpoints = Checkpoints(tmp_path, 1)
    save(checkpoints, 1)
    save(checkpoints, 2)
    stray = ("step-first-good", "step-2", "notes", ".step-x.writing", "step-00000009.copy", "step-0000000９")
    for name in stray:
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / MARKER).touch()
        (checkpoints.folder / f"{name}.unmarked").mkdir()
    for name in ("file", "step-00000007"):
        (checkpoints.folder / name).write_text("mine")
    (checkpoints.folder / "step-00000008").symlink_to(checkpoints.folder / "notes.unmarked")
    kept = {path.name for path in checkpoints.folder.iterdir()}
    (checkpoints.folder / "step-00000005").mkdir()
    (checkpoints.folder / ".step-00000006.writing").mkdir()
    checkpoints.tidy()
    assert {path.name for path in checkpoints.folder.iterdir()} == kept
    assert checkpoints.choose().name == "step-00000002"
    save(checkpoints, 3)
    assert {path.name for path in checkpoints.folder.iterdir()} == kept - {"step-00000002"} | {"step-00000003"}
    save(checkpoints, 123456789)
    save(checkpoints, 123456790)
    assert names(checkpoints) == ["step-123456790"]


@pytest.fixture
def done(monkeypatch):
    """What reaches the disk, in order: ("sync", path, size), ("rename", old, new)."""
    events = []
    sync = os.fsync

    def note_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", path, path.stat().st_size if path.is_file() else None))
        sync(descriptor)

    def noted(rename):
        def note(old, new):
            assert not list(Path(old).glob(MARKER)), "marked before the rename"
            events.append(("rename", Path(old), Path(new)))
            rename(old, new)

        return note

    monkeypatch.setattr(os, "fsync", note_sync)
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
        ("sync", final / f".{MARKER}.writing", (final / MARKER).stat().st_size),
        ("rename", final / f".{MARKER}.writing", final / MARKER),
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
from tests.train.runs import state_of
checkpoints = Checkpoints(Path(sys.argv[1]), 2)
checkpoints.tidy()
newest = checkpoints.newest()
step = int(newest.name[5:]) if newest else 0
while True:
    step += 1
    def write(folder):
        for part in range(4):
            (folder / f"part{part}").write_bytes(step.to_bytes(8, "little") * 20000)
    checkpoints.save(step, write, state_of(step, float(step)))
    print(step, flush=True)
"""


@pytest.mark.long
def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path):
    """SIGKILL at 8 random moments of continuous saving: what counts as complete holds every byte."""
    generator, last = random.Random(0), 0
    run = tmp_path / "run"
    (tmp_path / "saver.py").write_text(SAVER)
    for _ in range(8):
        process, least = Job(tmp_path / "saver.py", run, folder=tmp_path), generator.randint(1, 3)
        while process.output.count("\n") < least:
            assert not process.ended, process.output
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        assert process.wait() == KILLED
        reported = [int(line) for line in process.output.split()]
        checkpoints = Checkpoints(run, 2)
        step = read_state(checkpoints.newest())["step"]
        assert step >= max(reported)
        for path in checkpoints.complete():
            assert damage_of(path) is None
            expected = read_state(path)["step"].to_bytes(8, "little") * 20000
            assert all((path / f"part{part}").read_bytes() == expected for part in range(4))
        last = step
    assert last >= 8
    best = json.loads((run / "best.json").read_text())
    assert (checkpoints.folder / best["checkpoint"]).exists()
