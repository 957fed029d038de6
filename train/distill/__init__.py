"""Distillation methods: one file each, one line each in METHODS. The convention is in `train/distill/method.py`."""

from train.distill.cd_fkd import CdFkd, CdFkdConfig
from train.distill.divalign import DivAlign, DivAlignConfig
from train.distill.fgd import Fgd, FgdConfig
from train.distill.ld import Ld, LdConfig
from train.distill.method import Method
from train.distill.pkd import Pkd, PkdConfig

MethodConfig = CdFkdConfig | DivAlignConfig | FgdConfig | LdConfig | PkdConfig
METHODS: dict[type, type[Method]] = {
    CdFkdConfig: CdFkd,
    DivAlignConfig: DivAlign,
    FgdConfig: Fgd,
    LdConfig: Ld,
    PkdConfig: Pkd,
}
