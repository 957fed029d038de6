"""A new detector with its starting weights."""

from collections.abc import Sequence

import torch

from model.api import Detector
from model.backbones import timm_body
from model.backbones.config import BackboneConfig
from model.detectors import new_detector
from model.weights.pretrained import load_starting_weights


def build_detector(config: BackboneConfig, num_classes: int, classes: Sequence[str] | None = None) -> Detector:
    """With the weights that the configuration starts from. num_classes counts the background, `classes` does not: their
    names, where they are known, are compared with those of a whole detector's weights.
    """
    detector = new_detector(config, num_classes)
    if config.backbone.startswith(timm_body.PREFIX):
        timm_body.check_exportable(detector.get_submodule("backbone.body"), config.backbone, config.num_channels)
    load_starting_weights(detector, config, classes)
    return detector.to(memory_format=torch.channels_last)
