"""The static core against torchvision's own loops: same weights, same samples."""

import pytest
import torch

from model.config import ModelConfig, small_model
from model.parity import compare_detections, compare_losses, stock_detections, stock_twin

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


@pytest.mark.parametrize("backbone", CONFIGS)
def test_losses_gradients_and_detections_equal_torchvision(backbone, lively_detector, random_batch):
    """20 random batches (2 of the large network) with odd sizes, padding between boxes, and images without boxes."""
    detector = lively_detector(CONFIGS[backbone])
    stock = stock_twin(detector)
    generator = torch.Generator().manual_seed(7)
    for step in range(NUM_BATCHES.get(backbone, 20)):
        canvas = ((128, 160), (160, 128), (96, 224))[step % 3]
        batch = random_batch(generator, 2, canvas)
        loss, gradient = compare_losses(detector.train(), stock.train(), batch)
        assert loss < 1e-4, step
        assert gradient < 1e-3, step
        detections = detector.eval().detect(*batch[:2])
        assert detections.count_B.sum() > 10, "a detector that sees nothing proves nothing"
        assert compare_detections(detections, stock_detections(stock.eval(), *batch[:2])) < 1e-4, step
