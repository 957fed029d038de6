"""A detector, and two packed domains whose objects are near what it detects: its figures are far from 0 and 100.

The detector's weights are random but lively; the objects come from torchvision's own inference with these weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN

from model.api import Detector
from model.backbones.frozen_norm import calibrating
from model.build import build_detector
from model.config import small_model
from model.faster_rcnn.parity import stock_twin
from model.weights.checkpoint import save_detector
from pipeline.files.pixels import resize, training_size
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset

CLASSES = ("bus", "car", "person")
SHORT_SIDE, LONG_SIDE = 64, 96
# Original sizes: they scale by odd factors, and stay in the canvases 64x96 and 96x64.
SIZES = {
    "daytime_clear": [(128, 192), (120, 190), (192, 128), (64, 96), (125, 170), (180, 121), (100, 150), (128, 192),
                      (77, 99)],
    "night_rainy": [(128, 192), (192, 128), (90, 131), (128, 180), (60, 88)],
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """What the tests evaluate."""

    checkpoint: Path
    detector: Detector
    data: dict[str, Path]
    sources: dict[str, Path]

    def dataset(self, domain: str = "daytime_clear") -> PackedDataset:
        return PackedDataset(self.data[domain])


def lively_detector(seed: int = 0) -> Detector:
    """Random weights whose norms have the statistics of their input, so that scores differ from place to place."""
    torch.manual_seed(seed)
    config = small_model(weights="none", norm="frozen", fpn_channels=32, representation_size=32, rpn_pre_nms_test=100,
                         rpn_post_nms_test=40, detections_per_image=30)  # fmt: skip
    detector = build_detector(config, len(CLASSES) + 1)
    with calibrating(detector):
        detector.eval().features(torch.randn(4, 3, 128, 128))
        for layer, deviation in (
            (detector.rpn.head.cls_logits, 0.2),
            (detector.rpn.head.bbox_pred, 0.02),
            (detector.roi_heads.box_predictor.cls_score, 0.6),
            (detector.roi_heads.box_predictor.bbox_pred, 0.1),
        ):
            nn.init.normal_(layer.weight, std=deviation)
    return detector.eval()


@torch.no_grad()
def torchvision_detections(stock: FasterRCNN, image: np.ndarray) -> dict[str, np.ndarray]:
    """torchvision's whole forward, its own normalisation, padding and post-processing included, without resizing."""
    stock.transform.min_size, stock.transform.max_size = (min(image.shape[:2]),), max(image.shape[:2])
    (found,) = stock([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255])
    return {name: value.numpy() for name, value in found.items()}


def draw_scene(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    height, width = size
    noise = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    picture = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)).copy()
    for _ in range(6):
        x, y = int(generator.integers(0, width - 12)), int(generator.integers(0, height - 12))
        picture[y : y + int(generator.integers(8, 60)), x : x + int(generator.integers(8, 60))] = generator.integers(
            0, 256, 3
        )
    return picture


def draw_domain(root: Path, sizes: list[tuple[int, int]], stock: FasterRCNN, seed: int) -> None:
    """COCO files: some of what torchvision finds, moved a little; some of it crowd; the last image has no object."""
    generator = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number, size in enumerate(sizes):
        picture = draw_scene(size, generator)
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        images.append({"id": 7 * number + 3, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        small = training_size(size, SHORT_SIDE, LONG_SIDE)
        found = torchvision_detections(stock, resize(picture, small))
        places = [] if number == len(sizes) - 1 else generator.permutation(min(14, len(found["scores"])))[:6]
        for place in places:
            x1, y1, x2, y2 = found["boxes"][place] * np.tile((size[1] / small[1], size[0] / small[0]), 2)
            box = np.array([x1, y1, x2 - x1, y2 - y1]) + generator.normal(0, 0.05, 4) * np.tile((x2 - x1, y2 - y1), 2)
            box = np.clip(box, [0, 0, 2, 2], [size[1] - 3, size[0] - 3, size[1], size[0]])
            box[2:] = np.minimum(box[2:], [size[1] - box[0], size[0] - box[1]])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": int(found["labels"][place]),
                 "bbox": box.round(2).tolist(), "area": float(box[2] * box[3]),
                 "iscrowd": int(generator.random() < 0.1)}
            )  # fmt: skip
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def scored(tmp_path_factory) -> Scored:
    root = tmp_path_factory.mktemp("scored")
    detector = lively_detector()
    stock = stock_twin(detector)
    save_detector(root / "checkpoint", detector, detector.config, CLASSES, {"step": 12})
    sources, data = {}, {}
    for seed, (domain, sizes) in enumerate(SIZES.items()):
        sources[domain] = root / f"{domain}-source"
        draw_domain(sources[domain], sizes, stock, seed)
        data[domain] = root / domain
        settings = {"domain": domain, "short_side": SHORT_SIDE, "long_side": LONG_SIDE, "raw": True, "workers": 1}
        pack(PackOptions(sources[domain], data[domain], **settings))
    return Scored(root / "checkpoint", detector, data, sources)
