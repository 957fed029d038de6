"""What `kernels.bench` measures with, compares to and draws."""

import hashlib
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from kernels import severity


def say(text: str) -> None:
    """Print a line at once, so that logs of a batch system show it as it happens."""
    print(text, flush=True)


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


def read_rgb(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or min(image.shape[:2]) < 32:
        raise ValueError(f"bench: --picture {path} is not a picture of 32 x 32 pixels or more that can be read")
    return np.ascontiguousarray(image[..., ::-1])


def best_ms(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The shortest of several runs of each, in turn."""
    best = dict.fromkeys(functions, math.inf)
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def queued_ms(function: Callable[[], Any], repeats: int) -> float:
    """Mean time on the GPU of many calls queued one after the other."""
    import torch

    for _ in range(3):
        function()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeats


def copy_ms(device: str, threads: int, num_bytes: int) -> float:
    """The time to copy so many bytes on the device: the ceiling for any code that reads and writes them."""
    import torch

    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device == "cpu":
        torch.set_num_threads(threads)
        return best_ms({"copy": lambda: target.copy_(source)}, 20)["copy"]
    return queued_ms(lambda: target.copy_(source), 20)


def count_launches(function: Callable[[], Any]) -> int:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    ran = [event.name.lower() for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(1 for name in ran if "memcpy" not in name and "memset" not in name)


def machine_scaling(threads: int) -> float:
    """How much more the machine does on so many threads than on one: hashing, which shares no memory and no lock."""
    data = bytes(1 << 24)

    def run(num: int) -> None:
        workers = [threading.Thread(target=hashlib.sha256, args=(data,)) for _ in range(num)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    best = best_ms({"one": lambda: run(1), "all": lambda: run(threads)}, 10)
    return threads * best["one"] / best["all"]


def bench_others(image: np.ndarray, device: str, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """What a user would pick instead where it has the same operation (not the same pixels), severity 3, ms an image."""
    import torch

    torch.set_num_threads(threads)
    tensor_3HW = torch.from_numpy(image).permute(2, 0, 1).contiguous().to(device)
    float_13HW = tensor_3HW[None].float() / 255
    functions: dict[str, Callable[[], Any]] = {}
    from torchvision.transforms.v2 import functional

    functions["gaussian_noise torchvision"] = lambda: functional.gaussian_noise(float_13HW[0], sigma=0.18)
    functions["gaussian_blur torchvision"] = lambda: functional.gaussian_blur(tensor_3HW, [25, 25], [3.0, 3.0])
    functions["brightness torchvision"] = lambda: functional.adjust_brightness(tensor_3HW, 1.3)
    functions["contrast torchvision"] = lambda: functional.adjust_contrast(tensor_3HW, 0.2)
    functions["saturate torchvision"] = lambda: functional.adjust_saturation(tensor_3HW, 2.0)
    if device == "cpu":
        functions["jpeg_compression torchvision"] = lambda: functional.jpeg(tensor_3HW, 15)
    try:
        import kornia

        functions["gaussian_blur kornia"] = lambda: kornia.filters.gaussian_blur2d(float_13HW, (25, 25), (3.0, 3.0))
        functions["motion_blur kornia"] = lambda: kornia.filters.motion_blur(float_13HW, 31, 20.0, 1.0)
        functions["brightness kornia"] = lambda: kornia.enhance.adjust_brightness(float_13HW, 0.3)
        functions["contrast kornia"] = lambda: kornia.enhance.adjust_contrast(float_13HW, 0.2)
        functions["saturate kornia"] = lambda: kornia.enhance.adjust_saturation(float_13HW, 2.0)
    except ImportError:
        say("kornia is not installed: left out (.venv/bin/pip install -c constraints.txt -e '.[bench]')")
    try:
        import albumentations as album

        chosen = {
            "gaussian_noise": album.GaussNoise(std_range=(0.18, 0.18), p=1),
            "shot_noise": album.ShotNoise(scale_range=(0.08, 0.08), p=1),
            "impulse_noise": album.SaltAndPepper(amount=(0.09, 0.09), p=1),
            "defocus_blur": album.Defocus(radius=(6, 6), alias_blur=(0.5, 0.5), p=1),
            "glass_blur": album.GlassBlur(sigma=1.0, max_delta=2, iterations=3, p=1),
            "motion_blur": album.MotionBlur(blur_limit=(31, 31), p=1),
            "zoom_blur": album.ZoomBlur(max_factor=(1.2, 1.2), step_factor=(0.02, 0.02), p=1),
            "elastic_transform": album.ElasticTransform(alpha=20, sigma=8, p=1),
            "pixelate": album.Downscale(scale_range=(0.4, 0.4), p=1),
            "jpeg_compression": album.ImageCompression(quality_range=(15, 15), p=1),
            "spatter": album.Spatter(p=1),
            "brightness": album.RandomBrightnessContrast((0.3, 0.3), (0, 0), p=1),
            "gaussian_blur": album.GaussianBlur(blur_limit=(25, 25), sigma_limit=(3, 3), p=1),
        }
        for name, transform in chosen.items():
            functions[f"{name} albumentations"] = partial(transform, image=image)
    except ImportError:
        say("albumentations is not installed: left out (.venv/bin/pip install -c constraints.txt -e '.[bench]')")
    records: dict[str, dict[str, float]] = {}
    for key, function in functions.items():
        name, library = key.split()
        on_gpu = device == "cuda" and library != "albumentations"
        measured = queued_ms(function, 10) if on_gpu else best_ms({key: function}, repeats)[key]
        records.setdefault(name, {})[library] = measured
    return records


def draw_sheet(image: np.ndarray, path: Path) -> None:
    """The 19 types: the clean picture and five severities, ours above the reference; its middle where it is large."""
    import cv2
    import imagecorruptions

    margin, wide, high = 150, 240, 160
    height, width = image.shape[:2]
    scale = max(wide / width, high / height, 0.5)
    top, left = (max(int(side * scale) - cell, 0) // 2 for side, cell in ((height, high), (width, wide)))

    def cell(picture: np.ndarray) -> np.ndarray:
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return small[top : top + high, left : left + wide]

    def row(name: str, note: str, pictures: list[np.ndarray]) -> np.ndarray:
        head = np.full((high, margin, 3), 255, np.uint8)
        for line, words in enumerate((name, note)):
            cv2.putText(head, words, (4, 70 + 22 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        return np.concatenate([head, *map(cell, pictures)], axis=1)

    rows = []
    for name in severity.IMAGENET_C:
        ours = [kernels.corrupt(image, level, name, seed=level) for level in severity.SEVERITIES]
        theirs = [imagecorruptions.corrupt(image, level, name) for level in severity.SEVERITIES]
        rows += [row(name, "Fairweather, 1 to 5", [image, *ours]), row("", "reference, 1 to 5", [image, *theirs])]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def draw_plot(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = severity.IMAGENET_C
    figure, axes = pyplot.subplots(figsize=(9, 6))
    place = np.arange(len(names))
    axes.barh(place - 0.2, [result["per_type"][name]["reference_ms"] for name in names], 0.4, label="imagecorruptions")
    axes.barh(place + 0.2, [result["per_type"][name]["ours_ms"] for name in names], 0.4, label="fairweather")
    for at, name in enumerate(names):
        record = result["per_type"][name]
        axes.text(record["reference_ms"], at - 0.2, f" {record['speedup']:.0f}x", va="center", fontsize=8)
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"ms an image of {result['size']}, {result['device_name']}, {result['threads']} thread(s)")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
