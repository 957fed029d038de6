"""Which tensors of student and teacher a run's methods compare: names, strides, shapes, and the adapters between.

Shapes follow from the canvases and the configurations, so nothing is computed. They are those of one image.
"""

from torch import nn

from model.api import Detector
from model.boxes.points import map_sizes
from model.dense.detector import DenseDetector
from pipeline.batch import Views
from pipeline.command.console import say
from pipeline.views import ViewConfig
from train.distill.method import Method
from train.step import Learner, Teacher

Canvas = tuple[int, int]


def say_meetings(
    learner: Learner, teacher: Teacher | None, views: Views, config: ViewConfig, classes: tuple[str, ...]
) -> None:
    if teacher is not None:
        say(f"student and teacher find {len(classes)} classes: {', '.join(classes)}")
    for name, method in learner.methods.items():
        assert isinstance(method, Method)
        for line in meetings(
            name, method, learner.student, None if teacher is None else teacher.detector, views, config
        ):
            say(line)


def meetings(
    name: str, method: Method, student: Detector, teacher: Detector | None, views: Views, config: ViewConfig
) -> list[str]:
    """A line each; the first names the method."""
    seen = " and ".join(
        f"the {called(view, config)} view ({shape(canvas_of(views, view))})" for view in method.student_sees
    )
    reached = f"the gradient reaches {', '.join(method.teaches) or 'nothing, as it has no term'}"
    if method.teaches and not any(method.weights.values()):
        reached = "the gradient reaches nothing, as all its weights are 0"
    if not method.needs_teacher:
        line = f"{name}: the student's answers to {seen} are compared with each other; {reached}"
        answers = regions_of(method, student, "the student's sampled regions", "its box head")
        return [line, answers] if method.regions else [line]
    assert teacher is not None
    canvases = (canvas_of(views, method.student_sees[0]), canvas_of(views, method.teacher_sees))
    looked = f"the teacher the {called(method.teacher_sees, config)} view ({shape(canvases[1])})"
    lines = [f"{name}: the student sees {seen}, {looked}; {reached}"]
    pairs = list(zip((student, teacher), canvases, strict=True))
    want, adapters = method.want_teacher, list(method.adapters or ())
    if want.tower is not None:
        for stride in teacher.strides:
            maps = [tower_shape(*pair, stride, want.tower) for pair in pairs]
            place = f"towers after convolution {want.tower}" if want.tower else "pyramid, once for each tower"
            lines.append(meet(f"{place}, stride {stride}", maps, adapters[0] if adapters else None))
    pooled = method.regions > 0 and not want.rois
    for index, stride in enumerate(() if pooled else want.neck):
        maps = [map_shape(detector.channels, detector, canvas, stride) for detector, canvas in pairs]
        lines.append(meet(f"pyramid, stride {stride}", maps, adapters[index] if adapters else None))
    if want.dense:
        heads = [(detector, canvas) for detector, canvas in pairs if isinstance(detector, DenseDetector)]
        counts = [sum(detector.head.level_counts(canvas)) for detector, canvas in heads]
        widths = [(detector.num_classes - 1, detector.head.box_width) for detector, _ in heads]
        for part, place in enumerate(("class scores", "boxes")):
            shapes = [f"{count} x {width[part]}" for count, width in zip(counts, widths, strict=True)]
            lines.append(meet(place, shapes, None))
    if pooled:
        whose = "the teacher's box head, on both pyramids"
        lines.append(regions_of(method, student, "the student's sampled regions", whose))
    elif want.rois:
        lines.append(regions_of(method, teacher, "the teacher's best regions", "both box heads"))
    if want.found:
        lines.append("  the teacher's detections become boxes that the student is to find")
    return lines


def regions_of(method: Method, detector: Detector, which: str, whose: str) -> str:
    return f"  {which}, up to {method.regions} an image: {detector.num_classes} class scores and boxes of {whose}"


def called(view: str, config: ViewConfig) -> str:
    """What is true of a view: without corruptions the second one is at most downscaled."""
    if view == "clean" or config.corruptions:
        return view
    return "clean" if config.ratio_range == (1.0, 1.0) else "downscaled"


def meet(place: str, shapes: list[str], adapter: nn.Module | None) -> str:
    through = "" if adapter is None else f" through {describe(adapter)}"
    return f"  {place}: the student's {shapes[0]}{through} with the teacher's {shapes[1]}"


def describe(adapter: nn.Module) -> str:
    convs = [layer for layer in adapter.modules() if isinstance(layer, nn.Conv2d)]
    return ", ".join(f"a {conv.kernel_size[0]}x{conv.kernel_size[1]} adapter to {conv.out_channels}" for conv in convs)


def shape(canvas: Canvas) -> str:
    return f"{canvas[0]}x{canvas[1]}"


def canvas_of(views: Views, name: str) -> Canvas:
    images_B3HW = getattr(views, name).images_B3HW
    return images_B3HW.shape[-2], images_B3HW.shape[-1]


def map_shape(channels: int, detector: Detector, canvas: Canvas, stride: int) -> str:
    height, width = map_sizes(canvas, detector.strides)[detector.strides.index(stride)]
    return f"{channels} x {height} x {width}"


def tower_shape(detector: Detector, canvas: Canvas, stride: int, k: int) -> str:
    return map_shape(detector.config.head_channels if k else detector.channels, detector, canvas, stride)
