"""The `cpu` loader: libjpeg-turbo in threads, each image decoded and laid into its row of the batch by one task."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from pipeline.files.pixels import decode_packed
from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Decoded, Step


class CpuDecoder:
    def __init__(self, data: Mixture, batch_size: int, device: torch.device, threads: int, extra: Sequence[str] = ()):
        self.data, self.batch_size, self.pin = data, batch_size, device.type == "cuda"
        self.channels = {name: data.extra[name] for name in extra}
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="cpu-decode")
        # Batches in work, so that no thread waits for a batch's last image.
        self.ahead = 2 if threads > batch_size else 1

    def open(self, steps: Iterator[Step]) -> Iterator[Decoded]:
        waiting: deque[tuple[Decoded, list[Future]]] = deque()
        for step in steps:
            waiting.append(self._submit(step))
            if len(waiting) > self.ahead:
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    def _submit(self, step: Step) -> tuple[Decoded, list[Future]]:
        canvas = self.data.canvases["portrait" if step.portrait else "landscape"]
        images, *others = (
            torch.empty((self.batch_size, *canvas, channels), dtype=torch.uint8, pin_memory=self.pin)
            for channels in (3, *self.channels.values())
        )
        extra = dict(zip(self.channels, others, strict=True))
        tasks = []
        for b, index in enumerate(step.indices_B.tolist()):
            tasks.append(self.pool.submit(self._decode, index, images.numpy()[b]))
            for name, tensor in extra.items():
                tasks.append(self.pool.submit(self._decode_extra, index, name, tensor.numpy()[b]))
        return (step, images, extra), tasks

    def _finish(self, decoded: Decoded, tasks: list[Future]) -> Decoded:
        for task in tasks:
            task.result()
        return decoded

    def _decode_extra(self, index: int, name: str, canvas_HWC: np.ndarray) -> None:
        if index < 0:
            canvas_HWC[:] = 0
        else:
            lay_out(self.data.read_extra(index, name), canvas_HWC)

    def _decode(self, index: int, canvas_HW3: np.ndarray) -> None:
        if index < 0:
            canvas_HW3[:] = 0
            return
        encoded = self.data.jpeg(index)
        try:
            image = decode_packed(encoded, size=self.data.sizes_N2[index])
        except ValueError as error:
            raise ValueError(f"{self.data.describe(index)} {error}") from None
        lay_out(image, canvas_HW3)

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


def lay_out(image: np.ndarray, canvas_HWC: np.ndarray) -> None:
    """Top left, zero elsewhere."""
    h, w = image.shape[:2]
    canvas_HWC[:h, :w] = image
    canvas_HWC[h:] = 0
    canvas_HWC[:h, w:] = 0
