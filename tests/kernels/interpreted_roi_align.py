"""Run by test_roi_align.py under TRITON_INTERPRET=1: the GPU's RoIAlign as Python, against two references.

torchvision's, and the product of two operators in float64, whose gradient torch's gradcheck confirms.
"""

import pytest
import torch
from torchvision.ops import roi_align

from kernels.detection.roi_align_triton import crop_levels, spread_levels


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


def axis_weights(start_N, end_N, size, output_size, samples, aligned):
    """(N, S, size): what each pixel of an axis gives to each bin; float64."""
    start_N, end_N = start_N - aligned * 0.5, end_N - aligned * 0.5
    length_N = end_N - start_N if aligned else (end_N - start_N).clamp(min=1)
    bin_N = length_N / output_size
    rows = []
    for start, step in zip(start_N.tolist(), bin_N.tolist(), strict=True):
        count = samples or max(int(torch.tensor(step).ceil()), 0)
        fraction_I = (torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1)
        at_SI = start + step * (torch.arange(output_size)[:, None] + fraction_I)
        inside_SI1 = ((at_SI >= -1) & (at_SI <= size))[..., None]
        tap_SIX = (1 - (at_SI.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()).clamp(min=0)
        rows.append((tap_SIX * inside_SI1).sum(1) / max(count, 1))
    return torch.stack(rows)


def reference(features, boxes, image, level, scales, output_size, samples, aligned):
    crops = []
    for number, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        height, width = feature.shape[-2:]
        x1, y1, x2, y2 = (boxes.double() * scale).unbind(1)
        down = axis_weights(y1, y2, height, output_size, samples, aligned)
        across = axis_weights(x1, x2, width, output_size, samples, aligned)
        cut = torch.einsum("nrh,nchw,nsw->ncrs", down, feature[image], across)
        crops.append(cut * (level == number)[:, None, None, None])
    return sum(crops)


def test_reference_has_its_own_gradient_and_torchvisions_crops():
    torch.manual_seed(0)
    boxes, image = awkward_boxes(), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])
    feature = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    for samples, aligned in ((2, False), (0, True)):
        arguments = (boxes, image, torch.zeros(9), [1 / 16], 3, samples, aligned)
        got = reference([feature], *arguments)
        rois = torch.cat((image[:, None].double(), boxes.double()), dim=1)
        torch.testing.assert_close(got, roi_align(feature, rois, 3, 1 / 16, samples, aligned))
        assert torch.autograd.gradcheck(lambda each: reference([each], *arguments), feature)  # noqa: B023


@pytest.mark.parametrize(
    ("output_size", "samples", "aligned", "channels"),
    [(7, 2, False, 3), (1, 1, False, 1), (2, 0, True, 5), (2, 3, True, 130)],
)
def test_crops_and_gradients_equal_the_references(output_size, samples, aligned, channels):
    generator = torch.Generator().manual_seed(channels)
    boxes, image = awkward_boxes(), torch.randint(0, 2, (9,), generator=generator)
    level = torch.randint(0, 2, (9,), generator=generator)  # none on the third map
    scales = [1 / 8, 1 / 16, 1 / 64]
    maps = [torch.randn(2, channels, 64 // s, 80 // s, generator=generator) for s in (8, 16, 64)]
    maps = [each.contiguous(memory_format=torch.channels_last) for each in maps]
    arguments = (boxes, image, level, scales)
    got = crop_levels(maps, *arguments, output_size, samples, aligned)
    exact = [each.double().requires_grad_() for each in maps]
    expected = reference(exact, *arguments, output_size, samples, aligned)
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)
    weight = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    sizes = [side for each in maps for side in each.shape[-2:]]
    grads = spread_levels(weight, *arguments, sizes, 2, samples, aligned)
    for grad, exactly in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, exactly.float(), rtol=1e-4, atol=1e-5)


def test_a_map_of_one_pixel_no_region_and_half_precision():
    torch.manual_seed(0)
    tiny = torch.randn(1, 4, 1, 1)
    boxes, image, level = torch.tensor([[0.0, 0.0, 3.0, 2.0]]), torch.tensor([0]), torch.tensor([0])
    crops = crop_levels([tiny], boxes, image, level, [1 / 4], 7, 2, False)
    expected = roi_align(tiny, torch.cat((image[:, None].float(), boxes), dim=1), 7, 1 / 4, 2)
    torch.testing.assert_close(crops, expected)
    none = (boxes[:0], image[:0], level[:0])
    assert crop_levels([tiny], *none, [1 / 4], 7, 2, False).shape == (0, 4, 7, 7)
    (grad,) = spread_levels(torch.zeros(0, 4, 7, 7), *none, [1 / 4], [3, 9], 2, 2, False)
    assert grad.shape == (2, 4, 3, 9)
    assert not grad.any()
    half = torch.randn(1, 4, 9, 9).to(torch.bfloat16)
    crops = crop_levels([half], boxes, image, level, [1.0], 7, 2, False)
    assert crops.dtype == torch.bfloat16
    assert crops.stride()[1] == 1
    exact = roi_align(half.float(), torch.cat((image[:, None].float(), boxes), dim=1), 7, 1.0, 2)
    torch.testing.assert_close(crops, exact.to(torch.bfloat16), rtol=0.01, atol=1e-3)
