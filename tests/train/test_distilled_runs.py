"""Whole runs with the methods that compare locations: eager, compiled to one graph, on two ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.detectors import new_detector
from model.weights.checkpoint import save_detector
from pipeline.command.ranks import World
from pipeline.files.fields import to_json
from tests.train.conftest import CLASSES, make_trainer
from train.record.checkpoint import write_json
from train.record.logs import read_log
from train.start import read_command, train

ROOT = Path(__file__).resolve().parents[2]
WORLD = World(0, 1, torch.device("cpu"))
REST = ["--loader.name", "cpu", "--loader.threads", "1", "--device", "cpu", "--steps", "2", "--log-every", "1"]
NARROW = ["--model.weights", "none", "--model.fpn-channels", "16"]
DENSE = ["--model.head-channels", "16", "--model.num-convs", "2", "--model.norm-groups", "4", *NARROW]
ADVERSARIAL = ["--distill.cmkd.loss", "adversarial", "--distill.cmkd.canvas", "64", "96"]
GENERAL = ["--distill.imitation.region", "general", *ADVERSARIAL]
OUTSIDE = ["--distill.defeat.class-outside-weight", "2", *ADVERSARIAL]
METHODS = {
    "gfl": ["ld", "imitation", "fine_grained", "defeat", "gid", "crosskd", "cmkd", *GENERAL],
    "atss": ["crosskd", "pkd", "cmkd"],
    "faster_rcnn": ["imitation", "fine_grained", "defeat", "cmkd", *OUTSIDE],
}
ADAPTED = {"imitation", "fine_grained", "defeat_inside", "defeat_outside"}
CROSSED = {"crosskd_class", "crosskd_box"}
LOCATED = {"ld_main", "ld_valuable", "ld_class", "gid_class", "gid_box", "gid_feature"}
TERMS = {
    "gfl": {*LOCATED, *ADAPTED, *CROSSED, "cmkd"},
    "atss": {*CROSSED, "crosskd_centerness", "pkd", "cmkd"},
    "faster_rcnn": {*ADAPTED, "cmkd"},
}


@pytest.fixture(scope="module", params=list(METHODS))
def command(request, packed, tmp_path_factory):
    """A kind of detector, a teacher of it, and the command of a student that learns with all that fits."""
    kind, root = request.param, tmp_path_factory.mktemp("distilled")
    narrow = [*NARROW, "--model.representation-size", "16"] if kind == "faster_rcnn" else DENSE
    common = ["--data", str(packed), "--model", kind, *narrow, *REST]
    model = read_command(["plain_small", *common, "--out", str(root)]).model
    torch.manual_seed(3)
    save_detector(root / "teacher", new_detector(model, len(CLASSES) + 1), model, CLASSES, {"AP50": 50.0})
    student = ["--teacher", str(root / "teacher"), "--views.ratio-range", "1", "1"]
    return kind, ["cdfkd_small", *common, *student, "--distill", *METHODS[kind]]


def test_a_run_trains_with_all_that_fits(command, tmp_path):
    kind, arguments = command
    assert train(read_command([*arguments, "--out", str(tmp_path / "student")]), WORLD) == 0
    lines = [line["losses"] for line in read_log(tmp_path / "student" / "log.jsonl") if "losses" in line]
    assert TERMS[kind] < set(lines[0])
    assert all(0 < lines[0][name] < float("inf") for name in TERMS[kind])


@pytest.mark.long
def test_a_compiled_step_is_one_graph_and_equals_the_eager_one(command, tmp_path, monkeypatch):
    _, arguments = command
    config = read_command([*arguments, "--out", str(tmp_path / "student")])
    task = make_trainer(config).task
    with task.loader:
        views = task.maker(next(task.loader), 0)
    seen = task.teacher(views)
    expected, scalars = task.learner(views, seen)
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in task.parameters.items() if value.grad is not None}
    task.optimizer.inner.zero_grad(set_to_none=True)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    total, got = torch.compile(task.learner, backend=counter, fullgraph=True)(views, seen)
    total.backward()
    assert counter.frame_count == 1
    torch.testing.assert_close(got, scalars, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(task.parameters[name].grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max())
    torch._dynamo.reset()


@pytest.mark.long
def test_two_ranks_are_one(command, tmp_path):
    """Losses and gradient norms of two steps. Batch norm is frozen: its statistics would be those of a rank.

    CrossKD's and PKD's statistics are those of a rank's own images, as the originals', so both are left out.
    """
    kind, arguments = command
    arguments = [argument for argument in arguments if argument not in ("crosskd", "pkd")]
    if arguments[-1] == "--distill":
        pytest.skip(f"every method of the {kind} takes statistics over a rank's images")
    logs = []
    for ranks in (1, 2):
        config = read_command([*arguments, "--model.norm", "frozen", "--out", str(tmp_path / f"ranks{ranks}")])
        write_json(
            tmp_path / "config.json", to_json(replace(config, optimizer=replace(config.optimizer, learning_rate=1e-5)))
        )
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone", "train/run.py"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        run = [sys.executable, *launcher, str(tmp_path / "config.json")]
        subprocess.run(run, cwd=ROOT, env=environment, check=True, timeout=300)
        logs.append([line for line in read_log(config.out / "log.jsonl") if "losses" in line])
    for one, two in zip(*logs, strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-7)
        assert two["logged"] == pytest.approx(one["logged"], rel=1e-4, abs=1e-7)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
