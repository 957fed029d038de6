"""crosskd_roi and head: values by hand, who gets a gradient, equal networks, empty images, padding, ranks, runs."""

from dataclasses import replace

import pytest
import torch

from model.api import Want, own
from model.build import build_detector
from model.dense.config import RetinaNetConfig
from model.detectors import new_detector
from pipeline.batch import Batch
from pipeline.command.ranks import World
from pipeline.views import ViewConfig, ViewMaker
from train.distill.crosskd_roi import CrossKdRoi, CrossKdRoiConfig
from train.distill.head import Head, HeadConfig, first
from train.distill.method import annotations
from train.recipes import RECIPES
from train.record.logs import read_log
from train.start import train
from train.step import Teacher

METHODS = {"crosskd_roi": (CrossKdRoi, CrossKdRoiConfig), "head": (Head, HeadConfig)}
# The student's view is a smaller one, as in CD-FKD.
VIEWS = ViewConfig(ratio_range=(0.5, 0.7), corruptions=("contrast",), flip_probability=0.0)
BOX = (4.0, 6.0, 30.0, 40.0)


@pytest.fixture(scope="module")
def networks(make_config):
    config = make_config(RECIPES["plain_small"][1]()).model
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(build_detector(config, 3).train())
        for parameter in made[-1].roi_heads.parameters():
            parameter.data.mul_(3)
    return made[0], made[1].eval().requires_grad_(False)


def make_views(boxes=(BOX,), num=2, config=VIEWS):
    generator = torch.Generator().manual_seed(5)
    boxes_BG4 = torch.tensor(boxes).reshape(-1, 4)[None].repeat(num, 1, 1)
    labels_BG = boxes_BG4[..., 2].gt(0).long()
    images = torch.randint(0, 256, (num, 64, 96, 3), generator=generator, dtype=torch.uint8)
    batch = Batch(
        images_BHW3=images, sizes_B2=torch.tensor([(64, 96)] * num, dtype=torch.int32), boxes_BG4=boxes_BG4,
        labels_BG=labels_BG, ignore_BG=labels_BG < 0, ids_B=torch.arange(num), epoch=0, seed=0,
    )  # fmt: skip
    return ViewMaker(config, threads=1)(batch, 0)


def run(name, student, teacher, views, **options):
    kind, config = METHODS[name]
    method = kind(config(**options), student, teacher, own)
    taught = Teacher(teacher, [method], torch.float32)(views)
    view = views.corrupted
    seen = student.look(view.images_B3HW, view.sizes_B2, method.want_student | type(method.want_student)(dense=True))
    _, trained = student.losses(seen, annotations(views, view))
    terms, logged = method({"corrupted": seen}, taught, {"corrupted": trained}, views)
    assert terms.keys() == method.weights.keys()
    assert logged.keys() == set(method.logged)
    return method, seen, terms, logged


def test_cross_terms_by_hand(networks):
    """Two classes and the background. T = 1. Region 0: c = (1/2, 1/4, 1/4), t = (1/4, 1/2, 1/4): KL = ln 2 / 4, best
    class 1 of probability 1/2, deltas 1 apart in each of 4. Region 1 is an empty slot.
    """
    method = CrossKdRoi(CrossKdRoiConfig(temperature=1.0), *networks, own)
    cross = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]).log(), torch.zeros(1, 2, 3, 4)
    teacher = torch.tensor([[[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]]]).log(), torch.zeros(1, 2, 3, 4)
    teacher[1][0, 0, 1] = 1.0
    teacher[1][0, 0, 2] = 7.0
    terms, _ = method.compare(cross, teacher, torch.tensor([[1, -1]]))
    kl = 0.25 * torch.tensor(0.5).log() + 0.5 * torch.tensor(2.0).log()
    assert terms["crosskd_roi_class"].item() == pytest.approx(kl.item(), abs=1e-6)
    assert terms["crosskd_roi_box"].item() == pytest.approx(1.0)
    faithful = CrossKdRoi(CrossKdRoiConfig(temperature=1.0, faithful=True), *networks, own)
    terms, _ = faithful.compare(cross, teacher, torch.tensor([[1, -1]]))
    assert terms["crosskd_roi_class"].item() == pytest.approx(kl.item() / 2, abs=1e-6)


def test_as_many_regions_as_wanted(networks):
    views = make_views()
    method, _, _, _ = run("head", *networks, views, regions=5)
    rois = Teacher(networks[1], [method], torch.float32)(views).rois
    assert first(rois, 5).boxes_BR4.shape == (2, 5, 4)
    assert torch.equal(first(rois, 5).logits_BRK, rois.logits_BRK[:, :5])
    # They are the best of all, and the box head looked at no others.
    view, (_, teacher) = views.clean, networks
    every = teacher.look(view.images_B3HW, view.sizes_B2, Want(rois=1000, found=True)).rois
    assert every.boxes_BR4.shape[1] > rois.boxes_BR4.shape[1] == 5
    for few, all_of_them in zip(rois, every, strict=True):
        torch.testing.assert_close(few, all_of_them[:, :5])


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_is_named(networks, name):
    kind, config = METHODS[name]
    dense = new_detector(RetinaNetConfig(backbone="resnet18", weights="none"), 3)
    with pytest.raises(ValueError, match=f"{name} compares box heads.*teacher is a retinanet: give a --teacher"):
        kind(config(), networks[0], dense, own)
    with pytest.raises(ValueError, match=f"--distill.{name.replace('_', '-')}.temperature must be above 0"):
        config(temperature=0.0)


def test_a_run_with_both_beside_cd_fkd(student_config):
    config = replace(student_config, distill=(*student_config.distill, CrossKdRoiConfig(), HeadConfig(regions=20)))
    assert train(config, World(0, 1, torch.device("cpu"))) == 0
    line = read_log(config.out / "log.jsonl")[0]
    assert {"crosskd_roi_class", "crosskd_roi_box", "head_class", "head_box", "global"} < set(line["losses"])
    assert 0 < line["logged"]["class_overlap"] <= 1
