"""LD against a plain form that takes one image, one box and one location at a time, with torchvision's overlaps."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, distance_box_iou

from model.api import own
from model.dense.config import AtssConfig, GflConfig
from model.detectors import new_detector
from tests.train.placed import call, cut, make_network, make_outputs, make_views, train_on
from train.distill.ld import Ld, LdConfig, two_or_more
from train.distill.method import annotations

GFL = GflConfig(num_bins=5)
SIZES = [(64, 96), (33, 70), (50, 41)]
BOXES = [
    [(3.0, 5.5, 40.2, 37.0), (50.3, 10.1, 91.0, 60.4), (10.7, 30.0, 22.5, 45.9)],
    [(8.1, 2.2, 60.6, 30.3)],
    [],
]
CANVAS = (64, 96)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return make_network(GFL)


@pytest.fixture
def scene(network):
    views = make_views(SIZES, BOXES, CANVAS)
    student, teacher = (make_outputs(network, 3, CANVAS, seed) for seed in (1, 2))
    return student, teacher, train_on(network, student, views), views


def make(network, **options):
    return Ld(LdConfig(**options), network, network, own)


def plain_region(network, image, region, gamma=0.25):
    """The paper's text, anchor by anchor."""
    height, width = SIZES[image]
    anchors_N4 = network.head.candidates(CANVAS)[0]
    weight_N = torch.zeros(len(anchors_N4))
    inside_N = ((anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2 < torch.tensor([width, height])).all(1)
    for box in BOXES[image]:
        box_14 = torch.tensor([box])
        iou_N = box_iou(box_14, anchors_N4)[0]
        chosen, start = [], 0
        for count in network.head.level_counts(CANVAS):
            mine = [n for n in range(start, start + count) if inside_N[n]]
            centre = torch.tensor([box[0] + box[2], box[1] + box[3]]) / 2
            far = {n: (anchors_N4[n].reshape(2, 2).mean(0) - centre).norm().item() for n in mine}
            chosen += sorted(mine, key=far.__getitem__)[:9]
            start += count
        threshold = iou_N[chosen].mean() + iou_N[chosen].std()
        score_N = distance_box_iou(box_14, anchors_N4)[0]
        if region == "released":  # the same centres and diagonal, another overlap
            low, high = torch.maximum(box_14[:, :2], anchors_N4[:, :2]), torch.minimum(box_14[:, 2:], anchors_N4[:, 2:])
            sides_N2 = anchors_N4[:, 2:] - anchors_N4[:, :2]
            score_N = score_N - iou_N + (high - low).clamp(min=0).prod(1) / sides_N2.prod(1)
        qualifies_N = inside_N & (score_N >= gamma * threshold) & (score_N < threshold)
        weight_N = torch.where(qualifies_N, torch.maximum(weight_N, iou_N), weight_N)
    return weight_N


@pytest.mark.parametrize("region", ["released", "paper"])
def test_the_plain_form(network, scene, region):
    student, teacher, trained, views = scene
    method = make(network, region=region)
    truth = annotations(views, views.corrupted)
    weight_BN = method.valuable_region(trained.candidates_BN4, network.head.level_counts(CANVAS), truth, CANVAS)
    expected_BN = torch.stack([plain_region(network, image, region) for image in range(3)])
    torch.testing.assert_close(weight_BN, expected_BN)
    assert (weight_BN[:2] > 0).sum() > 20
    assert weight_BN[2].max() == 0

    expected = dict.fromkeys(("ld_main", "ld_valuable", "ld_class"), 0.0)
    start = 0
    for logits, theirs, boxes, their_boxes in zip(
        student.logits, teacher.logits, student.boxes, teacher.boxes, strict=True
    ):
        classes, num_positives = 0.0, 0
        for image in range(3):
            for place in range(logits.shape[1]):
                sides = 0.0
                for side in range(4):
                    bins = slice(side * 5, side * 5 + 5)
                    one, other = boxes[image, place, bins] / 10, their_boxes[image, place, bins] / 10
                    sides += 100 * F.kl_div(one.log_softmax(0), other.softmax(0), reduction="none").mean().item() / 4
                positive = trained.state_BN[image, start + place] == 1
                if positive:
                    expected["ld_main"] += logits[image, place].max().sigmoid().item() * sides
                    one, other = logits[image, place] / 2, theirs[image, place] / 2
                    classes += 4 * F.kl_div(one.log_softmax(0), other.softmax(0), reduction="none").mean().item()
                    num_positives += 1
                expected["ld_valuable"] += expected_BN[image, start + place].item() * sides / 4
        expected["ld_class"] += classes / max(num_positives, 1)
        start += logits.shape[1]
    terms = call(make(network, region=region, faithful=False), *scene)
    for name, value in expected.items():
        # Three images count as one and a half times the two that the original has on a GPU.
        assert terms[name].item() == pytest.approx(value / (1 if name == "ld_class" else 1.5), rel=1e-4)
        assert value > 0.01


def test_gradients_reach_the_students_predictions_where_they_should(network, scene):
    student, _, trained, _ = scene
    region_BN = make(network).valuable_region(
        trained.candidates_BN4, network.head.level_counts(CANVAS), annotations(scene[3], scene[3].corrupted), CANVAS
    )
    positive_BN = trained.state_BN == 1
    terms = call(make(network), *scene)
    leaves = (*student.logits, *student.boxes)
    touched = {
        "ld_main": (torch.zeros_like(positive_BN), positive_BN),
        "ld_valuable": (torch.zeros_like(positive_BN), region_BN > 0),
        "ld_class": (positive_BN, torch.zeros_like(positive_BN)),
    }
    for name, (logits_BN, boxes_BN) in touched.items():
        gradients = torch.autograd.grad(terms[name], leaves, retain_graph=True, materialize_grads=True)
        for part, expected in ((gradients[:5], logits_BN), (gradients[5:], boxes_BN)):
            assert torch.equal(torch.cat(part, dim=1).abs().amax(-1) > 0, expected)
    sum(terms.values()).backward()
    assert all(level.grad is None for level in student.neck)


def test_the_batch_changes_nothing_by_default_and_the_sums_when_faithful(network, scene):
    """Alone and together; rows of size 0, which fill up a last batch; ranks that have one image each."""
    student, teacher, _, _ = scene
    together = call(make(network), *scene)
    sums = call(make(network, faithful=True), *scene)
    alone, alone_sums = [], []
    for image in range(3):
        part = [cut(out, [image]) for out in (student, teacher)]
        own_views = make_views([SIZES[image]], [BOXES[image]], CANVAS)
        assigned = train_on(network, part[0], own_views)
        alone.append(call(make(network), *part, assigned, own_views))
        alone_sums.append(call(make(network, faithful=True), *part, assigned, own_views))
    for name in ("ld_main", "ld_valuable"):
        torch.testing.assert_close(together[name], torch.stack([each[name] for each in alone]).mean())
    torch.testing.assert_close(sums["ld_main"], torch.stack([each["ld_main"] for each in alone_sums]).sum())

    filled = make_views([*SIZES, (0, 0)], [*BOXES, []], CANVAS)
    parts = [cut(out, [0, 1, 2, 1]) for out in (student, teacher)]
    got = call(make(network), *parts, train_on(network, parts[0], filled), filled)
    for name, value in together.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.parametrize("boxes", [[[], []], [[(5.0, 5.0, 5.0, 30.0)], []]])
@pytest.mark.parametrize("faithful", [False, True])
def test_without_boxes_the_terms_are_zero(network, boxes, faithful):
    """The original crashes there."""
    views = make_views(SIZES[:2], boxes, CANVAS)
    student, teacher = (make_outputs(network, 2, CANVAS, seed) for seed in (1, 2))
    terms = call(make(network, faithful=faithful), student, teacher, train_on(network, student, views), views)
    sum(terms.values()).backward()
    assert all(term.item() == 0 for term in terms.values())
    assert all(level.grad.abs().max() == 0 for level in (*student.logits, *student.boxes))


def test_ignored_boxes_have_no_region(network, scene):
    views = scene[3]
    ignored = replace(views, ignore_BG=torch.ones_like(views.ignore_BG))
    student = scene[0]
    terms = call(make(network), student, scene[1], train_on(network, student, ignored), ignored)
    assert terms["ld_valuable"].item() == 0


def test_a_region_goes_on_where_an_ignored_box_lies(network, scene):
    """The ignored box is added last in the first image and lies over all of the object."""
    alone = make_views(SIZES, [[BOXES[0][0]], [], []], CANVAS)
    both = make_views(SIZES, [[BOXES[0][0], (0.0, 0.0, 70.0, 64.0)], [], []], CANVAS)
    both = replace(both, ignore_BG=torch.arange(both.ignore_BG.shape[1]).expand_as(both.ignore_BG) == 1)
    regions = [
        make(network).valuable_region(
            scene[2].candidates_BN4, network.head.level_counts(CANVAS), annotations(views, views.corrupted), CANVAS
        )
        for views in (alone, both)
    ]
    assert regions[0].any()
    assert torch.equal(*regions)


@pytest.mark.parametrize(("num_classes", "weight"), [(80, 10.0), (7, 0.875)])
def test_the_class_weight_is_the_originals_at_80_classes(num_classes, weight):
    with torch.device("meta"):
        network = new_detector(GflConfig(weights="none"), num_classes + 1)
    assert Ld(LdConfig(), network, network, own).weights["ld_class"] == pytest.approx(weight)
    for as_given in (LdConfig(class_weight=10.0), LdConfig(faithful=True)):
        assert Ld(as_given, network, network, own).weights["ld_class"] == 10


def test_one_class_compares_sigmoids():
    """A softmax over one class is constant; beside 0 it is the sigmoid."""
    logits = torch.randn(2, 3, 1)
    torch.testing.assert_close(two_or_more(logits).softmax(-1)[..., :1], logits.sigmoid())
    assert two_or_more(torch.randn(2, 3, 2)).shape == (2, 3, 2)


@pytest.mark.parametrize("faithful", [False, True])
def test_of_one_class_the_original_learns_nothing(network, scene, faithful):
    student, teacher, trained, views = scene
    one = [out._replace(logits=tuple(level[..., :1] for level in out.logits)) for out in (student, teacher)]
    method = make(network, faithful=faithful)
    parts = method.terms_by_level(*one, trained, annotations(views, views.corrupted))
    assert (parts["ld_class"].sum() == 0) == faithful


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (AtssConfig(), GFL, "the student is a atss: give --model gfl"),
        (GFL, replace(GFL, num_bins=17), "differ in num_bins 5 and 17"),
        (GFL, replace(GFL, anchor_base=4.0), "differ in anchor_base 8.0 and 4.0"),
    ],
)
def test_other_heads_are_errors(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        Ld(LdConfig(), make_network(student), make_network(teacher), own)


@pytest.mark.parametrize("wrong", [{"main_weight": -1.0}, {"temperature": 0.0}, {"gamma": 1.0}])
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match="--distill.ld." + next(iter(wrong)).replace("_", "-")):
        LdConfig(**wrong)
