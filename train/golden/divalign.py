"""DivAlign alone: both terms of given predictions, and their gradients."""

from collections.abc import Iterator

import torch

from train.distill.divalign import BETA, box_distances, class_distances
from train.golden.cases import GRADIENT, LOSS, Case, Check, NotRunnable

GIVEN = ("class_logits", "box_deltas", "aligned_class_logits", "aligned_box_deltas")


def run_divalign(case: Case) -> Iterator[Check]:
    if "class_logits" in case:
        yield from run_losses(case)
    else:
        raise NotRunnable("there are no spectral corruptions")


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
