"""A run is a Python function that returns its whole configuration. Any field is overridden on the command line.

teacher_*        Clean images. The frozen teacher of the other runs, and the plain detector of the comparison.
plain_*          The same run under the name it has in the ablation: a detector trained on clean images only.
corrupt_only_*   Corrupted and downscaled images, no teacher.
cdfkd_*          Corrupted and downscaled images and the teacher's features. --distill.beta 0 keeps only L_global,
                 --distill.alpha 0 only L_instance.
divalign_*       Clean and corrupted images in one step, 16 corruptions, no downscaling, no teacher.
cmkd_*           The rows of CMKD's table: a teacher that sees gated slices beside RGB, and students that see RGB.
ld_*, imitation_*, fgd_*, gfl_*   The rows of LD's and FGD's tables on COCO, with the figures that they published.

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
from train.distill import CdFkdConfig, CmkdConfig, DivAlignConfig, FgdConfig, ImitationConfig, LdConfig, MethodConfig
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


# COCO mAP on the test set of clear nights that the authors of CMKD published.
CMKD_FIGURES = {"teacher": 27.5, "baseline": 24.2, "mse": 25.4, "adversarial": 26.0}


def cmkd(row: str, is_small: bool) -> Config:
    """A row of CMKD's table. All networks start with a new first convolution and learn whole; no augmentation.

    The original ends when its validation stands still, with a rate that falls after every five epochs: 20 epochs here.
    Its detectors start from COCO: --model.weights FILE --model.norm-epsilon 0.
    """
    teacher, distilled = row == "teacher", row in ("mse", "adversarial")
    base, canvas = small() if is_small else r50(), CmkdConfig.canvas
    model = replace(base.model, inputs=("rgb", "gated") if teacher else ("rgb",))
    if is_small:
        canvas = (192, 352)
        config = replace(base, model=model, views=CLEAN)
    else:
        config = replace(
            base,
            model=replace(model, trainable_layers=5, first_layer="fresh"),
            views=replace(CLEAN, flip_probability=0.0),
            optimizer=OptimizerConfig(
                learning_rate=0.005,
                base_batch_size=4,
                weight_decay=5e-4,
                warmup_steps=1000,
                milestones=(0.25, 0.5, 0.75),
                clip_norm=0.0,
            ),
            batch_size=4,
            epochs=20.0,
        )
    if not distilled:
        return config
    method = CmkdConfig() if row == "mse" else CmkdConfig(loss="adversarial", canvas=canvas)
    return replace(config, distill=(method,), teacher=MISSING)


for row, figure in CMKD_FIGURES.items():
    what = {"teacher": "RGB and gated slices, the teacher", "baseline": "RGB alone"}.get(row, f"RGB alone, {row}")
    RECIPES[f"cmkd_{row}_r50"] = (f"CMKD, {what}; published {figure} AP", partial(cmkd, row, False))
    RECIPES[f"cmkd_{row}_small"] = (f"CMKD, {what}; MobileNetV2-FPN, CPU", partial(cmkd, row, True))


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
