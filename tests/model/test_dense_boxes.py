"""Codes, anchors and assigners of dense heads against plain loops and hand-computed values."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from model.boxes.assigners import assign_atss, assign_max_iou, assign_points
from model.boxes.codes import (
    bound_distances,
    centerness,
    decode_deltas,
    decode_distances,
    encode_distances,
    expected_distances,
)
from model.boxes.losses import (
    distribution_focal_loss,
    focal_loss,
    giou_loss,
    log_iou_loss,
    one_hot,
    quality_focal_loss,
    softened_divergence,
)
from model.boxes.points import inside_own_size, make_cells, make_dense_anchors, make_points, map_sizes


def boxes(generator: torch.Generator, count: int, extent: float = 150) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=generator) * extent
    return torch.cat((corners.amin(1), corners.amax(1) + 0.3), dim=1)


def test_anchors_are_centred_on_the_corner_of_their_cell_and_not_rounded():
    cells = make_cells((8, 16), 4.0, 3, (0.5, 1.0, 2.0))
    width, height = 32 * math.sqrt(2), 32 / math.sqrt(2)
    torch.testing.assert_close(cells[0][0], torch.tensor([-width / 2, -height / 2, width / 2, height / 2]))
    side = 64 * 2 ** (2 / 3)
    torch.testing.assert_close(cells[1][5], torch.tensor([-side / 2, -side / 2, side / 2, side / 2]))
    anchors = make_dense_anchors(cells, (20, 40), (8, 16))
    assert map_sizes((20, 40), (8, 16)) == ((3, 5), (2, 3))
    assert anchors.shape == ((15 + 6) * 9, 4)
    torch.testing.assert_close(anchors[(5 + 2) * 9 + 4].reshape(2, 2).mean(0), torch.tensor([16.0, 8.0]))
    assert make_points((20, 40), (8, 16), 0.5, torch.device("cpu"))[1].tolist()[4] == [24.0, 24.0]


def test_inside_own_size_counts_cells_of_the_size_rounded_up():
    inside = inside_own_size(torch.tensor([[33, 20], [0, 0]]), (96, 96), (32, 64), 2)
    first_N = inside[0].reshape(-1, 2)[:, 0]  # 3 x 3 cells of stride 32, then 2 x 2 of stride 64; two candidates each
    assert first_N.nonzero()[:, 0].tolist() == [0, 3, 9]
    assert not inside[1].any()


def test_deltas_are_bounded_on_both_ends():
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = decode_deltas(torch.tensor([[0.0, 0.0, -99.0, 99.0]]), reference, (1.0, 1.0, 1.0, 1.0))[0]
    torch.testing.assert_close(box[2] - box[0], torch.tensor(10 * 16 / 1000), rtol=1e-4, atol=0)
    torch.testing.assert_close(box[3] - box[1], torch.tensor(20 * 1000 / 16), rtol=1e-5, atol=0)


def test_distances_there_and_back():
    point, box = torch.tensor([5.0, 7.0]), torch.tensor([1.0, 2.0, 10.0, 30.0])
    distances = encode_distances(box, point)
    assert distances.tolist() == [4, 5, 5, 23]
    assert torch.equal(decode_distances(distances, point), box)
    torch.testing.assert_close(bound_distances(distances - 5, 16), torch.tensor([0.0, 0, 0, 15.9]))
    torch.testing.assert_close(centerness(distances), torch.tensor(math.sqrt(4 / 5 * 5 / 23)))
    logits = torch.full((4, 3), -50.0)
    logits[torch.arange(4), torch.tensor([0, 1, 2, 2])] = 50
    torch.testing.assert_close(expected_distances(logits.flatten(), 3), torch.tensor([0.0, 1, 2, 2]))


def test_losses_against_torchvision_and_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 3, 0, 3, 1])
    is_class = one_hot(labels, 4)
    assert is_class.sum(1).tolist() == [0, 1, 1, 1, 0, 1, 1]
    torch.testing.assert_close(focal_loss(logits, is_class), sigmoid_focal_loss(logits, is_class.float()))
    a, b = boxes(generator, 6), boxes(generator, 6)
    torch.testing.assert_close(giou_loss(a, b), generalized_box_iou_loss(a, b))
    torch.testing.assert_close(log_iou_loss(a, b), -box_iou(a, b).diag().clamp(min=1e-6).log())
    p = torch.sigmoid(torch.tensor(0.4))
    wanted = (0.7 - p) ** 2 * -(0.7 * p.log() + 0.3 * (1 - p).log())
    torch.testing.assert_close(quality_focal_loss(torch.tensor(0.4), torch.tensor(0.7)), wanted)
    log = torch.tensor([0.1, 0.2, 0.3]).log_softmax(0)
    got = distribution_focal_loss(torch.tensor([0.1, 0.2, 0.3]), torch.tensor(1.25))
    torch.testing.assert_close(got, -(0.75 * log[1] + 0.25 * log[2]))
    same = softened_divergence(logits, logits, 3.0)
    torch.testing.assert_close(same, torch.zeros_like(same))


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_max_iou_against_a_loop(seed, faithful):
    generator = torch.Generator().manual_seed(seed)
    candidates, truth = boxes(generator, 60), boxes(generator, 5)
    owner, ignored = torch.tensor([True, True, True, False, False]), torch.tensor([False, False, False, True, True])
    truth[4] = torch.tensor([41.3, 42.1, 43.0, 44.2])  # no candidate lies on it
    truth[3], candidates[0] = torch.tensor([10.0, 10, 20, 28]), torch.tensor([8.0, 9, 28, 29])  # IoU and share 0.45
    candidates[1] = torch.tensor([9.0, 9, 22, 28])  # more
    valid = torch.rand(60, generator=generator) > 0.2
    matched, state = assign_max_iou(
        candidates[None], valid[None], truth[None], owner[None], ignored[None], 0.5, 0.4, 0.5, faithful
    )
    iou = box_iou(truth, candidates)
    size = (candidates[:, 2:] - candidates[:, :2]).prod(1)
    overlap = (torch.min(candidates[:, 2:], truth[3, 2:]) - torch.max(candidates[:, :2], truth[3, :2])).clamp(min=0)
    on_ignored = overlap.prod(1) / size > 0.5
    iou[:, ~valid | on_ignored if faithful else ~valid] = -1
    best = iou.amax(1)
    assert 0.4 < box_iou(truth[3:4], candidates[:1]) < box_iou(truth[3:4], candidates[1:2])
    for index in range(60):
        mine = iou[:3, index]
        expected = 1 if mine.max() >= 0.5 else 0 if mine.max() < 0.4 else -1
        wanted = [float(iou[box, index]) >= 0.4 or iou[box, index] == best[box] > 0 for box in (3, 4)]
        if expected == 0 and not faithful and any(wanted):
            expected = -1
        owner_index = int(mine.argmax())
        if expected == 0 and on_ignored[index]:
            expected = -1
        for number in range(3):
            if mine[number] == best[number] > 0:
                expected, owner_index = 1, number
        if not valid[index] or (faithful and on_ignored[index]):
            expected = -1
        assert int(state[0, index]) == expected
        if expected == 1:
            assert int(matched[0, index]) == owner_index


@pytest.mark.parametrize("seed", range(3))
def test_atss_against_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    cells = make_cells((8, 16), 4.0, 1, (1.0,))
    anchors = make_dense_anchors(cells, (64, 80), (8, 16))
    counts = (80, 20)
    truth = boxes(generator, 5, 60)
    yes, no = torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.bool)
    valid = torch.ones(1, 100, dtype=torch.bool)
    matched, state = assign_atss(anchors[None], counts, valid, truth[None], yes, no, 9, 0.5, False)
    iou = box_iou(truth, anchors)
    wanted = torch.full((5, 100), -1.0)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    for number, box in enumerate(truth):
        distance = (centers - (box[:2] + box[2:]) / 2).norm(dim=1)
        near = torch.cat((distance[:80].argsort()[:9], distance[80:].argsort()[:9] + 80))
        threshold = iou[number, near].mean() + iou[number, near].std()
        for index in near[iou[number, near] >= threshold]:
            if encode_distances(box, centers[index]).min() > 0.01:
                wanted[number, index] = iou[number, index]
    assert torch.equal(state[0] == 1, wanted.amax(0) >= 0)
    assert torch.equal(matched[0][state[0] == 1], wanted.argmax(0)[state[0] == 1])


def test_what_an_ignored_object_would_own_is_neither_rewarded_nor_punished():
    """As if it were an object: the same candidates, which then do not count. An object under it keeps its own."""
    strides, counts = (8, 16, 32), (96, 24, 6)
    anchors = make_dense_anchors(make_cells(strides, 8.0, 1, (1.0,)), (64, 96), strides)[None]
    everywhere = torch.ones(1, sum(counts), dtype=torch.bool)
    names = {"one": [8.0, 8, 20, 22], "other": [50, 30, 62, 41], "on one": [7, 7, 21, 23], "region": [0, 0, 70, 50]}
    truth = torch.tensor([list(names.values())])

    def states(owners, ignored=(), faithful=False):
        owner, other = (torch.tensor([[name in chosen for name in names]]) for chosen in (owners, ignored))
        return assign_atss(anchors, counts, everywhere, truth, owner, other, 9, 0.5, faithful)[1][0]

    one, other, both = (states(owners) == 1 for owners in (["one"], ["other"], ["one", "other"]))
    assert one.any()
    assert other.any()
    mixed = states(["one"], ["other", "on one"])
    assert torch.equal(mixed == 1, one)
    assert (mixed[other] == -1).all()
    # An anchor is 64 pixels wide or more, so none lies on these boxes: the original calls all of it background.
    assert (states(["one"], ["other", "on one"], faithful=True)[other] == 0).all()
    assert (states([], ["region"])[both] == -1).all()  # a region of several objects
    # Anchors lie on such a region. The object under it keeps its own, which the original looks at last.
    truth[0, 3] = torch.tensor([-60.0, -60, 200, 200])
    assert torch.equal(states(["one"], ["region"]) == 1, one)
    assert not torch.equal(states(["one"], ["region"], faithful=True) == 1, one)


def test_points_go_to_the_smallest_box_that_their_level_sees():
    points = torch.tensor([[10.0, 10.0], [30.0, 30.0], [90.0, 10.0], [10.0, 10.0]])
    reach = torch.tensor([[-1.0, 30.0], [-1.0, 30.0], [-1.0, 30.0], [30.0, 1e8]])
    truth = torch.tensor([[[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 20.0, 20.0], [80.0, 0.0, 100.0, 20.0]]])
    owner, ignored = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
    matched, state = assign_points(points, reach, truth, owner, ignored)
    assert state.tolist() == [[1, 1, -1, 1]]
    assert matched[0, [0, 1, 3]].tolist() == [1, 0, 0]  # exactly 30 away counts on both levels
