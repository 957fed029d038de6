"""GID against a plain form that takes one image, one region and one pair at a time, with torchvision's operators."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, clip_boxes_to_image, nms, roi_align

from model.api import own
from model.build import build_detector
from model.config import small_model
from model.dense.config import RetinaNetConfig
from tests.train.placed import (
    NUM_CLASSES,
    call,
    make_network,
    make_outputs,
    make_views,
    train_on,
)
from train.distill.gid import Gid, GidConfig, relative_distances

SIZES = [(64, 96), (33, 70), (50, 41)]
CANVAS = (64, 96)
TERMS = ("gid_feature", "gid_relation", "gid_class", "gid_box")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return make_network(RetinaNetConfig(anchors_per_octave=1))


def make_scene(network):
    views = make_views(SIZES, [[(3.0, 5.5, 40.2, 37.0)], [], []], CANVAS)
    student, teacher = (make_outputs(network, 3, CANVAS, seed, learns=seed == 1) for seed in (1, 2))
    return student, teacher, train_on(network, student, views), views


@pytest.fixture
def scene(network):
    return make_scene(network)


def make(network, mean=own, teacher=None, **options):
    torch.manual_seed(1)
    return Gid(GidConfig(**options), network, teacher or network, mean)


def plain_image(network, scene, image):
    """(regions, crops of both, sum of class and box responses, matched candidates) of an image."""
    student, teacher = scene[:2]
    height, width = SIZES[image]
    counts = network.head.level_counts(CANVAS)
    anchors_N4 = network.head.candidates(CANVAS)[0]
    inside = []
    for stride, count in zip(network.strides, counts, strict=True):
        grid = torch.zeros(
            -(-CANVAS[0] // stride),
            -(-CANVAS[1] // stride),
            count // (-(-CANVAS[0] // stride) * -(-CANVAS[1] // stride)),
        )
        grid[: -(-height // stride), : -(-width // stride)] = 1
        inside.append(grid.flatten() > 0)
    inside_N = torch.cat(inside)
    boxes, scores = [], []
    for out in (student, teacher):
        deltas_N4 = torch.cat(out.boxes, 1)[image]
        center_N2, side_N2 = (anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2, anchors_N4[:, 2:] - anchors_N4[:, :2]
        center_N2, half_N2 = center_N2 + deltas_N4[:, :2] * side_N2, side_N2 * deltas_N4[:, 2:].exp() / 2
        boxes.append(torch.cat((center_N2 - half_N2, center_N2 + half_N2), 1))
        scores.append(torch.cat(out.logits, 1)[image].sigmoid().max(1).values)
    boxes_N4 = clip_boxes_to_image(torch.where((scores[1] > scores[0])[:, None], boxes[1], boxes[0]), SIZES[image])
    large_N = ((boxes_N4[:, 2:] - boxes_N4[:, :2]) >= 10).all(1) & inside_N
    index = torch.nonzero(large_N)[:, 0]
    kept = index[nms(boxes_N4[index], (scores[0] - scores[1]).abs()[index], 0.3)[:10]]
    regions_R4 = boxes_N4[kept].detach()
    crops = []
    for out in (student, teacher):
        rows = []
        for region in regions_R4:
            side = ((region[2] - region[0]) * (region[3] - region[1])).sqrt()
            level = int((4 + torch.log2(side / 224 + 1e-8)).floor().clamp(3, 7)) - 3
            stride = network.strides[level]
            own_map = out.neck[level][image : image + 1, :, : -(-height // stride), : -(-width // stride)]
            rows.append(roi_align(own_map, [region[None]], 10, 1 / stride, 2, aligned=True).flatten())
        crops.append(torch.stack(rows))
    iou_RN = torch.where(inside_N, box_iou(regions_R4, anchors_N4), -1.0)
    matched_N = (iou_RN.max(0).values >= 0.5) | (iou_RN == iou_RN.max(1, keepdim=True).values).any(0)
    logits, deltas = (
        [torch.cat(part, 1)[image][matched_N] for part in (a, b)]
        for a, b in ((student.logits, teacher.logits), (student.boxes, teacher.boxes))
    )
    classes = F.binary_cross_entropy_with_logits(logits[0], logits[1].sigmoid(), reduction="sum")
    return regions_R4, crops, classes, F.smooth_l1_loss(*deltas, beta=0.1, reduction="sum"), matched_N.sum()


def test_the_plain_form(network, scene):
    each = [plain_image(network, scene, image) for image in range(3)]
    num_regions, num_matched = sum(len(one[0]) for one in each), sum(one[4] for one in each)
    assert num_regions > 10
    assert num_matched > 30
    relations = []
    for _, crops, *_ in each:
        distances = []
        for rows in crops:
            pairs = [(a - b).norm() for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
            distances.append(torch.stack(pairs) / torch.stack(pairs).mean())
        relations.append(F.smooth_l1_loss(*distances))
    expected = {
        "gid_feature": sum((one[1][0] - one[1][1]).square().sum() for one in each) / (100 * num_regions),
        "gid_relation": torch.stack(relations).mean(),
        "gid_class": sum(one[2] for one in each) / num_matched,
        "gid_box": sum(one[3] for one in each) / num_matched,
    }
    got = call(make(network), *scene)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)
        assert value > 0


def test_gradients_reach_what_a_term_compares(network, scene):
    terms = call(make(network), *scene)
    parts = {"neck": scene[0].neck, "logits": scene[0].logits, "boxes": scene[0].boxes}
    touched = {"gid_feature": "neck", "gid_relation": "neck", "gid_class": "logits", "gid_box": "boxes"}
    for name, term in terms.items():
        for part, leaves in parts.items():
            gradients = torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
            assert any(each.abs().max() > 0 for each in gradients) == (touched[name] == part)
            assert all(each.isfinite().all() for each in gradients)


def test_images_without_room_for_a_region_give_zero(network):
    """Nothing of an image 8 pixels wide is 10 pixels wide."""
    views = make_views([(40, 8), (0, 0)], [[], []], CANVAS)
    student, teacher = (make_outputs(network, 2, CANVAS, seed, learns=seed == 1) for seed in (1, 2))
    for faithful in (False, True):
        terms = call(make(network, faithful=faithful), student, teacher, train_on(network, student, views), views)
        sum(terms.values()).backward()
        assert all(term.item() == 0 for term in terms.values())
    assert all(level.grad.abs().max() == 0 for part in (student.neck, student.logits) for level in part)


def test_faithful_pairs_regions_across_images(network, scene):
    right, port = (call(make(network, faithful=faithful), *scene) for faithful in (False, True))
    assert abs(right["gid_relation"].item() / port["gid_relation"].item() - 1) > 1e-3


def test_relative_distances_by_hand():
    """Points 0, 3 and 5 on a line: distances 3, 5 and 2, in both directions, whose mean is 10 / 3; equal points: 0."""
    points = torch.tensor([[[0.0], [3.0], [5.0]], [[1.0], [1.0], [1.0]]]).requires_grad_()
    pairs = ~torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
    got = relative_distances(points, pairs)
    expected = torch.tensor([[0, 3.0, 5.0], [3.0, 0, 2.0], [5.0, 2.0, 0]]) * 3 / 10
    torch.testing.assert_close(got.detach(), torch.stack((expected, torch.zeros(3, 3))))
    got.sum().backward()
    assert points.grad.isfinite().all()


def test_other_widths_get_adapters(network, scene):
    wide = make_network(network.config)
    wide.channels = 9
    method = make(network, teacher=wide)
    teacher = make_outputs(network, 3, CANVAS, 2, learns=False, channels=9)
    sum(call(method, scene[0], teacher, *scene[2:]).values()).backward()
    assert len(method.adapters) == 5
    assert any(value.grad.abs().max() > 0 for value in method.parameters())


def test_without_weights_on_features_there_is_nothing_to_adapt(network, scene):
    method = make(network, feature_weight=0.0, relation_weight=0.0)
    whole = call(make(network), *scene)
    terms = call(method, *scene)
    assert terms == {name: whole[name] for name in method.weights}
    assert set(terms) == {"gid_class", "gid_box"}
    assert method.adapters is None


def test_other_heads_are_errors(network):
    detector = build_detector(small_model(weights="none", fpn_channels=8, representation_size=8), NUM_CLASSES)
    with pytest.raises(ValueError, match="gid needs dense heads, and the student is a faster_rcnn"):
        make(detector)
    with pytest.raises(ValueError, match=r"gid: (student and teacher differ in anchors_per_octave|the student is a)"):
        make(network, teacher=make_network(RetinaNetConfig()))


def test_heads_with_other_anchors_are_errors(network):
    """Of the other style RetinaNet's anchors lie elsewhere, so equal deltas are other boxes."""
    with pytest.raises(ValueError, match="gid: student and teacher differ in style mmdetection and torchvision"):
        make(network, teacher=make_network(RetinaNetConfig(anchors_per_octave=1, style="torchvision")))


def test_senseless_options_are_errors():
    with pytest.raises(ValueError, match=r"--distill.gid.box-weight must be 0 or more"):
        GidConfig(box_weight=-1.0)
