"""Whole runs, small: two phases, resuming to the bit, skipped steps, mistakes of the user."""

import json
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from pipeline.command.ranks import World
from pipeline.views import ViewConfig
from train.config import OptimizerConfig
from train.recipes import CLEAN, RECIPES
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.record.trace import TracePlan
from train.run import main
from train.start import read_command, train
from train.task import DetectionTask

WORLD = World(0, 1, torch.device("cpu"))


def losses(run):
    return [(line["step"], line["losses"], line["logged"]) for line in read_log(run / "log.jsonl") if "losses" in line]


def tensors(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors") | load_file(newest / "training.safetensors")


def assert_same_run(run, other):
    assert losses(run) == losses(other)
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


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
    ("stop_at", "kind", "number"), [(2, "sgd", signal.SIGTERM), (4, "adamw", signal.SIGINT)]
)  # fmt: skip
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


def test_a_second_interrupt_stops_at_once(begin, student_config):
    before = signal.getsignal(signal.SIGINT)
    trainer = begin(student_config)
    one_step = trainer.task.one_step

    def step_and_interrupt_twice(views, step, stop):
        one_step(views, step, stop)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.task.one_step = step_and_interrupt_twice
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert Checkpoints(student_config.out, 1).newest() is None
    assert signal.getsignal(signal.SIGINT) is before


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
    del values["views"]["masks"]
    path.write_text(json.dumps(values))
    assert train(config, WORLD) == 0


def test_config_json_repeats_the_run(student_config):
    assert train(replace(student_config, steps=1), WORLD) == 0
    again = read_command([str(student_config.out / "config.json")])
    assert again == replace(student_config, steps=1)
    assert read_command([str(student_config.out / "config.json"), "--seed", "5"]).seed == 5


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
    assert f"student: starts from {teacher_run}: {len(weights)} of {len(weights)} tensors\n" in capsys.readouterr().out
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
    assert "not used: roi_heads.box_head.fc6" in capsys.readouterr().out
    larger = replace(plain, model=replace(plain.model, backbone="resnet18", weights="none"))
    with pytest.raises(ValueError, match="nothing fits this run's backbone"):
        begin(larger)


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
    assert "sgd with learning rate 0.005: 0.02 for 16 images, scaled linearly to 4" in capsys.readouterr().out


def no_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def end_with(monkeypatch, end):
    """A run that is not even loaded."""

    class Ending:
        def __init__(self, *_):
            pass

        def train(self):
            if isinstance(end, Exception):
                raise end
            end()

    monkeypatch.setattr("train.trainer.Trainer", Ending)


class CudaAPIError(Exception):
    """Numba's; not a RuntimeError."""


@pytest.mark.parametrize(
    "end",
    [
        no_gpu_memory,
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError("NCCL error ...\nLast error:\nCuda failure 2 'out of memory'"),
        CudaAPIError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("Critical error in pipeline:\nError in MIXED operator: CUDA allocation failed"),
        RuntimeError("Error in GPU operator: Can't allocate 637534208 bytes on device 0."),
        RuntimeError("nvJPEG error: NVJPEG_STATUS_ALLOCATOR_FAILURE"),
    ],
)
def test_out_of_memory_names_the_settings_to_lower(student_config, monkeypatch, end):
    end_with(monkeypatch, end)
    with pytest.raises(ValueError, match=r"--batch-size \(now 4 .*--model.regions-per-image \(now 16\)"):
        train(student_config, WORLD)


@pytest.mark.parametrize(
    "end",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError(),
        MemoryError("Unable to allocate 8.00 EiB for an array with shape (1152921504606846976,)"),
        OSError(12, "Cannot allocate memory"),
        ValueError("no checkpoint at runs/out of memory"),
        FileNotFoundError(2, "No such file or directory", "runs/out_of_memory/best.json"),
    ],
)
def test_another_error_stays_what_it_is(student_config, monkeypatch, end):
    end_with(monkeypatch, end)
    with pytest.raises(type(end)) as caught:
        train(student_config, WORLD)
    assert caught.value is end


def traced_steps(run):
    events = json.loads((run / "trace-rank0.json").read_text())["traceEvents"]
    names = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
    return sorted(int(name.removeprefix("ProfilerStep#")) for name in names)


@pytest.mark.parametrize(
    ("change", "rare_at", "wait", "first", "compiling"),
    [
        ({"compile": "off"}, 13, 500, 10, False),
        ({"compile": "on"}, 11, 500, 13, False),
        ({"compile": "on"}, 13, 12, 12, True),
        ({"compile": "on"}, 99, 500, 15, False),  # as late as the run's 20 steps allow
        ({"compile": "on", "distill": (), "teacher": None}, 11, 500, 13, False),
    ],
)
def test_a_trace_begins_when_every_canvas_is_compiled(
    begin, student_config, monkeypatch, capsys, change, rare_at, wait, first, compiling
):
    """The larger of two student canvases comes in one step only."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr("train.trainer.PROFILE_WAIT", wait)
    views = ViewConfig(ratio_range=(0.4, 1.0), ratio_buckets=3, corruptions=())
    trainer = begin(replace(student_config, views=views, profile=True, steps=20, **change))
    buckets = views.buckets()
    assert len(trainer.task.maker.corrupted_canvases((64, 96))) == 2
    trainer.task.maker.draw_bucket = lambda seed, draw: buckets[-1 if draw == rare_at else 0]
    assert trainer.train() == 0
    assert traced_steps(student_config.out) == list(range(first, first + 5))
    assert trainer.at.step == first + 5
    assert ("1 traced step may have compiled" in capsys.readouterr().out) == compiling


@pytest.mark.parametrize(
    ("visits", "rare_at", "latest", "first", "num_new"),
    [
        (1, [3], 500, 10, 0),
        (1, [9], 500, 11, 0),  # the step after it is the profiler's own warm-up
        (1, [11], 12, 12, 0),  # in that warm-up
        (1, [12, 13], 12, 12, 1),
        (1, [17], 12, 12, 0),  # after the trace
        (2, [2, 14], 500, 16, 0),  # compiled, then recorded as a CUDA graph
        (2, [2], 20, 20, 0),
        (2, [20, 24], 20, 20, 2),
    ],
)
def test_when_a_trace_begins(visits, rare_at, latest, first, num_new):
    plan = TracePlan({(None, (32, 32)), (None, (64, 64))}, visits, latest)
    actions = [plan(0)]
    for step in range(30):
        side = 64 if step in rare_at else 32
        plan.saw(SimpleNamespace(clean=None, corrupted=SimpleNamespace(images_B3HW=torch.empty(1, 3, side, side))))
        actions.append(plan(step + 1))
    traced = ["WARMUP", "RECORD", "RECORD", "RECORD", "RECORD", "RECORD_AND_SAVE"]
    assert [action.name for action in actions] == ["NONE"] * (first - 1) + traced + ["NONE"] * (26 - first)
    assert (plan.end, plan.num_new) == (first + 5, num_new)


def test_profile_writes_a_trace(student_config):
    with pytest.raises(ValueError, match=r"--profile traces steps 10 to 15, but only 6 are left"):
        train(replace(student_config, profile=True), WORLD)
    config = replace(student_config, profile=True, steps=16)
    assert train(config, WORLD) == 0
    trace = json.loads((config.out / "trace-rank0.json").read_text())
    assert len(trace["traceEvents"]) > 100
