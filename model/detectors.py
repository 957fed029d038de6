"""Which class a detector's configuration asks for."""

from typing import get_args

from model.api import Detector
from model.backbones.config import BackboneConfig
from model.config import ModelConfig, small_model
from model.dense.config import SMALL_ATSS, SMALL_FCOS, SMALL_GFL, SMALL_RETINANET, AnyDense
from model.dense.detector import HEADS, DenseDetector
from model.faster_rcnn.detector import FasterRcnn

DetectorConfig = ModelConfig | AnyDense
DETECTORS: dict[type, type[Detector]] = {ModelConfig: FasterRcnn, **dict.fromkeys(HEADS, DenseDetector)}
CONFIGS: dict[str, type[DetectorConfig]] = {config.kind: config for config in get_args(DetectorConfig)}
# Each kind for canvases of about 200 x 350 pixels and two CPU cores.
SMALL: dict[str, DetectorConfig] = {
    config.kind: config for config in (small_model(), SMALL_RETINANET, SMALL_FCOS, SMALL_ATSS, SMALL_GFL)
}


def new_detector(config: BackboneConfig, num_classes: int) -> Detector:
    """With weights as torch draws them. num_classes counts the background."""
    return DETECTORS[type(config)](config, num_classes)
