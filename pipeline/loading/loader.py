"""Batches on the device from packed datasets: one protocol, three ways to decode.

    cpu   libjpeg-turbo in threads            any machine
    dali  NVIDIA DALI, nvJPEG on a GPU        the default on a GPU
    ffcv  FFCV's loader over data.beton       where FFCV is installed and the dataset has a .beton

All three deliver the same ids, boxes and sizes in the same order. Pixels agree within what JPEG decoders may differ by.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import torch

from pipeline.batch import Batch
from pipeline.command.console import describe_hardware
from pipeline.command.suggest import nearest
from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Decoded, Order, Step
from pipeline.packed.reader import PackedDataset

NAMES: Final = ("cpu", "dali", "ffcv")


class Decoder(Protocol):
    """What distinguishes the loaders: steps in, images out, in the same order."""

    def open(self, steps: Iterator[Step]) -> Iterator[Decoded]:
        """For each step its images (the orientation's canvas, zero where padded), on device or host."""

    def close(self) -> None:
        """Release threads, files and memory."""


class Producer(threading.Thread):
    """The thread that makes batches ahead of the caller. It knows nothing of the Loader, so that a forgotten Loader
    can be collected and end it."""

    def __init__(
        self,
        data: Mixture,
        decoder: Decoder,
        order: Order,
        batch_size: int,
        device: torch.device,
        start: tuple[int, int],
        ranks: tuple[int, int],
        prefetch: int,
    ):
        super().__init__(name="fairweather-loader", daemon=True)
        self.data, self.decoder, self.order, self.batch_size = data, decoder, order, batch_size
        self.first, self.ranks, self.device, self.pin = start, ranks, device, device.type == "cuda"
        self.closed, self.finished = threading.Event(), False
        # A batch with its step; an exception; or None when there is nothing more.
        self.ready: queue.Queue[tuple[Step, Batch] | BaseException | None] = queue.Queue(maxsize=prefetch)

    def run(self) -> None:
        last: BaseException | None = None
        try:
            if self.pin and self.device.index is not None:
                torch.cuda.set_device(self.device)  # each thread has its own; else it would open the first GPU
            try:
                for step, images, extra in self.decoder.open(self._steps()):
                    if not self._put((step, self._batch(step, images, extra))):
                        return
            finally:
                self.finished = True
                self.decoder.close()
        except BaseException as error:
            last = error
        self._put(last)

    def _steps(self) -> Iterator[Step]:
        epoch, cursor = self.first
        while not (self.finished or self.closed.is_set()):  # a decoder that is being closed must get no more
            step = self.order.step(epoch, cursor, *self.ranks, self.batch_size)
            if step is not None:
                epoch, cursor = step.after
                yield step
            elif self.order.shuffle:
                epoch, cursor = epoch + 1, 0
            else:
                return

    def _put(self, item: tuple[Step, Batch] | BaseException | None) -> bool:
        while not self.closed.is_set():
            try:
                self.ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def _batch(self, step: Step, images: torch.Tensor, extra: dict[str, torch.Tensor]) -> Batch:
        """Images as decoded, boxes from the index; still where the decoder left them."""
        B, G = self.batch_size, self.data.max_boxes
        boxes_BG4 = torch.zeros((B, G, 4), dtype=torch.float32, pin_memory=self.pin)
        labels_BG = torch.zeros((B, G), dtype=torch.int64, pin_memory=self.pin)
        ignore_BG = torch.zeros((B, G), dtype=torch.bool, pin_memory=self.pin)
        weight_BG = torch.ones((B, G), dtype=torch.float32, pin_memory=self.pin) if self.data.weighted else None
        sizes_B2 = torch.zeros((B, 2), dtype=torch.int32)
        for b, index in enumerate(step.indices_B.tolist()):
            if index >= 0:
                boxes, labels, ignore = self.data.target(index)
                n = len(labels)
                boxes_BG4.numpy()[b, :n] = boxes
                labels_BG.numpy()[b, :n] = labels
                ignore_BG.numpy()[b, :n] = ignore
                if weight_BG is not None:
                    weight_BG.numpy()[b, :n] = self.data.box_weights(index)
                sizes_B2.numpy()[b] = self.data.sizes_N2[index]
        ids_B = torch.from_numpy(step.ids_B)
        return Batch(
            images, sizes_B2, boxes_BG4, labels_BG, ignore_BG, ids_B, step.epoch, self.order.seed, weight_BG, extra
        )

    def take(self) -> tuple[Step, Batch] | BaseException | None:
        while True:
            try:
                return self.ready.get(timeout=0.5)
            except queue.Empty:
                if self.closed.is_set():  # by another thread
                    return None

    def close(self) -> None:
        """Stop and wait until the thread has closed its decoder and ended."""
        self.closed.set()
        while self.is_alive():
            with contextlib.suppress(queue.Empty):
                self.ready.get_nowait()
            self.join(timeout=0.05)
        while not self.ready.empty():
            self.ready.get_nowait()


class Loader:
    """Iterates over Batches. With `shuffle` it never ends; without, it delivers every image once and stops.

    Use as a context manager or call close(). `state_dict()` names the next batch the caller has not yet received.
    """

    def __init__(self, producer: Producer, name: str, device: torch.device):
        self.name, self.batch_size = name, producer.batch_size
        self.batches_per_epoch = producer.order.batches_per_epoch(producer.batch_size * producer.ranks[1])
        self.wait_seconds = 0.0  # time callers spent in __next__
        self._device, self._state = device, producer.first
        self._failed: BaseException | None = None
        self._producer = producer
        producer.start()

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        if self._failed is not None:
            raise self._failed
        if self._producer.closed.is_set():
            raise StopIteration
        started = time.perf_counter()
        item = self._producer.take()
        if item is None:
            self.close()
            raise StopIteration
        if isinstance(item, BaseException):
            self._failed = item
            self.close()
            raise item
        step, batch = item
        if self._device.type != "cpu":
            # From pinned memory on the caller's stream: asynchronous, and ordered before the caller's next work.
            images, boxes, labels, ignore = (
                tensor.to(self._device, non_blocking=True)
                for tensor in (batch.images_BHW3, batch.boxes_BG4, batch.labels_BG, batch.ignore_BG)
            )
            weight = batch.weight_BG
            if weight is not None:
                weight = weight.to(self._device, non_blocking=True)
            extra = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.extra.items()}
            for tensor in (images, *extra.values()):  # DALI's batches were made on another stream
                tensor.record_stream(torch.cuda.current_stream(images.device))
            batch = Batch(
                images, batch.sizes_B2, boxes, labels, ignore, batch.ids_B, batch.epoch, batch.seed, weight, extra
            )
        self.wait_seconds += time.perf_counter() - started
        self._state = step.after
        return batch

    def state_dict(self) -> dict[str, int]:
        """(epoch, cursor) to open a loader that continues with the next batch, on any number of ranks."""
        epoch, cursor = self._state
        return {"epoch": epoch, "cursor": cursor}

    def close(self) -> None:
        """Stop and join every thread; safe to call twice."""
        self._producer.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        # The garbage collector runs in any thread, and that thread may hold locks: never wait here; the thread ends
        # itself.
        if hasattr(self, "_producer"):
            self._producer.closed.set()


def choose_loader(name: str, device: torch.device) -> str:
    """The loader that a name stands for. `auto`: on a GPU DALI where it is installed, elsewhere `cpu`, the fastest of
    the three without a GPU (docs/data.md)."""
    if name == "auto":
        return "dali" if device.type == "cuda" and dali_imports() else "cpu"
    if name not in NAMES:
        raise ValueError(f"loader {name!r}: expected auto, {', '.join(NAMES)}{nearest(name, NAMES)}")
    return name


def dali_imports() -> bool:
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError):  # not installed; one of its libraries is missing
        return False
    return True


def describe_machine(device: torch.device, name: str) -> str:
    """The first line of a long command: the hardware found, and which loader and kernel backend it will use."""
    on_gpu = device.type == "cuda"
    loader = choose_loader(name, device)
    why = " (DALI is not installed)" if name == "auto" and on_gpu and loader == "cpu" else ""
    return f"{describe_hardware()}; loader {loader}{why}, kernels Numba on {'CUDA' if on_gpu else 'CPU'}"


def open_loader(
    data: PackedDataset | Mixture,
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
    hardware_share: float | None = None,
    extra: Sequence[str] = (),
) -> Loader:
    """A Loader over one or several datasets. `batch_size` is this rank's.

    extra: the modalities to load beside the pictures, by the names in `data.extra`; none are read unless named.

    (epoch, cursor) come from a state_dict to continue a run. threads: decoding threads (default: the cores of this
    process, at most 8). prefetch: batches made ahead (default 3). hardware_share: the share of images that the GPU's
    JPEG engine decodes (`dali` on a GPU, default 0.12). The first two were measured on a CPU (`pipeline.bench`), the
    third not yet.
    """
    device = torch.device(device)
    name = choose_loader(name, device)
    if batch_size < 1 or not 0 <= rank < world or epoch < 0:
        raise ValueError(f"batch_size {batch_size}, rank {rank}, world {world}, epoch {epoch}: out of range")
    threads = default_threads() if threads is None else threads
    prefetch = 3 if prefetch is None else prefetch
    if threads < 1 or prefetch < 1:
        raise ValueError(f"threads {threads}, prefetch {prefetch}: expected at least 1")
    if hardware_share is not None and not (name == "dali" and device.type == "cuda" and 0 <= hardware_share <= 1):
        raise ValueError(f"hardware_share {hardware_share}: expected 0 to 1, and the loader dali on a GPU")
    mixture = data if isinstance(data, Mixture) else Mixture([data])
    order = Order(mixture.sizes_N2, mixture.numbers_N, seed, shuffle, mixture.weight_N)
    order.decode(epoch, cursor)
    mixture.check_extra(extra)
    decoder: Decoder
    if name == "cpu":
        from pipeline.loading.cpu import CpuDecoder

        decoder = CpuDecoder(mixture, batch_size, device, threads, extra)
    elif name == "dali":
        from pipeline.loading.dali import HARDWARE_SHARE, DaliDecoder

        decoder = DaliDecoder(
            mixture, batch_size, device, threads, HARDWARE_SHARE if hardware_share is None else hardware_share, extra
        )
    else:
        from pipeline.loading.ffcv import FfcvDecoder

        if extra:
            raise ValueError(f"the loader 'ffcv' reads pictures only, not {', '.join(extra)}; choose 'cpu' or 'dali'")
        decoder = FfcvDecoder(mixture, batch_size, device, threads)
    producer = Producer(mixture, decoder, order, batch_size, device, (epoch, cursor), (rank, world), prefetch)
    return Loader(producer, name, device)


def default_threads() -> int:
    return min(8, len(os.sched_getaffinity(0)))
