"""A run is a Python function that returns its whole configuration. Any field is overridden on the command line.

teacher_*        Clean images. The frozen teacher of the other runs, and the plain detector of the comparison.
plain_*          The same run under the name it has in the ablation: a detector trained on clean images only.
corrupt_only_*   Corrupted and downscaled images, no teacher.
cdfkd_*          Corrupted and downscaled images and the teacher's features. --distill.beta 0 keeps only L_global,
                 --distill.alpha 0 only L_instance.
divalign_*       Clean and corrupted images in one step, 16 corruptions, no downscaling, no teacher.
All others are rows of published tables: published.py (COCO), cmkd.py, domain_crosskd.py.

*_r101  the paper's network, *_r50 a lighter one, *_small a MobileNetV2 for the sample world on two CPU cores.
"""

from collections.abc import Callable
from dataclasses import replace

from tyro import MISSING

from pipeline.views import ViewConfig
from train.config import Config
from train.distill import CdFkdConfig, DivAlignConfig
from train.recipes import cmkd, domain_crosskd, published
from train.recipes.published import Row
from train.recipes.sizes import CLEAN, r50, r101, small


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
    "divalign": (divalign, "DivAlign: clean and corrupted images, one answer for both; no teacher"),
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
TABLES: dict[str, dict[str, Row]] = published.TABLES | cmkd.TABLES | domain_crosskd.TABLES
RECIPES |= {name: (row.described, row.make) for rows in TABLES.values() for name, row in rows.items()}
