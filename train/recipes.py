"""A run is a Python function that returns its whole configuration. Any field is overridden on the command line.

teacher_*        Clean images. The frozen teacher of the other runs, and the plain detector of the comparison.
plain_*          The same run under the name it has in the ablation: a detector trained on clean images only.
corrupt_only_*   Corrupted and downscaled images, no teacher.
cdfkd_*          Corrupted and downscaled images and the teacher's features. --distill.beta 0 keeps only L_global,
                 --distill.alpha 0 only L_instance.
divalign_*       Clean and corrupted images in one step, 16 corruptions, no downscaling, no teacher.
All others are rows of published tables (train/published.py).

*_r101  the paper's network, *_r50 a lighter one, *_small a MobileNetV2 for the sample world on two CPU cores.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tyro import MISSING

from model.config import ModelConfig, small_model
from model.dense.config import GflConfig
from pipeline.views import ViewConfig
from train.config import Config, OptimizerConfig
from train.distill import CdFkdConfig, DivAlignConfig, MethodConfig
from train.published import CLEAN, DOMAIN_CROSSKD, TABLES


def r101() -> Config:
    """Faster R-CNN ResNet-101-FPN, 12 epochs, SGD; rate 0.02 for 16 images, as in the earlier code of the paper's lab.

    The paper itself: 0.01 with a batch of 4, twice as much an image.
    """
    return Config(data=MISSING, out=MISSING, model=ModelConfig(backbone="resnet101"))


def r50() -> Config:
    """As r101 with ResNet-50."""
    return replace(r101(), model=ModelConfig(backbone="resnet50"))


def small() -> Config:
    """MobileNetV2 on canvases of about 192x352: a few minutes on two CPU cores."""
    return replace(
        r101(),
        model=small_model(),
        # In a run this short AdamW is far ahead of SGD, and small batches of large ones.
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=6e-4,
            base_batch_size=4,
            weight_decay=0.01,
            warmup_steps=50,
            schedule="cosine",
            clip_norm=5.0,
        ),
        batch_size=4,
        epochs=0,
        steps=900,
        log_every=10,
        save_every=150,
    )


def clean(base: Callable[[], Config]) -> Callable[[], Config]:
    return lambda: replace(base(), views=CLEAN)


def corrupt_only(base: Callable[[], Config]) -> Callable[[], Config]:
    return lambda: replace(base(), views=ViewConfig())


def cdfkd(base: Callable[[], Config]) -> Callable[[], Config]:
    # The small pyramid has few levels and short runs: every level teaches, as in the lab's earlier code.
    strides = (8, 16, 32) if base is small else CdFkdConfig().strides
    return lambda: replace(base(), views=ViewConfig(), distill=(CdFkdConfig(strides=strides),), teacher=MISSING)


# What the authors of DivAlign train on. The last two only they have.
DIVALIGN = ViewConfig(
    corruptions=(
        *("defocus_blur", "glass_blur", "gaussian_blur", "motion_blur"),
        *("speckle_noise", "shot_noise", "impulse_noise", "gaussian_noise"),
        *("jpeg_compression", "pixelate", "elastic_transform", "brightness", "saturate", "contrast"),
        *("high_pass_filter", "phase_scaling"),
    ),
    ratio_range=(1.0, 1.0),
    flip_probability=0.0,
)


def divalign(base: Callable[[], Config]) -> Callable[[], Config]:
    return lambda: replace(base(), views=DIVALIGN, distill=(DivAlignConfig(),))


KINDS = {
    "teacher": (clean, "detector on clean images, to be the frozen teacher"),
    "plain": (clean, "detector on clean images only (the ablation's first row)"),
    "corrupt_only": (corrupt_only, "detector on corrupted and downscaled images, no teacher"),
    "divalign": (divalign, "DivAlign: clean and corrupted images, the same said of both; no teacher"),
    "cdfkd": (cdfkd, "CD-FKD student: corrupted and downscaled images and the teacher's features"),
}
SIZES = {"r101": (r101, "ResNet-101-FPN"), "r50": (r50, "ResNet-50-FPN"), "small": (small, "MobileNetV2-FPN, CPU")}

# name: (description, function)
RECIPES: dict[str, tuple[str, Callable[[], Config]]] = {
    f"{kind}_{size}": (f"{description}; {network}", make(base))
    for kind, (make, description) in KINDS.items()
    for size, (base, network) in SIZES.items()
}


# The rows of published tables, under their headings.
RECIPES |= {name: (row.text, row.make) for rows in TABLES.values() for name, row in rows.items()}


def small_domain(channels: int, methods: tuple[MethodConfig, ...] = ()) -> Config:
    """GFL, MobileNetV2, on canvases of about 192x352, for two CPU cores."""
    model = GflConfig(
        backbone="mobilenet_v2", fpn_channels=channels, head_channels=channels, norm_groups=16, num_convs=2
    )
    base = replace(clean(small)(), model=model)
    return replace(base, distill=methods, teacher=MISSING) if methods else base


RECIPES["domain_crosskd_teacher_small"] = (
    "domain_crosskd_teacher on a CPU: MobileNetV2, pyramid and head twice as wide",
    partial(small_domain, 128),
)
for row, (_, methods) in DOMAIN_CROSSKD.items():
    make = partial(small_domain, 64, methods)
    RECIPES[f"domain_crosskd_{row}_small"] = (f"domain_crosskd_{row} on a CPU: MobileNetV2", make)
