"""What methods for Faster R-CNN share: regions of one network in the view of another, deltas of a class."""

import torch
from torch import Tensor

from model.api import Detector, Rois
from model.faster_rcnn.detector import FasterRcnn
from pipeline.batch import View

BETA = 1 / 9  # of smooth-L1 between deltas: where it turns from square to straight


def check_two_stage(who: str, student: Detector, teacher: Detector) -> tuple[FasterRcnn, FasterRcnn]:
    """Both are Faster R-CNNs with the same levels and classes."""
    for name, detector, fix in (
        ("student", student, "give --model faster_rcnn"),
        ("teacher", teacher, "give a --teacher that is a faster_rcnn"),
    ):
        if not isinstance(detector, FasterRcnn):
            raise ValueError(f"{who} compares box heads, and the {name} is a {detector.config.kind}: {fix}")
    for name in ("strides", "num_classes"):
        one, other = getattr(student, name), getattr(teacher, name)
        if one != other:
            raise ValueError(
                f"{who}: student and teacher differ in {name}, {one} and {other}; train one like the other"
            )
    assert isinstance(student, FasterRcnn)
    assert isinstance(teacher, FasterRcnn)
    return student, teacher


def grow_with(rois: Rois, here: View, there: View) -> Rois:
    """Regions of one view in another view of the same images; each keeps its level."""
    ratio_B2 = there.sizes_B2 / here.sizes_B2.clamp(min=1)
    return rois._replace(boxes_BR4=rois.boxes_BR4 * ratio_B2.flip(1).repeat(1, 2)[:, None])


def of_class(deltas_BRK4: Tensor, labels_BR: Tensor) -> Tensor:
    """(B, R, 4): the deltas of each region's class."""
    index_BR14 = labels_BR[..., None, None].expand(*labels_BR.shape, 1, 4)
    return torch.gather(deltas_BRK4, -2, index_BR14)[..., 0, :]
