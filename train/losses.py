"""The terms of the total loss and how they are weighed."""

from torch import Tensor

DETECTION_TERMS = ("rpn_class", "rpn_box", "roi_class", "roi_box")


def weigh(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum of weight * term; detection terms weigh 1, as in Faster R-CNN. A term of weight 0 is left out entirely."""
    weighted = [weights.get(name, 1.0) * term for name, term in terms.items() if weights.get(name, 1.0) != 0]
    return sum(weighted[1:], start=weighted[0])
