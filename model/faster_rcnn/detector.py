"""Faster R-CNN with fixed shapes: torchvision's modules and parameter names, and a core that never looks at the data.

Ren et al. 2015 (RPN, RoI head) and Lin et al. 2017 (pyramid), as torchvision implements them. Every tensor's shape
follows from the canvas, the batch size and the configuration; so one graph per canvas serves training and inference,
and a GPU is never waited for.

Legend: B images, H W canvas, G boxes per image after padding, L levels, A anchors, P proposals, R sampled regions,
K classes with background 0, D detection slots.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from kernels.detection.nms import nms
from model.backbones.torchvision_fpn import faster_rcnn_arguments
from model.boxes.anchors import make_anchors
from model.boxes.assign import ROI_STREAM, RPN_STREAM, assign, draw_samples, real_boxes
from model.boxes.boxes import clip, decode, encode, has_sides
from model.config import ModelConfig
from model.faster_rcnn.roi import roi_align_levels

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
HUBER_BETA = 1 / 9


class Detections(NamedTuple):
    """Falling scores, in the pixels of the view, clipped to the image. Slots from count_B on are zero."""

    boxes_BD4: Tensor
    scores_BD: Tensor
    labels_BD: Tensor
    count_B: Tensor


class Proposals(NamedTuple):
    boxes_BP4: Tensor  # zero where not real
    real_BP: Tensor


class Truth(NamedTuple):
    """The annotated boxes of a batch, as assignment needs them."""

    boxes_BG4: Tensor
    labels_BG: Tensor
    owner_BG: Tensor  # may be responsible for candidates: neither padding nor ignored
    ignored_BG: Tensor
    present_B1: Tensor  # False for the rows that fill up a last batch


def take(values_BN: Tensor, index_BS: Tensor) -> Tensor:
    """Rows (B, S, ...) of values (B or 1, N, ...) at index (B, S)."""
    values_BN = values_BN.expand(index_BS.shape[0], *values_BN.shape[1:])
    trailing = values_BN.shape[2:]
    return values_BN.gather(
        1, index_BS.reshape(*index_BS.shape, *(1,) * len(trailing)).expand(*index_BS.shape, *trailing)
    )


def or_one(count: Tensor) -> Tensor:
    """A count to divide by. A mean over ranks may lie below 1; only where nothing at all counts is it 1."""
    return torch.where(count > 0, count, 1.0)


def box_loss(deltas_BS4: Tensor, target_BS4: Tensor, reference_BS4: Tensor, positive_BS: Tensor, weights) -> Tensor:
    """Sum of smooth L1 over the foreground slots."""
    wanted_BS4 = torch.where(positive_BS[..., None], encode(target_BS4, reference_BS4, weights), 0.0)
    loss_BS4 = F.smooth_l1_loss(deltas_BS4.float(), wanted_BS4, beta=HUBER_BETA, reduction="none")
    return (loss_BS4 * positive_BS[..., None]).sum()


class Detector(FasterRCNN):
    """A torchvision FasterRCNN with `features`, `losses` and `detect`; torchvision's own forward still works."""

    cells_LS4: Tensor

    def __init__(self, config: ModelConfig, num_classes: int):
        super().__init__(**faster_rcnn_arguments(config, num_classes))
        self.config = config
        self.num_classes = num_classes
        cells = torch.stack(self.rpn.anchor_generator.cell_anchors)
        self.register_buffer("cells_LS4", cells, persistent=False)
        self.strides = config.strides

    def features(self, images_B3HW: Tensor, strides: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        """Maps of the pyramid, finest first, the pooled one last. Height and width are multiples of 32.

        With `strides` only those maps, and no more of the pyramid than they need: its finest level is the dearest.
        """
        height, width = images_B3HW.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(
                f"Detector.features: got a canvas of {height} x {width}; pad both sides to multiples of 32"
            )
        if strides is None:
            return tuple(self.backbone(images_B3HW).values())
        unknown = sorted(set(strides) - set(self.strides))
        if unknown or not strides:
            raise ValueError(f"Detector.features: got strides {strides}; this pyramid has {self.strides}")
        fpn = self.backbone.fpn
        stages = list(self.backbone.body(images_B3HW).values())
        last = len(stages) - 1
        maps = {}
        inner = fpn.inner_blocks[last](stages[last])
        if {self.strides[last], self.strides[-1]} & set(strides):
            maps[last] = fpn.layer_blocks[last](inner)
        if self.strides[-1] in strides:
            maps[last + 1] = F.max_pool2d(maps[last], kernel_size=1, stride=2, padding=0)
        for level in range(last - 1, -1, -1):
            if not set(self.strides[: level + 1]) & set(strides):
                break
            lateral = fpn.inner_blocks[level](stages[level])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            if self.strides[level] in strides:
                maps[level] = fpn.layer_blocks[level](inner)
        return tuple(maps[level] for level, stride in enumerate(self.strides) if stride in strides)

    def anchors(self, features: tuple[Tensor, ...], canvas: tuple[int, int]) -> Tensor:
        return make_anchors(self.cells_LS4, canvas, tuple((f.shape[-2], f.shape[-1]) for f in features))

    def rpn_outputs(self, features: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: logits (B, A_l) and deltas (B, A_l, 4), float32, in the order of the anchors."""
        logits, deltas = self.rpn.head(list(features))
        num_images = features[0].shape[0]
        return (
            [level.permute(0, 2, 3, 1).reshape(num_images, -1).float() for level in logits],
            [level.permute(0, 2, 3, 1).reshape(num_images, -1, 4).float() for level in deltas],
        )

    @torch.no_grad()
    def proposals(
        self,
        level_logits: list[Tensor],
        level_deltas: list[Tensor],
        anchors_A4: Tensor,
        sizes_B2: Tensor,
        pre_nms: int,
        post_nms: int,
    ) -> Proposals:
        """Best `pre_nms` anchors of each level, decoded and clipped, thinned level by level to `post_nms` an image."""
        boxes, logits, groups = [], [], []
        start = 0
        for level, (logits_BA, deltas_BA4) in enumerate(zip(level_logits, level_deltas, strict=True)):
            count = logits_BA.shape[1]
            best_BN, index_BN = logits_BA.topk(min(pre_nms, count), dim=1)
            reference_BN4 = take(anchors_A4[None, start : start + count], index_BN)
            boxes.append(decode(take(deltas_BA4, index_BN), reference_BN4, RPN_WEIGHTS))
            logits.append(best_BN)
            groups.append(torch.full_like(index_BN, level, dtype=torch.int32))
            start += count
        boxes_BN4 = clip(torch.cat(boxes, dim=1), sizes_B2)
        scores_BN = torch.cat(logits, dim=1).sigmoid()
        real_BN = has_sides(boxes_BN4, self.rpn.min_size) & (scores_BN >= self.rpn.score_thresh)
        keep_BP, count_B = nms(
            boxes_BN4,
            torch.where(real_BN, scores_BN, -torch.inf),
            torch.cat(groups, dim=1),
            self.rpn.nms_thresh,
            post_nms,
        )
        real_BP = torch.arange(post_nms, device=keep_BP.device) < count_B[:, None]
        return Proposals(torch.where(real_BP[..., None], take(boxes_BN4, keep_BP), 0.0), real_BP)

    def roi_outputs(
        self, features: tuple[Tensor, ...], boxes_BR4: Tensor, canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, K) and deltas (B, R, K, 4) of the boxes, float32."""
        crops = roi_align_levels(features[:-1], boxes_BR4, canvas, self.config.roi_canonical_scale)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(crops))
        num_images, num_regions = boxes_BR4.shape[:2]
        return (
            logits.float().reshape(num_images, num_regions, -1),
            deltas.float().reshape(num_images, num_regions, -1, 4),
        )

    def losses(
        self,
        features: tuple[Tensor, ...],
        images_size: tuple[int, int],
        sizes_B2: Tensor,
        boxes_BG4: Tensor,
        labels_BG: Tensor,
        ignore_BG: Tensor,
        keys_B: Tensor,
        global_mean: Callable[[Tensor], Tensor] = lambda count: count,
    ) -> dict[str, Tensor]:
        """The four losses of a batch. Labels 0 and boxes without area are padding; images of size 0 do not count.

        Each sum is divided by `global_mean` of the number of sampled candidates: with the mean over ranks, averaging
        gradients over ranks gives those of the whole batch on one. Sampling is a pure function of keys_B.
        """
        present_B1 = (sizes_B2 > 0).all(dim=1, keepdim=True)
        boxes_BG4 = boxes_BG4.float()
        real_BG = real_boxes(boxes_BG4, labels_BG) & present_B1
        truth = Truth(boxes_BG4, labels_BG, real_BG & ~ignore_BG, real_BG & ignore_BG, present_B1)
        level_logits, level_deltas = self.rpn_outputs(features)
        anchors_A4 = self.anchors(features, images_size)
        rpn = self.rpn_losses(level_logits, level_deltas, anchors_A4, truth, keys_B, global_mean)
        pre_nms, post_nms = self.config.rpn_pre_nms_train, self.config.rpn_post_nms_train
        proposals = self.proposals(level_logits, level_deltas, anchors_A4, sizes_B2, pre_nms, post_nms)
        return {**rpn, **self.roi_losses(features, images_size, proposals, truth, keys_B, global_mean)}

    def rpn_losses(
        self, level_logits, level_deltas, anchors_A4: Tensor, truth: Truth, keys_B: Tensor, global_mean
    ) -> dict[str, Tensor]:
        config = self.config
        matched_BA, state_BA = assign(
            anchors_A4[None],
            truth.boxes_BG4,
            truth.owner_BG,
            truth.ignored_BG,
            config.rpn_foreground_iou,
            config.rpn_background_iou,
            True,
            config.ignore_overlap,
        )
        state_BA = torch.where(truth.present_B1, state_BA, -1)
        index_BS, kind_BS = draw_samples(
            state_BA, config.rpn_samples_per_image, config.rpn_positive_fraction, keys_B, RPN_STREAM
        )
        normaliser = or_one(global_mean((kind_BS >= 0).sum().float()))
        logits_BS = take(torch.cat(level_logits, dim=1), index_BS)
        class_BS = F.binary_cross_entropy_with_logits(logits_BS, (kind_BS == 1).float(), reduction="none")
        # Only the first slots can be foreground.
        num_positive = int(config.rpn_samples_per_image * config.rpn_positive_fraction)
        index_BS, positive_BS = index_BS[:, :num_positive], kind_BS[:, :num_positive] == 1
        target_BS4 = take(truth.boxes_BG4, take(matched_BA, index_BS))
        deltas_BS4 = take(torch.cat(level_deltas, dim=1), index_BS)
        box = box_loss(deltas_BS4, target_BS4, take(anchors_A4[None], index_BS), positive_BS, RPN_WEIGHTS)
        return {"rpn_class": (class_BS * (kind_BS >= 0)).sum() / normaliser, "rpn_box": box / normaliser}

    def roi_losses(
        self, features, canvas: tuple[int, int], proposals: Proposals, truth: Truth, keys_B: Tensor, global_mean
    ) -> dict[str, Tensor]:
        config = self.config
        # The annotated boxes are proposals too, so that the head sees foreground before the RPN has learnt any.
        candidates_BN4 = torch.cat((proposals.boxes_BP4, truth.boxes_BG4), dim=1)
        matched_BN, state_BN = assign(
            candidates_BN4,
            truth.boxes_BG4,
            truth.owner_BG,
            truth.ignored_BG,
            config.roi_foreground_iou,
            config.roi_background_iou,
            False,
            config.ignore_overlap,
        )
        state_BN = torch.where(torch.cat((proposals.real_BP, truth.owner_BG), dim=1), state_BN, -1)
        index_BR, kind_BR = draw_samples(
            state_BN, config.regions_per_image, config.roi_positive_fraction, keys_B, ROI_STREAM
        )
        regions_BR4 = torch.where((kind_BR >= 0)[..., None], take(candidates_BN4, index_BR), 0.0)
        matched_BR = take(matched_BN, index_BR)
        labels_BR = torch.where(kind_BR == 1, take(truth.labels_BG, matched_BR), 0)
        logits_BRK, deltas_BRK4 = self.roi_outputs(features, regions_BR4, canvas)

        normaliser = or_one(global_mean((kind_BR >= 0).sum().float()))
        class_BR = F.cross_entropy(logits_BRK.flatten(0, 1), labels_BR.flatten(), reduction="none").view_as(labels_BR)
        num_positive = int(config.regions_per_image * config.roi_positive_fraction)
        positive_BR = kind_BR[:, :num_positive] == 1
        label_BR114 = labels_BR[:, :num_positive, None, None].expand(-1, -1, 1, 4)
        deltas_BR4 = deltas_BRK4[:, :num_positive].gather(2, label_BR114)[:, :, 0]
        target_BR4 = take(truth.boxes_BG4, matched_BR[:, :num_positive])
        box = box_loss(deltas_BR4, target_BR4, regions_BR4[:, :num_positive], positive_BR, ROI_WEIGHTS)
        return {"roi_class": (class_BR * (kind_BR >= 0)).sum() / normaliser, "roi_box": box / normaliser}

    @torch.no_grad()
    def detect(self, images_B3HW: Tensor, sizes_B2: Tensor) -> Detections:
        """What is in the images: the best `detections_per_image`, each class thinned on its own."""
        return self.detect_features(
            self.features(images_B3HW), (images_B3HW.shape[-2], images_B3HW.shape[-1]), sizes_B2
        )

    @torch.no_grad()
    def detect_features(self, features: tuple[Tensor, ...], canvas: tuple[int, int], sizes_B2: Tensor) -> Detections:
        config = self.config
        level_logits, level_deltas = self.rpn_outputs(features)
        anchors_A4 = self.anchors(features, canvas)
        proposals = self.proposals(
            level_logits, level_deltas, anchors_A4, sizes_B2, config.rpn_pre_nms_test, config.rpn_post_nms_test
        )
        logits_BPK, deltas_BPK4 = self.roi_outputs(features, proposals.boxes_BP4, canvas)
        boxes_BPK4 = decode(deltas_BPK4[:, :, 1:], proposals.boxes_BP4[:, :, None], ROI_WEIGHTS)
        boxes_BN4 = clip(boxes_BPK4.flatten(1, 2), sizes_B2)
        scores_BPK = logits_BPK.softmax(-1)[..., 1:]
        real_BPK = (scores_BPK > self.roi_heads.score_thresh) & proposals.real_BP[..., None]
        real_BN = real_BPK.flatten(1) & has_sides(boxes_BN4, 1e-2)
        labels_BN = torch.arange(1, self.num_classes, device=boxes_BN4.device, dtype=torch.int32).expand_as(scores_BPK)
        labels_BN = labels_BN.flatten(1)
        scores_BN = torch.where(real_BN, scores_BPK.flatten(1), -torch.inf)
        num_slots = config.detections_per_image
        keep_BD, count_B = nms(boxes_BN4, scores_BN, labels_BN, self.roi_heads.nms_thresh, num_slots)
        real_BD = torch.arange(num_slots, device=keep_BD.device) < count_B[:, None]
        return Detections(
            torch.where(real_BD[..., None], take(boxes_BN4, keep_BD), 0.0),
            torch.where(real_BD, take(scores_BN, keep_BD), 0.0),
            torch.where(real_BD, take(labels_BN, keep_BD).to(torch.int64), 0),
            count_B,
        )
