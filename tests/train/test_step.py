"""The learner as one compiled graph, and its total as the sum the configuration asks for."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.api import own
from model.build import build_detector
from pipeline.batch import View
from pipeline.loading.loader import open_loader
from pipeline.packed.reader import PackedDataset
from pipeline.views import ViewConfig, ViewMaker
from tests.model.test_compile import assert_shapes_never_depend_on_data
from train.config import OptimizerConfig
from train.distill import CdFkd, CdFkdConfig
from train.load import compile_both
from train.optimizer import Optimizer
from train.recipes import RECIPES
from train.record.window import Window
from train.step import Learner, Step, Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks(make_config):
    model = make_config(RECIPES["cdfkd_small"][1]()).model
    torch.manual_seed(0)
    return build_detector(model, 3).train(), build_detector(model, 3)


@pytest.fixture(scope="module")
def batch(packed):
    """The last batch of the epoch, which is partly padding, and one before it."""
    with open_loader(PackedDataset(packed), 4, shuffle=False, name="cpu", threads=1) as loader:
        batches = list(loader)
    assert (batches[-1].ids_B == -1).any()
    return batches[-1]


def make_learner(networks, config=None, dtype=torch.float32):
    config = config or CdFkdConfig()
    student, teacher = networks
    method = CdFkd(config, student, teacher, own)
    return Learner(student, {"cd_fkd": method}, dtype, own), Teacher(teacher, [method], dtype)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.0, 2.5), (0.5, 0.0)])
def test_total_is_the_weighted_sum(networks, batch, alpha, beta):
    learner, teacher = make_learner(networks, CdFkdConfig(alpha=alpha, beta=beta, strides=(16, 32)))
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    total, scalars = learner(views, teacher(views))
    named = dict(zip(learner.layout.names, scalars.tolist(), strict=True))
    weights = {"global": alpha, "instance": beta}
    expected = sum(weights.get(name, 1.0) * named[name] for name in ("rpn_class", "rpn_box", "roi_class", "roi_box"))
    expected += alpha * named["global"] + beta * named["instance"]
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert named["total"] == pytest.approx(expected, rel=1e-5)
    assert named["global"] > 0.01


def test_cuda_graphs_are_told_where_a_step_begins(networks, batch, monkeypatch):
    """Before the teacher, whose graph shares its memory with the learner's."""
    calls = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: calls.append("begin"))
    learner, teacher = make_learner(networks)

    def look(views):
        calls.append("teacher")
        return teacher(views)

    parameters = dict(networks[0].named_parameters())
    parts = (
        parameters,
        [],
        Optimizer(parameters, OptimizerConfig()),
        None,
        Window((*learner.layout.names, "norm"), 2, CPU),
        1,
    )
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    Step(learner, look, *parts, cuda_graphs=True)(views, 0, 0.0)
    Step(learner, look, *parts)(views, 1, 0.0)
    assert calls == ["begin", "teacher", "teacher"]


def test_alpha_zero_and_beta_zero_is_plain_detection(networks, batch):
    """Turned off, the terms leave no trace in any gradient."""
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    gradients = []
    for learner, maps in (
        (Learner(networks[0], {}, torch.float32, own), lambda views: None),
        make_learner(networks, CdFkdConfig(alpha=0.0, beta=0.0)),
    ):
        networks[0].zero_grad(set_to_none=True)
        learner(views, maps(views))[0].backward()
        gradients.append({name: p.grad for name, p in networks[0].named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        assert torch.equal(gradients[0][name], gradients[1][name])


def test_no_gradient_reaches_the_teacher(networks, batch):
    learner, teacher = make_learner(networks)
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    maps = teacher(views)
    assert all(not value.requires_grad for value in maps.neck if value is not None)
    learner(views, maps)[0].backward()
    assert all(parameter.grad is None for parameter in networks[1].parameters())
    trained = {id(parameter) for parameter in learner.parameters()}
    assert trained
    assert trained.isdisjoint(id(parameter) for parameter in networks[1].parameters())


def test_the_teacher_looks_at_its_taps_only(networks, batch):
    _, teacher = make_learner(networks, CdFkdConfig(strides=(8, 32)))
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    maps = teacher(views)
    whole = networks[1].features(views.clean.images_B3HW)
    for stride, value, expected in zip(networks[1].strides, maps.neck, whole, strict=True):
        assert (value is None) == (stride not in (8, 32))
        if value is not None:
            torch.testing.assert_close(value, expected)


@pytest.mark.long
def test_the_step_is_one_graph_forward_and_backward(networks, batch):
    """fullgraph=True fails on a graph break; AOT autograd traces the backward too. Canvases: test_compiled.py."""
    learner, teacher = make_learner(networks)
    make_views = ViewMaker(ViewConfig(ratio_range=(1.0, 1.0), corruptions=()), threads=1)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(learner, backend=counter, fullgraph=True, dynamic=False)
    for draw in (0, 1):
        views = make_views(batch, draw)
        maps = teacher(views)
        found = []
        for step in (learner, compiled):
            learner.zero_grad(set_to_none=True)
            total, scalars = step(views, maps)
            total.backward()
            found.append((scalars, [p.grad for p in learner.parameters() if p.grad is not None]))
        (expected, expected_gradients), (got, gradients) = found
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        expected, got = (torch.cat([value.flatten() for value in each]) for each in (expected_gradients, gradients))
        assert torch.linalg.vector_norm(got - expected) < 1e-3 * torch.linalg.vector_norm(expected)
    assert counter.frame_count == 1
    assert_shapes_never_depend_on_data(counter)
    torch._dynamo.reset()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for inductor")
def test_inductors_code_computes_the_eager_losses_and_gradients(networks, batch):
    """Generated code, forward and backward. One stage of the backbone learns: each further one has the same layers."""
    student = build_detector(replace(networks[0].config, trainable_layers=1), 3).train()
    student.load_state_dict(networks[0].state_dict())
    learner, teacher = make_learner((student, networks[1]))
    views = ViewMaker(ViewConfig(corruptions=()), threads=1)(batch, 0)
    parameters = {name: value for name, value in learner.named_parameters() if value.requires_grad}
    torch._dynamo.reset()
    compiled, _ = compile_both(learner, teacher, "default", 1)
    maps = teacher(views)
    found = []
    for step in (learner, compiled):
        learner.zero_grad(set_to_none=True)
        total, scalars = step(views, maps)
        total.backward()
        found.append((scalars, {name: value.grad for name, value in parameters.items()}))
    (expected, expected_gradients), (got, gradients) = found
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for name, value in expected_gradients.items():
        largest = 1e-3 * value.abs().max().item()
        torch.testing.assert_close(gradients[name], value, rtol=1e-3, atol=max(largest, 1e-6), msg=name)
    torch._dynamo.reset()


@pytest.mark.long
def test_under_bfloat16_autocast_it_is_one_graph_too(networks, batch):
    learner, teacher = make_learner(networks, dtype=torch.bfloat16)
    views = ViewMaker(ViewConfig(), threads=1)(batch, 0)
    torch._dynamo.reset()
    total, scalars = torch.compile(learner, backend="eager", fullgraph=True, dynamic=False)(views, teacher(views))
    assert total.dtype == torch.float32
    assert scalars.isfinite().all()
    torch._dynamo.reset()


def take_rows(view, rows):
    changed = {
        name: take_rows(value, rows) if isinstance(value, View) else value[rows]
        for name, value in vars(view).items()
        if name != "extra"
    }
    return replace(view, **changed)


def test_a_padding_row_changes_nothing(networks, batch):
    """The same images with and without the rows that only fill up the batch: same losses."""
    learner, teacher = make_learner(networks)
    views = ViewMaker(ViewConfig(corruptions=()), threads=1)(batch, 0)
    real = views.ids_B >= 0
    shorter = take_rows(views, real)
    _, whole = learner(views, teacher(views))
    _, part = learner(shorter, teacher(shorter))
    torch.testing.assert_close(whole, part, rtol=1e-5, atol=1e-6)
