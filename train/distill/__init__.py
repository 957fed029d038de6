"""Distillation methods: one file each, one line each in METHODS.

A method is an nn.Module made from its own configuration. It has
    taps                    the strides of the feature maps it needs, of both networks
    weights                 {term: weight} of its terms in the total loss
    forward(student_maps, teacher_maps, views) -> (terms, agreement)
where maps are {stride: map_BCHW} and both results are {name: scalar}. The agreement is only for the log: for each term
"cosine_TERM", the sum of the cosines of what this rank compared, and "count_TERM", how many they were.
"""

from train.distill.cd_fkd import CdFkd, CdFkdConfig

METHODS = {CdFkdConfig: CdFkd}
