"""The static core against torchvision's own loops: same weights, same samples."""

from dataclasses import replace

import pytest
import torch

from model.backbones.frozen_norm import fold_like
from model.config import ModelConfig, small_model
from model.faster_rcnn.detector import Proposals
from model.faster_rcnn.parity import compare_losses, compare_proposals, stock_twin
from tests.model.stock import compare_detections, stock_detections

NARROW = {
    "weights": "none",
    "norm": "frozen",
    "fpn_channels": 32,
    "representation_size": 48,
    "rpn_pre_nms_train": 150,
    "rpn_post_nms_train": 120,
    "rpn_pre_nms_test": 100,
    "rpn_post_nms_test": 80,
    "rpn_samples_per_image": 64,
    "regions_per_image": 32,
    "trainable_layers": 5,
    "detections_per_image": 30,
}
CONFIGS = {
    "resnet18": ModelConfig(backbone="resnet18", **NARROW),
    "mobilenet_v2": small_model(**NARROW),
    "mobilenet_v3_large": ModelConfig(backbone="mobilenet_v3_large", **NARROW),
    "resnet50": ModelConfig(backbone="resnet50", **NARROW | {"trainable_layers": 3}),  # bottlenecks, as in ResNet-101
}
NUM_BATCHES = {"resnet50": 2}


@pytest.mark.parametrize(
    "backbone",
    [name if name == "mobilenet_v2" else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS],
)
def test_losses_gradients_and_detections_equal_torchvision(backbone, lively_detector, random_batch):
    """20 random batches (2 of the large network) with odd sizes, padding between boxes, and images without boxes."""
    detector = lively_detector(CONFIGS[backbone])
    stock = fold_like(stock_twin(detector), detector)
    generator = torch.Generator().manual_seed(7)
    for step in range(NUM_BATCHES.get(backbone, 20)):
        canvas = ((96, 128), (128, 96), (64, 160))[step % 3]
        batch = random_batch(generator, 2, canvas)
        loss, gradient, proposals = compare_losses(detector.train(), stock.train(), batch)
        assert loss < 1e-4, step
        assert gradient < 1e-3, step
        assert proposals == 0, step
        detections = detector.eval().detect(*batch[:2])
        assert detections.count_B.sum() > 10, "a detector that sees nothing proves nothing"
        assert compare_detections(detections, stock_detections(stock.eval(), *batch[:2])) < 1e-4, step


def make_proposals(num_proposals: int, score_step: float):
    """Boxes 10 pixels apart with falling scores."""
    left_P = torch.arange(num_proposals) * 10.0
    boxes_P4 = torch.stack((left_P, left_P, left_P + 8, left_P + 6), dim=1)
    return boxes_P4, 0.9 - score_step * torch.arange(num_proposals)


def compare(ours_M4, boxes_N4, scores_N, num_empty=3):
    padded = torch.cat((ours_M4, torch.zeros(num_empty, 4)))
    real = torch.arange(len(padded)) < len(ours_M4)
    return compare_proposals(Proposals(padded[None], real[None]), [boxes_N4], [scores_N])


def test_proposals_may_differ_by_rounding_and_ties():
    boxes_P4, scores_P = make_proposals(100, 1e-3)
    assert compare(boxes_P4, boxes_P4, scores_P) == 0
    assert compare(boxes_P4 + 1e-3, boxes_P4, scores_P) == 0
    swapped = torch.arange(100)
    swapped[[40, 41]] = torch.tensor([41, 40])
    assert compare(boxes_P4[swapped], boxes_P4, scores_P) == 0.02  # not a tie
    boxes_P4, tied_P = make_proposals(100, 1e-5)
    assert compare(boxes_P4[swapped], boxes_P4, tied_P) == 0


def test_wrong_proposals_are_counted():
    boxes_P4, scores_P = make_proposals(100, 1e-3)
    assert compare(boxes_P4.flip(0), boxes_P4, scores_P) == 1
    assert compare(boxes_P4 + torch.tensor([0, 0, 0, 0.1]), boxes_P4, scores_P) == 1
    assert compare(boxes_P4[:1].expand(100, 4), boxes_P4, scores_P) == 0.99
    # One is missing: it counts, that those after it moved up by a rank does not.
    assert compare(boxes_P4[torch.arange(100) != 30], boxes_P4, scores_P) == 0.01
    assert compare(boxes_P4, boxes_P4[:60], scores_P[:60]) == 0.4
    assert compare(boxes_P4[:0], boxes_P4, scores_P) == 1
    assert compare(boxes_P4, boxes_P4[:0], scores_P[:0]) == 1
    assert compare(boxes_P4[:0], boxes_P4[:0], scores_P[:0]) == 0


def test_the_worst_image_is_told():
    boxes_P4, scores_P = make_proposals(10, 1e-2)
    ours = Proposals(torch.stack((boxes_P4, boxes_P4 + 1)), torch.ones(2, 10, dtype=torch.bool))
    assert compare_proposals(ours, [boxes_P4] * 2, [scores_P] * 2) == 1


def test_shared_proposals_hide_no_difference_of_the_proposals(lively_detector, random_batch):
    detector = lively_detector(CONFIGS["resnet18"])
    stock = fold_like(stock_twin(detector), detector)
    detector.config = replace(detector.config, rpn_nms_threshold=0.5)
    batch = random_batch(torch.Generator().manual_seed(7), 2, (128, 160))
    loss, gradient, proposals = compare_losses(detector, stock, batch, share_proposals=True)
    assert loss < 1e-4
    assert gradient < 1e-3
    assert proposals > 0.1
    assert compare_losses(detector, stock, batch).gradient > 1e-3
