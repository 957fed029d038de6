"""The short evaluation that training calls: AP on the source domain, on every rank the same."""

import numpy as np

from eval.detecting.detect import Pass, detect_dataset, gather, spread
from eval.metrics.interchange import ground_truth_of, restrict
from eval.metrics.scoring import score_domain


def source_ap(how: Pass, max_images: int = 0) -> dict[str, float]:
    """{"AP50": VOC07 mAP at IoU 0.5, "mAP": COCO's, "num_images"}; percentages. Called by all ranks together.

    `max_images` above 0 takes that many images, spread evenly over the dataset. Leaves every module in the mode it had
    and every random state alone.
    """
    found = detect_dataset(how, rows=spread(np.arange(len(how.dataset)), max_images))
    found = gather(found, how.world.size)
    answer: dict[str, float] = {}
    if how.world.first:
        scores = []
        for truth in ground_truth_of(how.dataset):
            part, seen = restrict(truth, found.detections, found.ids_N)
            figures, _, _ = score_domain(part, seen)
            scores.append((figures["voc07"]["mAP"], figures["coco"]["mAP"], figures["num_images"]))
        ap50, mean_ap, images = zip(*scores, strict=True)
        answer = {"AP50": mean(ap50), "mAP": mean(mean_ap), "num_images": sum(images)}
    return how.world.share(answer)


def mean(values: tuple[float | None, ...]) -> float:
    """Over domains that have objects; 0 where a small subset happens to hold none."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
