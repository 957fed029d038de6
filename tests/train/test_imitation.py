"""Feature imitation against plain forms that take one image, one level and one box at a time."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, nms

from model.api import Want, own
from model.boxes.annotated import annotated
from model.build import build_detector
from model.config import small_model
from model.dense.config import AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from tests.train.placed import (
    NUM_CLASSES,
    call,
    cut,
    make_network,
    make_outputs,
    make_views,
    train_on,
)
from train.distill import METHODS
from train.distill.defeat import DefeatConfig
from train.distill.fine_grained import FineGrainedConfig
from train.distill.imitation import Imitation, ImitationConfig
from train.distill.method import annotations
from train.distill.places import levels_of_boxes, pair_up
from train.load import make_methods

SIZES = [(64, 96), (33, 70), (50, 41)]
BOXES = [
    [(3.0, 5.5, 40.2, 37.0), (50.3, 10.1, 91.0, 60.4), (0.0, 30.0, 22.5, 45.9)],
    [(8.1, 2.2, 60.6, 30.3), (64.5, 3.0, 66.0, 30.0)],
    [],
]
CANVAS = (64, 96)
REGIONS = ("all", "inside", "main", "fine_grained", "decoupled", "general")
OPTIONS = [*(ImitationConfig(region=region) for region in REGIONS), FineGrainedConfig(), DefeatConfig()]
NAMES = [*REGIONS, "adapted", "defeat"]
every_method = pytest.mark.parametrize("options", OPTIONS, ids=NAMES)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return make_network(GflConfig(num_bins=5))


@pytest.fixture
def scene(network):
    views = make_views(SIZES, BOXES, CANVAS)
    student, teacher = (make_outputs(network, 3, CANVAS, seed, learns=seed == 1) for seed in (1, 2))
    return student, teacher, train_on(network, student, views), views


def make(network, options, mean=own, teacher=None):
    torch.manual_seed(1)
    return METHODS[type(options)](options, network, teacher or network, mean)


def places_of(method, scene):
    """The masks of an Imitation."""
    student, teacher, trained, views = scene
    pairs = pairs_of(method, scene)
    known = annotated(annotations(views, views.corrupted))
    return method.places(pairs, (student, teacher), trained, known, views.corrupted.sizes_B2)


def pairs_of(method, scene):
    return pair_up(method.strides, method.networks, scene[:2], method.adapters)


def plain_places(network, region, scene, image, level):
    """Place by place, as the docstring says it; (h, w) of the image's own cells."""
    stride = network.strides[level]
    height, width = (-(-side // stride) for side in SIZES[image])
    grid = torch.zeros(scene[0].neck[level].shape[-2:], dtype=torch.bool)
    boxes = BOXES[image]
    counts = network.head.level_counts(CANVAS)
    start = sum(counts[:level])
    anchors = network.head.candidates(CANVAS)[0].split(counts)
    best = {}
    if region == "fine_grained":
        for box in boxes:
            overlaps = []
            for other, each in enumerate(anchors):
                rows, columns = (-(-side // network.strides[other]) for side in SIZES[image])
                iou = box_iou(torch.tensor([box]), each)[0].reshape(scene[0].neck[other].shape[-2:])
                overlaps.append(iou[:rows, :columns].max().item())
            best[box] = max(overlaps)
    for row in range(height):
        for column in range(width):
            index = row * grid.shape[1] + column
            x, y = column * stride, row * stride
            if region in ("inside", "decoupled"):
                chosen = any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in boxes)
            elif region == "main":
                chosen = scene[2].state_BN[image, start + index] == 1
            elif region == "fine_grained":
                near = (box_iou(torch.tensor([box]), anchors[level][index : index + 1]).item() for box in boxes)
                chosen = any(iou > best[box] / 2 for iou, box in zip(near, boxes, strict=True))
            else:
                chosen = True
            grid[row, column] = bool(chosen)
    return grid


def plain_general(network, scene, image, level):
    """torchvision's thinning of the level's boxes, the surer network's each."""
    student, teacher = scene[:2]
    stride, count = network.strides[level], network.head.level_counts(CANVAS)
    height, width = (-(-side // stride) for side in SIZES[image])
    shape = student.neck[level].shape[-2:]
    anchors = network.head.candidates(CANVAS)[0].split(count)[level]
    boxes, scores, indices = [], [], []
    for row in range(height):
        for column in range(width):
            index = row * shape[1] + column
            ours, theirs = (out.logits[level][image, index].sigmoid() for out in (student, teacher))
            label = (ours - theirs).abs().argmax()
            source = teacher if theirs[label] >= ours[label] else student
            bins = source.boxes[level][image, index].reshape(4, 5).softmax(1) @ torch.arange(5.0) * stride
            x, y = anchors[index].reshape(2, 2).mean(0)
            boxes.append(torch.stack((x - bins[0], y - bins[1], x + bins[2], y + bins[3])))
            scores.append((ours - theirs).abs().max())
            indices.append(index)
    grid = torch.zeros(shape, dtype=torch.bool)
    for kept in nms(torch.stack(boxes), torch.stack(scores), 0.3)[:10].tolist():
        grid.view(-1)[indices[kept]] = True
    return grid


@pytest.mark.parametrize("region", REGIONS)
def test_the_plain_form(network, scene, region):
    options = ImitationConfig(region=region, weight=1.0)
    masks = places_of(make(network, options), scene)
    expected = 0.0
    for level, mask_BHW in enumerate(masks):
        plain = plain_general if region == "general" else plain_places
        arguments = (scene,) if region == "general" else (region, scene)
        grids = torch.stack([plain(network, *arguments, image, level) for image in range(3)])
        assert torch.equal(mask_BHW, grids)
        difference = (scene[0].neck[level] - scene[1].neck[level]).movedim(1, -1)
        if grids.any():
            expected += difference[grids].square().mean().item()
        others = torch.stack([plain_places(network, "all", scene, image, level) for image in range(3)]) & ~grids
        if region == "decoupled" and others.any():
            expected += 2 * difference[others].square().mean().item()
    assert call(make(network, options), *scene)["imitation"].item() == pytest.approx(expected, rel=1e-5)
    assert expected > 1


def test_several_anchors_a_place(scene):
    """RetinaNet has nine: one that is marked is enough."""
    network = make_network(RetinaNetConfig())
    student, teacher = (make_outputs(network, 3, CANVAS, seed) for seed in (1, 2))
    other = (student, teacher, train_on(network, student, scene[3]), scene[3])
    for region in ("main", "fine_grained"):
        masks = places_of(make(network, ImitationConfig(region=region)), other)
        assert [tuple(mask.shape) for mask in masks] == [tuple(level[:, 0].shape) for level in student.neck]
        assert 0 < sum(mask.sum() for mask in masks) < sum(mask.numel() for mask in masks)
    positive = other[2].state_BN.split(network.head.level_counts(CANVAS), 1)[0] == 1
    masks = places_of(make(network, ImitationConfig(region="main")), other)
    assert torch.equal(masks[0][0].flatten(), positive[0].unflatten(0, (-1, 9)).any(1))  # an image without padding
    # Whatever the two networks say, at most ten places of a level are chosen, one for each candidate that is left.
    masks = places_of(make(network, ImitationConfig(region="general")), other)
    assert all(0 < mask[image].sum() <= 10 for mask in masks for image in range(3))


@every_method
def test_gradients_reach_the_students_pyramid_alone(network, scene, options):
    method = make(network, options)
    sum(call(method, *scene).values()).backward()
    assert all(level.grad is None for part in (scene[0].logits, scene[0].boxes) for level in part)
    assert any(level.grad.abs().max() > 0 for level in scene[0].neck)
    assert all(level.grad.isfinite().all() for level in scene[0].neck)
    if isinstance(method, Imitation):
        if options.region != "decoupled":
            for mask_BHW, level in zip(places_of(method, scene), scene[0].neck, strict=True):
                assert torch.equal(level.grad.abs().amax(1) > 0, mask_BHW)
    else:
        assert all(value.grad is not None for value in method.parameters())
        assert len(list(method.parameters())) == 2 * 5
        assert any(value.grad.abs().max() > 0 for value in method.parameters())


def test_defeats_adapters_learn_only_with_a_weight_on_maps():
    """DDP waits for a gradient of everything that learns; scores do not pass the adapters."""
    detector = build_detector(small_model(weights="none", fpn_channels=8, representation_size=8), NUM_CLASSES)
    for inside, outside in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        options = DefeatConfig(inside_weight=inside, outside_weight=outside, class_inside_weight=1.0)
        config = SimpleNamespace(seed=0, distill=(options,), views=SimpleNamespace(ratio_range=(1.0, 1.0)))
        (method,) = make_methods(config, detector, detector).values()
        assert {value.requires_grad for value in method.parameters()} == {inside + outside > 0}


@pytest.mark.parametrize("boxes", [[[], []], [[(5.0, 5.0, 5.0, 30.0)], []]])
@every_method
def test_without_boxes_all_is_finite(network, options, boxes):
    views = make_views(SIZES[:2], boxes, CANVAS)
    student, teacher = (make_outputs(network, 2, CANVAS, seed, learns=seed == 1) for seed in (1, 2))
    terms = call(make(network, options), student, teacher, train_on(network, student, views), views)
    sum(terms.values()).backward()
    assert all(level.grad.isfinite().all() for level in student.neck)
    empty = getattr(options, "region", options.kind) in ("inside", "main", "fine_grained")
    assert all((term.item() == 0) == empty for name, term in terms.items() if name != "defeat_inside")
    if options.kind == "defeat":
        assert terms["defeat_inside"].item() == 0


def test_faithful_mixes_images_and_leaves_out_levels_without_positives(network, scene):
    """A second image that is the first again suppresses it; what is not positive anywhere on a level is left out."""
    student, teacher = (cut(out, [0, 0]) for out in scene[:2])
    views = make_views([SIZES[0]] * 2, [BOXES[0]] * 2, CANVAS)
    trained = train_on(network, student, views)
    twice = (student, teacher, trained, views)
    right = places_of(make(network, ImitationConfig(region="general")), twice)
    mixed = places_of(make(network, ImitationConfig(region="general", faithful=True)), twice)
    assert all(torch.equal(mask[0], mask[1]) for mask in right)
    assert all(mask.sum() <= 10 for mask in mixed)
    assert mixed[0].sum() < right[0].sum()
    method = make(network, ImitationConfig(region="all", faithful=True))
    masks = places_of(method, twice)
    assert all(mask.all() for mask in masks)
    losses_L = method.losses_by_level(pairs_of(method, twice), masks, trained, student, views.corrupted.sizes_B2)
    some_L = torch.tensor([(part == 1).any() for part in trained.state_BN.split(network.head.level_counts(CANVAS), 1)])
    assert torch.equal(losses_L > 0, some_L)
    assert 0 < some_L.sum() < 5


def test_the_level_of_a_box():
    """Hand-computed: sides of 14, 28 and 112 strides of 1 begin the levels 1, 2 and 8."""
    boxes = torch.tensor([[[0, 0, 111.0, 111.0], [0, 0, 112.0, 112.0], [0, 0, 2.0, 2.0], [0, 0, 2000, 2000]]])
    assert levels_of_boxes(boxes, (4, 8, 16, 32)).tolist() == [[0, 1, 0, 3]]
    assert levels_of_boxes(boxes, (16,)).tolist() == [[0, 0, 0, 0]]


def test_defeat_by_hand(network):
    """A box of 2 x 1 cells of the first level, and a thin one, which the original gives a single cell."""
    views = make_views([(32, 64)], [[(8.0, 8.0, 24.0, 16.0), (40.0, 1.0, 42.0, 30.0)]], (32, 64))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[1, 1:3] = True
    expected[0:3, 5] = True
    outs = [make_outputs(network, 1, (32, 64), seed) for seed in (1, 2)]
    for faithful in (False, True):
        method = make(network, DefeatConfig(faithful=faithful))
        pairs = pairs_of(method, outs)
        masks = method.places(pairs, annotated(annotations(views, views.corrupted)))
        if faithful:
            expected[1:3, 5] = False
        assert torch.equal(masks[0][0], expected)
        assert not any(mask.any() for mask in masks[1:])
        adapted = method.adapters[0](outs[0].neck[0])
        squares = (adapted - outs[1].neck[0]).square()[0]
        inside = squares[:, expected].sum() / (2 * 6 * expected.sum()) / 5
        terms = call(method, *outs, train_on(network, outs[0], views), views)
        torch.testing.assert_close(terms["defeat_inside"], inside)
        others = [squares[:, ~expected].sum() / (2 * 6 * (~expected).sum())]
        for level in range(1, 5):
            adapted = method.adapters[level](outs[0].neck[level])
            others.append(F.mse_loss(adapted, outs[1].neck[level]) / 2)
        torch.testing.assert_close(terms["defeat_outside"], torch.stack(others).mean())


def test_fine_grained_by_hand(network, scene):
    """One level: all boxes count on it, and the sum over channels is divided by twice the places."""
    method = make(network, FineGrainedConfig(strides=(16,)))
    plain = make(network, ImitationConfig(region="fine_grained", strides=(16,)))
    anchors = network.head.candidates(CANVAS).split(network.head.level_counts(CANVAS), 1)[1]
    expected = torch.zeros(3, 24, dtype=torch.bool)
    valid = torch.zeros(3, 4, 6, dtype=torch.bool)
    for image, (height, width) in enumerate(SIZES):
        valid[image, : -(-height // 16), : -(-width // 16)] = True
        for box in BOXES[image]:
            iou = torch.where(valid[image].flatten(), box_iou(torch.tensor([box]), anchors[0])[0], 0.0)
            expected[image] |= iou > iou.max() / 2
    assert len(plain.strides) == 1
    student = torch.where(valid[:, None], scene[0].neck[1], 0.0)
    squares = (method.adapters[0](student) - scene[1].neck[1]).square().sum(1)
    loss = squares.flatten(1)[expected].sum() / (2 * expected.sum())
    torch.testing.assert_close(call(method, *scene)["fine_grained"], loss)


def test_a_relu_follows_the_adapter_where_it_is_wanted(network):
    assert isinstance(make(network, FineGrainedConfig(relu=True)).adapters[0][1], torch.nn.ReLU)
    assert len(make(network, FineGrainedConfig()).adapters[0]) == 1


def test_other_widths_get_adapters(network, scene):
    wide = make_network(GflConfig(num_bins=5))
    wide.channels = 9
    teacher = make_outputs(network, 3, CANVAS, 2, learns=False, channels=9)
    for options in OPTIONS:
        method = make(network, options, teacher=wide)
        terms = call(method, scene[0], teacher, *scene[2:])
        assert all(term.item() > 0 for term in terms.values())
        assert len(method.adapters) == 5


def two_stage():
    return build_detector(small_model(weights="none", fpn_channels=8, representation_size=8), NUM_CLASSES)


@pytest.mark.parametrize(
    "options",
    [
        *(ImitationConfig(region=region) for region in ("all", "inside", "fine_grained", "decoupled")),
        FineGrainedConfig(),
        DefeatConfig(),
    ],
    ids=lambda options: getattr(options, "region", options.kind),
)
def test_a_two_stage_detector_imitates_too(options):
    torch.manual_seed(0)
    detector = two_stage()
    method = make(detector, options)
    views = make_views(SIZES, BOXES, CANVAS)
    images = torch.randn(3, 3, *CANVAS)
    student = detector.look(images, views.corrupted.sizes_B2, method.want_student | Want(dense=True))
    trained = detector.losses(student, annotations(views, views.corrupted))[1]
    teacher = student._replace(neck=tuple(level.detach() + 1 for level in student.neck))
    terms = call(method, student, teacher, trained, views)
    assert all(0 < term.item() < 1e3 for term in terms.values())


def test_defeats_class_scores_by_hand():
    """Of the teacher's regions in boxes and of the others; each a mean of its own, on one level in both networks."""
    torch.manual_seed(0)
    student, teacher = two_stage(), two_stage()
    method = make(student, DefeatConfig(class_inside_weight=2.0, class_outside_weight=2.0), teacher=teacher)
    views = make_views(SIZES, BOXES, CANVAS)
    images, sizes_B2 = torch.randn(3, 3, *CANVAS), views.corrupted.sizes_B2
    ours = student.look(images, sizes_B2, method.want_student)
    with torch.no_grad():
        theirs = teacher.look(images, sizes_B2, method.want_teacher)
    # Regions that are the boxes, moved a little: some of them are in boxes.
    boxes_BR4 = torch.cat((views.corrupted.boxes_BG4 + 1, theirs.rois.boxes_BR4[:, :9]), dim=1)
    real_BR = torch.cat((views.labels_BG > 0, theirs.rois.real_BR[:, :9]), dim=1)
    rois = teacher.place(boxes_BR4, real_BR)
    logits, deltas = teacher.box_head(theirs.neck, rois)
    theirs = theirs._replace(rois=rois._replace(logits_BRK=logits.detach(), deltas_BRK4=deltas.detach()))
    terms = call(method, ours, theirs, student.losses(ours, annotations(views, views.corrupted))[1], views)
    sums, counts = [0.0, 0.0], [0, 0]
    mine = student.box_head(ours.neck, rois)[0]
    for image, region in torch.nonzero(real_BR).tolist():
        truth = torch.tensor(BOXES[image]).reshape(-1, 4)
        iou = box_iou(boxes_BR4[image, region : region + 1], truth)
        outside = int(not (iou >= 0.5).any())
        one, other = mine[image, region].log_softmax(0), logits[image, region].log_softmax(0)
        sums[outside] += F.kl_div(one, other, reduction="sum", log_target=True).item()
        counts[outside] += 1
    assert min(counts) > 2
    for name, total, count in zip(("defeat_class_inside", "defeat_class_outside"), sums, counts, strict=True):
        assert terms[name].item() == pytest.approx(total / count, rel=1e-4)
    sum(terms.values()).backward()
    assert any(value.grad is not None and value.grad.abs().max() > 0 for value in student.roi_heads.parameters())
    assert all(value.grad is None for value in teacher.roi_heads.parameters())


def test_defeats_class_scores_need_box_heads(network):
    with pytest.raises(
        ValueError, match="weights on class scores compares box heads, and the student is a gfl: give --model"
    ):
        make(network, DefeatConfig(class_inside_weight=2.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImitationConfig(region="main"), "imitation: the region main needs a dense head"),
        (
            ImitationConfig(region="general"),
            "imitation's region general needs dense heads, and the student is a faster_rcnn",
        ),
        (ImitationConfig(faithful=True), "imitation: faithful, as the original, needs a dense head"),
    ],
)
def test_what_a_two_stage_detector_lacks_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(two_stage(), options)


@pytest.mark.parametrize("options", [ImitationConfig(region="fine_grained"), FineGrainedConfig()])
def test_points_are_no_anchors(options):
    with pytest.raises(ValueError, match="needs anchors, and FCOS has points"):
        make(make_network(FcosConfig()), options)


def test_general_instances_need_one_kind_of_head(network):
    with pytest.raises(ValueError, match="the student is a gfl of 3 classes and the teacher a atss of 3"):
        make(network, ImitationConfig(region="general"), teacher=make_network(AtssConfig()))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ImitationConfig, {"weight": -1.0}),
        (ImitationConfig, {"strides": (16, 8)}),
        (FineGrainedConfig, {"weight": float("inf")}),
        (DefeatConfig, {"inside_weight": -1.0}),
        (DefeatConfig, {"strides": (8, 8)}),
    ],
)
def test_senseless_options_are_errors(kind, wrong):
    with pytest.raises(ValueError, match=f"--distill.{kind.kind}.{next(iter(wrong))}".replace("_", "-")):
        kind(**wrong)
