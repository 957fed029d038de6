"""What an evaluation's and a run's JSON files hold, as far as it is read here; shapes: pipeline/files/own.py."""

from pipeline.files.own import ANY, Each, OneOf

FIGURE = OneOf((float, None))
INTERVAL = OneOf(((float, float), None))
MEAN = {"mAP": FIGURE, "AP": Each(FIGURE), "interval?": INTERVAL}
SIZES = dict.fromkeys(("small", "medium", "large"), FIGURE) | {
    f"interval_{name}?": INTERVAL for name in ("small", "medium", "large")
}
DOMAIN = {
    "num_images": int,
    "num_objects": int,
    "num_ignored": int,
    "objects": Each(int),
    "classes_without_objects": [str],
    "voc07": MEAN,
    "area": MEAN,
    "coco": MEAN | SIZES,
    "best_score": {"score": float},
    "checksum": str,
    "trained_images?": int,
    "data?": Each(ANY),
}
MEANS = {f"{name}?": FIGURE for name in ("voc07", "area", "coco", "small", "medium", "large")} | {
    f"interval_{name}?": INTERVAL for name in ("voc07", "area", "coco", "small", "medium", "large")
}
TRAINED = {"name": str, "domains": [str], "checksum": str, "num_images?": OneOf((int, None)), "weight?": float}
RESULTS = {
    "format": int,
    "run": str,
    "evaluated": str,
    "classes": [str],
    "source": OneOf((str, None)),
    "domains": Each(DOMAIN),
    "mean_of_targets": {"domains?": [str]} | MEANS,
    "settings": {"resamples": int, "seed": int, "voc_side_offset?": int},
    "versions": Each(str),
    "working_score?": float,
    "weights?": OneOf((str, None)),
    "trained_on?": OneOf(([TRAINED], None)),
    "detector?": Each(ANY),
    "speed?": Each(ANY),
    "hardware?": str,
}
ERRORS = Each(
    {
        "score": float,
        "f1_by_score": [float],
        "errors": dict.fromkeys(("wrong_class", "badly_placed", "both", "duplicate", "background", "missed"), int),
        "classes": Each({"right": int, "false": int, "not_found": int}),
        "confusions": [(int, int, int)],
    }
)
CURVES = Each(Each(OneOf(([float], None))))
VIEW = {
    "domain": str,
    "id": int,
    "name?": str,
    "view": str,
    "file": str,
    "size": (int, int),
    "objects": [(float, float, float, float, str, str)],
    "detections": [(float, float, float, float, str, float, str)],
}
PICTURES = {
    "score": float,
    # beside: what else the data has of a scene, such as gated slices.
    "scenes": [{"domain": str, "id": int, "views": [VIEW], "beside?": [{"name": str, "file": str}]}],
    "best": [VIEW],
    "worst": [VIEW],
}
CELL = OneOf((Each(FIGURE), None))
PART = {"mPC": float, "rPC": FIGURE, "corruptions": int, "interval_mPC?": INTERVAL, "interval_rPC?": INTERVAL}
SUMMARY = {"P?": float, "interval_P?": INTERVAL} | {f"{part}?": PART for part in ("all", "seen", "unseen", "held_out")}
ROBUSTNESS = {
    "domain": str,
    "images": int,
    "resolution": str,
    "seen": [str],
    "known_training": bool,
    "corruptions": Each((CELL,) * 5),
    "summary": SUMMARY,
    "summaries": Each(SUMMARY),
    "identity": Each(ANY),
    "cells": Each(Each(FIGURE)),
}
# Of a training run beside the evaluation: all the fields of its configuration, and what is read of them.
CONFIG = dict.fromkeys(
    (
        "out?", "data_weights?", "domains?", "val?", "distill?", "distill_warmup_steps?", "optimizer?", "loader?",
        "epochs?", "steps?", "batch_size?", "seed?", "device?", "precision?", "compile?", "repeatable?", "log?",
        "log_every?", "save_every?", "keep?", "val_every?", "val_images?", "max_skipped?", "from_step?", "profile?",
    ),
    ANY,
) | {
    "data?": OneOf((str, [str], None)),
    "teacher?": OneOf((str, None)),
    "teacher_policy?": str,
    "student_init?": str,
    "model?": {"weights?": str, "inputs?": [str]},
    "views?": {"corruptions": [str]},
}  # fmt: skip
TRANSLATION = dict.fromkeys(
    (
        "out?", "generator?", "crop?", "contrast?", "discriminators?", "discriminator_width?", "adversarial_weight?",
        "dinov2?", "semantic_weight?", "segmenter_width?", "optimizer?", "loader?", "epochs?", "steps?", "batch_size?",
        "accumulate?", "seed?", "device?", "precision?", "compile?", "log?", "log_every?", "save_every?", "pictures?",
        "keep?", "max_skipped?", "from_step?", "profile?",
    ),
    ANY,
) | {"source": str, "target": str}  # fmt: skip
STATE = {"data_checksum?": OneOf((str, None))}


def known(content: dict, shape: dict) -> dict:
    """What the shape has a name for: a page shows nothing else of a file that it is told to read."""
    names = {name.removesuffix("?") for name in shape}
    return {name: value for name, value in content.items() if name in names}
