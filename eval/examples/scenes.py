"""Example pictures of an evaluation: the same scenes for every run, and each domain's best and worst images.

Saved as small JPEGs and one pictures.json whose boxes are fractions of the picture; the report draws them. Which scenes
are shown depends on the data alone, so that runs meet on them. Detections are shown from the run's working score on
(eval/metrics/errors.py).
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import kernels
from eval.detecting.detect import (
    Detect,
    check_inputs,
    detect_batches,
    evaluating,
    make_batch,
    read_extra,
    read_image,
)
from eval.metrics.interchange import Detections, GroundTruth, concatenate, select
from eval.metrics.matching import FALSE, TRUE, Matches
from model.api import Detector
from pipeline.files.own import write_json
from pipeline.packed.reader import PackedDataset

# Two noises a student trains on, and two weathers it has never seen.
SCENE_CORRUPTIONS = (("fog", 3), ("motion_blur", 3), ("gaussian_noise", 3), ("snow", 2))
SCENES_OF_A_TARGET = 2
BEST_AND_WORST = 2
WIDTH = 640
JPEG_QUALITY = 80

# (corrupted RGB image of a dataset, its id) -> detections in original pixels
DetectImage = Callable[[PackedDataset, np.ndarray, int], Detections]


def save_pictures(
    folder: Path,
    truths: dict[str, tuple[GroundTruth, PackedDataset]],
    detections: dict[str, Detections],
    source: str,
    score: float,
    detect_image: DetectImage | None,
) -> None:
    """Write JPEGs and pictures.json. Without `detect_image` (detections from files) no corrupted views are made."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    content: dict = {"score": score, "scenes": [], "best": [], "worst": []}
    for domain, (truth, dataset) in truths.items():
        sure = select(detections[domain], detections[domain].scores_D >= score)
        rows = choose_scenes(truth, len(SCENE_CORRUPTIONS) if domain == source else SCENES_OF_A_TARGET)
        for place, row in enumerate(rows):
            views = [picture(folder, truth, dataset, row, sure)]
            if domain == source and detect_image is not None:
                name, severity = SCENE_CORRUPTIONS[place]
                image_id = int(truth.image_ids_N[row])
                image = read_image(dataset, dataset.index_of(image_id))
                image = kernels.corrupt(image, severity=severity, corruption_name=name, seed=image_id)
                found = detect_image(dataset, image, image_id)
                found = select(found, found.scores_D >= score)
                views.append(picture(folder, truth, dataset, row, found, f"{name}-{severity}", image))
            entry = {"domain": domain, "id": int(truth.image_ids_N[row]), "views": views}
            beside = save_beside(folder, dataset, int(truth.image_ids_N[row]), Path(views[0]["file"]).stem)
            content["scenes"].append(entry | ({"beside": beside} if beside else {}))
        best, worst = best_and_worst(truth, sure)
        content["best"] += [picture(folder, truth, dataset, row, sure) for row in best]
        content["worst"] += [picture(folder, truth, dataset, row, sure) for row in worst]
    write_json(folder / "pictures.json", content)


def choose_scenes(truth: GroundTruth, count: int) -> list[int]:
    """Rows of images that show the most classes, with a handful of objects; ties by a hash of the id."""

    def rank(row: int) -> tuple[int, int, int]:
        labels = truth.labels_M[(truth.image_M == row) & ~truth.ignore_M]
        crowded = abs(len(labels) - 8) // 4
        return -len(set(labels.tolist())), crowded, zlib.crc32(str(truth.image_ids_N[row]).encode())

    # A few hundred candidates are enough; walking 26,000 images for two pictures would be waste.
    step = max(1, len(truth.image_ids_N) // 400)
    return sorted(range(0, len(truth.image_ids_N), step), key=rank)[:count]


def best_and_worst(truth: GroundTruth, sure: Detections) -> tuple[list[int], list[int]]:
    """Rows of the images with the highest and lowest F1 = 2 right / (found + objects); ties by number of objects."""
    matches = Matches(truth, sure)
    verdict_D = matches.voc()
    num_images = len(truth.image_ids_N)
    right_N = np.bincount(matches.image_D[verdict_D == TRUE], minlength=num_images)
    found_N = right_N + np.bincount(matches.image_D[verdict_D == FALSE], minlength=num_images)
    objects_N = np.bincount(truth.image_M[~truth.ignore_M], minlength=num_images)
    f1_N = 2 * right_N / np.maximum(found_N + objects_N, 1)
    rows = np.flatnonzero(objects_N > 0)
    order = rows[np.lexsort((-objects_N[rows], -f1_N[rows]))]
    best = order[:BEST_AND_WORST]
    worst = rows[np.lexsort((-objects_N[rows], f1_N[rows]))]
    return best.tolist(), [int(row) for row in worst if row not in best][:BEST_AND_WORST]


def picture(
    folder: Path,
    truth: GroundTruth,
    dataset: PackedDataset,
    row: int,
    sure: Detections,
    view: str = "clean",
    image: np.ndarray | None = None,
) -> dict:
    """Save one picture and judge what is on it."""
    image_id = int(truth.image_ids_N[row])
    if image is None:
        image = read_image(dataset, dataset.index_of(image_id))
    name = f"{zlib.crc32(truth.domain.encode()):08x}-{image_id}-{view}.jpg"
    write_picture(folder / name, image)
    h, w = truth.sizes_N2[row]
    scale_4 = np.array([w, h, w, h], np.float64)
    own_M = truth.image_M == row
    found = select(sure, sure.image_ids_D == image_id)
    found_D, objects_M = judge(truth, own_M, found)
    return {
        "domain": truth.domain,
        "id": image_id,
        "name": dataset.file_names[dataset.index_of(image_id)],
        "view": view,
        "file": name,
        "size": [int(image.shape[0]), int(image.shape[1])],
        "objects": [
            [*(box / scale_4).round(5).tolist(), truth.classes[label - 1], verdict]
            for box, label, verdict in zip(truth.boxes_M4[own_M], truth.labels_M[own_M], objects_M, strict=True)
        ],
        "detections": [
            [*(box / scale_4).round(5).tolist(), truth.classes[label - 1], round(float(score), 3), verdict]
            for box, label, score, verdict in zip(found.boxes_D4, found.labels_D, found.scores_D, found_D, strict=True)
        ],
    }


def save_beside(folder: Path, dataset: PackedDataset, image_id: int, stem: str) -> list[dict]:
    """What else the data has of an image, one picture each: one channel grey, three as colours, others side by side."""
    saved = []
    for name, image in read_extra(dataset, dataset.index_of(image_id), tuple(dataset.extra)).items():
        file = f"{stem}-{name}.jpg"
        channels = image.shape[2]
        if channels not in (1, 3):
            image = np.concatenate([image[..., c : c + 1] for c in range(channels)], axis=1)
        write_picture(folder / file, image if channels == 3 else np.repeat(image, 3, axis=2))
        saved.append({"name": name, "file": file})
    return saved


def judge(truth: GroundTruth, own_M: np.ndarray, found: Detections) -> tuple[list[str], list[str]]:
    """By VOC's rule: "right", "false" or "ignored" of each detection, "found", "missed" or "ignored" of each object."""
    boxes, labels, ignore = truth.boxes_M4[own_M], truth.labels_M[own_M], truth.ignore_M[own_M]
    objects = ["ignored" if flag else "missed" for flag in ignore]
    verdicts = ["false"] * len(found)
    for d in np.argsort(-found.scores_D, kind="stable"):
        same = np.flatnonzero(labels == found.labels_D[d])
        overlaps = [overlap(found.boxes_D4[d], boxes[m]) for m in same]
        if not overlaps or max(overlaps) < 0.5:
            continue
        m = same[int(np.argmax(overlaps))]
        if ignore[m]:
            verdicts[d] = "ignored"
        elif objects[m] == "missed":
            verdicts[d], objects[m] = "right", "found"
    return verdicts, objects


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (x, y, width, height) boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared > 0 else 0.0


def write_picture(path: Path, image: np.ndarray) -> None:
    h, w = image.shape[:2]
    if w > WIDTH:
        image = cv2.resize(image, (WIDTH, max(1, round(h * WIDTH / w))), interpolation=cv2.INTER_AREA)
    written = cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not written:
        raise OSError(f"{path} could not be written")


def image_detector(detector: Detector, detect: Detect, label_map: np.ndarray, device, dtype) -> DetectImage:
    """Detect in one image of a dataset, whatever was done to its pixels; what else is looked at comes as it is."""

    def detect_image(dataset: PackedDataset, image: np.ndarray, image_id: int) -> Detections:
        h, w = image.shape[:2]
        canvas = dataset.canvases["landscape" if w >= h else "portrait"]
        check_inputs(detector.config, dataset, "the detector")
        extra = read_extra(dataset, dataset.index_of(image_id), tuple(detector.config.extra_inputs))
        batch = make_batch([image], [image_id], canvas, device, extra=[extra])
        with evaluating(detector):
            found = detect_batches(detect, detector.config, [batch], dataset, label_map, dtype)
            return concatenate([part for _, part in found])

    return detect_image
