"""Runs as real processes: killed at any moment, on two ranks, continued on one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.detecting.detect import Pass, match_classes
from eval.detecting.source_ap import source_ap
from model.weights.checkpoint import load_detector
from pipeline.command.ranks import World
from pipeline.files.fields import to_json
from pipeline.files.own import write_json
from pipeline.packed.reader import PackedDataset
from tests.jobs import KILLED, Job, free_port
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.start import train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def student_config(make_config, packed, teacher_run, tmp_path_factory):
    config = make_config(RECIPES["cdfkd_small"][1]())
    out = tmp_path_factory.mktemp("processes") / "whole"
    # A low rate, so that rounding that differs between one and two ranks does not grow within a few steps.
    optimizer = replace(config.optimizer, learning_rate=1e-4)
    # A score threshold of 0, so that what has learnt nothing has detections, and an AP, all the same.
    model = replace(config.model, score_threshold=0.0)
    return replace(
        config, data=(packed,), val=packed, val_every=4, teacher=teacher_run, out=out, model=model, optimizer=optimizer,
        steps=8, save_every=2, keep=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(student_config):
    """The run nobody disturbed."""
    assert start(student_config).wait() == 0
    return student_config.out


def start(config, ranks=1):
    path = config.out.with_suffix(".json")
    write_json(path, to_json(config))
    return Job("train.run", path, folder=path.parent, ranks=ranks)


def start_by_torchrun(config):
    path = config.out.with_suffix(".json")
    write_json(path, to_json(config))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *launcher, "train/run.py", str(path)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait(process, seconds=240):
    """Exit code; the output is shown when the test fails."""
    output, _ = process.communicate(timeout=seconds)
    print(output)
    return process.returncode


def until(condition, process, seconds=120):
    """Wait for a condition while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if isinstance(process, Job):
            assert not process.ended, f"it ended early:\n{process.output}"
        else:
            assert process.poll() is None, f"it ended early:\n{process.stdout.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def losses(run):
    lines = [line for line in read_log(run / "log.jsonl") if "losses" in line]
    return {line["step"]: line["losses"] | {"gradient_norm": line["gradient_norm"]} for line in lines}


def validations(run):
    return {line["step"]: line["validation"] for line in read_log(run / "log.jsonl") if "validation" in line}


def final_weights(run):
    return load_file(Checkpoints(run, 1).newest() / "model.safetensors")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_killed_at_any_moment_and_restarted_equals_undisturbed_to_the_bit(student_config, kind, tmp_path):
    optimizer = replace(student_config.optimizer, name=kind, ema_decay=0.9)
    config = replace(student_config, optimizer=optimizer, out=tmp_path / "killed")
    whole = tmp_path / "whole"
    assert train(replace(config, out=whole), World(0, 1, torch.device("cpu"))) == 0
    generator = random.Random(1)

    process = start(config)  # killed inside a save
    until(lambda: any(config.out.glob("checkpoints/.*.writing")), process)
    process.kill()
    assert process.wait() == KILLED

    process = start(config)  # killed somewhere in the steps after the first checkpoint
    until(lambda: Checkpoints(config.out, 1).newest() is not None, process)
    time.sleep(generator.uniform(0, 0.1))
    process.kill()
    assert process.wait() == KILLED

    assert start(config).wait() == 0
    assert losses(config.out) == losses(whole)
    expected = final_weights(whole)
    for name, value in final_weights(config.out).items():
        assert torch.equal(value, expected[name]), name


def test_two_ranks_train_as_one_and_one_continues_what_two_began(student_config, whole):
    config = replace(student_config, out=whole.parent / "two")
    assert start(config, ranks=2).wait() == 0
    states = {path.name: read_state(path) for path in Checkpoints(config.out, 1).complete()}
    assert {state["ranks"] for state in states.values()} == {2}
    assert_close_losses(config.out, whole)
    ours = validations(config.out)
    assert list(ours) == list(validations(whole)) == [4, 8]
    for step, score in ours.items():
        assert score["mAP"] > 0, "without a detection the test shows nothing"
        assert score == pytest.approx(measured_alone(config, step), rel=1e-6)

    for number in (6, 8):  # as if it had ended after step 4
        shutil.rmtree(config.out / "checkpoints" / f"step-{number:08d}")
    assert start(config).wait() == 0
    final = read_state(Checkpoints(config.out, 1).newest())
    assert (final["step"], final["ranks"]) == (8, 1)
    assert final["place"] == read_state(Checkpoints(whole, 1).newest())["place"]
    assert_close_losses(config.out, whole)


def test_two_ranks_measure_the_running_statistics_that_are_shipped(student_config, whole):
    """Each rank has its own of its own images."""
    model = replace(student_config.model, norm="batch")
    config = replace(student_config, model=model, out=whole.parent / "statistics", steps=4)
    assert start(config, ranks=2).wait() == 0
    (score,) = validations(config.out).values()
    assert score["mAP"] > 0, "without a detection the test shows nothing"
    assert score == pytest.approx(measured_alone(config, 4), rel=1e-6)


def measured_alone(config, step):
    """One process's score of a step's weights. Another run's differ by rounding, which moves a score by percents."""
    detector, _ = load_detector(config.out / "checkpoints" / f"step-{step:08d}")
    val = PackedDataset(config.val)
    labels = match_classes(val.classes, val.classes, {})
    return source_ap(Pass(detector, val, labels, World(0, 1, torch.device("cpu")), config.batch_size // 2))


def assert_close_losses(run, other):
    """Same samples, views and sampled candidates: only the order of additions differs."""
    ours, theirs = losses(run), losses(other)
    assert ours.keys() == theirs.keys()
    # The first step has the same weights: its losses and its gradient agree to rounding. Later, rounding has moved
    # weights a little, and a gradient, unlike a loss, may jump where a proposal just passes a threshold.
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5, abs=1e-6)
    for step in ours:
        ours[step].pop("gradient_norm")
        assert ours[step] == pytest.approx({name: theirs[step][name] for name in ours[step]}, rel=1e-3, abs=1e-5), step
    assert max(line["rpn_box"] for line in ours.values()) > 1.2 * min(line["rpn_box"] for line in ours.values())


def test_sigterm_to_the_launcher_saves_and_exits(student_config):
    """One rank: test_run.py."""
    config = replace(student_config, out=student_config.out.parent / "terminated", steps=2000, save_every=1000)
    process = start_by_torchrun(config)
    until(lambda: len(read_log(config.out / "log.jsonl")) > 1, process)
    process.send_signal(signal.SIGTERM)
    assert wait(process) != 0
    newest = Checkpoints(config.out, 1).newest()
    assert 1 < read_state(newest)["step"] < 1000
    assert not read_state(newest)["finished"]


def test_a_rank_that_dies_ends_the_job_in_seconds(student_config):
    config = replace(student_config, out=student_config.out.parent / "dying", steps=5000, save_every=5000)
    process = start_by_torchrun(config)
    until(lambda: len(read_log(config.out / "log.jsonl")) > 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    started = time.monotonic()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert wait(process) != 0
    assert time.monotonic() - started < 30
    assert not [child for child in children if Path(f"/proc/{child}").exists()], "a rank outlived the job"


TWO_RANKS = """
import json, sys, torch
from functools import partial
from pathlib import Path
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel
from pipeline.loading.loader import open_loader
from datetime import timedelta
from pipeline.command.ranks import joined
from train import load
from train.config import Config
from pipeline.files.fields import from_json
from train.record.window import Window
with joined("cpu", timedelta(minutes=2)) as world:
    config = from_json(Config, json.loads(Path(sys.argv[1]).read_text()))
    data, _ = load.open_data(config, world)
    teacher, _ = load.load_teacher(config, data, world)
    student = load.make_student(config, data.classes, world)
    learner, look = load.make_learner(config, student, teacher, world)
    make_views = load.make_views(config, world, learner, look)
    with open_loader(data, 2, name="cpu", rank=world.rank, world=world.size, threads=1) as loader:
        views = make_views(next(loader), 0)
    maps, results = look(views), []
    counter = CompileCounterWithBackend("aot_eager")
    torch.compile = partial(torch.compile, backend=counter)  # in inductor's place
    compiled, _ = load.compile_both(learner, None, "default", 8)
    for inner in (learner, compiled):
        student.zero_grad(set_to_none=True)
        # Buckets of 1 MB: dynamo's own way with DDP would cut the graph into several.
        total, scalars = DistributedDataParallel(inner, broadcast_buffers=False, bucket_cap_mb=1)(views, maps)
        total.backward()
        results.append([scalars, *(p.grad.clone() for p in student.parameters() if p.grad is not None)])
    assert counter.frame_count == 1, counter.frame_count
    for eager, ours in zip(*results, strict=True):
        torch.testing.assert_close(eager, ours, rtol=1e-3, atol=1e-4)

    window = Window(("loss", "gradient_norm"), 2, world.device)
    values = torch.tensor([float("nan") if world.rank == 1 else 1.0, 2.0])
    skip = window.record(0, values, torch.tensor([10 * world.rank, 10 * world.rank + 1]), stop=world.rank == 1)
    reading = window.read(0, 1)
    assert skip.item() == 1 and reading.stop and window.asks_to_stop(0)
    assert reading.skipped == [(0, ["loss"], [0, 1, 10, 11])], reading
"""


def test_two_ranks_share_one_graph_and_what_one_of_them_saw(student_config, shallow, tmp_path):
    """Averaging counts over ranks breaks no graph, nor does DDP, whose averaged gradients are those of eager.
    A loss that is not finite on one rank, and a request to stop, are seen by both."""
    (tmp_path / "two.py").write_text(TWO_RANKS)
    write_json(tmp_path / "config.json", to_json(shallow(student_config)))
    assert Job(tmp_path / "two.py", tmp_path / "config.json", folder=tmp_path, ranks=2).wait() == 0
