"""CrossKD against a plain form; who gets its gradient; what agrees gives 0; padding, ranks and empty images."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss

from model.api import Outputs, Want, own
from model.boxes.points import inside_own_size
from model.dense.config import AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from tests.train.placed import call, make_views, train_on
from train.distill.crosskd import CrossKd, CrossKdConfig, align
from train.load import make_methods
from train.step import weigh

KINDS = {"gfl": GflConfig(num_bins=5), "retinanet": RetinaNetConfig(), "atss": AtssConfig(), "fcos": FcosConfig()}
SIZES, CANVAS = [(64, 96), (33, 70)], (64, 96)
BOXES = [[(3.0, 5.5, 40.2, 37.0), (50.3, 10.1, 91.0, 60.4)], [(8.1, 2.2, 60.6, 30.3)]]


def make(kind, seed, channels=6, num_convs=None):
    """By default the hand-over is after the first convolution."""
    torch.manual_seed(seed)
    num_convs = (3 if kind == "fcos" else 2) if num_convs is None else num_convs
    config = replace(
        KINDS[kind], backbone="resnet18", weights="none", fpn_channels=channels, head_channels=channels,
        num_convs=num_convs, norm_groups=0,
    )  # fmt: skip
    network = DenseDetector(config, 4)
    for parameter in network.head.parameters():  # far from the small numbers of a new head
        parameter.data.add_(torch.randn(parameter.shape) * 0.2)
    return network


def make_neck(seed, canvas=CANVAS, num=2, channels=6):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-canvas[0] // s), -(-canvas[1] // s)) for s in (8, 16, 32, 64, 128)]
    return tuple(torch.randn(num, channels, *size, generator=generator).requires_grad_() for size in sizes)


def look(network, neck, k, canvas=CANVAS):
    towers = network.head.grow(neck, k)
    raw = network.head.predict(towers, k)
    return Outputs(canvas, neck, towers, raw.logits, raw.boxes, raw.quality)


def scene(kind, boxes=BOXES, sizes=SIZES, teacher=None, **options):
    student, theirs = make(kind, 1), teacher or make(kind, 2)
    method = CrossKd(CrossKdConfig(**options), student, theirs.requires_grad_(False), own)
    views, neck = make_views(sizes, boxes, CANVAS), make_neck(3, num=len(sizes))
    seen = look(student, neck, method.k)
    with torch.no_grad():
        taught = look(theirs, make_neck(4, num=len(sizes), channels=theirs.channels), method.k)
    return method, student, neck, seen, taught, views


def terms_of(method, student, seen, taught, views) -> dict[str, Tensor]:
    return call(method, seen, taught, train_on(student, seen, views), views)


def test_alignment_by_hand():
    """Channel 0: 1 and 3 inside, mean 2, deviation sqrt 2; the teacher's 10 and 14. Channel 1 is constant."""
    student = torch.tensor([[[[1.0, 3.0, 99.0]], [[5.0, 5.0, -9.0]]]])
    teacher = torch.tensor([[[[10.0, 14.0, 0.0]], [[1.0, 3.0, 0.0]]]])
    (got,) = align([student], [teacher], [torch.tensor([[[True, True, False]]])], own)
    torch.testing.assert_close(got[0, :, 0, :2], torch.tensor([[10.0, 14.0], [2.0, 2.0]]), rtol=0, atol=2e-5)


def test_one_place_has_the_teachers_mean_and_no_gradient():
    student = torch.ones(1, 2, 1, 1, requires_grad=True)
    (got,) = align([student], [torch.full((1, 2, 1, 1), 4.0)], [torch.ones(1, 1, 1, dtype=torch.bool)], own)
    got.sum().backward()
    assert got.flatten().tolist() == [4.0, 4.0]
    assert student.grad.abs().max() == 0


def test_a_constant_channel_is_the_teachers_mean_also_where_its_own_mean_is_rounded():
    student = torch.full((2, 1, 37, 53), 7.77, requires_grad=True)
    teacher = torch.randn(2, 1, 37, 53) + 3
    (got,) = align([student], [teacher], [torch.ones(2, 37, 53, dtype=torch.bool)], own)
    torch.testing.assert_close(got, teacher.mean().expand_as(got))
    (gradient,) = torch.autograd.grad(got.square().sum(), student)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_form(kind):
    """The formulas of the file's first lines, with torch's KL and torchvision's IoUs, on the cross predictions."""
    method, student, _, seen, taught, views = scene(kind)
    assert method.k == 1
    trained = train_on(student, seen, views)
    terms = call(method, seen, taught, trained, views)
    head = method.teacher[0].head
    cross = head.predict(method.hand_over(seen.towers, taught.towers, views.clean.sizes_B2), 1)
    inside_BN = inside_own_size(views.clean.sizes_B2, CANVAS, head.strides, head.per_location, 1) & (
        trained.state_BN >= 0
    )
    positive_BN = (trained.state_BN == 1) & inside_BN
    assert positive_BN.sum() > 3
    num = trained.weight_BN[positive_BN].sum() if kind == "fcos" else positive_BN.sum(1).clamp(min=1).sum()
    c, t = torch.cat(cross.logits, 1)[inside_BN], torch.cat(taught.logits, 1)[inside_BN].sigmoid()
    expected = ((c.sigmoid() - t).abs() * F.binary_cross_entropy_with_logits(c, t, reduction="none")).sum() / num
    torch.testing.assert_close(terms["crosskd_class"], expected)
    counts, places_14 = head.level_counts(CANVAS), head.candidates(CANVAS)
    boxes = [
        torch.cat([head.decode(b, p, 0) for b, p in zip(each, places_14.split(counts, 1), strict=True)], 1)[inside_BN]
        for each in (cross.boxes, taught.boxes)
    ]
    best = t.amax(1)
    if kind == "gfl":
        c, t = (
            torch.cat(each, 1)[inside_BN].unflatten(1, (4, -1)).log_softmax(-1) for each in (cross.boxes, taught.boxes)
        )
        sides = F.kl_div(c, t, reduction="none", log_target=True).sum(-1)
        expected = (best * sides.mean(1)).sum() / best.sum()
    elif kind == "fcos":
        expected = (best * -box_iou(*boxes).diagonal().log()).sum() / num
    else:
        expected = (best * generalized_box_iou_loss(*boxes)).sum() / num
    torch.testing.assert_close(terms["crosskd_box"], expected, rtol=1e-4, atol=1e-5)
    if kind != "atss":
        return
    pair = [torch.cat(each, 1)[positive_BN] for each in (cross.quality, taught.quality)]
    expected = F.binary_cross_entropy_with_logits(pair[0], pair[1].sigmoid(), reduction="sum") / num
    torch.testing.assert_close(terms["crosskd_centerness"], expected)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_without_boxes_all_is_finite(kind, faithful):
    method, student, neck, seen, taught, views = scene(kind, [[], []], faithful=faithful)
    terms = terms_of(method, student, seen, taught, views)
    sum(terms.values()).backward()
    assert all(level.grad.isfinite().all() for level in neck[:4])
    # Divided by 1e-6: the original.
    assert (terms["crosskd_class"] > 1e4) == (faithful and kind == "fcos")


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_deep_in_the_padding_changes_nothing(kind):
    """Deeper than the teacher's convolutions reach into it: two of 3 x 3, of FCOS three."""
    method, student, _, seen, taught, views = scene(
        kind, sizes=[(32, 64), (20, 40)], boxes=[[], [(2.0, 3.0, 30.0, 19.0)]]
    )
    trained = train_on(student, seen, views)
    before = call(method, seen, taught, trained, views)
    maps = [map_BCHW.clone() for map_BCHW in seen.towers[0]]
    for map_BCHW in maps:
        map_BCHW[:, :, :, 8 + 3 :] = 50.0
    after = call(method, seen._replace(towers=((maps[0], maps[1]), *seen.towers[1:])), taught, trained, views)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_a_wider_teacher_gets_adapters():
    method, student, neck, seen, taught, views = scene("gfl", teacher=make("gfl", 2, channels=10))
    sum(terms_of(method, student, seen, taught, views).values()).backward()
    assert [tuple(adapter.weight.shape) for adapter in method.adapters] == [(10, 6, 1, 1)] * 2
    assert all(adapter.weight.grad.abs().max() > 0 for adapter in method.adapters)
    assert neck[0].grad.abs().max() > 0


@pytest.mark.parametrize(
    ("kind", "options", "learns"),
    [
        ("gfl", {"class_weight": 0.0}, [False, True]),
        ("gfl", {"box_weight": 0.0}, [True, False]),
        ("atss", {"box_weight": 0.0}, [True, True]),
        ("atss", {"box_weight": 0.0, "centerness_weight": 0.0}, [True, False]),
        ("fcos", {"class_weight": 0.0, "box_weight": 0.0}, [False, False]),
    ],
)
def test_an_adapter_learns_where_a_gradient_reaches_it(kind, options, learns):
    """DDP waits for a gradient of everything that learns."""
    _, student, _, seen, taught, views = scene(kind, teacher=(teacher := make(kind, 2, channels=10)))
    config = SimpleNamespace(seed=0, distill=(CrossKdConfig(**options),), views=SimpleNamespace(ratio_range=(1.0, 1.0)))
    (method,) = make_methods(config, student, teacher).values()
    assert [adapter.weight.requires_grad for adapter in method.adapters] == learns
    if any(learns):
        weigh(terms_of(method, student, seen, taught, views), method.weights).backward()
        for parameter in method.parameters():
            assert (parameter.grad is not None) == parameter.requires_grad


def test_where_the_hand_over_is():
    places = {
        kind: CrossKd(CrossKdConfig(), make(kind, 1, num_convs=4), make(kind, 2, num_convs=4), own).k for kind in KINDS
    }
    assert places == {"gfl": 3, "retinanet": 3, "atss": 3, "fcos": 2}
    short = CrossKd(CrossKdConfig(), make("gfl", 1, num_convs=1), make("gfl", 2, num_convs=4), own)
    assert short.want_student == short.want_teacher == Want(tower=1, dense=True)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        ("gfl", "atss", {}, "the student is a gfl of 3 classes and the teacher a atss"),
        ("gfl", "gfl", {"k": 3}, r"distill.crosskd.k must be 0 to 2"),
        ("gfl", "gfl", {"centerness_weight": 1.0}, "centerness-weight is for atss"),
    ],
)
def test_what_does_not_fit_is_named(student, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        CrossKd(CrossKdConfig(**options), make(student, 1), make(teacher, 2), own)


def test_other_bins_are_named():
    other = DenseDetector(replace(make("gfl", 1).config, num_bins=9), 4)
    with pytest.raises(ValueError, match="differ in num_bins 5 and 9"):
        CrossKd(CrossKdConfig(), make("gfl", 1), other, own)


@pytest.mark.parametrize("wrong", [{"class_weight": -1.0}, {"box_weight": float("nan")}, {"k": -1}])
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match="--distill.crosskd." + next(iter(wrong)).replace("_", "-")):
        CrossKdConfig(**wrong)
