"""What a detection run trains, measures and ships; the loop around it is train/trainer.py."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eval.detecting.detect import Pass, match_classes
from eval.detecting.source_ap import source_ap
from eval.detecting.subject import fingerprint
from eval.results import has_results, load_run
from eval.trained_on import PICTURES, pictures_of
from kernels.corruptions.registry import BY_NAME
from model.api import Detector
from model.weights.checkpoint import save_detector
from pipeline.batch import Views
from pipeline.command.console import say
from pipeline.command.ranks import World
from pipeline.loading.loader import describe_machine, open_loader
from train import load
from train.config import Config
from train.distributed import is_first
from train.meetings import say_meetings
from train.optimizer import Ema, Optimizer, kinds_of, rate_factor, scaled_rate
from train.record.logs import say_agreement
from train.record.resume import check_identity
from train.record.trace import Canvases
from train.record.weights import Weights
from train.record.window import Window
from train.shares import measure_agreement, measure_shares, say_shares
from train.step import Step

CHANCE_AP50 = 1.0  # a teacher below this has learned nothing
VAL_EVERY = 2000


def recorded_ap50(path: Path, detector: Detector) -> float | None:
    """Of a run that `python -m eval.run` evaluated with these very weights, on the domain it was trained on."""
    if not has_results(path):
        return None
    try:
        run = load_run(path)
    except ValueError as error:
        if is_first():
            say(f"note: the teacher's evaluation cannot be read: {error}")
        return None
    if run.source is None or run.results.get("weights") != fingerprint(detector):
        return None
    return run.figure(run.source)


class DetectionTask(Weights):
    """A student, the methods it learns with, a teacher to look at, data, and the optimizer."""

    def __init__(self, config: Config, world: World, newest: Path | None):
        """newest: the checkpoint to continue from, whose data and teacher must be those of now."""
        self.world = world
        torch.backends.cudnn.benchmark = not config.repeatable  # canvases are few and fixed: timing pays
        torch.backends.cudnn.deterministic = config.repeatable
        if config.repeatable or "torch._inductor.config" in sys.modules:  # late: importing it takes seconds
            import torch._inductor.config as inductor

            inductor.deterministic = config.repeatable  # the compiler times kernels, too
        self.data, self.val = load.open_data(config, world)
        self.config = config = replace(config, model=load.resolve_inputs(config.model, self.data, self.val))
        self.measured = self.val is not None
        if world.first:
            say(describe_machine(world.device, config.loader.name))
        teacher, self.teacher_card = load.load_teacher(config, self.data, world)
        self.identity = load.identify(config, self.data)
        if newest is not None:
            check_identity(newest, self.identity, config)
        self.pictures = pictures_of(self.data.datasets, *load.learned_from(config, newest, world))
        self.student = load.make_student(config, self.data.classes, world, newest)
        average = config.teacher_policy == "average"
        if average:
            teacher = load.average_teacher(self.student)
        learner, self.teacher = load.make_learner(config, self.student, teacher, world)
        self.layout = learner.layout
        self.alike = learner.alike
        self.parameters = load.trainable(learner)
        self.optimizer = Optimizer(self.parameters, config.optimizer, kinds_of(self.student, dict(learner.methods)))
        shipped = dict(self.student.named_parameters())
        self.shipped = {name: value for name, value in self.parameters.items() if name in shipped}
        rises = not average or config.student_init == "weights"  # a trained start that teaches is not to be forgotten
        self.ema = Ema(self.shipped, config.optimizer.ema_decay, rises) if config.optimizer.ema_decay > 0 else None
        if average:
            assert self.ema is not None
            assert teacher is not None
            load.share_average(teacher, self.ema.weights)
        self.window = Window((*self.layout.names, "gradient_norm"), config.log_every, world.device)
        self.rate = scaled_rate(config.optimizer, config.batch_size)
        self.maker = load.make_views(config, world, learner, self.teacher)
        self.learner = learner
        self.detect = load.compile_detect(config, self.student, world)

    def open(self, place: dict[str, int]) -> None:
        """The data from a place on, and the step, compiled where the run requests it."""
        config, world = self.config, self.world
        self.loader = open_loader(
            self.data, config.batch_size // world.size, device=str(world.device), name=config.loader.name,
            seed=config.seed, rank=world.rank, world=world.size, epoch=place["epoch"], cursor=place["cursor"],
            threads=config.loader.threads, prefetch=config.loader.prefetch,
            hardware_share=config.loader.hardware_share, extra=load.extra_of(self.student, self.teacher),
        )  # fmt: skip
        self.total = config.steps or max(1, round(config.epochs * self.loader.batches_per_epoch))
        num_canvases = sum(len(self.maker.corrupted_canvases(canvas)) for canvas in self.data.canvases.values())
        wrapped, look = load.wrap(config, world, self.learner, self.teacher, num_canvases)
        self.norms = [module for module in self.student.modules() if isinstance(module, nn.BatchNorm2d)]
        statistics = [buffer for norm in self.norms for buffer in norm.buffers()] + list(self.buffers().values())
        self.step = Step(
            wrapped, look, self.parameters, statistics, self.optimizer, self.ema, self.window,
            config.optimizer.clip_norm, cuda_graphs=config.compile == "cuda_graphs",
        )  # fmt: skip

    def one_step(self, views: Views, step: int, stop: bool) -> None:
        if step == 0 and self.world.first:
            say_meetings(self.learner, self.teacher, views, self.config.views, self.data.classes)
        if step == 0 and self.learner.weights:
            shares = measure_shares(self.learner, self.teacher, views)
            agreement = {} if self.teacher is None else measure_agreement(self.learner, self.teacher, views)
            if self.world.first:
                say_shares(shares)
                say_agreement(agreement)
        if self.learner.share is not None:
            self.learner.share.fill_(min(1.0, (step + 1) / self.config.distill_warmup_steps))
        self.step(views, step, self.rate_at(step), stop)

    def rate_at(self, step: int) -> float:
        return self.rate * rate_factor(self.config.optimizer, step, self.total)

    def canvases(self) -> set[Canvases]:
        """Every pair of canvases of the clean and the corrupted view that is compiled for; none where nothing is."""
        if not load.compiles(self.config, self.world.device):
            return set()
        return {
            (canvas if self.maker.clean else None, corrupted)
            for canvas in self.data.canvases.values()
            for corrupted in self.maker.corrupted_canvases(canvas)
        }

    @property
    def visits(self) -> int:
        return 2 if self.config.compile == "cuda_graphs" else 1  # the first compiles, the second records the graph

    def canvases_of(self, views: Views) -> Canvases:
        clean, corrupted = (
            None if view is None else tuple(view.images_B3HW.shape[-2:]) for view in (views.clean, views.corrupted)
        )
        return clean, corrupted

    # -- saying -------------------------------------------------------------------------------------------------

    def describe(self) -> None:
        config, data = self.config, self.data
        canvases = ", ".join(f"{name} {height}x{width}" for name, (height, width) in data.canvases.items())
        epochs = self.total / self.loader.batches_per_epoch
        say(f"data: {len(data)} images of {len(data.classes)} classes, canvas {canvases}")
        for line in data.report():
            say(f"  {line}")
        if config.views.corruptions:
            priors = [prior for prior in self.priors() if prior != "none"] or ["nothing"]
            say(f"corruptions: {len(config.views.corruptions)} types, which know of the targets: {', '.join(priors)}")
        say(f"run: {self.total} steps of {config.batch_size} images on {self.world.size} rank(s), {epochs:.1f} epochs")
        optimizer = config.optimizer
        scaled = ""
        if config.batch_size != optimizer.base_batch_size:
            scaled = f" ({optimizer.learning_rate:g} for {optimizer.base_batch_size} images, scaled linearly)"
        say(
            f"{optimizer.name} with learning rate {self.rate:g}{scaled}; {optimizer.warmup_steps} warm-up steps, then "
            f"the {optimizer.schedule} schedule"
        )
        if 2 * optimizer.warmup_steps > self.total:
            say(
                f"warning: {min(optimizer.warmup_steps, self.total)} of the {self.total} steps are warm-up, in which "
                "the rate rises; --optimizer.warmup-steps makes them fewer"
            )
        if config.distill_warmup_steps >= self.total:
            say("warning: --distill.warmup-steps is as long as the run, so the distillation weights rise to its end")

    def begin(self) -> None:
        """Before the first step: say how good the teacher is, and warn when it is no better than chance."""
        if self.teacher is None or self.config.teacher_policy == "average":
            return
        score = self.teacher_card.extra.get("AP50")
        if score is None:
            assert self.config.teacher is not None
            score = recorded_ap50(self.config.teacher, self.teacher.detector)
        fix = "give --val DIR to measure it first"
        if score is None and self.val is not None:
            lacks = [name for name in self.teacher.detector.config.extra_inputs if name not in self.val.extra]
            if lacks:
                fix = f"--val has no {' and '.join(lacks)}, which it looks at"
            else:
                score = self.score(self.teacher.detector)["AP50"]
        if not self.world.first:
            return
        if score is None:
            say(
                "warning: the teacher's AP on its source is not known, as neither its training nor python -m eval.run "
                f"recorded it; {fix}"
            )
        elif score < CHANCE_AP50:
            say(f"warning: the teacher's AP50 on its source is {score:.1f}, no better than chance: it teaches nothing")
        else:
            say(f"the teacher's AP50 on its source is {score:.1f}")

    # -- measuring and shipping ---------------------------------------------------------------------------------

    def measures(self, step: int) -> bool:
        return self.measured and step % (self.config.val_every or VAL_EVERY) == 0

    def describe_score(self, score: dict[str, float]) -> str:
        return f"AP50 on {self.config.val} is {score['AP50']:.1f}"

    def measure(self) -> dict[str, float]:
        """AP of what is shipped on the validation data, by all ranks together."""
        if self.world.size > 1:  # rank 0's running statistics are shipped
            for norm in self.norms:
                for buffer in norm.buffers():
                    dist.broadcast(buffer, src=0)
        with self.shipped_weights():
            return self.score(self.student, self.detect)

    def score(self, detector: Detector, detect: Any = None) -> dict[str, float]:
        assert self.val is not None
        config, world = self.config, self.world
        labels = match_classes(self.val.classes, self.val.classes, {})
        how = Pass(
            detector, self.val, labels, world, config.batch_size // world.size, config.precision, detect,
            # FFCV needs a file of its own, which validation data need not have.
            loader="auto" if config.loader.name == "ffcv" else config.loader.name, threads=config.loader.threads,
        )  # fmt: skip
        return source_ap(how, config.val_images)

    @contextmanager
    def shipped_weights(self) -> Iterator[None]:
        with super().shipped_weights():
            self.student.eval()
            try:
                yield
            finally:
                self.student.train()

    def ship(self, folder: Path, step: int) -> None:
        """What is evaluated and used: the student alone."""
        with self.shipped_weights():
            # How large the images were: prediction brings other pictures to the same size.
            trained = {"trained_on": self.data.records(), "priors": self.priors()}
            extra = {"step": step, **self.data.sides, **trained}
            save_detector(folder, self.student, self.config.model, self.data.classes, extra)
        (folder / PICTURES).write_bytes(self.pictures)

    def network_tensors(self) -> dict[str, Tensor]:
        return self.student.state_dict()

    def name_images(self, numbers: list[int]) -> list[str]:
        return [self.data.name(number) for number in numbers if number >= 0]

    def priors(self) -> list[str]:
        """How much the corruptions that were trained with know of the targets."""
        return sorted({BY_NAME[name].prior for name in self.config.views.corruptions})

    def buffers(self) -> dict[str, Tensor]:
        """The methods' own, such as running statistics."""
        return {
            f"method.{name}.{key}": value
            for name, method in self.learner.methods.items()
            for key, value in method.named_buffers()
        }
