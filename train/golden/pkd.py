"""PKD alone, on given maps: mmrazor's class, and CrossKD's own, which never resizes."""

from collections.abc import Iterator

import torch

from train.distill.pkd import pkd_loss
from train.golden.cases import GRADIENT, LOSS, Case, Check


def run_pkd(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    teacher = case.levels("in.teacher")
    for author in ("razor", "crosskd"):
        if f"{author}.loss.sum" not in case:
            continue
        student = [level.clone().requires_grad_() for level in case.levels("in.student")]
        losses = [
            config["loss_weight"] * pkd_loss(theirs, ours, config["resize_stu"])
            for theirs, ours in zip(student, teacher, strict=True)
        ]
        for level, loss in enumerate(losses):
            yield Check(f"{author}.loss", loss, case[f"{author}.loss.{level}"], LOSS)
        total = torch.stack(losses).sum()
        yield Check(f"{author}.loss.sum", total, case[f"{author}.loss.sum"], LOSS)
        gradients = torch.autograd.grad(total, student)
        for level, gradient in enumerate(gradients):
            yield Check(f"{author}.gradient", gradient, case[f"{author}.grad.student.{level}"], GRADIENT)
