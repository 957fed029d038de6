"""Faster R-CNN with fixed shapes: torchvision's modules and parameter names, and a core that never looks at the data.

Ren et al. 2015 (RPN, RoI head) and Lin et al. 2017 (pyramid), as torchvision implements them. Every tensor's shape
follows from the canvas, the batch size and the configuration. So one graph per canvas serves training and inference,
and the host never waits for a GPU.

Legend: B images, H W canvas, G boxes per image after padding, L levels, A anchors. P proposals, R sampled regions, K
classes with background 0, D detection slots.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from kernels.detection.nms import nms
from model.api import Assigned, Detections, Detector, Mean, Outputs, Rois, Truth, Want, own
from model.backbones.pixels import convert_pixels
from model.backbones.pyramid import pyramid_maps
from model.backbones.torchvision_fpn import faster_rcnn_arguments
from model.boxes.anchors import exact_cells, make_anchors
from model.boxes.annotated import Annotated, annotated
from model.boxes.assign import ROI_STREAM, RPN_STREAM, assign, draw_samples
from model.boxes.boxes import clip, decode, encode, has_sides
from model.boxes.codes import decode_deltas
from model.boxes.select import or_one, take, thin_out
from model.config import ModelConfig
from model.faster_rcnn.roi import map_levels, roi_align_levels

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
HUBER_BETA = 1 / 9
SMALLEST_PROPOSAL, SMALLEST_DETECTION = 1e-3, 1e-2  # pixels a side
TINIEST = torch.finfo(torch.float32).tiny  # mmdetection only asks for more than 0


class Proposals(NamedTuple):
    boxes_BP4: Tensor  # zero where not real
    real_BP: Tensor


def weights_of(truth: Annotated, matched_BS: Tensor, kind_BS: Tensor) -> Tensor:
    """The weight of the box that a foreground slot is responsible for; 1 for background."""
    return torch.where(kind_BS == 1, take(truth.weight_BG, matched_BS), 1.0)


def box_loss(
    deltas_BS4: Tensor, target_BS4: Tensor, reference_BS4: Tensor, positive_BS: Tensor, weight_BS: Tensor, weights
) -> Tensor:
    """Weighted sum of smooth L1 over the foreground slots."""
    wanted_BS4 = torch.where(positive_BS[..., None], encode(target_BS4, reference_BS4, weights), 0.0)
    loss_BS4 = F.smooth_l1_loss(deltas_BS4.float(), wanted_BS4, beta=HUBER_BETA, reduction="none")
    return (loss_BS4 * (positive_BS * weight_BS)[..., None]).sum()


class FasterRcnn(FasterRCNN, Detector):
    """A torchvision FasterRCNN with the methods of `model.api`; torchvision's own forward still works."""

    terms = ("rpn_class", "rpn_box", "roi_class", "roi_box")
    cells_LS4: Tensor
    backbone: Any
    rpn: Any
    roi_heads: Any

    def __init__(self, config: ModelConfig, num_classes: int):
        super().__init__(**faster_rcnn_arguments(config, num_classes))
        self.config = config
        self.num_classes = num_classes
        self.exact = config.style == "mmdetection"
        cells = torch.stack(self.rpn.anchor_generator.cell_anchors)
        if self.exact:
            cells = exact_cells(config.resolved_anchor_sizes, config.anchor_ratios)
        self.register_buffer("cells_LS4", cells, persistent=False)
        self.strides, self.channels = config.strides, config.fpn_channels

    def features(self, images_B3HW: Tensor, strides: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        """Maps of the pyramid, finest first, the pooled one last. Height and width are multiples of 32.

        With `strides` only those maps, and no more of the pyramid than they need. Its finest level costs most.
        """
        height, width = images_B3HW.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"features: got a canvas of {height} x {width}; pad both sides to multiples of 32")
        if strides is None:
            return tuple(self.backbone(images_B3HW).values())
        unknown = sorted(set(strides) - set(self.strides))
        if unknown or not strides:
            raise ValueError(f"features: got strides {strides}; this pyramid has {self.strides}")
        levels = [level for level, stride in enumerate(self.strides) if stride in strides]
        maps = pyramid_maps(self.backbone, images_B3HW, set(levels))
        return tuple(maps[level] for level in levels)

    def anchors(self, features: tuple[Any, ...], canvas: tuple[int, int]) -> Tensor:
        sizes = tuple((f.shape[-2], f.shape[-1]) for f in features)
        return make_anchors(self.cells_LS4, canvas, sizes, self.strides if self.exact else None)

    def decode(self, deltas_N4: Tensor, reference_N4: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
        """Boxes; mmdetection bounds how far they shrink too."""
        return (decode_deltas if self.exact else decode)(deltas_N4, reference_N4, weights)

    def rpn_outputs(self, features: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per level: logits (B, A_l) and deltas (B, A_l, 4), float32, in the order of the anchors."""
        logits, deltas = self.rpn.head(list(features))
        num_images = features[0].shape[0]
        return (
            tuple(level.permute(0, 2, 3, 1).reshape(num_images, -1).float() for level in logits),
            tuple(level.permute(0, 2, 3, 1).reshape(num_images, -1, 4).float() for level in deltas),
        )

    @torch.no_grad()
    def proposals(
        self,
        level_logits: tuple[Tensor, ...],
        level_deltas: tuple[Tensor, ...],
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
            boxes.append(self.decode(take(deltas_BA4, index_BN), reference_BN4, RPN_WEIGHTS))
            logits.append(best_BN)
            groups.append(torch.full_like(index_BN, level, dtype=torch.int32))
            start += count
        boxes_BN4 = clip(torch.cat(boxes, dim=1), sizes_B2)
        scores_BN = torch.cat(logits, dim=1).sigmoid()
        smallest = TINIEST if self.exact else SMALLEST_PROPOSAL
        real_BN = has_sides(boxes_BN4, smallest) & (scores_BN >= self.config.resolved_rpn_score_threshold)
        keep_BP, count_B = nms(
            boxes_BN4,
            torch.where(real_BN, scores_BN, -torch.inf),
            torch.cat(groups, dim=1),
            self.config.rpn_nms_threshold,
            post_nms,
        )
        real_BP = torch.arange(post_nms, device=keep_BP.device) < count_B[:, None]
        return Proposals(torch.where(real_BP[..., None], take(boxes_BN4, keep_BP), 0.0), real_BP)

    def place(self, boxes_BR4: Tensor, real_BR: Tensor) -> Rois:
        """Regions with the level that each box's size asks for; the pooled level takes none."""
        finest, coarsest = (int(math.log2(stride)) for stride in (self.strides[0], self.strides[-2]))
        level_BR = map_levels(boxes_BR4, finest, coarsest, self.config.roi_canonical_scale)
        return Rois(boxes_BR4, level_BR, real_BR)

    def crops(self, neck: tuple[Tensor, ...], rois: Rois) -> Tensor:
        """(B * R, C, 7, 7): what the box head sees of each region."""
        scales = [1 / stride for stride in self.strides[:-1]]
        return roi_align_levels(neck[:-1], rois.boxes_BR4, rois.level_BR, scales, aligned=self.exact)

    def box_head(self, neck: tuple[Tensor, ...], rois: Rois) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, K) and deltas (B, R, K, 4) of the regions, float32."""
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(self.crops(neck, rois)))
        num_images, num_regions = rois.boxes_BR4.shape[:2]
        return (
            logits.float().reshape(num_images, num_regions, -1),
            deltas.float().reshape(num_images, num_regions, -1, 4),
        )

    def look(self, images_B3HW: Tensor, sizes_B2: Tensor, want: Want) -> Outputs:
        """The pyramid as far as it is wanted; with `dense` the RPN's predictions, with `rois` its best proposals."""
        if want.tower is not None:
            raise ValueError("a Faster R-CNN has no towers to look at; choose a dense detector")
        canvas = (images_B3HW.shape[-2], images_B3HW.shape[-1])
        images_B3HW = convert_pixels(images_B3HW, sizes_B2, self.config)
        if want == Want():
            return Outputs(canvas, (None,) * len(self.strides))
        if not (want.dense or want.rois or want.found):
            maps = iter(self.features(images_B3HW, want.neck))
            return Outputs(canvas, tuple(next(maps) if stride in want.neck else None for stride in self.strides))
        neck = self.features(images_B3HW)
        logits, deltas = self.rpn_outputs(neck)
        out = Outputs(canvas, neck, logits=logits, boxes=deltas)
        if want.rois or want.found:
            most = self.config.rpn_post_nms_test
            rois = self.own_rois(out, sizes_B2, most if want.found else min(want.rois, most))
            out = out._replace(rois=rois, found=self.choose(rois, sizes_B2) if want.found else None)
        return out

    def losses(self, out: Outputs, truth: Truth, mean: Mean = own) -> tuple[dict[str, Tensor], Assigned]:
        """The four losses of a batch, and the regions that the box head was trained on.

        Each sum is divided by `mean` of the number of sampled candidates. With the mean over ranks, averaging gradients
        over ranks gives those of the whole batch on one. Sampling is a pure function of the keys. The part of a
        foreground candidate in a sum is multiplied by the weight of its box; the number that divides is not.
        """
        known = annotated(truth, self.config.ignore_overlap < 1)
        assert out.logits is not None
        assert out.boxes is not None
        anchors_A4 = self.anchors(out.neck, out.canvas)
        rpn = self.rpn_losses(out.logits, out.boxes, anchors_A4, known, truth.keys_B, mean)
        pre_nms, post_nms = self.config.rpn_pre_nms_train, self.config.rpn_post_nms_train
        proposals = self.proposals(out.logits, out.boxes, anchors_A4, truth.sizes_B2, pre_nms, post_nms)
        roi, assigned = self.roi_losses(out.neck, proposals, known, truth.keys_B, mean)
        return {**rpn, **roi}, assigned

    def rpn_losses(
        self, level_logits, level_deltas, anchors_A4: Tensor, truth: Annotated, keys_B: Tensor, mean: Mean
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
        normaliser = or_one(mean((kind_BS >= 0).sum().float()))
        logits_BS = take(torch.cat(level_logits, dim=1), index_BS)
        class_BS = F.binary_cross_entropy_with_logits(logits_BS, (kind_BS == 1).float(), reduction="none")
        weight_BS = weights_of(truth, take(matched_BA, index_BS), kind_BS)
        # Only the first slots can be foreground.
        num_positive = int(config.rpn_samples_per_image * config.rpn_positive_fraction)
        index_BS, positive_BS = index_BS[:, :num_positive], kind_BS[:, :num_positive] == 1
        target_BS4 = take(truth.boxes_BG4, take(matched_BA, index_BS))
        deltas_BS4 = take(torch.cat(level_deltas, dim=1), index_BS)
        reference_BS4 = take(anchors_A4[None], index_BS)
        box = box_loss(deltas_BS4, target_BS4, reference_BS4, positive_BS, weight_BS[:, :num_positive], RPN_WEIGHTS)
        return {"rpn_class": (class_BS * (kind_BS >= 0) * weight_BS).sum() / normaliser, "rpn_box": box / normaliser}

    def roi_losses(
        self, features, proposals: Proposals, truth: Annotated, keys_B: Tensor, mean: Mean
    ) -> tuple[dict[str, Tensor], Assigned]:
        config = self.config
        # The annotated boxes are proposals too, so that the head sees foreground before the RPN has learned any.
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
        counts_BN = torch.cat((proposals.real_BP, truth.owner_BG), dim=1) & truth.present_B1
        state_BN = torch.where(counts_BN, state_BN, -1)
        index_BR, kind_BR = draw_samples(
            state_BN, config.regions_per_image, config.roi_positive_fraction, keys_B, ROI_STREAM
        )
        regions_BR4 = torch.where((kind_BR >= 0)[..., None], take(candidates_BN4, index_BR), 0.0)
        matched_BR = take(matched_BN, index_BR)
        labels_BR = torch.where(kind_BR == 1, take(truth.labels_BG, matched_BR), 0)
        logits_BRK, deltas_BRK4 = self.box_head(features, self.place(regions_BR4, kind_BR >= 0))
        weight_BR = weights_of(truth, matched_BR, kind_BR)

        normaliser = or_one(mean((kind_BR >= 0).sum().float()))
        class_BR = F.cross_entropy(logits_BRK.flatten(0, 1), labels_BR.flatten(), reduction="none").view_as(labels_BR)
        num_positive = int(config.regions_per_image * config.roi_positive_fraction)
        positive_BR = kind_BR[:, :num_positive] == 1
        label_BR114 = labels_BR[:, :num_positive, None, None].expand(-1, -1, 1, 4)
        deltas_BR4 = deltas_BRK4[:, :num_positive].gather(2, label_BR114)[:, :, 0]
        target_BR4 = take(truth.boxes_BG4, matched_BR[:, :num_positive])
        box = box_loss(
            deltas_BR4, target_BR4, regions_BR4[:, :num_positive], positive_BR, weight_BR[:, :num_positive], ROI_WEIGHTS
        )
        terms = {"roi_class": (class_BR * (kind_BR >= 0) * weight_BR).sum() / normaliser, "roi_box": box / normaliser}
        return terms, Assigned(matched_BR, kind_BR, weight_BR, regions_BR4)

    @torch.no_grad()
    def detect(self, images_B3HW: Tensor, sizes_B2: Tensor) -> Detections:
        """What is in the images: the best `detections_per_image`, each class thinned on its own."""
        found = self.look(images_B3HW, sizes_B2, Want(found=True)).found
        assert found is not None
        return found

    def own_rois(self, out: Outputs, sizes_B2: Tensor, num: int) -> Rois:
        """The network's best proposals of each image, and what its box head says of them."""
        config = self.config
        assert out.logits is not None
        assert out.boxes is not None
        anchors_A4 = self.anchors(out.neck, out.canvas)
        proposals = self.proposals(out.logits, out.boxes, anchors_A4, sizes_B2, config.rpn_pre_nms_test, num)
        rois = self.place(proposals.boxes_BP4, proposals.real_BP)
        logits_BPK, deltas_BPK4 = self.box_head(out.neck, rois)
        return rois._replace(logits_BRK=logits_BPK, deltas_BRK4=deltas_BPK4)

    @torch.no_grad()
    def choose(self, rois: Rois, sizes_B2: Tensor) -> Detections:
        """Detections among the regions that the box head has looked at."""
        assert rois.logits_BRK is not None
        assert rois.deltas_BRK4 is not None
        boxes_BPK4 = self.decode(rois.deltas_BRK4[:, :, 1:], rois.boxes_BR4[:, :, None], ROI_WEIGHTS)
        boxes_BN4 = clip(boxes_BPK4.flatten(1, 2), sizes_B2)
        scores_BPK = rois.logits_BRK.softmax(-1)[..., 1:]
        real_BPK = (scores_BPK > self.config.score_threshold) & rois.real_BR[..., None]
        real_BN = real_BPK.flatten(1) & has_sides(boxes_BN4, 0.0 if self.exact else SMALLEST_DETECTION)
        labels_BN = torch.arange(1, self.num_classes, device=boxes_BN4.device, dtype=torch.int32).expand_as(scores_BPK)
        labels_BN = labels_BN.flatten(1)
        scores_BN = torch.where(real_BN, scores_BPK.flatten(1), -torch.inf)
        return thin_out(boxes_BN4, scores_BN, labels_BN, self.config.nms_threshold, self.config.detections_per_image)
