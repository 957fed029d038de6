"""torchvision's bodies and pyramids, and its Faster R-CNN, built by its own constructors from a configuration."""

from collections.abc import Callable

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import Bottleneck
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from model.backbones.config import BackboneConfig
from model.backbones.first import take_inputs
from model.backbones.frozen_norm import fold_norms
from model.backbones.pyramid import BackboneWithPyramid
from model.backbones.relu6 import keep_results
from model.backbones.timm_body import PREFIX
from model.config import ModelConfig


def norm_layer(config: BackboneConfig):
    """What torchvision's constructors take: a callable of the number of channels."""
    cls = FrozenBatchNorm2d if config.frozen_norm else nn.BatchNorm2d

    def make(num_features: int) -> nn.Module:
        return cls(num_features, eps=config.norm_epsilon)

    return make


def build_layers(config: BackboneConfig) -> nn.Module:
    """The classifier's layers in order, one after the other, as the table has them."""
    return config.entry.layers(norm_layer(config), config.frozen_norm)


def freeze_stages(layers: nn.Module, config: BackboneConfig) -> None:
    """Leave the last `trainable_layers` stages to learn, counted as torchvision counts them."""
    begins, num_stages = config.entry.begins, len(config.entry.ends)
    trainable = config.trainable_layers
    if trainable is None:
        trainable = 3 if config.weights != "none" else num_stages
    if not 0 <= trainable <= num_stages:
        raise ValueError(f"--model.trainable-layers: got {trainable} for {config.backbone}; allowed: 0 to {num_stages}")
    if not begins and 0 < trainable < num_stages:
        raise ValueError(
            f"--model.trainable-layers: {config.backbone} cannot be frozen in part; give 0 or "
            f"{num_stages}, all its stages"
        )
    learning = trainable > 0 and not begins
    for name, layer in layers.named_children():
        learning |= trainable > 0 and name in begins[num_stages - trainable : num_stages - trainable + 1]
        layer.requires_grad_(learning)


def move_strides(body: nn.Module) -> None:
    """Bottlenecks that halve the map in their first 1x1, as caffe's weights need it; torchvision's do in the 3x3."""
    for block in body.modules():
        if isinstance(block, Bottleneck) and block.conv2.stride == (2, 2):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def build_backbone(
    config: BackboneConfig,
    make_coarse: Callable[[int], ExtraFPNBlock] | None = None,
    stock: bool = False,
) -> BackboneWithPyramid:
    """Body and pyramid, with torchvision's names of weights.

    make_coarse: makes the levels beyond the body's from its last map's channels; without it one is pooled.
    stock: torchvision's own layers, as they are.
    """
    entry, layers = config.entry, build_layers(config)
    freeze_stages(layers, config)
    take_inputs(layers, config)
    if config.stride_in_1x1:
        move_strides(layers)
    if not stock and not config.backbone.startswith(PREFIX):  # timm's layers may do more than their class says
        keep_results(fold_norms(layers))
    returned = config.resolved_returned_layers
    # A ResNet's stem counts as a stage, but its map comes before its norm, so torchvision never returns it.
    first, last = int(entry.ends[0] == "conv1"), len(entry.ends) - 1
    if not returned or sorted(set(returned)) != list(returned) or returned[0] < first or returned[-1] > last:
        raise ValueError(
            f"--model.returned-layers: got {returned} for {config.backbone}; allowed: rising numbers, {first} to {last}"
        )
    channels = [entry.channels[layer] for layer in returned]
    return_layers = {entry.ends[layer]: str(level) for level, layer in enumerate(returned)}
    coarse = make_coarse(channels[-1]) if make_coarse else None
    body = entry.stages(layers, return_layers, channels)
    return BackboneWithPyramid(body, channels, config.fpn_channels, coarse, config.fixed_statistics)


def rcnn_numbers(config: ModelConfig) -> dict:
    """The keyword arguments of torchvision's FasterRCNN that are plain numbers."""
    return {
        "rpn_pre_nms_top_n_train": config.rpn_pre_nms_train,
        "rpn_pre_nms_top_n_test": config.rpn_pre_nms_test,
        "rpn_post_nms_top_n_train": config.rpn_post_nms_train,
        "rpn_post_nms_top_n_test": config.rpn_post_nms_test,
        "rpn_nms_thresh": config.rpn_nms_threshold,
        "rpn_fg_iou_thresh": config.rpn_foreground_iou,
        "rpn_bg_iou_thresh": config.rpn_background_iou,
        "rpn_batch_size_per_image": config.rpn_samples_per_image,
        "rpn_positive_fraction": config.rpn_positive_fraction,
        "rpn_score_thresh": config.resolved_rpn_score_threshold,
        "box_fg_iou_thresh": config.roi_foreground_iou,
        "box_bg_iou_thresh": config.roi_background_iou,
        "box_batch_size_per_image": config.regions_per_image,
        "box_positive_fraction": config.roi_positive_fraction,
        "box_score_thresh": config.score_threshold,
        "box_nms_thresh": config.nms_threshold,
        "box_detections_per_img": config.detections_per_image,
    }


def faster_rcnn_arguments(config: ModelConfig, num_classes: int, stock: bool = False) -> dict:
    """The keyword arguments of torchvision's FasterRCNN that describe this detector."""
    if num_classes < 2:
        raise ValueError(f"num_classes: got {num_classes}; allowed: 2 or more, the background is one of them")
    backbone = build_backbone(config, stock=stock)
    sizes = config.resolved_anchor_sizes
    pool = MultiScaleRoIAlign(
        featmap_names=[str(level) for level in range(len(sizes) - 1)],
        output_size=7,
        sampling_ratio=2,
        canonical_scale=config.roi_canonical_scale,
    )
    return {
        "backbone": backbone,
        "rpn_anchor_generator": AnchorGenerator(sizes, (config.anchor_ratios,) * len(sizes)),
        "box_roi_pool": pool,
        "box_head": TwoMLPHead(config.fpn_channels * 7 * 7, config.representation_size),
        "box_predictor": FastRCNNPredictor(config.representation_size, num_classes),
        **rcnn_numbers(config),
    }


def build_torchvision(config: ModelConfig, num_classes: int) -> FasterRCNN:
    """The same detector as torchvision alone would run it, stock frozen norm included: the reference and the export."""
    return FasterRCNN(**faster_rcnn_arguments(config, num_classes, stock=True))
