"""Distillation methods: one file each, one line each in METHODS. The convention is in `train/distill/method.py`."""

from train.distill.cd_fkd import CdFkd, CdFkdConfig
from train.distill.defeat import Defeat, DefeatConfig
from train.distill.fine_grained import FineGrained, FineGrainedConfig
from train.distill.imitation import Imitation, ImitationConfig
from train.distill.ld import Ld, LdConfig
from train.distill.method import MakeMethod
from train.distill.pkd import Pkd, PkdConfig

MethodConfig = CdFkdConfig | DefeatConfig | FineGrainedConfig | ImitationConfig | LdConfig | PkdConfig
METHODS: dict[type, MakeMethod] = {
    CdFkdConfig: CdFkd,
    DefeatConfig: Defeat,
    FineGrainedConfig: FineGrained,
    ImitationConfig: Imitation,
    LdConfig: Ld,
    PkdConfig: Pkd,
}
