"""A step on a GPU that is not there: tensors without values that say they lie on one.

What meets from two sides is found. torch itself lets some of that pass with such tensors, so every operation is looked
at.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.detection import nms, nms_cuda
from model.api import own
from model.detectors import CONFIGS, new_detector
from pipeline.batch import View, Views
from tests.train import battery
from train.shares import first_images
from train.step import Learner, Teacher

PRETENDED = FakeTensorMode()


class OneSide(TorchDispatchMode):
    """Tensors of an operation lie on one side; copies, and numbers of no dimension, may cross."""

    dtypes: frozenset[torch.dtype] = frozenset()  # seen so far

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        self.dtypes = self.dtypes | {each.dtype for each in tensors}
        sides = {each.device.type for each in tensors if each.ndim}
        assert len(sides) < 2 or "copy" in str(func), f"{func}: {[(each.device, each.shape) for each in tensors]}"
        return func(*args, **(kwargs or {}))


def on_gpu(value):
    return PRETENDED.from_tensor(value).to("cuda")


def moved(module: nn.Module) -> nn.Module:
    """module.to("cuda"), which torch refuses with such tensors."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to("cuda"), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to("cuda")
    return module


@pytest.fixture(scope="module", autouse=True)
def bfloat16() -> Iterator[None]:
    """As a run on a GPU computes: autocast would otherwise ask a GPU, and switch itself off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        yield


@pytest.fixture(scope="module")
def views() -> Views:
    """Ids are on the host, as in a run."""
    real = battery.make_views()
    with PRETENDED:
        sides = {name: View(*map(on_gpu, vars(getattr(real, name)).values())) for name in ("clean", "corrupted")}
        names = ("ratio_B", "labels_BG", "ignore_BG", "weight_BG", "keys_B")
        others = {name: on_gpu(getattr(real, name)) for name in names}
        return replace(real, **sides, **others, ids_B=PRETENDED.from_tensor(real.ids_B))


def make_network(kind: str, wide: bool = False) -> nn.Module:
    return moved(new_detector(battery.model_of(kind, wide), battery.NUM_CLASSES))


def one_of_each_method() -> list:
    """On the last kind of detector that takes it, which leaves Faster R-CNN to its own."""
    return list({config.kind: (kind, config) for kind, config in reversed(battery.cases())}.values())


@pytest.mark.long
@pytest.mark.parametrize(("kind", "config"), one_of_each_method(), ids=battery.name_of)
def test_a_step_stays_on_the_gpu(kind, config, views):
    with PRETENDED, OneSide() as looked:
        student, teacher = make_network(kind).train(), make_network(kind, wide=True).eval().requires_grad_(False)
        method = moved(battery.make_method(config, student, teacher))
        learner = moved(Learner(student, {config.kind: method}, torch.bfloat16, own))
        chosen = first_images(views, 1)
        seen = Teacher(teacher, [method], torch.bfloat16)(chosen) if method.needs_teacher else None
        total, scalars = learner(chosen, seen)
    assert chosen.ids_B.device.type == "cpu"
    assert {total.device.type, scalars.device.type} == {"cuda"}
    assert torch.bfloat16 in looked.dtypes


@pytest.mark.long
@pytest.mark.parametrize("kind", CONFIGS)
def test_detections_stay_on_the_gpu(kind, views):
    with PRETENDED, OneSide() as looked, torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        found = make_network(kind).eval().detect(views.clean.images_B3HW, views.clean.sizes_B2)
    assert {each.device.type for each in found} == {"cuda"}
    assert torch.bfloat16 in looked.dtypes


@pytest.mark.parametrize("num_candidates", [0, 9])
def test_suppression_gives_the_strides_that_compiled_graphs_are_promised(num_candidates, monkeypatch):
    monkeypatch.setattr(nms_cuda, "launch", lambda *_: None)
    given = (
        torch.rand(3, num_candidates, 4),
        torch.rand(3, num_candidates),
        torch.zeros(3, num_candidates, dtype=torch.int32),
    )
    found, promised = nms_cuda.suppress(*given, 0.5, 5), nms._nms_fake(*given, 0.5, 5)
    for ours, theirs in zip(found, promised, strict=True):
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
