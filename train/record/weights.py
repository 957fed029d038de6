"""What both tasks do alike with their weights: the average that is shipped, and what a checkpoint holds of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train.optimizer import Ema, Optimizer
from train.record.resume import strip
from train.record.window import Window


class Weights:
    """A task inherits it and sets these."""

    parameters: dict[str, nn.Parameter]  # all that is trained
    shipped: dict[str, nn.Parameter]  # those of them that are evaluated and used
    ema: Ema | None  # the moving average of what is shipped
    optimizer: Optimizer
    window: Window

    def buffers(self) -> dict[str, Tensor]:
        """What continuing needs besides and is not shipped, such as the methods' running statistics."""
        raise NotImplementedError

    @contextmanager
    def shipped_weights(self) -> Iterator[None]:
        """The network holds what is shipped: the moving average where there is one."""
        if self.ema is not None:
            self.ema.swap(self.shipped)
        try:
            yield
        finally:
            if self.ema is not None:
                self.ema.swap(self.shipped)

    def not_finite(self) -> list[str]:
        """Names of what a checkpoint would hold and is not finite; waits for the device."""
        average = {} if self.ema is None else {f"average.{name}": value for name, value in self.ema.weights.items()}
        tensors = self.network_tensors() | average | self.tensors()
        del tensors["window"]  # skipped steps stand in it
        finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
        return [name for name, good in zip(tensors, finite, strict=True) if not good]

    def network_tensors(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What continuing needs beside what is shipped."""
        tensors = {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        tensors["window"] = self.window.table_nT
        for name, value in self.parameters.items():
            if name not in self.shipped:
                tensors[name] = value.detach()
            elif self.ema is not None:
                tensors[f"weights.{name}"] = value.detach()
        return tensors | self.buffers()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave; the network holds what was shipped."""
        self.optimizer.load(strip(tensors, "optimizer."))
        if self.ema is not None:
            for name, weight in strip(tensors, "weights.").items():
                self.ema.weights[name].copy_(self.parameters[name])
                self.parameters[name].copy_(weight)
        for name, parameter in self.parameters.items():
            if name not in self.shipped:
                parameter.copy_(tensors[name])
        for name, buffer in self.buffers().items():
            buffer.copy_(tensors[name])
