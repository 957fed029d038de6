"""Runs whose networks look at more than RGB: trained, measured, resumed, distilled from, predicted with, reported."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

import fairweather
from eval.evaluation import run as evaluate
from eval.examples.aligned import find_aligned
from eval.options import EvaluationOptions
from eval.predict import PredictOptions, open_predictor, predict_images
from model.dense.config import FcosConfig
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from pipeline.files.fields import to_json
from pipeline.files.pixels import resize
from pipeline.pack import PackOptions, pack
from pipeline.sources.options import ReadOptions
from pipeline.views import ViewConfig
from tests.train.conftest import draw_pictures, make_trainer, tiny
from train import load
from train.distill import CdFkdConfig, CmkdConfig
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.start import read_command, train
from train.trainer import STOPPED

WORLD = World(0, 1, torch.device("cpu"))
CLEAN = ViewConfig(corruptions=(), ratio_range=(1.0, 1.0))
ADVERSARIAL = CmkdConfig(loss="adversarial", canvas=(64, 96))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Pictures with three grey slices and a depth image each."""
    root = tmp_path_factory.mktemp("gated") / "source"
    draw_pictures(root, 22, seed=0)
    for number, name in enumerate(("gated0", "gated1", "gated2", "depth")):
        (root / name).mkdir()
        for path in sorted((root / "images").glob("*.jpg")):
            image = cv2.imread(str(path))
            grey = np.abs(image[..., 0].astype(int) - image[..., 2])  # the rectangles alone
            cv2.imwrite(str(root / name / f"{path.stem}.png"), (grey // (number + 1)).astype(np.uint8))
    return root


def pack_it(source: Path, out: Path, extra: tuple[str, ...]) -> Path:
    read = ReadOptions(extra=extra)
    pack(PackOptions(source, out, read=read, short_side=64, long_side=96, workers=1))
    return out


@pytest.fixture(scope="module")
def gated(source) -> Path:
    return pack_it(source, source.parent / "packed", ("gated=gated0,gated1,gated2", "depth"))


@pytest.fixture(scope="module")
def config(gated, tmp_path_factory):
    """Of the teacher: RGB, then depth, then gated, although the data has them in another order."""
    made = tiny(RECIPES["cmkd_teacher_small"][1]())
    model = replace(made.model, inputs=("rgb", "depth", "gated"))
    return replace(made, model=model, data=(gated,), val=gated, out=tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="module")
def teacher(config) -> Path:
    assert train(config, WORLD) == 0
    return config.out


def student_of(config, teacher, out, *methods, **changes):
    model = replace(config.model, inputs=("rgb",))
    return replace(config, model=model, teacher=teacher, distill=methods, out=out, val=None, **changes)


def saved(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors"), load_file(newest / "training.safetensors")


def test_the_run_says_what_it_looks_at(teacher):
    detector, card = load_detector(teacher)
    assert card.config.inputs == ("rgb", "depth", "gated")
    assert card.config.extra_channels == (1, 3), "as the data has them"
    assert card.config.extra_range == ((0, 255), (0, 255))
    assert detector.backbone.body["0"][0].weight.shape[1] == 7
    lines = read_log(teacher / "log.jsonl")
    assert any("AP50" in str(line) for line in lines), "it was measured"


def test_a_step_sees_the_channels_in_their_order(config, gated, tmp_path, monkeypatch):
    task = make_trainer(replace(config, out=tmp_path / "run")).task
    seen = []
    monkeypatch.setattr(type(task.student), "features", lambda self, images, *_: seen.append(images) or _stop())
    with task.loader:
        batch = next(task.loader)
        views = task.maker(batch, 0)
    assert set(views.extra) == {"depth", "gated"}
    with pytest.raises(Stopped):
        task.learner.terms(views, None)
    (images,) = seen
    inside = torch.zeros(4, 1, *images.shape[2:])
    for row, (h, w) in enumerate(views.clean.sizes_B2.tolist() if views.clean else batch.sizes_B2.tolist()):
        inside[row, :, :h, :w] = 1
    expected = (torch.cat((views.extra["depth"], views.extra["gated"]), 1) * 255 - 103.53) / 57.375 * inside
    torch.testing.assert_close(images[:, 3:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(images[:, :3], views.corrupted.images_B3HW)


class Stopped(Exception):
    pass


def _stop():
    raise Stopped


def test_evaluation_reads_them_and_the_report_shows_them(teacher, gated, config, tmp_path):
    student = student_of(config, teacher, tmp_path / "student", CmkdConfig())
    assert train(student, WORLD) == 0
    for run, data in ((teacher, gated), (student.out, gated)):
        evaluate(EvaluationOptions(run, (data,), resamples=0, loader="cpu", corruptions="none"), WORLD)
    page = (student.out / "report.html").read_text()
    assert "beside the picture" in page
    for word in ("<b>gated</b>", "<b>depth</b>", "<b>teacher</b>", "<b>student</b>"):
        assert word in page
    assert "student - teacher is the difference of two checkpoints, not of two methods: their input differs" in page
    strip = page.split('class="strip"')[1]
    order = [strip.index(f"<b>{name}") for name in ("clean, with its", "gated", "depth", "fog", "teacher", "student")]
    assert order == sorted(order)


def test_cmkd_and_cd_fkd_in_one_run(teacher, config, tmp_path):
    """The teacher sees the clean picture and more, the student a corrupted and smaller one."""
    student = student_of(config, teacher, tmp_path / "both", CdFkdConfig(strides=(8, 32)), ADVERSARIAL)
    assert train(replace(student, views=ViewConfig()), WORLD) == 0
    shipped, kept = saved(student.out)
    assert shipped["backbone.body.0.0.weight"].shape[1] == 3
    assert any(name.startswith("method.cmkd.discriminators") for name in kept)
    losses = read_log(student.out / "log.jsonl")[0]["losses"]
    assert all(0 < losses[name] < float("inf") for name in ("cmkd", "global", "instance"))


def test_stopped_and_continued_equals_uninterrupted_to_the_bit(config, gated, tmp_path):
    whole, broken = (replace(config, val=None, out=tmp_path / name) for name in ("whole", "broken"))
    assert train(whole, WORLD) == 0
    trainer = make_trainer(broken)
    one_step = trainer.task.one_step

    def step_and_signal(views, step, stop):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_signal
    assert trainer.train() == STOPPED
    assert train(broken, WORLD) == 0
    for expected, got in zip(saved(whole.out), saved(broken.out), strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], value) for name, value in got.items())


def test_what_the_data_lacks_is_one_clear_error(teacher, config, source, packed, tmp_path):
    plain = replace(config, data=(packed,), val=None, out=tmp_path / "a")
    words = r"--model.inputs: .*packed has no depth; it has rgb. Pack it again with --extra depth, or leave it out"
    with pytest.raises(ValueError, match=words):
        make_trainer(plain)
    student = student_of(plain, teacher, tmp_path / "b", CmkdConfig())
    words = r"the teacher .*teacher looks at depth, 1 channel; .*packed has pictures only. Pack it again with --extra"
    with pytest.raises(ValueError, match=words):
        make_trainer(student)
    narrow = pack_it(source, tmp_path / "narrow", ("gated=gated0,gated1", "depth"))
    with pytest.raises(ValueError, match=r"looks at gated, 3 channels; .*narrow has gated \(2\), depth \(1\)"):
        make_trainer(replace(student, data=(narrow,)))
    model = replace(config.model, extra_channels=(1, 3))
    with pytest.raises(ValueError, match=r"the student looks at gated, 3 channels; .*narrow has gated \(2\)"):
        make_trainer(replace(config, model=model, val=narrow, out=tmp_path / "c"))
    turned = pack_it(source, tmp_path / "turned", ("gated=gated2,gated1,gated0", "depth"))
    words = "looks at gated of gated0, gated1, gated2, in this order; .*turned has it of gated2, gated1, gated0"
    with pytest.raises(ValueError, match=f"the student {words}"):
        make_trainer(replace(config, val=turned, out=tmp_path / "d"))
    with pytest.raises(ValueError, match=f"the teacher .* {words}"):
        make_trainer(replace(student, data=(turned,)))
    read = ReadOptions(extra=("gated=gated0,gated1,gated2", "depth"), extra_range=("depth=0:99",))
    pack(PackOptions(source, tmp_path / "near", read=read, short_side=64, long_side=96, workers=1))
    words = r"looks at depth of values from 0 to 255; .*near has it from 0 to 99. Pack it again with --extra-range de"
    with pytest.raises(ValueError, match=words):
        make_trainer(replace(config, val=tmp_path / "near", out=tmp_path / "e"))
    with pytest.raises(ValueError, match=f"the teacher .* {words}"):
        make_trainer(replace(student, data=(tmp_path / "near",), out=tmp_path / "f"))
    with pytest.raises(ValueError, match=f"the detector {words}"):
        evaluate(EvaluationOptions(teacher, (tmp_path / "near",), out=tmp_path / "g", loader="cpu"), WORLD)
    with pytest.raises(ValueError, match=r"the detector looks at depth, 1 channel; .*packed has pictures only"):
        evaluate(EvaluationOptions(teacher, (packed,), out=tmp_path / "d", loader="cpu"), WORLD)


def test_a_teacher_is_not_measured_on_pictures_alone(teacher, config, packed, tmp_path, monkeypatch, capsys):
    """--val is the student's, which sees RGB; nobody recorded how good the teacher is."""
    task = make_trainer(replace(student_of(config, teacher, tmp_path / "run", CmkdConfig()), val=packed)).task
    monkeypatch.setattr("train.task.recorded_ap50", lambda *_: None)
    task.teacher_card.extra.pop("AP50", None)
    with task.loader:
        task.begin()
    assert "recorded it; --val has no depth and gated, which it looks at" in capsys.readouterr().out


def test_a_network_that_sees_more_takes_no_downscaled_view(config, tmp_path):
    with pytest.raises(
        ValueError, match=r"the student looks at depth, gated, which is not downscaled .* --views.ratio-range 1 1"
    ):
        make_trainer(replace(config, views=ViewConfig(), out=tmp_path / "a"))


@pytest.mark.long
def test_a_compiled_step_is_one_graph(config, teacher, tmp_path):
    """A student that sees depth, a teacher that sees more: learner and teacher each as one graph, equal to eager."""
    student = replace(
        student_of(config, teacher, tmp_path / "run", ADVERSARIAL),
        model=replace(config.model, inputs=("rgb", "depth"), extra_channels=(), norm="frozen"),
    )
    task = make_trainer(student).task
    with task.loader:
        views = task.maker(next(task.loader), 0)
    seen = task.teacher(views)
    expected, scalars = task.learner(views, seen)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    look = torch.compile(task.teacher.__call__, backend=counter, fullgraph=True)
    total, got = torch.compile(task.learner, backend=counter, fullgraph=True)(views, look(views))
    total.backward()
    assert counter.frame_count == 2
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, scalars, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_prediction_takes_folders(teacher, source, tmp_path):
    slices = ",".join(str(source / f"gated{number}") for number in range(3))
    extra = (f"gated={slices}", f"depth={source / 'depth'}")
    options = PredictOptions(teacher, (str(source / "images"),), tmp_path / "out", 0.01, extra=extra)
    files = [(path, Path(path.name)) for path in sorted((source / "images").glob("*.jpg"))[:5]]
    entries, skipped = predict_images(open_predictor(options), files, options)
    assert not skipped
    assert len(entries) == 5
    found = fairweather.load(teacher, score=0.01, extra=extra).predict([path for path, _ in files])
    for entry, one in zip(entries, found, strict=True):
        assert [round(float(score), 4) for score in one.scores] == [item["score"] for item in entry["detections"]]
    with pytest.raises(ValueError, match=r"looks at depth, gated, too, found by a picture's name: give its path"):
        fairweather.load(teacher, extra=extra).predict(np.zeros((64, 96, 3), np.uint8))
    other = source.parent / "dark"
    other.mkdir(exist_ok=True)
    for path, _ in files[1:]:
        cv2.imwrite(str(other / f"{path.stem}.png"), np.zeros((10, 40), np.uint8))
    dark = replace(options, extra=(f"gated={slices}", f"depth={other}"))
    changed, skipped = predict_images(open_predictor(dark), files, dark)
    assert f"{files[0][0]}: depth: {other / files[0][0].stem}.* is missing" in skipped[0]
    assert all("of another shape, it is not aligned" in line for line in skipped[1:])
    assert not changed
    deep = source.parent / "deep"
    deep.mkdir()
    cv2.imwrite(str(deep / f"{files[0][0].stem}.png"), np.zeros((63, 90), np.uint16))
    (deep / f"{files[1][0].stem}.png").write_bytes(b"no picture")
    wide = replace(options, extra=(f"gated={slices}", f"depth={deep}"))
    _, skipped = predict_images(open_predictor(wide), files[:2], wide)
    assert skipped[0].endswith("nothing says which values become 0 and 255: give --extra-range depth=LOW:HIGH")
    assert "is not a picture of a known format" in skipped[1]
    assert "--extra-range" not in skipped[1]
    for wrong, words in (
        (
            (),
            "looks at depth (1), gated (3); got none: give --extra depth=PLACE/depth gated=PLACE/gated0,PLACE/gated1,",
        ),
        (("gated",), "--extra gated: write NAME=FOLDER"),
        ((f"gated={source / 'nothing'}", extra[1]), "there is no folder"),
        ((f"gated={source / 'gated0'}", extra[1]), "has 1 channels of gated"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            open_predictor(replace(options, extra=wrong)).aligned.read(*files[0], (63, 90), (63, 90))


def test_prediction_scales_as_training_did(tmp_path):
    config = FcosConfig(weights="none", inputs=("rgb", "depth"), extra_channels=(1,), extra_range=((0.0, 8000.0),))
    (tmp_path / "depth").mkdir()
    cv2.imwrite(str(tmp_path / "depth/a.png"), np.full((4, 6), 4000, np.uint16))
    for ranges, level in (((), 128), (("depth=0:4000",), 255)):
        aligned = find_aligned((f"depth={tmp_path / 'depth'}",), ranges, config)
        read = aligned.read(tmp_path / "a.jpg", Path("a.jpg"), (4, 6), (4, 6))["depth"]
        assert np.unique(read).tolist() == [level]


def test_prediction_resizes_once_as_packing_did(tmp_path):
    """From the slice's own size, not by way of the picture's."""
    config = FcosConfig(weights="none", inputs=("rgb", "gated"), extra_channels=(2,), extra_members=("g0,g1",))
    slices = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 1), np.uint8)
    for name, image in zip(("g0", "g1"), slices, strict=True):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), image)
    places = [str(tmp_path / name) for name in ("g0", "g1")]
    aligned = find_aligned((f"gated={','.join(places)}",), (), config)
    got = aligned.read(tmp_path / "a.jpg", Path("a.jpg"), (80, 120), (30, 45))["gated"]
    assert np.array_equal(got, np.concatenate([resize(image, (30, 45)) for image in slices], axis=2))
    with pytest.raises(ValueError, match="got g1, g0, and the detector was trained on g0, g1; give them in this order"):
        find_aligned((f"gated={','.join(reversed(places))}",), (), config)


def test_the_command_line_chooses_the_inputs(gated, tmp_path):
    base = ["--data", str(gated), "--out", str(tmp_path)]
    chosen = read_command(["plain_r50", *base, "--model", "gfl", "--model.inputs", "rgb", "gated"]).model
    assert (chosen.kind, chosen.inputs, chosen.extra_channels) == ("gfl", ("rgb", "gated"), ())
    teacher = read_command(["cmkd_teacher_r50", *base, "--model", "fcos"]).model
    assert (teacher.inputs, teacher.first_layer, teacher.trainable_layers) == (("rgb", "gated"), "fresh", 5)
    data, _ = load.open_data(read_command(["plain_r50", *base]), WORLD)
    assert load.resolve_inputs(chosen, data, None).extra_channels == (3,)
    assert to_json(chosen)["inputs"] == ["rgb", "gated"]


def test_the_recipes_are_the_rows_of_the_table():
    rows = {row: RECIPES[f"cmkd_{row}_r50"][1]() for row in ("teacher", "baseline", "mse", "adversarial")}
    for row, figure in (("teacher", 27.5), ("baseline", 24.2), ("mse", 25.4), ("adversarial", 26.0)):
        assert f"{figure} AP" in RECIPES[f"cmkd_{row}_r50"][0]
        alone = replace(rows[row], model=rows["baseline"].model, distill=(), teacher=None)
        assert alone == rows["baseline"], "nothing else differs"
    assert rows["teacher"].model == replace(rows["baseline"].model, inputs=("rgb", "gated"))
    assert rows["mse"].distill == (CmkdConfig(),)
    assert rows["adversarial"].distill == (CmkdConfig(loss="adversarial"),)
    assert rows["baseline"].model.frozen_norm
    assert RECIPES["cmkd_baseline_small"][1]() == RECIPES["plain_small"][1]()
