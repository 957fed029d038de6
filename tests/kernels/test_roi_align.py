"""The CPU operator against torchvision's, forward and backward, and its use over a pyramid; the GPU's on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import MultiScaleRoIAlign, roi_align

from model.faster_rcnn import roi


def awkward_boxes():
    """Inside, under a pixel, without area, on the far corner, past every side, larger than the map, far away."""
    return torch.tensor(
        [
            [3.3, 4.7, 40.2, 51.9],
            [10.0, 10.0, 10.2, 10.1],
            [0.0, 0.0, 0.0, 0.0],
            [79.9, 63.9, 80.0, 64.0],
            [-30.0, -20.0, 20.0, 30.0],
            [60.0, 40.0, 130.0, 110.0],
            [-50.0, -50.0, 200.0, 200.0],
            [1e5, 1e5, 1e5 + 9, 1e5 + 9],
            [50.0, 30.0, 20.0, 10.0],
        ]
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("output_size", "samples"), [(7, 2), (1, 1), (3, 3), (7, 0), (2, 0)])
@pytest.mark.parametrize("stride", [8, 16])
def test_operator_equals_torchvision_on_one_map(output_size, samples, stride, aligned):
    generator = torch.Generator().manual_seed(stride)
    boxes = awkward_boxes().repeat(2, 1)
    image = torch.arange(2).repeat_interleave(len(boxes) // 2)
    feature = torch.randn(2, 5, 64 // stride, 80 // stride, generator=generator, requires_grad=True)
    rois = torch.cat((image[:, None].float(), boxes), dim=1)
    expected = roi_align(feature, rois, output_size, 1 / stride, samples, aligned)
    level = torch.zeros_like(image)
    operator = torch.ops.fairweather.roi_align_levels
    got = operator([feature], boxes, image, level, [1 / stride], output_size, samples, aligned)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn(expected.shape, generator=generator)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), feature)
    (grad,) = torch.autograd.grad((got * weight).sum(), feature)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exporting", [False, True])
def test_levels_equal_torchvisions_pooler(monkeypatch, exporting):
    """Both ways through roi.py: the operator, and every level asked for every box (export)."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    generator = torch.Generator().manual_seed(0)
    canvas = (256, 320)
    features = tuple(
        torch.randn(2, 6, canvas[0] // stride, canvas[1] // stride, generator=generator, requires_grad=True)
        for stride in (4, 8, 16, 32)
    )
    corner = torch.rand(2, 40, 2, generator=generator) * 150
    side = 2 ** (torch.rand(2, 40, 2, generator=generator) * 10 - 2)  # a quarter of a pixel to the whole canvas
    boxes = torch.cat((corner, corner + side), dim=2).clamp(max=256)
    boxes[0, 0] = 0
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(level): feature for level, feature in enumerate(features)}
    expected = pooler(named, list(boxes), [canvas] * 2)
    level = roi.map_levels(boxes, 2, 5, 224)
    got = roi.roi_align_levels(features, boxes, level, [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn(expected.shape, generator=generator)
    for grad, wanted in zip(
        torch.autograd.grad((got * weight).sum(), features),
        torch.autograd.grad((expected * weight).sum(), features),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_crops_of_one_map_at_given_boxes():
    """A ramp has the box's own centre values: bin (row, column) of a box reads its centre's x exactly."""
    ramp = torch.arange(20.0).expand(1, 1, 16, 20)
    crops = roi.roi_align(ramp, torch.tensor([[[16.0, 16.0, 72.0, 72.0]]]), 1 / 8, 7)
    assert crops.shape == (1, 1, 7, 7)
    torch.testing.assert_close(crops[0, 0, 3], torch.arange(7) + 2.5)


def test_half_precision_maps_give_half_precision_crops():
    feature = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    crops = roi.roi_align(feature, torch.tensor([[[0.0, 0.0, 63.0, 63.0]]]), 1 / 8, 7)
    assert crops.dtype == torch.bfloat16
    crops.float().sum().backward()
    assert feature.grad.dtype == torch.bfloat16


def test_operator_is_sound_for_tracing():
    features = [torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)]
    boxes, image, level = torch.rand(5, 4) * 60, torch.tensor([0, 1, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 0])
    arguments = (features, boxes, image, level, [1 / 8, 1 / 16], 3, 2)
    torch.library.opcheck(torch.ops.fairweather.roi_align_levels.default, arguments)


def test_on_a_gpu_crops_and_gradients_keep_the_precision():
    """What tracing is told: bfloat16 and channels-last throughout."""
    with FakeTensorMode():
        maps = [torch.empty(2, 8, side, side, dtype=torch.bfloat16, device="cuda") for side in (8, 4)]
        boxes = torch.empty(5, 4, device="cuda")
        image = level = torch.empty(5, dtype=torch.int64, device="cuda")
        places, scales = (boxes, image, level), [1 / 8, 1 / 16]
        crops = torch.ops.fairweather.roi_align_levels(maps, *places, scales, 7, 2)
        grads = torch.ops.fairweather.roi_align_levels_backward(crops, *places, scales, [8, 8, 4, 4], 2, 2, False)
    for tensor, shape in zip((crops, *grads), ((5, 8, 7, 7), (2, 8, 8, 8), (2, 8, 4, 4)), strict=True):
        assert (tensor.shape, tensor.dtype, tensor.stride(1)) == (shape, torch.bfloat16, 1)


@pytest.mark.long
@pytest.mark.slow
def test_the_gpus_kernels_in_tritons_interpreter():
    pytest.importorskip("triton", reason="no triton: it is installed with PyTorch's builds for CUDA")
    script = Path(__file__).with_name("interpreted_roi_align.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(script)]
    root = str(Path(__file__).parents[2])
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=root)
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("aligned", [False, True])
def test_gpu_equals_cpu_and_repeats_its_bits(aligned):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 256, 64 // s, 80 // s, generator=generator, requires_grad=True) for s in (1, 2, 8)]
    boxes = awkward_boxes().repeat(20, 1)
    image, level = (torch.randint(0, high, (len(boxes),), generator=generator) for high in (2, 3))
    arguments = (boxes, image, level)
    scales, samples = [1.0, 0.5, 0.125], 0 if aligned else 2
    operator = torch.ops.fairweather.roi_align_levels
    expected = operator(maps, *arguments, scales, 7, samples, aligned)
    weight = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weight).sum(), maps)
    found = []
    for _ in range(2):
        there = [each.detach().cuda().requires_grad_() for each in maps]
        got = operator(there, *(each.cuda() for each in arguments), scales, 7, samples, aligned)
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-5)
        found.append(torch.autograd.grad((got * weight.cuda()).sum(), there))
    for first, second, exactly in zip(*found, wanted, strict=True):
        torch.testing.assert_close(first.cpu(), exactly, rtol=1e-3, atol=1e-3)
        assert torch.equal(first, second)
