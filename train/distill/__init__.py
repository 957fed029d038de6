"""Distillation methods: one file each, one line each in METHODS.

A method is an nn.Module made from its own configuration. It has
    taps                    the strides of the feature maps it needs, of both networks
    weights                 {term: weight} of its terms in the total loss
    forward(student_maps, teacher_maps, views) -> (terms, cosines)
where maps are {stride: map_BCHW}, both results are {name: scalar}, and the cosines are only for the log.
"""

from train.distill.cd_fkd import CdFkd, CdFkdConfig

METHODS = {CdFkdConfig: CdFkd}
