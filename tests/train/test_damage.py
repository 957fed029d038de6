"""Mutated files of the project's own making: no traceback, no hang, and nothing that has a checksum changes silently.

FAIRWEATHER_FUZZ=10000 python -m pytest tests/train/test_damage.py     the full count; the default is a share
"""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.build import build_detector
from model.config import small_model
from model.weights.checkpoint import load_detector, save_detector
from model.weights.files import MARKER, resolve_checkpoint
from pipeline.files.fields import to_json
from pipeline.files.own import write_json
from pipeline.packed.reader import PackedDataset
from tests.eval.test_files import mutate as mutate_json
from tests.pipeline.test_fuzz import check_message, within
from tests.pipeline.test_fuzz import mutate as mutate_bytes
from tests.train.test_faults import save_step
from train.config import differences
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints, read_state
from train.record.logs import read_log
from train.start import read_config

COUNT = int(os.environ.get("FAIRWEATHER_FUZZ", "400"))
RUN = ("state.json", "COMPLETE", "model.json", "model.safetensors", "training.safetensors", "best.json")
CARD = ("model.json", "model.safetensors", "COMPLETE")
ALONE = ("config.json", "log.jsonl", "dataset.json")
KINDS = {"run": RUN, "unsummed": (RUN[0], *RUN[2:5]), "card": CARD, "unsummed card": CARD[:2], "alone": ALONE}
TARGETS = [f"{kind} {name}" for kind, names in KINDS.items() for name in names]


@pytest.fixture(scope="module")
def world(tmp_path_factory, packed, make_config):
    """{kind: folder}, small; an unsummed one is as checkpoints were before they had sums."""
    root = tmp_path_factory.mktemp("damage")
    for kind in ("run", "unsummed"):
        (root / kind).mkdir()
        checkpoints = Checkpoints(root / kind, 3)
        for step in (1, 2, 3):
            checkpoints.record(save_step(checkpoints, step), {"AP50": float(step)}, finished=False)
    config = small_model(weights="none", fpn_channels=8, representation_size=8, rpn_pre_nms_test=50)
    for kind in ("card", "unsummed card"):
        save_detector(root / kind, build_detector(config, 3), config, ("car", "bus"), {"short_side": 64, "AP50": 3.5})
    card = Checkpoints(root / "sums", 1)
    card.run.mkdir()
    marker = card.save(1, lambda folder: shutil.copytree(root / "card", folder, dirs_exist_ok=True), {}) / MARKER
    shutil.copy(marker, root / "card")
    (root / "card" / "state.json").write_bytes((marker.parent / "state.json").read_bytes())
    for marker in root.glob("unsummed*/**/COMPLETE"):
        marker.write_bytes(b"")
    (root / "alone").mkdir()
    for path in packed.iterdir():
        shutil.copy(path, root / "alone")
    run = replace(make_config(RECIPES["cdfkd_small"][1]()), data=(packed,), out=root, teacher=root)
    write_json(root / "alone" / "config.json", to_json(run))
    lines = [{"step": step, "losses": {"total": 1 / step}, "logged": {}, "memory_gb": 0.5} for step in range(1, 40)]
    (root / "alone" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def try_run(folder: Path, summed: bool) -> None:
    """What the next start and an evaluation of the run do first."""
    checkpoints = Checkpoints(folder, 3)
    try:
        checkpoints.tidy()
        newest = checkpoints.choose()
        step = read_state(newest)["step"]
        if summed:
            assert step >= 2, "more than the damaged checkpoint was left out"
            expected = {"step": step, "score": float(step)}
            assert {name: read_state(newest)[name] for name in expected} == expected
            for name in ("model", "training"):
                assert load_file(newest / f"{name}.safetensors")["weight"].tolist() == [step] * 50
            assert json.loads((newest / "model.json").read_text())["extra"] == {"step": step, "AP50": float(step)}
        assert resolve_checkpoint(folder) in checkpoints.complete()
    finally:
        for aside in folder.glob("checkpoints/*.set-aside"):
            aside.rename(aside.with_suffix(""))


def try_card(folder: Path, clean: tuple | None) -> None:
    detector, card = load_detector(folder)
    if clean is not None:
        assert card == clean[1]
        for name, value in clean[0].state_dict().items():
            assert torch.equal(detector.state_dict()[name], value)
    detector.detect(torch.zeros(1, 3, 32, 64), torch.tensor([[32, 64]]))


def try_config(path: Path, clean: dict) -> None:
    config = to_json(read_config(path))
    assert differences(clean, config) or all(config[name] == clean[name] for name in ("model", "optimizer", "seed"))


def try_log(path: Path, clean: list[str]) -> None:
    """Every line that is still whole is read."""
    kept = set(path.read_bytes().splitlines())
    read = [json.dumps(line) for line in read_log(path)]
    assert [line for line in clean if line.encode() in kept and line not in read] == []


def try_data(folder: Path, clean: tuple) -> None:
    with PackedDataset(folder) as dataset:
        assert (dataset.classes, dataset.canvases, dataset.info["encoding"], dataset.checksum) == clean


def files_of(world: Path, target: str) -> tuple[Path, str]:
    kind, name = target.rsplit(" ", 1)
    inside = "checkpoints/step-00000003" if kind in ("run", "unsummed") and name != "best.json" else ""
    return world / kind / inside / name, kind


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files_of_our_own(world, target):
    path, kind = files_of(world, target)
    whole, folder = path.read_bytes(), world / kind
    if kind in ("run", "unsummed"):
        attempt = lambda: try_run(folder, kind == "run")  # noqa: E731
    elif "card" in kind:
        clean = load_detector(folder) if kind == "card" else None
        attempt = lambda: try_card(folder, clean)  # noqa: E731
    elif path.name == "config.json":
        stored = to_json(read_config(path))
        attempt = lambda: try_config(path, stored)  # noqa: E731
    elif path.name == "log.jsonl":
        lines = whole.decode().splitlines()
        attempt = lambda: try_log(path, lines)  # noqa: E731
    else:
        with PackedDataset(folder) as dataset:
            said = (dataset.classes, dataset.canvases, dataset.info["encoding"], dataset.checksum)
        attempt = lambda: try_data(folder, said)  # noqa: E731
    attempt()  # the unchanged file passes its own oracle
    best = world / kind / "best.json"
    before = best.read_bytes() if best.exists() else b""
    try:
        for number in range(-(-COUNT // len(TARGETS))):
            rng = random.Random(f"{target} {number}")
            structured = path.suffix == ".json" and number % 2
            path.write_bytes(
                json.dumps(mutate_json(json.loads(whole), rng)).encode() if structured else mutate_bytes(whole, rng)
            )
            mutated = path.read_bytes()
            try:
                within(30, attempt)
            except ValueError as error:
                check_message(error)
            except BaseException as error:
                error.add_note(f"mutation {number} of {target}: {mutated[:3000]!r}")
                raise
            finally:
                path.write_bytes(whole)
                if before:
                    best.write_bytes(before)
    finally:
        path.write_bytes(whole)
