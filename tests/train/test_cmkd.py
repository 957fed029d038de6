"""CMKD against hand-computed values and a plain form of the original's discriminators, and its properties."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model.api import Outputs, own
from model.weights.checkpoint import load_detector
from pipeline.batch import View, Views
from pipeline.command.ranks import World
from train.distill import CmkdConfig
from train.distill.cmkd import Cmkd, average_to, grid_of
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.start import train
from train.trainer import STOPPED

STRIDES = (4, 8, 16, 32)
WORLD = World(0, 1, torch.device("cpu"))
CANVAS = (64, 96)
ADVERSARIAL = CmkdConfig(loss="adversarial", canvas=CANVAS)


def make_views(small, full, canvases):
    """Views without boxes: the method only reads sizes and keys."""
    num = len(small)
    views = [
        View(torch.zeros(num, 3, *canvas), torch.tensor(sizes, dtype=torch.int32), torch.zeros(num, 1, 4))
        for canvas, sizes in zip(canvases, (small, full), strict=True)
    ]
    labels = torch.zeros(num, 1, dtype=torch.int64)
    return Views(
        clean=views[1], corrupted=views[0], ratio_B=torch.ones(num), labels_BG=labels, ignore_BG=labels > 0,
        weight_BG=torch.ones(num, 1), keys_B=torch.arange(num) * 7919, ids_B=torch.arange(num),
    )  # fmt: skip


def make_maps(canvas, seed, num=2, channels=6):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(canvas[0] // stride, canvas[1] // stride) for stride in STRIDES]
    return [torch.randn(num, channels, *size, generator=generator).requires_grad_() for size in sizes]


def make(config, channels=(6, 6)):
    networks = [SimpleNamespace(strides=(*STRIDES, 64), channels=each) for each in channels]
    torch.manual_seed(1)
    return Cmkd(config, *networks, own)


def run(method, student, teacher, views):
    terms, logged = method({"corrupted": Outputs((0, 0), tuple(student))}, Outputs((0, 0), tuple(teacher)), {}, views)
    return terms["cmkd"], logged


def whole(num=2, canvas=CANVAS):
    return make_views([canvas] * num, [canvas] * num, (canvas, canvas))


def plain_logits(discriminator, maps):
    """As the original writes it, on a canvas that its layers fit."""
    maps = F.relu(F.conv2d(maps, discriminator.first.weight, discriminator.first.bias))
    maps = F.max_pool2d(maps, 2) if discriminator.pools[0] else maps
    maps = F.relu(F.conv2d(maps, discriminator.second.weight, discriminator.second.bias))
    maps = F.max_pool2d(maps, 2) if discriminator.pools[1] else maps
    hidden = F.relu(F.linear(maps.flatten(1), discriminator.hidden.weight, discriminator.hidden.bias))
    return F.linear(hidden, discriminator.answer.weight, discriminator.answer.bias)


def test_squared_error_by_hand():
    """All zero against all 2: half of 4, whatever the number of levels."""
    student = [torch.zeros_like(each) for each in make_maps(CANVAS, 0)]
    loss, logged = run(make(CmkdConfig()), student, [each + 2 for each in student], whole())
    assert loss.item() == pytest.approx(2.0)
    assert logged == {}
    assert make(CmkdConfig()).strides == STRIDES, "the pooled level tells nothing new"
    loss, _ = run(make(CmkdConfig(strides=(32,))), student, [each + 2 for each in student], whole())
    assert loss.item() == pytest.approx(2.0)


@pytest.mark.parametrize("loss", ["mse", "adversarial"])
def test_without_padding_both_ways_are_the_originals(loss):
    config = CmkdConfig(loss=loss, **({"canvas": CANVAS, "dropout": 0.0} if loss == "adversarial" else {}))
    results = []
    for faithful in (False, True):
        student, teacher = make_maps(CANVAS, 0), make_maps(CANVAS, 1)
        method = make(replace(config, faithful=faithful))
        value, _ = run(method, student, teacher, whole())
        value.backward()
        results.append([value, *(each.grad for each in student)])
    for ours, original in zip(*results, strict=True):
        torch.testing.assert_close(ours, original, rtol=1e-5, atol=1e-7)


def test_discriminators_are_the_originals_and_the_student_climbs():
    student, teacher = make_maps(CANVAS, 0), make_maps(CANVAS, 1)
    method = make(replace(ADVERSARIAL, dropout=0.0))
    loss, logged = run(method, student, teacher, whole())
    loss.backward()
    got = [each.grad.clone() for each in student]
    weights = [value.grad.clone() for value in method.parameters()]
    plain, right = [], 0
    for each in (*student, *method.parameters()):
        each.grad = None
    for discriminator, ours, theirs in zip(method.discriminators, student, teacher, strict=True):
        logits = plain_logits(discriminator, torch.cat((ours, theirs)))
        labels = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]
        plain.append(F.binary_cross_entropy_with_logits(logits, labels))
        right += ((logits > 0) == labels).sum().item()
    torch.testing.assert_close(loss, torch.stack(plain).mean())
    assert [part.item() for part in logged["told_apart"]] == [right, 16]
    torch.stack(plain).mean().backward()
    assert [layer.hidden.in_features for layer in method.discriminators] == [24, 6, 6, 6]
    for gradient, each in zip(got, student, strict=True):
        torch.testing.assert_close(gradient, -0.3 * each.grad)
    for gradient, each in zip(weights, method.parameters(), strict=True):
        torch.testing.assert_close(gradient, each.grad)


def test_the_published_widths():
    """Inputs of the original's linear layers, for maps of 512 x 864."""
    grids = [grid_of((512, 864), stride) for stride in STRIDES]
    assert [height * width for height, width in grids] == [1728, 432, 432, 432]


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (12, 5), (9, 31)])
def test_any_map_fits_as_adaptive_pooling_does(size):
    maps = torch.randn(2, *size)
    expected = F.adaptive_avg_pool2d(maps, (6, 9))
    torch.testing.assert_close(average_to(maps, (6, 9)), expected)
    assert torch.equal(average_to(maps, size), maps)


@pytest.mark.parametrize("config", [CmkdConfig(), ADVERSARIAL], ids=["mse", "adversarial"])
def test_padding_changes_nothing(config):
    """What lies outside the images may be anything, also not a number, and gets no gradient."""
    sizes = [(41, 96), (64, 57)]
    views, method = make_views(sizes, sizes, (CANVAS, CANVAS)), make(config)
    results = []
    for fill in (0.0, float("nan")):
        student, teacher = make_maps(CANVAS, 0), make_maps(CANVAS, 1)
        for maps in (student, teacher):
            for each, stride in zip(maps, STRIDES, strict=True):
                for row, (height, width) in enumerate(sizes):
                    each.data[row, :, -(-height // stride) :] = fill
                    each.data[row, :, :, -(-width // stride) :] = fill
        loss, _ = run(method, student, teacher, views)
        loss.backward()
        results.append([loss, *(each.grad for each in student)])
        assert student[0].grad[0, :, 11:].abs().max() == 0
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_student_of_smaller_images_is_resized():
    """A teacher's map that is the student's, twice as large in both directions, differs by the interpolation only."""
    views = make_views([(32, 48)] * 2, [CANVAS] * 2, ((32, 48), CANVAS))
    small = make_maps((32, 64), 0)
    small = [each[..., : 48 // stride].detach() for each, stride in zip(small, STRIDES, strict=True)]
    full = [F.interpolate(each, scale_factor=2, mode="bilinear") for each in small[:3]]
    loss, _ = run(make(CmkdConfig(strides=(4, 8, 16))), small[:3], full, views)
    assert loss.item() == pytest.approx(0, abs=1e-10)


def test_images_of_padding_only_count_for_nothing():
    sizes = [CANVAS, (0, 0)]
    student, teacher = make_maps(CANVAS, 0), make_maps(CANVAS, 1)
    for config in (CmkdConfig(), ADVERSARIAL):
        both, _ = run(make(config), student, teacher, make_views(sizes, sizes, (CANVAS, CANVAS)))
        one, _ = run(make(config), [m[:1] for m in student], [m[:1] for m in teacher], whole(1))
        torch.testing.assert_close(both, one)
        none, _ = run(make(config), student, teacher, make_views([(0, 0)] * 2, [(0, 0)] * 2, (CANVAS, CANVAS)))
        assert none.item() == 0


def test_dropout_is_a_function_of_the_keys_and_off_in_evaluation():
    method, keys = make(ADVERSARIAL), torch.arange(64) * 7919
    kept = method.draw_kept(keys)
    assert len(kept) == 4
    assert kept[0].shape == (128, 108)
    assert kept[0].unique().tolist() == [0, 2]
    assert torch.stack(kept).mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0][:64], kept[0][64:])
    turned = method.draw_kept(keys.flip(0))
    assert torch.equal(turned[2][:64], kept[2][:64].flip(0))
    method.eval()
    assert method.draw_kept(keys) == [None] * 4
    faithful = make(replace(ADVERSARIAL, faithful=True)).eval()
    assert torch.equal(faithful.draw_kept(keys)[3], kept[3])


def test_other_widths_get_adapters(capsys):
    loss, _ = run(make(ADVERSARIAL, (6, 9)), make_maps(CANVAS, 0), make_maps(CANVAS, 1, channels=9), whole())
    assert loss.item() > 0
    assert "4 1x1 adapters are trained with the student and never shipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strides": (8, 8)}, "strides"),
        ({"weight": -1.0}, "weight"),
        ({"loss": "adversarial", "reversal": float("inf")}, "reversal"),
        ({"loss": "adversarial", "dropout": 1.0}, "dropout"),
        ({"loss": "adversarial", "canvas": (16, 64)}, "canvas"),
        ({"dropout": 0.1}, "which --distill.cmkd.loss mse has none of"),
    ],
)
def test_senseless_options_are_errors(wrong, said):
    with pytest.raises(ValueError, match=said):
        CmkdConfig(**wrong)


def test_networks_without_a_common_level_are_an_error():
    networks = SimpleNamespace(strides=(32, 32, 64), channels=4), SimpleNamespace(strides=STRIDES, channels=4)
    with pytest.raises(ValueError, match=r"cmkd: no level up to stride 32 .* name some with --distill.cmkd.strides"):
        Cmkd(CmkdConfig(), *networks, own)


@pytest.fixture
def config(student_config):
    """CD-FKD and the discriminators in one run: the teacher sees the clean image, the student the corrupted one."""
    optimizer = replace(student_config.optimizer, ema_decay=0.9)
    return replace(student_config, distill=(*student_config.distill, ADVERSARIAL), optimizer=optimizer, log_every=3)


def saved(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors"), load_file(newest / "training.safetensors")


def test_discriminators_are_trained_saved_and_never_shipped(begin, config):
    trainer = begin(config)
    layers = {name: value for name, value in trainer.task.parameters.items() if name.startswith("method.cmkd.")}
    assert len(layers) == 3 * 8, "strides 8, 16 and 32"
    before = {name: value.clone() for name, value in layers.items()}
    assert trainer.train() == 0
    shipped, kept = saved(config.out)
    assert not [name for name in shipped if "cmkd" in name or "discriminator" in name]
    for name, value in layers.items():
        assert torch.equal(kept[name], value)
    assert sum(not torch.equal(value, before[name]) for name, value in layers.items()) > 12, "some may be dead"
    assert not set(layers) & set(trainer.task.ema.weights)
    line = read_log(config.out / "log.jsonl")[0]
    assert {"cmkd", "global", "instance"} < set(line["losses"])
    assert 0 <= line["logged"]["told_apart"] <= 1
    load_detector(config.out)


@pytest.mark.long
def test_stopped_and_continued_equals_uninterrupted_to_the_bit(begin, config, tmp_path):
    undisturbed = replace(config, out=tmp_path / "whole")
    assert train(undisturbed, WORLD) == 0
    trainer = begin(config)
    one_step = trainer.task.one_step

    def step_and_signal(views, step, stop):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        one_step(views, step, stop)

    trainer.task.one_step = step_and_signal
    assert trainer.train() == STOPPED
    torch.rand(7)  # nothing that is drawn may depend on torch's own generator
    assert train(config, WORLD) == 0
    for expected, got in zip(saved(undisturbed.out), saved(config.out), strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], value) for name, value in got.items())
