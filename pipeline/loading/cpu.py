"""The `cpu` loader: libjpeg-turbo in threads, each image decoded and laid into its row of the batch by one task."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from pipeline.files.pixels import decode_packed
from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Step


class CpuDecoder:
    def __init__(self, data: Mixture, batch_size: int, device: torch.device, threads: int):
        self.data, self.batch_size, self.pin = data, batch_size, device.type == "cuda"
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="cpu-decode")
        # Batches in work, so that no thread waits for a batch's last image.
        self.ahead = 2 if threads > batch_size else 1

    def open(self, steps: Iterator[Step]) -> Iterator[tuple[Step, torch.Tensor]]:
        waiting: deque[tuple[Step, torch.Tensor, list[Future]]] = deque()
        for step in steps:
            waiting.append(self._submit(step))
            if len(waiting) > self.ahead:
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    def _submit(self, step: Step) -> tuple[Step, torch.Tensor, list[Future]]:
        H, W = self.data.canvases["portrait" if step.portrait else "landscape"]
        images = torch.empty((self.batch_size, H, W, 3), dtype=torch.uint8, pin_memory=self.pin)
        rows = images.numpy()
        tasks = [self.pool.submit(self._decode, index, rows[b]) for b, index in enumerate(step.indices_B.tolist())]
        return step, images, tasks

    def _finish(self, step: Step, images: torch.Tensor, tasks: list[Future]) -> tuple[Step, torch.Tensor]:
        for task in tasks:
            task.result()
        return step, images

    def _decode(self, index: int, canvas_HW3: np.ndarray) -> None:
        if index < 0:
            canvas_HW3[:] = 0
            return
        encoded = self.data.jpeg(index)
        try:
            image = decode_packed(encoded)
        except ValueError as error:
            raise ValueError(f"{self.data.describe(index)} {error}") from None
        h, w = image.shape[:2]
        if (h, w) != tuple(self.data.sizes_N2[index]):
            raise ValueError(f"{self.data.describe(index)} is {h}x{w} where the index says another size; pack again")
        canvas_HW3[:h, :w] = image
        canvas_HW3[h:] = 0
        canvas_HW3[:h, w:] = 0

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
