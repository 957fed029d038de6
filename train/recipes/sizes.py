"""What recipes are made of: three sizes of a run, views without corruptions, each detector's own optimizer."""

from dataclasses import replace

from tyro import MISSING

from model.config import ModelConfig, small_model
from model.dense.config import AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from pipeline.views import ViewConfig
from train.config import Config, GroupRule, OptimizerConfig

# Images as they are; only the flip remains.
CLEAN = ViewConfig(corruptions=(), ratio_range=(1.0, 1.0))

# By the kind of detector: SGD for 16 images, as its paper and mmdetection have it; a kind that is not here has Faster
# R-CNN's. Only Faster R-CNN is clipped as in r101 below; mmdetection's is not.
OPTIMIZERS = {
    ModelConfig.kind: OptimizerConfig(),
    RetinaNetConfig.kind: OptimizerConfig(learning_rate=0.01, clip_norm=0.0),
    FcosConfig.kind: OptimizerConfig(learning_rate=0.01, bias=GroupRule(rate=2.0, decay=0.0)),
    AtssConfig.kind: OptimizerConfig(learning_rate=0.01, clip_norm=0.0),
    GflConfig.kind: OptimizerConfig(learning_rate=0.01, clip_norm=0.0),
}


def optimizer_of(kind: str) -> OptimizerConfig:
    return OPTIMIZERS.get(kind, OPTIMIZERS[ModelConfig.kind])


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
