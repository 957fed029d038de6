"""Measuring while training: after saving, so that a kill loses nothing, and without any effect on what is trained."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from pipeline.command.ranks import World
from pipeline.packed.derive import derive, nothing_known
from pipeline.packed.reader import PackedDataset
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.start import train
from train.task import DetectionTask
from train.trainer import STOPPED, Trainer

WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture
def measured_config(student_config, packed):
    """A score threshold of 0 and more detections than places, so that what has learnt nothing hits some objects.

    With 20 detections an image it is a matter of rounding whether any of them does.
    """
    optimizer = replace(student_config.optimizer, ema_decay=0.9)
    model = replace(
        student_config.model, score_threshold=0.0, rpn_pre_nms_test=300, rpn_post_nms_test=200, detections_per_image=400
    )
    return replace(student_config, val=packed, val_every=2, optimizer=optimizer, model=model)


def validations(run):
    return {line["step"]: line["validation"] for line in read_log(run / "log.jsonl") if "validation" in line}


def tensors(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors") | load_file(newest / "training.safetensors")


def assert_same_tensors(run, other):
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_measuring_changes_nothing_that_is_trained(measured_config, tmp_path):
    assert train(measured_config, WORLD) == 0
    found = validations(measured_config.out)
    assert list(found) == [2, 4, 6]
    assert all(score["mAP"] > 0 for score in found.values()), "without a detection the test shows nothing"
    without = replace(measured_config, val=None, val_every=None, out=tmp_path / "without")
    assert train(without, WORLD) == 0
    assert_same_tensors(measured_config.out, without.out)


def test_the_score_is_of_the_weights_that_are_saved_and_lies_beside_them(measured_config, monkeypatch):
    """Those of the moving average."""
    seen = []

    def note(self, detector, detect=None):
        seen.append({name: value.clone() for name, value in detector.state_dict().items()})
        return {"AP50": 10.0 + len(seen), "mAP": 5.0}

    monkeypatch.setattr(DetectionTask, "score", note)
    teacher, *_ = (note(None, torch.nn.Linear(1, 1)),)  # the first call is about the teacher
    monkeypatch.setattr(DetectionTask, "begin", lambda *_: None)
    config = replace(measured_config, keep=10)
    assert train(config, WORLD) == 0
    checkpoints = Checkpoints(config.out, 1)
    for step, held in zip((2, 4, 6), seen[1:], strict=True):
        folder = checkpoints.folder / f"step-{step:08d}"
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(saved[name], held[name]) for name in saved)
        score = teacher["AP50"] + step // 2
        assert json.loads((folder / "model.json").read_text())["extra"]["AP50"] == score
        assert read_state(folder)["score"] == score
    assert checkpoints.best() == {"checkpoint": "step-00000006", "score": 14.0}
    assert not torch.equal(seen[1]["rpn.head.conv.0.0.weight"], tensors(config.out)["weights.rpn.head.conv.0.0.weight"])


@pytest.mark.long
@pytest.mark.parametrize("moment", [2, 6])
def test_killed_while_measuring_and_restarted_equals_undisturbed(measured_config, monkeypatch, tmp_path, moment):
    """In the middle of the run, and after its last step."""
    whole = replace(measured_config, out=tmp_path / "whole")
    assert train(whole, WORLD) == 0
    measure = Trainer.measure_saved

    def killed(self, log):
        if self.at.step == moment:
            patch.setattr(DetectionTask, "score", interrupted)
        measure(self, log)

    def interrupted(self, detector, detect=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "measure_saved", killed)
        with pytest.raises(KeyboardInterrupt):
            train(measured_config, WORLD)
    newest = Checkpoints(measured_config.out, 1).newest()
    state = read_state(newest)
    assert (state["step"], state["score"], state["finished"]) == (moment, None, False)
    assert train(measured_config, WORLD) == 0
    assert validations(measured_config.out) == validations(whole.out)
    assert_same_tensors(measured_config.out, whole.out)
    assert Checkpoints(measured_config.out, 1).best() == Checkpoints(whole.out, 1).best()
    assert read_state(Checkpoints(measured_config.out, 1).newest())["finished"]


@pytest.mark.long
@pytest.mark.parametrize("moment", [2, 6])
@pytest.mark.parametrize("recorded", [False, True])
def test_killed_beside_recording_each_score_has_one_log_line(measured_config, monkeypatch, moment, recorded):
    """After the line was logged, before or after the checkpoint holds the score."""
    record = Checkpoints.record

    def killed(self, checkpoint, score, finished):
        if recorded or read_state(checkpoint)["step"] != moment:
            record(self, checkpoint, score, finished)
        if read_state(checkpoint)["step"] == moment:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(measured_config, WORLD)
    before = read_log(measured_config.out / "log.jsonl")
    assert train(replace(measured_config, val_images=8), WORLD) == 0  # a later measuring may differ
    lines = read_log(measured_config.out / "log.jsonl")
    found = [line for line in lines if "validation" in line]
    assert [line["step"] for line in found] == [2, 4, 6]
    for line in found:
        images = 22 if line["step"] < moment or (recorded and line["step"] == moment) else 8
        assert line["validation"]["num_images"] == images
    trained = [line for line in before if "losses" in line]
    assert [line for line in lines if "losses" in line][: len(trained)] == trained
    assert read_state(Checkpoints(measured_config.out, 1).newest())["score"] == found[-1]["validation"]["AP50"]


def test_a_score_that_is_not_measured_again_keeps_its_log_line(measured_config, monkeypatch):
    """The next start has no --val."""
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "record", lambda *_, **__: None)
        assert train(measured_config, WORLD) == 0
    assert train(replace(measured_config, val=None, val_every=None), WORLD) == 0
    assert list(validations(measured_config.out)) == [2, 4, 6]


def test_sigterm_saves_before_it_measures(begin, measured_config, monkeypatch):
    """At the last step too: the score is left to the next start, which measures the final weights."""
    trainer = begin(measured_config)
    one_step = trainer.task.one_step

    def step_and_signal(views, step, stop):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_signal
    assert trainer.train() == STOPPED
    state = read_state(Checkpoints(measured_config.out, 1).newest())
    assert (state["step"], state["score"], state["finished"]) == (6, None, False)
    assert list(validations(measured_config.out)) == [2, 4]
    assert train(measured_config, WORLD) == 0
    assert list(validations(measured_config.out)) == [2, 4, 6]
    state = read_state(Checkpoints(measured_config.out, 1).newest())
    assert state["finished"]
    assert state["score"] == validations(measured_config.out)[6]["AP50"]


def test_a_run_whose_score_is_not_wanted_any_more_is_finished(begin, measured_config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "measure_saved", lambda *_: None)
        assert begin(measured_config).train() == 0
    assert not read_state(Checkpoints(measured_config.out, 1).newest())["finished"]
    assert train(replace(measured_config, val=None, val_every=None), WORLD) == 0
    assert read_state(Checkpoints(measured_config.out, 1).newest())["finished"]


def test_validation_data_without_an_object_that_counts_is_an_error_before_the_first_step(measured_config, tmp_path):
    dataset = PackedDataset(measured_config.val)
    derive(dataset, tmp_path / "unlabelled", range(len(dataset)), {}, nothing_known(dataset))
    with pytest.raises(ValueError, match="unlabelled has no object that counts, so no AP exists; give other images"):
        train(replace(measured_config, val=tmp_path / "unlabelled"), WORLD)


def test_a_finished_run_is_not_measured_on_other_data(measured_config, packed, packed_other_classes, tmp_path, capsys):
    """Before, it said that it is finished, and nothing was measured."""
    config = replace(measured_config, steps=1)
    assert train(config, WORLD) == 0
    other = replace(config, val=packed_other_classes)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"finished and was measured on .*, --val .* requested.*eval.run .* --data"
        ):
            train(other, WORLD)
    moved = tmp_path / "moved"
    shutil.copytree(packed, moved)
    for val in (moved, None, packed):
        assert train(replace(config, val=val, val_every=None if val is None else 2), WORLD) == 0
    assert capsys.readouterr().out.count("is finished") == 3
    unmeasured = replace(config, val=None, val_every=None, out=tmp_path / "unmeasured")
    assert train(unmeasured, WORLD) == 0
    with pytest.raises(ValueError, match="was measured on no data"):
        train(replace(config, out=unmeasured.out), WORLD)
