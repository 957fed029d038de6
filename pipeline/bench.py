"""How fast images arrive: `python -m pipeline.bench [--json FILE]`.

The files are made here (1280x720 JPEG, a textured scene). One run measures all of these, interleaved round by round:

- packing;
- the plain PyTorch way: DataLoader + torchvision decode, resize and padding of the original files;
- every loader with several thread counts, with the share of time the consumer waits;
- the default loader with several batches made ahead (`prefetch`);
- opening 100,000 records;
- with `--extra 3`, packing and loading with three grey images beside each picture, against the pictures alone.

Speeds are medians. A loader whose batches differ from a direct decoding is timed too, named in `wrong`, and the command
ends with 1. The file is written after every round.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from pipeline.batch import Batch
from pipeline.command.console import describe_hardware, run_entry, say
from pipeline.command.ranks import choose_device
from pipeline.files.own import checksum
from pipeline.files.pixels import decode_packed, encode
from pipeline.loading.loader import NAMES, choose_loader, open_loader
from pipeline.packed.card import build_card, card_bytes
from pipeline.packed.index import ROW_GROUP
from pipeline.packed.reader import PackedDataset
from pipeline.packed.shards import INDEX_SCHEMA, Encoding
from pipeline.sources import diverse_weather


@dataclass(frozen=True)
class BenchOptions:
    """Measure packing, loading against the plain PyTorch way, and opening."""

    json: Path | None = None
    """Write the figures to this file."""
    images: int = 400
    batch_size: int = 8
    threads: tuple[int, ...] = ()
    """Decoding threads to try. Default: 1, 2, 4 ... up to the cores of this process."""
    loaders: tuple[Literal["cpu", "dali", "ffcv"], ...] = NAMES
    seconds: float = 3.0
    """Of each measurement."""
    rounds: int = 3
    device: Literal["auto", "cpu", "cuda"] = "auto"
    prefetch: tuple[int, ...] = (1, 2, 3, 6)
    """Batches made ahead, tried with the default loader and the most threads. Where --loaders lacks the default, its
    first one is used. The rest has the loader's own default."""
    hardware_share: float | None = None
    """Of the images that the GPU's JPEG engine decodes, for the loader dali on a GPU. Default: the loader's own."""
    records: int = 100_000
    """Of the dataset whose opening is timed; 0 leaves it out."""
    extra: int = 0
    """Grey images beside each picture, as of a gated camera's slices."""


def make_originals(root: Path, count: int, num_extra: int = 0) -> None:
    """VOC folder of 1280x720 pictures with the detail, and so the JPEG size, of a street photograph (about 200 kB).

    Grey images beside them have the same detail: the picture's colours in turn.
    """
    import simplejpeg

    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", *(f"extra{k}" for k in range(num_extra))):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    scene = np.full((840, 1400, 3), 120, np.float32)
    for size, weight in ((9, 30), (33, 18), (129, 9), (513, 5)):
        small = rng.normal(0, weight, (size, size * 16 // 9 + 1, 3)).astype(np.float32)
        scene += cv2.resize(small, (1400, 840), interpolation=cv2.INTER_CUBIC)
    objects = "".join(
        f"<object><name>car</name><bndbox><xmin>{x}</xmin><ymin>300</ymin><xmax>{x + 90}</xmax>"
        "<ymax>380</ymax></bndbox></object>"
        for x in range(1, 1100, 100)
    )
    for i in range(count):
        y, x = rng.integers(0, 120, 2)
        picture = np.clip(scene[y : y + 720, x : x + 1280] + rng.normal(0, 2, (720, 1280, 1)), 0, 255).astype(np.uint8)
        name = f"{i:05d}"
        (root / f"JPEGImages/{name}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, 90, "RGB", "420"))
        for k in range(num_extra):
            grey = np.ascontiguousarray(picture[..., k % 3 : k % 3 + 1])
            (root / f"extra{k}/{name}.jpg").write_bytes(simplejpeg.encode_jpeg(grey, 90, "GRAY", "Gray"))
        shape = "<size><width>1280</width><height>720</height></size>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{shape}{objects}</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("\n".join(f"{i:05d}" for i in range(count)))


class PlainDataset(torch.utils.data.Dataset):
    """What one writes without us: torchvision reads, decodes, resizes (antialiased) and pads the original picture."""

    def __init__(self, root: Path, canvas: tuple[int, int]):
        self.files, self.canvas = sorted((root / "JPEGImages").iterdir()), canvas

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
        from torchvision.transforms.v2.functional import resize

        torch.set_num_threads(1)
        image = resize(decode_jpeg(read_file(str(self.files[i])), ImageReadMode.RGB), [562, 1000], antialias=True)
        canvas = torch.zeros((3, *self.canvas), dtype=torch.uint8)
        canvas[:, : image.shape[1], : image.shape[2]] = image
        return canvas


def plain_rate(
    root: Path, canvas: tuple[int, int], batch_size: int, workers: int, seconds: float, device: torch.device
) -> float:
    loader = torch.utils.data.DataLoader(
        PlainDataset(root, canvas),
        batch_size,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context="spawn",
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    count, started = 0, 0.0
    while True:
        for batch in loader:
            batch.to(device, non_blocking=True)
            if not started:  # the first batch pays for the start of the workers
                started = time.perf_counter()
                continue
            count += len(batch)
            if time.perf_counter() - started >= seconds:
                return count / (time.perf_counter() - started)


def loader_rate(
    dataset: PackedDataset,
    name: str,
    options: BenchOptions,
    threads: int,
    device: torch.device,
    prefetch: int | None = None,
    extra: tuple[str, ...] = (),
) -> tuple[float, float]:
    """(images/s when the consumer does nothing else, share of time it waits at 80 % of that rate).

    On a GPU the consumer makes the views of every batch.
    """
    gpu = device.type == "cuda"
    make_views: Callable[[Batch], object] | None = None
    if gpu:
        from pipeline.views import ViewConfig, ViewMaker

        make_views = ViewMaker(ViewConfig(), device)
    share = options.hardware_share if gpu and name == "dali" else None
    with open_loader(
        dataset,
        options.batch_size,
        device=device,
        name=name,
        threads=threads,
        prefetch=prefetch,
        hardware_share=share,
        extra=extra,
    ) as loader:
        for _ in range(5):  # what was made ahead, and warming up
            next(loader)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < options.seconds:
            next(loader)
            count += options.batch_size
        synchronize(device)
        rate = count / (time.perf_counter() - started)
        pause = options.batch_size / rate / 0.8
        loader.wait_seconds, steps, started = 0.0, max(5, int(options.seconds / pause)), time.perf_counter()
        for _ in range(steps):
            due = time.perf_counter() + pause
            batch = next(loader)
            if make_views is not None:
                make_views(batch)
            time.sleep(max(0.0, due - time.perf_counter()))
        return rate, loader.wait_seconds / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_loader(dataset: PackedDataset, name: str, options: BenchOptions, device: torch.device) -> str | None:
    """What is wrong with a loader's pixels, beside those decoded directly."""
    with open_loader(dataset, options.batch_size, device=device, name=name) as loader:
        batch = next(loader)
    for b, id in enumerate(batch.ids_B.tolist()):
        image = decode_packed(dataset.jpeg(dataset.index_of(id)))
        h, w = batch.sizes_B2[b].tolist()
        difference = np.abs(batch.images_BHW3[b, :h, :w].cpu().numpy().astype(int) - image)
        if difference.max() > 24 or difference.mean() > 1.5:
            return f"the loader {name} delivers wrong pixels (mean difference {difference.mean():.1f})"
    return None


def check_extra(dataset: PackedDataset, name: str, options: BenchOptions, device: torch.device) -> None:
    with open_loader(dataset, options.batch_size, device=device, name=name, extra=("extra",)) as loader:
        batch = next(loader)
    for b, id in enumerate(batch.ids_B.tolist()):
        image_HWC = dataset.read_extra(dataset.index_of(id), "extra")
        h, w = image_HWC.shape[:2]
        found = batch.extra["extra"][b, :h, :w].cpu().numpy()
        if np.abs(found.astype(int) - image_HWC).mean() > 1.5:
            raise ValueError(f"the loader {name} delivers wrong pixels of what lies beside the pictures")


def make_records(out: Path, count: int) -> None:
    """A packed dataset of many tiny records; every picture, box and checksum differs, as in real ones."""
    out.mkdir()
    rng = np.random.default_rng(0)
    picture = encode(np.zeros((16, 16, 3), np.uint8), 90, "4:2:0", False)
    # A JPEG comment behind the start marker makes each its own.
    records = [picture[:2] + b"\xff\xfe\0\x0a%08d" % i + picture[2:] for i in range(count)]
    starts = np.concatenate(([0], np.cumsum(np.arange(count) % 30))).astype(np.int32)  # 14.5 boxes a picture on average
    corners = np.sort(rng.random((starts[-1], 2, 2), np.float32) * 30, axis=1) + np.array([[[0.0], [2.0]]], np.float32)
    original = corners.reshape(-1)

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(starts), values)

    column = {
        "id": np.arange(count),
        "shard": np.zeros(count, np.int32),
        "offset": np.arange(count) * len(records[0]),
        "length": np.full(count, len(records[0])),
        "sha256": [hashlib.sha256(record).digest() for record in records],
        "height": np.full(count, 16, np.int32),
        "width": np.full(count, 16, np.int32),
        "original_height": np.full(count, 32, np.int32),
        "original_width": np.full(count, 32, np.int32),
        "boxes": lists(pa.FixedSizeListArray.from_arrays(original / 2, 4)),
        "original_boxes": lists(pa.FixedSizeListArray.from_arrays(original, 4)),
        "labels": lists(pa.array(rng.integers(1, 8, starts[-1]).astype(np.int32))),
        "ignore": lists(pa.array(rng.random(starts[-1]) < 0.01)),
        "file_name": [f"train/images/{i:012d}.jpg" for i in range(count)],
        "domain": ["day"] * count,
    }
    table = pa.table(column, schema=INDEX_SCHEMA)
    pq.write_table(table, out / "index.parquet", compression="zstd", row_group_size=ROW_GROUP)
    size = 2048 * count  # of a tar with two members a record; a hole in the file, behind the records
    (out / "shard-000000.tar").write_bytes(b"".join(records))
    os.truncate(out / "shard-000000.tar", size)
    data = (out / "index.parquet").read_bytes()
    index = {"file": "index.parquet", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    shard = {
        "file": "shard-000000.tar",
        "bytes": size,
        "images": count,
        "sha256": checksum(out / "shard-000000.tar"),
    }
    classes = diverse_weather.CLASSES
    encoding = Encoding(16, 16, 92, "4:2:0", False)._asdict()
    card = build_card(table, index, [shard], classes, encoding, {}, {}, {}, [])
    (out / "dataset.json").write_bytes(card_bytes(card))


OPENING = r"""
import re, sys, time
from pipeline.packed.reader import PackedDataset
before, busy = time.perf_counter(), time.process_time()
dataset = PackedDataset(sys.argv[1])
dataset.jpeg(len(dataset) - 1)
seconds, busy = time.perf_counter() - before, time.process_time() - busy
print(seconds, busy, int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def measure_opening(path: Path, rounds: int) -> dict[str, float]:
    """In a fresh process each time: to open and read one record, and the peak memory of the whole process."""
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", OPENING, str(path)], capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    return {
        "seconds": statistics.median(run[0] for run in runs),
        "cpu_seconds": statistics.median(run[1] for run in runs),
        "peak_mb": max(run[2] for run in runs),
    }


def run_pack(folder: Path, *more: str, out: Path | None = None) -> None:
    """The command as a user runs it, its start included."""
    command = [
        sys.executable,
        "-m",
        "pipeline.pack",
        str(folder / "originals"),
        str(out or folder / "packed"),
        "--classes",
        "car",
    ]
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)


def bench(options: BenchOptions, folder: Path) -> dict[str, Any]:
    device = torch.device(choose_device(options.device))
    cores = len(os.sched_getaffinity(0))
    threads = options.threads or tuple(sorted({1, *(2**k for k in range(1, 5) if 2**k < cores), cores}))
    say(f"making {options.images} pictures of 1280x720")
    make_originals(folder / "originals", options.images, options.extra)
    started = time.perf_counter()
    run_pack(folder)
    packing = options.images / (time.perf_counter() - started)
    loaders = list(options.loaders)
    if "ffcv" in loaders and importlib.util.find_spec("ffcv") is None:
        say("ffcv: is not installed (an optional extra), left out")
        loaders.remove("ffcv")
    elif "ffcv" in loaders:
        run_pack(folder, "--beton")
    dataset = PackedDataset(folder / "packed")
    canvas = dataset.canvases["landscape"]
    rates: dict[str, dict[int, list[tuple[float, float]]]] = {}
    wrong: dict[str, str] = {}
    for name in tuple(loaders):
        try:
            problem = check_loader(dataset, name, options, device)
        except Exception as error:  # it cannot be opened here; the others are still worth their time
            problem = f"{type(error).__name__}: {error}"
            loaders.remove(name)
        if problem is not None:
            wrong[name] = problem
            say(f"{name}: {problem}")
    default = choose_loader("auto", device)
    if default not in loaders:
        default = next(iter(loaders), "")
    ahead: dict[int, list[tuple[float, float]]] = {depth: [] for depth in options.prefetch}
    plain: dict[int, list[float]] = {count: [] for count in threads}

    def measured_so_far() -> dict[str, Any]:
        return {
            "hardware": describe_hardware(),
            "device": str(device),
            "images": options.images,
            "batch_size": options.batch_size,
            "rounds": options.rounds,
            "packing_images_per_s": packing,
            "packing_processes": cores,
            "original_bytes": statistics.mean(
                file.stat().st_size for file in (folder / "originals/JPEGImages").iterdir()
            ),
            "packed_bytes": statistics.mean(dataset.length_of(i) for i in range(len(dataset))),
            "plain": {count: statistics.median(values) for count, values in plain.items()},
            "loaders": {
                name: {
                    count: {
                        "images_per_s": statistics.median(rate for rate, _ in values),
                        "ratio_to_plain": statistics.median(
                            rate / base for (rate, _), base in zip(values, plain[count], strict=True)
                        ),
                        "waiting_share_at_80_percent": statistics.median(share for _, share in values),
                    }
                    for count, values in by_count.items()
                }
                for name, by_count in rates.items()
            },
            "prefetch_loader": default,
            "prefetch": {
                depth: {
                    "images_per_s": statistics.median(rate for rate, _ in values),
                    "waiting_share_at_80_percent": statistics.median(share for _, share in values),
                }
                for depth, values in ahead.items()
                if values
            },
            "wrong": wrong,
        }

    for round in range(options.rounds):
        for count in threads:
            plain[count].append(
                plain_rate(folder / "originals", canvas, options.batch_size, count, options.seconds, device)
            )
            for name in loaders:
                measured = loader_rate(dataset, name, options, count, device)
                rates.setdefault(name, {}).setdefault(count, []).append(measured)
        for depth in options.prefetch if default else ():
            ahead[depth].append(loader_rate(dataset, default, options, max(threads), device, depth))
        write(options, measured_so_far())
        say(f"round {round + 1} of {options.rounds} is done")
    figures = measured_so_far()
    if options.extra:
        right = [name for name in loaders if name not in wrong and name != "ffcv"]
        figures["extra"] = measure_extra(dataset, right, options, folder, device, max(threads))
    if options.records:
        make_records(folder / "many", options.records)
        figures["opening"] = {"records": options.records, **measure_opening(folder / "many", options.rounds)}
    return figures


def write(options: BenchOptions, figures: dict[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measure_extra(
    alone: PackedDataset,
    loaders: Sequence[str],
    options: BenchOptions,
    folder: Path,
    device: torch.device,
    threads: int,
) -> dict[str, Any]:
    """Packing and loading with images beside the pictures as shares of the speed without them, by turns."""
    named = ("--extra", "extra=" + ",".join(f"extra{k}" for k in range(options.extra)))
    kinds = {"jpeg": named, "raw": (*named, "--extra-raw", "extra")}
    rates: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in loaders} for kind in kinds}
    packing: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round in range(options.rounds):
        seconds = {}
        for kind, more in {"alone": (), **kinds}.items():
            started = time.perf_counter()
            run_pack(folder, *more, out=folder / f"{kind}-{round}")
            seconds[kind] = time.perf_counter() - started
        for kind in kinds:
            packing[kind].append(seconds["alone"] / seconds[kind])
            with PackedDataset(folder / f"{kind}-{round}") as beside:
                for name in loaders:
                    check_extra(beside, name, options, device)
                    without, _ = loader_rate(alone, name, options, threads, device)
                    both, _ = loader_rate(beside, name, options, threads, device, extra=("extra",))
                    rates[kind][name].append(both / without)
    return {
        "images": options.extra,
        "packing_ratio": {kind: statistics.median(values) for kind, values in packing.items()},
        "loading_ratio": {
            kind: {name: statistics.median(values) for name, values in found.items()} for kind, found in rates.items()
        },
    }


def show(figures: dict[str, Any]) -> str:
    lines = [
        figures["hardware"],
        f"packing 1280x720 at short side 600, long side 1000: {figures['packing_images_per_s']:.0f} images/s "
        f"with {figures['packing_processes']} processes; "
        f"{figures['original_bytes'] / 1e3:.0f} kB an original, {figures['packed_bytes'] / 1e3:.0f} kB packed",
        f"loading to {figures['device']}, batch {figures['batch_size']}, median of {figures['rounds']} rounds:",
        "  loader        threads  images/s  x plain  waiting at 80 % of its rate",
    ]
    for count, rate in figures["plain"].items():
        lines.append(f"  DataLoader    {count:7d}  {rate:8.0f}     1.00")
        for name, by_count in figures["loaders"].items():
            row = by_count[count]
            ratio, waiting = row["ratio_to_plain"], row["waiting_share_at_80_percent"]
            lines.append(f"  {name:12s}  {count:7d}  {row['images_per_s']:8.0f}  {ratio:7.2f}  {100 * waiting:5.1f} %")
    for depth, row in figures["prefetch"].items():
        rate, waiting = row["images_per_s"], row["waiting_share_at_80_percent"]
        lines.append(f"  prefetch {depth}: {rate:.0f} images/s, waiting {100 * waiting:.1f} %")
    lines += [f"  {name}: WRONG, its speed counts for nothing: {error}" for name, error in figures["wrong"].items()]
    if "extra" in figures:
        extra = figures["extra"]
        lines.append(f"with {extra['images']} grey images beside each picture, as a share of the pictures' alone:")
        for kind, ratios in extra["loading_ratio"].items():
            loading = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            how = "as JPEG" if kind == "jpeg" else "without loss (--extra-raw)"
            lines.append(f"  {how}: packing {extra['packing_ratio'][kind]:.2f}; loading {loading}")
    if "opening" in figures:
        opening = figures["opening"]
        lines.append(
            f"opening {opening['records']} records: {opening['seconds']:.2f} s, {opening['cpu_seconds']:.2f} s of CPU, "
            f"peak memory of the process {opening['peak_mb']:.0f} MB"
        )
    return "\n".join(lines)


def main() -> int:
    """1 when a loader was wrong."""
    options = tyro.cli(BenchOptions)
    folder = Path(tempfile.mkdtemp(prefix="fairweather-bench-"))
    try:
        figures = bench(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(show(figures))
    write(options, figures)
    return 1 if figures["wrong"] else 0


if __name__ == "__main__":
    run_entry(main)
