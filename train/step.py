"""One training step. Read this first.

    views -+-> clean view ----teacher, frozen--> its maps ---.
           \\-> student's view --student--> maps --losses-----+--> weighted sum --> gradient --> optimizer

`Learner` is what torch.compile makes one graph of, forward and backward, and what DDP wraps; `Teacher` is another one.
Clipping, the check and the fused optimizer follow eagerly, each a few calls over all parameters at once. Nothing here
waits for a GPU: a loss that is not finite is noticed on the device and leaves the student as it was, and the host reads
about it later. Views come ready from train/ahead.py, which makes the next step's while this one trains.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.faster_rcnn.detector import Detector
from pipeline.batch import Views
from train.distill import CdFkd
from train.optimizer import Ema, Optimizer, clip_gradient
from train.record.window import Window


class Learner(nn.Module):
    """Student's view and teacher's maps -> (total loss, every scalar to log), in one graph."""

    def __init__(self, student: Detector, method: CdFkd | None, dtype: torch.dtype, global_mean: Callable):
        super().__init__()
        self.student, self.method, self.dtype, self.global_mean = student, method, dtype, global_mean

    def names(self) -> tuple[str, ...]:
        """Of the scalars, in order."""
        if self.method is None:
            return (*DETECTION_TERMS, "total")
        agreement = [f"{kind}_{name}" for kind in ("cosine", "count") for name in self.method.weights]
        return (*DETECTION_TERMS, *self.method.weights, "total", *agreement)

    def forward(self, views: Views, teacher_maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        images = views.student_B3hw
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            maps = self.student.features(images)
            canvas = (images.shape[-2], images.shape[-1])
            terms = self.student.losses(
                maps, canvas, views.student_sizes_B2, views.student_boxes_BG4, views.labels_BG, views.ignore_BG,
                views.keys_B, self.global_mean,
            )  # fmt: skip
            agreement: dict[str, Tensor] = {}
            if self.method is not None:
                student_maps = dict(zip(self.student.strides, maps, strict=True))
                distilled, agreement = self.method(
                    student_maps, dict(zip(self.method.taps, teacher_maps, strict=True)), views
                )
                terms = terms | distilled
        total = weigh(terms, {} if self.method is None else self.method.weights)
        scalars = {**terms, "total": total, **agreement}
        return total, torch.stack([scalars[name].detach().float() for name in self.names()])


class Teacher:
    """A frozen network and the maps the method taps; not a module, so that no parent can train, move or save it."""

    def __init__(self, detector: Detector, taps: tuple[int, ...], dtype: torch.dtype):
        self.detector, self.taps, self.dtype = detector.eval().requires_grad_(False), taps, dtype

    @torch.no_grad()
    def __call__(self, views: Views) -> tuple[Tensor, ...]:
        images = views.teacher_B3HW
        assert images is not None
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.detector.features(images, strides=self.taps)


class Step:
    """Everything one step needs; calling it with views makes one step."""

    def __init__(
        self,
        learner: Callable[[Views, tuple[Tensor, ...]], tuple[Tensor, Tensor]],  # a Learner, compiled or in DDP
        teacher: Callable[[Views], tuple[Tensor, ...]] | None,
        parameters: dict[str, nn.Parameter],
        statistics: list[Tensor],  # of batch norms that are trained; none where norm is frozen
        optimizer: Optimizer,
        ema: Ema | None,
        window: Window,
        clip_norm: float,
        cuda_graphs: bool = False,
    ):
        self.cuda_graphs = cuda_graphs
        self.learner, self.teacher, self.parameters, self.statistics = learner, teacher, parameters, statistics
        self.optimizer, self.ema, self.window, self.clip_norm = optimizer, ema, window, clip_norm

    def __call__(self, views: Views, step: int, rate: float, stop: bool = False) -> None:
        if self.cuda_graphs:
            # Teacher and learner replay into one pool of memory: what the last step left there is done with.
            torch.compiler.cudagraph_mark_step_begin()
        statistics = [each.clone() for each in self.statistics]
        teacher_maps = self.teacher(views) if self.teacher is not None else ()
        total, scalars_T = self.learner(views, teacher_maps)
        total.backward()
        norm = clip_gradient(list(self.parameters.values()), self.clip_norm)
        skip = self.window.record(step, torch.cat([scalars_T, norm[None]]), views.ids_B, stop)
        self.optimizer.step(rate, skip)
        for each, before in zip(self.statistics, statistics, strict=True):
            each.copy_(torch.where(skip > 0, before, each))
        if self.ema is not None:
            self.ema.update(self.parameters, step, skip)


DETECTION_TERMS = ("rpn_class", "rpn_box", "roi_class", "roi_box")


def weigh(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum of weight * term; detection terms weigh 1, as in Faster R-CNN. A term of weight 0 is left out entirely."""
    weighted = [weights.get(name, 1.0) * term for name, term in terms.items() if weights.get(name, 1.0) != 0]
    return sum(weighted[1:], start=weighted[0])
