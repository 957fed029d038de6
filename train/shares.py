"""How large each term of a distilling run is before the first update, and its share of the student's gradient.

A share is the norm of the weighted term's gradient over the sum of all such norms, the detection loss counted as one
term. It is measured on a few images of the first batch, without the compiler, and changes nothing. So is how far the
two networks' pyramids agree, for methods that log no agreement of their own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.api import Want
from model.backbones.pixels import join_inputs
from pipeline.batch import View, Views
from pipeline.command.console import say
from train.distill.cd_fkd import global_cosine
from train.distill.regions import cells
from train.step import Learner, Teacher, weigh

NUM_IMAGES = 2
LARGE, SMALL = 0.5, 0.001
DETECTION = "detection"


class Term(NamedTuple):
    size: float  # weighted
    share: float


def first_images(views: Views, num: int) -> Views:
    """The first ones with objects, for without them many terms are 0; where there are too few, others beside them."""
    object_BG = (views.labels_BG > 0) & ~views.ignore_BG
    chosen_N = torch.argsort(~object_BG.any(1), stable=True)[:num]

    def pick(value: Tensor) -> Tensor:
        return value[chosen_N.to(value.device)]  # ids are on the host

    parts = {}
    for field in fields(views):
        value = getattr(views, field.name)
        if isinstance(value, View):
            value = View(*(pick(getattr(value, part.name)) for part in fields(value)))
        elif isinstance(value, dict):
            value = {name: pick(images) for name, images in value.items()}
        elif isinstance(value, Tensor):
            value = pick(value)
        parts[field.name] = value
    return replace(views, **parts)


@contextmanager
def unchanged(learner: Learner, device: torch.device) -> Iterator[None]:
    """Neither random numbers nor buffers, such as statistics of norms, are other ones afterwards."""
    before = [buffer.clone() for buffer in learner.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, value in zip(learner.buffers(), before, strict=True):
            buffer.copy_(value)


def measure_shares(learner: Learner, teacher: Teacher | None, views: Views) -> dict[str, Term]:
    """By the names of the terms, "detection" first. Every rank calls it, as terms count over ranks."""
    views = first_images(views, NUM_IMAGES)
    weights = [parameter for parameter in learner.student.parameters() if parameter.requires_grad]
    with unchanged(learner, views.keys_B.device):
        terms, _ = learner.terms(views, None if teacher is None else teacher(views))
        parts = {DETECTION: weigh({name: terms[name] for name in learner.student.terms}, {})}
        parts |= {name: weight * terms[name] for name, weight in learner.weights.items() if weight != 0}
        norms = {}
        for name, part in parts.items():
            gradients: Sequence[Tensor | None] = ()  # a term may be a constant
            if part.requires_grad:
                gradients = torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)
            squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
            norms[name] = torch.stack(squares).sum().sqrt().item() if squares else 0.0
    whole = sum(norms.values()) or 1.0
    return {name: Term(part.item(), norms[name] / whole) for name, part in parts.items()}


@torch.no_grad()
def measure_agreement(learner: Learner, teacher: Teacher, views: Views) -> dict[str, float]:
    """Mean cosine of the two pyramids, each of its own view, over the levels that both have. Empty where widths differ.

    Also where a method logs an agreement of its own, which is said after the first step. Every rank calls it, as a
    norm may count over ranks.
    """
    student, network = learner.student, teacher.detector
    common = tuple(stride for stride in student.strides if stride in network.strides)
    if learner.alike or student.channels != network.channels or not common:
        return {}
    views = first_images(views, NUM_IMAGES)
    device, sees, necks = views.keys_B.device, (learner.sees[0], teacher.sees), []
    with unchanged(learner, device), torch.autocast(device.type, learner.dtype, enabled=learner.dtype != torch.float32):
        for name, detector in zip(sees, (student, network), strict=True):
            view = getattr(views, name)
            images_BCHW = join_inputs(view.images_B3HW, views.extra, detector.config)
            necks.append(detector.look(images_BCHW, view.sizes_B2, Want(neck=common)).neck)
    sizes = [getattr(views, name).sizes_B2 for name in sees]
    cosines = []
    for stride in common:
        maps = [
            neck[detector.strides.index(stride)].float()
            for neck, detector in zip(necks, (student, network), strict=True)
        ]
        ours, theirs = (cells(sizes_B2, stride) for sizes_B2 in sizes)
        cosine_B = global_cosine(maps[0], maps[1], ours, theirs, False)
        cosines.append(cosine_B[(sizes[1] > 0).all(1)].mean())
    return {"pyramids": torch.stack(cosines).mean().item()}


def say_shares(terms: dict[str, Term]) -> None:
    listed = ", ".join(f"{name} {term.size:.3g} ({100 * term.share:.3g} %)" for name, term in terms.items())
    say(f"weighted terms at step 0, with their share of the student's gradient: {listed}")
    for name, term in terms.items():
        if name != DETECTION and not SMALL <= term.share <= LARGE:
            much = "more than half" if term.share > LARGE else "less than a thousandth"
            say(f"warning: {name} makes {much} of the student's gradient; its options under --distill change that")
