"""Outputs of dense heads without a network, and the same images in a larger canvas: what tests of methods need."""

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


def widen(values: Tensor, per_location: int, small, large, fill: float) -> Tensor:
    """A level's rows (B, N, ...) of a small map as the top left of a large one."""
    grid = values.unflatten(1, (*small, per_location))
    wide = torch.full((len(values), *large, *grid.shape[3:]), fill, dtype=values.dtype)
    if fill and values.is_floating_point():
        wide = wide * torch.randn(wide.shape, generator=torch.Generator().manual_seed(9))
    wide[:, : small[0], : small[1]] = grid
    return wide.flatten(1, 3)


def in_larger_canvas(network, out: Outputs, trained: Assigned, canvas) -> tuple[Outputs, Assigned]:
    """The same answers with others around them, in the padding."""
    head, sizes = network.head, (map_sizes(out.canvas, network.strides), map_sizes(canvas, network.strides))
    counts, num = head.level_counts(out.canvas), head.per_location

    def rows(levels, fill=30.0):
        return tuple(widen(*each, fill=fill) for each in zip(levels, [num] * len(levels), *sizes, strict=True))

    def flat(values: Tensor) -> Tensor:
        return torch.cat(rows(values.split(counts, dim=1), fill=0.0), dim=1)

    neck = []
    for level, small, large in zip(out.neck, *sizes, strict=True):
        wide = widen(level.permute(0, 2, 3, 1).flatten(1, 2), 1, small, large, 30.0)
        neck.append(wide.unflatten(1, large).permute(0, 3, 1, 2))
    quality = None if out.quality is None else rows(out.quality)
    return (
        Outputs(canvas, tuple(neck), logits=rows(out.logits), boxes=rows(out.boxes), quality=quality),
        Assigned(flat(trained.matched_BN), flat(trained.state_BN), flat(trained.weight_BN), head.candidates(canvas)),
    )


def cut(out: Outputs, rows) -> Outputs:
    """Some images of a batch."""
    parts = (None if part is None else tuple(level[rows] for level in part) for part in (out.neck, out.logits))
    neck, logits = parts
    boxes, quality = (
        None if part is None else tuple(level[rows] for level in part) for part in (out.boxes, out.quality)
    )
    return Outputs(out.canvas, neck, logits=logits, boxes=boxes, quality=quality)
