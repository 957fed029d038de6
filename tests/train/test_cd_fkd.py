"""CD-FKD's two terms against hand-computed values and a slow form that takes one image and one box at a time."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from model.api import Outputs, own
from pipeline.batch import View, Views
from train.distill.cd_fkd import CdFkd, CdFkdConfig
from train.distill.regions import crop, resize

STRIDE = 8


def make_views(
    student_sizes, teacher_sizes, teacher_boxes=None, labels=None, ignore=None, canvases=((40, 48), (64, 96))
):
    """Views with empty pictures: the method only reads sizes, boxes, labels and flags. Boxes scale with the image."""
    num = len(teacher_sizes)
    student_B2, teacher_B2 = torch.tensor(student_sizes), torch.tensor(teacher_sizes)
    boxes = torch.zeros(num, 1, 4) if teacher_boxes is None else torch.tensor(teacher_boxes, dtype=torch.float32)
    labels = torch.zeros(boxes.shape[:2], dtype=torch.int64) if labels is None else torch.tensor(labels)
    ratio_B2 = student_B2 / teacher_B2.clamp(min=1)
    return Views(
        clean=View(torch.zeros(num, 3, *canvases[1]), teacher_B2.int(), boxes),
        corrupted=View(
            torch.zeros(num, 3, *canvases[0]), student_B2.int(), boxes * ratio_B2.flip(1).repeat(1, 2)[:, None]
        ),
        ratio_B=ratio_B2[:, 0],
        labels_BG=labels,
        ignore_BG=torch.zeros_like(labels, dtype=torch.bool) if ignore is None else torch.tensor(ignore),
        weight_BG=torch.ones(labels.shape),
        keys_B=torch.arange(num),
        ids_B=torch.arange(num),
    )


def take_rows(view, rows):
    """Some images of views."""
    changed = {
        name: take_rows(value, rows) if isinstance(value, View) else value[rows]
        for name, value in vars(view).items()
        if name != "extra"
    }
    return replace(view, **changed)


class Terms:
    """The method on maps {stride: map} of two networks with a pyramid of strides 8, 16 and 32."""

    def __init__(self, config, mean=own):
        network = SimpleNamespace(strides=(8, 16, 32), channels=5)
        self.method = CdFkd(config, network, network, mean)

    def __call__(self, student, teacher, views):
        """(terms, {"cosine_NAME": sum, "count_NAME": count})."""
        outputs = [Outputs((0, 0), tuple(maps.get(stride) for stride in (8, 16, 32))) for maps in (student, teacher)]
        terms, logged = self.method({"corrupted": outputs[0]}, outputs[1], {}, views)
        counted = {name.replace("cosine", "count"): count for name, (_, count) in logged.items()}
        return terms, {name: total for name, (total, _) in logged.items()} | counted


def make_maps(views, stride=STRIDE, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for images in (views.corrupted.images_B3HW, views.clean.images_B3HW):
        height, width = (math.ceil(side / stride) for side in images.shape[-2:])
        maps.append({stride: torch.randn(len(images), channels, height, width, generator=generator)})
    return maps


def slow_terms(student, teacher, views, stride=STRIDE, per_location=False):
    """One image and one box at a time, as the paper describes it: lists of cosines over images and over instances."""
    images, instances = [], []
    for index in range(len(student)):
        hs, ws = (math.ceil(side / stride) for side in views.corrupted.sizes_B2[index].tolist())
        ht, wt = (math.ceil(side / stride) for side in views.clean.sizes_B2[index].tolist())
        if ht == 0:
            continue
        small, large = student[index : index + 1, :, :hs, :ws], teacher[index : index + 1, :, :ht, :wt]
        resized = F.interpolate(small, size=(ht, wt), mode="bilinear", align_corners=False)
        if per_location:
            images.append(F.cosine_similarity(resized, large, dim=1).mean())
        else:
            images.append(F.cosine_similarity(resized.flatten(), large.flatten(), dim=0))
        for box in range(views.labels_BG.shape[1]):
            if views.labels_BG[index, box] == 0 or views.ignore_BG[index, box]:
                continue
            crops = [
                roi_align(a, [b[index, box : box + 1]], 7, 1 / stride, sampling_ratio=2, aligned=True).flatten()
                for a, b in ((small, views.corrupted.boxes_BG4), (large, views.clean.boxes_BG4))
            ]
            instances.append(F.cosine_similarity(crops[0], crops[1], dim=0))
    return images, instances


MIXED = {
    "student_sizes": [(40, 48), (25, 38), (39, 31), (0, 0)],
    "teacher_sizes": [(64, 77), (41, 63), (64, 51), (0, 0)],
    "teacher_boxes": [
        [[3, 4, 30, 50], [0, 0, 77, 64], [10, 10, 10.4, 10.3]],  # one covers the image, one is under a pixel
        [[50, 20, 63, 41], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 1, 20, 20], [5, 5, 40, 60], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 3,
    ],
    "labels": [[1, 2, 1], [3, 0, 0], [1, 1, 0], [0, 0, 0]],
    "ignore": [[False] * 3, [False] * 3, [False, True, False], [False] * 3],
}


def test_identical_features_give_zero():
    views = make_views([(40, 48)], [(40, 48)], [[[4, 4, 30, 30]]], [[1]], canvases=((40, 48), (40, 48)))
    maps, _ = make_maps(views)
    losses, agreement = Terms(CdFkdConfig(strides=(STRIDE,)))(maps, maps, views)
    for value in losses.values():
        assert value.item() == pytest.approx(0, abs=1e-6)
    names = ("cosine_global", "cosine_instance", "count_global", "count_instance")
    assert {name: round(value.item(), 5) for name, value in agreement.items()} == dict.fromkeys(names, 1.0)


def test_opposite_features_give_two():
    views = make_views([(40, 48)], [(40, 48)], [[[4, 4, 30, 30]]], [[1]], canvases=((40, 48), (40, 48)))
    maps, _ = make_maps(views)
    losses, _ = Terms(CdFkdConfig(strides=(STRIDE,)))(maps, {STRIDE: -maps[STRIDE]}, views)
    for value in losses.values():
        assert value.item() == pytest.approx(2, abs=1e-6)


def test_hand_computed_two_cells():
    """One image of 1x2 cells: student (1,0) and (1,1), teacher (1,0) and (0,1): dot 2, norms sqrt 3 and sqrt 2."""
    views = make_views([(8, 16)], [(8, 16)], canvases=((8, 16), (8, 16)))
    student = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    whole, _ = Terms(CdFkdConfig(strides=(8,)))({8: student}, {8: teacher}, views)
    assert whole["global"].item() == pytest.approx(1 - 2 / math.sqrt(6), abs=1e-6)
    located, _ = Terms(CdFkdConfig(strides=(8,), per_location=True))({8: student}, {8: teacher}, views)
    assert located["global"].item() == pytest.approx(1 - (1 + 1 / math.sqrt(2)) / 2, abs=1e-6)


def test_hand_computed_downscale():
    """The student's single cell of 2 stretches over the teacher's 2 cells (2, 4): cosine (4 + 8) / (sqrt 8 sqrt 20)."""
    views = make_views([(8, 8)], [(8, 16)], canvases=((8, 8), (8, 16)))
    losses, _ = Terms(CdFkdConfig(strides=(8,)))(
        {8: torch.tensor([[[[2.0]]]])}, {8: torch.tensor([[[[2.0, 4.0]]]])}, views
    )
    assert losses["global"].item() == pytest.approx(1 - 12 / math.sqrt(160), abs=1e-6)


@pytest.mark.parametrize("per_location", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_different_ratios_equals_one_image_at_a_time(per_location, reduction):
    views = make_views(**MIXED)
    (student, teacher), config = make_maps(views), CdFkdConfig((1.0), 1.0, (STRIDE,), reduction, per_location)
    losses, agreement = Terms(config)(student, teacher, views)
    images, instances = slow_terms(student[STRIDE], teacher[STRIDE], views, per_location=per_location)
    assert (len(images), len(instances)) == (3, 5)
    for name, expected in (("global", images), ("instance", instances)):
        distances = 1 - torch.stack(expected)
        expected_loss = distances.mean() if reduction == "mean" else distances.sum()
        torch.testing.assert_close(losses[name], expected_loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(agreement[f"cosine_{name}"], (1 - distances).sum(), rtol=1e-5, atol=1e-6)
        assert agreement[f"count_{name}"].item() == len(expected)


def test_gradients_equal_one_image_at_a_time():
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    map_a = student[STRIDE].clone().requires_grad_()
    losses, _ = Terms(CdFkdConfig(strides=(STRIDE,)))({STRIDE: map_a}, teacher, views)
    (losses["global"] + 2 * losses["instance"]).backward()
    map_b = student[STRIDE].clone().requires_grad_()
    images, instances = slow_terms(map_b, teacher[STRIDE], views)
    ((1 - torch.stack(images)).mean() + 2 * (1 - torch.stack(instances)).mean()).backward()
    torch.testing.assert_close(map_a.grad, map_b.grad, rtol=1e-4, atol=1e-6)


def test_several_levels_are_averaged():
    views = make_views(**MIXED)
    (student_8, teacher_8), (student_16, teacher_16) = make_maps(views, 8), make_maps(views, 16, seed=1)
    both, _ = Terms(CdFkdConfig(strides=(8, 16)))(student_8 | student_16, teacher_8 | teacher_16, views)
    alone = [
        Terms(CdFkdConfig(strides=(s,)))(a, b, views)[0]
        for s, a, b in ((8, student_8, teacher_8), (16, student_16, teacher_16))
    ]
    for name in both:
        torch.testing.assert_close(both[name], (alone[0][name] + alone[1][name]) / 2)


def test_what_lies_in_the_padding_does_not_count():
    """The canvas outside an image may hold anything, even NaN: same losses, and no gradient flows there."""
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    expected, _ = Terms(CdFkdConfig(strides=(STRIDE,)))(student, teacher, views)
    maps = []
    for original, sizes in ((student, views.corrupted.sizes_B2), (teacher, views.clean.sizes_B2)):
        changed = torch.full_like(original[STRIDE], float("nan"))
        for index, (height, width) in enumerate(sizes.tolist()):
            h, w = math.ceil(height / STRIDE), math.ceil(width / STRIDE)
            changed[index, :, :h, :w] = original[STRIDE][index, :, :h, :w]
        maps.append(changed)
    maps[0].requires_grad_()
    losses, _ = Terms(CdFkdConfig(strides=(STRIDE,)))({STRIDE: maps[0]}, {STRIDE: maps[1]}, views)
    sum(losses.values()).backward()
    for name in losses:
        torch.testing.assert_close(losses[name], expected[name])
    assert maps[0].grad.isfinite().all()
    assert maps[0].grad[1, :, 4:].abs().max() == 0  # image 1 is 25 pixels high: 4 cells of 8
    assert maps[0].grad[3].abs().max() == 0  # a padding row of the batch


def test_no_instances_give_zero_and_no_gradient():
    views = make_views([(40, 48)], [(64, 77)])
    student, teacher = make_maps(views)
    student[STRIDE].requires_grad_()
    losses, agreement = Terms(CdFkdConfig(strides=(STRIDE,)))(student, teacher, views)
    assert losses["instance"].item() == 0
    losses["instance"].backward()
    assert student[STRIDE].grad.abs().max() == 0
    assert (agreement["cosine_instance"].item(), agreement["count_instance"].item()) == (0, 0)


def test_a_batch_of_padding_only_gives_zero():
    views = make_views([(0, 0), (0, 0)], [(0, 0), (0, 0)])
    student, teacher = make_maps(views)
    losses, _ = Terms(CdFkdConfig(strides=(STRIDE,)))(student, teacher, views)
    assert {name: value.item() for name, value in losses.items()} == {"global": 0, "instance": 0}


def test_silent_features_have_finite_gradients():
    """A map that is all zero has no direction: cosine 0, and the gradient must be finite, not NaN."""
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    silent = torch.zeros_like(student[STRIDE], requires_grad=True)
    losses, _ = Terms(CdFkdConfig(strides=(STRIDE,)))({STRIDE: silent}, teacher, views)
    sum(losses.values()).backward()
    assert losses["global"].item() == pytest.approx(1)
    assert silent.grad.isfinite().all()


def test_each_network_uses_its_own_boxes():
    """The trap of reusing the teacher's boxes for the student: with them the loss must come out different."""
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    method = Terms(CdFkdConfig(strides=(STRIDE,)))
    right, _ = method(student, teacher, views)
    wrong, _ = method(
        student, teacher, replace(views, corrupted=replace(views.corrupted, boxes_BG4=views.clean.boxes_BG4))
    )
    assert abs(right["instance"].item() - wrong["instance"].item()) > 1e-3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_ranks_average_to_the_whole_batch(reduction, monkeypatch):
    """Rank 0 holds 1 image, rank 1 holds 3: divided by the mean count, their average is the whole batch's loss."""
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    config = CdFkdConfig(strides=(STRIDE,), reduction=reduction)
    whole, _ = Terms(config)(student, teacher, views)

    monkeypatch.setattr("train.distill.cd_fkd.num_ranks", lambda: 2)
    parts = [slice(0, 1), slice(1, 4)]
    shards = [take_rows(views, part) for part in parts]
    counts: dict[int, list[float]] = {0: [], 1: []}  # order of calls: images, instances
    for rank, part in enumerate(parts):

        def note(count, rank=rank):
            counts[rank].append(count.item())
            return count

        Terms(config, note)({STRIDE: student[STRIDE][part]}, {STRIDE: teacher[STRIDE][part]}, shards[rank])
    results = []
    for rank, part in enumerate(parts):
        means = iter([(a + b) / 2 for a, b in zip(counts[0], counts[1], strict=True)])
        method = Terms(config, lambda count, means=means: torch.tensor(next(means)))
        results.append(method({STRIDE: student[STRIDE][part]}, {STRIDE: teacher[STRIDE][part]}, shards[rank])[0])
    for name in whole:
        torch.testing.assert_close((results[0][name] + results[1][name]) / 2, whole[name])


def test_resize_equals_interpolate_up_and_down():
    maps = torch.randn(2, 3, 9, 7)
    out = resize(maps, torch.tensor([[9, 7], [5, 1]]), torch.tensor([[4, 11], [8, 3]]), (8, 12))
    for index, (old, new) in enumerate((((9, 7), (4, 11)), ((5, 1), (8, 3)))):
        expected = F.interpolate(maps[index : index + 1, :, : old[0], : old[1]], size=new, mode="bilinear")[0]
        torch.testing.assert_close(out[index, :, : new[0], : new[1]], expected, rtol=1e-5, atol=1e-6)
        assert out[index, :, new[0] :].abs().sum() + out[index, :, :, new[1] :].abs().sum() == 0


def test_crop_equals_roi_align():
    maps, boxes = torch.randn(2, 4, 12, 9), torch.rand(2, 6, 4) * 5
    boxes[..., 2:] += boxes[..., :2]
    boxes[0, 0] = torch.tensor([0.0, 0, 9, 12])
    crops = crop(maps, boxes, torch.tensor([[12, 9], [12, 9]]))
    expected = roi_align(maps, list(boxes), 7, 1.0, sampling_ratio=2, aligned=True).unflatten(0, (2, 6))
    torch.testing.assert_close(crops, expected, rtol=1e-5, atol=1e-5)


def test_the_method_is_one_graph():
    views = make_views(**MIXED)
    student, teacher = make_maps(views)
    method = Terms(CdFkdConfig(strides=(STRIDE,)))
    torch._dynamo.reset()
    compiled = torch.compile(method.__call__, fullgraph=True, backend="aot_eager")
    eager, graph = method(student, teacher, views)[0], compiled(student, teacher, views)[0]
    for name in eager:
        torch.testing.assert_close(eager[name], graph[name])


@pytest.mark.parametrize(
    "wrong", [{"strides": ()}, {"strides": (8, 8)}, {"strides": (32, 8)}, {"alpha": -1.0}, {"beta": float("nan")}]
)
def test_senseless_options_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CdFkdConfig(**wrong)
