"""A new detector: which class a configuration asks for, and its starting weights."""

from typing import get_args

import torch

from model.api import Detector
from model.backbones import timm_body
from model.backbones.config import BackboneConfig
from model.config import ModelConfig
from model.dense.config import AnyDense
from model.dense.detector import HEADS, DenseDetector
from model.faster_rcnn.detector import FasterRcnn
from model.weights.pretrained import load_backbone_weights

DetectorConfig = ModelConfig | AnyDense
DETECTORS: dict[type, type[Detector]] = {ModelConfig: FasterRcnn, **dict.fromkeys(HEADS, DenseDetector)}
CONFIGS: dict[str, type[DetectorConfig]] = {config.kind: config for config in get_args(DetectorConfig)}


def new_detector(config: BackboneConfig, num_classes: int) -> Detector:
    """With weights as torch draws them. num_classes counts the background."""
    return DETECTORS[type(config)](config, num_classes)


def build_detector(config: BackboneConfig, num_classes: int) -> Detector:
    """With the weights that the configuration starts from."""
    detector = new_detector(config, num_classes)
    if config.backbone.startswith(timm_body.PREFIX):
        timm_body.check_exportable(detector.get_submodule("backbone.body"), config.backbone)
    load_backbone_weights(detector, config)
    return detector.to(memory_format=torch.channels_last)
