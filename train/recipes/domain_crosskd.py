"""The rows of domain-crossKD's table: a new domain with few labels (docs/new_domain.md).

--data takes several datasets; scripts/new_domain.sh makes them and runs all rows.
"""

from dataclasses import replace
from functools import partial

from tyro import MISSING

from model.dense.config import SMALL_GFL
from train.config import Config
from train.distill import CrossKdConfig, FgdConfig, ImitationConfig, LdConfig, MethodConfig, PseudoConfig
from train.recipes.published import GFL_R50, GFL_R101, Row, alone
from train.recipes.sizes import CLEAN, small

# mAP that was published for BDD100K and India Driving: source, target and all together. Its detector is not named. GFL
# is the one here that all of its methods are defined for.
ROWS: dict[str, tuple[str, str, tuple[MethodConfig, ...]]] = {
    "baseline": ("source and a fifth of the target's labels", "48.4 / 55.2 / 51.8", ()),
    "fitnets": ("FitNets", "49.1 / 57.6 / 53.7", (ImitationConfig(region="all"),)),
    "fgd": ("FGD", "51.2 / 56.8 / 54.0", (FgdConfig(),)),
    "ld": ("LD", "53.7 / 58.2 / 55.9", (LdConfig(),)),
    "crosskd": ("CrossKD", "54.9 / 60.5 / 57.7", (CrossKdConfig(),)),
    "whole": ("translated source, pseudo-labels, CrossKD", "56.7 / 63.7 / 60.2", (CrossKdConfig(),)),
    "online": ("CrossKD, the teacher labels while training", "", (CrossKdConfig(), PseudoConfig())),
    "full": ("all labels of both domains", "57.2 / 68.4 / 62.8", ()),
}


def published_size(teaches: bool) -> Config:
    return alone(GFL_R101 if teaches else GFL_R50)


def small_size(teaches: bool) -> Config:
    """GFL on MobileNetV2, whose weights a package brings, for canvases of about 192x352 and two CPU cores.

    A teacher's pyramid and head have twice the channels.
    """
    channels = 128 if teaches else 64
    model = replace(SMALL_GFL, fpn_channels=channels, head_channels=channels, norm_groups=16)
    return replace(small(), views=CLEAN, model=model)


def recipe(row: str, is_small: bool) -> Config:
    make = small_size if is_small else published_size
    if row == "teacher":
        return make(True)
    methods = ROWS[row][2]
    return replace(make(False), distill=methods, teacher=MISSING) if methods else make(False)


def table(suffix: str) -> dict[str, Row]:
    teacher = f"domain_crosskd_teacher{suffix}"
    rows = {teacher: Row("no teacher", partial(recipe, "teacher", bool(suffix)))}
    for row, (text, figure, methods) in ROWS.items():
        shown = text if suffix or not figure else f"{text}; {figure} mAP"
        rows[f"domain_crosskd_{row}{suffix}"] = Row(
            shown, partial(recipe, row, bool(suffix)), teacher if methods else None
        )
    return rows


TABLES = {
    "A new domain with few labels (domain-crossKD), GFL, published on BDD100K and India Driving": table(""),
    "The same for small images and two CPU cores": table("_small"),
}
