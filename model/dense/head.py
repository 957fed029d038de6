"""What the heads of dense detectors share: two towers for all levels, assignment to all locations, detections.

Legend: B images, G boxes per image after padding, L levels, N candidates (anchors or points) of all levels in the order
level, row, column, shape; K classes with background 0, D detection slots.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.api import Assigned, Detections, Mean, Truth
from model.boxes.annotated import Annotated, annotated
from model.boxes.boxes import clip
from model.boxes.losses import focal_loss, one_hot
from model.boxes.points import inside_own_size, make_cells, make_dense_anchors, map_sizes
from model.boxes.select import or_one, take, thin_out

Towers = tuple[tuple[Tensor, Tensor], ...]
EPSILON = torch.finfo(torch.float32).eps  # that mmdetection adds to whatever it divides by
PRIOR = 0.01  # probability that a new head gives every class


class Raw(NamedTuple):
    """Raw predictions, a tensor a level, float32."""

    logits: tuple[Tensor, ...]  # (B, N_l, K - 1)
    boxes: tuple[Tensor, ...]  # (B, N_l, 4), by bins (B, N_l, 4 * bins)
    quality: tuple[Tensor, ...] | None = None  # (B, N_l)


class Targets(NamedTuple):
    """What each candidate is to answer."""

    matched_BN: Tensor
    state_BN: Tensor  # 1 foreground, 0 background, -1 left out
    positive_BN: Tensor
    labels_BN: Tensor  # 0 where not positive
    weight_BN: Tensor  # of the candidate's class term: 0 where left out, that of its box where positive
    boxes_BN4: Tensor  # the matched box; the candidate's own where not positive
    candidates_BN4: Tensor
    present_B: Tensor


class Candidates(NamedTuple):
    """What might be detected, before overlapping boxes are thinned out. A score of -inf is no candidate."""

    boxes_BN4: Tensor
    scores_BN: Tensor
    labels_BN: Tensor


def make_tower(num_convs: int, in_channels: int, channels: int, norm_groups: int, bias: bool) -> nn.ModuleList:
    """Convolutions 3x3, each with its norm and ReLU."""
    layers = []
    for _ in range(num_convs):
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias or norm_groups == 0)
        norm = [nn.GroupNorm(norm_groups, channels)] if norm_groups else []
        layers.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
        in_channels = channels
    return nn.ModuleList(layers)


def to_rows(map_BCHW: Tensor, width: int) -> Tensor:
    """(B, A * width, h, w) -> (B, h * w * A, width), float32."""
    return map_BCHW.permute(0, 2, 3, 1).reshape(map_BCHW.shape[0], -1, width).float()


class DenseHead(nn.Module, ABC):
    """A head answers at every location of every level.

    With `config.faithful` it repeats what the original code does and nobody wants. Candidates beyond an image's own
    size, rounded up to 32, are left out of training although detection asks them (RetinaNet, ATSS, GFL; not FCOS).
    An image without any box trains on what lies on ignored boxes. Sums are divided by 1 where their weights come to
    less, so that the loss depends on the number of ranks.
    Otherwise the padding is background like any other place, and a sum is divided by its weights, however little.
    """

    terms: tuple[str, ...]
    box_width = 4
    whole_steps = False  # between locations: canvas // map in place of strides
    scores_jointly = False  # sqrt(class * centreness) is what candidates are chosen by

    def __init__(self, config: Any, num_classes: int, in_channels: int, strides: tuple[int, ...]):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: got {num_classes}; allowed: 2 or more, the background is one of them")
        self.config, self.num_classes, self.strides = config, num_classes, strides
        arguments = (config.num_convs, in_channels, config.head_channels, config.norm_groups, config.tower_bias)
        self.class_tower, self.box_tower = make_tower(*arguments), make_tower(*arguments)
        self.out_channels = config.head_channels if config.num_convs else in_channels
        cells = self.make_cells()
        self.per_location = cells[0].shape[0] if cells else 1
        for level, cells_S4 in enumerate(cells):
            self.register_buffer(f"cells_{level}", cells_S4, persistent=False)
        self.class_output = self.output(self.per_location * (num_classes - 1))
        self.box_output = self.output(self.per_location * self.box_width)

    def output(self, channels: int) -> nn.Conv2d:
        return nn.Conv2d(self.out_channels, channels, 3, padding=1)

    def reset(self) -> None:
        """Starting weights: N(0, 0.01), no bias, but every class is given a probability of 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_output.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    # Predictions

    def grow(self, neck: tuple[Tensor, ...], k: int) -> Towers:
        """Both towers of every level after k of their convolutions, each with norm and ReLU; the map itself after 0."""
        self.check_place(k)
        return self.climb(tuple((level, level) for level in neck), 0, k)

    def climb(self, towers: Towers, start: int, stop: int) -> Towers:
        levels = []
        for class_map, box_map in towers:
            for index in range(start, stop):
                class_map, box_map = self.class_tower[index](class_map), self.box_tower[index](box_map)
            levels.append((class_map, box_map))
        return tuple(levels)

    def predict(self, towers: Towers, k: int) -> Raw:
        """Raw predictions from both towers after convolution k of whichever network: the rest, then the outputs."""
        self.check_place(k)
        levels = [
            self.predict_level(*maps, level) for level, maps in enumerate(self.climb(towers, k, self.config.num_convs))
        ]
        logits, boxes, quality = zip(*levels, strict=True)
        return Raw(logits, boxes, None if quality[0] is None else quality)

    def check_place(self, k: int) -> None:
        if not 0 <= k <= self.config.num_convs:
            raise ValueError(f"a tower's place: got {k}; allowed: 0 to {self.config.num_convs}, its convolutions")

    @abstractmethod
    def predict_level(self, class_map: Tensor, box_map: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """(logits, boxes, quality) of a level in rows, from the ends of its towers."""

    @abstractmethod
    def decode(self, raw_BN: Tensor, candidates_BN4: Tensor, stride: int) -> Tensor:
        """Boxes (B, N, 4) in pixels of raw box predictions at candidates of a level."""

    # Candidates

    def make_cells(self) -> tuple[Tensor, ...]:
        """Anchors around 0 of every level; nothing for a head that has points."""
        config = self.config
        octave = getattr(config, "anchors_per_octave", 1)
        return make_cells(self.strides, config.anchor_base, octave, config.anchor_ratios)

    def candidates(self, canvas: tuple[int, int]) -> Tensor:
        """(1, N, 4)"""
        cells = tuple(getattr(self, f"cells_{level}") for level in range(len(self.strides)))
        return make_dense_anchors(cells, canvas, self.strides, self.whole_steps)[None]

    def level_counts(self, canvas: tuple[int, int]) -> tuple[int, ...]:
        return tuple(height * width * self.per_location for height, width in map_sizes(canvas, self.strides))

    def candidate_strides(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """(N, 1)"""
        levels = zip(self.strides, self.level_counts(canvas), strict=True)
        return torch.cat([torch.full((count, 1), float(stride), device=device) for stride, count in levels])

    def valid(self, sizes_B2: Tensor, canvas: tuple[int, int]) -> Tensor:
        """(B or 1, N): which candidates may be trained at all."""
        if self.config.faithful:
            return inside_own_size(sizes_B2, canvas, self.strides, self.per_location)
        return torch.ones(1, sum(self.level_counts(canvas)), dtype=torch.bool, device=sizes_B2.device)

    # Training

    @abstractmethod
    def match(
        self, candidates_1N4: Tensor, valid_BN: Tensor, known: Annotated, canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(matched_BN, state_BN) by the head's own rule."""

    @torch.no_grad()
    def assign(self, truth: Truth, canvas: tuple[int, int]) -> Targets:
        known = annotated(truth, self.config.ignore_overlap < 1, self.config.faithful)
        candidates_1N4 = self.candidates(canvas)
        matched_BN, state_BN = self.match(candidates_1N4, self.valid(truth.sizes_B2, canvas), known, canvas)
        state_BN = torch.where(known.present_B1, state_BN, -1)
        positive_BN = state_BN == 1
        return Targets(
            matched_BN,
            state_BN,
            positive_BN,
            torch.where(positive_BN, take(known.labels_BG, matched_BN), 0),
            torch.where(positive_BN, take(known.weight_BG, matched_BN).float(), (state_BN == 0).float()),
            torch.where(positive_BN[..., None], take(known.boxes_BG4, matched_BN), candidates_1N4),
            candidates_1N4,
            known.present_B1[:, 0],
        )

    @abstractmethod
    def terms_by_level(
        self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        """Each term as (L,) parts that add up to it."""

    def losses(self, raw: Raw, truth: Truth, canvas: tuple[int, int], mean: Mean) -> tuple[dict[str, Tensor], Assigned]:
        """The terms, each a sum over the global batch divided by `mean` of a sum of this rank; what they trained."""
        with torch.autocast(raw.logits[0].device.type, enabled=False):
            parts, assigned = self.terms_by_level(raw, truth, canvas, mean)
        return {name: part_L.sum() for name, part_L in parts.items()}, assigned

    def focal_sums(self, raw: Raw, targets: Targets, canvas: tuple[int, int]) -> Tensor:
        """(L,) sums of the focal loss over classes and candidates."""
        counts = self.level_counts(canvas)
        rows = zip(raw.logits, targets.labels_BN.split(counts, 1), targets.weight_BN.split(counts, 1), strict=True)
        sums = []
        for logits_BNC, labels_BN, weight_BN in rows:
            loss_BNC = focal_loss(logits_BNC, one_hot(labels_BN, self.num_classes))
            sums.append((loss_BNC * weight_BN[..., None]).sum())
        return torch.stack(sums)

    def level_sums(self, values_BN: Tensor, canvas: tuple[int, int]) -> Tensor:
        return torch.stack([part.sum() for part in values_BN.split(self.level_counts(canvas), dim=1)])

    def divisor(self, total: Tensor, mean: Mean) -> Tensor:
        """Over ranks; where all weights come to nothing, 1."""
        total = mean(total)
        return total.clamp(min=1) if self.config.faithful else or_one(total)

    def count_positives(self, targets: Targets, mean: Mean) -> Tensor:
        """The sum over images of the number of positives, at least 1 each; rows that fill up a batch count nothing."""
        per_image_B = targets.positive_BN.sum(1).clamp(min=1)
        return or_one(mean((per_image_B * targets.present_B).sum().float()))

    # Detection

    @torch.no_grad()
    def find(self, raw: Raw, canvas: tuple[int, int], sizes_B2: Tensor) -> Candidates:
        """The best pairs of location and class of every level, with boxes clipped to their image.

        A pair needs a class score above the threshold. Its own score is then the class score times the centreness,
        where the head has one. A head that `scores_jointly` compares the root of the product with the threshold. The
        best pairs of a level lie at the locations with the best single scores.
        """
        config, num_labels = self.config, self.num_classes - 1
        candidates_1N4 = self.candidates(canvas)
        boxes, scores, labels = [], [], []
        start = 0
        for level, logits_BNC in enumerate(raw.logits):
            count = logits_BNC.shape[1]
            if self.scores_jointly:
                assert raw.quality is not None
                best_BN = logits_BNC.amax(2).sigmoid() * raw.quality[level].sigmoid()
            else:
                best_BN = logits_BNC.amax(2)
            places_BS = best_BN.topk(min(config.candidates_per_level, count), dim=1).indices
            class_BSC = take(logits_BNC, places_BS).sigmoid()
            if self.scores_jointly:
                assert raw.quality is not None
                class_BSC = (class_BSC * take(raw.quality[level], places_BS).sigmoid()[..., None]).sqrt()
            class_BSC = torch.where(class_BSC > config.score_threshold, class_BSC, -torch.inf)
            num_pairs = min(config.candidates_per_level, places_BS.shape[1] * num_labels)
            score_BP, pair_BP = class_BSC.flatten(1).topk(num_pairs, dim=1)
            place_BP = places_BS.gather(1, pair_BP // num_labels)
            reference_BP4 = take(candidates_1N4[:, start : start + count], place_BP)
            boxes.append(self.decode(take(raw.boxes[level], place_BP), reference_BP4, self.strides[level]))
            if raw.quality is not None and not self.scores_jointly:
                quality_BP = take(raw.quality[level], place_BP).sigmoid()
                score_BP = torch.where(score_BP > -torch.inf, score_BP * quality_BP, -torch.inf)
            scores.append(score_BP)
            labels.append((pair_BP % num_labels + 1).to(torch.int32))
            start += count
        boxes_BN4 = clip(torch.cat(boxes, dim=1), sizes_B2)
        scores_BN = torch.cat(scores, dim=1)
        if not self.whole_steps:  # torchvision keeps boxes without an area
            x1, y1, x2, y2 = boxes_BN4.unbind(-1)
            scores_BN = torch.where((x2 > x1) & (y2 > y1), scores_BN, -torch.inf)
        return Candidates(boxes_BN4, scores_BN, torch.cat(labels, dim=1))

    @torch.no_grad()
    def detect(self, raw: Raw, canvas: tuple[int, int], sizes_B2: Tensor) -> Detections:
        """The best `detections_per_image`, each class thinned on its own over all levels."""
        found = self.find(raw, canvas, sizes_B2)
        return thin_out(*found, self.config.nms_threshold, self.config.detections_per_image)
