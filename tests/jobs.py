"""Commands as real processes without Python's start: forked from a server that has imported torch and ours once.

A process that starts Python imports torch for seconds, and torchrun starts one more. What torchrun itself does (it
passes signals on, and ends the ranks when one dies) is tested with torchrun.
"""

import gc
import io
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["train.trainer", "train.options", "eval.evaluation", "torch.utils.tensorboard"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def be(program: str, arguments: list[str], environment: dict[str, str], printed: Path, cwd: Path) -> None:
    """In the child: what `python -m PROGRAM` or `python PROGRAM.py` does in the folder `cwd`, its output in a file."""
    gc.freeze()
    with printed.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


class Job:
    """One process of a command, or one for each rank."""

    def __init__(self, program: str | Path, *arguments: object, folder: Path, ranks: int = 1, cwd: Path = ROOT):
        together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.printed = [folder / f".printed-{rank}-{os.urandom(4).hex()}" for rank in range(ranks)]
        self.processes = []
        for rank, printed in enumerate(self.printed):
            environment = together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            work = (str(program), [str(argument) for argument in arguments], environment, printed, cwd)
            self.processes.append(FORKS.Process(target=be, args=work))
            self.processes[-1].start()

    @property
    def ended(self) -> bool:
        return all(process.exitcode is not None for process in self.processes)

    @property
    def output(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.printed if path.exists())

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def wait(self, seconds: float = 240) -> int:
        """Exit code of the process, or of the first rank that failed; the output is shown when the test fails."""
        deadline = time.monotonic() + seconds
        try:
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
            assert self.ended, f"still running after {seconds} s:\n{self.output}"
        finally:
            if not self.ended:
                self.kill()
        print(self.output)
        return next((process.exitcode for process in self.processes if process.exitcode), 0)


KILLED = -signal.SIGKILL
