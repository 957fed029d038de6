"""The trackers of --log: Weights & Biases and MLflow get the numbers of a run beside TensorBoard."""

import importlib.util
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.command.console import say
from pipeline.files.replace import replace_bytes

CLOSING_S = 30.0  # a process that SIGTERM ends is killed after about as long
PROJECT = "fairweather"
MOST_PARAMETERS, LONGEST_PARAMETER = 100, 6000  # of one request to MLflow

Write = Callable[[dict[str, float], int], None]  # numbers, step
Close = Callable[[bool], None]  # whether the run is finished; otherwise it will be continued
# run directory, configuration, identity of the entry to continue -> its identity, ...
Open = Callable[[Path, dict[str, str], str | None], tuple[str, Write, Close]]


class Tracker:
    """One tracker of a run. A thread of its own opens and writes it, so a slow network holds up no step.

    A tracker that fails is left alone after one warning. The run goes on, and log.jsonl has every number.
    """

    def __init__(self, name: str, run: Path, config: dict[str, Any]):
        self.name, self.run, self.config = name, run, texts(config)
        self.calls: queue.SimpleQueue[tuple[dict[str, float], int] | bool] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work, name=name, daemon=True)
        self.thread.start()

    def work(self) -> None:
        try:
            path = self.run / f"{self.name}.id"
            known = read_identity(path)
            identity, write, close = TRACKERS[self.name](self.run, self.config, known)
            if known is None:
                replace_bytes(path, f"{identity}\n".encode())
            while not isinstance(call := self.calls.get(), bool):
                write(*call)
            close(call)
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            say(f"warning: {self.name} gets no more numbers of this run, log.jsonl has them all: {reason}")

    def write(self, numbers: dict[str, float], step: int) -> None:
        self.calls.put((numbers, step))

    def close(self, finished: bool) -> None:
        self.calls.put(finished)
        self.thread.join(CLOSING_S)
        if self.thread.is_alive():
            say(f"warning: {self.name} did not take the last numbers within {CLOSING_S:.0f} s; log.jsonl has them all")


def read_identity(path: Path) -> str | None:
    """By which a continued run continues its entry in the tracker; None of a new run."""
    if not path.exists():
        return None
    identity = path.read_text().strip()
    if not re.fullmatch("[0-9A-Za-z_-]{1,64}", identity):
        raise ValueError(f"{path} does not hold an identity; remove it for a new entry")
    return identity


def open_wandb(run: Path, config: dict[str, str], known: str | None) -> tuple[str, Write, Close]:
    """Its own variables choose the server, the project (WANDB_PROJECT) and the mode (WANDB_MODE=offline)."""
    import wandb

    online = wandb.setup().settings.mode == "online"
    if online and not wandb.login(prompt=False):  # a question would wait for an answer all night
        raise ValueError("it has no key; run `wandb login`, or set WANDB_MODE=offline")
    entry = wandb.init(
        id=known, name=run.name, project=os.environ.get("WANDB_PROJECT", PROJECT), dir=run, config=config,
        resume="allow" if online else None, settings=wandb.Settings(console="off"),
    )  # fmt: skip
    return entry.id, (lambda numbers, step: entry.log(numbers, step=step)), (lambda _: entry.finish())


def open_mlflow(run: Path, config: dict[str, str], known: str | None) -> tuple[str, Write, Close]:
    """Its own variables choose the server or file (MLFLOW_TRACKING_URI) and the experiment (MLFLOW_EXPERIMENT_NAME)."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    if known:
        identity = known
        client.update_run(identity, status="RUNNING")
    else:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        identity = client.create_run(experiment, run_name=run.name).info.run_id
        parameters = [Param(name, value[:LONGEST_PARAMETER]) for name, value in config.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(identity, params=parameters[start : start + MOST_PARAMETERS])

    def write(numbers: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        client.log_batch(identity, [Metric(name, value, now, step) for name, value in numbers.items()])

    return identity, write, lambda finished: client.set_terminated(identity, "FINISHED" if finished else "KILLED")


TRACKERS: dict[str, Open] = {"wandb": open_wandb, "mlflow": open_mlflow}


def check_installed(names: tuple[str, ...]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--log {name} needs the package {name}: pip install -c constraints.txt -e '.[{name}]', or leave it out"
            )


def texts(config: Any, prefix: str = "") -> dict[str, str]:
    """{"optimizer.learning_rate": "0.02", ...} of a configuration as JSON."""
    if not isinstance(config, dict):
        return {prefix: str(config)}
    return {
        name: text
        for key, value in config.items()
        for name, text in texts(value, f"{prefix}.{key}" if prefix else key).items()
    }
