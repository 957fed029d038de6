"""The detector on awkward batches, in low precision, over ranks, and its parts."""

import copy
import math

import pytest
import torch
from torch import nn

from model.api import Truth, Want, own
from model.backbones.frozen_norm import FrozenNorm2d
from model.boxes import boxes as box_math
from model.config import ModelConfig, small_model

CANVAS = (96, 128)


def narrow(**changes):
    fields = {
        "backbone": "resnet18",
        "weights": "none",
        "norm": "frozen",
        "trainable_layers": 5,
        "fpn_channels": 16,
        "representation_size": 24,
        "rpn_pre_nms_train": 80,
        "rpn_post_nms_train": 60,
        "rpn_pre_nms_test": 80,
        "rpn_post_nms_test": 60,
        "rpn_samples_per_image": 32,
        "regions_per_image": 16,
        "detections_per_image": 20,
    }
    return ModelConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def detector(lively_detector):
    return lively_detector(narrow())


def run(detector, images, sizes, boxes, labels, ignore=None, keys=None, mean=own):
    ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else ignore
    keys = torch.arange(len(images)) if keys is None else keys
    detector.zero_grad(set_to_none=True)
    truth = Truth(sizes, boxes, labels, ignore, torch.ones(labels.shape, device=labels.device), keys)
    losses, _ = detector.losses(detector.look(images, sizes, Want(dense=True)), truth, mean)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(value).all() for value in gradients.values())
    return losses, gradients


def plain_batch(num_images=2, num_boxes=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num_images, 3, *CANVAS, generator=generator)
    sizes = torch.tensor([CANVAS] * num_images, dtype=torch.int32)
    return images, sizes, torch.zeros(num_images, num_boxes, 4), torch.zeros(num_images, num_boxes, dtype=torch.int64)


@pytest.mark.parametrize("num_slots", [5, 0])
def test_batch_without_any_box(detector, num_slots):
    losses, gradients = run(detector.train(), *plain_batch(num_boxes=num_slots))
    assert losses["rpn_box"] == 0
    assert losses["roi_box"] == 0
    assert losses["rpn_class"] > 0
    assert losses["roi_class"] > 0
    assert gradients["rpn.head.bbox_pred.weight"].abs().sum() == 0
    assert gradients["backbone.body.conv1.weight"].abs().sum() > 0


def test_no_padded_slot_changes_a_loss(detector):
    """NaN-free is not enough: garbage where the label is 0 must not be seen at all."""
    images, sizes, boxes, labels = plain_batch()
    boxes[:, 0], labels[:, 0] = torch.tensor([10.0, 10, 50, 60]), 2
    clean, _ = run(detector.train(), images, sizes, boxes, labels)
    boxes[:, 1:] = torch.tensor([0.0, 0, 128, 96])
    boxes[:, 3] = torch.tensor([1e30, 5, -1e30, 7])
    dirty, _ = run(detector, images, sizes, boxes, labels)
    for name, value in clean.items():
        assert torch.equal(value, dirty[name]), name


def test_image_full_of_boxes(detector):
    """More boxes than sampled regions; all of them the same; all of them the whole image."""
    images, sizes, _, _ = plain_batch()
    boxes = torch.tensor([0.0, 0, CANVAS[1], CANVAS[0]]).expand(2, 100, 4)
    losses, _ = run(detector.train(), images, sizes, boxes, torch.ones(2, 100, dtype=torch.int64))
    assert losses["roi_box"] > 0
    corner = torch.rand(2, 100, 2, generator=torch.Generator().manual_seed(0)) * 90
    run(detector, images, sizes, torch.cat((corner, corner + 5), dim=2), torch.ones(2, 100, dtype=torch.int64))


@pytest.mark.parametrize("side", [0.9, 0.1, 1e-3, 0.0])
def test_boxes_below_a_pixel(detector, side):
    images, sizes, boxes, labels = plain_batch()
    boxes[:, :, :2] = torch.tensor([60.3, 40.2])
    boxes[:, :, 2:] = boxes[:, :, :2] + side
    losses, _ = run(detector.train(), images, sizes, boxes, torch.ones_like(labels))
    assert (losses["rpn_box"] > 0) == (side > 0)


def test_ignored_boxes_teach_nothing_but_shield_their_place(detector):
    """An ignored box over the whole image leaves nothing to sample inside it; the losses fall to zero, not to NaN."""
    images, sizes, boxes, labels = plain_batch(num_boxes=1)
    boxes[:] = torch.tensor([-1e3, -1e3, 1e4, 1e4])
    labels[:] = 1
    losses, gradients = run(detector.train(), images, sizes, boxes, labels, ignore=torch.ones_like(labels).bool())
    assert all(value == 0 for value in losses.values())
    assert all(value.abs().sum() == 0 for value in gradients.values())
    seen, _ = run(detector, images, sizes, boxes, torch.zeros_like(labels))
    assert seen["rpn_class"] > 0


def test_rows_of_size_zero_do_not_count(detector):
    """The rows that fill up an epoch's last batch: the losses are those of the other images alone."""
    images, sizes, boxes, labels = plain_batch(num_images=3)
    boxes[:, 0], labels[:, 0] = torch.tensor([10.0, 10, 50, 60]), 2
    keys = torch.tensor([7, 8, 9])
    alone, alone_gradients = run(detector.train(), images[:2], sizes[:2], boxes[:2], labels[:2], keys=keys[:2])
    sizes[2] = 0
    losses, gradients = run(detector, images, sizes, boxes, labels, keys=keys)
    for name, value in alone.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-7)
    for name, value in alone_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-3, atol=1e-6)
    losses, gradients = run(detector, images, torch.zeros_like(sizes), boxes, labels)
    assert all(value == 0 for value in losses.values())
    assert all(value.abs().sum() == 0 for value in gradients.values())
    assert detector.eval().detect(images, sizes).count_B[2] == 0


def test_global_mean_makes_two_ranks_equal_one(detector):
    """Rank losses with the mean normaliser, averaged, are the losses of the whole batch, gradients too.

    In float64: a batch of one is rounded otherwise than one of two, and in float32 that may turn a ReLU.
    """
    images, sizes, boxes, labels = plain_batch()
    images, detector = images.double(), copy.deepcopy(detector).double()
    boxes[0, 0], labels[0, 0] = torch.tensor([10.0, 10, 50, 60]), 2
    sizes[1] = torch.tensor([5, 5])  # nearly no region: the ranks' counts differ
    keys = torch.tensor([3, 4])
    whole, whole_gradients = run(detector.train(), images, sizes, boxes, labels, keys=keys)
    counts: list[list[float]] = []
    for rank in (0, 1):
        seen: list[float] = []
        part = slice(rank, rank + 1)
        batch = (images[part], sizes[part], boxes[part], labels[part])
        run(
            detector,
            *batch,
            keys=keys[part],
            mean=lambda count, seen=seen: (seen.append(float(count)), count)[1],
        )
        counts.append(seen)
    assert counts[0] != counts[1]
    total, total_gradients = dict.fromkeys(whole, 0.0), dict.fromkeys(whole_gradients, 0.0)
    for rank in (0, 1):
        means = iter((torch.tensor(counts[0]) + torch.tensor(counts[1])) / 2)
        part = slice(rank, rank + 1)
        batch = (images[part], sizes[part], boxes[part], labels[part])
        losses, gradients = run(detector, *batch, keys=keys[part], mean=lambda count, means=means: next(means))
        total = {name: value + losses[name] / 2 for name, value in total.items()}
        total_gradients = {name: value + gradients[name] / 2 for name, value in total_gradients.items()}
    for name, value in whole.items():
        torch.testing.assert_close(total[name], value, rtol=1e-5, atol=1e-7)
    for name, value in whole_gradients.items():
        torch.testing.assert_close(total_gradients[name], value, rtol=1e-3, atol=1e-6)


def test_fewer_sampled_regions_than_ranks_still_divide_by_their_number(detector, random_batch):
    """A mean count over ranks may lie below 1."""
    images, sizes, boxes, labels, *_ = random_batch(torch.Generator().manual_seed(3), 2, CANVAS)
    keys = torch.tensor([3, 4])
    alone, _ = run(detector.train(), images, sizes, boxes, labels, keys=keys)
    shared, _ = run(detector, images, sizes, boxes, labels, keys=keys, mean=lambda count: count / 4096)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value * 4096, rtol=1e-5, atol=1e-7)


def test_detections_are_inside_the_image_sorted_and_zero_after_the_count(detector, random_batch):
    images, sizes, *_ = random_batch(torch.Generator().manual_seed(2), 3, CANVAS)
    found = detector.eval().detect(images, sizes)
    for image in range(3):
        count = int(found.count_B[image])
        assert count > 0
        boxes, (height, width) = found.boxes_BD4[image, :count], sizes[image].tolist()
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        assert (found.scores_BD[image].diff() <= 0).all()
        assert found.labels_BD[image, :count].min() >= 1
        assert not found.boxes_BD4[image, count:].any()
        assert not found.labels_BD[image, count:].any()


def test_partial_pyramids_equal_the_whole(detector):
    images = torch.randn(1, 3, *CANVAS)
    whole = dict(zip(detector.eval().strides, detector.features(images), strict=True))
    assert detector.strides == (4, 8, 16, 32, 64)
    for strides in ((32,), (64,), (4,), (8, 64), (16, 32), detector.strides):
        part = detector.features(images, strides)
        assert all(torch.equal(got, whole[stride]) for got, stride in zip(part, strides, strict=True))
    with pytest.raises(ValueError, match="strides"):
        detector.features(images, (5,))
    with pytest.raises(ValueError, match="multiples of 32"):
        detector.features(torch.zeros(1, 3, 100, 128))


def test_frozen_norm_keeps_the_type_and_equals_eval_batch_norm():
    norm = FrozenNorm2d(6)
    reference = nn.BatchNorm2d(6).eval()
    state = {name: torch.rand(6) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    norm.load_state_dict({**state, "num_batches_tracked": torch.tensor(3)})
    reference.load_state_dict(state, strict=False)
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    expected = reference(x)
    small = norm(x.bfloat16())
    assert small.dtype == torch.bfloat16
    torch.testing.assert_close(small.float(), expected, rtol=0.03, atol=0.03)
    got = norm(x)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected)


def test_autocast_keeps_maps_small_and_losses_exact_in_type(detector):
    """bfloat16 from the first layer to the last map, float32 scalars out, channels-last throughout."""
    images, sizes, boxes, labels = plain_batch()
    boxes[:, 0], labels[:, 0] = torch.tensor([10.0, 10, 50, 60]), 2
    exact, _ = run(detector.train(), images, sizes, boxes, labels)
    seen: list[tuple[torch.dtype, bool]] = []

    def note(module, inputs, output):
        seen.append((output.dtype, output.is_contiguous(memory_format=torch.channels_last)))

    hooks = [module.register_forward_hook(note) for module in detector.modules() if isinstance(module, FrozenNorm2d)]
    with torch.autocast("cpu", torch.bfloat16):
        out = detector.look(images.contiguous(memory_format=torch.channels_last), sizes, Want(dense=True))
        ignore = torch.zeros_like(labels).bool()
        losses, _ = detector.losses(out, Truth(sizes, boxes, labels, ignore, torch.ones(2, 5), torch.arange(2)))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 20
    assert set(seen) == {(torch.bfloat16, True)}
    assert {feature.dtype for feature in out.neck} == {torch.bfloat16}
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert abs(value - exact[name]) < 0.2 * exact[name] + 0.05
    torch.stack(list(losses.values())).sum().backward()


def test_boxes_by_hand():
    """One pixel right of a 10 x 20 reference, twice as wide: dx = (5 + ...)/10, dw = log 2."""
    reference, target = torch.tensor([0.0, 0, 10, 20]), torch.tensor([1.0, 0, 21, 20])
    deltas = box_math.encode(target, reference, (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(deltas, torch.tensor([0.6, 0.0, math.log(2), 0.0]))
    torch.testing.assert_close(box_math.decode(deltas, reference, (1.0, 1.0, 1.0, 1.0)), target)
    huge = box_math.decode(torch.tensor([0.0, 0, 1e9, 1e9]), reference, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(huge[2] - huge[0], torch.tensor(625.0))
    clipped = box_math.clip(torch.tensor([[[-5.0, -5, 500, 500]]]), torch.tensor([[20, 30]]))
    assert clipped.tolist() == [[[0, 0, 30, 20]]]


def test_configuration_mistakes_say_what_where_and_what_is_allowed(lively_detector):
    for changes, words in (
        ({"backbone": "resnet19"}, "resnet18"),
        ({"norm": "none"}, "frozen"),
        ({"rpn_nms_threshold": 1.5}, "--model.rpn-nms-threshold"),
        ({"regions_per_image": 2}, "--model.regions-per-image"),
        ({"detections_per_image": 0}, "--model.detections-per-image"),
        ({"anchor_sizes": ((32,), (64,))}, "--model.anchor-sizes"),
        ({"anchor_sizes": ((32,), (64,), (128,), (256,), (512, 600))}, "--model.anchor-sizes"),
    ):
        with pytest.raises(ValueError, match=words):
            narrow(**changes)
    for changes, words in (
        ({"trainable_layers": 9}, "--model.trainable-layers"),
        ({"returned_layers": (0, 1, 2, 3)}, "1 to 4"),
    ):
        with pytest.raises(ValueError, match=words):
            lively_detector(narrow(**changes))
    with pytest.raises(ValueError, match="background"):
        lively_detector(small_model(weights="none"), num_classes=1)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "mobilenet_v3_large"])
def test_trainable_layers_freeze_what_torchvisions_helpers_freeze(backbone):
    from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
    from torchvision.ops.misc import FrozenBatchNorm2d

    from model.backbones.table import BACKBONES
    from model.backbones.torchvision_fpn import build_backbone

    helper = resnet_fpn_backbone if backbone == "resnet18" else mobilenet_backbone
    options = {} if backbone == "resnet18" else {"fpn": True}
    layers = BACKBONES[backbone].returned
    for trainable in (0, 2, 5):
        config = ModelConfig(backbone=backbone, weights="none", norm="frozen", trainable_layers=trainable)
        expected = helper(
            backbone_name=backbone,
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=trainable,
            returned_layers=list(layers),
            **options,
        )
        ours = {name: parameter.requires_grad for name, parameter in build_backbone(config).named_parameters()}
        assert ours == {name: parameter.requires_grad for name, parameter in expected.named_parameters()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_step_equals_cpu_and_never_waits(lively_detector, random_batch):
    """float32 against the CPU; then bfloat16 with every wait of the host turned into an error."""
    detector = lively_detector(narrow())
    images, sizes, boxes, labels, keys = random_batch(torch.Generator().manual_seed(3), 2, CANVAS)
    expected, _ = run(detector, images, sizes, boxes, labels, keys=keys)
    detector.cuda()
    batch = [value.cuda() for value in (images, sizes, boxes, labels)]
    precision = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    losses, _ = run(detector, *batch, keys=keys.cuda())
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = precision
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].cpu(), value, rtol=1e-3, atol=1e-5)
    ignore, keys = torch.zeros_like(batch[3], dtype=torch.bool), keys.cuda()

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            out = detector.look(*batch[:2], Want(dense=True))
            truth = Truth(*batch[1:], ignore, torch.ones(labels.shape, device="cuda"), keys)
            found, _ = detector.losses(out, truth)
        torch.stack(list(found.values())).sum().backward()
        with torch.autocast("cuda", torch.bfloat16):
            detector.detect(*batch[:2])

    step()  # compiles the suppression kernel
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        detector.cpu()
