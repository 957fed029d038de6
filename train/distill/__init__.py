"""Distillation methods: one file each, one line each in METHODS. The convention is in `train/distill/method.py`."""

from train.distill.cd_fkd import CdFkd, CdFkdConfig
from train.distill.cmkd import Cmkd, CmkdConfig
from train.distill.crosskd import CrossKd, CrossKdConfig
from train.distill.crosskd_roi import CrossKdRoi, CrossKdRoiConfig
from train.distill.defeat import Defeat, DefeatConfig
from train.distill.divalign import DivAlign, DivAlignConfig
from train.distill.fgd import Fgd, FgdConfig
from train.distill.fine_grained import FineGrained, FineGrainedConfig
from train.distill.gid import Gid, GidConfig
from train.distill.head import Head, HeadConfig
from train.distill.imitation import Imitation, ImitationConfig
from train.distill.ld import Ld, LdConfig
from train.distill.method import Method
from train.distill.pkd import Pkd, PkdConfig
from train.distill.pseudo import Pseudo, PseudoConfig

MethodConfig = (
    CdFkdConfig
    | CmkdConfig
    | CrossKdConfig
    | CrossKdRoiConfig
    | DefeatConfig
    | DivAlignConfig
    | FgdConfig
    | FineGrainedConfig
    | GidConfig
    | HeadConfig
    | ImitationConfig
    | LdConfig
    | PkdConfig
    | PseudoConfig
)
METHODS: dict[type, type[Method]] = {
    CdFkdConfig: CdFkd,
    CmkdConfig: Cmkd,
    CrossKdConfig: CrossKd,
    CrossKdRoiConfig: CrossKdRoi,
    DefeatConfig: Defeat,
    DivAlignConfig: DivAlign,
    FgdConfig: Fgd,
    FineGrainedConfig: FineGrained,
    GidConfig: Gid,
    HeadConfig: Head,
    ImitationConfig: Imitation,
    LdConfig: Ld,
    PkdConfig: Pkd,
    PseudoConfig: Pseudo,
}
