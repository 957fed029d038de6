"""`python -m kernels.bench`: how fast the corruptions are, beside `imagecorruptions` and what one would pick instead.

    python -m kernels.bench --device cpu --size 600x1000 --batch 16 --json build/bench.json --plot build/bench.png

Every type is checked before it is timed (the deterministic ones against the reference, the random ones against the
reference's mean and spread; on a GPU every pixel against the CPU) and a wrong one gets no time. Times are the best of
several runs, ours and the reference's in turn in the same process, mean over the five severities. `mean_speedup` is
the reference's mean time over ours, for the 15 types of training: how much faster a run's corruptions are; the
geometric mean of the types' own ratios is `geometric_speedup`. `--sheet FILE` draws the 19 x 5 for eyes.
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
from kernels.bench_tools import bench_others, best_ms, draw_plot, draw_sheet, queued_ms

DETERMINISTIC = ("brightness", "contrast", "saturate", "pixelate", "defocus_blur", "gaussian_blur", "zoom_blur")


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
    cold: bool = True  # also measure a first start (compiling) and a second one


def picture(height: int, width: int) -> np.ndarray:
    """A natural-looking image: smooth colours, edges and texture, the same on every machine."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([120 + 90 * np.sin(x / (37 + 9 * c) + y / (71 - 11 * c)) for c in range(3)], axis=2)
    for _ in range(60):
        top, left = int(random.integers(0, height)), int(random.integers(0, width))
        bottom, right = top + int(random.integers(4, 1 + height // 3)), left + int(random.integers(4, 1 + width // 3))
        image[top:bottom, left:right] = random.uniform(0, 255, 3) + image[top:bottom, left:right] * 0.3
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def problem(name: str, image: np.ndarray, ours: Callable[[int], np.ndarray]) -> str | None:
    """What is wrong with our result, if anything."""
    import imagecorruptions

    for level in severity.SEVERITIES:
        got = ours(level)
        if got.shape != image.shape or got.dtype != np.uint8:
            return f"severity {level}: {got.dtype} {got.shape}"
        expected = imagecorruptions.corrupt(image, level, name)
        error = np.abs(got.astype(int) - expected.astype(int))
        if name in DETERMINISTIC and (error.max() > 2 or (error > 1).mean() > 0.001):
            return f"severity {level}: off by {error.max()} levels, {(error > 1).mean():.2%} by more than one"
        if name == "jpeg_compression" and (error.max() > 8 or error.mean() > 0.5):
            return f"severity {level}: off by {error.max()} levels, {error.mean():.2f} in the mean"
        if (got == image).all():
            return f"severity {level}: the image is unchanged"
        # One draw of fog or frost differs from the next by this much; frost is drawn, not the reference's photographs.
        slack = 70 if name in ("frost", "fog") else 8
        if abs(got.mean() - expected.mean()) > slack or abs(got.std() - expected.std()) > slack:
            means = f"mean {got.mean():.1f} for {expected.mean():.1f}"
            return f"severity {level}: {means}, spread {got.std():.1f} for {expected.std():.1f}"
    return None


def differs_from_cpu(name: str, image: np.ndarray, ours: Callable[[int], np.ndarray]) -> str | None:
    for level in severity.SEVERITIES:
        error = np.abs(ours(level).astype(int) - kernels.corrupt(image, level, name).astype(int)).max()
        if error > 1:
            return f"severity {level}: off by {error} levels from the CPU's pixels"
    return None


def bench_types(options: Options, image: np.ndarray) -> dict[str, dict]:
    import cv2
    import imagecorruptions
    import torch

    from pipeline.console import Progress, say

    cv2.setNumThreads(options.threads)
    on_gpu = options.device == "cuda"
    tensor = torch.from_numpy(image)
    if on_gpu:
        tensor = tensor.cuda()

    def ours(name: str, level: int) -> Any:
        result = kernels.corrupt(tensor if on_gpu else image, level, name, threads=options.threads)
        if on_gpu:
            torch.cuda.synchronize()
        return result

    def on_host(name: str, level: int) -> np.ndarray:
        result = ours(name, level)
        return result.cpu().numpy() if on_gpu else result

    records: dict[str, dict] = {}
    with Progress("types", len(severity.ALL), "types") as progress:
        for name in severity.ALL:
            pixels = partial(on_host, name)
            wrong = problem(name, image, pixels)
            if on_gpu and not wrong:
                wrong = differs_from_cpu(name, image, pixels)
            if wrong:
                records[name] = {"wrong": wrong}
                say(f"{name}: WRONG, no time is given: {wrong}")
                continue
            reference_ms, ours_ms = [], []
            for level in severity.SEVERITIES:
                best = best_ms(
                    {
                        "reference": partial(imagecorruptions.corrupt, image, level, name),
                        "ours": partial(ours, name, level),
                    },
                    options.repeats,
                )
                reference_ms.append(best["reference"])
                ours_ms.append(best["ours"])
            records[name] = {
                "reference_ms": float(np.mean(reference_ms)),
                "ours_ms": float(np.mean(ours_ms)),
                "speedup": float(np.mean(reference_ms) / np.mean(ours_ms)),
                "images_per_second": float(1e3 / np.mean(ours_ms)),
            }
            progress.advance(1, f"{name} {records[name]['speedup']:.1f}x")
    return records


def copy_ms(options: Options, num_bytes: int) -> float:
    """The time to copy so many bytes on the device: the ceiling for whatever reads and writes them."""
    import torch

    source = torch.zeros(num_bytes, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
        return best_ms({"copy": lambda: target.copy_(source)}, 20)["copy"]
    return queued_ms(lambda: target.copy_(source), 20)


def bench_views(options: Options, image: np.ndarray, corruptions: tuple[str, ...]) -> dict[str, float]:
    """Both views of a batch whose images draw among `corruptions`."""
    import torch

    from pipeline.batch import Batch
    from pipeline.views import STRIDE, ViewConfig, ViewMaker

    height, width = image.shape[:2]
    canvas = [-(-side // STRIDE) * STRIDE for side in (height, width)]
    images_BHW3 = torch.zeros(options.batch, *canvas, 3, dtype=torch.uint8)
    images_BHW3[:, :height, :width] = torch.from_numpy(image)
    device = torch.device(options.device)
    batches = [
        Batch(
            images_BHW3=images_BHW3.to(device),
            sizes_B2=torch.tensor([(height, width)] * options.batch, dtype=torch.int32),
            boxes_BG4=torch.zeros(options.batch, 64, 4, device=device),
            labels_BG=torch.zeros(options.batch, 64, dtype=torch.int64, device=device),
            ignore_BG=torch.zeros(options.batch, 64, dtype=torch.bool, device=device),
            ids_B=torch.arange(number * options.batch, (number + 1) * options.batch),
            epoch=0,
            seed=0,
        )
        for number in range(4)
    ]
    maker = ViewMaker(ViewConfig(corruptions=corruptions), device, threads=options.threads)

    def run() -> None:
        for draw, batch in enumerate(batches):
            maker(batch, draw)

    record: dict[str, float] = {}
    if options.device == "cuda":
        record["batch_ms"] = queued_ms(run, 5) / len(batches)
        host = []
        for _ in range(20):
            torch.cuda.synchronize()
            start = time.perf_counter()
            maker.start(batches[0], 0)
            host.append(time.perf_counter() - start)
        record["host_us"] = 1e6 * float(np.median(host))
        record["launches"] = count_launches(lambda: maker.start(batches[0], 0))
    else:
        record["batch_ms"] = best_ms({"views": run}, options.repeats)["views"] / len(batches)
    views = maker(batches[0], 0)
    teacher = views.teacher_B3HW
    assert teacher is not None
    item = views.student_B3hw.element_size()
    # Read the images once; write both views.
    moved = images_BHW3.numel() + item * (teacher.numel() + views.student_B3hw.numel())
    record["bytes"] = moved
    record["copy_ms"] = copy_ms(options, moved // 2)
    record["times_copy_bound"] = record["batch_ms"] / record["copy_ms"]
    record["pairs_per_second"] = 1e3 * options.batch / record["batch_ms"]
    return record


def count_launches(function: Callable[[], Any]) -> int:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    ran = [event.name.lower() for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(1 for name in ran if "memcpy" not in name and "memset" not in name)


COLD = """
import time
start = time.perf_counter()
import numpy as np
import kernels
image = np.zeros((96, 128, 3), np.uint8)
for name in kernels.get_corruption_names("training"):
    kernels.corrupt(image, 1, name)
print(time.perf_counter() - start)
"""


def bench_cold() -> dict[str, float]:
    """Seconds until the first image of each of the 15 types: with an empty cache, and in a second process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, FAIRWEATHER_CACHE=folder)
        seconds = []
        for _ in range(2):
            command = [sys.executable, "-c", COLD]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            seconds.append(float(done.stdout.split()[-1]))
    return {"first_process_s": seconds[0], "second_process_s": seconds[1]}


def summary(per_type: dict[str, dict]) -> dict[str, float]:
    trained = [per_type[name] for name in severity.TRAINING if "ours_ms" in per_type[name]]
    if len(trained) < len(severity.TRAINING):
        return {}
    reference_ms, ours_ms = (float(np.mean([record[key] for record in trained])) for key in ("reference_ms", "ours_ms"))
    return {
        "mean_speedup": reference_ms / ours_ms,
        "geometric_speedup": float(np.exp(np.mean([np.log(record["speedup"]) for record in trained]))),
        "mean_reference_ms": reference_ms,
        "mean_ours_ms": ours_ms,
        "least_speedup": min(record["speedup"] for record in trained),
    }


def main() -> int:
    import torch
    import tyro

    from pipeline.console import describe_hardware, say

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
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
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
    result["per_type"] = bench_types(options, image)
    result.update(summary(result["per_type"]))
    wrong = [name for name, record in result["per_type"].items() if "wrong" in record]
    for name, record in result["per_type"].items():
        if name not in wrong:
            say(f"{name:18} {record['reference_ms']:8.2f} ms  {record['ours_ms']:7.3f} ms  {record['speedup']:6.1f}x")
    if "mean_speedup" in result:
        say(f"the 15 of training: {result['mean_speedup']:.1f}x (geometric mean {result['geometric_speedup']:.1f}x)")
    if not wrong:
        result["mixed_batch"] = bench_views(options, image, severity.TRAINING)
        say(f"mixed batch: {json.dumps({key: round(value, 2) for key, value in result['mixed_batch'].items()})}")
        if options.device == "cuda":
            result["views_per_type"] = {name: bench_views(options, image, (name,)) for name in severity.ALL}
            for name, record in result["views_per_type"].items():
                each_us = 1e3 * record["batch_ms"] / options.batch
                say(f"{name:18} {each_us:8.2f} us an image, {record['times_copy_bound']:.1f} x copy")
    result["others"] = bench_others(image, options.device, options.threads, options.repeats)
    for name, times in result["others"].items():
        ours_ms = result["per_type"][name].get("ours_ms")
        listed = ", ".join(f"{library} {value:.2f} ms" for library, value in times.items())
        say(f"{name:18} ours {ours_ms if ours_ms is None else round(ours_ms, 3)} ms; {listed}")
    if options.cold and options.device == "cpu":
        result["start"] = bench_cold()
        first, second = result["start"].values()
        say(f"start: {first:.1f} s compiling, {second:.1f} s cached")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        draw_plot(result, options.plot)
    if options.sheet:
        draw_sheet(image, options.sheet)
    return 1 if wrong else 0


if __name__ == "__main__":
    from pipeline.console import run_entry

    run_entry(main)
