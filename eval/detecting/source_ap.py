"""The short evaluation that training calls: AP on the source domain, on every rank the same."""

import numpy as np
import torch
import torch.distributed as dist

from eval.detecting.detect import Detect, detect_dataset, gather, match_classes, spread
from eval.metrics.interchange import ground_truth_of, restrict
from eval.metrics.scoring import score_domain
from model.api import Detector
from pipeline.packed.reader import PackedDataset


def source_ap(
    detector: Detector,
    dataset: PackedDataset,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    max_images: int = 0,
    precision: str = "auto",
    detect: Detect | None = None,
) -> dict[str, float]:
    """{"AP50": VOC07 mAP at IoU 0.5, "mAP": COCO's, "num_images"}; percentages. Called by all ranks together.

    `max_images` above 0 takes that many images, spread evenly over the dataset. `detect` is a compiled Detector.detect.
    Leaves every module in the mode it had and every random state alone. The detector's classes are the dataset's.
    """
    found = detect_dataset(
        detector,
        dataset,
        match_classes(dataset.classes, dataset.classes, {}),
        batch_size=batch_size,
        device=device,
        dtype=choose_dtype(precision, device),
        rank=rank,
        world=world,
        detect=detect,
        rows=spread(np.arange(len(dataset)), max_images),
    )
    found = gather(found, world)
    answer: list[dict[str, float]] = [{}]
    if rank == 0:
        scores = []
        for truth in ground_truth_of(dataset):
            part, seen = restrict(truth, found.detections, found.ids_N)
            figures, _, _ = score_domain(part, seen)
            scores.append((figures["voc07"]["mAP"], figures["coco"]["mAP"], figures["num_images"]))
        ap50, mean_ap, images = zip(*scores, strict=True)
        answer = [{"AP50": mean(ap50), "mAP": mean(mean_ap), "num_images": sum(images)}]
    if world > 1:
        dist.broadcast_object_list(answer, src=0)
    return answer[0]


def mean(values: tuple[float | None, ...]) -> float:
    """Over domains that have objects; 0 where a small subset happens to hold none."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0


def choose_dtype(precision: str, device: str | torch.device) -> torch.dtype:
    """bfloat16 on a GPU and float32 on a CPU, unless said otherwise."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision {precision!r}: choose auto, float32 or bfloat16")
    if precision == "auto":
        precision = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    return getattr(torch, precision)
