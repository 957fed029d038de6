"""Several methods in a run, and methods that own parameters: trained, clipped, saved, resumed, never shipped."""

import copy
import json
import os
import shutil
import signal
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from model.api import Want, own
from model.detectors import new_detector
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import write_json
from tests.jobs import Job
from tests.train.placed import make_views
from train.config import Config, upgrade
from train.distill import METHODS, CdFkdConfig, CmkdConfig, Pkd, PkdConfig, PseudoConfig
from train.distill.method import Method
from train.load import make_learner
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.shares import Term, first_images, measure_agreement, measure_shares, say_shares
from train.start import read_command, train
from train.step import Learner, Teacher
from train.trainer import STOPPED

WORLD = World(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class PlainConfig:
    kind: ClassVar[str] = "plain"


class Plain(Method):
    """A convolution of its own on the student's map, whose distance to the teacher's it learns to lower.

    And a running mean of the teacher's map, as a buffer.
    """

    def __init__(self, config, student, teacher, mean):
        super().__init__(config, student, teacher, mean)
        self.weights = {"plain": 1.0}
        self.want_student = self.want_teacher = Want(neck=(32,))
        self.level = student.strides.index(32)
        self.layer = nn.Conv2d(student.channels, teacher.channels, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        self.register_buffer("usual", torch.zeros(()))

    def forward(self, seen, teacher, assigned, views):
        ours, theirs = self.layer(seen["corrupted"].neck[self.level]), teacher.neck[self.level]
        with torch.no_grad():
            self.usual.lerp_(theirs.mean(), 0.5)
        return {"plain": (ours.mean((2, 3)) - theirs.mean((2, 3))).square().mean()}, {}


@pytest.fixture
def config(student_config, monkeypatch):
    monkeypatch.setitem(METHODS, PlainConfig, Plain)
    optimizer = replace(student_config.optimizer, ema_decay=0.9, clip_norm=0.5)
    return replace(student_config, distill=(*student_config.distill, PlainConfig()), optimizer=optimizer, log_every=3)


def saved(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors"), load_file(newest / "training.safetensors")


def test_a_methods_own_layers_are_trained_and_saved_and_not_shipped(begin, config):
    trainer = begin(config)
    layers = {name: value for name, value in trainer.task.parameters.items() if name.startswith("method.")}
    assert set(layers) == {"method.plain.layer.weight", "method.plain.layer.bias"}
    before = {name: value.clone() for name, value in layers.items()}
    assert trainer.train() == 0
    shipped, kept = saved(config.out)
    assert not [name for name in shipped if "plain" in name]
    for name, value in layers.items():
        assert not torch.equal(value, before[name])
        assert torch.equal(kept[name], value)
        assert f"optimizer.momentum_buffer.{name}" in kept
    assert kept["method.plain.usual"] == trainer.task.learner.methods["plain"].usual != 0
    assert "plain" in read_log(config.out / "log.jsonl")[0]["losses"]


def test_the_norm_that_is_clipped_holds_their_gradient(begin, config):
    trainer = begin(config)
    with trainer.task.loader:
        views = trainer.task.maker(next(trainer.task.loader), 0)
    total, _ = trainer.task.learner(views, trainer.task.teacher(views))
    total.backward()
    norms = [value.grad.norm() for value in trainer.task.parameters.values() if value.grad is not None]
    expected = torch.stack(norms).norm().item()
    trainer.task.optimizer.inner.zero_grad(set_to_none=True)
    trainer.task.step(views, 0, 0.0)
    assert trainer.task.window.read(0, 1).means[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_stopped_and_continued_equals_uninterrupted_to_the_bit(begin, config, tmp_path):
    whole = replace(config, out=tmp_path / "whole")
    assert train(whole, WORLD) == 0
    trainer = begin(config)
    one_step = trainer.task.one_step

    def step_and_signal(views, step, stop):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_signal
    assert trainer.train() == STOPPED
    assert train(config, WORLD) == 0
    for expected, got in zip(saved(whole.out), saved(config.out), strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], value) for name, value in got.items())


def test_a_step_that_is_not_finite_leaves_them_as_they_were(begin, config):
    trainer = begin(config)
    with trainer.task.loader:
        views = trainer.task.maker(next(trainer.task.loader), 0)
    views.corrupted.images_B3HW[0, 0, 0, 0] = float("nan")
    views.clean.images_B3HW[0, 0, 0, 0] = float("nan")
    kept = trainer.task.parameters | trainer.task.buffers()
    assert "method.plain.usual" in kept
    before = {name: value.clone() for name, value in kept.items()}
    trainer.task.step(views, 0, 0.01)
    assert all(torch.equal(before[name], value) for name, value in kept.items())


@pytest.mark.long
@pytest.mark.slow
def test_on_two_ranks_they_are_those_of_one_and_resumed_to_the_bit(student_config, tmp_path):
    """The adapters of a student with other widths: one process's weights after two steps, two processes', and those of
    two processes that were started again after the first step.
    """
    model = replace(student_config.model, fpn_channels=24)
    optimizer = replace(student_config.optimizer, learning_rate=1e-3)
    config = replace(
        student_config, model=model, steps=2, log_every=1, save_every=1, keep=10, optimizer=optimizer
    )  # fmt: skip

    def run(ranks):
        path, out = tmp_path / f"{ranks}.json", tmp_path / f"ranks{ranks}"
        write_json(path, to_json(replace(config, out=out)))
        assert Job("train.run", path, folder=tmp_path, ranks=ranks).wait() == 0
        return saved(out)

    (shipped, one), two = run(1), run(2)
    adapters = [name for name in one if name.startswith("method.cd_fkd.adapters.")]
    assert len(adapters) == 6
    assert not [name for name in shipped if name.startswith("method.")]
    for name in adapters:
        torch.testing.assert_close(two[1][name], one[name], rtol=1e-4, atol=1e-6)
    shutil.rmtree(tmp_path / "ranks2" / "checkpoints" / "step-00000002")
    for expected, got in zip(two, run(2), strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], value) for name, value in got.items())


def test_pkd_alone_and_with_cd_fkd(student_config, tmp_path):
    terms = []
    for distill in ((PkdConfig(),), (*student_config.distill, PkdConfig(weight=1.0))):
        config = replace(student_config, distill=distill, out=tmp_path / str(len(distill)))
        assert train(config, WORLD) == 0
        line = read_log(config.out / "log.jsonl")[0]
        terms.append(set(line["losses"]) - {"rpn_class", "rpn_box", "roi_class", "roi_box", "total"})
        assert -1 <= line["logged"]["correlation"] <= 1
        assert from_json(Config, json.loads((config.out / "config.json").read_text())) == config
    assert terms == [{"pkd"}, {"global", "instance", "pkd"}]


def test_the_methods_weights_rise(begin, student_config):
    """(detection + share * distillation) of each step, also after continuing; a run without has no share."""
    config = replace(student_config, distill=(PkdConfig(weight=2.0),), distill_warmup_steps=4, steps=6, log_every=1)
    trainer = begin(config)
    one_step = trainer.task.one_step

    def step_and_stop(views, step, stop):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_stop
    assert trainer.train() == STOPPED
    assert begin(config).train() == 0
    lines = [line["losses"] for line in read_log(config.out / "log.jsonl") if "losses" in line]
    for line, share in zip(lines, (0.25, 0.5, 0.75, 1.0, 1.0, 1.0), strict=True):
        detection = sum(line[name] for name in ("rpn_class", "rpn_box", "roi_class", "roi_box"))
        assert line["total"] == pytest.approx(detection + share * 2 * line["pkd"], rel=1e-5)


def test_shares_of_the_gradient_and_nothing_else_changes(begin, student_config, capsys):
    """Two terms of which one is twice the other; random state, weights, gradients and buffers stay."""
    config = replace(student_config, distill=(PkdConfig(weight=2.0),))
    task = begin(config).task
    with task.loader:
        views = task.maker(next(task.loader), 0)
    before = {name: value.clone() for name, value in task.learner.state_dict().items()}
    random = torch.get_rng_state()
    shares = measure_shares(task.learner, task.teacher, views)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in task.learner.state_dict().items())
    assert all(value.grad is None for value in task.parameters.values())
    assert list(shares) == ["detection", "pkd"]
    assert sum(term.share for term in shares.values()) == pytest.approx(1)
    task.learner.weights["pkd"] = 4.0
    more = measure_shares(task.learner, task.teacher, views)
    assert more["pkd"].size == pytest.approx(2 * shares["pkd"].size)
    ratios = [each["pkd"].share / each["detection"].share for each in (shares, more)]
    assert ratios[1] == pytest.approx(2 * ratios[0], rel=1e-4)
    say_shares({"detection": Term(1.0, 0.3), "large": Term(9.0, 0.6995), "small": Term(0.1, 0.0005)})
    said = " ".join(capsys.readouterr().out.split())
    assert "detection 1 (30 %), large 9 (70 %), small 0.1 (0.05 %)" in said
    assert "large makes more than half of the student's gradient" in said
    assert "small makes less than a thousandth of the student's gradient" in said


def test_agreement_of_the_pyramids_where_no_method_logs_one(begin, student_config, capsys):
    """1 for the student beside itself; nothing changes; PKD logs its own, and other widths have no cosine."""
    task = begin(replace(student_config, distill=(CmkdConfig(),))).task
    with task.loader:
        views = task.maker(next(task.loader), 0)
    before = {name: value.clone() for name, value in task.learner.state_dict().items()}
    found = measure_agreement(task.learner, task.teacher, views)
    assert all(torch.equal(before[name], value) for name, value in task.learner.state_dict().items())
    assert 0 < found["pyramids"] < 0.99
    itself = Teacher(copy.deepcopy(task.student), [*task.learner.all_methods], torch.float32)
    itself.sees = task.learner.sees[0]
    assert measure_agreement(task.learner, itself, views) == {"pyramids": pytest.approx(1.0)}
    methods = {"pkd": Pkd(PkdConfig(), task.student, task.teacher.detector, own)}
    assert measure_agreement(Learner(task.student, methods, torch.float32, own), task.teacher, views) == {}
    wide = new_detector(replace(task.student.config, fpn_channels=24), 3)
    assert measure_agreement(task.learner, Teacher(wide, [*task.learner.all_methods], torch.float32), views) == {}


def test_a_run_says_it_before_its_first_step(begin, student_config, capsys):
    assert begin(replace(student_config, distill=(CmkdConfig(),), steps=1)).train() == 0
    assert "teacher and student at step 0: pyramids 0." in " ".join(capsys.readouterr().out.split())


def test_shares_are_those_of_images_with_objects():
    """An ignored box is no object."""
    labels_BG = torch.tensor([[1, 2], [0, 0], [3, 0], [1, 0]])
    ignore_BG = torch.tensor([[True, True], [False, False], [False, False], [False, False]])
    views = make_views([(64, 96 - n) for n in range(4)], [[(3.0, 5.0, 40.0, 37.0)] * 2] * 4, (64, 96))
    views = replace(views, labels_BG=labels_BG, ignore_BG=ignore_BG)
    for num, expected in ((2, [2, 3]), (3, [2, 3, 0])):
        chosen = first_images(views, num)
        assert torch.equal(chosen.clean.sizes_B2, views.clean.sizes_B2[expected])
        assert torch.equal(chosen.labels_BG, labels_BG[expected])


def test_random_adapters_say_nothing_of_agreement(begin, student_config):
    narrow = replace(student_config, distill=(PkdConfig(),), model=replace(student_config.model, fpn_channels=8))
    assert begin(narrow).task.alike == ()
    assert begin(replace(student_config, distill=(PkdConfig(),))).task.alike == ("correlation",)


def test_the_warm_up_is_an_option_of_all_methods():
    config = read_command(["cdfkd_small", *NEEDED, "--distill", "cd_fkd", "pkd", "--distill.warmup-steps", "20"])
    assert config.distill_warmup_steps == 20
    assert read_command(["cdfkd_small", *NEEDED, "--distill.warmup_steps=7"]).distill_warmup_steps == 7
    only_labels = replace(config, distill=(PseudoConfig(),))
    with pytest.raises(ValueError, match="no effect: pseudo has no term with a weight"):
        make_learner(only_labels, *[new_detector(config.model, 3)] * 2, WORLD)
    with pytest.raises(ValueError, match="the run has no method; leave it out or give --distill"):
        replace(read_command(["plain_small", *NEEDED[:4]]), distill_warmup_steps=20)


def test_the_students_average_as_teacher(begin, student_config):
    """Its weights are the moving average's own, before and after a step, and after continuing."""
    optimizer = replace(student_config.optimizer, ema_decay=0.9)
    config = replace(student_config, optimizer=optimizer, teacher=None, teacher_policy="average", steps=4, save_every=2)
    trainer = begin(config)
    assert trainer.train() == 0
    task = trainer.task
    for name, value in task.teacher.detector.named_parameters():
        assert torch.equal(value, task.ema.weights.get(name, value))
        assert not value.requires_grad
    moved = [name for name, value in task.ema.weights.items() if not torch.equal(value, task.parameters[name])]
    assert moved
    shipped, _ = saved(config.out)
    assert all(torch.equal(shipped[name], value) for name, value in task.teacher.detector.named_parameters())


def test_the_average_needs_an_average(student_config):
    with pytest.raises(ValueError, match=r"--optimizer.ema-decay 0.999 and a method, and --teacher None"):
        replace(student_config, teacher_policy="average", teacher=None)


NEEDED = ["--data", "d", "--out", "o", "--teacher", "t"]


class Other(Plain):
    """Another one that wants other towers, sees another view, and sets what is to be found."""

    teacher_sees = "corrupted"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.weights, self.want_student = {"other": 1.0}, Want(tower=2)

    def relabel(self, views, teacher):
        return views, None


def test_methods_that_cannot_run_together_are_refused(config, student_config):
    with torch.device("meta"):
        student = new_detector(student_config.model, 3)
        arguments = (PlainConfig(), student, student, own)
        plain, other, third = Plain(*arguments), Other(*arguments), Other(*arguments)
    third.weights, third.want_student = {"third": 1.0}, Want(tower=1)
    with pytest.raises(ValueError, match=r"show their teacher clean and corrupted; it sees one view"):
        Teacher(student, [plain, other], torch.float32)
    with pytest.raises(ValueError, match="two methods of a run call a term plain"):
        Learner(student, {"plain": plain, "again": Plain(*arguments)}, torch.float32, own)
    with pytest.raises(ValueError, match=r"two methods need towers after \[1, 2\] convolutions"):
        Learner(student, {"other": other, "third": third}, torch.float32, own)
    third.want_student = Want()
    with pytest.raises(ValueError, match="other and third set what the student must find; keep one of them"):
        Learner(student, {"other": other, "third": third}, torch.float32, own)


def test_methods_are_chosen_by_name():
    config = read_command(["cdfkd_small", *NEEDED, "--distill", "cd_fkd", "pkd", "--distill.pkd.weight", "2"])
    assert config.distill == (CdFkdConfig(strides=(8, 16, 32)), PkdConfig(weight=2.0))
    config = read_command(["plain_small", *NEEDED, "--distill", "pkd", "--distill.weight", "3"])
    assert config.distill == (PkdConfig(weight=3.0),)
    assert read_command(["cdfkd_small", *NEEDED[:4], "--teacher", "None", "--distill", "None"]).distill == ()
    assert read_command(["plain_small", *NEEDED, "--distill=pkd", "--model=fcos"]).model.kind == "fcos"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distill", "pdk"], r"--distill pdk \(nearest: pkd\): the methods are cd_fkd, .*, or none"),
        (["--distill", "--seed", "1"], "--distill needs names: cd_fkd, .*, or none"),
        (["--distill", "pkd", "pkd"], "each method once"),
        (
            ["--distill", "cd_fkd", "pkd", "--distill.strides", "8"],
            "give --distill.cd-fkd.strides or ",
        ),
    ],
)
def test_wrong_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        read_command(["cdfkd_small", *NEEDED, *options])


def test_a_configuration_of_before_still_reads():
    config = read_command(["cdfkd_r50", *NEEDED])
    old = to_json(config)
    (method,) = old["distill"]
    del method["kind"], old["teacher_policy"]
    for rule in ("norm", "bias", "new"):
        del old["optimizer"][rule]
    for distill, expected in ((method, config.distill), (None, ())):
        assert from_json(Config, upgrade(old | {"distill": distill})) == replace(config, distill=expected)
    with pytest.raises(ValueError, match=r"config.distill.kind is 'crossdk' \(nearest: crosskd\); allowed: cd_fkd, "):
        from_json(Config, old | {"distill": [{"kind": "crossdk"}]})


@pytest.mark.parametrize(
    "kind", ["gfl", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("retinanet", "fcos", "atss"))]
)
def test_another_kind_of_detector_trains_with_both_methods(kind, packed, tmp_path):
    """A teacher of the kind on the clean view, then CD-FKD and PKD on it; the card says the kind, and reads back."""
    common = ["--data", str(packed), "--model", kind, "--model.weights", "none", "--model.fpn-channels", "16"]
    narrow = ["--model.head-channels", "16", "--model.num-convs", "2"]
    narrow += ["--model.norm-groups", "4"] if kind != "retinanet" else []
    rest = ["--loader.name", "cpu", "--loader.threads", "1", "--device", "cpu", "--steps", "2", "--log-every", "1"]
    masks = ["--views.masks", "2"]
    assert train(read_command(["plain_small", *common, *narrow, *rest, "--out", str(tmp_path / "teacher")]), WORLD) == 0
    student = ["--distill", "cd_fkd", "pkd", "--teacher", str(tmp_path / "teacher"), "--out", str(tmp_path / "student")]
    assert train(read_command(["cdfkd_small", *common, *narrow, *rest, *masks, *student]), WORLD) == 0
    losses = read_log(tmp_path / "student" / "log.jsonl")[0]["losses"]
    assert {"global", "instance", "pkd"} < set(losses)
    detector, card = load_detector(tmp_path / "student")
    assert card.config.kind == kind
    found = detector.detect(torch.rand(1, 3, 64, 96), torch.tensor([[60, 90]]))
    assert found.boxes_BD4.isfinite().all()


def test_a_detector_that_does_not_exist_is_named():
    for nothing in ([], ["--seed", "1"]):
        with pytest.raises(ValueError, match=r"^--model needs a name: faster_rcnn, retinanet, fcos, atss, gfl$"):
            read_command(["plain_small", *NEEDED, "--model", *nothing])
    with pytest.raises(ValueError, match=r"--model gfn \(nearest: gfl\): the detectors are faster_rcnn, retinanet"):
        read_command(["plain_small", *NEEDED[:4], "--model", "gfn"])
