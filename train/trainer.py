"""The loop around a step: load once, then step, log, measure, save, until done or asked to stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from eval.detecting.source_ap import source_ap
from model.faster_rcnn.detector import Detector
from model.weights.checkpoint import save_detector
from model.weights.files import save_tensors
from pipeline.command.console import Progress, counted, say
from pipeline.command.ranks import World
from pipeline.loading.loader import describe_machine, open_loader
from train import load
from train.ahead import views_ahead
from train.config import Config
from train.optimizer import Ema, Optimizer, rate_factor, scaled_rate
from train.record import logs
from train.record.checkpoint import Checkpoints, read_state
from train.record.trace import PROFILE_WAIT, PROFILED_STEPS, Canvases, TracePlan
from train.record.window import Window
from train.step import Step

STOPPED = 143  # exit code of a run that SIGTERM ended: saved, not finished
CHANCE_AP50 = 1.0  # a teacher below this has learned nothing
VAL_EVERY = 2000


class Trainer:
    def __init__(self, config: Config, world: World, checkpoints: Checkpoints, newest: Path | None):
        """newest: the checkpoint to continue from, the same on every rank."""
        self.config, self.world, self.checkpoints, self.newest = config, world, checkpoints, newest
        self.data, self.val = load.open_data(config, world)
        if world.first:
            say(describe_machine(world.device, config.loader.name))
        self.teacher, teacher_card = load.load_teacher(config, self.data.classes, world)
        self.teacher_checksum = load.checksum(config.teacher) if config.teacher and self.teacher else None
        state = self.check_continues()
        self.unmeasured = state is not None and state["score"] is None
        self.student = load.make_student(config, self.data.classes, world, newest)
        self.parameters = {name: p for name, p in self.student.named_parameters() if p.requires_grad}
        self.optimizer = Optimizer(self.parameters, config.optimizer)
        self.ema = Ema(self.parameters, config.optimizer.ema_decay) if config.optimizer.ema_decay > 0 else None
        learner = load.make_learner(config, self.student, world)
        self.window = Window((*learner.names(), "gradient_norm"), config.log_every, world.device)

        self.step = self.last_read = 0
        self.place = {"epoch": 0, "cursor": 0}
        if newest is not None and state is not None:
            self.resume(newest, state)
        self.shown = self.step  # on the live display
        self.loader = open_loader(
            self.data, config.batch_size // world.size, device=str(world.device), name=config.loader.name,
            seed=config.seed, rank=world.rank, world=world.size, epoch=self.place["epoch"], cursor=self.place["cursor"],
            threads=config.loader.threads, prefetch=config.loader.prefetch,
            hardware_share=config.loader.hardware_share,
        )  # fmt: skip
        self.total = config.steps or max(1, round(config.epochs * self.loader.batches_per_epoch))
        self.rate = scaled_rate(config.optimizer, config.batch_size)
        self.maker = load.make_views(config, world)
        num_canvases = sum(len(self.maker.student_canvases(canvas)) for canvas in self.data.canvases.values())
        wrapped, look = load.wrap(config, world, learner, self.teacher, num_canvases)
        norms = [module for module in self.student.modules() if isinstance(module, nn.BatchNorm2d)]
        statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self.one_step = Step(
            wrapped, look, self.parameters, statistics, self.optimizer, self.ema, self.window,
            config.optimizer.clip_norm, cuda_graphs=config.compile == "cuda_graphs",
        )  # fmt: skip
        self.detect = load.compile_detect(config, self.student, world)
        self.stopping = False
        if world.first:
            self.describe()
        if self.teacher is not None and self.step == 0:
            self.judge_teacher(teacher_card)

    def check_continues(self) -> dict[str, Any] | None:
        """The state of the run that is continued, whose data and teacher must be those of now; None at the start."""
        if self.newest is None:
            return None
        state = read_state(self.newest)
        for option, path, before, now in (
            ("data", self.config.data, state["data_checksum"], self.data.checksum),
            ("teacher", self.config.teacher, state.get("teacher_checksum"), self.teacher_checksum),
        ):
            if before != now:
                raise ValueError(
                    f"--{option} {path} is not the {option} this run was trained with (its checksum differs); "
                    f"give the same {option}, or start another run with another --out"
                )
        return state

    def resume(self, newest: Path, state: dict[str, Any]) -> None:
        """What the checkpoint holds beside the student's weights."""
        tensors = load_file(newest / "training.safetensors", device=str(self.world.device))
        self.optimizer.load(strip(tensors, "optimizer."))
        if self.ema is not None:
            with torch.no_grad():
                for name, weight in strip(tensors, "weights.").items():
                    self.ema.weights[name].copy_(self.parameters[name])
                    self.parameters[name].copy_(weight)
        self.window.load(tensors["window"], state["in_a_row"])
        self.step, self.last_read, self.place = state["step"], state["last_read"], state["place"]

    # -- saying -------------------------------------------------------------------------------------------------

    def describe(self) -> None:
        config, data = self.config, self.data
        canvases = ", ".join(f"{name} {height}x{width}" for name, (height, width) in data.canvases.items())
        epochs = self.total / self.loader.batches_per_epoch
        say(f"data: {len(data)} images of {len(data.classes)} classes, canvas {canvases}")
        say(f"run: {self.total} steps of {config.batch_size} images on {self.world.size} rank(s), {epochs:.1f} epochs")
        optimizer = config.optimizer
        say(
            f"{optimizer.name} with learning rate {self.rate:g}: {optimizer.learning_rate:g} for "
            f"{optimizer.base_batch_size} images, scaled linearly to {config.batch_size}; {optimizer.warmup_steps} "
            f"warm-up steps, then the {optimizer.schedule} schedule"
        )
        if optimizer.warmup_steps >= self.total:
            say(f"warning: the warm-up is as long as the run, so the rate never gets to {self.rate:g}")
        if self.step:
            say(f"continuing {config.out} from step {self.step}")

    def judge_teacher(self, card: Any) -> None:
        """Say how good the teacher is, and warn when it is no better than chance."""
        assert self.teacher is not None
        score = card.extra.get("AP50")
        if score is None and self.val is not None:
            score = self.measure(self.teacher.detector)["AP50"]
        if not self.world.first:
            return
        if score is None:
            say("warning: the teacher's AP on its source is not known; give --val DIR to measure it first")
        elif score < CHANCE_AP50:
            say(f"warning: the teacher's AP50 on its source is {score:.1f}, no better than chance: it teaches nothing")
        else:
            say(f"the teacher's AP50 on its source is {score:.1f}")

    # -- the loop -----------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Train to the end, or until SIGTERM; returns the exit code."""
        config, world = self.config, self.world
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        measure_first = self.unmeasured and self.due()  # the last start was ended before that
        measured_again = measure_first and self.val is not None
        log = logs.RunLog(config.out, self.step, measured_again) if world.first else None
        images, done = config.batch_size * self.total, config.batch_size * self.step
        code = 0
        try:
            with (
                self.loader,
                Progress("training", images, done=done, quiet=not world.first) as self.progress,
                self.profiler() as profiler,
            ):
                if measure_first:
                    self.measure_saved(log)
                self.restart_clock()
                for views, place in views_ahead(self.loader, self.maker, range(self.step, self.total)):
                    self.place = place
                    self.one_step(views, self.step, self.rate_at(self.step), self.stopping)
                    self.step += 1
                    code = self.after_step(log)
                    if code:
                        break
                    if profiler is not None:
                        self.plan.saw(views)
                        profiler.step()
                        if profiler.step_num == self.plan.end:
                            break
        finally:
            signal.signal(signal.SIGTERM, previous)
            if log is not None:
                log.close()
        return code

    def profiler(self) -> Any:
        """With --profile, a trace of a few steps past warm-up and compilation, for chrome://tracing or Perfetto."""
        config = self.config
        if not config.profile:
            return nullcontext()
        first, last = PROFILED_STEPS
        left = self.total - self.step
        if left < last:
            raise ValueError(f"--profile traces steps {first} to {last}, but only {left} are left")
        path = config.out / f"trace-rank{self.world.rank}.json"
        canvases: set[Canvases] = set()
        if load.compiles(config, self.world.device):
            for canvas in self.data.canvases.values():
                teacher = canvas if self.maker.teacher else None
                canvases |= {(teacher, student) for student in self.maker.student_canvases(canvas)}
        visits = 2 if config.compile == "cuda_graphs" else 1  # the first compiles, the second records the graph
        self.plan = TracePlan(canvases, visits, latest=min(PROFILE_WAIT, left - (last - first)))

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
        config, done = self.config, self.step == self.total
        stop = False
        if self.step % config.log_every == 0 or self.step == 1 or done:
            stop = self.read_out(log)
        elif self.world.device.type == "cpu":
            stop = self.window.asks_to_stop(self.step - 1)
        if self.step % config.save_every == 0 or self.due() or stop:
            self.save()
            # Who asks to stop soon kills: measuring is left to the next start.
            if self.due() and (self.val is None or not stop):
                self.measure_saved(log)
            self.restart_clock()
        if stop and (not done or self.val is not None):
            if self.world.first:
                say(f"stopped at step {self.step} of {self.total}, saved; run the same command again to continue")
            return STOPPED
        return 0

    def due(self) -> bool:
        """Whether this step's checkpoint is to be measured, or is the last."""
        measured = self.val is not None and self.step % (self.config.val_every or VAL_EVERY) == 0
        return measured or self.step == self.total

    def measure_saved(self, log: logs.RunLog | None) -> None:
        """AP of the checkpoint just saved, written into it: a kill meanwhile costs the measuring and nothing else."""
        score: dict[str, float] = {}
        if self.val is not None:
            with self.shipped_weights():
                score = self.measure(self.student, self.detect)
        if log is not None:
            if score:
                # Before it is recorded: the next start drops a line too many, and could not write a missing one.
                log.write({"step": self.step, "validation": score})
                say(f"step {self.step}: AP50 on {self.config.val} is {score['AP50']:.1f}")
            newest = self.checkpoints.newest()
            assert newest is not None
            self.checkpoints.record(newest, score, finished=self.step == self.total)

    def measure(self, detector: Detector, detect: Any = None) -> dict[str, float]:
        """AP on the validation data, by all ranks together."""
        assert self.val is not None
        config, world = self.config, self.world
        return source_ap(
            detector, self.val, batch_size=config.batch_size // world.size, device=world.device, rank=world.rank,
            world=world.size, max_images=config.val_images, precision=config.precision, detect=detect,
        )  # fmt: skip

    def rate_at(self, step: int) -> float:
        return self.rate * rate_factor(self.config.optimizer, step, self.total)

    def restart_clock(self) -> None:
        """Images per second count training only, not measuring and saving."""
        self.clock, self.clock_step, self.clock_waiting = time.monotonic(), self.step, self.loader.wait_seconds

    def read_out(self, log: logs.RunLog | None) -> bool:
        """Bring the window to the host, log it, and judge it; returns whether to stop."""
        reading = self.window.read(self.last_read, self.step)
        seconds = time.monotonic() - self.clock
        images = (self.step - self.clock_step) * self.config.batch_size
        note = "every loss since the last line was not finite"
        if log is not None and (names := list(reading.means)):
            line: dict[str, Any] = {
                "step": self.step,
                "epoch": round(self.step / self.loader.batches_per_epoch, 4),
                "losses": {n: reading.means[n] for n in names if not n.startswith(("cosine_", "count_", "gradient_"))},
                "cosines": logs.mean_cosines(reading.means),
                "gradient_norm": reading.means["gradient_norm"],
                "learning_rate": self.rate_at(self.step - 1),
                "images_per_second": images / max(seconds, 1e-9),
                "waiting_share": (self.loader.wait_seconds - self.clock_waiting) / max(seconds, 1e-9),
                "memory_gb": logs.peak_memory_gb(self.world.device),
                "seconds": seconds,
            }
            log.write(line)
            note = logs.note(line)
            if self.last_read == 0 and line["cosines"]:
                logs.say_agreement(line["cosines"])
        if log is not None:
            for step, terms, ids in reading.skipped:
                log.write({"step": step + 1, "skipped": terms, "ids": ids})
                logs.say_skipped(step, terms, ids)
        self.progress.advance((self.step - self.shown) * self.config.batch_size, note)
        self.last_read = self.shown = self.step
        self.restart_clock()
        if reading.longest > self.config.max_skipped:
            step, terms, ids = reading.skipped[-1]
            raise ValueError(
                f"{reading.longest} steps in a row had a loss or gradient that is not finite, and max_skipped is "
                f"{self.config.max_skipped}; at step {step}: {', '.join(terms)}, image ids {ids}. Lower "
                f"--optimizer.learning-rate (now {self.config.optimizer.learning_rate:g}) or --optimizer.clip-norm, "
                f"or look at these images; skipped steps changed no weight"
            )
        return reading.stop

    # -- saving -------------------------------------------------------------------------------------------------

    @contextmanager
    def shipped_weights(self) -> Iterator[None]:
        """The student holds what is evaluated and shipped: the moving average where there is one."""
        if self.ema is not None:
            self.ema.swap(self.parameters)
        self.student.eval()
        try:
            yield
        finally:
            self.student.train()
            if self.ema is not None:
                self.ema.swap(self.parameters)

    def save(self) -> None:
        if not self.world.first:
            return

        def write(folder: Path) -> None:
            tensors = {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
            tensors["window"] = self.window.table_nT
            if self.ema is not None:
                tensors |= {f"weights.{name}": value.detach() for name, value in self.parameters.items()}
            save_tensors(tensors, folder / "training.safetensors")
            with self.shipped_weights():
                # How large the images were: prediction brings other pictures to the same size.
                sides = {side: self.data.info["encoding"][side] for side in ("short_side", "long_side")}
                extra = {"step": self.step, **sides}
                save_detector(folder, self.student, self.config.model, self.data.classes, extra)

        state = {
            "step": self.step,
            "last_read": self.last_read,
            "in_a_row": self.window.in_a_row,
            "place": self.place,
            "score": None,
            "finished": False,
            "ranks": self.world.size,
            "data_checksum": self.data.checksum,
            "teacher_checksum": self.teacher_checksum,
            "torch": torch.__version__,
        }
        self.checkpoints.save(self.step, write, state)


def strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
