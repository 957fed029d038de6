"""Training speed against torchvision's own loop, in one run: `python -m train.bench --device cpu|cuda --json FILE`.

Both take the same ready views: the same backbone, batch, canvas, precision and memory layout, and a teacher's forward
pass. Ours adds what a CD-FKD step needs (distillation terms, clipping, the finite check). The stock loop is that of
torchvision's references/detection/engine.py with clipping. It has no distillation term, which favours it. First the
losses and gradients of the two must agree for the same weights, proposals and samples. Their proposals must agree as
sets, and the compiled step's losses with the eager one's. What does not is named in `wrong`, beside the speeds, and
the command ends with 1. The file is written after every figure. `--model retinanet` and `fcos` are compared as
model/dense/parity.py says. ATSS and GFL, which torchvision has not, are only timed.

The same layers learn as in the recipes. The eager step is timed first, then the compiled one, then the one replayed as
CUDA graphs. Each takes turns with the stock loop within each round, and ratios are medians over rounds of times taken
next to each other. One that fails is named in `wrong`, and the others are timed. CUDA graphs may fail: then
`cuda_graphs_error` says why. `ratio_to_stock` and all shares are those of `variant`: the compiled step without CUDA
graphs, or the eager one where nothing is compiled. Graphs are counted last.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
import tyro

from eval.detecting.detect import choose_compile
from model.api import Detector, own
from model.detectors import CONFIGS
from pipeline.batch import Batch, Views
from pipeline.command.console import describe_hardware, run_entry, say
from pipeline.loading.loader import open_loader
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.views import ViewConfig, ViewMaker
from train.bench import distill as bench_distill
from train.bench.check import check_parity, compare_compiled, count_graphs, count_skipped_graphs, count_synchronisations
from train.bench.steps import (
    Clock,
    choose,
    choose_clock,
    count_bytes,
    images_of,
    make_batch,
    make_network,
    our_step,
    time_rounds,
    time_steps,
    warm_up,
)
from train.bench.stock import has_stock, stock_step
from train.config import OptimizerConfig
from train.distill import CdFkd, CdFkdConfig
from train.load import compile_both
from train.optimizer import Optimizer
from train.step import Learner, Teacher


@dataclass(frozen=True)
class BenchOptions:
    """Measure the training step against torchvision's."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: Literal[tuple(CONFIGS)] = "faster_rcnn"  # type: ignore[valid-type]
    """The detector. torchvision has no ATSS and no GFL, so these are only timed."""
    backbone: str | None = None
    """As --model.backbone of a run. Default: resnet101 on a GPU; on a CPU mobilenet_v2 as in the small recipes."""
    canvas: tuple[int, int] | None = None
    """Height and width, multiples of 32. Default: 608 1024 on a GPU, 192 352 on a CPU."""
    batch_size: int | None = None
    """Default: 16 on a GPU, 8 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Also time the compiled step; auto: on a GPU only (on two CPU cores compiling takes minutes)."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Also time the compiled step replayed as CUDA graphs; auto: on a GPU, where the compiled step is timed."""
    count_graphs: bool = True
    """Count graph breaks and recompilations, which are the same on a CPU."""
    loader: Literal["auto", "cpu", "dali", "ffcv"] = "auto"
    """The loader whose share is measured."""
    clock: Literal["elapsed", "cpu"] = "elapsed"
    """cpu: CPU seconds of all threads together, on a machine that others use, too."""
    rounds: int = 5
    steps: int = 0
    """Steps of each variant in a round; 0: 20 on a GPU, 2 on a CPU."""
    json: Path | None = None
    """Write the result here."""
    distill: tuple[str, ...] = ()
    """Measure what these distillation methods cost instead (train/bench/distill.py)."""


def main() -> int:
    options = tyro.cli(BenchOptions, prog="python -m train.bench")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    result = bench_distill.measure(options) if options.distill else measure(options)
    say(bench_distill.describe(result) if options.distill else json.dumps(result, indent=1))
    write(options, result)
    return 1 if result["wrong"] else 0


def write(options: BenchOptions, result: dict[str, Any]) -> None:
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(options: BenchOptions) -> dict[str, Any]:
    setting = choose(options)
    device, (height, width), num_images, model, dtype, steps = setting
    on_gpu = device.type == "cuda"
    if options.cuda_graphs == "on" and not on_gpu:
        raise ValueError("--cuda-graphs is on, but this runs on a CPU; leave it out, or give --device cuda")
    rounds, clock = options.rounds, choose_clock(options.clock, device)
    say(describe_hardware())
    say(setting.described)

    batch = make_batch(num_images, height, width, device)
    student, teacher = make_network(model, batch, seed=0), make_network(model, batch, seed=1)
    wrong: dict[str, str] = {}

    def tried(what: str, function: Callable, *arguments: Any) -> Any:
        """None where it fails: the other figures are still worth their time."""
        try:
            return function(*arguments)
        except Exception as error:
            wrong[what] = f"{type(error).__name__}: {error}"
            say(f"WRONG: {what}: {error}")
            return None

    torch.backends.cudnn.benchmark = True  # as a run sets it; the stock loop gains too
    parity = tried("parity", check_parity, student, batch) or {"ok": False}
    result: dict[str, Any] = {
        "wrong": wrong,
        "command": {key: str(value) for key, value in asdict(options).items()},
        "hardware": describe_hardware(),
        **setting.facts,
        "parity": parity,
    }
    write(options, result)  # what is measured stays, even when the rest fails; again below
    full_size = ViewConfig(ratio_range=(1.0, 1.0))
    views = ViewMaker(full_size, device=device)(batch, 0)
    compiling = choose_compile(options.compile, device)
    learner, look = make_learner(student, teacher, dtype)
    names = learner.layout.names
    ours = count_bytes(student) + count_bytes(teacher) + images_of(views).nbytes
    stock: dict[str, Callable[[], None]] = {}
    memory: dict[str, float | None] = {}
    timed: dict[str, tuple[Callable[[], None], float]] = {}  # ours, and their seconds

    def warm_stock() -> None:
        stock["stock"], memory["stock"] = warm_up(lambda: stock_step(student, teacher, views, dtype), device)

    def time_variant(name: str, learner: Any, look: Any) -> None:
        step, memory[name] = warm_up(lambda: our_step(learner, look, names, views), device, ours)
        seconds = time_rounds({**stock, name: step}, rounds, steps, device, clock)
        for each in seconds:
            result.update(describe(each, seconds, memory[each], num_images))
        result["variant"], result["images_per_second"] = name, result[f"{name}_images_per_second"]
        if stock:
            result["ratio_to_stock"] = result[f"{name}_ratio_to_stock"]
        timed[name] = step, statistics.median(seconds[name])

    def time_compiled() -> None:
        both = compile_both(learner, look, "default", 8)
        parity["compiled_loss_difference"] = tried(
            "compiled parity", compare_compiled, (learner, look), both, views, dtype
        )
        time_variant("compiled", *both)

    if has_stock(student):
        tried("stock", warm_stock)
    tried("eager", time_variant, "eager", learner, look)
    write(options, result)
    if compiling:
        tried("compiled", time_compiled)
        write(options, result)
    if timed:
        step, step_seconds = timed[result["variant"]]
        view_seconds = tried("views", time_views, result, batch, step, step_seconds, steps, clock)
        write(options, result)
        if view_seconds is not None:
            given = (batch, student, step_seconds, view_seconds, steps, clock, options.loader)
            result |= tried("loader", measure_shares, *given) or {}
            write(options, result)
    if options.cuda_graphs == "on" or (options.cuda_graphs == "auto" and on_gpu and compiling):
        result |= measure_cuda_graphs(learner, look, views, stock.get("stock"), ours, rounds, steps)
        write(options, result)
    if options.count_graphs:
        result |= tried("graphs", count_graphs, learner, look, batch) or {}
    return result


def time_views(
    result: dict[str, Any], batch: Batch, step: Callable[[], None], step_seconds: float, steps: int, clock: Clock
) -> float:
    """Seconds of both views; into the result what they are beside this step, and what waits for a GPU in the two."""
    device, num_images = batch.images_BHW3.device, len(batch.ids_B)
    make_views = ViewMaker(ViewConfig(), device=device)
    make_views(batch, 0)
    draws = iter(range(10_000))
    seconds = time_steps(lambda: make_views(batch, next(draws)), max(steps, 4), device, clock)
    result["views_to_step"] = seconds / step_seconds
    result["images_per_second_with_views"] = num_images / (step_seconds + seconds)

    def views_and_step() -> None:
        make_views(batch, next(draws))
        step()

    result["synchronisations"] = count_synchronisations(views_and_step) if device.type == "cuda" else None
    return seconds


def measure_shares(
    batch: Batch, student: Detector, step_seconds: float, view_seconds: float, steps: int, clock: Clock, loader: str
) -> dict[str, float]:
    """Of the time of loader, views and step one after another; on a GPU the first two run beside the step instead."""
    device = batch.images_BHW3.device
    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    optimizer = Optimizer(parameters, OptimizerConfig())

    def update() -> None:
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.0, torch.zeros((), device=device))

    update_seconds = time_steps(update, steps, device, clock)
    load_seconds = time_loader(batch, max(steps, 4), device, loader, clock)
    whole_seconds = step_seconds + view_seconds + load_seconds
    return {
        "share_of_views": view_seconds / whole_seconds,
        "share_of_loader": load_seconds / whole_seconds,
        "share_of_optimizer": update_seconds / whole_seconds,
    }


def measure_cuda_graphs(
    learner: Learner, look: Teacher, views: Views, stock: Callable[[], None] | None, ours: int, rounds: int, steps: int
) -> dict[str, Any]:
    """The compiled step replayed as CUDA graphs; an error of this optional variant is caught here."""
    device, num_images = images_of(views).device, len(views.ids_B)
    try:
        graphed = compile_both(learner, look, "reduce-overhead", 8)
        # Memory first, compiling included: once captured, a graph's own is no longer counted.
        skipped, names = count_skipped_graphs(), learner.layout.names
        step, memory = warm_up(lambda: our_step(*graphed, names, views, cuda_graphs=True), device, ours, unmeasured=0)
        if count_skipped_graphs() > skipped:
            raise RuntimeError("inductor left out a graph and calls its kernels one by one")
        torch.compiler.cudagraph_mark_step_begin()
        difference = compare_compiled((learner, look), graphed, views, learner.dtype)
        beside = {} if stock is None else {"stock": stock}
        seconds = time_rounds({**beside, "cuda_graphs": step}, rounds, steps, device)
    except Exception as error:
        say(f"CUDA graphs: not measured: {error}")
        return {"cuda_graphs_error": f"{type(error).__name__}: {error}"}
    return {"cuda_graphs_loss_difference": difference} | describe("cuda_graphs", seconds, memory, num_images)


def describe(name: str, seconds: dict[str, list[float]], memory: float | None, num_images: int) -> dict[str, Any]:
    """What the result says of a variant."""
    described: dict[str, Any] = {
        f"{name}_images_per_second": num_images / statistics.median(seconds[name]),
        f"{name}_peak_memory_gb": memory,
    }
    if name != "stock" and "stock" in seconds:
        ratios = [a / b for a, b in zip(seconds["stock"], seconds[name], strict=True)]
        described[f"{name}_ratio_to_stock"] = statistics.median(ratios)
        described[f"{name}_ratios"] = [round(ratio, 3) for ratio in ratios]
    return described


def make_learner(student: Detector, teacher: Detector, dtype: torch.dtype) -> tuple[Learner, Teacher]:
    method = CdFkd(CdFkdConfig(), student, teacher, own)
    return Learner(student, {"cd_fkd": method}, dtype, own), Teacher(teacher, [method], dtype)


def time_loader(batch: Batch, num_batches: int, device: torch.device, name: str, clock: Clock) -> float:
    """Seconds the loader takes for a batch of these pictures, packed as JPEG, when nothing else runs."""
    height, width = batch.images_BHW3.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        source, packed = Path(folder) / "source", Path(folder) / "packed"
        coco: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
        (source / "images").mkdir(parents=True)
        (source / "annotations").mkdir()
        for number, picture in enumerate(batch.images_BHW3.cpu().numpy()):
            cv2.imwrite(str(source / "images" / f"{number}.jpg"), picture[..., ::-1])
            coco["images"].append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
            box = {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
            coco["annotations"].append(box)
        (source / "annotations" / "instances.json").write_text(json.dumps(coco))
        short_side, long_side = min(height, width), max(height, width)
        pack(PackOptions(root=source, out=packed, short_side=short_side, long_side=long_side, workers=1))
        with open_loader(PackedDataset(packed), len(batch.ids_B), device=device, name=name) as loader:
            time_steps(lambda: next(loader), 5, device)  # what was made ahead of the first call
            return time_steps(lambda: next(loader), num_batches, device, clock)


if __name__ == "__main__":
    run_entry(main)
