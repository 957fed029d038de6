"""The configuration of a translation, and its recipes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro import MISSING

from model.translation.build import GeneratorConfig
from pipeline.files.fields import to_json
from train.config import GroupRule, LoaderConfig, OptimizerConfig, check_finite, check_length, require
from train.translation.crops import CropConfig


@dataclass(frozen=True)
class ContrastConfig:
    """The contrastive loss between patches of the source and of its translation."""

    loss: Literal["monce", "patch_nce"] = "monce"
    """monce: negatives weighed by optimal transport. patch_nce: CUT's, all alike."""
    num_patches: int = 256
    """Patches of a picture in each layer."""
    width: int = 256
    """Length of a patch's vector."""
    blocks: tuple[int, ...] = (0, 4, 8)
    """The generator's residual blocks whose maps are compared; the loss is a mean over them."""
    weight: float = 1.0
    identity: bool = True
    """Also compare real target pictures with their own translation, which is to change nothing; the mean of both."""

    def __post_init__(self) -> None:
        require(self.num_patches > 1, "contrast.num-patches", "at least 2", self.num_patches)
        require(self.width > 0, "contrast.width", "at least 1", self.width)
        require(self.weight > 0, "contrast.weight", "above 0", self.weight)
        rising = all(a < b for a, b in zip(self.blocks, self.blocks[1:], strict=False))
        named = "block numbers from 0, rising"
        require(bool(self.blocks) and rising and self.blocks[0] >= 0, "contrast.blocks", named, self.blocks)


@dataclass(frozen=True)
class TranslationOptimizer(OptimizerConfig):
    """AdamW for the generator and the patches' layers; the discriminators have a rate of their own."""

    name: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-4
    base_batch_size: int = 8
    weight_decay: float = 0.01
    warmup_steps: int = 0
    milestones: tuple[float, ...] | None = ()
    clip_norm: float = 0.0
    ema_decay: float = 0.999
    discriminator: GroupRule = field(default_factory=lambda: GroupRule(rate=0.5))
    """Of the discriminators."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm", "bias", "new"):
            rule = getattr(self, name)
            require(rule == GroupRule(), f"optimizer.{name}", "left out: a translation has no such group", rule)


@dataclass(frozen=True)
class TranslationConfig:
    """One translation run."""

    source: Path
    """Packed dataset of the domain whose pictures are translated."""
    target: Path
    """Packed dataset of the domain whose look they get. Its boxes only guide the crops."""
    out: Path
    """Run directory; the same command on it continues an interrupted run."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    discriminators: tuple[Literal["patchgan", "efficientnet_lite0", "dinov2"], ...] = ("patchgan", "efficientnet_lite0")
    """Their losses are added. patchgan: least squares. The others: hinge on a frozen pretrained network's features."""
    discriminator_width: int = 64
    """Channels of PatchGAN's first layer."""
    adversarial_weight: float = 1.0
    """Of the generator's loss against each discriminator."""
    dinov2: Path | None = None
    """Weights of dinov2_vitb14, for the discriminator dinov2."""
    semantic_weight: float = 0.0
    """Of the error of a segmenter, trained on filled boxes, on translated pictures; 0 trains none. JoliGEN: 10."""
    segmenter_width: int = 32
    """Channels of the segmenter's first layer."""
    optimizer: TranslationOptimizer = field(default_factory=TranslationOptimizer)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    epochs: float = 0.0
    """Length of the run in passes over the source; 0 when `steps` says it."""
    steps: int = 0
    """Length of the run in steps; 0 when `epochs` says it."""
    batch_size: int = 8
    """Pictures of each domain per step over all ranks together."""
    accumulate: int = 1
    """Parts of a rank's pictures that are computed one after the other, which takes less memory."""
    seed: int = 0
    """Every random draw of the run is a function of it."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 without one. There, float32 convolutions take TF32, torch's default."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile forward, losses and backward; auto: on with a GPU, off without one."""

    log: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers that get the numbers of the log beside TensorBoard."""
    log_every: int = 20
    """Steps between two log lines; a GPU is waited for only then."""
    save_every: int = 1000
    """Steps between two checkpoints, each with a sheet of pictures in OUT/pictures."""
    pictures: int = 4
    """Pictures on a sheet."""
    keep: int = 2
    """Checkpoints kept."""
    max_skipped: int = 10
    """Steps in a row with a loss or gradient that is not finite before the run stops; each is skipped."""
    from_step: int | None = None
    """Continue from the checkpoint of this step; later ones are set aside. None: from the newest that is sound."""
    profile: bool = False
    """Write a trace of five steps into the run directory and stop."""

    def __post_init__(self) -> None:
        check_finite(to_json(self))
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        for name in ("batch_size", "accumulate", "log_every", "save_every", "keep", "discriminator_width"):
            require(getattr(self, name) > 0, name, "at least 1", getattr(self, name))
        require(self.segmenter_width > 0, "segmenter_width", "at least 1", self.segmenter_width)
        require(self.pictures > 1, "pictures", "at least 2", self.pictures)
        check_length(self.epochs, self.steps)
        require(bool(self.discriminators), "discriminators", "one or more names", "none")
        once = len(set(self.discriminators)) == len(self.discriminators)
        require(once, "discriminators", "names, each once", " ".join(self.discriminators))
        require(self.adversarial_weight > 0, "adversarial_weight", "above 0", self.adversarial_weight)
        require(self.semantic_weight >= 0, "semantic_weight", "0 or more", self.semantic_weight)
        require(len(set(self.log)) == len(self.log), "log", "names, each once", " ".join(self.log))
        require(self.max_skipped >= 0, "max_skipped", "0 or more", self.max_skipped)
        last, num = self.contrast.blocks[-1], self.generator.num_blocks
        require(last < num, "contrast.blocks", f"below --generator.num-blocks {num}", self.contrast.blocks)
        if self.dinov2 is not None:
            named = "left out where dinov2 is not among --discriminators"
            require("dinov2" in self.discriminators, "dinov2", named, self.dinov2)


def published() -> TranslationConfig:
    """JoliGEN's settings for BDD100K, as domain-crossKD used them: crops of 256, batches of 8 one by one, 900 epochs,
    of which the last 100 bring the rate down to 0.

    There the sum over 3 blocks is divided by 5, so the weight of the mean is 0.6; the average moves with every single
    picture; and the projected discriminator looks through DINOv2, whose weights the user must have.
    """
    return TranslationConfig(
        source=MISSING, target=MISSING, out=MISSING,
        contrast=ContrastConfig(weight=0.6), discriminators=("patchgan", "dinov2"), dinov2=MISSING,
        semantic_weight=10.0, segmenter_width=64, epochs=900.0, accumulate=8,
        optimizer=TranslationOptimizer(
            schedule="linear", milestones=(8 / 9,), weight_decay=0.0, ema_decay=0.999**8
        ),
    )  # fmt: skip


def lite() -> TranslationConfig:
    """As published, on EfficientNet-Lite0's features."""
    return replace(published(), discriminators=("patchgan", "efficientnet_lite0"), dinov2=None)


def small() -> TranslationConfig:
    """Narrow, on crops of 64 pixels: for the sample world on a CPU.

    A low momentum and a rate that falls to 0 calm the discriminator's pull on the colours, which sways in a short run.
    """
    return TranslationConfig(
        source=MISSING, target=MISSING, out=MISSING,
        generator=GeneratorConfig(width=16, num_blocks=4, num_masks=6, enlarging="resized"),
        crop=CropConfig(size=64, delta=16),
        contrast=ContrastConfig(num_patches=64, width=64, blocks=(0, 1, 3)),
        discriminators=("patchgan",), discriminator_width=32,
        optimizer=TranslationOptimizer(
            learning_rate=7e-4, base_batch_size=4, momentum=0.5, schedule="cosine", milestones=None, ema_decay=0.99
        ),
        batch_size=4, steps=600, log_every=10, save_every=100,
    )  # fmt: skip


# name: (description, function)
RECIPES: dict[str, tuple[str, Callable[[], TranslationConfig]]] = {
    "cut_dinov2": ("crops of 256, PatchGAN and a projected discriminator on DINOv2: the published setting", published),
    "cut_lite": ("the same on EfficientNet-Lite0, whose weights a package brings", lite),
    "cut_small": ("narrow, crops of 64, PatchGAN alone: the sample world on a CPU", small),
}
