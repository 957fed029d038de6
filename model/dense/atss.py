"""ATSS's head (Zhang et al. 2020): one anchor a location, adaptive selection, centreness from the box tower."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.api import Assigned, Mean, Truth
from model.boxes.annotated import Annotated
from model.boxes.assigners import assign_atss
from model.boxes.codes import centerness, decode_deltas, encode_distances
from model.boxes.losses import giou_loss
from model.dense.config import AtssConfig, GflConfig
from model.dense.head import EPSILON, DenseHead, Raw, to_rows

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BOX_WEIGHT = 2.0


def centers(candidates_BN4: Tensor) -> Tensor:
    return (candidates_BN4[..., :2] + candidates_BN4[..., 2:]) / 2


class MatchedByAtss(DenseHead):
    """A head whose positives ATSS selects."""

    config: AtssConfig | GflConfig

    def match(self, candidates_1N4, valid_BN, known: Annotated, canvas) -> tuple[Tensor, Tensor]:
        return assign_atss(
            candidates_1N4,
            self.level_counts(canvas),
            valid_BN,
            known.boxes_BG4,
            known.owner_BG,
            known.ignored_BG,
            self.config.num_nearest,
            self.config.ignore_overlap,
            faithful=self.config.faithful,
        )


class AtssHead(MatchedByAtss):
    """class = sum focal / P, box = 2 sum c (1 - GIoU) / sum c, centerness = sum over positives of BCE(c) / P.

    P is the sum over images of max(positives, 1), c the centreness of an anchor's centre in its box. A positive's part
    of every sum is multiplied by the weight of its box; P and the sum of c that divides are not.
    """

    terms = ("class", "box", "centerness")
    config: AtssConfig

    def __init__(self, config: AtssConfig, num_classes: int, in_channels: int, strides: tuple[int, ...]):
        super().__init__(config, num_classes, in_channels, strides)
        self.quality_output = self.output(self.per_location)
        self.scales = nn.ParameterList(torch.ones(()) for _ in strides)
        self.reset()

    def predict_level(self, class_map: Tensor, box_map: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        logits_BNC = to_rows(self.class_output(class_map), self.num_classes - 1)
        deltas_BN4 = to_rows(self.box_output(box_map), 4) * self.scales[level]
        return logits_BNC, deltas_BN4, to_rows(self.quality_output(box_map), 1)[..., 0]

    def decode(self, raw_BN: Tensor, candidates_BN4: Tensor, stride: int) -> Tensor:
        return decode_deltas(raw_BN, candidates_BN4, WEIGHTS)

    def terms_by_level(
        self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        targets = self.assign(truth, canvas)
        assert raw.quality is not None
        positive_BN = targets.positive_BN
        divisor = self.count_positives(targets, mean) + EPSILON
        distances_BN4 = encode_distances(targets.boxes_BN4, centers(targets.candidates_BN4))
        center_BN = centerness(torch.where(positive_BN[..., None], distances_BN4, 1.0))
        weight_BN = torch.where(positive_BN, center_BN * targets.weight_BN, 0.0)
        whole = self.divisor(torch.where(positive_BN, center_BN, 0.0).sum(), mean)
        # Where nothing is learnt the deltas are 0, so that no gradient can become NaN.
        deltas_BN4 = torch.where(positive_BN[..., None], torch.cat(raw.boxes, dim=1), 0.0)
        found_BN4 = decode_deltas(deltas_BN4, targets.candidates_BN4, WEIGHTS)
        box_BN = giou_loss(found_BN4, targets.boxes_BN4) * weight_BN
        quality_BN = F.binary_cross_entropy_with_logits(torch.cat(raw.quality, dim=1), center_BN, reduction="none")
        quality_BN = quality_BN * torch.where(positive_BN, targets.weight_BN, 0.0)
        terms = {
            "class": self.focal_sums(raw, targets, canvas) / divisor,
            "box": BOX_WEIGHT * self.level_sums(box_BN, canvas) / whole,
            "centerness": self.level_sums(quality_BN, canvas) / divisor,
        }
        return terms, Assigned(targets.matched_BN, targets.state_BN, weight_BN, targets.candidates_BN4)
