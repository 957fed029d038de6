"""FCOS's head (Tian et al. 2019): points, distances to the sides, centreness from the class tower."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.api import Assigned, Mean, Truth
from model.boxes.annotated import Annotated
from model.boxes.assigners import FAR, assign_points
from model.boxes.codes import centerness, decode_distances, encode_distances
from model.boxes.losses import log_iou_loss
from model.boxes.points import make_points
from model.dense.config import FcosConfig
from model.dense.head import EPSILON, DenseHead, Raw, to_rows


class FcosHead(DenseHead):
    """class = sum focal / F, box = sum c (-log IoU) / sum c, centerness = sum over positives of BCE(c) / F.

    F is the number of positives, c the centreness of a point in its box. Raw boxes are distances in pixels, the
    exponential or the ReLU included. A positive's part of every sum is multiplied by the weight of its box; F and the
    sum of c that divides are not. faithful, beside what every head repeats: ignored boxes count for nothing, and
    with no positive the box term is divided by 1e-6 (it is 0, but whoever divides by the same number is not).
    """

    terms = ("class", "box", "centerness")
    config: FcosConfig
    reach_L2: Tensor  # the farthest side that a level sees, from and to

    def __init__(self, config: FcosConfig, num_classes: int, in_channels: int, strides: tuple[int, ...]):
        self.whole_steps = self.scores_jointly = config.style == "torchvision"
        super().__init__(config, num_classes, in_channels, strides)
        self.quality_output = self.output(1)
        self.scales = nn.ParameterList(torch.ones(()) for _ in strides)
        self.scales.requires_grad_(not self.whole_steps)  # torchvision's has none
        edges = config.size_edges
        reach_L2 = torch.tensor(list(zip((-1.0, *edges), (*edges, FAR), strict=True)))
        self.register_buffer("reach_L2", reach_L2, persistent=False)
        self.reset()

    def reset(self) -> None:
        super().reset()
        if self.config.start_distance:
            starts = [math.log(self.config.start_distance * stride) for stride in self.strides]
            nn.init.constant_(self.box_output.bias, 1.0)  # type: ignore[arg-type]
            for scale, start in zip(self.scales, starts, strict=True):
                nn.init.constant_(scale, start)

    def make_cells(self) -> tuple[Tensor, ...]:
        return ()

    def candidates(self, canvas: tuple[int, int]) -> Tensor:
        """Points as boxes without sides, half a stride from the corner of their cells; torchvision's on the corner."""
        offset, device = 0.0 if self.whole_steps else 0.5, self.class_output.weight.device
        points = make_points(canvas, self.strides, offset, device, self.whole_steps)
        return torch.cat(points).repeat(1, 2)[None]

    def predict_level(self, class_map: Tensor, box_map: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        logits_BNC = to_rows(self.class_output(class_map), self.num_classes - 1)
        raw_BN4 = to_rows(self.box_output(box_map), 4) * self.scales[level]
        distances_BN4 = raw_BN4.exp() if self.config.distances == "exp" else raw_BN4.relu() * self.strides[level]
        quality_map = class_map if self.config.centerness_from == "class" else box_map
        return logits_BNC, distances_BN4, to_rows(self.quality_output(quality_map), 1)[..., 0]

    def decode(self, raw_BN: Tensor, candidates_BN4: Tensor, stride: int) -> Tensor:
        return decode_distances(raw_BN, candidates_BN4[..., :2])

    def valid(self, sizes_B2: Tensor, canvas: tuple[int, int]) -> Tensor:
        """FCOS trains every point of the canvas, in the original too."""
        return torch.ones(1, sum(self.level_counts(canvas)), dtype=torch.bool, device=sizes_B2.device)

    def match(self, candidates_1N4, valid_BN, known: Annotated, canvas) -> tuple[Tensor, Tensor]:
        levels = zip(self.reach_L2, self.level_counts(canvas), strict=True)
        reach_N2 = torch.cat([reach_2.expand(count, 2) for reach_2, count in levels])
        ignored_BG = known.ignored_BG & (not self.config.faithful)
        return assign_points(candidates_1N4[0, :, :2], reach_N2, known.boxes_BG4, known.owner_BG, ignored_BG)

    def terms_by_level(
        self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        targets = self.assign(truth, canvas)
        assert raw.quality is not None
        positive_BN, points_BN2 = targets.positive_BN, targets.candidates_BN4[..., :2]
        divisor = self.divisor(positive_BN.sum().float(), mean) + EPSILON
        distances_BN4 = torch.where(positive_BN[..., None], encode_distances(targets.boxes_BN4, points_BN2), 1.0)
        center_BN = centerness(distances_BN4)
        weight_BN = torch.where(positive_BN, center_BN * targets.weight_BN, 0.0)
        whole = self.sum_centerness(torch.where(positive_BN, center_BN, 0.0), mean)
        found_BN4 = torch.where(positive_BN[..., None], torch.cat(raw.boxes, dim=1), 1.0)
        box_BN = log_iou_loss(decode_distances(found_BN4, points_BN2), decode_distances(distances_BN4, points_BN2))
        quality_BN = F.binary_cross_entropy_with_logits(torch.cat(raw.quality, dim=1), center_BN, reduction="none")
        quality_BN = quality_BN * torch.where(positive_BN, targets.weight_BN, 0.0)
        terms = {
            "class": self.focal_sums(raw, targets, canvas) / divisor,
            "box": self.level_sums(box_BN * weight_BN, canvas) / (whole + EPSILON),
            "centerness": self.level_sums(quality_BN, canvas) / divisor,
        }
        return terms, Assigned(targets.matched_BN, targets.state_BN, weight_BN, targets.candidates_BN4)

    def sum_centerness(self, center_BN: Tensor, mean: Mean) -> Tensor:
        """Of the positives, over ranks: what the box term is divided by."""
        if self.config.faithful:
            return mean(center_BN.sum()).clamp(min=1e-6)
        return self.divisor(center_BN.sum(), mean)
