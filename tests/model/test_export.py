"""Exported detectors answer the same in the other tool."""

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from kernels.detection import nms as nms_module
from model.compared import check_near, check_same
from model.config import ModelConfig, small_model
from model.dense.config import FcosConfig, RetinaNetConfig
from model.deployed import Deployed, canvas_of, export_program, frozen_copy
from model.detectors import CONFIGS, new_detector
from model.export import Options, export
from model.weights.checkpoint import Card, save_detector

CANVAS = (96, 128)
CLASSES = ("car", "bus", "truck")
SMALL = {
    "weights": "none",
    "norm": "frozen",
    "fpn_channels": 16,
    "representation_size": 24,
    "rpn_pre_nms_test": 60,
    "rpn_post_nms_test": 40,
    "detections_per_image": 20,
}
CAFFE = {"pixel_order": "bgr", "pixel_mean": (103.53, 116.28, 123.675), "pixel_deviation": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def checkpoint(lively_detector, tmp_path_factory):
    config = ModelConfig(backbone="resnet18", **SMALL)
    directory = tmp_path_factory.mktemp("run") / "student"
    detector = lively_detector(config)
    save_detector(directory, detector, config, CLASSES, {"short_side": 90, "long_side": 120})
    return directory, Deployed(detector)


def pictures(num_images, num_channels=3):
    generator = torch.Generator().manual_seed(num_images)
    images = torch.randint(0, 256, (num_images, num_channels, *CANVAS), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([[96, 128], [51, 77], [90, 33]])[:num_images]


def assert_same(got, wanted):
    """Within 0.001: pixels, scores, and labels and counts exactly."""
    assert wanted[3].sum() > 10
    for ours, theirs in zip(wanted, got, strict=True):
        torch.testing.assert_close(torch.as_tensor(theirs), ours, rtol=0, atol=1e-3, check_dtype=False)


@pytest.fixture(scope="module")
def exported(checkpoint):
    """An export takes half a minute."""
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    with warnings.catch_warnings(record=True) as told:
        path = export(Options(checkpoint[0], "onnx", canvas=CANVAS))
    assert not [warning for warning in told if "create_unbacked_symint" in str(warning.message)]
    return path


@pytest.mark.long
def test_onnx_runtime_finds_the_same_in_any_batch(checkpoint, exported):
    import onnxruntime

    _, deployed = checkpoint
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == list(CLASSES)
    assert about["canvas"] == list(CANVAS)
    assert (about["short_side"], about["long_side"]) == (90, 120)
    assert "B x 3 x 96 x 128; each image resized by min(90 / short side, 120 / long side)" in about["inputs"]["images"]
    assert about["inputs"].keys() == {item.name for item in session.get_inputs()}
    for num_images in (1, 2, 3):
        images, sizes = pictures(num_images)
        got = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        assert_same(got, deployed(images, sizes))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["retinanet", "fcos", "atss", "gfl"])
def test_dense_detectors_answer_the_same_in_both_forms(kind, lively_dense, tmp_path, capsys, monkeypatch):
    """Post-processing is inside and the batch is free; the export itself compares in ONNX Runtime and says so.

    FCOS takes further inputs behind RGB.
    """
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    widths = {"fpn_channels": 16, "head_channels": 16, "norm_groups": 0, "num_convs": 1}
    further = {"inputs": ("rgb", "gated", "depth"), "extra_channels": (2, 1), **CAFFE} if kind == "fcos" else {}
    config = CONFIGS[kind](
        backbone="resnet18", weights="none", norm="frozen", candidates_per_level=50, detections_per_image=20,
        score_threshold=0.3, nms_threshold=0.9, **widths, **further,
    )  # fmt: skip
    detector = lively_dense(config)
    save_detector(tmp_path / "run", detector, config, CLASSES, {"short_side": 90, "long_side": 120})
    programs = []  # both forms are made of the same, which takes a while

    def export_once(deployed, canvas):
        programs or programs.append(export_program(deployed, canvas))
        return programs[0]

    monkeypatch.setattr("model.deployed.export_program", export_once)
    path = export(Options(tmp_path / "run", "onnx"))
    told = re.search(r"canvas of 96 x 128.*checked in ONNX Runtime: (\d+) detections", capsys.readouterr().out, re.S)
    assert int(told[1]) > 30
    program = torch.export.load(export(Options(tmp_path / "run", "torch"))).module()
    for num_images in (1, 3):
        images, sizes = pictures(num_images, config.num_channels)
        assert_same(program(images, sizes), Deployed(detector)(images, sizes))
    if not further:
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert "uint8 RGB and 2 of gated and 1 of depth, B x 6 x 96 x 128" in json.loads(about["inputs"])["images"]
    assert json.loads(about["channels"]) == {"rgb": 3, "gated": 2, "depth": 1}
    expected = Deployed(detector)(images, sizes)
    assert_same(session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()}), expected)
    images[:, 4] = 255 - images[:, 4]
    assert not torch.equal(Deployed(detector)(images, sizes)[1], expected[1])


HALF = {
    "backbone": "resnet18", "weights": "none", "fpn_channels": 16, "head_channels": 16, "num_convs": 1,
    "candidates_per_level": 50, "detections_per_image": 40, "score_threshold": 0.3,
}  # fmt: skip


def test_the_check_finds_what_is_wrong_and_leaves_out_what_rounding_may_do():
    """Two images, three slots; the least score is 0.5."""
    boxes = torch.tensor([[[0.0, 0, 9, 9], [5, 5, 20, 30], [1, 1, 2, 2]], [[3, 3, 7, 8], [0, 0, 0, 0], [0, 0, 0, 0]]])
    scores = torch.tensor([[0.9, 0.7, 0.6], [0.8, 0.5004, 0.0]])
    labels = torch.tensor([[1, 2, 1], [3, 1, 0]])
    wanted = (boxes, scores, labels, torch.tensor([3, 2]))
    assert check_same(wanted, wanted, 0.5, "torch").startswith("3 detections are the same; boxes within 0 pixels")
    lost = (boxes, scores, labels, torch.tensor([3, 1]))
    assert check_same(lost, wanted, 0.5, "torch").startswith("3 detections")  # 0.5004 may have been 0.4999
    swapped = tuple(torch.stack((v[0, [1, 0, 2]], v[1])) for v in wanted[:3])
    assert check_same((*swapped, wanted[3]), wanted, 0.5, "torch").startswith("3 detections")
    assert check_same(wanted, wanted, 0.95, "torch").startswith("neither of the two finds anything")
    for wrong in (
        (boxes + torch.tensor([0.0, 0, 0.1, 0]), *wanted[1:]),
        (boxes, scores + 0.01, *wanted[2:]),
        (boxes, scores, labels.flip(0), wanted[3]),
        (*wanted[:3], torch.tensor([3, 0])),
    ):
        for pair in ((wrong, wanted), (wanted, wrong)):
            with pytest.raises(ValueError, match=r"^the exported model answers otherwise than"):
                check_same(*pair, 0.5, "torch")


@pytest.mark.long
def test_a_wrong_export_is_not_kept(checkpoint, exported, monkeypatch, tmp_path):
    """An exporter that gets a layer's bias wrong, which no error tells."""
    import onnx

    directory, _ = checkpoint
    path = tmp_path / "wrong.onnx"
    path.write_bytes(b"the one before")

    def wrong(deployed, card, canvas, place):
        changed = onnx.load(exported)
        (bias,) = (each for each in changed.graph.initializer if each.name.endswith("box_predictor.cls_score.bias"))
        values = onnx.numpy_helper.to_array(bias) + np.float32([0, 0.5, 0, 0])
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(changed, place)

    monkeypatch.setattr("model.deployed.export_onnx", wrong)
    with pytest.raises(ValueError, match="answers otherwise than the detector, so it is not kept: the class"):
        export(Options(directory, "onnx", canvas=CANVAS, out=path))
    assert [file.name for file in tmp_path.iterdir()] == ["wrong.onnx"]
    assert path.read_bytes() == b"the one before"


def test_float16_answers_nearly_the_same(lively_dense):
    """In PyTorch, with running statistics far beyond float16's range."""
    config = RetinaNetConfig(**HALF, norm="batch")
    detector = lively_dense(config)
    detector.head.box_output.weight.data *= 0.3  # deltas as trained ones
    norm = detector.backbone.body.bn1
    norm.running_var.mul_(1e5), norm.weight.data.mul_(1e5**0.5)
    images, sizes = pictures(2)
    wanted = Deployed(detector)(images, sizes)
    halved = frozen_copy(detector, torch.float16)
    assert halved.backbone.body.conv1.weight.dtype == torch.float16
    assert detector.backbone.body.conv1.weight.dtype == torch.float32
    told = check_near(Deployed(halved, torch.float16)(images, sizes), wanted, 0.3)
    near, num = map(int, re.match(r"(\d+) of (\d+) detections", told).groups())
    assert near >= 0.95 * num > 50


def test_float16_that_changes_too_much_is_refused():
    """Three detections; the least score is 0.3."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 90, 90], [20, 20, 30, 30], [0, 0, 0, 0]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.31, 0.0]]), torch.tensor([[1, 2, 3, 0]])
    wanted = (boxes, scores, labels, torch.tensor([3]))
    assert check_near(wanted, wanted, 0.3).startswith("4 of 4 detections")  # 0.31 may have fallen out
    moved = boxes + torch.tensor([0.0, 0, 0.5, 0])
    assert check_near((moved, scores + 0.015, *wanted[2:]), wanted, 0.3).startswith("5 of 5 detections")
    for wrong in (
        (boxes + torch.tensor([0.0, 0, 2.0, 0]), *wanted[1:]),
        (boxes, scores - 0.03, *wanted[2:]),
        (boxes, scores, labels.flip(1), wanted[3]),
        (*wanted[:3], torch.tensor([1])),
    ):
        with pytest.raises(ValueError, match=r"float16 changes this detector too much.*95% must; leave --half out"):
            check_near(wrong, wanted, 0.3)


@pytest.mark.long
def test_a_float16_model_is_half_as_large_and_runs_in_onnx_runtime(lively_dense, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    config = RetinaNetConfig(**HALF, norm="batch")
    detector = lively_dense(config)
    detector.head.box_output.weight.data *= 0.3
    save_detector(tmp_path / "run", detector, config, CLASSES, {"short_side": 90, "long_side": 120})
    path = export(Options(tmp_path / "run", "onnx", half=True))
    assert re.search(r"checked in ONNX Runtime: \d\d+ of \d\d+ detections", capsys.readouterr().out)
    assert path.stat().st_size < 0.55 * (tmp_path / "run" / "model.safetensors").stat().st_size
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images, sizes = pictures(3)
    found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    assert found[0].dtype == found[1].dtype == np.float32


def test_options_without_effect_are_refused(checkpoint):
    with pytest.raises(ValueError, match="--canvas goes with --to onnx or torch"):
        export(Options(checkpoint[0], "torchvision", canvas=CANVAS))
    with pytest.raises(ValueError, match="--half goes with --to onnx, got --to torch"):
        export(Options(checkpoint[0], "torch", canvas=CANVAS, half=True))


def test_the_canvas_is_that_of_the_training():
    card = Card(CLASSES, small_model(), {"short_side": 200, "long_side": 352})
    assert canvas_of(card) == (224, 352)
    with pytest.raises(ValueError, match="give --canvas HEIGHT WIDTH"):
        canvas_of(Card(CLASSES, small_model()))


@pytest.mark.long
def test_program_runs_where_this_package_is_not(checkpoint, tmp_path):
    directory, deployed = checkpoint
    path = export(Options(directory, "torch", canvas=CANVAS, out=tmp_path / "student.pt2"))
    images, sizes = pictures(3)
    torch.save((images, sizes), tmp_path / "in.pt")
    script = (
        "import sys, torch, torchvision\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "torch.save(program(*torch.load(sys.argv[2])), sys.argv[3])\n"
        "assert not {'model', 'kernels'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-I", "-c", script, str(path), str(tmp_path / "in.pt"), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert_same(torch.load(tmp_path / "out.pt"), deployed(images, sizes))


NARROW = {"backbone": "resnet18", "weights": "none", "norm": "frozen", "fpn_channels": 32, "detections_per_image": 20}
HEAD = {"head_channels": 32, "num_convs": 1, "score_threshold": 0.02, "candidates_per_level": 50, "nms_threshold": 0.9}
STYLES = (
    RetinaNetConfig(**NARROW, **HEAD, style="torchvision"),
    FcosConfig(**NARROW, **HEAD, norm_groups=4, style="torchvision"),
)


@pytest.mark.long
@pytest.mark.parametrize("config", STYLES, ids=lambda config: f"{config.kind} {getattr(config, 'style', '')}")
def test_onnx_of_other_conventions(config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    torch.manual_seed(0)
    detector = new_detector(config, 4).eval()
    torch.nn.init.normal_(detector.head.class_output.weight, std=0.2)
    torch.nn.init.constant_(detector.head.class_output.bias, -1.0)
    save_detector(tmp_path / "run", detector, config, CLASSES)
    path = export(Options(tmp_path / "run", "onnx", canvas=CANVAS))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for num_images in (1, 3):
        images, sizes = pictures(num_images)
        got = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        assert_same(got, Deployed(detector)(images, sizes))
    with pytest.raises(ValueError, match="--to torchvision: "):
        export(Options(tmp_path / "run", "torchvision"))


def test_torchvision_has_no_further_inputs(tmp_path):
    config = ModelConfig(backbone="resnet18", **SMALL, inputs=("rgb", "gated"), extra_channels=(3,))
    save_detector(tmp_path / "two_stage", new_detector(config, 4), config, CLASSES)
    with pytest.raises(ValueError, match="takes other pixels or inputs than torchvision's"):
        export(Options(tmp_path / "two_stage", "torchvision"))


@pytest.mark.long
def test_onnx_of_mmdetections_regions(lively_detector, tmp_path):
    """Aligned regions with as many samples as they have pixels; and torchvision, which has others, is refused."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    config = ModelConfig(backbone="resnet18", style="mmdetection", **SMALL)
    detector = lively_detector(config).eval()
    save_detector(tmp_path / "run", detector, config, CLASSES)
    path = export(Options(tmp_path / "run", "onnx", canvas=CANVAS))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images, sizes = pictures(3)
    got = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    assert_same(got, Deployed(detector)(images, sizes))
    with pytest.raises(ValueError, match="has mmdetection's anchors and regions"):
        export(Options(tmp_path / "run", "torchvision"))


def test_suppression_for_export_equals_the_operator():
    """Rows of different fullness, groups, missing candidates, slots that run out."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 100, (3, 90, 2), generator=generator)
    boxes = torch.cat((corner, corner + torch.randint(1, 40, (3, 90, 2), generator=generator)), dim=2).float()
    scores = torch.rand(3, 90, generator=generator)
    scores[1, 10:] = -torch.inf
    scores[2] = -torch.inf
    groups = torch.randint(0, 3, (3, 90), generator=generator)
    for num_slots in (4, 200):
        expected = nms_module.nms(boxes, scores, groups, 0.3, num_slots)
        got = nms_module._nms_from_torchvision(boxes, scores, groups, 0.3, num_slots)
        assert torch.equal(got[1], expected[1])
        assert torch.equal(got[0], expected[0])


def test_missing_exporter_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr("model.export.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"onnx and onnxscript and .*; pip install -c constraints\.txt -e '\.\[export\]'"
    ):
        export(Options(checkpoint[0], "onnx", canvas=CANVAS))


def test_canvas_must_fit_the_pyramid(checkpoint):
    with pytest.raises(ValueError, match="multiples of 32"):
        export(Options(checkpoint[0], "torch", canvas=(100, 128)))
