"""What distillation methods cost: `python -m train.bench --distill NAME ... [--model KIND]`.

All variants take the same views at full size and turns within each round. `alone` is the student's step without a
teacher. `plain` is a plain distilling step: the teacher looks at its pyramid too, and nothing is compared. Each method
stands beside it with its defaults; its ratio is the median over rounds of its time to that of `plain` next to it.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from eval.detecting.detect import choose_compile
from model.api import Assigned, Detector, Outputs, Want, own
from pipeline.batch import Views
from pipeline.command.console import describe_hardware, say
from pipeline.command.suggest import nearest
from pipeline.views import ViewConfig, ViewMaker
from train.bench import steps as bench
from train.distill import METHODS
from train.distill.method import Logged, Method
from train.load import compile_both
from train.options import KINDS
from train.step import Learner, Teacher

ALONE, PLAIN = "alone", "plain"
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


class Nothing(Method):
    """Both networks look, and nothing is compared."""

    def __init__(self, student: Detector, teacher: Detector):
        super().__init__(None, student, teacher, own)
        self.weights = {}
        self.want_teacher = Want(neck=tuple(s for s in teacher.strides if teacher.strides.count(s) == 1))

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, torch.Tensor], Logged]:
        return {}, {}


def measure(options: Any) -> dict[str, Any]:
    """options: those of train.bench. One that does not fit the model is an error; one that fails is named in
    `wrong`, and the others are timed."""
    names = [name.replace("-", "_") for name in options.distill]
    for name in names:
        if name not in KINDS:
            raise ValueError(f"--distill {name}{nearest(name, KINDS)}: the methods are {', '.join(KINDS)}")
    for option, value in (("--cuda-graphs", options.cuda_graphs), ("--loader", options.loader)):
        if value not in ("auto", "off"):
            raise ValueError(f"{option} {value} has no effect on --distill, which times steps alone; leave it out")
    setting = bench.choose(options)
    device, canvas, num_images, model, dtype, num_steps = setting
    batch = bench.make_batch(num_images, canvas[0], canvas[1], device)
    student, teacher = (bench.make_network(model, batch, seed=seed) for seed in (0, 1))
    teacher = teacher.eval().requires_grad_(False)
    views = ViewMaker(ViewConfig(ratio_range=(1.0, 1.0)), device=device)(batch, 0)
    say(describe_hardware())
    say(setting.described)
    learners: dict[str, dict[str, Method]] = {ALONE: {}, PLAIN: {"nothing": Nothing(student, teacher)}}
    for name in names:
        kind = METHODS[type(KINDS[name]())]
        method = kind(KINDS[name](), student, teacher if kind.needs_teacher else None, own)
        learners[name] = {name: method.to(device)}
    compiling, clock = choose_compile(options.compile, device), bench.choose_clock(options.clock, device)
    steps, memory, launches, wrong = {}, {}, {}, {}
    for name, methods in learners.items():
        learner = Learner(student, methods, dtype, own)
        taught = any(method.needs_teacher for method in methods.values())
        look = Teacher(teacher, list(methods.values()), dtype) if taught else None
        wrapped: tuple[Any, Any] = (learner, look)
        if compiling:
            wrapped = compile_both(learner, look, "default", len(learners))  # they share one code object
        # Every variant trains the one student; the teacher is there already.
        shared = bench.count_bytes(student) + (bench.count_bytes(teacher) if taught else 0)
        make = partial(bench.our_step, wrapped[0], wrapped[1], learner.layout.names, views)
        try:
            step, memory[name] = bench.warm_up(make, device, shared)
            launches[name] = count_launches(step) if device.type == "cuda" else None
        except Exception as error:
            if name not in names:
                raise
            wrong[name] = f"{type(error).__name__}: {error}"
            say(f"WRONG: {name}: {error}")
            continue
        steps[name] = step
    seconds = bench.time_rounds(steps, options.rounds, num_steps, device, clock)
    found = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[PLAIN], strict=True)]
        found[name] = {
            "milliseconds": round(1000 * statistics.median(times), 2),
            "ratio_to_plain": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "peak_memory_gb": memory[name],
            "launches": launches[name],
        }
    return {
        "wrong": wrong,
        "clock": options.clock,
        "hardware": describe_hardware(),
        **setting.facts,
        "compiled": compiling,
        "steps": found,
    }


def count_launches(step: Callable[[], None]) -> int:
    """Kernels, or whole graphs, that one step gives a GPU."""
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.key in LAUNCHES)


def describe(result: dict[str, Any]) -> str:
    """A table."""
    lines = [f"{'step':<16}{'ms':>10}{'of plain':>10}{'GB':>8}{'launches':>10}"]
    for name, figures in result["steps"].items():
        memory, launches = ("-" if figures[key] is None else figures[key] for key in ("peak_memory_gb", "launches"))
        ms, ratio = figures["milliseconds"], figures["ratio_to_plain"]
        lines.append(f"{name:<16}{ms:>10.1f}{ratio:>10.2f}{memory:>8}{launches:>10}")
    return "\n".join(lines)
