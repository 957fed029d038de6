"""Outputs of dense heads without a network: what tests of methods need."""

from dataclasses import replace

import torch
from torch import Tensor

from model.api import Assigned, Outputs
from model.boxes.points import map_sizes
from model.dense.detector import DenseDetector
from pipeline.batch import View, Views
from train.distill.method import annotations

CHANNELS = 6
NUM_CLASSES = 4  # with the background


def make_views(sizes, boxes, canvas) -> Views:
    """Both views are the same; boxes: a list an image."""
    num_slots = max(map(len, boxes), default=0)
    boxes_BG4, labels_BG = torch.zeros(len(sizes), num_slots, 4), torch.zeros(len(sizes), num_slots, dtype=torch.int64)
    for image, rows in enumerate(boxes):
        for slot, row in enumerate(rows):
            boxes_BG4[image, slot], labels_BG[image, slot] = torch.tensor(row), 1 + slot % (NUM_CLASSES - 1)
    view = View(torch.zeros(len(sizes), 3, *canvas), torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2), boxes_BG4)
    num = len(sizes)
    return Views(
        clean=view, corrupted=view, ratio_B=torch.ones(num), labels_BG=labels_BG, ignore_BG=labels_BG < 0,
        weight_BG=torch.ones(labels_BG.shape), keys_B=torch.arange(num), ids_B=torch.arange(num),
    )  # fmt: skip


def make_network(config) -> DenseDetector:
    """A detector of which only the head and the shapes are used."""
    small = replace(config, backbone="resnet18", weights="none", fpn_channels=CHANNELS, norm_groups=0, num_convs=0)
    return DenseDetector(small, NUM_CLASSES)


def make_outputs(network, num: int, canvas, seed: int, learns: bool = True, channels: int = CHANNELS) -> Outputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(num, *shape, generator=generator).requires_grad_(learns)

    head = network.head
    counts, maps = head.level_counts(canvas), map_sizes(canvas, network.strides)
    return Outputs(
        canvas,
        neck=tuple(draw(channels, *size) for size in maps),
        logits=tuple(draw(count, NUM_CLASSES - 1) for count in counts),
        boxes=tuple(draw(count, head.box_width) for count in counts),
        quality=tuple(draw(count) for count in counts) if hasattr(head, "quality_output") else None,
    )


def train_on(network, out: Outputs, views: Views) -> Assigned:
    return network.losses(out, annotations(views, views.corrupted))[1]


def call(method, student: Outputs, teacher: Outputs, assigned: Assigned, views: Views) -> dict[str, Tensor]:
    return method({"corrupted": student}, teacher, {"corrupted": assigned}, views)[0]


def cut(out: Outputs, rows) -> Outputs:
    """Some images of a batch."""
    parts = (None if part is None else tuple(level[rows] for level in part) for part in (out.neck, out.logits))
    neck, logits = parts
    boxes, quality = (
        None if part is None else tuple(level[rows] for level in part) for part in (out.boxes, out.quality)
    )
    return Outputs(out.canvas, neck, logits=logits, boxes=boxes, quality=quality)
