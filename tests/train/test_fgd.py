"""FGD against hand-computed values; padding, batches and empty images change nothing; who gets a gradient."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from model.api import Outputs, own
from model.config import ModelConfig
from model.detectors import new_detector
from pipeline.batch import View, Views
from train.distill.fgd import PUBLISHED, Fgd, FgdConfig, attentions, make_masks
from train.distill.method import make_adapters

STRIDES = (8, 16)
BOXES = [[(3.0, 5.0, 20.0, 14.0), (10.0, 2.0, 33.0, 23.0)], [(0.0, 0.0, 9.0, 17.0), (0.0, 0.0, 0.0, 0.0)]]


def make_views(canvas, sizes, boxes=BOXES):
    num = len(sizes)
    boxes_BG4 = torch.tensor(boxes[:num])
    labels_BG = boxes_BG4[..., 2].gt(0).long()
    view = View(torch.zeros(num, 3, *canvas), torch.tensor(sizes, dtype=torch.int32), boxes_BG4)
    return Views(
        clean=view, corrupted=view, ratio_B=torch.ones(num), labels_BG=labels_BG, ignore_BG=labels_BG < 0,
        weight_BG=torch.ones_like(boxes_BG4[..., 0]), keys_B=torch.arange(num), ids_B=torch.arange(num),
    )  # fmt: skip


def make_maps(canvas, seed, channels=6, num=2):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(num, channels, canvas[0] // s, canvas[1] // s, generator=generator).requires_grad_()
        for s in STRIDES
    )


def make_method(config=None, channels=(6, 6), kind="retinanet"):
    networks = [SimpleNamespace(strides=STRIDES, channels=each, config=SimpleNamespace(kind=kind)) for each in channels]
    torch.manual_seed(0)
    method = Fgd(config or FgdConfig(), *networks, own)
    for parameter in method.parameters():  # the last layers start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return method


def run(method, student, teacher, views):
    terms, logged = method({"corrupted": Outputs((0, 0), student)}, Outputs((0, 0), teacher), {}, views)
    assert terms.keys() == method.weights.keys()
    assert logged == {}
    return terms


def test_masks_by_hand():
    """Box (1.2, 0) - (2, 1): cells 1..2 x 0..1, 4 in all; (2, 1) - (5.5, 1.5): 2..6 x 1..2, 10, of which 8 are seen."""
    boxes = torch.tensor([[[1.2, 0.0, 2.0, 1.0], [2.0, 1.0, 5.5, 1.5], [0.0, 0.0, 4.0, 2.0]]])
    masks = make_masks(boxes, torch.tensor([[True, True, False]]), torch.ones(1, 3, 5, dtype=torch.bool))
    expected = torch.tensor([[0, 0.25, 0.25, 0, 0], [0, 0.25, 0.25, 0.1, 0.1], [0, 0, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(masks.foreground_BHW[0], expected)
    torch.testing.assert_close(masks.background_BHW[0], (expected == 0) / 6)


def test_attentions_by_hand():
    """Two channels (1, -3) and (0, 1) on two places: means over channels .5 and 2, over places 2 and .5."""
    maps = torch.tensor([[[[1.0, -3.0]], [[0.0, 1.0]]]])
    spatial, channel = attentions(maps, torch.ones(1, 1, 2, dtype=torch.bool), temperature=0.5)
    share = torch.tensor([1.0, 4.0]).softmax(0)
    torch.testing.assert_close(spatial[0, 0], 2 * share)
    torch.testing.assert_close(channel[0], 2 * share.flip(0))


def test_one_place_by_hand():
    """One channel, one place, one box: both attentions are 1, and so is the mask: (3 - 1)^2 in the foreground."""
    view = make_views((8, 8), [(8, 8)], [[(2.0, 3.0, 7.0, 7.0)]])
    network = SimpleNamespace(strides=(8,), channels=1, config=SimpleNamespace(kind="fcos"))
    method = Fgd(FgdConfig(), network, network, own)
    terms = run(method, (torch.full((1, 1, 1, 1), 3.0),), (torch.ones(1, 1, 1, 1),), view)
    # The box covers two cells a side, of which one is on the map.
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"fgd_foreground": 1.0, "fgd_background": 0.0, "fgd_attention": 0.0, "fgd_relation": 4.0}
    )


def padded(maps, sizes, canvas):
    """The same images in another canvas, whose padding holds NaN."""
    wider = []
    for stride, level in zip(STRIDES, maps, strict=True):
        wide = torch.full((*level.shape[:2], canvas[0] // stride, canvas[1] // stride), float("nan"))
        for row, (height, width) in enumerate(sizes):
            cells = -(-height // stride), -(-width // stride)
            wide[row, :, : cells[0], : cells[1]] = level.detach()[row, :, : cells[0], : cells[1]]
        wider.append(wide.requires_grad_())
    return tuple(wider)


def test_padding_changes_nothing():
    sizes = [(24, 40), (17, 33)]
    student, teacher = make_maps((32, 48), 0), make_maps((32, 48), 1)
    method = make_method()
    expected = run(method, student, teacher, make_views((32, 48), sizes))
    wide = [padded(maps, sizes, (64, 96)) for maps in (student, teacher)]
    got = run(method, *wide, make_views((64, 96), sizes))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)
    sum(got.values()).backward()
    for level in wide[0]:
        assert level.grad.isfinite().all()
        assert level.grad[:, :, -1].abs().max() == 0


def test_without_padding_only_the_masks_place_differs_from_the_original():
    student, teacher = make_maps((32, 48), 0), make_maps((32, 48), 1)
    full = make_views((32, 48), [(32, 48)] * 2)
    both = [run(make_method(FgdConfig(faithful=faithful)), student, teacher, full) for faithful in (False, True)]
    for name, value in both[0].items():
        torch.testing.assert_close(value, both[1][name], rtol=1e-5, atol=1e-6)
    part = make_views((32, 48), [(32, 48), (20, 30)])
    both = [run(make_method(FgdConfig(faithful=faithful)), student, teacher, part) for faithful in (False, True)]
    assert all(value != both[1][name] for name, value in both[0].items())


@pytest.mark.parametrize("faithful", [False, True])
def test_images_without_boxes_are_all_background(faithful):
    views = make_views((32, 48), [(32, 48)] * 2, [[(0.0, 0.0, 0.0, 0.0)]] * 2)
    student = make_maps((32, 48), 0)
    terms = run(make_method(FgdConfig(faithful=faithful)), student, make_maps((32, 48), 1), views)
    assert terms["fgd_foreground"].item() == 0
    assert terms["fgd_background"].item() > 0
    sum(terms.values()).backward()
    assert all(level.grad.isfinite().all() for level in student)
    nothing = make_views((32, 48), [(0, 0)] * 2, [[(0.0, 0.0, 0.0, 0.0)]] * 2)
    if not faithful:
        terms = run(make_method(), student, make_maps((32, 48), 1), nothing)
        assert all(value.item() == 0 for value in terms.values())


def test_without_the_relation_there_are_no_blocks():
    method = make_method(FgdConfig(relation=0.0))
    assert list(method.parameters()) == []
    terms = run(method, make_maps((32, 48), 0), make_maps((32, 48), 1), make_views((32, 48), [(32, 48), (30, 41)]))
    assert "fgd_relation" not in terms


def test_numbers_are_the_originals_for_the_kind_unless_given():
    assert make_method(kind="fcos").weights == {
        "fgd_foreground": 1.6e-3, "fgd_background": 8e-4, "fgd_attention": 8e-4, "fgd_relation": 8e-6,
    }  # fmt: skip
    given = make_method(FgdConfig(attention=0.5, temperature=2.0), kind="gfl")
    assert given.weights["fgd_attention"] == 0.5
    assert given.weights["fgd_foreground"] == PUBLISHED["gfl"].foreground
    assert given.temperature == 2.0


def test_a_pyramid_of_which_only_the_pooled_level_is_its_own_is_refused():
    """MobileNetV3's strides are 32, 32 and 64."""
    with torch.device("meta"):
        network = new_detector(ModelConfig(backbone="mobilenet_v3_large", weights="none"), 3)
        with pytest.raises(ValueError, match=r"no level is common to .*32, 32, 64.*choose another backbone"):
            Fgd(FgdConfig(), network, network, own)


def test_the_pooled_level_is_left_out():
    network = SimpleNamespace(strides=(4, 8, 16, 32, 64), channels=6, config=ModelConfig(weights="none"))
    assert Fgd(FgdConfig(), network, network, own).strides == (4, 8, 16, 32)
    assert Fgd(FgdConfig(strides=(16, 64)), network, network, own).strides == (16, 64)
    assert make_adapters(network, network, 4, "fgd") is None


@pytest.mark.parametrize(
    "wrong", [{"strides": (8, 8)}, {"foreground": -1.0}, {"temperature": 0.0}, {"relation": float("inf")}]
)
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match=f"distill.fgd.{next(iter(wrong))}"):
        FgdConfig(**wrong)


def test_a_downscaling_view_is_an_error_that_says_the_option(begin, student_config):
    with pytest.raises(ValueError, match=r"fgd compares locations.*--views.ratio-range 1 1"):
        begin(replace(student_config, distill=(FgdConfig(),)))
