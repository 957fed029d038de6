"""The `dali` loader: bytes from the index into NVIDIA DALI, which decodes them (with nvJPEG on a GPU).

On a GPU DALI also lays out the canvas, and its output reaches torch by DLPack: one copy on the device, none through
the host. On a CPU the canvas is laid out here, because DALI's own padding there takes as long as its decoding.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.command.memory import is_out_of_memory
from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Step

HARDWARE_SHARE = 0.12  # of the images go to the GPU's JPEG engine and the rest to its cores, about the best on Hopper
DEPTH = 2  # batches DALI itself works on ahead


class DaliDecoder:
    def __init__(
        self,
        data: Mixture,
        batch_size: int,
        device: torch.device,
        threads: int,
        hardware_share: float,
    ):
        try:
            import nvidia.dali.types
            from nvidia.dali import fn, pipeline_def
        except ImportError as error:
            fix = "install nvidia-dali-cuda130 or choose the loader 'cpu'"
            raise ValueError(f"the loader 'dali' needs NVIDIA DALI ({error}); {fix}") from None
        self.data, self.batch_size, self.gpu = data, batch_size, device.type == "cuda"
        self.waiting: deque[Step] = deque()  # steps DALI was given and has not returned
        self.steps: Iterator[Step] = iter(())
        gpu, device_id = self.gpu, torch.cuda.current_device() if self.gpu and device.index is None else device.index

        types: Any = nvidia.dali.types  # its names are made at run time

        @pipeline_def(  # type: ignore[call-overload]  # its stub knows neither exec_dynamic nor a missing device
            batch_size=batch_size,
            num_threads=threads,
            device_id=device_id if gpu else None,
            prefetch_queue_depth=DEPTH,
            exec_dynamic=True,  # outputs are owned by who holds them, not overwritten by the next batch
        )
        def decode() -> Any:
            if not gpu:
                encoded = fn.external_source(source=self._feed, batch=True, dtype=types.UINT8, ndim=1)
                return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
            encoded, canvas = fn.external_source(
                source=self._feed, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT32], ndim=[1, 1]
            )
            images = fn.decoders.image(
                encoded,
                device="mixed",
                output_type=types.RGB,
                adjust_orientation=False,
                hw_decoder_load=hardware_share,
                jpeg_fancy_upsampling=True,  # chroma interpolated, as libjpeg-turbo and the host decoder do
            )
            canvases = fn.slice(images, rel_start=(0.0, 0.0), shape=canvas, axes=(0, 1), out_of_bounds_policy="pad")
            return canvases, fn.peek_image_shape(encoded)

        # On the default stream the copies below would wait for all the training that is queued there.
        self.stream = torch.cuda.Stream(device_id) if gpu else None
        self.pipeline = decode()
        self.pipeline.build()

    def _canvas(self, step: Step) -> tuple[int, int]:
        return self.data.canvases["portrait" if step.portrait else "landscape"]

    def _feed(self) -> Any:
        """What DALI's source asks for: the encoded images of the next step, and on a GPU their canvas."""
        step = next(self.steps)  # its StopIteration ends the pipeline
        real = [index for index in step.indices_B.tolist() if index >= 0] or [0]  # DALI takes no empty batch
        encoded = [np.frombuffer(self.data.jpeg(index), np.uint8) for index in real]
        self.waiting.append(step)
        return (encoded, [np.array(self._canvas(step), np.int32)] * len(real)) if self.gpu else encoded

    def open(self, steps: Iterator[Step]) -> Iterator[tuple[Step, torch.Tensor]]:
        self.steps = steps
        while True:
            try:
                output, *sizes = self.pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                if not self.waiting or is_out_of_memory(error):  # before any batch, or out of memory: not the data
                    raise
                names = ", ".join(self.data.describe(int(i)) for i in self.waiting[0].indices_B if i >= 0)
                raise ValueError(f"DALI failed on a batch of {names}: {str(error)[:1000]}") from None
            step = self.waiting.popleft()
            num_real = int((step.indices_B >= 0).sum())
            for b, index in enumerate(step.indices_B[:num_real].tolist()):  # padding comes last
                self._check_size(index, np.asarray(sizes[0][b]) if self.gpu else output[b].shape())
            shape = (self.batch_size, *self._canvas(step), 3)
            if self.stream is not None:
                with torch.cuda.stream(self.stream):
                    images = torch.from_dlpack(output.as_tensor())
                    batch = torch.empty(shape, dtype=torch.uint8, device=images.device)
                    batch[:num_real].copy_(images[:num_real], non_blocking=True)
                    batch[num_real:].zero_()
                # DALI's memory goes back to it, and another stream reads the batch. An event: this thread sleeps, and
                # torch's debug mode, which is for the training's own waits, does not count it.
                copied = torch.cuda.Event(blocking=True)
                copied.record(self.stream)
                copied.synchronize()
            else:
                batch = torch.empty(shape, dtype=torch.uint8)
                self._lay_out(batch.numpy(), output, step)
            yield step, batch

    def _check_size(self, index: int, shape: Any) -> None:
        h, w = (int(side) for side in shape[:2])
        if (h, w) != tuple(self.data.sizes_N2[index]):
            raise ValueError(f"{self.data.describe(index)} is {h}x{w} where the index says another size; pack again")

    def _lay_out(self, canvas_BHW3: np.ndarray, output: Any, step: Step) -> None:
        for b, index in enumerate(step.indices_B.tolist()):
            if index < 0:
                canvas_BHW3[b] = 0
                continue
            image = np.asarray(output[b])
            h, w = image.shape[:2]
            canvas_BHW3[b, :h, :w] = image
            canvas_BHW3[b, h:] = 0
            canvas_BHW3[b, :h, w:] = 0

    def close(self) -> None:
        self.steps = iter(())
        self.waiting.clear()
        self.pipeline = None
