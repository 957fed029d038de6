"""The loop around a step: load once, then step, log, measure, save, until done or asked to stop.

What is trained, measured and shipped is the task's matter (train/task.py, train/translation/task.py). What a killed run
continues from stands in train/record/resume.py.
"""

import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.command.console import Progress, counted, say
from pipeline.command.ranks import World
from pipeline.files.fields import to_json
from train.ahead import Data, Maker, views_ahead
from train.config import OptimizerConfig
from train.record import logs, resume
from train.record.checkpoint import Checkpoints
from train.record.trace import PROFILE_WAIT, PROFILED_STEPS, Canvases, TracePlan
from train.record.trackers import Tracker
from train.step import Layout

STOPPED = 143  # exit code of a run that SIGTERM ended: saved, not finished


class RunConfig(Protocol):
    """What the loop reads of a run's configuration."""

    @property
    def out(self) -> Path: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def log(self) -> tuple[Any, ...]: ...
    @property
    def log_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def max_skipped(self) -> int: ...
    @property
    def profile(self) -> bool: ...


class Task(resume.Continued, Protocol):
    """What is trained, measured and shipped; the loop's only view of it."""

    loader: Data
    maker: Maker
    layout: Layout
    total: int  # steps
    alike: tuple[str, ...]  # logged values that tell whether there is anything to learn
    visits: int  # how often a canvas must have come before nothing is compiled any more
    measured: bool  # whether there is anything to measure on

    def open(self, place: dict[str, int]) -> None: ...  # the data from a place on, and the step
    def describe(self) -> None: ...
    def begin(self) -> None: ...  # before the first step
    def one_step(self, views: Any, step: int, stop: bool) -> None: ...
    def rate_at(self, step: int) -> float: ...
    def canvases(self) -> set[Canvases]: ...
    def canvases_of(self, views: Any) -> Canvases: ...
    def measures(self, step: int) -> bool: ...  # the last step is measured anyway
    def measure(self) -> dict[str, float]: ...  # by all ranks together
    def describe_score(self, score: dict[str, float]) -> str: ...
    def not_finite(self) -> list[str]: ...
    def name_images(self, numbers: list[int]) -> list[str]: ...


class Trainer:
    """Signals, progress, window, log, checkpoints and resuming of one run."""

    def __init__(self, config: RunConfig, task: Task, world: World, checkpoints: Checkpoints, newest: Path | None):
        """newest: the checkpoint to continue from, the same on every rank."""
        self.config, self.task, self.world, self.checkpoints = config, task, world, checkpoints
        self.at = resume.Progress() if newest is None else resume.restore(newest, self.task)
        self.shown = self.at.step  # on the live display
        self.task.open(self.at.place)
        self.total = self.task.total
        self.stopping, self.stopped = False, STOPPED
        self.moved = False  # whether a step was made since the start
        if world.first:
            self.task.describe()
            if self.at.step:
                say(f"continuing {config.out} from step {self.at.step}")
        if self.at.step == 0:
            self.task.begin()

    # -- the loop -----------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Train to the end, or until SIGTERM or Ctrl-C; returns the exit code."""
        config, world = self.config, self.world
        previous = {number: signal.signal(number, self.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        measure_first = self.at.unmeasured and self.due()  # the last start was ended before that
        measured_again = measure_first and self.task.measured
        log: logs.RunLog | None = None
        if world.first:
            trackers = [Tracker(name, config.out, to_json(config)) for name in config.log]
            log = logs.RunLog(config.out, self.at.step, measured_again, trackers)
        images, done = config.batch_size * self.total, config.batch_size * self.at.step
        code = 0
        try:
            with (
                self.task.loader,
                Progress("training", images, done=done, quiet=not world.first) as self.progress,
                self.profiler() as profiler,
            ):
                if measure_first:
                    self.measure_saved(log)
                self.restart_clock()
                for views, place in views_ahead(self.task.loader, self.task.maker, range(self.at.step, self.total)):
                    self.at.place = place
                    self.task.one_step(views, self.at.step, self.stopping)
                    self.at.step += 1
                    self.moved = True
                    code = self.after_step(log)
                    if code:
                        break
                    if profiler is not None:
                        self.plan.saw(self.task.canvases_of(views))
                        profiler.step()
                        if profiler.step_num == self.plan.end:
                            break
                if self.at.step > self.shown:  # it was stopped between two lines of the log
                    self.progress.advance((self.at.step - self.shown) * config.batch_size)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if log is not None:
                log.close(finished=self.at.step == self.total)
        return code

    def ask_to_stop(self, number: int, _: Any) -> None:
        """Stop after the running step, with a checkpoint; a second Ctrl-C stops at once.

        Before the first step there is nothing to save, so one process stops at once. Ranks stop together.
        """
        second, self.stopping = self.stopping, True
        at_once = not self.moved and self.world.size == 1
        if number == signal.SIGINT and (second or at_once):
            raise KeyboardInterrupt
        if at_once:
            say("stopped before a step was made; run the same command again to continue")
            raise SystemExit(STOPPED)
        if number == signal.SIGINT:
            self.stopped = 128 + signal.SIGINT
            if self.world.first:
                say("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    def profiler(self) -> Any:
        """With --profile, a trace of a few steps past warm-up and compilation, for chrome://tracing or Perfetto."""
        config = self.config
        if not config.profile:
            return nullcontext()
        first, last = PROFILED_STEPS
        left = self.total - self.at.step
        if left < last:
            raise ValueError(f"--profile traces steps {first} to {last}, but only {left} are left")
        path = config.out / f"trace-rank{self.world.rank}.json"
        latest = min(PROFILE_WAIT, left - (last - first))
        self.plan = TracePlan(self.task.canvases(), self.task.visits, latest)

        def write(profile: torch.profiler.profile) -> None:
            profile.export_chrome_trace(str(path))
            say(f"wrote {path}; the run can be continued without --profile")
            if self.plan.num_new:
                say(
                    f"warning: {counted(self.plan.num_new, 'traced step')} may have compiled, for a canvas that is rare"
                )

        return torch.profiler.profile(schedule=self.plan, on_trace_ready=write)

    def after_step(self, log: logs.RunLog | None) -> int:
        """Log, save and measure when it is time to; returns an exit code when the run is to stop."""
        config, done = self.config, self.at.step == self.total
        stop = False
        if self.at.step % config.log_every == 0 or self.at.step == 1 or done:
            stop = self.read_out(log)
        elif self.world.device.type == "cpu":
            stop = self.task.window.asks_to_stop(self.at.step - 1)
        if self.at.step % config.save_every == 0 or self.due() or stop:
            self.save()
            # Who asks to stop soon kills: measuring is left to the next start.
            if self.due() and not (self.task.measured and stop):
                self.measure_saved(log)
            self.restart_clock()
        if stop and (not done or self.task.measured):
            if self.world.first:
                say(f"stopped at step {self.at.step} of {self.total}, saved; run the same command again to continue")
            return self.stopped
        return 0

    def due(self) -> bool:
        """Whether this step's checkpoint is to be measured, or is the last."""
        return self.task.measures(self.at.step) or self.at.step == self.total

    def measure_saved(self, log: logs.RunLog | None) -> None:
        """The score of the checkpoint just saved, put into it: a kill meanwhile costs the measuring alone."""
        score: dict[str, float] = {}
        if self.task.measured:
            threads = torch.get_num_threads()
            score = self.task.measure()
            assert torch.get_num_threads() == threads, "measuring changed the threads, and so the later losses"
        if log is not None:
            if score:
                # Before it is recorded: the next start drops a line too many, and could not write a missing one.
                log.write({"step": self.at.step, "validation": score})
                say(f"step {self.at.step}: {self.task.describe_score(score)}")
            newest = self.checkpoints.newest()
            assert newest is not None
            self.checkpoints.record(newest, score, finished=self.at.step == self.total)

    def restart_clock(self) -> None:
        """Images per second count training only, not measuring and saving."""
        self.clock, self.clock_step, self.clock_waiting = time.monotonic(), self.at.step, self.task.loader.wait_seconds

    def read_out(self, log: logs.RunLog | None) -> bool:
        """Bring the window to the host, log it, and judge it; returns whether to stop."""
        reading = self.task.window.read(self.at.last_read, self.at.step)
        seconds = time.monotonic() - self.clock
        images = (self.at.step - self.clock_step) * self.config.batch_size
        note = "every loss since the last line was not finite"
        if log is not None and reading.means:
            losses, logged = self.task.layout.read(reading.means)
            line: dict[str, Any] = {
                "step": self.at.step,
                "epoch": round(self.at.step / self.task.loader.batches_per_epoch, 4),
                "losses": losses,
                "logged": logged,
                "gradient_norm": reading.means[-1],
                "learning_rate": self.task.rate_at(self.at.step - 1),
                "images_per_second": images / max(seconds, 1e-9),
                "waiting_share": (self.task.loader.wait_seconds - self.clock_waiting) / max(seconds, 1e-9),
                "memory_gb": logs.peak_memory_gb(self.world.device),
                "seconds": seconds,
            }
            log.write(line)
            note = logs.note(line)
            if self.at.last_read == 0:
                logs.say_agreement({name: logged[name] for name in self.task.alike if name in logged})
        if log is not None:
            for step, terms, ids in reading.skipped:
                log.write({"step": step + 1, "skipped": terms, "ids": ids})
                logs.say_skipped(step, terms, self.task.name_images(ids))
        self.progress.advance((self.at.step - self.shown) * self.config.batch_size, note)
        self.at.last_read = self.shown = self.at.step
        self.restart_clock()
        if reading.longest > self.config.max_skipped:
            step, terms, ids = reading.skipped[-1]
            named = ", ".join(self.task.name_images(ids))
            raise ValueError(
                f"{reading.longest} steps in a row had a loss or gradient that is not finite, and --max-skipped is "
                f"{self.config.max_skipped}; at step {step}: {', '.join(terms)}, image ids {named}. Lower "
                f"--optimizer.learning-rate (now {self.config.optimizer.learning_rate:g}) or --optimizer.clip-norm, "
                f"or look at these images; skipped steps changed no weight"
            )
        if self.at.step == self.total:
            self.judge_end()
        return reading.stop

    def judge_end(self) -> None:
        """A run whose last steps were skipped, no more than --max-skipped, is finished: its weights are finite and
        those of the last step that was not. One that skipped every step has trained nothing.
        """
        skipped = self.task.window.in_a_row
        if skipped == self.total:
            raise ValueError(
                f"every step of this run was skipped, its loss or gradient was not finite: nothing was trained. Lower "
                f"--optimizer.learning-rate (now {self.config.optimizer.learning_rate:g}), or look at the weights it "
                "starts from and at the images"
            )
        if self.world.first:
            resume.say_skipped_end(skipped)

    def save(self) -> None:
        if not self.world.first:
            return
        if spoilt := self.task.not_finite():
            raise ValueError(
                f"after step {self.at.step} not all numbers are finite: {', '.join(spoilt[:3])} and "
                f"{len(spoilt[3:])} more. No checkpoint is written of them; start another run with a lower "
                f"--optimizer.learning-rate (now {self.config.optimizer.learning_rate:g}) or --optimizer.clip-norm"
            )
        step, state = self.at.step, resume.describe(self.at, self.task, self.world.size)
        self.checkpoints.save(step, lambda folder: resume.write(folder, self.task, step), state)
