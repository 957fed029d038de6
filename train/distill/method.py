"""What every distillation method is: a module that sees both networks' outputs and returns terms of the loss.

A method says which view each network sees and what it needs of them, all fixed before compiling. It may own parameters,
such as adapters. They are trained, clipped and saved with the run as `method.NAME.*` and never shipped. It never owns a
detector. It is given both when it is made, to check them and to call the teacher's layers, and keeps no child of them.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Truth, Want
from pipeline.batch import View, Views
from pipeline.command.console import say
from train.distributed import is_first

Logged = dict[str, tuple[Tensor, Tensor]]  # name: (sum, count) of this rank; the log shows sum / count over all ranks


class Method(nn.Module):
    """A method's defaults: the student sees the corrupted view, the teacher the clean one."""

    student_sees: ClassVar[tuple[str, ...]] = ("corrupted",)
    teacher_sees: ClassVar[str] = "clean"
    needs_teacher: ClassVar[bool] = True
    needs_unlabelled: ClassVar[bool] = False  # images that nobody labelled
    same_size: ClassVar[bool] = False  # both networks must see images of one size
    want_student: Want = Want()
    want_teacher: Want = Want()
    weights: dict[str, float]  # of its terms in the total loss
    logged: tuple[str, ...] = ()  # names of what it logs
    alike: tuple[str, ...] = ()  # those that are 1 where teacher and student agree
    entropies: tuple[str, ...] = ()  # terms that are least, but not 0, where teacher and student agree
    regions: int = 0  # of an image, if box heads' answers to them are compared
    adapters: nn.ModuleList | None  # of the student's maps to the teacher's widths; random before the first step
    teaches: tuple[str, ...] = ("backbone",)  # what of the student its gradient reaches: how parameters' names begin

    def __init__(self, config: Any, student: Detector, teacher: Any, mean: Mean):
        super().__init__()
        self.config, self.mean = config, mean
        self.adapters = None

    def relabel(self, views: Views, teacher: Outputs | None) -> Views:
        """The views with the boxes that the student is to find and that all methods of the run see: the annotations."""
        return views

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        """seen, assigned: by the view's name. Returns the terms, not yet weighed, and what is logged."""
        raise ValueError(f"{type(self).__name__} has no forward")


def annotations(views: Views, view: View) -> Truth:
    return Truth(view.sizes_B2, view.boxes_BG4, views.labels_BG, views.ignore_BG, views.weight_BG, views.keys_B)


def levels_of(strides: Sequence[int], student: Detector, teacher: Detector, option: str) -> list[tuple[int, int]]:
    """(student's level, teacher's level) of each stride."""
    pairs = []
    for stride in strides:
        levels = []
        for who, detector in (("student", student), ("teacher", teacher)):
            # A MobileNetV3 pyramid has two levels of stride 32: a stride must name one.
            if detector.strides.count(stride) != 1:
                raise ValueError(f"{option}: the {who} has no one level of stride {stride}, it has {detector.strides}")
            levels.append(detector.strides.index(stride))
        pairs.append((levels[0], levels[1]))
    return pairs


def make_adapters(student: Detector, teacher: Detector, num: int, who: str) -> nn.ModuleList | None:
    """A 1x1 convolution a level, from the student's number of channels to the teacher's; none where they are equal."""
    if student.channels == teacher.channels:
        return None
    if is_first():
        say(
            f"{who}: the student's maps have {student.channels} channels and the teacher's {teacher.channels}: "
            f"{num} 1x1 adapters are trained with the student and never shipped"
        )
    return nn.ModuleList(nn.Conv2d(student.channels, teacher.channels, 1) for _ in range(num))
