"""The dense detectors that `python -m train.bench --model NAME` measures, and their parity with torchvision's."""

from typing import Any

import torch

from model.backbones.frozen_norm import fold_like
from model.dense.config import AnyDense, AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.dense.parity import compare_losses
from model.dense.stock import stock_twin
from pipeline.command.console import say
from train.bench.stock import has_stock

# What torchvision's own have, so that there is something to compare with.
DENSE: dict[str, AnyDense] = {
    "retinanet": RetinaNetConfig(style="torchvision", coarse_from="p5", coarse_relu=True),
    "fcos": FcosConfig(style="torchvision", distances="relu", centerness_from="box", tower_bias=True),
    "atss": AtssConfig(),
    "gfl": GflConfig(),
}
OUTPUT_TOLERANCE, LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-4, 1e-3
STATE_TOLERANCE = 0.0005  # of all locations, by overlaps and sides just at a threshold


def check_dense(detector: DenseDetector, few: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """few: images, sizes, boxes, labels, keys. What is compared stands in model/dense/parity.py."""
    if not has_stock(detector):
        say(f"torchvision has no {detector.config.kind}: nothing to compare with")
        return {"ok": None}
    stock = fold_like(stock_twin(detector), detector).to(memory_format=torch.channels_last)
    found = compare_losses(detector, stock, few)
    told = (
        f"outputs within {found.outputs:.1e}, losses within {found.loss:.1e}, gradients within {found.gradient:.1e}, "
        f"{found.states:.2%} of the locations are of another state, {found.matched:.2%} of the foreground of another "
        "box"
    )
    say(f"parity with torchvision: {told}")
    bounds = (
        (found.outputs, OUTPUT_TOLERANCE),
        (found.loss, LOSS_TOLERANCE),
        (found.gradient, GRADIENT_TOLERANCE),
        (found.states, STATE_TOLERANCE),
    )
    if not all(value <= bound for value, bound in bounds):
        allowed = f"{OUTPUT_TOLERANCE:.0e}, {LOSS_TOLERANCE:.0e}, {GRADIENT_TOLERANCE:.0e} and {STATE_TOLERANCE:.2%}"
        raise ValueError(f"no parity: {told}; allowed {allowed}")
    return {
        "output_relative_difference": found.outputs,
        "loss_relative_difference": found.loss,
        "gradient_relative_difference": found.gradient,
        "states_differing_share": found.states,
        "foreground_of_another_box_share": found.matched,
        "ok": True,
    }
