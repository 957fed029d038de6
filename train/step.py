"""One training step. Read this first.

    views -+-> clean view -----teacher, frozen--> its outputs ----.
           \\-> corrupted view --student--> outputs --losses and--+--> weighted sum --> gradient --> optimizer
                                                     methods

`Learner` is what torch.compile makes one graph of, forward and backward, and what DDP wraps; `Teacher` is another one.
All parameters in the Learner are trained: the student's, and those of the methods' adapters or discriminators.
Clipping, the check and the fused optimizer follow eagerly, each a few calls over all parameters at once. Nothing here
waits for a GPU. A loss that is not finite is noticed on the device and leaves everything as it was. The host reads
about it later. Views come ready from train/ahead.py, which makes the next step's while this one trains.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.api import Detector, Mean, Outputs, Want
from model.backbones.pixels import join_inputs
from pipeline.batch import Views
from train.distill.method import Method, annotations
from train.optimizer import Ema, Optimizer, clip_gradient
from train.record.window import Window


class Layout(NamedTuple):
    """Which scalars a step returns, in this order: losses, the total last; sums, then counts, of what is logged."""

    losses: tuple[str, ...]
    logged: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.losses, *self.logged, *(f"count of {name}" for name in self.logged))

    def read(self, values: Sequence[float]) -> tuple[dict[str, float], dict[str, float]]:
        """(losses, logged means); a mean is left out where nothing was counted, such as objects in empty images."""
        num = len(self.losses)
        sums, counts = values[num : num + len(self.logged)], values[num + len(self.logged) :]
        logged = {name: a / b for name, a, b in zip(self.logged, sums, counts, strict=False) if b > 0}
        return dict(zip(self.losses, values, strict=False)), logged


class Learner(nn.Module):
    """Views and the teacher's outputs -> (total loss, every scalar of the layout), in one graph."""

    share: Tensor | None  # of the methods' weights that counts now; none: all of it

    def __init__(
        self, student: Detector, methods: dict[str, Method], dtype: torch.dtype, mean: Mean, warms_up: bool = False
    ):
        super().__init__()
        self.student, self.methods, self.dtype, self.mean = student, nn.ModuleDict(methods), dtype, mean
        share = torch.ones((), device=next(student.parameters()).device) if warms_up else None
        self.register_buffer("share", share, persistent=False)
        self.all_methods = tuple(methods.values())  # as they are; ModuleDict owns them
        self.sees = tuple(dict.fromkeys(view for method in methods.values() for view in method.student_sees))
        self.sees = self.sees or ("corrupted",)
        self.want = reduce(or_, (method.want_student for method in methods.values()), Want(dense=True))
        self.weights = {name: weight for method in methods.values() for name, weight in method.weights.items()}
        logged = tuple(name for method in methods.values() for name in method.logged)
        # Beside adapters nothing agrees before the first step: they are random.
        self.alike = tuple(name for method in methods.values() if method.adapters is None for name in method.alike)
        self.layout = Layout((*student.terms, *self.weights, "total"), logged)
        taught = [name for method in methods.values() for name in method.weights]
        for names in ([*student.terms, *taught, "total"], logged):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two methods of a run call a term {', '.join(twice)}; give it another name in one")
        labellers = {name: method for name, method in methods.items() if type(method).relabel is not Method.relabel}
        if len(labellers) > 1:
            raise ValueError(f"{' and '.join(labellers)} set what the student must find; keep one of them")
        self.relabel = next((method.relabel for method in labellers.values()), None)

    def forward(self, views: Views, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        terms, logged = self.terms(views, teacher)
        total = weigh(terms, self.weights, self.share)
        scalars = [*({**terms, "total": total}[name] for name in self.layout.losses), *logged]
        return total, torch.stack([scalar.detach().float() for scalar in scalars])

    def terms(self, views: Views, teacher: Outputs | None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Every term, not yet weighed; sums, then counts, of what is logged."""
        with torch.autocast(views.keys_B.device.type, self.dtype, enabled=self.dtype != torch.float32):
            seen, assigned = {}, {}
            terms: dict[str, Tensor] = {}
            if self.relabel is not None:
                views = self.relabel(views, teacher)
            for name in self.sees:
                view = getattr(views, name)
                images_BCHW = join_inputs(view.images_B3HW, views.extra, self.student.config)
                seen[name] = self.student.look(images_BCHW, view.sizes_B2, self.want)
                found, assigned[name] = self.student.losses(seen[name], annotations(views, view), self.mean)
                terms = {term: terms[term] + value if terms else value for term, value in found.items()}
            sums, counts = [], []
            for method in self.all_methods:
                own = {name: seen[name] for name in method.student_sees}
                distilled, logged = method(own, teacher, {name: assigned[name] for name in own}, views)
                terms = terms | distilled
                sums += [logged[name][0] for name in method.logged]
                counts += [logged[name][1] for name in method.logged]
        return terms, [*sums, *counts]


def weigh(terms: dict[str, Tensor], weights: dict[str, float], share: Tensor | None = None) -> Tensor:
    """Sum of weight * term; detection terms weigh 1, as in Faster R-CNN. A term of weight 0 is left out entirely.

    share: of the weights that are given.
    """
    weighted = []
    for name, term in terms.items():
        if weights.get(name, 1.0) != 0:
            value = weights.get(name, 1.0) * term
            weighted.append(value if share is None or name not in weights else value * share)
    return sum(weighted[1:], start=weighted[0])


class Teacher:
    """A network that is looked at and never trained by a gradient; no module, so that no parent can move or save it."""

    def __init__(self, detector: Detector, methods: Sequence[Method], dtype: torch.dtype):
        self.detector, self.dtype = detector.eval().requires_grad_(False), dtype
        self.want = reduce(or_, (method.want_teacher for method in methods), Want())
        views = {method.teacher_sees for method in methods if method.needs_teacher}
        if len(views) != 1:
            raise ValueError(f"the methods of a run show their teacher {' and '.join(sorted(views))}; it sees one view")
        (self.sees,) = views

    @torch.no_grad()
    def __call__(self, views: Views) -> Outputs:
        view = getattr(views, self.sees)
        with torch.autocast(view.images_B3HW.device.type, self.dtype, enabled=self.dtype != torch.float32):
            images_BCHW = join_inputs(view.images_B3HW, views.extra, self.detector.config)
            return self.detector.look(images_BCHW, view.sizes_B2, self.want)


class Step:
    """Everything one step needs; calling it with views makes one step."""

    def __init__(
        self,
        learner: Callable[[Views, Outputs | None], tuple[Tensor, Tensor]],  # a Learner, compiled or in DDP
        teacher: Callable[[Views], Outputs] | None,
        parameters: dict[str, nn.Parameter],  # all that are trained, the methods' own among them
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
        seen = self.teacher(views) if self.teacher is not None else None
        total, scalars_T = self.learner(views, seen)
        total.backward()
        norm = clip_gradient(list(self.parameters.values()), self.clip_norm)
        skip = self.window.record(step, torch.cat([scalars_T, norm[None]]), views.ids_B, stop)
        self.optimizer.step(rate, skip)
        for each, before in zip(self.statistics, statistics, strict=True):
            each.copy_(torch.where(skip > 0, before, each))
        if self.ema is not None:
            self.ema.update(self.parameters, step, skip)
