"""The rows of published tables on COCO: functions that return a whole configuration, each with its published AP.

A row has its detector's own optimizer and the length that its authors give. Where they train on several sizes, the
networks without a teacher do; a student sees one size, because its teacher must see the same.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tyro import MISSING

from model.config import ModelConfig
from model.dense.config import AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.detectors import DetectorConfig
from train.config import Config, OptimizerConfig
from train.distill import (
    CrossKdConfig,
    CrossKdRoiConfig,
    FgdConfig,
    ImitationConfig,
    LdConfig,
    MethodConfig,
    PkdConfig,
)
from train.distill.imitation import Region
from train.recipes.sizes import CLEAN, OPTIMIZERS


class Row(NamedTuple):
    text: str
    make: Callable[[], Config]
    teacher: str | None = None  # the recipe that trains it

    @property
    def described(self) -> str:
        return self.text if self.teacher is None else f"{self.text}; teacher: {self.teacher}"


def alone(model: DetectorConfig, epochs: float = 12.0, smallest: float = 1.0) -> Config:
    """A detector on full-size clean images (1333 x 800), or on sizes down to a share of that."""
    views = replace(CLEAN, ratio_range=(smallest, 1.0))
    return Config(
        data=MISSING, out=MISSING, model=model, views=views, optimizer=OPTIMIZERS[model.kind], epochs=epochs
    )  # fmt: skip


def taught(model: DetectorConfig, *methods: MethodConfig, epochs: float = 12.0) -> Config:
    return replace(alone(model, epochs), distill=methods, teacher=MISSING)


def as_mmdetection(config: Config) -> Config:
    """mmdetection's Faster R-CNN for 24 epochs: its gradient is not clipped."""
    return replace(config, optimizer=OptimizerConfig(clip_norm=0.0), epochs=24.0)


def fgd() -> Config:
    """FGD's authors clip the gradient."""
    return replace(taught(GFL_R50, FgdConfig()), optimizer=OptimizerConfig(learning_rate=0.01))


def resnet(size: str) -> dict[str, Any]:
    """mmdetection's: scales and shifts of the norms learn, their statistics stay (FCOS: all stays)."""
    return {"backbone": f"resnet{size[1:]}", "norm": "affine"}


def gfl(size: str) -> GflConfig:
    return GflConfig(**resnet(size))


GFL_R50, GFL_R101 = gfl("r50"), gfl("r101")
RETINA_R50, RETINA_R101 = RetinaNetConfig(**resnet("r50")), RetinaNetConfig(**resnet("r101"))
RETINA_SWIN = RetinaNetConfig(backbone="swin_t", trainable_layers=5)
# CrossKD's students make the coarse levels of the pyramid's last map, their teachers of the backbone's.
RETINA_STUDENT = replace(RETINA_R50, coarse_from="p5")
FCOS_R50, FCOS_R101 = FcosConfig(backbone="resnet50"), FcosConfig(backbone="resnet101")
ATSS_R50, ATSS_R101 = AtssConfig(**resnet("r50")), AtssConfig(**resnet("r101"))
FRCNN_R50, FRCNN_R101 = (ModelConfig(**resnet(size), rpn_post_nms_train=1000) for size in ("r50", "r101"))

# LD's rows at positives only, self-LD among them, had three images a GPU: half as much again (train/distill/ld.py).
MAIN_ONLY = LdConfig(main_weight=0.375, valuable_weight=0.0, class_weight=0.0)
LD_FIGURES = {"r18": (35.8, 36.5, 37.5), "r34": (38.9, 39.8, 41.0), "r50": (40.1, 41.1, 42.1)}
SELF_LD_FIGURES = {"r18": 36.1, "r50": 40.6}
IMITATION_FIGURES: dict[Region, float] = {
    "all": 40.7, "inside": 40.7, "main": 41.1, "fine_grained": 41.1, "decoupled": 40.8, "general": 41.5,
}  # fmt: skip

# By headings of the list.
TABLES: dict[str, dict[str, Row]] = {
    "Published on COCO, GFL (LD, FGD, CrossKD)": {
        "gfl_r101": Row("no teacher, 24 epochs, several sizes; 44.9 AP", partial(alone, GFL_R101, 24.0, 0.6)),
        **{
            f"gfl_{size}": Row(f"no teacher; {figure} AP", partial(alone, gfl(size)))
            for size, (figure, _, _) in LD_FIGURES.items()
        },
        **{
            f"ld_main_{size}": Row(
                f"LD at positives only; {figure} AP", partial(taught, gfl(size), MAIN_ONLY), "gfl_r101"
            )
            for size, (_, figure, _) in LD_FIGURES.items()
        },
        **{
            f"ld_{size}": Row(f"LD; {figure} AP", partial(taught, gfl(size), LdConfig()), "gfl_r101")
            for size, (_, _, figure) in LD_FIGURES.items()
        },
        **{
            f"self_ld_{size}": Row(
                f"LD at positives only; {figure} AP", partial(taught, gfl(size), MAIN_ONLY), f"gfl_{size}"
            )
            for size, figure in SELF_LD_FIGURES.items()
        },
        "fgd_r50": Row("FGD; 43.5 AP, there pyramid and head start from the teacher's", fgd, "gfl_r101"),
        **{
            f"imitation_{region}_r50": Row(
                f"feature imitation; {figure} AP", partial(taught, GFL_R50, ImitationConfig(region=region)), "gfl_r101"
            )
            for region, figure in IMITATION_FIGURES.items()
        },
        "ld_general_r50": Row(
            "LD and feature imitation at general places; 42.4 AP",
            partial(taught, GFL_R50, LdConfig(), ImitationConfig(region="general")),
            "gfl_r101",
        ),
        "crosskd_gfl_r50": Row("CrossKD; 43.7 AP", partial(taught, GFL_R50, CrossKdConfig()), "gfl_r101"),
        "crosskd_pkd_gfl_r50": Row(
            "CrossKD and PKD; 43.9 AP", partial(taught, GFL_R50, CrossKdConfig(), PkdConfig(weight=6.0)), "gfl_r101"
        ),
    },
    "Published on COCO, RetinaNet, 24 epochs (CrossKD)": {
        "retinanet_r101": Row("no teacher; 38.9 AP", partial(alone, RETINA_R101, 24.0)),
        "retinanet_r50": Row("no teacher; 37.4 AP", partial(alone, RETINA_R50, 24.0)),
        "crosskd_retinanet_r50": Row(
            "CrossKD; 39.7 AP", partial(taught, RETINA_STUDENT, CrossKdConfig(), epochs=24.0), "retinanet_r101"
        ),
        "crosskd_pkd_retinanet_r50": Row(
            "CrossKD and PKD; 39.8 AP",
            partial(taught, RETINA_STUDENT, CrossKdConfig(), PkdConfig(weight=2.0), epochs=24.0),
            "retinanet_r101",
        ),
    },
    "Published on COCO, RetinaNet, 12 epochs, a transformer as teacher (CrossKD)": {
        "retinanet_swin_t": Row("Swin-T, no teacher; 37.3 AP", partial(alone, RETINA_SWIN)),
        "retinanet_r50_1x": Row("no teacher; 36.5 AP", partial(alone, RETINA_R50)),
        "crosskd_retinanet_r50_swin_t": Row(
            "CrossKD; 38.0 AP", partial(taught, RETINA_STUDENT, CrossKdConfig()), "retinanet_swin_t"
        ),
    },
    "Published on COCO, FCOS, 24 epochs (CrossKD, whose student too sees several sizes)": {
        "fcos_r101": Row("no teacher, several sizes; 40.8 AP", partial(alone, FCOS_R101, 24.0, 0.8)),
        "fcos_r50": Row("no teacher, several sizes; 38.5 AP", partial(alone, FCOS_R50, 24.0, 0.8)),
        "crosskd_fcos_r50": Row(
            "CrossKD; 41.1 AP", partial(taught, FCOS_R50, CrossKdConfig(), epochs=24.0), "fcos_r101"
        ),
        "crosskd_pkd_fcos_r50": Row(
            "CrossKD and PKD; 41.3 AP",
            partial(taught, FCOS_R50, CrossKdConfig(), PkdConfig(weight=2.0), epochs=24.0),
            "fcos_r101",
        ),
    },
    "Published on COCO, ATSS (CrossKD)": {
        "atss_r101": Row("no teacher; 41.5 AP", partial(alone, ATSS_R101)),
        "atss_r50": Row("no teacher; 39.4 AP", partial(alone, ATSS_R50)),
        "crosskd_atss_r50": Row("CrossKD; 41.8 AP", partial(taught, ATSS_R50, CrossKdConfig()), "atss_r101"),
        "crosskd_pkd_atss_r50": Row(
            "CrossKD and PKD; 41.8 AP", partial(taught, ATSS_R50, CrossKdConfig(), PkdConfig(weight=1.0)), "atss_r101"
        ),
    },
    "Published on COCO, Faster R-CNN, 24 epochs (PKD; CrossKD has no figure)": {
        "frcnn_r101": Row("no teacher; 39.8 AP", lambda: as_mmdetection(alone(FRCNN_R101))),
        "frcnn_r50": Row("no teacher; 38.4 AP", lambda: as_mmdetection(alone(FRCNN_R50))),
        "pkd_frcnn_r50": Row(
            "PKD on the four finest levels; 40.3 AP",
            lambda: as_mmdetection(taught(FRCNN_R50, PkdConfig(strides=(4, 8, 16, 32)))),
            "frcnn_r101",
        ),
        "crosskd_roi_frcnn_r50": Row(
            "CrossKD for Faster R-CNN", lambda: as_mmdetection(taught(FRCNN_R50, CrossKdRoiConfig())), "frcnn_r101"
        ),
    },
}
