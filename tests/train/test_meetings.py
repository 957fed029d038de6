"""What a run says of the tensors that meet, before its first step."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from model.weights.checkpoint import load_detector
from pipeline.views import ViewConfig
from tests.jobs import Job
from tests.train import battery
from tests.train.conftest import CLASSES
from train.distill import (
    METHODS,
    CdFkdConfig,
    CrossKdConfig,
    CrossKdRoiConfig,
    DefeatConfig,
    DivAlignConfig,
    HeadConfig,
    LdConfig,
    PkdConfig,
)
from train.meetings import meetings
from train.task import recorded_ap50

CORRUPTED = ViewConfig()


def said(kind, config, wide=False, corrupted=CORRUPTED):
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, wide)
    method = battery.make_method(config, student, teacher)
    views = battery.make_views(battery.VIEWS if method.same_size else battery.SMALLER)
    return meetings(config.kind, method, student, teacher if method.needs_teacher else None, views, corrupted)


def test_names_strides_shapes_and_adapters():
    lines = said("atss", CrossKdConfig(), wide=True)
    assert lines[0] == (
        "crosskd: the student sees the corrupted view (64x96), the teacher the clean view (64x96); "
        "the gradient reaches backbone, head.class_tower.0, head.box_tower.0"
    )
    first = "  towers after convolution 1, stride 8: the student's 16 x 8 x 12 through a 1x1 adapter to 24 with the "
    assert lines[1] == first + "teacher's 24 x 8 x 12"
    assert lines[5].startswith("  towers after convolution 1, stride 128: the student's 16 x 1 x 1 ")
    num = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1
    assert lines[6] == f"  class scores: the student's {num} x 7 with the teacher's {num} x 7"
    assert lines[7] == f"  boxes: the student's {num} x 4 with the teacher's {num} x 4"
    assert len(lines) == 8


def test_each_network_has_its_own_view():
    lines = said("faster_rcnn", CdFkdConfig(strides=(8, 32)))
    assert "the student sees the corrupted view (64x64), the teacher the clean view (64x96)" in lines[0]
    assert lines[1] == "  pyramid, stride 8: the student's 16 x 8 x 8 with the teacher's 16 x 8 x 12"
    assert lines[2] == "  pyramid, stride 32: the student's 16 x 2 x 2 with the teacher's 16 x 2 x 3"


def test_a_view_is_called_what_it_is():
    for corrupted, expected in (
        (ViewConfig(), "corrupted"),
        (ViewConfig(corruptions=()), "downscaled"),
        (ViewConfig(corruptions=(), ratio_range=(1.0, 1.0)), "clean"),
    ):
        line = said("faster_rcnn", CdFkdConfig(strides=(8, 32)), corrupted=corrupted)[0]
        assert f"the student sees the {expected} view (64x64), the teacher the clean view (64x96)" in line


def test_other_stages():
    assert said("gfl", LdConfig())[-1].endswith("boxes: the student's 129 x 68 with the teacher's 129 x 68")
    assert said("faster_rcnn", HeadConfig(regions=9))[1:] == [
        "  the teacher's best regions, up to 9 an image: 8 class scores and boxes of both box heads"
    ]
    line, regions = said("faster_rcnn", DivAlignConfig())
    assert "the clean view (64x96) and the corrupted view (64x64) are compared with each other" in line
    sampled = "  the student's sampled regions, up to 16 an image: 8 class scores and boxes of "
    assert regions == sampled + "its box head"
    # It pools from both pyramids; what meets is what one head says of the regions.
    assert said("faster_rcnn", CrossKdRoiConfig())[1:] == [sampled + "the teacher's box head, on both pyramids"]
    lines = said("faster_rcnn", DefeatConfig(strides=(8,), class_inside_weight=1.0))
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  pyramid, stride 8",
        "  the teacher's best regions, up to 16 an image",
    ]


def test_without_a_weight_nothing_is_reached():
    assert said("gfl", PkdConfig(weight=0.0))[0].endswith("; the gradient reaches nothing, as all its weights are 0")


@pytest.mark.parametrize(("kind", "config"), battery.cases(), ids=battery.name_of)
def test_every_method_says_something(kind, config):
    assert len(said(kind, config)) > 1 or not METHODS[type(config)].needs_teacher


def test_a_run_says_it_before_its_first_step(begin, student_config, capsys):
    config = replace(student_config, steps=1)
    assert begin(config).train() == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"student and teacher find {len(CLASSES)} classes: {', '.join(CLASSES)}" in printed
    assert printed.index("cd_fkd: the student sees the corrupted view") < printed.index("weighted terms at step 0")
    assert "the gradient reaches backbone pyramid, stride 8: the student's 16 x" in printed


def test_the_teachers_own_evaluation_tells_its_ap(teacher_run, packed, tmp_path, capsys):
    detector, _ = load_detector(teacher_run)
    assert recorded_ap50(teacher_run, detector) is None
    run = tmp_path / "teacher"
    shutil.copytree(teacher_run, run)
    assert Job("eval.run", run, "--data", packed, "--device", "cpu", folder=tmp_path).wait() == 0
    expected = json.loads((run / "eval" / "results.json").read_text())["domains"]["source"]["voc07"]["mAP"]
    assert recorded_ap50(run, detector) == expected
    with torch.no_grad():
        next(detector.parameters()).add_(1)
    assert recorded_ap50(run, detector) is None
    (run / "eval" / "results.json").write_text("{}")
    capsys.readouterr()
    assert recorded_ap50(run, detector) is None
    assert "the teacher's evaluation cannot be read" in " ".join(capsys.readouterr().out.split())
