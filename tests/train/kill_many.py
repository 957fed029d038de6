"""Kill a run that measures while it trains, many times at random moments, and compare with the undisturbed run.

    python tests/train/kill_many.py --kills 50 --threads 1 2

For each number of OpenMP threads: one run without disturbance, then runs that SIGKILL ends again and again, anywhere
from its first second to its last, until they are done. Every logged loss, every score, the weights and what continuing
needs must be equal to the last bit. Exits with 1 where one is not. A kill costs about twice a process's start.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.command.console import say  # noqa: E402
from pipeline.command.ranks import World  # noqa: E402
from pipeline.files.fields import to_json  # noqa: E402
from pipeline.files.own import write_json  # noqa: E402
from pipeline.pack import PackOptions, pack  # noqa: E402
from tests.train.conftest import draw_pictures, tiny  # noqa: E402
from train.config import Config  # noqa: E402
from train.recipes import RECIPES  # noqa: E402
from train.record.checkpoint import Checkpoints  # noqa: E402
from train.record.logs import read_log  # noqa: E402
from train.start import train  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Kill a run many times and compare it with the undisturbed one."""

    kills: int = 50
    """Of each number of threads."""
    threads: tuple[int, ...] = (1, 2)
    """OMP_NUM_THREADS of the runs."""
    seed: int = 0
    """Of the moments."""
    steps: int = 24


def make_config(folder: Path, steps: int) -> Config:
    """A student of the tiny pictures that is measured every four steps, whose score is not 0."""
    draw_pictures(folder / "source", 22, seed=0)
    pack(PackOptions(root=folder / "source", out=folder / "packed", short_side=64, long_side=96, workers=1))
    data = (folder / "packed",)
    teacher = replace(tiny(RECIPES["teacher_small"][1]()), data=data, out=folder / "teacher", steps=2)
    assert train(teacher, World(0, 1, torch.device("cpu"))) == 0
    config = tiny(RECIPES["cdfkd_small"][1]())
    few = {"rpn_pre_nms_test": 300, "rpn_post_nms_test": 200, "detections_per_image": 400}
    model = replace(config.model, score_threshold=0.0, **few)
    optimizer = replace(config.optimizer, ema_decay=0.9)
    return replace(
        config, data=data, val=data[0], val_every=4, teacher=teacher.out, model=model, optimizer=optimizer, steps=steps
    )


def start(config: Config, threads: int) -> subprocess.Popen:
    path = config.out.with_suffix(".json")
    write_json(path, to_json(config))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    log = config.out.with_suffix(".txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "train.run", str(path)], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
    )


def wait_until_it_speaks(config: Config, process: subprocess.Popen) -> None:
    """Until then it imports and cannot hurt anything."""
    shown, size = config.out.with_suffix(".txt"), config.out.with_suffix(".txt").stat().st_size
    while process.poll() is None and shown.stat().st_size == size:
        time.sleep(0.01)


def contents(run: Path) -> tuple[dict, dict, dict]:
    """Losses and scores by step, and every tensor of the last checkpoint."""
    lines = read_log(run / "log.jsonl")
    losses = {
        line["step"]: (line["losses"], line["logged"], line["gradient_norm"]) for line in lines if "losses" in line
    }
    scores = {line["step"]: line["validation"] for line in lines if "validation" in line}
    newest = Checkpoints(run, 1).newest()
    assert newest is not None
    return losses, scores, load_file(newest / "model.safetensors") | load_file(newest / "training.safetensors")


def differing(run: Path, whole: Path) -> list[str]:
    ours, theirs = contents(run), contents(whole)
    found = [f"losses of step {step}" for step in theirs[0] if ours[0].get(step) != theirs[0][step]]
    found += [f"scores of step {step}" for step in theirs[1] if ours[1].get(step) != theirs[1][step]]
    found += [name for name in theirs[2] if name not in ours[2] or not torch.equal(ours[2][name], theirs[2][name])]
    for kind, mine, wanted in zip(("losses", "scores"), ours, theirs, strict=False):
        if mine.keys() != wanted.keys():
            found.append(f"{kind} of other steps")
    return found


def kill_runs(config: Config, options: Options, threads: int, folder: Path) -> int:
    """Returns the number of runs that differ."""
    whole = replace(config, out=folder / f"whole-{threads}")
    process = start(whole, threads)
    wait_until_it_speaks(whole, process)
    began = time.monotonic()
    assert process.wait() == 0, whole.out.with_suffix(".txt").read_text()
    length = time.monotonic() - began
    assert any(score["mAP"] > 0 for score in contents(whole.out)[1].values()), "without a score the test shows nothing"
    draw = random.Random(options.seed + threads)
    kills = runs = wrong = 0
    while kills < options.kills:
        run = replace(config, out=folder / f"killed-{threads}-{runs}")
        code, here = 1, 0
        while code != 0:
            process = start(run, threads)
            if kills < options.kills:
                wait_until_it_speaks(run, process)
                try:
                    process.wait(draw.uniform(0, length))
                    length *= 0.8  # it had less left, or the machine is quieter now
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills, here = kills + 1, here + 1
            code = process.wait()
            assert code in (0, -9), run.out.with_suffix(".txt").read_text()
        runs += 1
        names = differing(run.out, whole.out)
        wrong += bool(names)
        told = f"differs: {', '.join(names)}" if names else "equal"
        say(f"{threads} threads: run {runs}, killed {here} times, {told}")
        if not names:
            shutil.rmtree(run.out)
    say(f"{threads} threads: {kills} kills, {runs} runs, {wrong} differ")
    return wrong


def main() -> int:
    options = tyro.cli(Options, prog="python tests/train/kill_many.py")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), options.steps)
        wrong = sum(kill_runs(config, options, threads, Path(folder)) for threads in options.threads)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
