"""Dense detectors: what they answer, at awkward shapes; compiled as one graph; the faults of the originals."""

import pytest
import torch
from torch import Tensor

from model.api import Truth, Want
from model.boxes.codes import expected_distances
from model.dense.config import AtssConfig, DenseConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.dense.detector import HEADS, DenseDetector
from model.dense.head import DenseHead, Raw

CONFIGS = (RetinaNetConfig, FcosConfig, AtssConfig, GflConfig)
CANVAS = (96, 160)  # no stride above 32 divides both


def small(config_class: type[DenseConfig], **changes) -> DenseConfig:
    groups = 0 if config_class is RetinaNetConfig else 4
    options = {"weights": "none", "fpn_channels": 8, "head_channels": 8, "norm_groups": groups, "num_convs": 2}
    return config_class(**options | changes)


def make_head(config_class: type[DenseConfig], num_classes: int = 4, **changes) -> DenseHead:
    torch.manual_seed(1)
    config = small(config_class, **changes)
    head = HEADS[config_class](config, num_classes, 8, config.strides)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return head


def make_neck(head: DenseHead, canvas: tuple[int, int], num_images: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    sizes = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in head.strides]
    return tuple(torch.randn(num_images, 8, *size, generator=generator).requires_grad_() for size in sizes)


def see(head: DenseHead, canvas: tuple[int, int], num_images: int = 2) -> Raw:
    return head.predict(head.grow(make_neck(head, canvas, num_images), 0), 0)


def make_truth(rows: list[list[list[float]]], sizes: list[list[int]], ignore: set[tuple[int, int]] = frozenset()):
    """A row of (x1, y1, x2, y2, label) an image, padded; `ignore` names (image, box)."""
    num_slots = max(len(row) for row in rows)
    data_BG5 = torch.zeros(len(rows), num_slots, 5)
    ignore_BG = torch.zeros(len(rows), num_slots, dtype=torch.bool)
    for image, row in enumerate(rows):
        if row:
            data_BG5[image, : len(row)] = torch.tensor(row)
    for place in ignore:
        ignore_BG[place] = True
    return Truth(
        torch.tensor(sizes, dtype=torch.int32),
        data_BG5[..., :4].contiguous(),
        data_BG5[..., 4].long(),
        ignore_BG,
        torch.ones(len(rows), num_slots),
        torch.arange(len(rows)),
    )


ROWS = [[[10, 10, 60, 70, 2], [12.5, 30, 19.5, 33, 1]], [[5, 5, 5.5, 5.25, 1], [30, 20, 90, 60, 3], [0, 0, 131, 70, 1]]]
SIZES = [[96, 160], [70, 131]]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__.removesuffix("Config"))
def config_class(request) -> type[DenseConfig]:
    return request.param


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("canvas", [(96, 160), (160, 96), (32, 32)])
@pytest.mark.parametrize("num_classes", [2, 81])
def test_losses_and_detections_at_awkward_shapes(config_class, canvas, num_classes):
    head = make_head(config_class, num_classes)
    raw = see(head, canvas)
    counts = head.level_counts(canvas)
    assert [level.shape for level in raw.logits] == [(2, count, num_classes - 1) for count in counts]
    row = [[1, 2, canvas[1] * 0.7, canvas[0] * 0.8, 1], [3, 3, 3.4, 3.4, num_classes - 1]]
    terms, assigned = head.losses(raw, make_truth([row, row[:1]], [list(canvas)] * 2), canvas, lambda count: count)
    assert tuple(terms) == head.terms
    assert total(terms).isfinite()
    assert assigned.state_BN.shape == (2, sum(counts))
    assert (assigned.weight_BN[assigned.state_BN != 1] == 0).all()
    total(terms).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    found = head.detect(raw, canvas, torch.tensor([list(canvas)] * 2))
    assert found.boxes_BD4.shape == (2, 100, 4)
    assert int(found.labels_BD.max()) < num_classes


@pytest.mark.parametrize("faithful", [False, True])
def test_an_image_without_boxes_only_learns_background(config_class, faithful):
    head = make_head(config_class, faithful=faithful)
    raw = see(head, CANVAS)
    empty, padded = make_truth([[], []], SIZES), make_truth([[[0, 0, 0, 0, 0]], []], SIZES)
    for truth in (empty, padded):
        terms, assigned = head.losses(raw, truth, CANVAS, lambda count: count)
        assert not (assigned.state_BN == 1).any()
        assert terms["class"] > 0
        assert all(value == 0 for name, value in terms.items() if name != "class")


def test_rows_that_fill_up_a_batch_count_nothing(config_class):
    head = make_head(config_class)
    raw = see(head, CANVAS)
    alone = Raw(*(None if part is None else tuple(level[:1] for level in part) for part in raw))
    one, _ = head.losses(alone, make_truth(ROWS[:1], SIZES[:1]), CANVAS, lambda count: count)
    both, assigned = head.losses(raw, make_truth(ROWS, [SIZES[0], [0, 0]]), CANVAS, lambda count: count)
    assert (assigned.state_BN[1] == -1).all()
    for name in head.terms:
        torch.testing.assert_close(both[name], one[name])


def test_two_ranks_add_up_to_one(config_class):
    """Averaged losses of two ranks, each divided by the mean count, are those of the whole batch."""
    head = make_head(config_class)
    raw = see(head, CANVAS)
    truth = make_truth(ROWS, SIZES)
    whole, _ = head.losses(raw, truth, CANVAS, lambda count: count)
    halves = [
        (
            Raw(*(None if part is None else tuple(level[rank : rank + 1] for level in part) for part in raw)),
            Truth(*(field[rank : rank + 1] for field in truth)),
        )
        for rank in (0, 1)
    ]
    counts: list[list[Tensor]] = [[], []]

    def note(rank: int):
        return lambda count: (counts[rank].append(count), count)[1]

    for rank, half in enumerate(halves):
        head.losses(*half, CANVAS, note(rank))
    means = [(a + b) / 2 for a, b in zip(*counts, strict=True)]

    def answer():
        remaining = iter(means)
        return lambda count: next(remaining)

    parts = [head.losses(*half, CANVAS, answer())[0] for half in halves]
    for name in head.terms:
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, whole[name], rtol=1e-5, atol=1e-7)


def test_the_weight_of_a_box_weighs_what_it_is_responsible_for(config_class):
    head = make_head(config_class)
    raw = see(head, CANVAS)
    truth = make_truth(ROWS, SIZES)
    _, full = head.losses(raw, truth, CANVAS, lambda count: count)
    half = truth._replace(weight_BG=torch.where(truth.labels_BG == 3, 0.5, 1.0))
    _, weighed = head.losses(raw, half, CANVAS, lambda count: count)
    mine = (full.state_BN == 1) & (truth.labels_BG.gather(1, full.matched_BN) == 3)
    assert mine.any()
    torch.testing.assert_close(weighed.weight_BN[mine], full.weight_BN[mine] / 2)
    torch.testing.assert_close(weighed.weight_BN[~mine], full.weight_BN[~mine])


def test_background_on_an_ignored_box_is_left_out(config_class):
    # No band between foreground and background that is left out too.
    changes = {"background_iou": 0.5} if config_class is RetinaNetConfig else {}
    head = make_head(config_class, **changes)
    raw = see(head, CANVAS)
    rows = [[[10, 10, 60, 70, 2], [80, 0, 160, 96, 1]], []]
    _, assigned = head.losses(raw, make_truth(rows, SIZES, {(0, 1)}), CANVAS, lambda count: count)
    assert (assigned.state_BN[0] == -1).any()
    assert (assigned.state_BN[1] == 0).all()
    assert (assigned.matched_BN[assigned.state_BN == 1] == 0).all()
    left_out_N4 = assigned.candidates_BN4[0][assigned.state_BN[0] == -1]
    assert (left_out_N4[:, 2] > 80).all()
    never = make_head(config_class, ignore_overlap=1.0, **changes)
    _, assigned = never.losses(raw, make_truth(rows, SIZES, {(0, 1)}), CANVAS, lambda count: count)
    assert not (assigned.state_BN == -1).any()


def test_the_padding_is_background_unless_faithful(config_class):
    raw = see(make_head(config_class), CANVAS)
    truth = make_truth([[[4, 4, 20, 20, 1]], []], [[30, 60], [96, 160]])
    _, sane = make_head(config_class).losses(raw, truth, CANVAS, lambda count: count)
    _, theirs = make_head(config_class, faithful=True).losses(raw, truth, CANVAS, lambda count: count)
    center_N2 = (sane.candidates_BN4[0, :, :2] + sane.candidates_BN4[0, :, 2:]) / 2
    beyond_N = (center_N2[:, 0] > 100) & (center_N2[:, 1] > 40)
    assert (sane.state_BN[0, beyond_N] == 0).all()
    assert (theirs.state_BN[0, beyond_N] == (0 if config_class is FcosConfig else -1)).all()


def test_a_box_that_touches_nothing_takes_everything_only_if_faithful():
    raw = see(make_head(RetinaNetConfig), CANVAS)
    truth = make_truth([[[10, 10, 60, 70, 2], [2000, 2000, 2040, 2040, 1]], []], SIZES)
    _, sane = make_head(RetinaNetConfig).losses(raw, truth, CANVAS, lambda count: count)
    assert not (sane.matched_BN[0][sane.state_BN[0] == 1] == 1).any()
    _, theirs = make_head(RetinaNetConfig, faithful=True).losses(raw, truth, CANVAS, lambda count: count)
    assert (theirs.matched_BN[0] == 1).float().mean() > 0.9
    assert (theirs.state_BN[0] == 1).float().mean() > 0.9


def test_the_rest_of_a_tower_gives_the_same_predictions(config_class):
    head = make_head(config_class)
    neck = make_neck(head, CANVAS)
    whole = head.predict(head.grow(neck, 0), 0)
    for k in (1, 2):
        towers = head.grow(neck, k)
        assert min(float(level.detach().min()) for pair in towers for level in pair) == 0  # after the ReLU
        assert all(torch.equal(a, b) for a, b in zip(head.predict(towers, k).logits, whole.logits, strict=True))
    with pytest.raises(ValueError, match="got 3; allowed: 0 to 2"):
        head.grow(neck, 3)


def test_fcos_begins_with_boxes_of_a_size_of_their_level():
    """Untrained, as the weights are 0.01: sides a pixel away as in the original, or two strides."""
    for start, expected in ((0.0, [1.0] * 5), (2.0, [16.0, 32.0, 64.0, 128.0, 256.0])):
        config = small(FcosConfig, start_distance=start)
        torch.manual_seed(1)
        head = HEADS[FcosConfig](config, 4, 8, config.strides)
        found = [level.mean().item() for level in see(head, (128, 128)).boxes]
        assert found == pytest.approx(expected, rel=0.1)


def test_gfl_begins_with_sides_of_a_few_bins():
    """Untrained: 8 strides, the middle of its 17 bins, as in the original, or two."""
    for start, expected in ((0.0, 8.0), (2.0, 2.0)):
        config = small(GflConfig, start_distance=start)
        torch.manual_seed(1)
        head = HEADS[GflConfig](config, 4, 8, config.strides)
        sides = torch.cat(see(head, (128, 128)).boxes, dim=1)
        assert expected_distances(sides, config.num_bins).mean().item() == pytest.approx(expected, rel=0.05)


def test_a_detector_looks_no_further_than_wanted(config_class):
    torch.manual_seed(0)
    detector = DenseDetector(small(config_class, backbone="resnet18"), 4).eval()
    images, sizes = torch.randn(2, 3, *CANVAS), torch.tensor(SIZES)
    neck = detector.look(images, sizes, Want(neck=(32, 128))).neck
    assert [level is not None for level in neck] == [False, False, True, False, True]
    out = detector.look(images, sizes, Want(dense=True, tower=1, found=True))
    assert [tuple(level.shape[-2:]) for level in out.neck] == [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    assert torch.equal(out.neck[2], neck[2])
    again = detector.head_from(out.towers, 1)
    assert again.canvas == CANVAS
    assert all(torch.equal(a, b) for a, b in zip(again.boxes, out.boxes, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(detector.detect(images, sizes), out.found, strict=True))
    assert detector.look(images, sizes, Want(neck=(8,), tower=2)).logits is None
    with pytest.raises(ValueError, match="no regions"):
        detector.look(images, sizes, Want(rois=9))
    with pytest.raises(ValueError, match="multiples of 32"):
        detector.features(torch.randn(1, 3, 90, 160))
    with pytest.raises(ValueError, match=r"Want\(dense=True\)"):
        detector.losses(detector.look(images, sizes, Want(neck=(8,))), make_truth(ROWS, SIZES))


def test_detections_lie_in_their_image_and_fill_slots_in_order(config_class):
    head = make_head(config_class, score_threshold=0.0)
    found = head.detect(see(head, CANVAS), CANVAS, torch.tensor(SIZES))
    for image, (height, width) in enumerate(SIZES):
        count = int(found.count_B[image])
        assert count > 0
        boxes, scores = found.boxes_BD4[image], found.scores_BD[image]
        assert boxes.min() >= 0
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (scores[:count].diff() <= 0).all()
        assert (scores[count:] == 0).all()
        assert (found.labels_BD[image, :count] >= 1).all()
    nothing = make_head(config_class, score_threshold=1.0)
    assert nothing.detect(see(nothing, CANVAS), CANVAS, torch.tensor(SIZES)).count_B.tolist() == [0, 0]


@pytest.mark.long
def test_faithful_losses_and_detect_are_one_graph(config_class):
    """Losses that are not faithful: tests/train/test_method_battery.py. Detection is the same for both."""
    head = make_head(config_class, faithful=True)
    truth = make_truth(ROWS, SIZES, {(1, 2)})

    def step(*neck: Tensor):
        raw = head.predict(head.grow(neck, 1), 1)
        terms, assigned = head.losses(raw, truth, CANVAS, lambda count: count)
        return terms, assigned, head.detect(raw, CANVAS, truth.sizes_B2)

    torch._dynamo.reset()
    neck = make_neck(head, CANVAS)
    expected, got = step(*neck), torch.compile(step, fullgraph=True, backend="eager")(*neck)
    for ours, theirs in zip(expected, got, strict=True):
        torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (GflConfig, {"start_distance": 5.0}, "--model.start-distance: got 5.0; allowed: 0 to 4.25, a quarter"),
        (GflConfig, {"norm_groups": 3}, "--model.norm-groups: got 3 for 256 channels"),
        (FcosConfig, {"size_edges": (64.0,)}, "--model.size-edges: got .* allowed: 4 rising numbers"),
        (FcosConfig, {"start_distance": 2.0, "distances": "relu"}, "--model.start-distance: got 2.0; allowed: 0 to 64"),
        (
            RetinaNetConfig,
            {"background_iou": 0.6},
            "--model.background-iou and --model.foreground-iou: got 0.6 and 0.5",
        ),
        (AtssConfig, {"num_nearest": 0}, "--model.num-nearest: got 0; allowed: 1 to 10000"),
        (AtssConfig, {"backbone": "vgg"}, "--model.backbone: got 'vgg'; allowed: resnet18"),
        (GflConfig, {"coarse_from": "c4"}, "--model.coarse-from: got 'c4'; allowed: c5, p5"),
        (GflConfig, {"nms_threshold": 1.5}, "--model.nms-threshold: got 1.5; allowed: 0 to 1"),
    ],
)
def test_wrong_configurations_are_named(config_class, changes, message):
    with pytest.raises(ValueError, match=message):
        config_class(**changes)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_what_is_made_of_raw_predictions_is_the_same_under_autocast(config_class):
    """A box in bfloat16 is off by pixels."""
    head = make_head(config_class, score_threshold=0.0)
    raw, sizes = see(head, CANVAS), torch.tensor([list(CANVAS)] * 2)
    with torch.no_grad():
        expected = head.find(raw, CANVAS, sizes)
        with torch.autocast("cpu", torch.bfloat16):
            got = head.find(raw, CANVAS, sizes)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
