"""The rows of CMKD's table: a teacher that sees gated slices beside RGB, and students that see RGB alone.

scripts/cmkd.sh runs the small ones on the sample world.
"""

from dataclasses import replace
from functools import partial

from tyro import MISSING

from train.config import Config, OptimizerConfig
from train.distill import CmkdConfig
from train.recipes.published import Row
from train.recipes.sizes import CLEAN, r50, small

# COCO mAP on the test set of clear nights that the authors published.
ROWS = {
    "teacher": ("RGB and gated slices, the teacher", 27.5),
    "baseline": ("RGB alone", 24.2),
    "mse": ("RGB alone, squared error", 25.4),
    "adversarial": ("RGB alone, discriminators", 26.0),
}


def published_size() -> Config:
    """All networks start with a new first convolution and learn whole; no augmentation.

    The original ends when its validation stands still, with a rate that falls after every five epochs: 20 epochs here.
    Its warm-up is the first epoch, which has 335 steps of 4 with the 1343 clear nights of its dataset.
    Its detectors start from COCO: --model.weights FILE --model.norm-epsilon 0.
    """
    return replace(
        r50(),
        model=replace(r50().model, trainable_layers=5, first_layer="fresh"),
        views=replace(CLEAN, flip_probability=0.0),
        optimizer=OptimizerConfig(
            learning_rate=0.005,
            base_batch_size=4,
            weight_decay=5e-4,
            warmup_steps=335,
            milestones=(0.25, 0.5, 0.75),
            clip_norm=0.0,
        ),
        batch_size=4,
        epochs=20.0,
    )


def recipe(row: str, is_small: bool) -> Config:
    config = replace(small(), views=CLEAN) if is_small else published_size()
    canvas = (192, 352) if is_small else CmkdConfig.canvas
    if row == "teacher":
        return replace(config, model=replace(config.model, inputs=("rgb", "gated")))
    if row == "baseline":
        return config
    method = CmkdConfig() if row == "mse" else CmkdConfig(loss="adversarial", canvas=canvas)
    return replace(config, distill=(method,), teacher=MISSING)


def table(size: str) -> dict[str, Row]:
    teacher = f"cmkd_teacher_{size}"
    return {
        f"cmkd_{row}_{size}": Row(
            text if size == "small" else f"{text}; {figure} AP",
            partial(recipe, row, size == "small"),
            teacher if row in ("mse", "adversarial") else None,
        )
        for row, (text, figure) in ROWS.items()
    }


TABLES = {
    "Another sensor for the teacher (CMKD), Faster R-CNN, published on Seeing Through Fog": table("r50"),
    "The same for the sample world and two CPU cores": table("small"),
}
