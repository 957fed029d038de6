"""Assignment and sampling by hand, and against torchvision's Matcher and sampler."""

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from model.boxes.assign import ROI_STREAM, RPN_STREAM, assign, draw_order, draw_samples, real_boxes


def assign_one(candidates, boxes, owner=None, ignored=None, keep_best=False, ignore_overlap=0.5):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    owner = torch.ones(boxes.shape[:2], dtype=torch.bool) if owner is None else torch.tensor([owner])
    ignored = torch.zeros_like(owner) if ignored is None else torch.tensor([ignored])
    candidates = torch.tensor(candidates, dtype=torch.float32)[None]
    matched, state = assign(candidates, boxes, owner, ignored, 0.7, 0.3, keep_best, ignore_overlap)
    return matched[0].tolist(), state[0].tolist()


def test_thresholds_by_hand():
    """Overlaps with [0, 0, 10, 10] of 1, 0.7 (foreground from there up), 0.5, 0.3 (between from there up), 0.2, 0."""
    candidates = [[0, 0, 10, side] for side in (10, 7, 5, 3, 2)] + [[20, 20, 30, 30]]
    assert assign_one(candidates, [[0, 0, 10, 10]])[1] == [1, 1, -1, -1, 0, 0]


def test_equals_torchvisions_matcher_with_ties():
    generator = torch.Generator().manual_seed(0)
    for keep_best in (False, True):
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=keep_best)
        for _ in range(30):
            corner = torch.randint(0, 30, (60, 2), generator=generator)
            boxes = torch.cat((corner, corner + torch.randint(1, 20, (60, 2), generator=generator)), dim=1).float()
            owners, candidates = boxes[:7], boxes[7:]
            expected = matcher(box_iou(owners, candidates))
            owner = torch.ones(1, 7, dtype=torch.bool)
            matched, state = assign(candidates[None], owners[None], owner, ~owner, 0.7, 0.3, keep_best, 0.5)
            assert torch.equal(state[0] == 1, expected >= 0)
            assert torch.equal(state[0] == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
            assert torch.equal(matched[0][expected >= 0], expected[expected >= 0])


def test_best_candidates_of_a_small_box_are_foreground_ties_included():
    candidates = [[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]]
    box = [[5, 4, 6, 5]]  # under any threshold, equally inside the first two
    assert assign_one(candidates, box)[1] == [0, 0, 0]
    assert assign_one(candidates, box, keep_best=True)[1] == [1, 1, 0]


def test_padding_owns_nothing_even_where_everything_is_zero():
    candidates = [[0, 0, 10, 10], [0, 0, 0, 0]]
    matched, state = assign_one(candidates, [[0, 0, 0, 0], [1, 1, 1, 1]], owner=[False, False], keep_best=True)
    assert state == [0, 0]
    assert matched == [0, 0]


def test_ignored_regions_are_neither_rewarded_nor_punished():
    candidates = [
        [0, 0, 3, 4],  # all of it on the ignored box: not sampled
        [0, 0, 10, 20],  # a quarter, and its overlap is no more: background
        [40, 0, 50, 10],  # on a real box that lies inside an ignored one: foreground all the same
        [80, 0, 90, 10],  # away from all
    ]
    boxes = [[0, 0, 10, 5], [40, 0, 50, 10], [30, 0, 60, 30]]
    matched, state = assign_one(candidates, boxes, owner=[False, True, False], ignored=[True, False, True])
    assert state == [-1, 0, 1, 0]
    assert matched[2] == 1


def test_what_an_ignored_object_would_own_is_neither_rewarded_nor_punished():
    candidates = [
        [0, 0, 20, 20],  # a small ignored box covers 9 % of it, and no candidate overlaps that box more
        [2, 2, 20, 20],  # less of it than the one above
        [100, 0, 120, 20],  # 45 % of it lies on an ignored box, which is smaller: an overlap of 0.45
        [101, 0, 121, 25],  # more than background, and not the best of that box
        [43, 0, 60, 20],  # an object at the same place as an ignored one
        [80, 0, 90, 10],
    ]
    boxes = [[0, 0, 6, 6], [102, 0, 112, 18], [43, 0, 60, 20], [42, 0, 60, 20]]
    owner, ignored = [False, False, True, False], [True, True, False, True]
    assert assign_one(candidates, boxes, owner, ignored, keep_best=True)[1] == [-1, 0, -1, -1, 1, 0]
    assert assign_one(candidates, boxes, owner, ignored)[1] == [0, 0, -1, -1, 1, 0]


def test_real_boxes_have_a_label_and_an_area():
    boxes = torch.tensor([[[0, 0, 5, 5], [0, 0, 5, 5], [3, 3, 3, 9], [9, 9, 1, 1], [0, 0, 0.1, 0.1]]])
    assert real_boxes(boxes, torch.tensor([[1, 0, 1, 1, 2]])).tolist() == [[True, False, False, False, True]]


def sampled(states, num_samples, fraction, keys=(5,)):
    index, kind = draw_samples(torch.tensor(states, dtype=torch.int8), num_samples, fraction, torch.tensor(keys), 1)
    return index, kind


def test_sampling_counts():
    """torchvision: min(foreground, int(S * fraction)) and background up to S; the rest of the slots stay empty."""
    for num_foreground, num_background, expected in (
        (20, 80, (4, 12)),
        (2, 80, (2, 14)),
        (0, 5, (0, 5)),
        (30, 0, (4, 0)),
    ):
        states = [[1] * num_foreground + [0] * num_background + [-1] * 30]
        index, kind = sampled(states, 16, 0.25)
        assert index.shape == (1, 16)
        assert ((kind == 1).sum(), (kind == 0).sum()) == expected
        filled = index[kind >= 0]
        assert len(filled.unique()) == len(filled)
        assert torch.equal(torch.tensor(states)[0][filled], kind[kind >= 0])
        assert not (kind[:, 4:] == 1).any()


def test_fewer_candidates_than_slots():
    index, kind = sampled([[1, 0, -1]], 16, 0.25)
    assert index.shape == (1, 3)
    assert kind.tolist() == [[1, 0, -1]]


def test_sampling_depends_on_the_key_alone():
    """Not on the row, not on the neighbours in the batch."""
    states = [[0] * 50 + [1] * 9] * 2
    index, _ = sampled(states, 8, 0.5, keys=(3, 4))
    swapped, _ = sampled(states, 8, 0.5, keys=(4, 3))
    assert torch.equal(index, swapped.flip(0))
    assert not torch.equal(index[0], index[1])


def test_order_is_a_permutation_and_even():
    """No ties; over many keys every candidate is equally often first; the two stages draw different numbers."""
    keys = torch.arange(4000) * 2**33 + 17
    order = draw_order(keys, 20, RPN_STREAM)
    assert order.min() >= 0
    assert order.max() < 2**32
    assert all(len(row.unique()) == 20 for row in order[:50])
    first = torch.bincount(order.argmax(1), minlength=20).double()
    assert ((first - 200) ** 2 / 200).sum() < 50  # chi-square with 19 degrees: 50 is beyond 0.9998
    assert (draw_order(keys, 20, ROI_STREAM).argmax(1) == order.argmax(1)).double().mean() < 0.1
    wide = draw_order(torch.tensor([-(2**63), 2**63 - 1]), 200_000, RPN_STREAM)
    assert all(len(row.unique()) == 200_000 for row in wide)
