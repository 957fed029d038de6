"""Distillation methods: one file each, one line each in METHODS. The convention is in `train/distill/method.py`."""

from train.distill.cd_fkd import CdFkd, CdFkdConfig
from train.distill.fgd import Fgd, FgdConfig
from train.distill.method import MakeMethod
from train.distill.pkd import Pkd, PkdConfig

MethodConfig = CdFkdConfig | PkdConfig | FgdConfig
METHODS: dict[type, MakeMethod] = {CdFkdConfig: CdFkd, PkdConfig: Pkd, FgdConfig: Fgd}
