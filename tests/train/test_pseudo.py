"""Pseudo-labels while training: which boxes the losses and the other methods get, compiled, resumed, mixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.api import Detections, Outputs, own
from model.build import build_detector
from model.dense.config import GflConfig
from model.detectors import new_detector
from pipeline.batch import View, Views
from pipeline.command.ranks import World
from train.distill import METHODS, CrossKdConfig, FgdConfig
from train.distill.pseudo import Pseudo, PseudoConfig
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.start import read_command, train
from train.step import Learner, Teacher

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def make(make_config):
    """The method with a student of two classes."""

    student = new_detector(make_config(RECIPES["plain_small"][1]()).model, 3)
    return lambda **options: Pseudo(PseudoConfig(**options), student, None, own)


def make_views(boxes, labels, ignore, sizes=((64, 96), (50, 80), (64, 96))) -> Views:
    boxes_BG4, sizes_B2 = torch.tensor(boxes).float(), torch.tensor(sizes, dtype=torch.int32)
    num = len(sizes)
    half_B2 = (sizes_B2 / 2).round().int()
    half = boxes_BG4 * (half_B2.flip(1) / sizes_B2.flip(1)).repeat(1, 2)[:, None]
    return Views(
        View(torch.zeros(num, 3, 64, 96), sizes_B2, boxes_BG4), View(torch.zeros(num, 3, 32, 64), half_B2, half),
        torch.full((num,), 0.5), torch.tensor(labels), torch.tensor(ignore), torch.full(np.shape(labels), 0.25),
        torch.arange(num), torch.arange(num),
    )  # fmt: skip


VIEWS = make_views(
    [[[1, 2, 30, 40], [5, 5, 20, 20]], [[0, 0, 80, 50], [0, 0, 80, 50]], [[0, 0, 96, 64], [5, 5, 20, 20]]],
    [[1, 2], [1, 2], [1, 2]],
    [[False, True], [True, True], [True, False]],
)
FOUND = Detections(
    torch.tensor([[[10.0, 10, 20, 20], [30, 30, 50, 45], [1, 1, 9, 9], [3, 3, 3.5, 30]]]).repeat(3, 1, 1),
    torch.tensor([[0.9, 0.5, 0.2, 0.8]]).repeat(3, 1),
    torch.tensor([[2, 1, 1, 1]], dtype=torch.int32).repeat(3, 1),
    torch.tensor([4, 4, 4]),
)


def look(found: Detections) -> Outputs:
    return Outputs((64, 96), (), found=found)


def test_boxes_by_hand(make):
    """Only the second image is unlabelled: the first has an object, the third too, beside one ignored region."""
    views = make(weigh=True).relabel(VIEWS, look(FOUND))
    assert views.labels_BG.tolist() == [[1, 2, 0, 0], [2, 1, 0, 0], [1, 2, 0, 0]]
    assert views.ignore_BG.tolist() == [[False, True, False, False], [False, True, False, False], [True] + [False] * 3]
    torch.testing.assert_close(views.weight_BG[:, :2], torch.tensor([[0.25, 0.25], [0.9, 1.0], [0.25, 0.25]]))
    for name in ("clean", "corrupted"):
        ours, before = getattr(views, name), getattr(VIEWS, name)
        assert ours.images_B3HW is before.images_B3HW
        assert torch.equal(ours.boxes_BG4[[0, 2], :2], before.boxes_BG4[[0, 2]])
    assert views.clean.boxes_BG4[1].tolist() == [[10, 10, 20, 20], [30, 30, 50, 45], [0] * 4, [0] * 4]
    assert views.corrupted.boxes_BG4[1, :2].tolist() == [[5, 5, 10, 10], [15, 15, 25, 22.5]]


def test_what_overlaps_an_object_is_not_ignored_beside_it(make):
    boxes = torch.tensor([[[10.0, 10, 30, 30], [10, 10, 30, 26], [10, 10, 30, 18], [10, 10, 30, 26]]]).repeat(3, 1, 1)
    labels = torch.tensor([[2, 2, 2, 1]], dtype=torch.int32).repeat(3, 1)  # the last is of another class
    found = Detections(boxes, torch.tensor([[0.9, 0.6, 0.5, 0.4]]).repeat(3, 1), labels, FOUND.count_B)
    views = make().relabel(VIEWS, look(found))
    assert views.labels_BG[1].tolist() == [2, 0, 2, 1]
    assert views.ignore_BG[1].tolist() == [False, False, True, True]


def test_a_teacher_that_finds_nothing_leaves_nothing(make):
    none = FOUND._replace(count_B=torch.zeros(3, dtype=torch.int64))
    views = make().relabel(VIEWS, look(none))
    assert views.labels_BG[1].tolist() == [0] * 4
    assert (views.weight_BG[1] == 1).all()


def test_scores_by_class(make):
    views = make(high=(0.4, 0.95), low=(0.1,)).relabel(VIEWS, look(FOUND))
    assert views.labels_BG[1].tolist() == [2, 1, 1, 0]
    assert views.ignore_BG[1].tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match=r"high has 3 scores for 2 classes; give one, or one for each"):
        make(high=(0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match=r"low must be at most --distill.pseudo.high"):
        make(high=(0.4, 0.5), low=(0.45,))
    with pytest.raises(ValueError, match="must be scores from 0 to 1"):
        PseudoConfig(high=(1.5,))


def test_more_annotations_than_detections(make):
    few = Detections(*(field[:, :1] for field in FOUND[:3]), torch.ones(3, dtype=torch.int64))
    views = make().relabel(VIEWS, look(few))
    assert views.labels_BG.tolist() == [[1, 2], [2, 0], [1, 2]]


# --- in a run ---


@pytest.fixture
def config(student_config, halves):
    pseudo = PseudoConfig(high=(0.3,), low=(0.1,))
    return replace(student_config, data=halves, distill=(*student_config.distill, pseudo))


def test_other_methods_see_the_teachers_boxes(begin, config, monkeypatch):
    """The views that CD-FKD gets are those that the detection loss gets."""
    trainer = begin(config)
    learner, teacher = trainer.task.learner, trainer.task.teacher
    seen = []
    forward, losses = learner.methods["cd_fkd"].forward, trainer.task.student.losses
    monkeypatch.setattr(learner.methods["cd_fkd"], "forward", lambda *a: seen.append(a[3]) or forward(*a))
    monkeypatch.setattr(trainer.task.student, "losses", lambda *a: seen.append(a[1]) or losses(*a))
    with trainer.task.loader:
        views = trainer.task.maker(next(trainer.task.loader), 0)
    outputs = teacher(views)
    learner(views, outputs)
    truth, theirs = seen
    expected = learner.methods["pseudo"].relabel(views, outputs)
    for name in ("labels_BG", "ignore_BG", "weight_BG"):
        assert torch.equal(getattr(truth, name), getattr(expected, name))
        assert torch.equal(getattr(theirs, name), getattr(expected, name))
    assert torch.equal(truth.boxes_BG4, theirs.corrupted.boxes_BG4)
    assert truth.labels_BG.shape[1] == 20  # slots of the teacher's detections


def test_labelled_and_unlabelled_images_in_one_run_resume_to_the_bit(begin, config, tmp_path):
    whole = replace(config, out=tmp_path / "whole", steps=4, save_every=2)
    assert train(whole, ALONE) == 0
    assert all("objects" in line["logged"] for line in read_log(whole.out / "log.jsonl") if "logged" in line)
    parts = replace(whole, out=tmp_path / "parts")
    trainer = begin(parts)
    one_step = trainer.task.one_step
    trainer.task.one_step = lambda views, step, stop: one_step(views, step, stop or step == 1)
    assert trainer.train() != 0
    assert train(parts, ALONE) == 0
    ours, theirs = (load_file(Checkpoints(run.out, 1).newest() / "model.safetensors") for run in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_labeller_alone_says_what_it_sees(config, begin, capsys):
    assert begin(replace(config, distill=config.distill[-1:], steps=1)).train() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the gradient reaches nothing, as it has no term" in said
    assert "the teacher's detections become boxes that the student is to find" in said


def test_the_students_average_labels(config, teacher_run, begin):
    optimizer = replace(config.optimizer, ema_decay=0.9)
    average = replace(
        config, teacher=None, teacher_policy="average", optimizer=optimizer, student_init=str(teacher_run), steps=2
    )
    average = replace(average, model=replace(average.model, weights="none"))
    assert begin(average).train() == 0
    with pytest.raises(ValueError, match="an untrained network finds nothing"):
        replace(average, student_init="weights")


def test_unlabelled_data_needs_a_labeller(halves, config):
    with pytest.raises(ValueError, match=r"rest is unlabelled: .* Label it first"):
        train(replace(config, data=halves[1:], distill=(), teacher=None), ALONE)


def test_a_labeller_needs_unlabelled_data(halves, config):
    with pytest.raises(ValueError, match="no image of --data is unlabelled, so --distill pseudo has nothing to label"):
        train(replace(config, data=halves[:1]), ALONE)


def test_options():
    config = read_command(
        ["plain_small", "--data", "a", "b", "--out", "o", "--teacher", "t", "--distill", "crosskd", "pseudo",
         "--distill.pseudo.high", "0.5", "0.6", "--model", "gfl"]
    )  # fmt: skip
    assert config.distill == (CrossKdConfig(), PseudoConfig(high=(0.5, 0.6)))


@pytest.mark.long
def test_compiled_without_a_break_it_is_the_same():
    """With CrossKD and FGD, which read boxes: one graph, and the numbers of eager."""
    config = GflConfig(
        backbone="resnet18", weights="none", norm="frozen", trainable_layers=5, fpn_channels=8, head_channels=8,
        norm_groups=4, num_convs=1, score_threshold=0.0, detections_per_image=10,
    )  # fmt: skip
    torch.manual_seed(0)
    student, teacher = (build_detector(config, 3) for _ in range(2))
    names = {}
    for one in (CrossKdConfig(), FgdConfig(), PseudoConfig(high=(0.0102,), low=(0.01,))):
        names[one.kind] = METHODS[type(one)](one, student, teacher, own)
    learner = Learner(student.train(), names, torch.float32, own)
    looker = Teacher(teacher, list(names.values()), torch.float32)
    views = replace(VIEWS, corrupted=VIEWS.clean)
    generator = torch.Generator().manual_seed(3)
    pictures = View(torch.randn(3, 3, 64, 96, generator=generator), VIEWS.clean.sizes_B2, VIEWS.clean.boxes_BG4)
    views = replace(views, clean=pictures, corrupted=pictures)
    expected = learner(views, looker(views))[1]
    assert torch.isfinite(expected).all()
    torch._dynamo.reset()
    # One graph each, run as it was traced: what the default backend makes of it takes minutes on a CPU.
    options = {"fullgraph": True, "dynamic": False, "backend": "eager"}
    look_compiled = torch.compile(looker.__call__, **options)
    total, scalars = torch.compile(learner, **options)(views, look_compiled(views))
    total.backward()
    torch.testing.assert_close(scalars, expected, rtol=2e-4, atol=1e-5)
