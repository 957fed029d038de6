"""The `ffcv` loader: data.beton through FFCV's Loader, in our order, into our canvases.

FFCV decodes images of one size only and crops or resizes all others, so the decoder below lays each image into its
orientation's canvas instead. FFCV's loading thread ends silently on an error and leaves its caller waiting; here the
error is kept and raised. It checks no data either: the structure is verified on opening, each record before decoding.
"""

import contextlib
import copy
import hashlib
import queue
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Decoded, Step
from pipeline.packed.beton import NAME, import_ffcv, structure_checksum


def make_canvas_decoder(canvases: dict[str, tuple[int, int]]) -> Any:
    """An FFCV operation: images -> rows of a flat buffer, each a canvas of the image's orientation."""
    from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
    from ffcv.libffcv import ctypes_imdecode  # called directly: collecting a compiled `imdecode` makes Numba complain
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    landscape = canvases.get("landscape", (0, 0))
    portrait = canvases.get("portrait", (0, 0))
    flat = 3 * max(landscape[0] * landscape[1], portrait[0] * portrait[1])

    class CanvasDecoder(SimpleRGBImageDecoder):  # FFCV takes no other decoder for its image field
        def declare_state_and_memory(self, previous_state: Any) -> Any:
            kind = np.dtype("u1")
            memory = (AllocationQuery((flat,), kind), AllocationQuery((flat,), kind))
            return replace(previous_state, jit_mode=True, shape=(flat,), dtype=kind), memory

        def generate_code(self) -> Any:
            read, each = self.memory_read, Compiler.get_iterator()
            jpg = IMAGE_MODES["jpg"]
            (landscape_h, landscape_w), (portrait_h, portrait_w) = landscape, portrait

            def decode(batch_indices, storage, metadata, storage_state):
                canvases, pixels = storage
                for b in each(len(batch_indices)):
                    field = metadata[batch_indices[b]]
                    data = read(field["data_ptr"], storage_state)
                    h, w = np.uint32(field["height"]), np.uint32(field["width"])
                    if w >= h:
                        H, W = landscape_h, landscape_w
                    else:
                        H, W = portrait_h, portrait_w
                    canvas = canvases[b][: H * W * 3].reshape(H, W, 3)
                    canvas[:] = 0
                    if field["mode"] == jpg:
                        ctypes_imdecode(
                            data.ctypes.data, data.size, h, w, pixels[b].ctypes.data, h, w, 0, 0, 1, 1, False, False
                        )
                        canvas[:h, :w] = pixels[b][: 3 * h * w].reshape(h, w, 3)
                    else:
                        canvas[:h, :w] = data.reshape(h, w, 3)
                return canvases[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return CanvasDecoder()


def make_iterator(loader: Any, steps: Iterator[Step], taken: deque[Step]) -> Any:
    """FFCV's EpochIterator over our steps, however many, with its errors kept for the caller."""
    from ffcv.loader.epoch_iterator import EpochIterator

    class StepIterator(EpochIterator):
        failure: BaseException | None = None

        def start(self) -> None:
            self.iter_ixes = self.indices()
            super().start()

        def indices(self) -> Iterator[np.ndarray]:
            for step in steps:
                taken.append(step)
                yield np.maximum(step.indices_B, 0).astype(np.uint64)  # padding decodes image 0, which is blanked later

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:
                self.failure = error
                while not self.terminate_event.is_set():
                    try:
                        self.output_queue.put(None, timeout=0.1)
                        return
                    except queue.Full:
                        pass

        def stop(self) -> None:
            self.close()
            while self.is_alive():
                with contextlib.suppress(queue.Empty):
                    self.output_queue.get(timeout=0.05)
            self.join()

    return StepIterator(loader, np.zeros(0, np.uint64))


COMPILED: dict[Any, Any] = {}  # {(threads, canvases): FFCV's Loader without a file}


def open_ffcv(path: str, batch_size: int, threads: int, canvases: dict[str, tuple[int, int]]) -> Any:
    """FFCV's Loader over a file. Only its compiled code is kept for the next one: compiling takes seconds, and some
    30 MB that Numba never gives back."""
    from ffcv.loader import Loader, OrderOption
    from ffcv.memory_managers import OSCacheManager
    from ffcv.reader import Reader

    key = (threads, tuple(canvases.items()))
    if key not in COMPILED:
        made = Loader(
            path,
            batch_size=batch_size,
            num_workers=threads,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,  # make_iterator takes our order instead
            pipelines={
                "image": [make_canvas_decoder(canvases)],
                **dict.fromkeys(("id", "boxes", "labels", "ignore")),  # these come from the index, as in every loader
            },
            batches_ahead=2,
        )
        made.graph.metadata = made.graph.metadata[:0].copy()
        made.graph.collect_requirements()  # lets go of the metadata its operations saw last
        made.reader = made.memory_manager = made.indices = made.traversal_order = made.first_traversal_order = None
        COMPILED[key] = made
    loader = copy.copy(COMPILED[key])
    loader.batch_size, loader.reader = batch_size, Reader(path)
    loader.memory_manager = OSCacheManager(loader.reader)
    return loader


class FfcvDecoder:
    def __init__(self, data: Mixture, batch_size: int, device: torch.device, threads: int):
        import_ffcv()
        if len(data.datasets) > 1:
            raise ValueError("the loader 'ffcv' reads one dataset, not several; choose the loader cpu or dali")
        (dataset,) = data.datasets
        if not dataset.whole:
            raise ValueError("the loader 'ffcv' reads every domain of a dataset; choose the loader cpu or dali")
        entry = dataset.info.get("beton")
        path = dataset.path / NAME
        if not entry or not path.is_file():
            raise ValueError(
                f"{dataset.path} has no {NAME} for the loader 'ffcv'; run its pack command again with --beton"
            )
        try:
            sound = path.stat().st_size == entry["bytes"]
            sound = sound and structure_checksum(path, entry["head"], entry["tail"]) == entry["structure_sha256"]
        except (KeyError, TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise ValueError(
                f"{path} is damaged or of another packing; delete it and run the pack command again with --beton"
            )
        self.dataset, self.batch_size, self.pin = dataset, batch_size, device.type == "cuda"
        self.loader = open_ffcv(str(path), batch_size, threads, dataset.canvases)
        self.bytes: Any = np.memmap(path, np.uint8, mode="r")
        self.iterator: Any = None

    def open(self, steps: Iterator[Step]) -> Iterator[Decoded]:
        taken: deque[Step] = deque()
        self.iterator = make_iterator(self.loader, self._verified(steps), taken)
        while True:
            try:
                (rows,) = next(self.iterator)
            except StopIteration:
                if self.iterator.failure is not None:
                    raise self.iterator.failure from None
                return
            step = taken.popleft()
            H, W = self.dataset.canvases["portrait" if step.portrait else "landscape"]
            images = torch.empty((self.batch_size, H, W, 3), dtype=torch.uint8, pin_memory=self.pin)
            filled = step.indices_B >= 0
            images.numpy()[filled] = rows[:, : H * W * 3].reshape(-1, H, W, 3)[filled]
            images.numpy()[~filled] = 0
            yield step, images, {}

    def _verified(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            self._verify(step)
            yield step

    def _verify(self, step: Step) -> None:
        """The bytes FFCV is about to decode against the index; it would decode damaged ones to wrong pixels."""
        image = self.loader.reader.metadata["f0"]
        raw = self.dataset.info["encoding"]["raw"]
        for index in step.indices_B[step.indices_B >= 0].tolist():
            start, (h, w) = int(image[index]["data_ptr"]), self.dataset.sizes_N2[index].tolist()
            if raw:  # stored without the PPM header, so compared with the shard's record
                same = self.bytes[start : start + 3 * h * w].tobytes() == self.dataset.jpeg(index)[-3 * h * w :]
            else:
                data = self.bytes[start : start + self.dataset.length_of(index)]
                same = hashlib.sha256(data.data).digest() == self.dataset.sha256_of(index)
            if not same:
                fix = "delete it and run the pack command again with --beton"
                raise ValueError(f"{self.dataset.describe(index)} is damaged in {NAME}; {fix}")

    def close(self) -> None:
        if self.iterator is not None:
            self.iterator.stop()
        self.iterator = self.loader = self.bytes = None
