"""What tests of whole runs compare."""

import torch
from safetensors.torch import load_file

from pipeline.command.ranks import World
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log

WORLD = World(0, 1, torch.device("cpu"))


def state_of(step, score=None):
    """What a checkpoint's state.json holds, for checkpoints without a run."""
    place = {"epoch": 0, "cursor": 0}
    return {"step": step, "last_read": step, "in_a_row": 0, "place": place, "score": score, "finished": False,
            "ranks": 1, "data_checksum": "", "teacher_checksum": None, "torch": ""}  # fmt: skip


def losses(run):
    return [(line["step"], line["losses"], line["logged"]) for line in read_log(run / "log.jsonl") if "losses" in line]


def tensors(run):
    newest = Checkpoints(run, 1).newest()
    return load_file(newest / "model.safetensors") | load_file(newest / "training.safetensors")


def assert_same_run(run, other):
    assert losses(run) == losses(other)
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
