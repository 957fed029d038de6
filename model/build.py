"""A new detector with its starting weights."""

import torch

from model.config import ModelConfig
from model.faster_rcnn.detector import Detector
from model.weights.pretrained import load_backbone_weights


def build_detector(config: ModelConfig, num_classes: int) -> Detector:
    """A detector with its backbone's starting weights. num_classes counts the background."""
    detector = Detector(config, num_classes)
    load_backbone_weights(detector, config)
    return detector.to(memory_format=torch.channels_last)
