"""The `dali` loader: bytes from the index into NVIDIA DALI, which decodes them (with nvJPEG on a GPU).

On a GPU DALI also lays out the canvas, and its output reaches torch by DLPack: one copy on the device, none through
the host. On a CPU the canvas is laid out here, because DALI's own padding there takes as long as its decoding.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from pipeline.command.memory import is_out_of_memory
from pipeline.loading.cpu import lay_out
from pipeline.loading.mixture import Mixture
from pipeline.loading.order import Decoded, Step

HARDWARE_SHARE = 0.12  # of the images go to the GPU's JPEG engine and the rest to its cores, about the best on Hopper
DEPTH = 2  # batches DALI itself works on ahead
NOTHING = np.zeros((0, 0, 1), np.uint8)  # in the place of padding


class DaliDecoder:
    def __init__(
        self,
        data: Mixture,
        batch_size: int,
        device: torch.device,
        threads: int,
        hardware_share: float,
        extra: Sequence[str] = (),
    ):
        try:
            import nvidia.dali.types
            from nvidia.dali import fn, pipeline_def
        except ImportError as error:
            fix = "install nvidia-dali-cuda130 or choose the loader 'cpu'"
            raise ValueError(f"the loader 'dali' needs NVIDIA DALI ({error}); {fix}") from None
        self.data, self.batch_size, self.gpu = data, batch_size, device.type == "cuda"
        self.channels = {name: data.extra[name] for name in extra}
        self.members = [(name, member, *place) for name in extra for member, place in places_of(data.members_of(name))]
        num_members = len(self.members)
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
            # Of each image its picture, then its members; on a GPU their canvas comes first.
            num_encoded = 1 + num_members
            dtypes = [types.INT32] * gpu + [types.UINT8] * num_encoded
            given = fn.external_source(
                source=self._feed, num_outputs=len(dtypes), batch=True, dtype=dtypes, ndim=[1] * len(dtypes)
            )
            colours = [types.RGB, *(types.GRAY if end - start == 1 else types.RGB for *_, start, end in self.members)]
            if not gpu:
                return tuple(
                    fn.decoders.image(encoded, device="cpu", output_type=colour, adjust_orientation=False)
                    for encoded, colour in zip(given, colours, strict=True)
                )
            canvas, *given = given
            made = []
            for encoded, colour in zip(given, colours, strict=True):
                images = fn.decoders.image(
                    encoded,
                    device="mixed",
                    output_type=colour,
                    adjust_orientation=False,
                    hw_decoder_load=hardware_share,
                    jpeg_fancy_upsampling=True,  # chroma interpolated, as libjpeg-turbo and the host decoder do
                )
                made.append(
                    fn.slice(images, rel_start=(0.0, 0.0), shape=canvas, axes=(0, 1), out_of_bounds_policy="pad")
                )
            return *made, *(fn.peek_image_shape(encoded) for encoded in given)

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
        canvas = [[np.array(self._canvas(step), np.int32)] * len(real)] * self.gpu
        encoded = [[np.frombuffer(self.data.jpeg(index), np.uint8) for index in real]]
        for _, member, *_ in self.members:
            encoded.append([np.frombuffer(self.data.encoded(index, member), np.uint8) for index in real])
        self.waiting.append(step)
        return *canvas, *encoded

    def open(self, steps: Iterator[Step]) -> Iterator[Decoded]:
        self.steps = steps
        while True:
            try:
                outputs = self.pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                if not self.waiting or is_out_of_memory(error):  # before any batch, or out of memory: not the data
                    raise
                names = ", ".join(self.data.describe(int(i)) for i in self.waiting[0].indices_B if i >= 0)
                raise ValueError(f"DALI failed on a batch of {names}: {str(error)[:1000]}") from None
            step = self.waiting.popleft()
            num_real = int((step.indices_B >= 0).sum())
            decoded = outputs[: 1 + len(self.members)]
            for output, sizes in zip(decoded, outputs[len(decoded) :] if self.gpu else decoded, strict=True):
                for b, index in enumerate(step.indices_B[:num_real].tolist()):  # padding comes last
                    self._check_size(index, np.asarray(sizes[b]) if self.gpu else output[b].shape())
            channels = {"": 3, **self.channels}
            places = [("", "", 0, 3), *self.members]
            batch = {name: self._empty((self.batch_size, *self._canvas(step), num)) for name, num in channels.items()}
            if self.stream is not None:
                with torch.cuda.stream(self.stream):
                    for (name, _, start, end), output in zip(places, decoded, strict=True):
                        images = torch.from_dlpack(output.as_tensor())
                        batch[name][:num_real, ..., start:end].copy_(images[:num_real], non_blocking=True)
                        batch[name][num_real:, ..., start:end].zero_()
                # DALI's memory goes back to it, and another stream reads the batch. An event: this thread sleeps, and
                # torch's debug mode, which is for the training's own waits, does not count it.
                copied = torch.cuda.Event(blocking=True)
                copied.record(self.stream)
                copied.synchronize()
            else:
                for (name, _, start, end), output in zip(places, decoded, strict=True):
                    for b, index in enumerate(step.indices_B.tolist()):
                        canvas_HWC = batch[name].numpy()[b, ..., start:end]
                        lay_out(np.asarray(output[b]) if index >= 0 else NOTHING, canvas_HWC)
            yield step, batch.pop(""), batch

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self.stream is None:
            return torch.empty(shape, dtype=torch.uint8)
        with torch.cuda.stream(self.stream):
            return torch.empty(shape, dtype=torch.uint8, device=self.stream.device)

    def _check_size(self, index: int, shape: Any) -> None:
        h, w = (int(side) for side in shape[:2])
        if (h, w) != tuple(self.data.sizes_N2[index]):
            raise ValueError(f"{self.data.describe(index)} is {h}x{w} where the index says another size; pack again")

    def close(self) -> None:
        self.steps = iter(())
        self.waiting.clear()
        self.pipeline = None


def places_of(members: dict[str, int]) -> list[tuple[str, tuple[int, int]]]:
    """The channels of each member in its modality, from and to below."""
    ends = list(accumulate(members.values()))
    return [(name, (end - members[name], end)) for name, end in zip(members, ends, strict=True)]
