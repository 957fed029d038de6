"""Whole runs, small: two phases, resuming to the bit, skipped steps, mistakes of the user."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from pipeline.command.ranks import World
from pipeline.pack import PackOptions, pack
from tests.train.conftest import draw_pictures
from tests.train.runs import WORLD, assert_same_run
from train.config import OptimizerConfig
from train.recipes import RECIPES
from train.recipes.sizes import CLEAN
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.start import read_command, train
from train.task import DetectionTask


def test_two_phases_and_what_they_leave_behind(student_config, teacher_run, packed):
    before = {path: path.read_bytes() for path in teacher_run.rglob("*.safetensors")}
    config = replace(student_config, val=packed, val_every=3)
    assert train(config, WORLD) == 0

    lines = [line for line in read_log(config.out / "log.jsonl") if "losses" in line]
    assert [line["step"] for line in lines] == [1, 2, 4, 6]  # the first line is about the very first step
    for line in lines:
        assert set(line["losses"]) == {"rpn_class", "rpn_box", "roi_class", "roi_box", "global", "instance", "total"}
        assert set(line["logged"]) == {"cosine_global", "cosine_instance"}
        parts = [value for name, value in line["losses"].items() if name != "total"]
        assert line["losses"]["total"] == pytest.approx(sum(parts), rel=1e-5)
        assert line["images_per_second"] > 0
        assert 0 <= line["waiting_share"] <= 1
        assert line["memory_gb"] > 0
    assert lines[0]["losses"]["global"] == pytest.approx(1 - lines[0]["logged"]["cosine_global"], abs=1e-5)
    scores = [line["validation"] for line in read_log(config.out / "log.jsonl") if "validation" in line]
    assert len(scores) == 2
    assert all(0 <= score["AP50"] <= 100 and score["num_images"] == 22 for score in scores)

    weights = load_file(Checkpoints(config.out, 1).newest() / "model.safetensors")
    teacher = load_file(Checkpoints(teacher_run, 1).newest() / "model.safetensors")
    assert weights.keys() == teacher.keys()  # the student's own tensors and nothing of the teacher
    assert any(not torch.equal(weights[name], teacher[name]) for name in weights)
    assert {path: path.read_bytes() for path in teacher_run.rglob("*.safetensors")} == before


def test_the_teacher_is_frozen_in_eval_mode_and_bit_identical(begin, student_config):
    trainer = begin(student_config)
    teacher = trainer.task.teacher.detector
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert trainer.train() == 0
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_each_network_is_given_its_own_image_and_boxes(begin, student_config, monkeypatch):
    trainer = begin(student_config)
    seen = []
    student, teacher = trainer.task.student, trainer.task.teacher.detector
    look, find_losses, teacher_look = student.look, student.losses, teacher.look
    monkeypatch.setattr(student, "look", lambda x, *a: seen.append(("student", x)) or look(x, *a))
    monkeypatch.setattr(teacher, "look", lambda x, *a: seen.append(("teacher", x)) or teacher_look(x, *a))
    monkeypatch.setattr(student, "losses", lambda *a: seen.append(("losses", a)) or find_losses(*a))
    with trainer.task.loader:
        views = trainer.task.maker(next(trainer.task.loader), 0)
    trainer.task.step(views, 0, 0.01)
    seen = dict(seen)
    assert seen["student"] is views.corrupted.images_B3HW
    assert seen["teacher"] is views.clean.images_B3HW
    out, truth, _ = seen["losses"]
    assert out.canvas == views.corrupted.images_B3HW.shape[-2:]
    assert truth.sizes_B2 is views.corrupted.sizes_B2
    assert truth.boxes_BG4 is views.corrupted.boxes_BG4
    assert not torch.equal(views.corrupted.boxes_BG4, views.clean.boxes_BG4)


@pytest.mark.parametrize(
    ("stop_at", "kind", "number"),
    [(5, "adamw", signal.SIGINT), pytest.param(4, "sgd", signal.SIGTERM, marks=pytest.mark.long)],
)
def test_stopped_and_continued_equals_uninterrupted_to_the_bit(begin, student_config, stop_at, kind, number, tmp_path):
    """A real signal in a step: the run stops after the next, in the middle of a log window, and is started again."""
    optimizer = replace(student_config.optimizer, name=kind, ema_decay=0.9)
    config = replace(student_config, optimizer=optimizer, log_every=3)
    whole = replace(config, out=tmp_path / "whole")
    assert train(whole, WORLD) == 0

    trainer = begin(config)
    one_step = trainer.task.one_step

    def step_and_signal(views, step, stop):
        if step == stop_at - 2:
            os.kill(os.getpid(), number)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_signal
    assert trainer.train() == 128 + number
    assert Checkpoints(config.out, 1).newest().name == f"step-{stop_at:08d}"
    assert train(config, WORLD) == 0
    assert_same_run(config.out, whole.out)


def test_a_second_interrupt_stops_at_once(begin, student_config, capsys):
    before = signal.getsignal(signal.SIGINT)
    trainer = begin(student_config)
    one_step = trainer.task.one_step

    def step_and_interrupt_twice(views, step, stop):
        one_step(views, step, stop)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.task.one_step = step_and_interrupt_twice
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert Checkpoints(student_config.out, 1).newest() is None
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again stops at once" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_before_the_first_step_stops_at_once(begin, student_config, number, ended):
    """Looking at a student's terms before its first step may take long, and there is nothing to save."""
    trainer = begin(student_config)

    def signalled(*_):
        os.kill(os.getpid(), number)
        time.sleep(60)

    trainer.task.one_step = signalled
    with pytest.raises(ended):
        trainer.train()
    assert Checkpoints(student_config.out, 1).newest() is None


def test_a_changed_configuration_is_an_error_that_shows_the_fields(student_config):
    assert train(replace(student_config, steps=1), WORLD) == 0
    changed = replace(student_config, steps=1, optimizer=replace(student_config.optimizer, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"(?s)optimizer.learning_rate: 0.01 in the run, 0.5 requested.*another --out"):
        train(changed, WORLD)
    assert train(replace(student_config, steps=1, save_every=5), WORLD) == 0  # changes nothing that is trained


def test_a_run_of_an_older_version_continues(student_config):
    """It does not know an option that came later."""
    config = replace(student_config, steps=1)
    assert train(config, WORLD) == 0
    path = config.out / "config.json"
    values = json.loads(path.read_text())
    del values["views"]["mask_epochs"]
    path.write_text(json.dumps(values))
    assert train(config, WORLD) == 0


def test_config_json_repeats_the_run(student_config):
    assert train(replace(student_config, steps=1), WORLD) == 0
    again = read_command([str(student_config.out / "config.json")])
    assert again == replace(student_config, steps=1)
    assert read_command([str(student_config.out / "config.json"), "--seed", "5"]).seed == 5


def test_a_damaged_checkpoint_costs_only_its_steps(student_config, capsys, tmp_path):
    """One flipped bit of the momentum: the run continues from the one before, and ends as if nothing had been."""
    assert train(student_config, WORLD) == 0
    damaged = student_config.out / "checkpoints" / "step-00000006" / "training.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 64
    damaged.write_bytes(data)
    whole = tmp_path / "whole"
    shutil.copytree(student_config.out, whole)
    assert train(replace(student_config, out=whole, from_step=3), WORLD) == 0
    assert "step-00000006 comes after step 3" in capsys.readouterr().out
    assert json.loads((whole / "config.json").read_text())["from_step"] is None  # the config repeats the whole run
    assert train(student_config, WORLD) == 0
    said = capsys.readouterr().out
    assert "step-00000006 is damaged: training.safetensors is not as it was written" in said
    assert "continuing" in said
    assert "from step 3" in said
    assert_same_run(student_config.out, whole)


def test_a_step_of_a_folder_without_checkpoint_is_refused(student_config):
    with pytest.raises(ValueError, match=r"--from-step 3: .* has no checkpoint"):
        train(replace(student_config, from_step=3), WORLD)


def test_a_damaged_checkpoint_is_not_used_as_a_teacher(begin, student_config, teacher_run, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_run, teacher)
    weights = Checkpoints(teacher, 1).newest() / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"step-00000006 is damaged: model.safetensors is not as it was written"):
        begin(replace(student_config, teacher=teacher))


def test_pictures_of_another_size_are_warned_about(begin, student_config, packed, tmp_path, capsys):
    begin(replace(student_config, val=packed))
    assert "another size" not in capsys.readouterr().out
    draw_pictures(tmp_path / "source", 6, seed=2)
    pack(PackOptions(root=tmp_path / "source", out=tmp_path / "large", short_side=96, long_side=128, workers=1))
    begin(replace(student_config, val=tmp_path / "large"))
    said = "warning: the run learned from pictures of --short-side 64 --long-side 96, "
    assert f"{said}{tmp_path / 'large'} was packed with --short-side 96 --long-side 128: " in capsys.readouterr().out
    begin(replace(student_config, data=(tmp_path / "large",)))
    assert f"warning: the teacher {student_config.teacher} learned from pictures of " in capsys.readouterr().out


def test_mistakes_are_explained(begin, student_config, packed, packed_other_classes, teacher_run):
    for change, message in (
        ({"data": (packed_other_classes,)}, r"class lists differ.*person.*car"),
        ({"val": packed_other_classes}, r"class lists differ"),
        ({"teacher": None}, r"needs a trained teacher: --teacher"),
        ({"teacher": student_config.out / "nowhere"}, r"no checkpoint at"),
        ({"distill": (replace(student_config.distill[0], strides=(4,)),)}, r"no one level of stride 4"),
        ({"distill": ()}, r"--teacher is given, but this run does not distil"),
        ({"student_init": "somewhere"}, r"no checkpoint at somewhere"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(replace(student_config, **change))
    with pytest.raises(ValueError, match="does not divide over 3 ranks"):
        begin(student_config, World(0, 3, torch.device("cpu")))


def test_other_data_under_the_same_name_is_noticed(begin, student_config, packed_other_classes, tmp_path):
    first = replace(RECIPES["plain_small"][1](), **{
        name: getattr(student_config, name)
        for name in ("data", "out", "model", "optimizer", "loader", "batch_size", "device", "compile")
    }, steps=2, save_every=1, log_every=1)  # fmt: skip
    trainer = begin(first)
    trainer.total = 1
    trainer.train()
    with pytest.raises(ValueError, match="not the data this run was trained with"):
        begin(replace(first, data=(packed_other_classes,)))


def test_the_student_may_start_from_the_teacher(begin, student_config, teacher_run):
    config = replace(student_config, student_init="teacher")
    trainer = begin(config)
    trainer.task.loader.close()
    teacher = load_file(Checkpoints(teacher_run, 1).newest() / "model.safetensors")
    assert all(torch.equal(value, teacher[name]) for name, value in trainer.task.student.state_dict().items())


def weights_of(run) -> dict[str, torch.Tensor]:
    return load_file(Checkpoints(run, 1).newest() / "model.safetensors")


CLASS_LAYERS = {
    f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
}


def taken(begin, config, run) -> set[str]:
    """The student's tensors that are those of the run's checkpoint."""
    trainer = begin(config)
    trainer.task.loader.close()
    weights = weights_of(run)
    return {
        name
        for name, value in trainer.task.student.state_dict().items()
        if name in weights and torch.equal(value, weights[name])
    }


def test_the_student_starts_from_a_detector_of_other_classes(
    begin, student_config, packed_other_classes, teacher_run, capsys
):
    """As many classes, in another order: their layers are drawn anew, everything else is taken."""
    plain = replace(student_config, teacher=None, distill=(), student_init=str(teacher_run))
    weights = weights_of(teacher_run)
    same = taken(begin, plain, teacher_run)
    assert same == set(weights)
    assert f"starts from {teacher_run}: {len(weights)} of {len(weights)} tensors\n" in capsys.readouterr().out
    other = replace(plain, data=(packed_other_classes,), out=plain.out.parent / "other")
    assert set(weights) - taken(begin, other, teacher_run) == CLASS_LAYERS
    assert "drawn anew: roi_heads.box_predictor.bbox_pred.bias, roi_heads" in capsys.readouterr().out


def test_the_student_starts_from_a_detector_of_another_kind(begin, student_config, teacher_run, capsys):
    """The backbone and the pyramid's common part are taken."""
    plain = replace(student_config, teacher=None, distill=(), student_init=str(teacher_run))
    wider = replace(plain, model=replace(plain.model, representation_size=24), out=plain.out.parent / "wider")
    missed = set(weights_of(teacher_run)) - taken(begin, wider, teacher_run)
    assert {name for name in missed if name.startswith("backbone.")} == set()
    assert "roi_heads.box_head.fc6.weight" in missed
    assert "not used: roi_heads.box_head.* (" in capsys.readouterr().out
    larger = replace(plain, model=replace(plain.model, backbone="resnet18", weights="none"))
    with pytest.raises(ValueError, match="nothing fits this run's backbone"):
        begin(larger)


def test_a_teachers_file_without_names_has_the_datas_classes(begin, student_config, teacher_run, tmp_path, capsys):
    torch.save(weights_of(teacher_run), tmp_path / "teacher.pth")
    task = begin(replace(student_config, teacher=tmp_path / "teacher.pth")).task
    assert task.teacher.detector.num_classes == 3
    assert "teacher.pth: its classes are those of the data: car, person\n" in capsys.readouterr().out
    lacking = {name: value[:2] if name in CLASS_LAYERS else value for name, value in weights_of(teacher_run).items()}
    for name in (name for name in CLASS_LAYERS if "bbox_pred" in name):
        lacking[name] = weights_of(teacher_run)[name][:8]
    torch.save(lacking, tmp_path / "fewer.pth")
    with pytest.raises(ValueError, match=r"fewer.pth: weights of 1 classes without background; got 2 names"):
        begin(replace(student_config, teacher=tmp_path / "fewer.pth"))


def test_the_teachers_quality_is_said(begin, student_config, packed, capsys, monkeypatch):
    def said(config):
        begin(config).task.loader.close()
        return capsys.readouterr().out

    assert "AP on its source is not known" in said(student_config)
    measured = replace(student_config, val=packed)
    monkeypatch.setattr(DetectionTask, "score", lambda *_: {"AP50": 0.4})
    assert "warning: the teacher's AP50 on its source is 0.4, no better than chance" in said(measured)
    monkeypatch.setattr(DetectionTask, "score", lambda *_: {"AP50": 61.0})
    good = said(measured)
    assert "the teacher's AP50 on its source is 61.0" in good
    assert "chance" not in good


def test_a_teacher_that_was_stopped_is_said(begin, student_config, tmp_path, capsys):
    teacher = begin(replace(student_config, teacher=None, distill=(), out=tmp_path / "stopped"))
    one_step = teacher.task.one_step

    def step_and_terminate(views, step, stop):
        one_step(views, step, stop)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    teacher.task.one_step = step_and_terminate
    assert teacher.train() == 143
    capsys.readouterr()
    begin(replace(student_config, teacher=tmp_path / "stopped")).task.loader.close()
    assert f"the teacher {tmp_path / 'stopped'} is not finished: it stopped after step 3" in capsys.readouterr().out


def test_a_run_without_signal_is_noticed_at_step_0(student_config, teacher_run, capsys):
    """A student that starts as the teacher and sees the same clean image agrees with it entirely."""
    config = replace(student_config, student_init="teacher", views=CLEAN, steps=1)
    assert train(config, WORLD) == 0
    printed = capsys.readouterr().out
    assert "cosine global 1.0000, cosine instance 1.0000" in printed
    assert "nothing to teach" in printed
    assert train(replace(student_config, steps=1, out=config.out.parent / "other"), WORLD) == 0
    printed = capsys.readouterr().out
    assert "at step 0: cosine global" in printed
    assert "nothing to teach" not in printed


def test_the_learning_rate_is_scaled_and_said(begin, student_config, capsys):
    config = replace(student_config, optimizer=OptimizerConfig(learning_rate=0.02, base_batch_size=16))
    trainer = begin(config)
    trainer.task.loader.close()
    assert trainer.task.rate == pytest.approx(0.005)
    assert "sgd with learning rate 0.005 (0.02 for 16 images, scaled linearly);" in capsys.readouterr().out
