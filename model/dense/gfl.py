"""GFL's head (Li et al. 2020): a class score that is the quality of the box, sides as distributions over bins."""

import math

import torch
from torch import Tensor, nn

from model.api import Assigned, Mean, Truth
from model.boxes.codes import bound_distances, decode_distances, encode_distances, expected_distances
from model.boxes.losses import distribution_focal_loss, giou_loss, one_hot, paired_iou, quality_focal_loss
from model.dense.atss import MatchedByAtss, centers
from model.dense.config import GflConfig
from model.dense.head import EPSILON, Raw, to_rows

BOX_WEIGHT, BINS_WEIGHT = 2.0, 0.25


class GflHead(MatchedByAtss):
    """class = sum quality focal / P, box = 2 sum v (1 - GIoU) / V, bins = 0.25 sum v (mean over sides of DFL) / V.

    P is the sum over images of max(positives, 1). v is the best class probability of a positive, held constant; V its
    sum. The quality that a positive's class is to answer is the IoU of its box, held constant. A positive's part of
    every sum is multiplied by the weight of its box; P and V are not.
    """

    terms = ("class", "box", "bins")
    config: GflConfig

    def __init__(self, config: GflConfig, num_classes: int, in_channels: int, strides: tuple[int, ...]):
        self.box_width = 4 * config.num_bins
        super().__init__(config, num_classes, in_channels, strides)
        self.scales = nn.ParameterList(torch.ones(()) for _ in strides)
        self.reset()

    def reset(self) -> None:
        """With a start, bin k begins with a probability of r^k, whose mean is that start: r = start / (1 + start)."""
        super().reset()
        if start := self.config.start_distance:
            bins = torch.arange(self.config.num_bins) * math.log(start / (1 + start))
            with torch.no_grad():
                self.box_output.bias.copy_(bins.repeat(4))  # type: ignore[union-attr]

    def predict_level(self, class_map: Tensor, box_map: Tensor, level: int) -> tuple[Tensor, Tensor, None]:
        logits_BNC = to_rows(self.class_output(class_map), self.num_classes - 1)
        return logits_BNC, to_rows(self.box_output(box_map), self.box_width) * self.scales[level], None

    def decode(self, raw_BN: Tensor, candidates_BN4: Tensor, stride: int) -> Tensor:
        return decode_distances(expected_distances(raw_BN, self.config.num_bins) * stride, centers(candidates_BN4))

    def terms_by_level(
        self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        targets, num_bins = self.assign(truth, canvas), self.config.num_bins
        counts, positive_BN = self.level_counts(canvas), targets.positive_BN
        divisor = self.count_positives(targets, mean) + EPSILON
        # Sides in strides, as the bins count them.
        stride_N1 = self.candidate_strides(canvas, positive_BN.device)
        points_BN2, target_BN4 = centers(targets.candidates_BN4) / stride_N1, targets.boxes_BN4 / stride_N1
        sides_BN = torch.cat(raw.boxes, dim=1)
        found_BN4 = decode_distances(expected_distances(sides_BN, num_bins), points_BN2)
        quality_BN = torch.where(positive_BN, paired_iou(found_BN4.detach(), target_BN4), 0.0)
        best_BN = torch.cat([logits_BNC.detach().amax(2) for logits_BNC in raw.logits], dim=1).sigmoid()
        weight_BN = torch.where(positive_BN, best_BN * targets.weight_BN, 0.0)

        classes = []
        rows = (part.split(counts, 1) for part in (targets.labels_BN, quality_BN, targets.weight_BN))
        for logits_BNC, labels, quality, counted in zip(raw.logits, *rows, strict=True):
            wanted_BNC = one_hot(labels, self.num_classes) * quality[..., None]
            classes.append((quality_focal_loss(logits_BNC, wanted_BNC) * counted[..., None]).sum())
        box_BN = giou_loss(found_BN4, target_BN4) * weight_BN
        wanted_BN4 = bound_distances(encode_distances(target_BN4, points_BN2), num_bins - 1)
        bins_BN4 = distribution_focal_loss(sides_BN.unflatten(-1, (4, num_bins)), wanted_BN4)
        bins_BN = bins_BN4.sum(-1) * weight_BN
        whole = self.divisor(torch.where(positive_BN, best_BN, 0.0).sum(), mean)
        terms = {
            "class": torch.stack(classes) / divisor,
            "box": BOX_WEIGHT * self.level_sums(box_BN, canvas) / (1 + EPSILON) / whole,
            "bins": BINS_WEIGHT * self.level_sums(bins_BN, canvas) / (4 + EPSILON) / whole,
        }
        return terms, Assigned(targets.matched_BN, targets.state_BN, weight_BN, targets.candidates_BN4)
