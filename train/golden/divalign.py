"""DivAlign alone: both terms of given predictions and their gradients; its corruptions of a given image."""

from collections.abc import Iterator

import numpy as np
import torch

from kernels import corrupt
from kernels.corruptions.registry import BY_NAME
from kernels.severity import SEVERITIES
from train.distill.divalign import BETA, box_distances, class_distances
from train.golden.cases import GRADIENT, LOSS, Bound, Case, Check

SPECTRAL = ("high_pass_filter", "phase_scaling")
LEVEL = Bound("absolute", 1)
LEVELS = Bound("absolute", 2)  # the original's others are those of older OpenCV, Pillow and SciPy
GIVEN = ("class_logits", "box_deltas", "aligned_class_logits", "aligned_box_deltas")


def run_divalign(case: Case) -> Iterator[Check]:
    yield from run_losses(case) if "class_logits" in case else run_images(case)


def run_images(case: Case) -> Iterator[Check]:
    """The corruptions that draw nothing. Both spectral ones on a CPU; a value on the edge of a level may fall."""
    image = case["image"].numpy()
    for name in case.facts["config"]["deterministic"]:
        for level in SEVERITIES:
            if f"{name}.{level}" not in case:
                continue
            expected = case[f"{name}.{level}"]
            if name == "phase_scaling":
                # The original casts without clipping: what leaves 0..255 wraps around.
                exact = torch.from_numpy(BY_NAME[name].make_whole(np, image, level))
                if f"{name}_float.{level}" in case:
                    yield Check(f"{name}.exact", exact, case[f"{name}_float.{level}"], Bound("absolute", 0.01))
                off = (exact.trunc() - expected.float() + 128).remainder(256) - 128
                yield Check(f"{name}.wrapped", off, torch.zeros_like(off), LEVEL)
                expected = exact.clamp(0, 255)
            got = torch.from_numpy(corrupt(image, level, name))
            yield Check(name, got, expected, LEVEL if name in SPECTRAL else LEVELS)


def run_losses(case: Case) -> Iterator[Check]:
    """The images alternate: source, augmented. The aligned predictions are of the sources' regions."""
    assert abs(case.facts["config"]["beta"] - BETA) < 1e-12
    given = {name: case[name].clone().requires_grad_() for name in GIVEN}
    labels = case.levels("labels")
    sources = [torch.full((len(each),), image % 2 == 0) for image, each in enumerate(labels)]
    source_N, labels_R = torch.cat(sources), torch.cat(labels[::2]).long()
    logits_RK, deltas_R4 = given["class_logits"][source_N], given["box_deltas"][source_N]
    classes = class_distances(logits_RK, given["aligned_class_logits"]).mean()
    source_RK4, aligned_RK4 = (each.unflatten(1, (-1, 4)) for each in (deltas_R4, given["aligned_box_deltas"]))
    boxes = (box_distances(source_RK4, aligned_RK4, labels_R) * (labels_R > 0)).sum() / (4 * (labels_R > 0).sum())
    for name, value in (("loss_cal", classes), ("loss_ral", boxes)):
        yield Check(name, value, case[name], LOSS)
        value.backward(retain_graph=True)
        for leaf in given:
            gradient = given[leaf].grad
            got = torch.zeros_like(given[leaf]) if gradient is None else gradient
            yield Check(f"gradient.{name}", got, case[f"grad.{name}.{leaf}"], GRADIENT)
            given[leaf].grad = None
