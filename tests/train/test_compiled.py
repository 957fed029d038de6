"""A whole run with its step compiled: one graph per network and canvas, and the results of the eager run."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.command.ranks import World
from pipeline.views import ViewConfig
from train.ahead import views_ahead
from train.record.logs import read_log
from train.start import train

WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture
def two_canvases(student_config, shallow, packed):
    """Three buckets of ratios give two student canvases here. A score threshold of 0 finds something at any time."""
    student_config = shallow(student_config)
    model = replace(student_config.model, score_threshold=0.0)
    views = ViewConfig(ratio_range=(0.4, 1.0), ratio_buckets=3, corruptions=())
    # A low rate, so that rounding that differs when compiled does not grow within a few steps.
    optimizer = replace(student_config.optimizer, learning_rate=1e-4)
    return replace(
        student_config, model=model, views=views, optimizer=optimizer, val=packed, val_every=6, steps=12, log_every=1
    )


@pytest.fixture
def counter(monkeypatch):
    """Stands in for inductor, and counts the graphs it is given. It runs them as they are: test_step.py lowers one."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


@pytest.mark.long
def test_a_compiled_run_is_one_graph_per_network_and_canvas_and_equals_the_eager_one(
    begin, two_canvases, counter, tmp_path
):
    eager = replace(two_canvases, out=tmp_path / "eager")
    assert train(eager, WORLD) == 0
    assert counter.frame_count == 0

    trainer = begin(replace(two_canvases, compile="on"))
    canvases, graphs = [], []
    one_step = trainer.task.one_step

    def step_and_note(views, *more):
        one_step(views, *more)
        canvases.append(tuple(views.corrupted.images_B3HW.shape[-2:]))
        graphs.append(counter.frame_count)

    trainer.task.one_step = step_and_note
    assert trainer.train() == 0
    seen_at = [len(set(canvases[: step + 1])) for step in range(12)]
    assert seen_at[5] == 2, "both canvases before the first measuring, or the counts below mean nothing"
    assert graphs[:6] == [1 + seen for seen in seen_at[:6]]  # the teacher's, and the learner's of each canvas
    assert graphs[6:] == [4] * 6  # and the detector's, since the first measuring
    assert counter.frame_count == 4

    for ours, theirs in zip(*(read_log(run / "log.jsonl") for run in (trainer.config.out, eager.out)), strict=True):
        if "losses" in ours:
            assert ours["losses"] == pytest.approx(theirs["losses"], rel=2e-2, abs=1e-3)
    first, second = (next(read_log_losses(run)) for run in (trainer.config.out, eager.out))
    assert first == pytest.approx(second, rel=1e-4)


def read_log_losses(run):
    return (line["losses"] for line in read_log(run / "log.jsonl") if "losses" in line)


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_repeatable_run_chooses_no_kernel_by_its_time(begin, student_config, repeatable, monkeypatch):
    for name in ("benchmark", "deterministic"):  # afterwards as they were
        monkeypatch.setattr(torch.backends.cudnn, name, False)
    with torch._inductor.config.patch(deterministic=False):
        begin(replace(student_config, repeatable=repeatable))
        assert torch.backends.cudnn.benchmark != repeatable
        assert torch.backends.cudnn.deterministic == torch._inductor.config.deterministic == repeatable


def test_cuda_graphs_on_a_cpu_are_an_error(begin, student_config):
    with pytest.raises(ValueError, match=r"compile is cuda_graphs, but the run is on a CPU"):
        begin(replace(student_config, compile="cuda_graphs"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["off", "on", "cuda_graphs"])
def test_between_two_log_lines_a_gpu_is_never_waited_for(begin, two_canvases, kind):
    """Every canvas is seen twice first, for what is set up once: compiling, graphs, the allocator's memory."""
    config = replace(two_canvases, device="cuda", compile=kind, val=None, val_every=None, log_every=100)
    trainer = begin(config, World(0, 1, torch.device("cuda", torch.cuda.current_device())))
    seen, checked = [], 0
    task = trainer.task
    with task.loader:
        try:
            for step, (views, _) in enumerate(views_ahead(task.loader, task.maker, range(60))):
                canvas = tuple(views.corrupted.images_B3HW.shape[-2:])
                if min(seen.count(size) for size in ((64, 64), (64, 96))) > 2:
                    torch.cuda.set_sync_debug_mode("error")
                    checked += 1
                seen.append(canvas)
                task.step(views, step, 1e-4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert checked > 5
    assert task.layout.read(task.window.read(50, 60).means)[0]["total"] > 0
