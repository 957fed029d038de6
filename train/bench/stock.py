"""torchvision's detectors and its training loop, for `python -m train.bench` to compare with."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kernels.launch.resize import DEVIATION, MEAN
from model.api import Detector
from model.config import ModelConfig
from model.dense import stock as dense
from model.dense.config import FcosConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.faster_rcnn import parity as two_stage
from model.faster_rcnn.detector import FasterRcnn
from pipeline.batch import Views


def has_stock(detector: Detector) -> bool:
    """Whether torchvision has such a detector."""
    return isinstance(detector.config, ModelConfig | RetinaNetConfig | FcosConfig)


def twin_of(detector: Detector) -> Any:
    """torchvision's detector with the weights, mode and device of ours."""
    if isinstance(detector, FasterRcnn):
        return two_stage.stock_twin(detector)
    assert isinstance(detector, DenseDetector)
    return dense.stock_twin(detector)


def stock_step(student: Detector, teacher: Detector, views: Views, dtype: torch.dtype) -> Callable[[], None]:
    """torchvision's references/detection/engine.py: list of images in [0, 1], sum of losses, check, step."""
    assert views.clean is not None
    assert views.corrupted is not None
    height, width = views.corrupted.images_B3HW.shape[-2:]
    device = views.corrupted.images_B3HW.device
    twins = []
    for detector in (student, teacher):
        twin = twin_of(detector).to(memory_format=torch.channels_last)
        twin.transform = GeneralizedRCNNTransform(height, width, MEAN, DEVIATION)
        twins.append(twin)
    stock, stock_teacher = twins[0].train(), twins[1].eval().requires_grad_(False)
    mean = torch.tensor(MEAN, device=device)[:, None, None]
    deviation = torch.tensor(DEVIATION, device=device)[:, None, None]
    images = list((views.corrupted.images_B3HW.float() * deviation + mean).contiguous())
    targets = [
        {"boxes": boxes.float(), "labels": labels}
        for boxes, labels in zip(views.corrupted.boxes_BG4, views.labels_BG, strict=True)
    ]
    parameters = [parameter for parameter in stock.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    clean = views.clean.images_B3HW

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                stock_teacher.backbone(clean)
            losses = sum(stock(images, targets).values())
        if not math.isfinite(losses.item()):
            raise ValueError("the stock loop's loss is not finite; its weights are random, run the benchmark again")
        optimizer.zero_grad()
        losses.backward()
        nn.utils.clip_grad_norm_(parameters, 35.0)
        optimizer.step()

    return step
