"""Every method of METHODS on every detector that it takes: the cases, their networks, views and terms.

A method that is added to METHODS is a case without a change here.
"""

import copy
from dataclasses import fields, replace
from functools import cache

import torch
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Rois, Want, own
from model.boxes.points import map_sizes
from model.config import ModelConfig
from model.detectors import CONFIGS, DetectorConfig, new_detector
from pipeline.batch import Batch, View, Views
from pipeline.views import ViewConfig, ViewMaker
from train.bench.steps import NUM_CLASSES, make_network
from train.distill import (
    METHODS,
    CdFkdConfig,
    CmkdConfig,
    DefeatConfig,
    FgdConfig,
    ImitationConfig,
    MethodConfig,
    PkdConfig,
)
from train.distill.method import Method
from train.step import Learner, Teacher

CANVAS = (64, 96)
# Beside each method's defaults.
MORE: tuple[MethodConfig, ...] = (
    *(ImitationConfig(region=region) for region in ("all", "inside", "main", "decoupled", "general")),
    DefeatConfig(class_inside_weight=2.0, class_outside_weight=2.0),
    CdFkdConfig(strides=(8, 16, 32), per_location=True),
    FgdConfig(relation=0.0),
    PkdConfig(strides=(8, 16), resize_student=False),
    CmkdConfig(loss="adversarial", canvas=CANVAS),
)
# What methods teach begins behind the backbone's body, which is most of a network.
SMALL = {"backbone": "resnet18", "weights": "none", "norm": "frozen", "trainable_layers": 0, "fpn_channels": 16}
COUNTS = {"rpn_pre_nms_train": 60, "rpn_post_nms_train": 40, "rpn_pre_nms_test": 60, "rpn_post_nms_test": 40}
# Group norms would take the padding into their statistics: they are the detector's, not the method's.
PARTS = {ModelConfig.kind: {"representation_size": 16, "regions_per_image": 16, **COUNTS}}
DENSE = {"head_channels": 16, "num_convs": 2, "norm_groups": 0}


def model_of(kind: str, wide: bool = False) -> DetectorConfig:
    widths = {"fpn_channels": 24} if wide else {}
    if wide and kind != ModelConfig.kind:
        widths["head_channels"] = 24
    known = {item.name for item in fields(CONFIGS[kind])}
    given = {**SMALL, **PARTS.get(kind, DENSE), **widths}
    return CONFIGS[kind](**{name: value for name, value in given.items() if name in known})


def make_batch(boxes: list[list[tuple[float, ...]]], num_slots: int = 3) -> Batch:
    """Images of several sizes in one canvas, the second one smaller than it on both sides."""
    generator = torch.Generator().manual_seed(5)
    num = len(boxes)
    boxes_BG4, labels_BG = torch.zeros(num, num_slots, 4), torch.zeros(num, num_slots, dtype=torch.int64)
    for image, rows in enumerate(boxes):
        for slot, row in enumerate(rows):
            boxes_BG4[image, slot], labels_BG[image, slot] = torch.tensor(row), 1 + (image + slot) % (NUM_CLASSES - 1)
    sizes = [CANVAS, (50, 77), (64, 96), (61, 96)][:num]
    images = torch.randint(0, 256, (num, *CANVAS, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        images_BHW3=images, sizes_B2=torch.tensor(sizes, dtype=torch.int32), boxes_BG4=boxes_BG4, labels_BG=labels_BG,
        ignore_BG=labels_BG < 0, ids_B=torch.arange(num), epoch=0, seed=0,
    )  # fmt: skip


BOXES: list[list[tuple[float, ...]]] = [[(4, 6, 30, 40), (50, 2, 90, 60), (40, 40, 49, 52)], [(8, 8, 29, 45)]]
VIEWS = ViewConfig(ratio_range=(1.0, 1.0), corruptions=("contrast",), flip_probability=0.0)
SAME = replace(VIEWS, corruptions=())
SMALLER = replace(VIEWS, ratio_range=(0.5, 0.7))  # the student's, as in CD-FKD


@cache
def make_views(config: ViewConfig = VIEWS, empty: int = 0, boxes: bool = True) -> Views:
    """Two images with boxes, or without, then some without."""
    return ViewMaker(config, threads=1)(make_batch([*(BOXES if boxes else [[], []]), *[[]] * empty]), 0)


def remember(body: nn.Module) -> None:
    """Nothing in the body learns, and all cases show the same few views: it computes each once."""
    compute, known = body.forward, {}

    def forward(images_B3HW: Tensor) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            return compute(images_B3HW)
        key = (images_B3HW.shape, images_B3HW.numpy().tobytes(), torch.is_autocast_enabled("cpu"))
        if key not in known:
            known[key] = compute(images_B3HW)
        return dict(known[key])

    body.forward = forward  # type: ignore[method-assign]


@cache
def make_lively(kind: str, wide: bool, seed: int) -> Detector:
    """A network whose heads say something: new ones answer nearly the same everywhere."""
    network = make_network(model_of(kind, wide), make_batch([[], []]), seed)
    heads = [module for name, module in network.named_modules() if name.split(".")[0] in ("head", "rpn", "roi_heads")]
    for module in heads:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.7 * module.weight[0].numel() ** -0.5)
    # Boxes of some 40 pixels, or they are too small to be regions, or overlap so much that one is left.
    if kind == "fcos":
        nn.init.constant_(network.head.box_output.bias, 3.0)
    elif kind == "gfl":
        with torch.no_grad():
            network.head.box_output.bias.copy_(-torch.arange(17.0).repeat(4))
    remember(network.backbone.body)
    return network


def student_of(kind: str) -> Detector:
    return make_lively(kind, False, 1)


def teacher_of(kind: str, wide: bool) -> Detector:
    return make_lively(kind, wide, 2).eval().requires_grad_(False)


def make_method(config: MethodConfig, student: Detector, teacher: Detector, mean: Mean = own) -> Method:
    torch.manual_seed(0)
    kind = METHODS[type(config)]
    return kind(config, student, teacher if kind.needs_teacher else None, mean)


@cache
def cases() -> list[tuple[str, MethodConfig]]:
    found = []
    for kind in CONFIGS:
        with torch.device("meta"):
            network = new_detector(model_of(kind), NUM_CLASSES)
            for config in [*(config() for config in METHODS), *MORE]:
                try:
                    make_method(config, network, network)
                except ValueError:
                    continue
                found.append((kind, config))
    return found


def name_of(value: object) -> str:
    """Of a case's part, for pytest."""
    if isinstance(value, str):
        return value
    changed = [f"{key}={each}" for key, each in vars(value).items() if each != getattr(type(value)(), key)]
    return "-".join((value.kind, *changed))  # type: ignore[attr-defined]


def learner_of(
    config: MethodConfig, student: Detector, teacher: Detector, mean: Mean = own, dtype: torch.dtype = torch.float32
) -> tuple[Learner, Method]:
    method = make_method(config, student, teacher, mean)
    return Learner(student, {config.kind: method}, dtype, mean), method


def terms_of(learner: Learner, method: Method, teacher: Detector, views: Views) -> dict[str, Tensor]:
    """The method's own, weighed; those without a weight are left out."""
    seen = Teacher(teacher, [method], learner.dtype)(views) if method.needs_teacher else None
    found, logged = learner.terms(views, seen)
    assert set(found) == {*learner.student.terms, *method.weights}
    assert all(value.isfinite() for value in (*found.values(), *logged))
    return {name: weight * found[name] for name, weight in method.weights.items() if weight}


def gradients_of(terms: dict[str, Tensor], learner: Learner) -> Tensor:
    """Of the terms together, in the student and in the method."""
    learner.zero_grad(set_to_none=True)
    if terms:
        sum(terms.values(), start=torch.zeros(())).backward()
    return torch.cat(
        [
            (torch.zeros_like(each) if each.grad is None else each.grad).flatten()
            for each in learner.parameters()
            if each.requires_grad
        ]
    )


def rows_of(views: Views, rows: Tensor) -> Views:
    """Some images of a batch, in this order; -1 is a row that only fills up."""
    taken, none = rows.clamp(min=0), rows < 0

    def take(value: Tensor) -> Tensor:
        chosen = value[taken].clone()
        chosen[none] = 0
        return chosen

    sides = {
        name: None if view is None else View(*(take(part) for part in vars(view).values()))
        for name, view in (("clean", views.clean), ("corrupted", views.corrupted))
    }
    others = ("ratio_B", "labels_BG", "ignore_BG", "weight_BG", "keys_B", "ids_B")
    return replace(views, **sides, **{name: take(getattr(views, name)) for name in others})


def with_unlabelled(views: Views) -> Views:
    """Each image once more, without labels: one ignored box covers all of it."""
    num, every = len(views.keys_B), torch.arange(len(views.keys_B))
    twice = rows_of(views, torch.cat((every, every)))
    labels_BG, ignore_BG = twice.labels_BG, twice.ignore_BG
    labels_BG[num:], ignore_BG[num:] = 0, False
    labels_BG[num:, 0], ignore_BG[num:, 0] = 1, True
    for view in (twice.clean, twice.corrupted):
        assert view is not None
        view.boxes_BG4[num:] = 0
        view.boxes_BG4[num:, 0, 2:] = view.sizes_B2[num:].flip(1).float()
    return twice


def without_slots(views: Views) -> Views:
    """No room for a box: as where no image of a batch has any."""
    sides = {
        name: replace(getattr(views, name), boxes_BG4=getattr(views, name).boxes_BG4[:, :0])
        for name in ("clean", "corrupted")
    }
    return replace(
        views, **sides, **{name: getattr(views, name)[:, :0] for name in ("labels_BG", "ignore_BG", "weight_BG")}
    )


# The same images in a larger canvas.

RING = 4  # cells of zeros around the old canvas, as a convolution finds them behind an edge; beyond them anything


def widen(map_BHWX: Tensor, size: tuple[int, int], anything: bool) -> Tensor:
    num, height, width, *rest = map_BHWX.shape
    wide = map_BHWX.new_zeros((num, *size, *rest))
    if anything:
        wide = torch.randn(wide.shape, generator=torch.Generator().manual_seed(9)) * 30
        wide[:, : height + RING, : width + RING] = 0
    wide[:, :height, :width] = map_BHWX
    return wide


def widen_rows(rows_BNX: Tensor, old: tuple[int, int], new: tuple[int, int], anything: bool) -> Tensor:
    per_place = rows_BNX.shape[1] // (old[0] * old[1])
    return widen(rows_BNX.unflatten(1, (*old, per_place)), new, anything).flatten(1, 3)


def in_larger_canvas(network: Detector, out: Outputs, canvas: tuple[int, int], anything: bool = True) -> Outputs:
    """What a network said, and other things around it."""
    sizes = list(zip(map_sizes(out.canvas, network.strides), map_sizes(canvas, network.strides), strict=True))

    def maps(level: Tensor | None, new: tuple[int, int]) -> Tensor | None:
        return None if level is None else widen(level.permute(0, 2, 3, 1), new, anything).permute(0, 3, 1, 2)

    def rows(levels: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        if levels is None:
            return None
        return tuple(widen_rows(level, *pair, anything) for level, pair in zip(levels, sizes, strict=True))

    towers = None
    if out.towers is not None:
        towers = tuple(
            tuple(maps(part, new) for part in level) for level, (_, new) in zip(out.towers, sizes, strict=True)
        )
    return Outputs(
        canvas,
        tuple(maps(level, new) for level, (_, new) in zip(out.neck, sizes, strict=True)),
        towers,
        rows(out.logits),
        rows(out.boxes),
        rows(out.quality),
        out.rois,
        out.found,
    )


def assigned_in_larger_canvas(network: Detector, out: Outputs, trained: Assigned, wide: Outputs) -> Assigned:
    if isinstance(network.config, ModelConfig):  # by regions, which know no canvas
        return trained
    sizes = [map_sizes(each, network.strides) for each in (out.canvas, wide.canvas)]
    counts = [level.shape[1] for level in out.logits]

    def flat(values_BN: Tensor) -> Tensor:
        levels = zip(values_BN.split(counts, dim=1), *sizes, strict=True)
        return torch.cat([widen_rows(*level, anything=False) for level in levels], dim=1)

    parts = (flat(part) for part in trained[:3])
    return Assigned(*parts, network.head.candidates(wide.canvas))


def away_from_the_edge(rois: Rois | None) -> Rois | None:
    """RoIAlign reads padding beside an image."""
    return None if rois is None else rois._replace(boxes_BR4=rois.boxes_BR4 / 2)


def with_larger_canvas(views: Views, canvas: tuple[int, int]) -> Views:
    sides = {}
    for name in ("clean", "corrupted"):
        view = getattr(views, name)
        images = view.images_B3HW.new_zeros((*view.images_B3HW.shape[:2], *canvas))
        images[..., : view.images_B3HW.shape[2], : view.images_B3HW.shape[3]] = view.images_B3HW
        sides[name] = replace(view, images_B3HW=images)
    return replace(views, **sides)


def twin_of(network: Detector) -> Detector:
    return copy.deepcopy(network).eval().requires_grad_(False)


def wanted(method: Method) -> Want:
    return method.want_student | Want(dense=True)
