"""torchvision's own Faster R-CNN driven on our batches, to compare with: same weights, same canvas, same samples.

Used by the tests and by `python -m train.bench`, which compares before it times.

Samples are drawn by a candidate's number. Where rounding swaps two proposals of nearly equal scores, the two detectors
would train on other regions. With `share_proposals` torchvision's RoI head gets ours, and the proposals themselves are
compared as sets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from model.api import Truth, Want
from model.backbones.torchvision_fpn import build_torchvision
from model.boxes.assign import ROI_STREAM, RPN_STREAM, draw_samples
from model.faster_rcnn.detector import FasterRcnn, Proposals

PROPOSAL_PIXELS = 0.05  # far above the rounding of a box on a large canvas in float32
PROPOSAL_TIE = 1e-4  # scores (0 to 1) that rounding may swap


class Differences(NamedTuple):
    loss: float  # the greatest relative one
    gradient: float  # the greatest, relative to its tensor's largest entry
    proposals: float  # the share that differs, of the worse image


@contextmanager
def recorded(owner: torch.nn.Module, name: str) -> Iterator[list[Any]]:
    """What a method of this module returns, call by call."""
    method, results = getattr(owner, name), []

    def call(*arguments: Any) -> Any:
        results.append(method(*arguments))
        return results[-1]

    setattr(owner, name, call)
    try:
        yield results
    finally:
        delattr(owner, name)


def stock_twin(detector: FasterRcnn) -> FasterRCNN:
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
    detector: FasterRcnn,
    images_B3HW: Tensor,
    sizes_B2: Tensor,
    boxes_BG4: Tensor,
    labels_BG: Tensor,
    keys_B: Tensor,
    given: list[Tensor] | None = None,
) -> dict[str, Tensor]:
    """torchvision's four losses under our names, on the samples that `detector.losses` draws for these keys.

    It knows no ignored boxes. Candidates are numbered as ours: proposals from 0, annotated boxes after the last slot.
    given: the RoI head's proposals for each image in place of its own; no gradient flows into either.
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
    proposals = proposals if given is None else given

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


def compare_losses(
    detector: FasterRcnn, stock: FasterRCNN, batch: tuple[Tensor, ...], share_proposals: bool = False
) -> Differences:
    """batch: images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B. share_proposals: torchvision's RoI head gets ours."""
    images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B = batch
    detector.zero_grad(set_to_none=True)
    stock.zero_grad(set_to_none=True)
    ignore_BG = torch.zeros_like(labels_BG, dtype=torch.bool)
    truth = Truth(sizes_B2, boxes_BG4, labels_BG, ignore_BG, torch.ones_like(boxes_BG4[..., 0]), keys_B)
    out = detector.look(images_B3HW, sizes_B2, Want(dense=True))
    with recorded(detector, "proposals") as got:
        ours, _ = detector.losses(out, truth)
    given = [boxes[real] for boxes, real in zip(*got[0], strict=True)] if share_proposals else None
    with recorded(stock.rpn, "filter_proposals") as wanted:
        theirs = stock_losses(stock, detector, images_B3HW, sizes_B2, boxes_BG4, labels_BG, keys_B, given)
    proposals = compare_proposals(got[0], *wanted[0])
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
    return Differences(loss, gradient, proposals)


def compare_proposals(ours: Proposals, boxes: list[Tensor], scores: list[Tensor]) -> float:
    """The share of proposals, of the worse image, that one of the two lacks or ranks elsewhere.

    boxes, scores: torchvision's, an image each, M proposals of ours against its N. The same place: every coordinate
    within PROPOSAL_PIXELS. The same rank: one whose score is within PROPOSAL_TIE, or as far off as some are missing.
    """
    worst = 0.0
    for boxes_P4, real_P, wanted_N4, scores_N in zip(*ours, boxes, scores, strict=True):
        got_M4 = boxes_P4[real_P]
        counts = len(got_M4), len(wanted_N4)
        if min(counts) == 0:
            worst = max(worst, float(max(counts) > 0))
            continue
        near_MN = (got_M4[:, None] - wanted_N4).abs().amax(2) <= PROPOSAL_PIXELS
        missing = count_unmatched(near_MN)
        rank_M, rank_N = (torch.arange(count, device=near_MN.device) for count in counts)
        tied_MN = (scores_N[rank_M.clamp(max=counts[1] - 1), None] - scores_N).abs() <= PROPOSAL_TIE
        same_MN = near_MN & (tied_MN | ((rank_M[:, None] - rank_N).abs() <= missing))
        worst = max(worst, count_unmatched(same_MN) / max(counts))
    return worst


def count_unmatched(same_MN: Tensor) -> int:
    """Rows or columns, whichever are more, without a match."""
    return max(int((~same_MN.any(dim)).sum()) for dim in (0, 1))
