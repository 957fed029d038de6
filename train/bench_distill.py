"""What distillation methods cost: `python -m train.bench --distill NAME ... [--model KIND]`.

All variants take the same views at full size and turns within each round. `alone` is the student's step without a
teacher. `plain` is a plain distilling step: the teacher looks at its pyramid too, and nothing is compared. Each method
stands beside it with its defaults; its ratio is the median over rounds of its time to that of `plain` next to it.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from eval.detecting.detect import choose_compile
from model.api import Assigned, Detector, Outputs, Want, own
from pipeline.batch import Views
from pipeline.command.console import describe_hardware, say
from pipeline.command.suggest import nearest
from pipeline.views import ViewConfig, ViewMaker
from train import bench_steps as bench
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
    """options: those of train.bench."""
    names = [name.replace("-", "_") for name in options.distill]
    for name in names:
        if name not in KINDS:
            raise ValueError(f"--distill {name}{nearest(name, KINDS)}: the methods are {', '.join(KINDS)}")
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    canvas = options.canvas or ((608, 1024) if on_gpu else (192, 352))
    num_images = options.batch_size or (16 if on_gpu else 4)
    backbone = options.backbone or ("resnet101" if on_gpu else "mobilenet_v2")
    model = replace(
        bench.configure(options.model, backbone),
        weights="none",
        norm="frozen",
        trainable_layers=5 if backbone == "mobilenet_v2" else 3,
    )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    batch = bench.make_batch(num_images, canvas[0], canvas[1], device)
    student, teacher = (bench.make_network(model, batch, seed=seed) for seed in (0, 1))
    teacher = teacher.eval().requires_grad_(False)
    views = ViewMaker(ViewConfig(ratio_range=(1.0, 1.0)), device=device)(batch, 0)
    say(describe_hardware())
    say(f"{options.model} with {model.backbone}, {num_images} images of {canvas[0]}x{canvas[1]}")
    learners: dict[str, dict[str, Method]] = {ALONE: {}, PLAIN: {"nothing": Nothing(student, teacher)}}
    for name in names:
        kind = METHODS[type(KINDS[name]())]
        method = kind(KINDS[name](), student, teacher if kind.needs_teacher else None, own)
        learners[name] = {name: method.to(device)}
    compiling = choose_compile(options.compile, device)
    steps, memory, launches = {}, {}, {}
    for name, methods in learners.items():
        learner = Learner(student, methods, dtype, own)
        taught = any(method.needs_teacher for method in methods.values())
        look = Teacher(teacher, list(methods.values()), dtype) if taught else None
        wrapped: tuple[Any, Any] = (learner, look)
        if compiling:
            wrapped = compile_both(learner, look, "default", 8)
        # Every variant trains the one student; the teacher is there already.
        shared = bench.count_bytes(student) + (bench.count_bytes(teacher) if taught else 0)
        make = partial(bench.our_step, wrapped[0], wrapped[1], learner.layout.names, views)
        steps[name], memory[name] = bench.warm_up(make, device, shared)
        launches[name] = count_launches(steps[name]) if device.type == "cuda" else None
    seconds = bench.time_rounds(steps, options.rounds, options.steps or (20 if on_gpu else 2), device)
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
        "hardware": describe_hardware(),
        "model": options.model,
        "network": model.backbone,
        "batch_size": num_images,
        "canvas": list(canvas),
        "precision": str(dtype).removeprefix("torch."),
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
