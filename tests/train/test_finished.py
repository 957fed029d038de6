"""When a run is finished, what may be changed of it then, and steps that are not finite."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests.train.runs import WORLD, assert_same_run, tensors
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.run import main
from train.start import train


def test_a_finished_run_is_left_alone(student_config, capsys):
    assert train(student_config, WORLD) == 0
    files = {path: path.stat().st_mtime_ns for path in student_config.out.rglob("*") if path.is_file()}
    assert train(student_config, WORLD) == 0
    assert "finished" in capsys.readouterr().out
    changed = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in changed} <= {".lock", "config.json"}


def test_a_finished_run_of_other_data_or_another_teacher_is_refused(
    student_config, packed_other_classes, teacher_run, packed, tmp_path, capsys
):
    """Before, it said that it is finished."""
    config = replace(student_config, steps=1)
    assert train(config, WORLD) == 0
    with pytest.raises(ValueError, match=r"--data .* is not the data this run was trained with"):
        train(replace(config, data=(packed_other_classes,)), WORLD)
    with pytest.raises(ValueError, match=r"--data nowhere|nowhere is not a packed dataset"):
        train(replace(config, data=(tmp_path / "nowhere",)), WORLD)
    other = tmp_path / "other"
    assert train(replace(RECIPES["teacher_small"][1](), **{
        name: getattr(config, name) for name in ("data", "model", "optimizer", "loader", "batch_size", "device")
    }, epochs=0, steps=1, out=other), WORLD) == 0  # fmt: skip
    with pytest.raises(ValueError, match=r"--teacher .*other is not the teacher this run was trained with"):
        train(replace(config, teacher=other), WORLD)
    moved = tmp_path / "moved"
    shutil.copytree(packed, moved)
    assert train(replace(config, data=(moved,)), WORLD) == 0
    shutil.rmtree(moved)
    assert train(replace(config, data=(moved,)), WORLD) == 0  # the same command, whose data were removed since
    assert capsys.readouterr().out.count("is finished") == 2


def test_the_command_of_a_finished_run_needs_neither_data_nor_teacher(
    student_config, packed, tmp_path, monkeypatch, capsys
):
    data, teacher = tmp_path / "data", tmp_path / "teacher"
    shutil.copytree(packed, data)
    shutil.copytree(student_config.teacher, teacher)
    config = replace(student_config, steps=1, data=(data,), teacher=teacher)
    assert train(config, WORLD) == 0
    shutil.rmtree(data)
    shutil.rmtree(teacher)
    recipe = shutil.copy(config.out / "config.json", tmp_path / "again.json")
    command = [str(recipe), "--data", str(data), "--teacher", str(teacher), "--device", "cpu"]
    capsys.readouterr()
    for out in (["--out", str(config.out)], [f"--out={config.out}"]):
        monkeypatch.setattr("sys.argv", ["train.run", *command, *out])
        assert main() == 0
        assert "is finished" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["train.run", *command, "--out", str(tmp_path / "new")])
    with pytest.raises(ValueError, match="data is not a packed dataset"):
        main()


def test_a_finished_run_is_made_longer_to_the_bit_where_the_schedule_allows(student_config, tmp_path):
    optimizer = replace(student_config.optimizer, schedule="step", milestones=())
    whole = replace(student_config, optimizer=optimizer, out=tmp_path / "whole")
    assert train(whole, WORLD) == 0
    config = replace(whole, out=student_config.out)
    assert train(replace(config, steps=4), WORLD) == 0
    assert train(config, WORLD) == 0
    assert_same_run(config.out, whole.out)
    with pytest.raises(ValueError, match=r"has 6 steps already, 4 steps requested; choose another --out"):
        train(replace(config, steps=4), WORLD)
    with pytest.raises(ValueError, match=r"only a length in steps can be changed.*--student-init .* --out ANOTHER"):
        train(replace(config, steps=0, epochs=3), WORLD)


@pytest.mark.parametrize(("schedule", "at"), [("step", 4), ("cosine", 1)])
def test_what_cannot_be_made_longer_says_how_to_start_from_its_weights(student_config, schedule, at):
    config = replace(student_config, optimizer=replace(student_config.optimizer, schedule=schedule))
    assert train(config, WORLD) == 0
    told = (
        rf"for 6 steps, 9 steps requested: with the {schedule} schedule step {at} had .*--student-init .*student --out"
    )
    with pytest.raises(ValueError, match=told):
        train(replace(config, steps=9), WORLD)


def poison(trainer, steps):
    """At these steps one pixel of the student's view is not a number."""
    start = trainer.task.maker.start

    def start_poisoned(batch, draw):
        started = start(batch, draw)
        if draw in steps:
            started.views.corrupted.images_B3HW[0, 0, 0, 0] = float("nan")
        return started

    trainer.task.maker.start = start_poisoned


def test_a_step_that_is_not_finite_is_skipped_and_named(begin, student_config, capsys):
    trainer = begin(student_config)
    poison(trainer, {0, 3})
    assert trainer.train() == 0
    skipped = [line for line in read_log(student_config.out / "log.jsonl") if "skipped" in line]
    assert [line["step"] for line in skipped] == [1, 4]
    assert "total" in skipped[0]["skipped"]
    assert "gradient_norm" in skipped[0]["skipped"]
    assert len(skipped[0]["ids"]) == 4
    assert "step 3 was skipped" in capsys.readouterr().out
    assert all(value.isfinite().all() for name, value in tensors(student_config.out).items() if name != "window")


def test_too_many_bad_steps_in_a_row_end_the_run_and_spoil_nothing(begin, student_config):
    """Not even the running statistics of batch norms, which a forward pass changes."""
    config = replace(student_config, max_skipped=1, model=replace(student_config.model, norm="batch"))
    trainer = begin(config)
    before = {name: value.clone() for name, value in trainer.task.student.state_dict().items()}
    poison(trainer, set(range(10)))
    with pytest.raises(ValueError, match=r"2 steps in a row .* --max-skipped is 1.*image ids"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trainer.task.student.state_dict().items())


def test_a_run_whose_last_steps_were_skipped_is_finished_and_says_so(begin, student_config, capsys):
    """No more than --max-skipped: the weights are finite, and those of the last step that was not skipped."""
    trainer = begin(student_config)
    poison(trainer, {4, 5})
    assert trainer.train() == 0
    told = "warning: the last 2 steps of the run changed no weight"
    assert told in capsys.readouterr().out
    newest = Checkpoints(student_config.out, 1).newest()
    assert (read_state(newest)["finished"], read_state(newest)["in_a_row"]) == (True, 2)
    short = replace(student_config, out=student_config.out.parent / "short", max_skipped=0)
    trainer = begin(short)
    poison(trainer, {5})
    with pytest.raises(ValueError, match=r"1 steps in a row .* --max-skipped is 0"):
        trainer.train()
    assert train(student_config, WORLD) == 0
    assert told in capsys.readouterr().out


def test_a_run_that_skipped_every_step_is_not_finished(begin, student_config):
    trainer = begin(student_config)  # its six steps are fewer than --max-skipped
    poison(trainer, set(range(6)))
    with pytest.raises(ValueError, match=r"every step of this run was skipped.*nothing was trained"):
        trainer.train()
    newest = Checkpoints(student_config.out, 1).newest()
    assert newest is None or not read_state(newest)["finished"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_weights_that_are_not_finite_are_never_saved(begin, student_config, ema_decay):
    """The last update spoils them: no later loss shows it, and the guard of skipped steps sees nothing."""
    optimizer = replace(student_config.optimizer, ema_decay=ema_decay)
    trainer = begin(replace(student_config, optimizer=optimizer))
    one_step = trainer.task.one_step

    def spoil_at_the_end(views, step, stop):
        one_step(views, step, stop)
        if step == trainer.total - 1:
            next(iter(trainer.task.parameters.values())).data[0] = float("inf")

    trainer.task.one_step = spoil_at_the_end
    with pytest.raises(ValueError, match=r"after step 6 not all numbers are finite: .*lower --optimizer.learning-rate"):
        trainer.train()
    newest = Checkpoints(student_config.out, 1).newest()
    assert newest.name == "step-00000003"
    assert not read_state(newest)["finished"]
