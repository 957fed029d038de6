"""torchvision's own Faster R-CNN driven on our batches, to compare with: same weights, same canvas, same samples.

Used by the tests and by `python -m train.bench`, which prints no speed without parity.
"""

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from model.assign import ROI_STREAM, RPN_STREAM, draw_samples
from model.backbone import build_torchvision
from model.detector import Detections, Detector


def stock_twin(detector: Detector) -> FasterRCNN:
    """torchvision's detector with the weights, mode and device of ours."""
    stock = build_torchvision(detector.config, detector.num_classes)
    stock.load_state_dict(detector.state_dict())
    return stock.to(detector.cells_LS4.device).train(detector.training)


class GivenSampler:
    """Stands in for torchvision's BalancedPositiveNegativeSampler and draws what our core draws.

    places: for each image the index of each of its candidates among our N fixed ones; None when they are the same.
    """

    def __init__(self, num_samples: int, positive_fraction: float, keys_B: Tensor, stream: int):
        self.num_samples, self.positive_fraction = num_samples, positive_fraction
        self.keys_B, self.stream = keys_B, stream
        self.places: list[Tensor] | None = None
        self.num_candidates = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        places = self.places or [torch.arange(len(each), device=each.device) for each in labels]
        total = self.num_candidates or len(labels[0])
        state_BN = torch.stack([each.new_full((total,), -1) for each in labels]).to(torch.int8)
        for state_N, place, each in zip(state_BN, places, labels, strict=True):
            state_N[place] = each.clamp(max=1).to(torch.int8)
        index_BS, kind_BS = draw_samples(state_BN, self.num_samples, self.positive_fraction, self.keys_B, self.stream)
        masks: tuple[list[Tensor], list[Tensor]] = ([], [])
        for index_S, kind_S, place in zip(index_BS, kind_BS, places, strict=True):
            for wanted, chosen in zip((1, 0), masks, strict=True):
                mask_N = torch.zeros(total, dtype=torch.uint8, device=place.device)
                mask_N[index_S[kind_S == wanted]] = 1
                chosen.append(mask_N[place])
        return masks


def stock_losses(
    stock: FasterRCNN,
    detector: Detector,
    images_B3HW: Tensor,
    sizes_B2: Tensor,
    boxes_BG4: Tensor,
    labels_BG: Tensor,
    keys_B: Tensor,
) -> dict[str, Tensor]:
    """torchvision's four losses under our names, on the samples that `detector.losses` draws for these keys.

    It knows no ignored boxes. Candidates are numbered as ours: proposals from 0, annotated boxes after the last slot.
    """
    config = detector.config
    targets, slots = [], []
    for boxes_G4, labels_G in zip(boxes_BG4, labels_BG, strict=True):
        real_G = (labels_G > 0) & (boxes_G4[:, 2:] > boxes_G4[:, :2]).all(1)
        targets.append({"boxes": boxes_G4[real_G], "labels": labels_G[real_G]})
        slots.append(torch.nonzero(real_G)[:, 0])
    image_list = ImageList(images_B3HW, [tuple(size) for size in sizes_B2.tolist()])
    features = stock.backbone(images_B3HW)
    stock.rpn.fg_bg_sampler = GivenSampler(
        config.rpn_samples_per_image, config.rpn_positive_fraction, keys_B, RPN_STREAM
    )
    proposals, rpn = stock.rpn(image_list, features, targets)

    sampler = GivenSampler(config.regions_per_image, config.roi_positive_fraction, keys_B, ROI_STREAM)
    num_slots = config.rpn_post_nms_train
    sampler.num_candidates = num_slots + boxes_BG4.shape[1]
    sampler.places = [
        torch.cat((torch.arange(len(kept), device=kept.device), num_slots + slot))
        for kept, slot in zip(proposals, slots, strict=True)
    ]
    stock.roi_heads.fg_bg_sampler = sampler
    stock.roi_heads.box_roi_pool.scales = None  # it keeps those of the first canvas it saw
    _, roi = stock.roi_heads(features, proposals, image_list.image_sizes, targets)
    return {
        "rpn_class": rpn["loss_objectness"],
        "rpn_box": rpn["loss_rpn_box_reg"],
        "roi_class": roi["loss_classifier"],
        "roi_box": roi["loss_box_reg"],
    }


@torch.no_grad()
def stock_detections(stock: FasterRCNN, images_B3HW: Tensor, sizes_B2: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's detections in the pixels of the view, one dict an image."""
    image_list = ImageList(images_B3HW, [tuple(size) for size in sizes_B2.tolist()])
    features = stock.backbone(images_B3HW)
    proposals, _ = stock.rpn(image_list, features)
    stock.roi_heads.box_roi_pool.scales = None
    detections, _ = stock.roi_heads(features, proposals, image_list.image_sizes)
    return detections


def compare_losses(detector: Detector, stock: FasterRCNN, batch: tuple[Tensor, ...]) -> tuple[float, float]:
    """(greatest relative difference of a loss, greatest of a gradient relative to that tensor's largest entry).

    batch: images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B.
    """
    images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B = batch
    detector.zero_grad(set_to_none=True)
    stock.zero_grad(set_to_none=True)
    canvas = (images_B3HW.shape[-2], images_B3HW.shape[-1])
    ignore_BG = torch.zeros_like(labels_BG, dtype=torch.bool)
    ours = detector.losses(detector.features(images_B3HW), canvas, sizes_B2, boxes_BG4, labels_BG, ignore_BG, keys_B)
    theirs = stock_losses(stock, detector, images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B)
    torch.stack(list(ours.values())).sum().backward()
    torch.stack(list(theirs.values())).sum().backward()
    loss = max(
        float((ours[name] - theirs[name]).detach().abs() / theirs[name].detach().abs().clamp(min=1e-6))
        for name in theirs
    )
    gradient = 0.0
    reference = dict(stock.named_parameters())
    for name, parameter in detector.named_parameters():
        expected = reference[name].grad
        if (parameter.grad is None) != (expected is None):
            raise ValueError(f"{name}: one of the two detectors has no gradient")
        if expected is not None and parameter.grad is not None:
            largest = expected.abs().max().clamp(min=1e-6)
            gradient = max(gradient, float((parameter.grad - expected).abs().max() / largest))
    return loss, gradient


def compare_detections(ours: Detections, theirs: list[dict[str, Tensor]]) -> float:
    """Greatest difference of a box coordinate (relative to 1 or itself) or score, slot by slot; infinite when the
    number, the labels or the order differ.
    """
    greatest = 0.0
    for image, expected in enumerate(theirs):
        count = int(ours.count_B[image])
        if count != len(expected["scores"]) or not torch.equal(ours.labels_BD[image, :count], expected["labels"]):
            return float("inf")
        boxes_N4, scores_N = ours.boxes_BD4[image, :count], ours.scores_BD[image, :count]
        for got, wanted in ((boxes_N4, expected["boxes"]), (scores_N, expected["scores"])):
            if count:
                greatest = max(greatest, float(((got - wanted).abs() / wanted.abs().clamp(min=1)).max()))
    return greatest
