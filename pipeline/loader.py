"""Batches on the device from a packed dataset: one protocol, three ways to decode.

    cpu   libjpeg-turbo in threads            any machine
    dali  NVIDIA DALI, nvJPEG on a GPU        the default on a GPU
    ffcv  FFCV's loader over data.beton       where FFCV is installed and the dataset has a .beton

All three deliver the same ids, boxes and sizes in the same order; pixels agree within what JPEG decoders may differ by.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from pipeline.batch import Batch
from pipeline.classes import nearest
from pipeline.order import Order, Step
from pipeline.packed import PackedDataset

NAMES = ("cpu", "dali", "ffcv")


class Decoder(Protocol):
    """What distinguishes the loaders: steps in, images out, in the same order."""

    def open(self, steps: Iterator[Step]) -> Iterator[tuple[Step, torch.Tensor]]:
        """For each step its images_BHW3 uint8 (the orientation's canvas, zero where padded), on device or host."""

    def close(self) -> None:
        """Release threads, files and memory."""


class Loader:
    """Iterates over Batches. With `shuffle` it never ends; without, it delivers every image once and stops.

    Use as a context manager or call close(). `state_dict()` names the next batch the caller has not yet received.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        decoder: Decoder,
        order: Order,
        name: str,
        batch_size: int,
        device: torch.device,
        start: tuple[int, int],
        rank: int,
        world: int,
        prefetch: int,
    ):
        self.dataset, self.name, self.batch_size, self.device = dataset, name, batch_size, device
        self.wait_seconds = 0.0  # time callers spent waiting in __next__
        self.batches_per_epoch = order.batches_per_epoch(batch_size * world)
        self._seed = order.seed
        self._state = start
        self._decoder = decoder
        self._closed = threading.Event()
        self._ready: queue.Queue[tuple[Step, Batch] | BaseException | None] = queue.Queue(maxsize=prefetch)
        self._failed: BaseException | None = None
        self._steps = self._iterate(order, start, rank, world)
        self._thread = threading.Thread(target=self._produce, name=f"{name}-loader", daemon=True)
        self._thread.start()

    def _iterate(self, order: Order, start: tuple[int, int], rank: int, world: int) -> Iterator[Step]:
        epoch, cursor = start
        while not self._closed.is_set():
            step = order.step(epoch, cursor, rank, world, self.batch_size)
            if step is None:
                if not order.shuffle:
                    return
                epoch, cursor = epoch + 1, 0
                continue
            epoch, cursor = step.after
            yield step

    def _produce(self) -> None:
        item: tuple[Step, Batch] | BaseException | None = None
        try:
            for step, images in self._decoder.open(self._steps):
                if not self._put((step, self._batch(step, images))):
                    return
        except BaseException as error:
            item = error
        self._put(item)

    def _put(self, item: tuple[Step, Batch] | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def _batch(self, step: Step, images: torch.Tensor) -> Batch:
        """Images as decoded, boxes from the index; still where the decoder left them."""
        B, G = self.batch_size, self.dataset.max_boxes
        pin = self.device.type == "cuda"
        boxes_BG4 = torch.zeros((B, G, 4), dtype=torch.float32, pin_memory=pin)
        labels_BG = torch.zeros((B, G), dtype=torch.int64, pin_memory=pin)
        ignore_BG = torch.zeros((B, G), dtype=torch.bool, pin_memory=pin)
        sizes_B2 = torch.zeros((B, 2), dtype=torch.int32)
        ids_B = torch.full((B,), -1, dtype=torch.int64)
        for b, index in enumerate(step.indices_B.tolist()):
            if index < 0:
                continue
            boxes, labels, ignore = self.dataset.target(index)
            n = len(labels)
            boxes_BG4[b, :n] = torch.from_numpy(boxes.copy())
            labels_BG[b, :n] = torch.from_numpy(labels.copy())
            ignore_BG[b, :n] = torch.from_numpy(ignore.copy())
            sizes_B2[b] = torch.from_numpy(self.dataset.sizes_N2[index].astype(np.int32))
            ids_B[b] = int(self.dataset.ids_N[index])
        return Batch(images, sizes_B2, boxes_BG4, labels_BG, ignore_BG, ids_B, step.epoch, self._seed)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        if self._failed is not None:
            raise self._failed
        if self._closed.is_set():
            raise StopIteration
        started = time.perf_counter()
        item = self._ready.get()
        if item is None:
            self.wait_seconds += time.perf_counter() - started
            self.close()
            raise StopIteration
        if isinstance(item, BaseException):
            self._failed = item
            self.close()
            raise item
        step, batch = item
        if self.device.type != "cpu":
            # From pinned memory on the caller's stream: asynchronous, and ordered before whatever the caller does next.
            images, boxes, labels, ignore = (
                tensor.to(self.device, non_blocking=True)
                for tensor in (batch.images_BHW3, batch.boxes_BG4, batch.labels_BG, batch.ignore_BG)
            )
            batch = Batch(images, batch.sizes_B2, boxes, labels, ignore, batch.ids_B, batch.epoch, batch.seed)
        self.wait_seconds += time.perf_counter() - started
        self._state = step.after
        return batch

    def state_dict(self) -> dict[str, int]:
        """(epoch, cursor) to open a loader that continues with the next batch, on any number of ranks."""
        epoch, cursor = self._state
        return {"epoch": epoch, "cursor": cursor}

    def close(self) -> None:
        """Stop and join every thread; safe to call twice."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)
        self._decoder.close()
        while not self._ready.empty():
            self._ready.get_nowait()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()


def choose_loader(dataset: PackedDataset, device: torch.device) -> str:
    """On a GPU DALI; elsewhere the `cpu` loader, the fastest of the three without a GPU (docs/data.md)."""
    return "dali" if device.type == "cuda" else "cpu"


def open_loader(
    dataset: PackedDataset,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    name: str = "auto",
    seed: int = 0,
    epoch: int = 0,
    cursor: int = 0,
    rank: int = 0,
    world: int = 1,
    shuffle: bool = True,
    threads: int | None = None,
    prefetch: int | None = None,
) -> Loader:
    """A Loader over the dataset. `batch_size` is this rank's; (epoch, cursor) come from a state_dict to continue a run.

    threads: decoding threads (default: the cores of this process, at most 8); prefetch: batches made ahead (default 3).
    """
    device = torch.device(device)
    if name == "auto":
        name = choose_loader(dataset, device)
    if name not in NAMES:
        raise ValueError(f"loader {name!r}: expected auto, {', '.join(NAMES)}{nearest(name, NAMES)}")
    if batch_size < 1 or not 0 <= rank < world or epoch < 0:
        raise ValueError(f"batch_size {batch_size}, rank {rank}, world {world}, epoch {epoch}: out of range")
    threads = default_threads() if threads is None else threads
    prefetch = 3 if prefetch is None else prefetch
    if threads < 1 or prefetch < 1:
        raise ValueError(f"threads {threads}, prefetch {prefetch}: expected at least 1")
    order = Order(dataset.sizes_N2, dataset.ids_N, seed, shuffle)
    order.decode(cursor)
    decoder: Decoder
    if name == "cpu":
        from pipeline.loader_cpu import CpuDecoder

        decoder = CpuDecoder(dataset, batch_size, device, threads)
    elif name == "dali":
        from pipeline.loader_dali import DaliDecoder

        decoder = DaliDecoder(dataset, batch_size, device, threads)
    else:
        from pipeline.loader_ffcv import FfcvDecoder

        decoder = FfcvDecoder(dataset, batch_size, device, threads)
    return Loader(dataset, decoder, order, name, batch_size, device, (epoch, cursor), rank, world, prefetch)


def default_threads() -> int:
    import os

    return min(8, len(os.sched_getaffinity(0)))
