"""One graph per canvas for inference, and what inductor makes of assignment. Training: tests/train/test_step.py."""

import re
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.api import Detections
from model.boxes.anchors import make_anchors
from model.boxes.assign import RPN_STREAM, assign, draw_samples
from model.config import ModelConfig

CANVASES = ((96, 128), (128, 96))


def narrow():
    return ModelConfig(
        backbone="resnet18",
        weights="none",
        norm="frozen",
        fpn_channels=16,
        representation_size=16,
        rpn_pre_nms_train=60,
        rpn_post_nms_train=40,
        rpn_pre_nms_test=60,
        rpn_post_nms_test=40,
        regions_per_image=16,
        detections_per_image=20,
    )


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operators(counter) -> set[str]:
    return {str(node.target) for graph in counter.graphs for node in graph.graph.nodes if node.op.startswith("call_")}


def assert_shapes_never_depend_on_data(counter):
    """No operator whose output size depends on its values, and none that reads a value back."""
    names = operators(counter)
    assert any("fairweather.nms" in name for name in names)
    assert any("roi_align" in name for name in names)
    bad = r"\b(nonzero|item|_local_scalar_dense|masked_select|unique|tolist|torchvision\.nms)\b"
    assert not [name for name in names if re.search(bad, name)]


@pytest.mark.long
def test_detect_is_one_graph_per_canvas(lively_detector, random_batch, fresh_dynamo):
    detector = lively_detector(narrow()).eval()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(detector.detect, backend=counter, fullgraph=True, dynamic=False)
    generator = torch.Generator().manual_seed(4)
    for number in range(4):
        images, sizes, *_ = random_batch(generator, 2, CANVASES[number % 2])
        eager, ours = detector.detect(images, sizes), compiled(images, sizes)
        assert isinstance(ours, Detections)
        assert eager.count_B.sum() > 10
        for got, wanted in zip(ours, eager, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert counter.frame_count == len(CANVASES)
    assert_shapes_never_depend_on_data(counter)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for inductor")
def test_generated_code_finds_the_same_ties(fresh_dynamo):
    """Inductor's own kernels: a box's highest overlap is compared for equality, so both sides must be one number."""
    cells = torch.tensor([[[-16.0, -16, 16, 16], [-23, -11, 23, 11], [-11, -23, 11, 23]]])
    anchors = make_anchors(cells, (128, 160), ((16, 20),))[None]
    generator = torch.Generator().manual_seed(6)
    corner = torch.randint(0, 90, (3, 12, 2), generator=generator)
    boxes = torch.cat((corner, corner + torch.randint(1, 60, (3, 12, 2), generator=generator)), dim=2).float()
    owner = torch.rand(3, 12, generator=generator) < 0.7
    ignored = ~owner & (torch.rand(3, 12, generator=generator) < 0.5)
    keys = torch.tensor([1, 2**61, 77])

    def core(boxes, owner, ignored, keys):
        matched, state = assign(anchors, boxes, owner, ignored, 0.7, 0.3, True, 0.5)
        return matched, state, *draw_samples(state, 64, 0.5, keys, RPN_STREAM)

    eager = core(boxes, owner, ignored, keys)
    best = (eager[1] == 1).sum()
    assert best > owner.sum(), "no tie: the test shows nothing"
    ours = torch.compile(core, fullgraph=True, dynamic=False)(boxes, owner, ignored, keys)
    for got, wanted in zip(ours, eager, strict=True):
        assert torch.equal(got, wanted)
