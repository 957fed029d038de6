"""Ground truth and detections for the tests of the metrics: random ones, and ones that are hard on purpose."""

import numpy as np

from eval.metrics.interchange import Detections, GroundTruth, make_ground_truth

CLASSES = ("bus", "car", "person")


def make_truth(objects, num_images=1, classes=CLASSES, domain="daytime_clear", size=(400, 600)) -> GroundTruth:
    """objects: (image row, label, x, y, width, height[, ignore]). Image ids are 10, 11, 12, ..."""
    rows = [tuple(item) + (False,) * (7 - len(item)) for item in objects]
    return make_ground_truth(
        domain,
        classes,
        10 + np.arange(num_images),
        [size] * num_images,
        [row[0] for row in rows],
        [row[2:6] for row in rows],
        [row[1] for row in rows],
        [row[6] for row in rows],
    )


def make_detections(rows) -> Detections:
    """rows: (image row, label, x, y, width, height, score)."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Detections(
        table[:, 0].astype(np.int64) + 10, table[:, 2:6], table[:, 1].astype(np.int64), table[:, 6].copy()
    )


def random_world(seed, num_images=40, per_image=8, found=12, ignored=0.1, tied=False, classes=CLASSES):
    """Objects of all sizes; detections near them, doubled, misnamed, or anywhere; few distinct scores if tied."""
    generator = np.random.default_rng(seed)
    objects, rows = [], []
    for image in range(num_images):
        for _ in range(generator.integers(0, per_image + 1)):
            width, height = np.exp(generator.uniform(np.log(4), np.log(260), 2)).round(2)
            x, y = (generator.uniform(0, 340) for _ in range(2))
            label = generator.integers(1, len(classes) + 1)
            box = [round(float(v), 2) for v in (x, y, width, height)]
            objects.append((image, int(label), *box, bool(generator.random() < ignored)))
        own = [item for item in objects if item[0] == image]
        for _ in range(generator.integers(0, found + 1)):
            score = generator.integers(1, 4) / 4 if tied else round(float(generator.random()), 3)
            if own and generator.random() < 0.75:
                near = own[generator.integers(len(own))]
                box = np.array(near[2:6]) + generator.normal(0, 0.08, 4) * np.array([near[4], near[5]] * 2)
                if generator.random() < 0.3:
                    box = np.array(near[2:6])
                label = near[1] if generator.random() < 0.9 else generator.integers(1, len(classes) + 1)
            else:
                box, label = generator.uniform(1, 200, 4), generator.integers(1, len(classes) + 1)
            box = np.maximum(box, 0).round(2)
            rows.append((image, int(label), *box, score))
    return make_truth(objects, num_images, classes), make_detections(rows)


def adversarial_world():
    """Exact thresholds and size limits, ties across images, zero sizes, crowds that swallow, classes with nothing."""
    objects = [
        (0, 1, 0, 0, 32, 32),  # area exactly 1024: small and medium at once
        (0, 1, 100, 0, 96, 96),  # exactly 9216: medium and large
        (0, 1, 200, 0, 10, 10),
        (1, 1, 0, 0, 100, 100, True),  # a crowd
        (1, 1, 10, 10, 20, 20),
        (2, 2, 0, 0, 10, 10, True),  # class 2 only ever ignored in this image
        (3, 1, 50, 50, 40, 40),
        (3, 1, 50, 50, 40, 40),  # the same object twice
    ]
    rows = [
        (0, 1, 0, 0, 32, 16, 0.5),  # IoU exactly 0.5
        (0, 1, 100, 0, 96, 96, 0.5),
        (0, 1, 100, 0, 96, 96, 0.5),  # a duplicate with the same score
        (0, 1, 200, 0, 10, 7.5, 0.5),  # IoU exactly 0.75
        (0, 2, 0, 0, 32, 32, 0.9),  # class without objects there
        (1, 1, 0, 0, 50, 50, 0.8),
        (1, 1, 50, 50, 50, 50, 0.8),
        (1, 1, 10, 10, 20, 20, 0.5),
        (1, 1, 10, 10, 0, 0, 0.5),  # no area
        (2, 2, 0, 0, 10, 10, 0.7),
        (2, 3, 0, 0, 500, 400, 0.7),  # class 3 has no object at all
        (3, 1, 50, 50, 40, 40, 0.5),
        (3, 1, 50, 50, 40, 36, 0.5),
        (3, 1, 50, 50, 40, 38, 0.5),
        *[(4, 1, i, i, 30, 30, 0.001 * i) for i in range(130)],  # more than a hundred in an image without objects
    ]
    return make_truth(objects, num_images=6), make_detections(rows)


def no_detections() -> Detections:
    return make_detections([])
