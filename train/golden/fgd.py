"""FGD alone, on given maps and boxes: masks, attentions, the four terms, and the gradients of all that is trained."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.batch import View
from train.distill.fgd import GcBlock, attentions, level_terms, make_masks, place_boxes, relation
from train.golden.cases import EXACT, GRADIENT, LOSS, OUTPUT, Case, Check

# The original's names of a block's layers, which end in s or t, and ours.
LAYERS = {
    "conv_mask_{}": "place",
    "channel_add_conv_{}.0": "reduce",
    "channel_add_conv_{}.1": "norm",
    "channel_add_conv_{}.3": "expand",
}
TERMS = {"fg": "foreground", "bg": "background", "attention": "attention", "relation": "relation"}
WEIGHTS = {"foreground": "alpha_fgd", "background": "beta_fgd", "attention": "gamma_fgd", "relation": "lambda_fgd"}


class Layers(NamedTuple):
    """Our modules of one level."""

    student_block: GcBlock
    teacher_block: GcBlock
    align: nn.Module
    parameters: dict[str, nn.Parameter]  # of all three, by the original's names


def read_layers(weights: dict[str, Tensor]) -> Layers:
    parameters: dict[str, nn.Parameter] = {}
    blocks = []
    for side in ("s", "t"):
        blocks.append(GcBlock(weights["conv_mask_s.weight"].shape[1]))
        for theirs, ours in LAYERS.items():
            for part in ("weight", "bias"):
                parameters[f"{theirs.format(side)}.{part}"] = blocks[-1].get_parameter(f"{ours}.{part}")
    align: nn.Module = nn.Identity()
    if "align.weight" in weights:
        width_out, width_in = weights["align.weight"].shape[:2]
        align = nn.Conv2d(width_in, width_out, 1)
        parameters |= {f"align.{part}": align.get_parameter(part) for part in ("weight", "bias")}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return Layers(blocks[0], blocks[1], align, parameters)


def run_fgd(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    boxes = case.levels("gt_boxes")
    num_images, num_slots = len(boxes), max([1, *(len(each_N4) for each_N4 in boxes)])
    boxes_BG4, counts_BG = torch.zeros(num_images, num_slots, 4), torch.zeros(num_images, num_slots, dtype=torch.bool)
    for image, each_N4 in enumerate(boxes):
        boxes_BG4[image, : len(each_N4)], counts_BG[image, : len(each_N4)] = each_N4, True
    view = View(torch.zeros(num_images, 3, *config["canvas"]), torch.tensor(config["img_shape"]), boxes_BG4)
    for level, stride in enumerate(config["strides"]):
        student, teacher = case[f"student_feat.{level}"].clone().requires_grad_(), case[f"teacher_feat.{level}"]
        layers = read_layers(case.named(f"module.{level}."))
        aligned = layers.align(student)
        inside_BHW = torch.ones_like(teacher[:, 0], dtype=torch.bool)
        placed_BG4 = place_boxes(view, stride, teacher.shape[-2:], faithful=True)
        masks = make_masks(placed_BG4, counts_BG, inside_BHW)
        for name, mask in zip(("fg", "bg"), masks, strict=True):
            expected = case[f"mask_{name}.{level}"]
            yield Check(f"mask.{name}.places", mask > 0, expected > 0, EXACT)
            yield Check(f"mask.{name}", mask, expected, OUTPUT)
        for who, maps in (("student", aligned), ("teacher", teacher)):
            spatial, channel = attentions(maps, inside_BHW, config["temp"])
            yield Check("attention.spatial", spatial, case[f"spatial_attention_{who}.{level}"], OUTPUT)
            yield Check("attention.channel", channel, case[f"channel_attention_{who}.{level}"], OUTPUT)
        terms = level_terms(aligned, teacher, masks, inside_BHW, config["temp"])
        terms["relation"] = relation(aligned, teacher, inside_BHW, layers.student_block, layers.teacher_block)
        terms = {name: value / num_images for name, value in terms.items()}
        for theirs, ours in TERMS.items():
            yield Check(f"loss.{ours}", terms[ours], case[f"loss_{theirs}_raw.{level}"], LOSS)
        total = torch.stack([config[WEIGHTS[name]] * value for name, value in terms.items()]).sum()
        yield Check("loss", total, case[f"loss.{level}"], LOSS)
        total.backward()
        yield Check("gradient.student", gradient_of(student), case[f"grad.student_feat.{level}"], GRADIENT)
        gradients = case.named(f"grad.module.{level}.")
        for name, expected in gradients.items():
            got, weight = gradient_of(layers.parameters[name]), name.replace(".bias", ".weight")
            if name.startswith("conv_mask") and name != weight:
                # A softmax follows, which this bias does not move: its gradient is rounding alone. It is measured
                # relative to its weight's gradient.
                got = torch.cat((gradient_of(layers.parameters[weight]).flatten(), got.flatten()))
                expected = torch.cat((gradients[weight].flatten(), expected.flatten()))
            yield Check("gradient.layers", got, expected, GRADIENT)


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
