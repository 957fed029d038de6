"""A run that is out of memory, and one that is traced."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline.views import ViewConfig
from tests.train.runs import WORLD
from train.record.trace import TracePlan
from train.start import train


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
    """The larger of two student canvases comes in one step only. What a step does is no matter here, and left out."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr("train.trainer.PROFILE_WAIT", wait)
    views = ViewConfig(ratio_range=(0.4, 1.0), ratio_buckets=3, corruptions=())
    trainer = begin(replace(student_config, views=views, profile=True, steps=20, save_every=20, **change))
    buckets = views.buckets()
    assert len(trainer.task.maker.corrupted_canvases((64, 96))) == 2
    trainer.task.maker.draw_bucket = lambda seed, draw: buckets[-1 if draw == rare_at else 0]
    trainer.task.one_step = lambda *_: None
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
        plan.saw((None, (side, side)))
        actions.append(plan(step + 1))
    traced = ["WARMUP", "RECORD", "RECORD", "RECORD", "RECORD", "RECORD_AND_SAVE"]
    assert [action.name for action in actions] == ["NONE"] * (first - 1) + traced + ["NONE"] * (26 - first)
    assert (plan.end, plan.num_new) == (first + 5, num_new)


@pytest.mark.long
def test_profile_writes_a_trace(student_config):
    with pytest.raises(ValueError, match=r"--profile traces steps 10 to 15, but only 6 are left"):
        train(replace(student_config, profile=True), WORLD)
    config = replace(student_config, profile=True, steps=16, save_every=16)
    assert train(config, WORLD) == 0
    trace = json.loads((config.out / "trace-rank0.json").read_text())
    assert len(trace["traceEvents"]) > 100
