"""What holds for every method of METHODS on every detector that it takes; battery.py has the cases."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.api import own
from model.build import build_detector
from model.detectors import CONFIGS, new_detector
from model.weights.checkpoint import save_detector
from pipeline.batch import Views
from pipeline.command.ranks import World
from tests.jobs import Job
from tests.train import battery
from tests.train.conftest import CLASSES
from train.distill import METHODS, CmkdConfig, MethodConfig
from train.distill.method import annotations
from train.record.checkpoint import Checkpoints
from train.record.logs import read_log
from train.start import read_command, train
from train.step import Learner, Teacher

CASES = battery.cases()
each_case = pytest.mark.parametrize(("kind", "config"), CASES, ids=battery.name_of)
DENSE = {"retinanet", "fcos", "atss", "gfl"}
ALL = {"faster_rcnn", *DENSE}
# The cases are found by trying; this notices where a known method no longer takes what it took.
TAKES = {
    "cd_fkd": ALL, "pkd": ALL, "defeat": ALL, "fgd": ALL, "imitation": ALL, "fine_grained": ALL - {"fcos"},
    "crosskd": DENSE, "gid": DENSE, "ld": {"gfl"}, "crosskd_roi": {"faster_rcnn"}, "head": {"faster_rcnn"},
    "divalign": {"faster_rcnn"}, "cmkd": ALL, "pseudo": ALL,
}  # fmt: skip


def has_discriminators(config: MethodConfig) -> bool:
    return isinstance(config, CmkdConfig) and config.loss == "adversarial"


def test_every_method_is_here():
    found = {config.kind: {kind for kind, other in CASES if other.kind == config.kind} for config in METHODS}
    assert all(found.values())
    assert {name: found[name] for name in TAKES} == TAKES


@each_case
@pytest.mark.parametrize("wide", [False, True], ids=["", "wider"])
def test_gradients_reach_what_the_method_says(kind, config, wide):
    """Of the student exactly the parts in `teaches`, of the method all that learns, of the teacher nothing.

    The wider teacher sees a larger view than the student where the method allows it.
    """
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, wide)
    student.zero_grad(set_to_none=True)
    learner, method = battery.learner_of(config, student, teacher)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    views = battery.make_views(battery.SMALLER if wide and not method.same_size else battery.VIEWS)
    terms = battery.terms_of(learner, method, teacher, views)
    assert bool(terms) == bool(method.teaches)
    if not terms:
        return
    assert all(term > 0 for term in terms.values()), terms
    sum(terms.values()).backward()
    reached = {name for name, each in student.named_parameters() if each.grad is not None and each.grad.any()}
    assert all(each.grad is None or each.grad.isfinite().all() for each in student.parameters())
    assert not {name for name in reached if not name.startswith(method.teaches)}
    assert not {part for part in method.teaches if not any(name.startswith(part) for name in reached)}
    assert all(each.grad is None for each in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    # DDP waits for every parameter that learns.
    silent = {name for name, each in method.named_parameters() if each.requires_grad and each.grad is None}
    assert not silent
    # What is shipped is the student; a child would be saved and trained with the method.
    owned = {id(each) for each in method.parameters()}
    assert not owned & {id(each) for network in (student, teacher) for each in network.parameters()}


@each_case
@pytest.mark.parametrize("slots", ["empty", "none"])
def test_without_boxes_all_is_finite(kind, config, slots):
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, False)
    student.zero_grad(set_to_none=True)
    learner, method = battery.learner_of(config, student, teacher)
    views = battery.make_views(boxes=False)
    if slots == "none":
        views = battery.without_slots(views)
    found = battery.terms_of(learner, method, teacher, views)
    total = sum(found.values(), start=torch.zeros(()))
    if total.requires_grad:
        total.backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in student.parameters())


@each_case
def test_equal_networks_on_equal_views_agree(kind, config):
    """Every term is 0, but for a cross entropy: that is not, and has no gradient. An adapter changes nothing.

    Discriminators never find that two networks agree.
    """
    if has_discriminators(config):
        pytest.skip("discriminators")
    student = battery.student_of(kind)
    teacher, views = battery.twin_of(student), battery.make_views(battery.SAME)
    learner, method = battery.learner_of(config, student, battery.teacher_of(kind, False))
    apart = battery.terms_of(learner, method, battery.teacher_of(kind, False), views)
    learner, method = battery.learner_of(config, student, teacher)
    for adapter in method.adapters or ():
        for layer in adapter.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight)
                nn.init.zeros_(layer.bias)
    terms = battery.terms_of(learner, method, teacher, views)
    for name, term in terms.items():
        if name not in method.entropies:
            least = 1.0 if not method.needs_teacher else apart[name].item()
            assert abs(term.item()) < 1e-3 * least, name
            continue
        parameters = [each for each in student.parameters() if each.requires_grad]
        norms = []
        for part in (term, apart[name]):
            gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            norms.append(torch.stack([each.norm() for each in gradients if each is not None]).norm())
        assert norms[0] < 1e-3 * norms[1], name


# Terms of whole maps and of what is in no box: an image without labels is as good as another one.
OF_IMAGES = {"pkd", "defeat_outside", "defeat_class_outside"}


@each_case
def test_other_images_and_weights_of_labels(kind, config):
    """Another order and rows that only fill up a batch change nothing. Neither do the same images once more, without
    labels, in what is about objects. Labels that are not sure make no term stronger."""
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, False)
    learner, method = battery.learner_of(config, student, teacher)
    views = battery.make_views(battery.VIEWS if method.same_size else battery.SMALLER)
    before = battery.terms_of(learner, method, teacher, views)

    def compare(others: Views, names: set[str], tolerance: float) -> None:
        after = battery.terms_of(learner, method, teacher, others)
        for name in names:
            torch.testing.assert_close(
                after[name], before[name], rtol=tolerance, atol=1e-5, msg=lambda text, name=name: name + text
            )  # fmt: skip

    compare(battery.rows_of(views, torch.tensor([1, -1, 0])), set(before), 1e-3)
    decoupled = {"imitation"} if getattr(config, "region", "") == "decoupled" else set()
    compare(battery.with_unlabelled(views), before.keys() - OF_IMAGES - decoupled, 5e-3)
    unsure = battery.terms_of(learner, method, teacher, replace(views, weight_BG=views.weight_BG / 4))
    assert {name for name in before if unsure[name] > before[name] * 1.001} == set()


@each_case
def test_the_canvas_changes_nothing(kind, config):
    """What both networks said of the images, once more with other things around it in a larger canvas.

    A method that goes on through the teacher's towers reads padding beside an image, as every convolution does. There a
    larger canvas is compared with another one, whose padding differs where no convolution reads it for a place inside.
    Discriminators look at the whole canvas.
    """
    if has_discriminators(config):
        pytest.skip("discriminators")
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, False)
    _, method = battery.learner_of(config, student, teacher)
    views, canvas = battery.make_views(), (128, 224)
    wide = battery.with_larger_canvas(views, canvas)
    taught = Teacher(teacher, [method], torch.float32)(views) if method.needs_teacher else None
    seen, around, trained, trained_around = {}, {}, {}, {}
    for name in method.student_sees:
        view = getattr(views, name)
        seen[name] = student.look(view.images_B3HW, view.sizes_B2, battery.wanted(method))
        trained[name] = student.losses(seen[name], annotations(views, view))[1]
        if kind == "faster_rcnn":
            trained[name] = trained[name]._replace(candidates_BN4=trained[name].candidates_BN4 / 2)
        around[name] = battery.in_larger_canvas(student, seen[name], canvas)
        trained_around[name] = battery.assigned_in_larger_canvas(student, seen[name], trained[name], around[name])
        if method.want_student.tower is not None:
            seen[name] = battery.in_larger_canvas(student, seen[name], canvas, anything=False)
            trained[name] = trained_around[name]
    taught_around = None
    if taught is not None:
        taught = taught._replace(rois=battery.away_from_the_edge(taught.rois))
        taught_around = battery.in_larger_canvas(teacher, taught, canvas)
        if method.want_teacher.tower is not None:
            taught, views = battery.in_larger_canvas(teacher, taught, canvas, anything=False), wide
    before, logged = method(seen, taught, trained, views)
    after, logged_around = method(around, taught_around, trained_around, wide)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    for name, pair in logged.items():
        torch.testing.assert_close(logged_around[name], pair, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@each_case
def test_bfloat16_is_near_float32(kind, config):
    """As on a GPU by default. Where a rounding decides which regions are compared, sums are others.

    Left out: the gradient of the coarsest level's weights. On a CPU torch 2.14 computes that of a 3x3 convolution with
    stride 2 of a 1x1 map in bfloat16 from memory that nobody wrote.
    """
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, False)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        student.zero_grad(set_to_none=True)
        learner, method = battery.learner_of(config, student, teacher, dtype=dtype)
        views = battery.make_views(battery.VIEWS if method.same_size else battery.SMALLER)
        terms = battery.terms_of(learner, method, teacher, views)
        assert all(term.dtype == torch.float32 for term in terms.values())
        if terms:
            sum(terms.values()).backward()
        gradients = {name: each.grad for name, each in learner.named_parameters() if each.grad is not None}
        assert not [name for name, each in gradients.items() if not each.isfinite().all() and ".p7." not in name]
        found.append({name: term.item() for name, term in terms.items()})
    exact, rounded = found
    for name, value in exact.items():
        by_regions = name.startswith(("divalign", "defeat_class"))
        assert by_regions or rounded[name] == pytest.approx(value, rel=0.3), name


# On two ranks.


@pytest.fixture(scope="module")
def by_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("two_ranks.py")
    assert Job(script, folder / "found.safetensors", folder=folder, ranks=2).wait(600) == 0
    return load_file(folder / "found.safetensors")


@pytest.mark.long
@each_case
def test_two_ranks_are_one(kind, config, by_two_ranks):
    """Four images on one rank, and two on each of two, where one of them has no box. A wider teacher: adapters too."""
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, True)
    learner, method = battery.learner_of(config, student, teacher)
    terms = battery.terms_of(learner, method, teacher, battery.make_views(empty=2))
    name = f"{kind} {battery.name_of(config)}"
    expected_terms = torch.stack([*terms.values(), torch.zeros(())])
    torch.testing.assert_close(by_two_ranks[f"{name} terms"], expected_terms, rtol=1e-3, atol=1e-6)
    expected, got = battery.gradients_of(terms, learner), by_two_ranks[f"{name} gradient"]
    assert (got - expected).norm() <= 2e-3 * expected.norm()


# All that fit a detector, together.


def all_that_fit(kind: str) -> tuple[MethodConfig, ...]:
    """One of each name."""
    chosen: dict[str, MethodConfig] = {}
    for other, config in CASES:
        if other == kind:
            chosen.setdefault(config.kind, config)
    return tuple(chosen.values())


# They look at maps and annotations alone, whichever detector these are of.
OF_MAPS = {"cd_fkd", "cmkd", "fgd", "pkd"}


@pytest.mark.long
@pytest.mark.parametrize("kind", CONFIGS)
def test_one_graph_that_equals_the_eager_step(kind):
    """Methods of maps alone with two of the five detectors, for compiling them takes a third of the time."""
    student, teacher = battery.student_of(kind), battery.teacher_of(kind, True)
    chosen = [each for each in all_that_fit(kind) if kind in ("faster_rcnn", "gfl") or each.kind not in OF_MAPS]
    methods = {config.kind: battery.make_method(config, student, teacher) for config in chosen}
    learner = Learner(student, methods, torch.float32, own)
    views = battery.make_views()
    seen = Teacher(teacher, list(methods.values()), torch.float32)(views)
    counter = CompileCounterWithBackend("eager")  # two_ranks.py lowers one
    found = []
    for inner in (learner, torch.compile(learner, backend=counter, fullgraph=True)):
        learner.zero_grad(set_to_none=True)
        total, scalars = inner(views, seen)
        total.backward()
        found.append([scalars, *(each.grad for each in learner.parameters() if each.grad is not None)])
    assert counter.frame_count == 1
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4 * eager.abs().max().item())
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "kind", [kind if kind == "faster_rcnn" else pytest.param(kind, marks=pytest.mark.long) for kind in CONFIGS]
)
def test_a_run_resumes_to_the_bit_and_ships_the_student_alone(kind, halves, tmp_path):
    """A run of two steps, and the same that begins its second step anew."""
    rest = ["--loader.name", "cpu", "--loader.threads", "1", "--device", "cpu", "--steps", "2", "--log-every", "1"]
    rest += ["--save-every", "1", "--keep", "5", "--views.ratio-range", "1", "1"]
    config = read_command(["plain_small", "--data", *map(str, halves), "--out", str(tmp_path / "student"), *rest])
    config = replace(config, model=battery.model_of(kind), teacher=tmp_path / "teacher", distill=all_that_fit(kind))
    torch.manual_seed(3)
    model = battery.model_of(kind, wide=True)
    save_detector(tmp_path / "teacher", build_detector(model, len(CLASSES) + 1), model, CLASSES, {"AP50": 50.0})
    alone = World(0, 1, torch.device("cpu"))
    assert train(config, alone) == 0
    (line, *_) = [line["losses"] for line in read_log(config.out / "log.jsonl") if "losses" in line]
    assert all(0 <= value < float("inf") for value in line.values())

    def saved() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        newest = Checkpoints(config.out, 1).newest()
        assert newest is not None
        return load_file(newest / "model.safetensors"), load_file(newest / "training.safetensors")

    first = saved()
    assert first[0].keys() == new_detector(config.model, len(CLASSES) + 1).state_dict().keys()
    kept = {name.split(".")[1] for name in first[1] if name.startswith("method.")}
    assert {"fgd", "defeat", "pkd"} <= kept
    shutil.rmtree(config.out / "checkpoints" / "step-00000002")
    assert train(config, alone) == 0
    for expected, got in zip(first, saved(), strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], value) for name, value in got.items())
