"""A run is a Python function that returns its whole configuration. Any field is overridden on the command line.

teacher_*        Clean images. The frozen teacher of the other runs, and the plain detector of the comparison.
plain_*          The same run under the name it has in the ablation: a detector trained on clean images only.
corrupt_only_*   Corrupted and downscaled images, no teacher.
cdfkd_*          Corrupted and downscaled images and the teacher's features. --distill.beta 0 keeps only L_global,
                 --distill.alpha 0 only L_instance.
divalign_*       Clean and corrupted images in one step, 16 corruptions, no downscaling, no teacher.
ld_*, imitation_*, fgd_*, gfl_*   The rows of LD's and FGD's tables on COCO, with the figures that they published.
domain_crosskd_*  The rows of domain-crossKD's table: a new domain with few labels (docs/new_domain.md). Give --data
                  several datasets; scripts/new_domain.sh makes them and runs all rows.

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
from train.distill import (
    CdFkdConfig,
    CrossKdConfig,
    DivAlignConfig,
    FgdConfig,
    ImitationConfig,
    LdConfig,
    MethodConfig,
    PseudoConfig,
)
from train.distill.imitation import Region

# The teacher sees the image as it is; only the flip remains.
CLEAN = ViewConfig(corruptions=(), ratio_range=(1.0, 1.0))


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


def gfl(backbone: str) -> Config:
    """GFL, 12 epochs on full-size clean images (1333 x 800), SGD with rate 0.01 for 16 images, no clipping."""
    optimizer = OptimizerConfig(learning_rate=0.01, clip_norm=0.0)
    return Config(data=MISSING, out=MISSING, model=GflConfig(backbone=backbone), views=CLEAN, optimizer=optimizer)


def gfl_teacher() -> Config:
    """ResNet-101, 24 epochs, short sides from 480 to 800."""
    return replace(gfl("resnet101"), epochs=24.0, views=replace(CLEAN, ratio_range=(0.6, 1.0)))


def taught(backbone: str, method: MethodConfig) -> Callable[[], Config]:
    return lambda: replace(gfl(backbone), distill=(method,), teacher=MISSING)


MAIN_ONLY = LdConfig(valuable_weight=0.0, class_weight=0.0)
# AP on COCO that the authors of LD published. Their teacher is gfl_r101, that of self-LD the student's own kind.
LD_FIGURES = {"r18": (35.8, 36.5, 37.5), "r34": (38.9, 39.8, 41.0), "r50": (40.1, 41.1, 42.1)}
SELF_LD_FIGURES = {"r18": 36.1, "r50": 40.6}
IMITATION_FIGURES: dict[Region, float] = {
    "all": 40.7, "inside": 40.7, "main": 41.1, "fine_grained": 41.1, "decoupled": 40.8, "general": 41.5,
}  # fmt: skip
RECIPES["gfl_r101"] = ("GFL, ResNet-101, 24 epochs: the teacher of the rows below; published 44.9 AP", gfl_teacher)
for size, (alone, main, whole) in LD_FIGURES.items():
    network = f"resnet{size[1:]}"
    RECIPES |= {
        f"gfl_{size}": (f"GFL, {network}, no teacher; published {alone} AP", partial(gfl, network)),
        f"ld_main_{size}": (f"LD at positives only, {network}; published {main} AP", taught(network, MAIN_ONLY)),
        f"ld_{size}": (f"LD, {network}; published {whole} AP", taught(network, LdConfig())),
    }
for size, figure in SELF_LD_FIGURES.items():
    network = f"resnet{size[1:]}"
    text = f"LD from a teacher of the student's kind, gfl_{size}; published {figure} AP"
    RECIPES[f"self_ld_{size}"] = (text, taught(network, LdConfig()))
RECIPES["fgd_r50"] = (
    "FGD, resnet50; published 43.5 AP, there the student's pyramid and head start from the teacher's",
    lambda: replace(taught("resnet50", FgdConfig())(), optimizer=OptimizerConfig(learning_rate=0.01)),
)
for region, figure in IMITATION_FIGURES.items():
    text = f"feature imitation, region {region}, resnet50; published {figure} AP"
    RECIPES[f"imitation_{region}_r50"] = (text, taught("resnet50", ImitationConfig(region=region)))

# mAP that domain-crossKD published for BDD100K and India Driving: source, target and all together, or all alone. Its
# detector is not named. GFL is the one here that all of its methods are defined for.
DOMAIN_CROSSKD: dict[str, tuple[str, str, tuple[MethodConfig, ...]]] = {
    "baseline": ("source and a fifth of the target's labels", "48.4 / 55.2 / 51.8", ()),
    "fitnets": ("FitNets", "all 53.7", (ImitationConfig(region="all"),)),
    "fgd": ("FGD", "all 54.0", (FgdConfig(),)),
    "ld": ("LD", "all 55.9", (LdConfig(),)),
    "crosskd": ("CrossKD", "all 57.7", (CrossKdConfig(),)),
    "whole": ("translated source, pseudo-labels, CrossKD", "56.7 / 63.7 / 60.2", (CrossKdConfig(),)),
    "online": ("CrossKD, the teacher labels while training", "none", (CrossKdConfig(), PseudoConfig())),
    "full": ("all labels of both domains", "all 62.8", ()),
}


def small_gfl(backbone: str, channels: int) -> Config:
    """GFL on canvases of about 192x352, for two CPU cores."""
    model = GflConfig(backbone=backbone, fpn_channels=channels, head_channels=channels, norm_groups=16, num_convs=2)
    return replace(clean(small)(), model=model)


def domain_crosskd(row: str, teaches: bool, size: str) -> Config:
    methods = DOMAIN_CROSSKD[row][2]
    if size == "small":
        base = small_gfl("resnet18" if teaches else "mobilenet_v2", 96 if teaches else 64)
    else:
        base = gfl("resnet101" if teaches else "resnet50")
    return replace(base, distill=methods, teacher=MISSING) if methods else base


for size, network in (("", "resnet50"), ("_small", "mobilenet_v2, CPU")):
    name = size.removeprefix("_") or "r50"
    RECIPES[f"domain_crosskd_teacher{size}"] = (
        f"the teacher of the rows below; GFL, {'resnet18, CPU' if size else 'resnet101'}",
        partial(domain_crosskd, "baseline", True, name),
    )
    for row, (text, published, _) in DOMAIN_CROSSKD.items():
        RECIPES[f"domain_crosskd_{row}{size}"] = (
            f"{text}; GFL, {network}; published {published} mAP", partial(domain_crosskd, row, False, name),
        )  # fmt: skip
