"""DivAlign against hand-computed values; a run without a teacher; empty images; who gets a gradient."""

from dataclasses import replace

import pytest
import torch

from model.api import own
from model.build import build_detector
from model.dense.config import RetinaNetConfig
from model.detectors import new_detector
from pipeline.batch import Batch
from pipeline.views import ViewConfig, ViewMaker
from train.distill import PkdConfig
from train.distill.divalign import DivAlign, DivAlignConfig, box_distances, class_distances
from train.distill.method import annotations
from train.recipes import RECIPES
from train.record.logs import read_log
from train.step import Learner

ROWS = ("images_BHW3", "sizes_B2", "boxes_BG4", "labels_BG", "ignore_BG", "ids_B")
SAME = ViewConfig(ratio_range=(1.0, 1.0), corruptions=("contrast",), flip_probability=0.0)


@pytest.fixture(scope="module")
def student(make_config):
    torch.manual_seed(0)
    return build_detector(make_config(RECIPES["plain_small"][1]()).model, 3).train()


def make_batch(boxes=((4.0, 6.0, 30.0, 40.0), (0.0, 0.0, 0.0, 0.0)), num=2):
    generator = torch.Generator().manual_seed(5)
    boxes_BG4 = torch.tensor(boxes)[None].repeat(num, 1, 1)
    labels_BG = boxes_BG4[..., 2].gt(0).long()
    images = torch.randint(0, 256, (num, 64, 96, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        images_BHW3=images, sizes_B2=torch.tensor([(64, 96)] * num, dtype=torch.int32), boxes_BG4=boxes_BG4,
        labels_BG=labels_BG, ignore_BG=labels_BG < 0, ids_B=torch.arange(num), epoch=0, seed=0,
    )  # fmt: skip


def make_learner(student, config=None):
    method = DivAlign(config or DivAlignConfig(), student, None, own)
    return Learner(student, {"divalign": method}, torch.float32, own)


def terms_of(learner, views):
    total, scalars = learner(views, None)
    return total, dict(zip(learner.layout.names, scalars.tolist(), strict=True))


def test_class_distance_by_hand():
    """p = (1/2, 1/2), p' = (3/4, 1/4): 3/4 ln(3/2) + 1/4 ln(1/2)."""
    got = class_distances(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log())
    assert got.item() == pytest.approx(0.75 * 0.405465 - 0.25 * 0.693147, abs=1e-5)


def test_box_distance_by_hand():
    """Of class 1: differences .05 (square: .05^2 / (2/9)) and 1 (straight: 1 - 1/18); class 0 does not count."""
    own_4, other_4 = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 9.0)
    other_4[0, 1] = torch.tensor([0.05, 1.0, 0.0, 0.0])
    got = box_distances(own_4, other_4, torch.tensor([1]))
    assert got.item() == pytest.approx(0.05**2 * 4.5 + 1 - 1 / 18, abs=1e-6)


def test_both_views_are_detected_in_and_equal_views_align(student):
    views = ViewMaker(replace(SAME, corruptions=()), threads=1)(make_batch(), 0)
    learner = make_learner(student)
    assert learner.sees == ("clean", "corrupted")
    _, named = terms_of(learner, views)
    assert named["divalign_class"] == named["divalign_box"] == 0
    alone = Learner(student, {}, torch.float32, own)
    _, once = terms_of(alone, views)
    for term in student.terms:
        assert named[term] == pytest.approx(2 * once[term], rel=1e-6)


def test_terms_of_corrupted_views_and_their_gradients(student):
    views = ViewMaker(SAME, threads=1)(make_batch(), 0)
    learner = make_learner(student)
    total, named = terms_of(learner, views)
    assert named["divalign_class"] > 0
    assert named["divalign_box"] > 0
    names = (*student.terms, "divalign_class", "divalign_box")
    assert total.item() == pytest.approx(sum(named[name] for name in names), rel=1e-5)
    neck = {}
    for name in ("clean", "corrupted"):
        view = getattr(views, name)
        out = student.look(view.images_B3HW, view.sizes_B2, learner.want)
        neck[name] = out._replace(neck=tuple(level.detach().requires_grad_() for level in out.neck))
    truth = annotations(views, views.clean)
    _, assigned = student.losses(neck["clean"], truth, own)
    terms, _ = learner.methods["divalign"](neck, None, {"clean": assigned}, views)
    student.zero_grad()
    for name, value in terms.items():
        assert value.item() == pytest.approx(named[name], rel=1e-4)
        value.backward(retain_graph=True)
        for out in neck.values():
            assert sum(level.grad.abs().sum() for level in out.neck[:-1] if level.grad is not None) > 0
            for level in out.neck:
                level.grad = None
    reached = {name.split(".")[0] for name, value in student.named_parameters() if value.grad is not None}
    assert reached == {"roi_heads"}
    student.zero_grad()


@pytest.mark.parametrize("faithful", [False, True])
def test_without_boxes_only_the_original_is_nan(student, faithful):
    views = ViewMaker(SAME, threads=1)(make_batch(boxes=((0.0, 0.0, 0.0, 0.0),)), 0)
    total, named = terms_of(make_learner(student, DivAlignConfig(faithful=faithful)), views)
    assert total.isnan().item() == faithful
    if not faithful:
        assert named["divalign_box"] == 0
        total.backward()
        assert all(value.grad.isfinite().all() for value in student.parameters() if value.grad is not None)
        student.zero_grad()


def test_with_foreground_the_original_is_the_default_on_one_rank(student):
    views = ViewMaker(SAME, threads=1)(make_batch(), 0)
    both = [terms_of(make_learner(student, DivAlignConfig(faithful=faithful)), views)[1] for faithful in (False, True)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_the_batch_changes_nothing(student):
    """Two images give the mean over the regions of both; a row that only fills up the batch counts for nothing."""
    whole = make_batch()
    empty = replace(whole, sizes_B2=torch.tensor([(64, 96), (0, 0)], dtype=torch.int32), ids_B=torch.tensor([0, -1]))
    empty.images_BHW3[1], empty.labels_BG[1], empty.boxes_BG4[1] = 0, 0, 0
    whole = make_batch()
    parts = [
        replace(whole, **{name: getattr(whole, name)[row : row + 1] for name in ROWS})
        for row in range(len(whole.ids_B))
    ]
    found = []
    for batch in (whole, empty, *parts):
        views = ViewMaker(SAME, threads=1)(batch, 0)
        learner = make_learner(student)
        look = {name: getattr(views, name) for name in learner.sees}
        seen = {name: student.look(view.images_B3HW, view.sizes_B2, learner.want) for name, view in look.items()}
        method = learner.methods["divalign"]
        _, regions = student.losses(seen["clean"], annotations(views, views.clean), own)
        terms, _ = method(seen, None, {"clean": regions}, views)
        found.append((terms, (regions.state_BN >= 0).sum(), (regions.state_BN == 1).sum()))
    (together, *_), (filled, *_), *alone = found
    for name, count in (("divalign_class", 1), ("divalign_box", 2)):
        torch.testing.assert_close(filled[name], alone[0][0][name], rtol=1e-4, atol=1e-7)
        expected = sum(each[count] * each[0][name] for each in alone) / sum(each[count] for each in alone)
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-7)


def test_in_a_smaller_view_a_region_shrinks_and_keeps_its_level(student, monkeypatch):
    views = ViewMaker(replace(SAME, ratio_range=(0.5, 0.5), ratio_buckets=1), threads=1)(make_batch(), 0)
    asked = []
    box_head = student.box_head
    monkeypatch.setattr(student, "box_head", lambda neck, rois: asked.append(rois) or box_head(neck, rois))
    _, named = terms_of(make_learner(student), views)
    *_, full, small = asked
    assert torch.equal(small.boxes_BR4, full.boxes_BR4 / 2)
    assert torch.equal(small.level_BR, full.level_BR)
    assert named["divalign_class"] > 0


@pytest.mark.long
def test_it_is_one_graph(student):
    views = ViewMaker(SAME, threads=1)(make_batch(), 0)
    learner = make_learner(student)
    expected, _ = learner(views, None)
    torch._dynamo.reset()
    total, _ = torch.compile(learner, fullgraph=True, dynamic=False, backend="aot_eager")(views, None)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_dense_detector_has_no_box_head():
    with pytest.raises(ValueError, match=r"divalign aligns a box head, and a retinanet has none: give --model faster"):
        DivAlign(DivAlignConfig(), new_detector(RetinaNetConfig(weights="none"), 3), None, own)


@pytest.mark.parametrize("wrong", [{"classes": -1.0}, {"boxes": float("nan")}])
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match=f"distill.divalign.{next(iter(wrong))}"):
        DivAlignConfig(**wrong)


def test_a_run_needs_no_teacher(begin, student_config):
    config = replace(student_config, distill=(DivAlignConfig(),), views=SAME, steps=2, log_every=1)
    with pytest.raises(ValueError, match="--teacher is given, but this run does not distil from one"):
        begin(config)
    optimizer = replace(config.optimizer, ema_decay=0.9)
    average = replace(config, teacher=None, teacher_policy="average", optimizer=optimizer)
    with pytest.raises(ValueError, match="no method of this run looks at a teacher"):
        begin(average)
    trainer = begin(replace(config, teacher=None, views=RECIPES["divalign_small"][1]().views))
    assert trainer.task.teacher is None
    assert not [name for name in trainer.task.parameters if name.startswith("method.")]
    assert trainer.train() == 0
    losses = read_log(config.out / "log.jsonl")[0]["losses"]
    assert {"divalign_class", "divalign_box"} < losses.keys()


def test_beside_a_method_with_a_teacher(begin, student_config):
    config = replace(student_config, distill=(DivAlignConfig(), PkdConfig()), views=SAME, steps=1, log_every=1)
    assert begin(config).train() == 0
    losses = read_log(config.out / "log.jsonl")[0]["losses"]
    assert {"divalign_class", "divalign_box", "pkd"} < losses.keys()
