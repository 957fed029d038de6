"""Losses of dense heads, element by element: whoever calls weighs and sums them.

Sources: focal loss (Lin et al. 2017, RetinaNet), quality and distribution focal loss (Li et al. 2020, GFL), generalised
IoU (Rezatofighi et al. 2019), -log IoU (Yu et al. 2016, UnitBox), as mmdetection computes them. Leading dimensions
broadcast. All of it expects float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # of a union or an enclosing area in pixels^2 (GFL: in strides^2)


def one_hot(labels_N: Tensor, num_classes: int) -> Tensor:
    """(N, K - 1): 1 at the class, all 0 for background 0. num_classes counts the background."""
    return labels_N[..., None] == torch.arange(1, num_classes, device=labels_N.device)


def focal_loss(logits: Tensor, is_class: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """alpha_t (1 - p_t)^gamma BCE, where p_t is the probability given to the truth and alpha_t = alpha or 1 - alpha.

    No part is held constant.
    """
    target = is_class.to(logits.dtype)
    probability = logits.sigmoid()
    miss = (1 - probability) * target + probability * (1 - target)
    weight = (alpha * target + (1 - alpha) * (1 - target)) * miss.pow(gamma)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight


def quality_focal_loss(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """|q - p|^beta BCE(p, q) with a quality q in 0..1 as the target, 0 for every class that is not there.

    The factor is not held constant. With a teacher's probabilities as q and beta 1 it is CrossKD's class loss.
    """
    difference = (quality - logits.sigmoid()).abs()
    return F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * difference.pow(beta)


def distribution_focal_loss(logits_NB: Tensor, distance_N: Tensor) -> Tensor:
    """Cross entropy of bins 0..B-1 with a distance between two of them, each weighed by how near the distance is.

    distance_N lies in [0, B - 1).
    """
    low_N = distance_N.floor()
    log_NB = logits_NB.log_softmax(-1)
    index_N1 = low_N.long()[..., None]
    at_low_N, at_high_N = log_NB.gather(-1, index_N1)[..., 0], log_NB.gather(-1, index_N1 + 1)[..., 0]
    return -(at_low_N * (low_N + 1 - distance_N) + at_high_N * (distance_N - low_N))


def softened_divergence(logits_NB: Tensor, teacher_NB: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of every bin or class; its sum or mean is the caller's."""
    target_NB = (teacher_NB / temperature).softmax(-1)
    return F.kl_div((logits_NB / temperature).log_softmax(-1), target_NB, reduction="none") * temperature**2


def areas_together(boxes_N4: Tensor, others_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of pairs of boxes, the union at least 1e-6. Differentiable, unlike boxes.intersection."""
    ax1, ay1, ax2, ay2 = boxes_N4.unbind(-1)
    bx1, by1, bx2, by2 = others_N4.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return inter, union.clamp(min=EPSILON)


def paired_iou(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes."""
    inter, union = areas_together(boxes_N4, others_N4)
    return inter / union


def paired_giou(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    """IoU - (E - union) / E, where E is the area of the smallest box around both."""
    inter, union = areas_together(boxes_N4, others_N4)
    ax1, ay1, ax2, ay2 = boxes_N4.unbind(-1)
    bx1, by1, bx2, by2 = others_N4.unbind(-1)
    width = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)).clamp(min=0)
    height = (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)).clamp(min=0)
    around = (width * height).clamp(min=EPSILON)
    return inter / union - (around - union) / around


def giou_loss(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    return 1 - paired_giou(boxes_N4, others_N4)


def log_iou_loss(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    """-log IoU, the IoU at least 1e-6."""
    return -paired_iou(boxes_N4, others_N4).clamp(min=EPSILON).log()
