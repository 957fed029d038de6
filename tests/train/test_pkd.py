"""PKD against hand-computed values, a plain form that takes one image at a time, and the original's formula."""

from types import SimpleNamespace

import pytest
import torch

from model.api import Outputs, own
from model.dense.config import GflConfig
from pipeline.batch import View, Views
from train.distill.pkd import Pkd, PkdConfig, distances_inside, pkd_loss

STRIDES = (8, 16)


def make_views(small, full, canvases):
    """Views without boxes: the method only reads sizes."""
    num = len(small)
    nothing = torch.zeros(num, 1, 4)
    views = [
        View(torch.zeros(num, 3, *canvas), torch.tensor(sizes, dtype=torch.int32), nothing)
        for canvas, sizes in zip(canvases, (small, full), strict=True)
    ]
    labels = torch.zeros(num, 1, dtype=torch.int64)
    return Views(
        clean=views[1], corrupted=views[0], ratio_B=torch.ones(num), labels_BG=labels, ignore_BG=labels > 0,
        weight_BG=torch.ones(num, 1), keys_B=torch.arange(num), ids_B=torch.arange(num),
    )  # fmt: skip


def run(config, student, teacher, views, channels=(6, 6)):
    networks = [SimpleNamespace(strides=STRIDES, channels=each) for each in channels]
    torch.manual_seed(0)
    method = Pkd(config, *networks, own)
    terms, logged = method({"corrupted": Outputs((0, 0), student)}, Outputs((0, 0), teacher), {}, views)
    return terms["pkd"], logged["correlation"]


def make_maps(canvas, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 6, canvas[0] // s, canvas[1] // s, generator=generator) for s in STRIDES)


def test_hand_computed():
    """One channel of two places: (1, 3) standardises to -+1/sqrt 2, (5, 1) to +-1/sqrt 2: mean of (sqrt 2)^2 over 2."""
    student, teacher = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[5.0, 1.0]]]])
    assert pkd_loss(student, teacher).item() == pytest.approx(1.0, abs=1e-5)
    assert pkd_loss(student, 7 * student + 2).item() == pytest.approx(0.0, abs=1e-5)


def test_is_one_minus_the_correlation():
    student, teacher = make_maps((32, 48), 0)[0], make_maps((32, 48), 1)[0]
    rows = torch.stack([each.permute(1, 0, 2, 3).reshape(6, -1) for each in (student, teacher)])
    correlation = torch.stack([torch.corrcoef(rows[:, channel])[0, 1] for channel in range(6)])
    num = rows.shape[2]
    expected = ((1 - correlation) * (1 - 1 / num)).mean()
    torch.testing.assert_close(pkd_loss(student, teacher), expected, rtol=1e-4, atol=1e-6)


def test_without_padding_both_ways_are_the_originals():
    views = make_views([(32, 48)] * 2, [(32, 48)] * 2, ((32, 48), (32, 48)))
    student, teacher = make_maps((32, 48), 0), make_maps((32, 48), 1)
    right, (total, count) = run(PkdConfig(), student, teacher, views)
    faithful, _ = run(PkdConfig(faithful=True), student, teacher, views)
    torch.testing.assert_close(right, faithful, rtol=1e-5, atol=1e-6)
    assert (2 - right).item() == pytest.approx(total.item(), abs=1e-6)
    assert count.item() == 2


@pytest.mark.parametrize("resize_student", [True, False])
def test_padding_changes_nothing(resize_student):
    """The same images in a larger canvas, whose padding holds NaN: same loss, and no gradient flows there."""
    small, full = [(24, 40), (17, 33)], [(32, 48), (30, 47)]
    tight = make_views(small, full, ((24, 40), (32, 48)))
    loose = make_views(small, full, ((48, 64), (64, 96)))
    config = PkdConfig(resize_student=resize_student, strides=(8,))
    maps = make_maps((24, 40), 0)[0], make_maps((32, 48), 1)[0]
    padded = []
    for value, (height, width), view in zip(maps, ((48, 64), (64, 96)), (tight.corrupted, tight.clean), strict=True):
        wide = torch.full((2, 6, height // 8, width // 8), float("nan"))
        for row, (h, w) in enumerate(view.sizes_B2.tolist()):
            cells = (-(-h // 8), -(-w // 8))
            wide[row, :, : cells[0], : cells[1]] = value[row, :, : cells[0], : cells[1]]
        padded.append(wide.requires_grad_())
    expected, _ = run(config, (maps[0], None), (maps[1], None), tight)
    got, _ = run(config, (padded[0], None), (padded[1], None), loose)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    got.backward()
    assert padded[0].grad.isfinite().all()
    assert padded[0].grad[:, :, 3:].abs().max() == 0


@pytest.mark.parametrize("value", [0.0, 7.77, -5003.3])
def test_a_constant_channel_teaches_nothing(value):
    """The original divides by 1e-6 there; both networks may have dead channels. A mean of 7.77 is rounded."""
    student, teacher = (torch.randn(2, 3, 37, 53).requires_grad_() for _ in range(2))
    dead = torch.cat((student[:, :2], torch.full((2, 1, 37, 53), value)), dim=1)
    whole = torch.ones(2, 37, 53, dtype=torch.bool)
    loss, share = distances_inside([dead], [teacher], [whole], own)
    assert share.item() == pytest.approx(2 / 3)
    without, _ = distances_inside([student[:, :2]], [teacher[:, :2]], [whole], own)
    torch.testing.assert_close(loss, without * 2 / 3)
    loss.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1


def test_images_of_padding_only_give_zero():
    views = make_views([(0, 0)] * 2, [(0, 0)] * 2, ((32, 48), (32, 48)))
    loss, (total, count) = run(PkdConfig(), make_maps((32, 48), 0), make_maps((32, 48), 1), views)
    assert (loss.item(), total.item(), count.item()) == (0, 0, 0)


def test_other_widths_get_adapters(capsys):
    views = make_views([(32, 48)] * 2, [(32, 48)] * 2, ((32, 48), (32, 48)))
    teacher = tuple(torch.randn(2, 9, 32 // s, 48 // s) for s in STRIDES)
    loss, _ = run(PkdConfig(), make_maps((32, 48), 0), teacher, views, channels=(6, 9))
    assert loss.item() > 0.5
    assert "2 1x1 adapters are trained with the student and never shipped" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"strides": (8, 8)}, {"strides": (16, 8)}, {"weight": -1.0}])
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PkdConfig(**wrong)


def test_a_level_that_a_network_lacks_is_an_error():
    networks = [SimpleNamespace(strides=each, channels=4, config=GflConfig()) for each in ((8, 16), (16, 32))]
    with pytest.raises(ValueError, match=r"distill.pkd.strides: the teacher has no one level of stride 8"):
        Pkd(PkdConfig(strides=(8,)), *networks, own)
    assert Pkd(PkdConfig(), *networks, own).strides == (16,)
