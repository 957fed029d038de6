"""The trackers of --log, offline, with the real packages, read back by their own readers."""

import importlib.util
import json
import os
import struct
import subprocess
import sys

import pytest

from train.record.logs import RunLog, read_log
from train.record.trackers import Tracker, check_installed, texts
from train.start import read_command

INSTALLED = [
    pytest.param(
        name,
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"the extra {name} is not installed"),
        ],
    )
    for name in ("wandb", "mlflow")
]
CONFIG = {"seed": 3, "optimizer": {"name": "sgd", "learning_rate": 0.02}, "domains": []}
LOGGING = """
import json, sys
from pathlib import Path
from train.record import trackers
from train.record.logs import RunLog
trackers.CLOSING_S = 600  # a busy machine makes MLflow's tables in a minute; what is written is tested, not when
name, run, step, end = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[5]
lines = json.loads(sys.argv[4])
log = RunLog(run, step, trackers=[trackers.Tracker(name, run, json.loads(sys.argv[6]))])
for line in lines:
    log.write(line)
log.close(end == "finished")
"""


def log_lines(name, run, step, lines, end, **variables):
    """One start of a run, in a process of its own as a run is; what it printed."""
    run.mkdir(exist_ok=True)
    arguments = [name, str(run), str(step), json.dumps(lines), end, json.dumps(CONFIG)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW"))}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(run), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, *arguments], env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(path):
    """The messages of an offline file: after 7 bytes, LevelDB's log of (crc 4, length 2, kind 1, content) in blocks."""
    content, at, message = path.read_bytes(), 7, b""
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield message
            message = b""


def read_wandb(run):
    """Identities, settings and (step, numbers) of all that wandb wrote on this disk."""
    from wandb.proto.wandb_internal_pb2 import Record

    identities, configs, numbers = [], [], []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for message in records(path):
            record = Record()
            record.ParseFromString(message)
            if record.HasField("run"):
                identities.append(record.run.run_id)
                configs.append({item.key: json.loads(item.value_json) for item in record.run.config.update})
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                some = {name: json.loads(value) for name, value in items.items() if not name.startswith("_")}
                numbers.append((record.history.step.num, some))
    return identities, configs, numbers


def read_mlflow(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (entry,) = client.search_runs([client.get_experiment_by_name("fairweather").experiment_id])
    numbers: dict[int, dict[str, float]] = {}
    for name in entry.data.metrics:
        for metric in client.get_metric_history(entry.info.run_id, name):
            numbers.setdefault(metric.step, {})[name] = metric.value
    return entry, numbers


FIRST = [{"step": 1, "losses": {"total": 2.5}}, {"step": 2, "losses": {"total": 2.0}, "skipped": ["rpn_box"]}]
SECOND = [{"step": 3, "losses": {"total": 1.5}}, {"step": 3, "validation": {"AP50": 12.5}}, {"step": 4, "ids": [1]}]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_continued_run_continues_its_entry(name, tmp_path):
    run, uri = tmp_path / "night-1", f"sqlite:///{tmp_path}/mlflow.db"
    variables = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": uri}
    log_lines(name, run, 0, FIRST, "stopped", **variables)
    first_identity = (run / f"{name}.id").read_text().strip()
    if name == "mlflow":
        assert read_mlflow(uri)[0].info.status == "KILLED"
    printed = log_lines(name, run, 2, SECOND, "finished", **variables)
    assert "warning" not in printed
    totals = {1: 2.5, 2: 2.0, 3: 1.5}
    if name == "mlflow":
        entry, numbers = read_mlflow(uri)
        assert entry.info.run_id == first_identity
        assert (entry.info.run_name, entry.info.status) == ("night-1", "FINISHED")
        assert entry.data.params == texts(CONFIG)
    else:
        identities, configs, logged = read_wandb(run)
        assert set(identities) == {first_identity}
        assert configs[0].items() >= texts(CONFIG).items()
        numbers = {}
        for step, some in logged:
            numbers.setdefault(step, {}).update(some)
    assert numbers == {step: {"losses/total": total} for step, total in totals.items()} | {
        3: {"losses/total": 1.5, "validation/AP50": 12.5}
    }


@pytest.mark.parametrize("name", INSTALLED)
def test_a_tracker_that_fails_warns_once_and_the_log_is_whole(name, tmp_path):
    """wandb without a key, MLflow with a database that cannot be made."""
    variables = {"MLFLOW_TRACKING_URI": "sqlite:////proc/nowhere/mlflow.db", "WANDB_MODE": "online"}
    printed = log_lines(name, tmp_path / "run", 0, FIRST, "finished", **variables)
    (warning,) = [line for line in printed.splitlines() if line.startswith("warning")]
    assert warning.startswith(f"warning: {name} gets no more numbers of this run, log.jsonl has them all: ")
    assert ("wandb login" if name == "wandb" else "/proc/nowhere") in warning
    assert read_log(tmp_path / "run" / "log.jsonl") == FIRST
    assert not (tmp_path / "run" / f"{name}.id").exists()


def test_a_damaged_identity_is_a_warning(tmp_path, capsys):
    (tmp_path / "wandb.id").write_text("../../x y\n")
    log = RunLog(tmp_path, 0, trackers=[Tracker("wandb", tmp_path, CONFIG)])
    log.write(FIRST[0])
    log.close()
    assert "wandb.id does not hold an identity; remove it" in capsys.readouterr().out
    assert read_log(tmp_path / "log.jsonl") == FIRST[:1]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_a_sentence_with_the_command(name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=rf"^--log {name} needs .*: pip install -c constraints.txt -e '\.\[{name}\]'"):
        check_installed((name,))


def test_the_option():
    if all(importlib.util.find_spec(name) for name in ("wandb", "mlflow")):
        config = read_command(["plain_small", "--data", "d", "--out", "o", "--log", "wandb", "mlflow"])
        assert config.log == ("wandb", "mlflow")
    else:
        with pytest.raises(ValueError, match=r"^--log (wandb|mlflow) needs the package"):
            read_command(["plain_small", "--data", "d", "--out", "o", "--log", "wandb", "mlflow"])
