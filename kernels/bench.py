"""`python -m kernels.bench`: how fast the corruptions are, beside `imagecorruptions` and what one would pick instead.

    python -m kernels.bench --device cpu --size 600x1000 --batch 16 --json build/bench.json --plot build/bench.png

Every type is checked, pixel by pixel, against the reference given the same random numbers (`kernels.checks.oracle`). On
a GPU it is also checked against the CPU. The views are checked too. What is wrong is timed all the same, named beside
its time, and the command ends with 1. The file is written after every figure. Times are the best of several runs, mean
over the five severities. Ours and the reference take turns in the same process. `mean_speedup` is the reference's mean
time over ours, for the 15 types of training: how much faster a run's corruptions are. `geometric_speedup` is the
geometric mean of the types' own ratios. `--sheet FILE` draws the 19 x 5 pictures to look at, ours above the reference.
`--picture FILE` draws them of your own picture.

`--threads 2` also times everything on one thread in turn. `thread_scaling` is one thread's time over that of both: with
an image's rows shared and with a batch's images shared. Beside it is the ratio of a loop that shares nothing: what the
machine can give.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from kernels import severity
from kernels.checks.oracle import differs_from_cpu, problem, view_problem
from kernels.checks.timing import (
    bench_others,
    best_ms,
    copy_ms,
    count_launches,
    draw_plot,
    draw_sheet,
    machine_scaling,
    picture,
    queued_ms,
    read_rgb,
    say,
)
from kernels.launch import cpu
from kernels.launch import table as parameters


@dataclass(frozen=True)
class Options:
    device: str = "cpu"  # cpu or cuda
    size: str = "600x1000"  # height x width
    batch: int = 16  # images of the mixed batch
    threads: int = 1  # of the corruptions and the mixed batch, on a CPU
    repeats: int = 5  # the best of so many
    json: Path | None = None
    plot: Path | None = None
    sheet: Path | None = None
    picture: Path | None = None  # for the sheet; none: the made-up picture that is timed
    cold: bool = True  # also measure a first start (compiling) and a second one
    mixed_only: bool = False  # the views of the mixed batch alone: no single types, no reference, no start


def bench_types(options: Options, image: np.ndarray, records: dict[str, dict], write: Callable[[], None]) -> None:
    import cv2
    import imagecorruptions
    import torch

    from pipeline.command.console import Progress

    cv2.setNumThreads(options.threads)
    on_gpu = options.device == "cuda"
    tensor = torch.from_numpy(image)
    if on_gpu:
        tensor = tensor.cuda()

    def ours(name: str, level: int, threads: int = options.threads) -> Any:
        result = kernels.corrupt(tensor if on_gpu else image, level, name, threads=threads)
        if on_gpu:
            torch.cuda.synchronize()
        return result

    def on_host(name: str, level: int) -> np.ndarray:
        result = ours(name, level)
        return result.cpu().numpy() if on_gpu else result

    with Progress("types", len(severity.IMAGENET_C), "types") as progress:
        for name in severity.IMAGENET_C:
            pixels = partial(on_host, name)
            wrong = problem(name, image, pixels)
            if on_gpu and not wrong:
                wrong = differs_from_cpu(name, image, pixels)
            if wrong:
                say(f"{name}: WRONG: {wrong}")
            reference_ms, ours_ms, alone_ms, shared_ms = [], [], [], []
            for level in severity.SEVERITIES:
                functions: dict[str, Callable[[], Any]] = {
                    "reference": partial(imagecorruptions.corrupt, image, level, name),
                    "ours": partial(ours, name, level),
                }
                best = best_ms(functions, options.repeats)
                reference_ms.append(best["reference"])
                ours_ms.append(best["ours"])
                if options.threads > 1:  # apart from the reference, which leaves cold caches
                    pair = best_ms({"alone": partial(ours, name, level, 1), "shared": functions["ours"]}, 20)
                    alone_ms.append(pair["alone"])
                    shared_ms.append(pair["shared"])
            records[name] = {
                "reference_ms": float(np.mean(reference_ms)),
                "ours_ms": float(np.mean(ours_ms)),
                "speedup": float(np.mean(reference_ms) / np.mean(ours_ms)),
                "images_per_second": float(1e3 / np.mean(ours_ms)),
            }
            if options.threads > 1:
                records[name]["thread_scaling"] = float(np.mean(alone_ms) / np.mean(shared_ms))
            if wrong:
                records[name]["wrong"] = wrong
            write()
            progress.advance(1, f"{name} {records[name]['speedup']:.1f}x")


def corrupted_first(maker: Any, batch: Any, draw: int) -> np.ndarray:
    """The batch's first image as the maker corrupts it, by the CPU's stages alone."""
    height, width = batch.images_BHW3.shape[1:3]
    pool = maker.pool((height, width), 0)
    table = parameters.Table(len(batch.ids_B))
    maker.draw_table(table, batch, maker.draw_bucket(0, draw), pool)
    source_HX = batch.images_BHW3[0].cpu().numpy().reshape(height, 3 * width)
    target_HX, workspace = np.zeros_like(source_HX), cpu.Workspace(height, width)
    masks_M = cpu.NO_POOL if pool is None else pool.values_M
    cpu.corrupt_image(source_HX, target_HX, table.rows_B[0], table.extra_BE[0], masks_M, workspace)
    rows, columns = batch.sizes_B2[0].tolist()
    return target_HX.reshape(height, width, 3)[:rows, :columns]


def bench_views(options: Options, image: np.ndarray, corruptions: tuple[str, ...]) -> dict[str, Any]:
    """Both views of a batch whose images draw among `corruptions`; of the host's time, with sizes not seen before."""
    import torch

    from pipeline.batch import Batch
    from pipeline.views import STRIDE, ViewConfig, ViewMaker

    height, width = image.shape[:2]
    canvas = [-(-side // STRIDE) * STRIDE for side in (height, width)]
    images_BHW3 = torch.zeros(options.batch, *canvas, 3, dtype=torch.uint8)
    images_BHW3[:, :height, :width] = torch.from_numpy(image)
    device = torch.device(options.device)
    images_BHW3 = images_BHW3.to(device)

    def new_batch(number: int, sizes_B2: np.ndarray) -> Batch:
        return Batch(
            images_BHW3=images_BHW3,
            sizes_B2=torch.from_numpy(sizes_B2.astype(np.int32)),
            boxes_BG4=torch.zeros(options.batch, 64, 4, device=device),
            labels_BG=torch.zeros(options.batch, 64, dtype=torch.int64, device=device),
            ignore_BG=torch.zeros(options.batch, 64, dtype=torch.bool, device=device),
            ids_B=torch.arange(number * options.batch, (number + 1) * options.batch),
            epoch=0,
            seed=0,
        )

    batches = [new_batch(number, np.full((options.batch, 2), (height, width))) for number in range(4)]
    config = ViewConfig(corruptions=corruptions)
    maker = ViewMaker(config, device, threads=options.threads)
    problems = [
        view_problem(batch, maker(batch, draw), corrupted_first(maker, batch, draw))
        for draw, batch in enumerate(batches)
    ]

    def run(maker: ViewMaker = maker) -> None:
        for draw, batch in enumerate(batches):
            maker(batch, draw)

    random = np.random.default_rng(0)
    sizes = random.integers((height // 2, width // 2), (height + 1, width + 1), (21, options.batch, 2))
    varied = [new_batch(number, sizes_B2) for number, sizes_B2 in enumerate(sizes)]
    table, drawn, pool = parameters.Table(options.batch), [], maker.pool((canvas[0], canvas[1]), 0)
    for draw, batch in enumerate(varied):
        bucket, start = maker.draw_bucket(0, draw), time.perf_counter()
        maker.draw_table(table, batch, bucket, pool)
        drawn.append(1e6 * (time.perf_counter() - start))
    record: dict[str, Any] = {"draw_us": float(np.median(drawn[1:])), "draw_most_us": max(drawn[1:])}
    if options.device == "cuda":
        record["batch_ms"] = queued_ms(run, 5) / len(batches)
        host = []
        for draw, batch in enumerate(varied):
            torch.cuda.synchronize()
            start = time.perf_counter()
            maker.start(batch, draw)
            host.append(1e6 * (time.perf_counter() - start))
        record["host_us"], record["host_most_us"] = float(np.median(host)), max(host)
        record["launches"] = max(
            count_launches(partial(maker.start, batch, draw)) for draw, batch in enumerate(varied[:4])
        )
    else:
        functions: dict[str, Callable[[], Any]] = {"views": run}
        if options.threads > 1:
            functions["alone"] = partial(run, ViewMaker(config, device, threads=1))
        best = best_ms(functions, options.repeats)
        record["batch_ms"] = best["views"] / len(batches)
        if options.threads > 1:
            record["thread_scaling"] = best["alone"] / best["views"]
    views = maker(batches[0], 0)
    assert views.clean is not None
    assert views.corrupted is not None
    clean, corrupted = views.clean.images_B3HW, views.corrupted.images_B3HW
    item = corrupted.element_size()
    # Read the images once; write both views.
    moved = images_BHW3.numel() + item * (clean.numel() + corrupted.numel())
    record["bytes"] = moved
    record["copy_ms"] = copy_ms(options.device, options.threads, moved // 2)
    record["times_copy_bound"] = record["batch_ms"] / record["copy_ms"]
    record["pairs_per_second"] = 1e3 * options.batch / record["batch_ms"]
    if wrong := [problem for problem in problems if problem]:
        record["wrong"] = wrong[0]
    return record


COLD = """
import sys, time
import torch
device = torch.device(sys.argv[1])
torch.zeros(1, device=device)
start = time.perf_counter()
import kernels
from pipeline.batch import Batch
from pipeline.views import ViewConfig, ViewMaker
images = torch.zeros(64, 96, 128, 3, dtype=torch.uint8, device=device)
if device.type == "cpu":
    for name in kernels.get_corruption_names("training"):
        kernels.corrupt(images[0].numpy(), 1, name)
batch = Batch(
    images_BHW3=images,
    sizes_B2=torch.tensor([(96, 128)] * 64, dtype=torch.int32),
    boxes_BG4=torch.zeros(64, 1, 4, device=device),
    labels_BG=torch.zeros(64, 1, dtype=torch.int64, device=device),
    ignore_BG=torch.zeros(64, 1, dtype=torch.bool, device=device),
    ids_B=torch.arange(64),
    epoch=0,
    seed=0,
)
ViewMaker(ViewConfig(), device)(batch)
if device.type == "cuda":
    torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def bench_cold(device: str) -> dict[str, float]:
    """Seconds until a mixed batch of the 15 types is made (and on a CPU one image of each). Torch's own start is not
    counted. Measured with an empty cache, and in a second process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, FAIRWEATHER_CACHE=folder)
        seconds = []
        for _ in range(2):
            command = [sys.executable, "-c", COLD, device]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            seconds.append(float(done.stdout.split()[-1]))
    return {"first_process_s": seconds[0], "second_process_s": seconds[1]}


def summary(per_type: dict[str, dict]) -> dict[str, float]:
    trained = [per_type[name] for name in severity.TRAINING]
    reference_ms, ours_ms = (float(np.mean([record[key] for record in trained])) for key in ("reference_ms", "ours_ms"))
    return {
        "mean_speedup": reference_ms / ours_ms,
        "geometric_speedup": float(np.exp(np.mean([np.log(record["speedup"]) for record in trained]))),
        "mean_reference_ms": reference_ms,
        "mean_ours_ms": ours_ms,
        "least_speedup": min(record["speedup"] for record in trained),
    }


def views_made(result: dict) -> list[tuple[str, dict]]:
    return [("mixed batch", result["mixed_batch"]), *result.get("views_per_type", {}).items()]


def describe_batch(record: dict, options: Options) -> str:
    text = f"WRONG views: {record['wrong']}; " if "wrong" in record else ""
    text += (
        f"both views of a mixed batch of {options.batch}: {record['batch_ms']:.1f} ms, "
        f"{record['pairs_per_second']:.0f} pairs/s, {record['times_copy_bound']:.1f} times a copy of as many bytes"
    )
    if "launches" in record:
        text += f"; {record['launches']} launches, host {record['host_us']:.0f} us (most {record['host_most_us']:.0f})"
    return text


def main() -> int:
    import torch
    import tyro

    from pipeline.command.console import describe_hardware

    options = tyro.cli(Options, description=__doc__)
    if options.device not in ("cpu", "cuda"):
        raise ValueError(f"bench: device must be cpu or cuda; got {options.device}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench: there is no CUDA device here; use --device cpu")
    try:
        height, width = (int(side) for side in options.size.split("x"))
    except ValueError:
        raise ValueError(f"bench: size must be HEIGHTxWIDTH, for instance 600x1000; got {options.size}") from None
    if min(height, width) < 32:
        raise ValueError(f"bench: imagecorruptions takes images of 32 x 32 and more; got {options.size}")
    if options.mixed_only and (options.plot or options.sheet):
        raise ValueError("bench: --plot and --sheet show the single types, which --mixed-only leaves out; drop one")
    if options.picture is not None:
        read_rgb(options.picture)  # reports a mistake before the long part
    say(describe_hardware())
    image = picture(height, width)
    result: dict[str, Any] = {
        "device": options.device,
        "device_name": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "hardware": describe_hardware(),
        "threads": options.threads,
        "size": options.size,
        "batch": options.batch,
        "repeats": options.repeats,
    }

    def write() -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=1) + "\n")

    # What a GPU is rented for comes first: the views, then the types one by one against a reference on the CPU.
    result["mixed_batch"] = bench_views(options, image, severity.TRAINING)
    write()
    say(describe_batch(result["mixed_batch"], options))
    if options.mixed_only:
        return 1 if "wrong" in result["mixed_batch"] else 0
    if options.device == "cuda":
        result["views_per_type"] = {}
        for name in severity.IMAGENET_C:
            record = result["views_per_type"][name] = bench_views(options, image, (name,))
            write()
            note = f" WRONG views: {record['wrong']}" if "wrong" in record else ""
            each_us = 1e3 * record["batch_ms"] / options.batch
            say(f"{name:18} {each_us:8.2f} us an image, {record['times_copy_bound']:.1f} x copy{note}")
    wrong = [name for name, record in views_made(result) if "wrong" in record]
    result["per_type"] = {}
    bench_types(options, image, result["per_type"], write)
    result.update(summary(result["per_type"]))
    wrong_types = [name for name, record in result["per_type"].items() if "wrong" in record]
    wrong += wrong_types
    right = len(severity.IMAGENET_C) - len(wrong_types)
    say(f"{right} of {len(severity.IMAGENET_C)} types give the reference's pixels; time for an image:")
    say(f"{'type':18} {'reference':>11}  {'Fairweather':>10} {'faster':>7}")
    for name, record in result["per_type"].items():
        note = "  WRONG pixels" if name in wrong_types else ""
        say(f"{name:18} {record['reference_ms']:8.2f} ms  {record['ours_ms']:7.3f} ms  {record['speedup']:6.1f}x{note}")
    say(
        f"the 15 types of training: {result['mean_speedup']:.1f} times faster (the reference's mean time over ours; "
        f"geometric mean of the types {result['geometric_speedup']:.1f})"
    )
    if options.threads > 1:
        result["thread_scaling"] = {
            "machine": machine_scaling(options.threads),
            "mixed_batch": result["mixed_batch"]["thread_scaling"],
            "per_type": {name: record["thread_scaling"] for name, record in result["per_type"].items()},
        }
        listed = ", ".join(f"{name} {value:.2f}" for name, value in result["thread_scaling"]["per_type"].items())
        machine, mixed = (result["thread_scaling"][key] for key in ("machine", "mixed_batch"))
        say(f"{options.threads} threads over one: the machine {machine:.2f}x, mixed batch {mixed:.2f}x; {listed}")
    write()
    result["others"] = bench_others(image, options.device, options.threads, options.repeats)
    for name, times in result["others"].items():
        listed = ", ".join(f"{library} {value:.2f} ms" for library, value in times.items())
        say(f"{name:18} ours {result['per_type'][name]['ours_ms']:.3f} ms; {listed}")
    if options.cold:
        result["start"] = bench_cold(options.device)
        first, second = result["start"].values()
        say(f"start: {first:.1f} s compiling, {second:.1f} s cached")
    write()
    if options.plot:
        draw_plot(result, options.plot)
    if options.sheet:
        draw_sheet(image if options.picture is None else read_rgb(options.picture), options.sheet)
    return 1 if wrong else 0


if __name__ == "__main__":
    from pipeline.command.console import run_entry

    run_entry(main)
