"""The weight of a box: 0 is ignored, any other multiplies the box's part of every term, and of nothing else."""

import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from model.api import Truth, Want
from model.config import ModelConfig
from model.dense.config import AtssConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.dense.detector import DenseDetector
from model.faster_rcnn.detector import FasterRcnn

CANVAS = (96, 160)
# What each draws at random is its own weights; a pair of boxes that share no candidate, and one image without any.
BOXES = [[[8.0, 8.0, 60.0, 70.0, 2], [90.0, 20.0, 150.0, 90.0, 1]], [[3.0, 5.0, 40.0, 44.0, 3]], []]
SIZES = [[96, 160], [64, 100], [33, 47]]


def make_truth(weights: dict[tuple[int, int], float], ignored: tuple[tuple[int, int], ...] = ()) -> Truth:
    boxes_BG4, labels_BG = torch.zeros(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64)
    weight_BG, ignore_BG = torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    for image, rows in enumerate(BOXES):
        for slot, (*box, label) in enumerate(rows):
            boxes_BG4[image, slot], labels_BG[image, slot] = torch.tensor(box), int(label)
    for place, weight in weights.items():
        weight_BG[place] = weight
    for place in ignored:
        ignore_BG[place] = True
    sizes_B2 = torch.tensor(SIZES, dtype=torch.int32)
    return Truth(sizes_B2, boxes_BG4, labels_BG, ignore_BG, weight_BG, torch.arange(3))


def make_detector(kind):
    torch.manual_seed(4)
    if kind is ModelConfig:
        narrow = ModelConfig(
            backbone="resnet18", weights="none", norm="frozen", fpn_channels=16, representation_size=24,
            rpn_pre_nms_train=80, rpn_post_nms_train=60, rpn_samples_per_image=32, regions_per_image=16,
        )  # fmt: skip
        return FasterRcnn(narrow, 4)
    groups = 0 if kind is RetinaNetConfig else 4
    options = {"weights": "none", "fpn_channels": 8, "head_channels": 8, "norm_groups": groups, "num_convs": 1}
    return DenseDetector(kind(backbone="resnet18", **options), 4)


@pytest.fixture(scope="module", params=(ModelConfig, RetinaNetConfig, FcosConfig, AtssConfig, GflConfig))
def seen(request):
    """A detector and what it saw once."""
    detector = make_detector(request.param)
    images = torch.randn(3, 3, *CANVAS, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return detector, detector.look(images, torch.tensor(SIZES), Want(dense=True))


def losses(seen, *truth) -> dict[str, float]:
    detector, out = seen
    with torch.no_grad():
        return {name: float(value) for name, value in detector.losses(out, make_truth(*truth))[0].items()}


def test_weight_zero_is_ignored(seen):
    assert losses(seen, {(0, 1): 0.0, (1, 0): 0.0}) == losses(seen, {}, ((0, 1), (1, 0)))


def test_an_unlabelled_image_is_as_if_it_were_not_there(seen, monkeypatch):
    """A box for every class over all of it is ignored. Anchors beyond the border lie less than half on such a box."""
    detector, out = seen
    truth = make_truth({})
    truth.boxes_BG4[1], truth.labels_BG[1], truth.ignore_BG[1] = (
        torch.tensor([0.0, 0.0, 100.0, 63.999]), torch.tensor([1, 2]), True,
    )  # fmt: skip
    without = truth._replace(sizes_B2=truth.sizes_B2 * torch.tensor([[1], [0], [1]], dtype=torch.int32))
    for overlap in (0.5, 1.0):  # 1: ignored boxes do not count, but this image still does not
        part = detector if detector.config.kind == "faster_rcnn" else detector.head
        monkeypatch.setattr(part, "config", replace(part.config, ignore_overlap=overlap))
        with torch.no_grad():
            (ours, assigned), (theirs, _) = detector.losses(out, truth), detector.losses(out, without)
        for name, value in ours.items():
            assert float(value) == float(theirs[name]), name
        assert (assigned.state_BN[1] == -1).all()


def test_every_term_grows_in_proportion_to_the_weight(seen):
    """Two weights give the line that the others lie on: what divides a sum must not depend on them."""
    full, half, quarter = (losses(seen, {(0, 0): weight, (1, 0): weight}) for weight in (1.0, 0.5, 0.25))
    for name in full:
        expected = quarter[name] + (full[name] - quarter[name]) / 3
        assert half[name] == pytest.approx(expected, rel=1e-5, abs=1e-7), name
    changed = [name for name in full if abs(full[name] - quarter[name]) > 1e-4]
    assert len(changed) >= len(full) - 1


def test_the_class_term_by_hand(seen):
    """Logits of zero: a candidate's loss is a number that is known, so only how often each counts is left."""
    detector, out = seen
    truth = make_truth({(0, 0): 0.5, (0, 1): 0.25})
    out = out._replace(logits=tuple(map(torch.zeros_like, out.logits)), boxes=tuple(map(torch.zeros_like, out.boxes)))
    with torch.no_grad():
        terms, assigned = detector.losses(out, truth)
    if detector.config.kind == "faster_rcnn":
        # 32 candidates are drawn in every image: all of them cost ln 2, and those of the two boxes less.
        known = truth._replace(weight_BG=torch.ones(3, 2))
        with torch.no_grad():
            assert float(detector.losses(out, known)[0]["rpn_class"]) == pytest.approx(math.log(2), rel=1e-6)
        assert 0.5 * math.log(2) < float(terms["rpn_class"]) < math.log(2)
        return
    positive_BN = assigned.state_BN == 1
    weight_BN = truth.weight_BG.gather(1, assigned.matched_BN)
    num_background = int((assigned.state_BN == 0).sum())
    # Focal loss at p = 1/2: alpha (1/2)^2 ln 2 with alpha 1/4 for the class that is there and 3/4 for the two others.
    right, wrong = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    if detector.config.kind == "gfl":  # (1/2 - q)^2 ln 2, with the quality q of the box and 0 for the others
        quality_BN = quality_of_equal_bins(detector, truth, assigned)
        right, wrong = (quality_BN - 0.5).square() * math.log(2), 0.25 * math.log(2)
    divisor = sum(max(int(row.sum()), 1) for row in positive_BN)
    if detector.config.kind == "fcos":
        divisor = int(positive_BN.sum())
    expected = float((weight_BN * (right + 2 * wrong))[positive_BN].sum()) + num_background * 3 * wrong
    assert float(terms["class"]) == pytest.approx(expected / divisor, rel=1e-5)


def quality_of_equal_bins(detector, truth: Truth, assigned) -> torch.Tensor:
    """Bins 0 to 16, all equally likely, put every side 8 strides from the candidate's centre."""
    rows = [(truth.boxes_BG4[image][assigned.matched_BN[image]]) for image in range(3)]
    reach_N1 = 8 * detector.head.candidate_strides(CANVAS, torch.device("cpu"))
    (candidates_N4,) = assigned.candidates_BN4
    centers_N2 = (candidates_N4[:, :2] + candidates_N4[:, 2:]) / 2
    found_N4 = torch.cat((centers_N2 - reach_N1, centers_N2 + reach_N1), dim=1)
    return torch.stack([box_iou(found_N4, boxes_N4).diagonal() for boxes_N4 in rows])
