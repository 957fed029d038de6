"""What `python -m train.bench` checks before it measures a speed: parity, graphs, and waits for the GPU."""

import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.api import Detector
from model.backbones.frozen_norm import fold_like
from model.dense.detector import DenseDetector
from model.faster_rcnn.detector import FasterRcnn
from model.faster_rcnn.parity import compare_losses, stock_twin
from pipeline.batch import Batch, Views
from pipeline.command.console import say
from pipeline.views import ViewConfig, ViewMaker
from train.bench.dense import check_dense
from train.bench.stock import has_stock, twin_of
from train.step import Learner, Teacher

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
# The share that may differ, by overlaps just at the threshold of NMS. Maps with noise of 1e-5 changed none of 4000; NMS
# that forgets the levels changes 0.0035 (resnet18, 320x512).
PROPOSAL_TOLERANCE = 0.0005
# Of a compiled loss, as a share of the total. In bfloat16 fused operations round less often, and a proposal that just
# passed a threshold may not pass it.
COMPILED_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def check_parity(detector: Detector, batch: Batch) -> dict[str, Any]:
    """Losses and gradients of ours and torchvision's on two of the images: float32, same weights, assigned alike."""
    clean = ViewConfig(corruptions=(), ratio_range=(1.0, 1.0))
    device = batch.images_BHW3.device
    views = ViewMaker(clean, device=device, dtype=torch.float32, clean=False)(batch, 0)
    view = views.corrupted
    assert view is not None
    few = tuple(
        value[:2]
        for value in (
            view.images_B3HW, view.sizes_B2, view.boxes_BG4, views.labels_BG, views.keys_B,
        )
    )  # fmt: skip
    # The two walk through the same layers in another order: TF32's ten bits would differ by more than what is allowed.
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        if isinstance(detector, FasterRcnn):
            return check_two_stage(detector, few)
        assert isinstance(detector, DenseDetector)
        return check_dense(detector, few)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed
        detector.zero_grad(set_to_none=True)


def check_two_stage(detector: FasterRcnn, few: tuple[Tensor, ...]) -> dict[str, Any]:
    """Same proposals and samples; the proposals of the two are compared too."""
    stock = fold_like(stock_twin(detector), detector).to(memory_format=torch.channels_last)
    loss, gradient, proposals = compare_losses(detector, stock, few, share_proposals=True)
    say(
        f"parity with torchvision: losses within {loss:.1e}, gradients within {gradient:.1e}, {proposals:.2%} of the "
        "proposals differ"
    )
    if not (loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE and proposals <= PROPOSAL_TOLERANCE):
        raise ValueError(
            f"no parity: losses differ by {loss:.1e} (allowed {LOSS_TOLERANCE:.0e}), gradients by "
            f"{gradient:.1e} (allowed {GRADIENT_TOLERANCE:.0e}), {proposals:.2%} of the proposals differ (allowed "
            f"{PROPOSAL_TOLERANCE:.1%})"
        )
    return {
        "loss_relative_difference": loss,
        "gradient_relative_difference": gradient,
        "proposals_differing_share": proposals,
        "ok": True,
    }


def compare_compiled(eager: tuple[Any, Any], compiled: tuple[Any, Any], views: Views, dtype: torch.dtype) -> float:
    """The greatest difference of a loss of two (learner, teacher), as a share of the total; too great is an error."""
    expected_T, got_T = (learner(views, look(views))[1] for learner, look in (eager, compiled))
    losses = eager[0].layout.losses
    total = expected_T[losses.index("total")].abs()
    difference = float((got_T - expected_T)[: len(losses)].abs().max() / total)
    say(f"parity of the compiled step: losses within {difference:.1e} of the eager total")
    if not difference <= COMPILED_TOLERANCE[dtype]:
        raise ValueError(
            f"no parity: a loss of the compiled step differs from the eager one by {difference:.1e} of "
            f"the total (allowed {COMPILED_TOLERANCE[dtype]:.0e})"
        )
    return difference


def count_graphs(learner: Learner, look: Teacher, batch: Batch) -> dict[str, int]:
    """Graph breaks of our teacher and learner and of the stock detector; compilations beyond one a canvas of each."""
    from torch._dynamo.testing import CompileCounterWithBackend

    device = batch.images_BHW3.device
    make_views = ViewMaker(ViewConfig(), device=device)
    canvases = make_views.corrupted_canvases((batch.images_BHW3.shape[1], batch.images_BHW3.shape[2]))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(learner, backend=counter, dynamic=False)
    compiled_look = torch.compile(look.__call__, backend=counter, dynamic=False)
    visits = dict.fromkeys(canvases, 0)
    first: tuple[int, int] | None = None  # graphs of the teacher and of the learner at the first step
    recompiles = 0
    draws = itertools.count()
    while min(visits.values()) < 2:  # every canvas, and every canvas again
        views = make_views(batch, next(draws))
        assert views.corrupted is not None
        canvas = (views.corrupted.images_B3HW.shape[-2], views.corrupted.images_B3HW.shape[-1])
        visits[canvas] += 1
        if visits[canvas] > 2:
            continue
        before = counter.frame_count
        seen = compiled_look(views)
        between = counter.frame_count
        compiled(views, seen)
        of_teacher, of_learner = between - before, counter.frame_count - between
        if first is None:
            first = of_teacher, of_learner
        else:  # the teacher has one canvas
            recompiles += of_teacher + max(0, of_learner - (first[1] if visits[canvas] == 1 else 0))
    assert first is not None
    counted = {
        "graph_breaks": sum(abs(graphs - 1) for graphs in first),  # what has no graph at all is broken, too
        "recompiles": recompiles,
        "canvases": len(canvases),
    }
    torch._dynamo.reset()
    if not has_stock(learner.student):
        return counted
    stock = twin_of(learner.student)
    images = list(torch.rand(2, 3, *batch.images_BHW3.shape[1:3], device=device))
    targets = [{"boxes": batch.boxes_BG4[row], "labels": batch.labels_BG[row]} for row in range(2)]
    # What is being counted here need not be warned about.
    torch._logging.set_logs(dynamo=logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock_explained = torch._dynamo.explain(stock)(images, targets)
    torch._dynamo.reset()
    return counted | {"stock_graph_breaks": stock_explained.graph_break_count}


def count_skipped_graphs() -> int:
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


def count_synchronisations(step: Callable[[], None], steps: int = 10) -> int:
    """Waits of the host for the GPU within `steps` calls together, as torch's debug mode sees them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
