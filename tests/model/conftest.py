"""Detectors with weights that make a test mean something: statistics as after training, scores that differ."""

import pytest
import torch
from torch import nn

from model.api import Detector, Want
from model.backbones.frozen_norm import calibrating
from model.build import build_detector
from model.config import ModelConfig
from model.dense.config import DenseConfig


def make_lively_detector(config: ModelConfig, num_classes: int = 4, seed: int = 0) -> Detector:
    """Random weights, but every norm's statistics are those of its input and the heads disagree about places.

    With untouched frozen norms activations die out over depth, all scores tie, and any comparison passes or fails by
    rounding alone.
    """
    torch.manual_seed(seed)
    detector = build_detector(config, num_classes)
    with calibrating(detector):
        detector.eval().features(torch.randn(4, 3, 128, 128))
        for layer, deviation in (
            (detector.rpn.head.cls_logits, 0.2),
            (detector.rpn.head.bbox_pred, 0.02),
            (detector.roi_heads.box_predictor.cls_score, 0.3),
            (detector.roi_heads.box_predictor.bbox_pred, 0.1),
        ):
            nn.init.normal_(layer.weight, std=deviation)
    return detector.train()


def make_lively_dense(config: DenseConfig, num_classes: int = 4, seed: int = 0) -> Detector:
    """Random weights, each layer scaled so that what it first says has a deviation of 1."""
    torch.manual_seed(seed)
    detector = build_detector(config, num_classes).eval()

    def scale(layer: nn.Module, _: tuple, out: torch.Tensor) -> torch.Tensor:
        hooks.pop(layer).remove()
        factor = 1 / out.std()
        layer.weight.mul_(factor)
        return out * factor

    layers = [module for module in detector.modules() if isinstance(module, nn.Conv2d)]
    hooks = {layer: layer.register_forward_hook(scale) for layer in layers}
    with torch.no_grad():
        for layer in layers:
            if layer.bias is not None:
                layer.bias.zero_()  # that of the classes makes every score about 0.01
        detector.look(torch.randn(1, config.num_channels, 128, 128), torch.tensor([[128, 128]]), Want(dense=True))
    assert not hooks
    return detector


def make_random_batch(generator: torch.Generator, num_images: int, canvas: tuple[int, int], num_boxes: int = 6):
    """images_B3HW (zero outside the sizes), sizes_B2 (odd, filling the canvas once), boxes_BG4, labels_BG (0 = padding
    anywhere, some images without boxes), keys_B.
    """

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    sizes_B2 = torch.stack((draw(40, canvas[0], num_images), draw(40, canvas[1], num_images)), dim=1) | 1
    sizes_B2[0] = torch.tensor([canvas[0] - 3, canvas[1] - 9])
    images_B3HW = torch.zeros(num_images, 3, *canvas)
    for image_3HW, (height, width) in zip(images_B3HW, sizes_B2.tolist(), strict=True):
        image_3HW[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    limit_B14 = sizes_B2.flip(1).repeat(1, 2)[:, None].float()
    corners_BG22 = torch.rand(num_images, num_boxes, 2, 2, generator=generator).sort(dim=2).values
    boxes_BG4 = corners_BG22.flatten(2) * limit_B14
    labels_BG = draw(0, 4, num_images, num_boxes)
    labels_BG[draw(0, num_images, 1)] = 0
    keys_B = draw(0, 2**62, num_images)
    return (
        images_B3HW.contiguous(memory_format=torch.channels_last),
        sizes_B2.to(torch.int32),
        boxes_BG4,
        labels_BG,
        keys_B,
    )


@pytest.fixture(scope="session")
def lively_detector():
    return make_lively_detector


@pytest.fixture(scope="session")
def random_batch():
    return make_random_batch


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one thread have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lively_dense():
    return make_lively_dense
