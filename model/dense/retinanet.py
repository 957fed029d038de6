"""RetinaNet's head (Lin et al. 2017): nine anchors a location, focal loss, L1 on deltas."""

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from model.api import Assigned, Mean, Truth, own
from model.boxes.annotated import Annotated
from model.boxes.assigners import assign_max_iou
from model.boxes.boxes import decode, encode
from model.boxes.codes import decode_deltas
from model.dense.config import RetinaNetConfig
from model.dense.head import EPSILON, DenseHead, Raw, to_rows

WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def whole_sizes(config: RetinaNetConfig) -> tuple[tuple[int, ...], ...]:
    """Sides of the anchors of every level, rounded down as torchvision has them."""
    octave = config.anchors_per_octave
    sides = [stride * config.anchor_base for stride in config.strides]
    return tuple(tuple(int(side * 2 ** (step / octave)) for step in range(octave)) for side in sides)


class RetinaNetHead(DenseHead):
    """class = sum focal / P, box = sum |deltas - target| / P, with P the sum over images of max(positives, 1).

    A positive's part of both sums is multiplied by the weight of its box; P is not.

    faithful, beside what every head repeats: a box that overlaps no anchor takes every anchor that is free of it, and P
    is not averaged over ranks.
    """

    terms = ("class", "box")
    config: RetinaNetConfig

    def __init__(self, config: RetinaNetConfig, num_classes: int, in_channels: int, strides: tuple[int, ...]):
        self.whole_steps = config.style == "torchvision"
        super().__init__(config, num_classes, in_channels, strides)
        self.reset()

    def make_cells(self) -> tuple[Tensor, ...]:
        if self.config.style == "mmdetection":
            return super().make_cells()
        sizes = whole_sizes(self.config)
        return tuple(AnchorGenerator(sizes, (self.config.anchor_ratios,) * len(sizes)).cell_anchors)

    def predict_level(self, class_map: Tensor, box_map: Tensor, level: int) -> tuple[Tensor, Tensor, None]:
        logits_BNC = to_rows(self.class_output(class_map), self.num_classes - 1)
        return logits_BNC, to_rows(self.box_output(box_map), 4), None

    def decode(self, raw_BN: Tensor, candidates_BN4: Tensor, stride: int) -> Tensor:
        decode_as = decode if self.whole_steps else decode_deltas  # torchvision lets boxes shrink
        return decode_as(raw_BN, candidates_BN4, WEIGHTS)

    def match(self, candidates_1N4, valid_BN, known: Annotated, canvas) -> tuple[Tensor, Tensor]:
        config = self.config
        return assign_max_iou(
            candidates_1N4,
            valid_BN,
            known.boxes_BG4,
            known.owner_BG,
            known.ignored_BG,
            config.foreground_iou,
            config.background_iou,
            config.ignore_overlap,
            faithful=config.faithful,
        )

    def terms_by_level(
        self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        targets = self.assign(truth, canvas)
        divisor = self.count_positives(targets, own if self.config.faithful else mean) + EPSILON
        weight_BN = torch.where(targets.positive_BN, targets.weight_BN, 0.0)
        wanted_BN4 = encode(targets.boxes_BN4, targets.candidates_BN4, WEIGHTS)
        box_BN = (torch.cat(raw.boxes, dim=1) - wanted_BN4).abs().sum(-1) * weight_BN
        terms = {
            "class": self.focal_sums(raw, targets, canvas) / divisor,
            "box": self.level_sums(box_BN, canvas) / divisor,
        }
        return terms, Assigned(targets.matched_BN, targets.state_BN, weight_BN, targets.candidates_BN4)
