"""What is scored: ground truth and detections as flat arrays, and the COCO files they come from and go to.

Boxes here are (x, y, width, height) in float64, in pixels of the original image, as COCO writes them, so that scoring a
file and scoring what was written to it are the same arithmetic. Legend: N images, M objects, D detections.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.metrics import domains
from pipeline.files.own import read_json
from pipeline.files.replace import replacing

if TYPE_CHECKING:
    from pipeline.packed.reader import PackedDataset

BOX_DECIMALS = 2  # a hundredth of a pixel
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class GroundTruth:
    """The objects of one domain, sorted by image. `ignore` objects (crowd, difficult) neither reward nor punish."""

    domain: str
    classes: tuple[str, ...]  # label k is classes[k - 1]
    image_ids_N: np.ndarray  # int64, ascending
    sizes_N2: np.ndarray  # int64, (h, w) of the original images
    image_M: np.ndarray  # int64, row of image_ids_N
    boxes_M4: np.ndarray
    labels_M: np.ndarray  # int64, 1..len(classes)
    ignore_M: np.ndarray  # bool
    areas_M: np.ndarray  # decides small, medium or large

    def objects_by_class(self) -> dict[str, int]:
        """Number of objects that count (not ignored)."""
        counts = np.bincount(self.labels_M[~self.ignore_M], minlength=len(self.classes) + 1)
        return {name: int(counts[label]) for label, name in enumerate(self.classes, 1)}


@dataclass(frozen=True)
class Detections:
    """Detections of one domain, in any order."""

    image_ids_D: np.ndarray  # int64
    boxes_D4: np.ndarray
    labels_D: np.ndarray  # int64, 1..K-1
    scores_D: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.scores_D)


def make_ground_truth(
    domain, classes, image_ids, sizes, rows_of_images, boxes, labels, ignore, areas=None
) -> GroundTruth:
    """Sort images by id and objects by image (objects of one image keep their order). Nothing is checked here."""
    image_ids = np.asarray(image_ids, np.int64)
    order_N = np.argsort(image_ids, kind="stable")
    rank_N = np.empty_like(order_N)
    rank_N[order_N] = np.arange(len(order_N))
    image = rank_N[np.asarray(rows_of_images, np.int64)]
    order_M = np.argsort(image, kind="stable")
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = boxes[:, 2] * boxes[:, 3] if areas is None else np.asarray(areas, np.float64)
    return GroundTruth(
        domain=domain,
        classes=tuple(classes),
        image_ids_N=image_ids[order_N],
        sizes_N2=np.asarray(sizes, np.int64).reshape(-1, 2)[order_N],
        image_M=image[order_M],
        boxes_M4=boxes[order_M],
        labels_M=np.asarray(labels, np.int64)[order_M],
        ignore_M=np.asarray(ignore, bool)[order_M],
        areas_M=areas[order_M],
    )


def ground_truth_of(dataset: "PackedDataset") -> list[GroundTruth]:
    """The ground truth of each domain in a packed dataset that has an object that counts, in original pixels."""
    return scorable(dataset, truths_of(dataset))


def scorable(dataset: "PackedDataset", truths: list[GroundTruth]) -> list[GroundTruth]:
    """The domains with an object that counts; an error where there is none."""
    found = [truth for truth in truths if not truth.ignore_M.all()]
    if not found:
        what = "no object that counts (all are marked ignore)" if any(len(t.ignore_M) for t in truths) else "no object"
        names = ", ".join(truth.domain for truth in truths)
        raise ValueError(f"{dataset.path}: the domain {names} has {what}, so no AP exists; score other images")
    return found


def truths_of(dataset: "PackedDataset") -> list[GroundTruth]:
    """The ground truth of each domain, those without any object included."""
    rows_by_domain: dict[str, list[int]] = {}
    for row in range(len(dataset)):
        rows_by_domain.setdefault(domains.canonical(dataset.domain_of(row)), []).append(row)
    if not rows_by_domain:
        raise ValueError(f"{dataset.path} holds no images, so there is nothing to score; pack it again")
    truths = []
    for domain, rows in rows_by_domain.items():
        sizes_N2 = np.asarray(dataset.original_sizes_N2)[rows]
        parts = [dataset.original_target(row) for row in rows]
        image_M = np.repeat(np.arange(len(rows)), [len(labels) for _, labels, _ in parts])
        corners_M4 = np.concatenate([boxes for boxes, _, _ in parts]).astype(np.float64).reshape(-1, 4)
        boxes_M4 = to_boxes(corners_M4)
        labels_M = np.concatenate([labels for _, labels, _ in parts])
        ignore_M = np.concatenate([ignore for _, _, ignore in parts])
        ids_N = np.asarray(dataset.ids_N)[rows]
        truths.append(
            make_ground_truth(domain, dataset.classes, ids_N, sizes_N2, image_M, boxes_M4, labels_M, ignore_M)
        )
    return truths


def to_boxes(corners_M4: np.ndarray) -> np.ndarray:
    """(x1, y1, x2, y2) -> (x, y, width, height), to a hundredth of a pixel."""
    corners_M4 = np.round(corners_M4.astype(np.float64), BOX_DECIMALS)
    return np.round(np.concatenate([corners_M4[:, :2], corners_M4[:, 2:] - corners_M4[:, :2]], axis=1), BOX_DECIMALS)


def concatenate(parts: list[Detections]) -> Detections:
    """All parts in one, sorted by image and score, so that the result does not depend on who found what."""
    ids_D = np.concatenate([part.image_ids_D for part in parts]).astype(np.int64)
    boxes_D4 = np.concatenate([part.boxes_D4 for part in parts]).astype(np.float64).reshape(-1, 4)
    labels_D = np.concatenate([part.labels_D for part in parts]).astype(np.int64)
    scores_D = np.concatenate([part.scores_D for part in parts]).astype(np.float64)
    order_D = np.lexsort((*boxes_D4.T[::-1], labels_D, -scores_D, ids_D))
    return Detections(ids_D[order_D], boxes_D4[order_D], labels_D[order_D], scores_D[order_D])


def restrict(truth: GroundTruth, detections: Detections, ids: np.ndarray) -> tuple[GroundTruth, Detections]:
    """The part of both that is about the images `ids`."""
    kept_N = np.isin(truth.image_ids_N, ids)
    kept_M, kept_D = kept_N[truth.image_M], np.isin(detections.image_ids_D, truth.image_ids_N[kept_N])
    row_N = np.cumsum(kept_N) - 1
    part = GroundTruth(
        domain=truth.domain,
        classes=truth.classes,
        image_ids_N=truth.image_ids_N[kept_N],
        sizes_N2=truth.sizes_N2[kept_N],
        image_M=row_N[truth.image_M[kept_M]],
        boxes_M4=truth.boxes_M4[kept_M],
        labels_M=truth.labels_M[kept_M],
        ignore_M=truth.ignore_M[kept_M],
        areas_M=truth.areas_M[kept_M],
    )
    return part, select(detections, kept_D)


def select(detections: Detections, kept_D: np.ndarray) -> Detections:
    return Detections(
        detections.image_ids_D[kept_D],
        detections.boxes_D4[kept_D],
        detections.labels_D[kept_D],
        detections.scores_D[kept_D],
    )


def check_detections(detections: Detections, truth: GroundTruth, where: str) -> None:
    """Refuse what cannot be scored honestly: NaN, boxes of negative size, images or classes not in the data."""
    broken_D = ~(np.isfinite(detections.boxes_D4).all(axis=1) & np.isfinite(detections.scores_D))
    if broken_D.any():
        row = int(np.flatnonzero(broken_D)[0])
        raise ValueError(
            f"{where}: {broken_D.sum()} detections hold a number that is not finite, the first is entry {row} "
            f"(box {detections.boxes_D4[row].tolist()}, score {detections.scores_D[row]}); remove or fix them"
        )
    negative_D = (detections.boxes_D4[:, 2:] < 0).any(axis=1)
    if negative_D.any():
        row = int(np.flatnonzero(negative_D)[0])
        raise ValueError(
            f"{where}: entry {row} has a box of negative size {detections.boxes_D4[row].tolist()}; "
            "COCO boxes are [x, y, width, height]"
        )
    unknown = np.setdiff1d(detections.image_ids_D, truth.image_ids_N)
    if len(unknown):
        raise ValueError(
            f"{where}: {len(unknown)} image ids are not in the domain {truth.domain} "
            f"({len(truth.image_ids_N)} images), the first is {unknown[0]}; "
            "score the file against the data it was made from"
        )
    strange = np.setdiff1d(detections.labels_D, np.arange(1, len(truth.classes) + 1))
    if len(strange):
        raise ValueError(
            f"{where}: category ids {strange[:5].tolist()} are not among 1..{len(truth.classes)} "
            f"({', '.join(truth.classes)}); category_id is the place in the class list, counted from 1"
        )


def write_results(path: Path, detections: Detections) -> None:
    """COCO results JSON, one detection a line; numbers keep all their digits, so reading gives the same arrays."""
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write("[")
        rows = zip(
            detections.image_ids_D.tolist(),
            detections.labels_D.tolist(),
            detections.boxes_D4.tolist(),
            detections.scores_D.tolist(),
            strict=True,
        )
        for number, (image_id, label, box, score) in enumerate(rows):
            file.write(",\n" if number else "\n")
            file.write(f'{{"image_id": {image_id}, "category_id": {label}, "bbox": {box}, "score": {score!r}}}')
        file.write("\n]\n")


def read_results(path: Path) -> Detections:
    """Anyone's COCO results JSON."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path}: COCO results are a JSON list of detections, this is a {type(rows).__name__}")
    for number, row in enumerate(rows):
        if problem := _problem(row):
            raise ValueError(
                f"{path}: entry {number} {problem}; an entry is "
                '{"image_id": 7, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}'
            )
    return Detections(
        image_ids_D=np.array([int(row["image_id"]) for row in rows], np.int64),
        boxes_D4=np.array([row["bbox"] for row in rows], np.float64).reshape(len(rows), 4),
        labels_D=np.array([int(row["category_id"]) for row in rows], np.int64),
        scores_D=np.array([row["score"] for row in rows], np.float64),
    )


def _problem(row) -> str | None:
    """What is wrong with an entry of a results file."""
    if type(row) is not dict:
        return f"is {row!r}, not an object"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in row:
            return f"has no {key!r}"
        value = row[key]
        if key == "bbox":
            good = type(value) is list and len(value) == 4 and all(map(_is_number, value))
        else:
            good = _is_number(value) and (key == "score" or value == int(value))
        if not good:
            return f"has {key} {value!r}"
    if row["bbox"][2] < 0 or row["bbox"][3] < 0:
        return f"has a box of negative size {row['bbox']}"
    return None


def _is_number(value) -> bool:
    """A finite one that numpy's 64 bits hold; True, "0.5" and null are none."""
    return type(value) in (int, float) and -(2**63) < value < 2**63


def ground_truth_json(truth: GroundTruth) -> dict:
    """COCO annotations of a ground truth, for pycocotools and other people's scorers. Ignored objects are crowds."""
    images = [
        {"id": int(image_id), "height": int(h), "width": int(w), "file_name": f"{image_id}.jpg"}
        for image_id, (h, w) in zip(truth.image_ids_N, truth.sizes_N2, strict=True)
    ]
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truth.image_ids_N[truth.image_M[row]]),
            "category_id": int(truth.labels_M[row]),
            "bbox": truth.boxes_M4[row].tolist(),
            "area": float(truth.areas_M[row]),
            "iscrowd": int(truth.ignore_M[row]),
        }
        for row in range(len(truth.labels_M))
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(truth.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
