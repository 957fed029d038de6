"""Fixed-slot suppression against torchvision: on the CPU, in the CUDA simulator, as PTX, on a GPU if there is one."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba import float32
from numba.extending import intrinsic
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from kernels.checks import ptx
from kernels.detection.nms import nms
from kernels.detection.overlap import round_down_to_float32
from kernels.detection.quotient import make_exceeds

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def per_group(boxes_N4, scores_N, groups_N, threshold):
    """torchvision's rule group by group: batched_nms shifts coordinates of few boxes, which rounds them."""
    kept = []
    for group in groups_N.unique():
        members = torch.nonzero(groups_N == group)[:, 0]
        kept.append(members[torchvision_nms(boxes_N4[members], scores_N[members], threshold)])
    kept = torch.cat(kept).sort().values if kept else torch.empty(0, dtype=torch.int64)
    return kept[scores_N[kept].sort(descending=True, stable=True).indices]


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])]


def check(boxes_N4, scores_N, groups_N, threshold, num_slots, device="cpu"):
    expected = per_group(boxes_N4, scores_N, groups_N, threshold)[:num_slots]
    given = [value[None].to(device) for value in (boxes_N4, scores_N, groups_N)]
    keep_1K, count_1 = (result.cpu() for result in nms(*given, threshold, num_slots))
    assert keep_1K.shape == (1, num_slots)
    assert count_1.tolist() == [len(expected)]
    assert torch.equal(keep_1K[0, : len(expected)], expected)
    assert not keep_1K[0, len(expected) :].any()


def crowd(num_boxes, seed, whole=False, spread=300.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_boxes, 2, generator=generator) * spread
    boxes = torch.cat((corner, corner + torch.rand(num_boxes, 2, generator=generator) * 80), dim=1)
    scores = torch.rand(num_boxes, generator=generator)
    groups = torch.randint(0, 4, (num_boxes,), generator=generator)
    return (boxes.round() if whole else boxes), scores, groups


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_boxes", [1, 33, 700])
def test_random_boxes(seed, num_boxes):
    boxes, scores, groups = crowd(num_boxes, seed)
    check(boxes, scores, groups, (0.3, 0.5, 0.7)[seed % 3], num_slots=(5, 64, 1000)[seed % 3])


def test_whole_pixels_equal_public_batched_nms():
    """With whole coordinates torchvision's shifted boxes are exact, so its public function is the reference itself."""
    boxes, _, groups = crowd(400, 1, whole=True)
    scores = torch.randperm(400, generator=torch.Generator().manual_seed(0)) / 400
    expected = batched_nms(boxes, scores, groups, 0.5)
    keep, count = nms(boxes[None], scores[None], groups[None], 0.5, 400)
    assert torch.equal(keep[0, : count[0]], expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_adversarial_boxes(threshold, device):
    """Ties of score, identical boxes, overlaps of exactly the threshold, no area, corners swapped, huge and tiny."""
    boxes = torch.tensor(
        [
            [0, 0, 10, 10],
            [0, 0, 10, 10],  # the same box, the same score
            [0, 0, 10, 5],  # overlap exactly 0.5
            [0, 0, 10, 7],  # exactly 0.7 in single precision rounding
            [0, 0, 10, 3],
            [4, 4, 4, 4],  # a point
            [4, 4, 4, 4],
            [4, 0, 4, 10],  # a line
            [9, 9, 1, 1],  # corners swapped
            [-1e6, -1e6, 1e6, 1e6],
            [1e-3, 1e-3, 2e-3, 2e-3],
            [1e-3, 1e-3, 2e-3, 2e-3],
            [1e18, 1e18, 2e18, 2e18],
            [1e18, 1e18, 2e18, 2e18],  # areas of infinity in single precision
            [0, 0, 1e-30, 1e-30],  # areas below the smallest float
        ],
        dtype=torch.float32,
    )
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(boxes), generator=generator)
        scores = torch.randint(0, 3, (len(boxes),), generator=generator) / 3
        groups = torch.randint(0, 2, (len(boxes),), generator=generator) * (seed % 2)
        check(boxes[order], scores, groups, threshold, len(boxes), device)


def test_rows_do_not_mix_and_missing_candidates_take_no_slot():
    boxes, scores, groups = crowd(60, 3)
    missing = torch.arange(60) % 3 == 0
    batch_scores = torch.stack((scores, torch.where(missing, -torch.inf, scores), torch.full_like(scores, torch.nan)))
    keep, count = nms(boxes.expand(3, -1, -1), batch_scores, groups.expand(3, -1), 0.5, 50)
    present = torch.nonzero(~missing)[:, 0]
    for row, members in enumerate((torch.arange(60), present)):
        expected = members[per_group(boxes[members], scores[members], groups[members], 0.5)][:50]
        assert torch.equal(keep[row, : count[row]], expected)
    assert count[2] == 0
    assert not keep[2].any()


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_look_at(device):
    empty = [torch.zeros(2, 0, *more, device=device) for more in ((4,), (), ())]
    keep, count = nms(*empty, 0.5, 3)
    assert keep.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert count.tolist() == [0, 0]
    empty = [torch.zeros(0, 5, *more, device=device) for more in ((4,), (), ())]
    keep, count = nms(*empty, 0.5, 3)
    assert keep.shape == (0, 3)
    assert count.shape == (0,)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(B, N, 4\)"):
        nms(torch.zeros(5, 4), torch.zeros(5), torch.zeros(5), 0.5, 3)
    with pytest.raises(ValueError, match="groups"):
        nms(torch.zeros(1, 5, 4), torch.zeros(1, 5), torch.zeros(1, 4), 0.5, 3)


def test_operator_is_sound_for_tracing():
    """Schema, fake kernel and dispatch, by torch's own checker."""
    boxes, scores, groups = crowd(20, 5)
    arguments = (boxes[None], scores[None], groups[None].to(torch.int32), 0.5, 7)
    torch.library.opcheck(torch.ops.fairweather.nms.default, arguments)


def test_threshold_rounds_down():
    assert float(round_down_to_float32(0.5)) == 0.5
    for threshold in (0.1, 0.3, 0.7):
        rounded = round_down_to_float32(threshold)
        assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(1)))


SIMULATED = """
import numpy as np, sys, torch
from kernels.detection import nms_cuda
from tests.kernels import simulator
simulator.prepare()
def launch(boxes, groups, threshold, num_slots, alive):
    arrays = [tensor.numpy() for tensor in (boxes, groups)]
    nms_cuda.suppress_groups_kernel[(len(boxes), 2), 32](*arrays, threshold, num_slots, alive.numpy())
nms_cuda.launch = launch
for case in sys.argv[1:]:
    data = np.load(case)
    tensors = [torch.from_numpy(data[name]) for name in ("boxes", "scores", "groups")]
    keep, count = nms_cuda.suppress(*tensors, np.float32(data["threshold"]), int(data["num_slots"]))
    np.savez(case + ".out.npz", keep=keep.numpy(), count=count.numpy())
"""


@pytest.mark.long
def test_simulated_cuda_kernel_equals_cpu(tmp_path):
    """Sorting, suppression and merging; one row partly missing, one empty; fewer and more candidates than a tile; slots
    that run out; more groups than blocks. One process for all."""
    expected = {}
    for num_boxes, num_slots in ((1, 4), (50, 7), (101, 200)):
        boxes, scores, groups = crowd(num_boxes, 9, spread=120.0)
        scores = (scores * 20).round() / 20  # some are equal
        rows = torch.stack((scores, torch.where(scores > 0.6, -torch.inf, scores), torch.full_like(scores, torch.nan)))
        boxes, groups = boxes.expand(3, -1, -1), groups.to(torch.int32).expand(3, -1)
        case = str(tmp_path / f"{num_boxes}.npz")
        expected[case] = nms(boxes, rows, groups, 0.4, num_slots)
        arrays = {"boxes": boxes.numpy(), "scores": rows.numpy(), "groups": groups.numpy()}
        np.savez(case, threshold=round_down_to_float32(0.4), num_slots=num_slots, **arrays)
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command, root = [sys.executable, "-c", SIMULATED, *expected], Path(__file__).parents[2]
    subprocess.run(command, check=True, env=environment, cwd=root)
    for case, (keep, count) in expected.items():
        result = np.load(case + ".out.npz")
        assert result["count"].tolist() == count.tolist()
        assert np.array_equal(result["keep"], keep.numpy())


def test_kernel_rounds_every_product():
    """Fused with a sum, a product would not be rounded as the CPU's is, and an overlap could fall over the threshold.

    Registers, spills and double precision: test_cuda.py, with all other kernels.
    """
    code, _ = ptx.all_kernels()["nms"].compile(90)
    divisions = code.count("div.approx.f32")
    assert divisions > 0
    assert code.count("mul.rn.f32") == 3 * divisions  # an intersection and two areas, which ptxas may not fuse
    assert code.count("fma.rn.f32") == 6 * divisions  # those of the division alone


@intrinsic
def fused(context, a, b, c):
    """a * b + c with one rounding, as a GPU's fma."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return float32(float32, float32, float32), generate


@pytest.mark.parametrize("last_places", [-2, -1, 0, 1, 2])
def test_the_gpus_quotient_is_exact(last_places):
    """With any reciprocal as near as a GPU's; by the processor's own division."""
    step = np.float32(2.0**-23)

    @numba.njit(error_model="numpy")
    def reciprocal(number):
        near = np.float32(1) / number
        return near + near * np.float32(last_places) * step

    exceeds = numba.njit(error_model="numpy")(make_exceeds(reciprocal, fused))

    @numba.njit(error_model="numpy")
    def wrong(a_N, b_N, thresholds_N):
        count = 0
        for i in range(len(a_N)):
            count += exceeds(a_N[i], b_N[i], thresholds_N[i]) != (a_N[i] / b_N[i] > thresholds_N[i])
        return count

    generator = np.random.default_rng(last_places + 2)
    num = 1_000_000
    b = generator.uniform(1, 2, num).astype(np.float32) * np.exp2(generator.integers(-100, 100, num)).astype(np.float32)
    a = (b * generator.uniform(0, 1, num).astype(np.float32)).astype(np.float32)
    quotients = a / b  # its own threshold: the last bit decides
    for thresholds in (quotients, np.nextafter(quotients, np.float32(0)), np.nextafter(quotients, np.float32(1))):
        assert wrong(a, b, thresholds) == 0
    ends = np.float32([0, 1e-45, 1e-38, 1e-30, 1e-3, 0.5, 1, 3, 1e30, 3e38, np.inf, np.nan])
    a, b = (values.ravel() for values in np.meshgrid(ends, np.concatenate((ends, -ends[1:]))))
    for threshold in (0, 0.3, 0.5, 1):
        assert wrong(a, b, np.full(a.shape, threshold, np.float32)) == 0


@pytest.mark.gpu
@NEEDS_GPU
def test_gpu_equals_cpu_without_waiting():
    boxes, scores, groups = crowd(3000, 11)
    rows = [value.expand(4, *value.shape) for value in (boxes, scores, groups.to(torch.int32))]
    expected = nms(*rows, 0.7, 500)
    device_rows = [value.contiguous().cuda() for value in rows]
    nms(*device_rows, 0.7, 500)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        keep, count = nms(*device_rows, 0.7, 500)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(keep.cpu(), expected[0])
    assert torch.equal(count.cpu(), expected[1])
