"""State dicts for torchvision: its own modules load them strictly and find the same."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from model.backbones.torchvision_fpn import build_torchvision
from model.config import ModelConfig, small_model
from model.dense.config import FcosConfig, GflConfig, RetinaNetConfig
from model.dense.stock import build_dense, missing_options, stock_state, stock_twin
from model.deployed import Deployed
from model.detectors import new_detector
from model.export import Options, export
from model.for_torchvision import loading_code, torchvision_constructor
from model.weights.checkpoint import Card, load_detector, save_detector
from tests.model.stock import compare_detections
from tests.model.test_export import CANVAS, CLASSES, assert_same, pictures

NARROW = {"backbone": "resnet18", "weights": "none", "norm": "frozen", "fpn_channels": 64, "head_channels": 64}
FEW = {"candidates_per_level": 60, "detections_per_image": 40, "nms_threshold": 0.8}
LIKE_TORCHVISION = {
    "v1": RetinaNetConfig(**NARROW, **FEW, style="torchvision", coarse_from="p5", coarse_relu=True),
    "v2": RetinaNetConfig(**NARROW, **FEW, style="torchvision", coarse_relu=True, norm_groups=32),
    "fcos": FcosConfig(**NARROW, **FEW, style="torchvision", distances="relu", centerness_from="box", num_convs=2),
    "fcos with biases": FcosConfig(
        **NARROW, **FEW, style="torchvision", distances="relu", centerness_from="box", tower_bias=True
    ),
}


def test_state_dict_runs_in_torchvision(lively_detector, tmp_path, capsys):
    """What the export prints can be pasted: it loads torchvision's module, which finds the same."""
    config = ModelConfig(
        backbone="mobilenet_v3_large", weights="none", norm="frozen", rpn_post_nms_test=100, score_threshold=0.2
    )
    detector = lively_detector(config)
    size = {"short_side": CANVAS[0], "long_side": CANVAS[1]}
    save_detector(tmp_path / "student", detector, config, CLASSES, size)
    export(Options(tmp_path / "student", "torchvision"))
    code = capsys.readouterr().out.split("\n\n")[1]
    names: dict = {}
    exec(code, names)
    assert "import model" not in code
    images, _ = pictures(1)
    with torch.no_grad():  # in float64: torchvision's own forward sums in another order
        (found,) = names["detector"].double()([images[0].double() / 255])
    wanted = Deployed(detector.double(), torch.float64)(images, torch.tensor([CANVAS]))
    count = int(wanted[3][0])
    assert_same(
        (found["boxes"], found["scores"], found["labels"], torch.tensor(len(found["scores"]))),
        (wanted[0][0, :count], wanted[1][0, :count], wanted[2][0, :count], wanted[3][0]),
    )


def test_what_is_printed_for_an_unusual_detector_loads_it(tmp_path):
    config = small_model(weights="none")
    state = build_torchvision(config, 3).state_dict()
    torch.save(state, tmp_path / "a.pth")
    names: dict = {}
    exec(loading_code(Card(("car", "bus"), config), tmp_path / "a.pth"), names)
    assert not names["detector"].training
    assert names["detector"].transform.max_size == 1333
    got = names["detector"].state_dict()
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "name", ["v1", "fcos", *(pytest.param(name, marks=pytest.mark.long) for name in ("v2", "fcos with biases"))]
)
def test_dense_detectors_of_torchvision(name, lively_dense, tmp_path, capsys):
    """One picture that no stride divides, through torchvision's module strictly loaded, and read back by our reader."""
    config = replace(LIKE_TORCHVISION[name], score_threshold=0.3)
    detector = lively_dense(config)
    detector.head.box_output.weight.data *= 0.3  # deltas as trained ones: exponentials of large ones magnify rounding
    save_detector(tmp_path / "run", detector, config, CLASSES, {"short_side": 90, "long_side": 120})
    path = export(Options(tmp_path / "run", "torchvision"))
    told = capsys.readouterr().out
    assert int(re.search(r"checked in torchvision: (\d+) detections are the same", told)[1]) > 20
    names: dict = {}
    exec(told.split("\n\n")[1], names)
    stock = names["detector"]
    size = (89, 118)
    stock.transform.min_size, stock.transform.max_size = (size[0],), size[1]
    stock.transform.image_mean, stock.transform.image_std = [0.0] * 3, [1.0] * 3
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = stock(list(image))
    padded = nn.functional.pad(image, (0, 10, 0, 7))
    found = detector.detect(padded, torch.tensor([size]))
    assert found.count_B[0] > 10
    assert compare_detections(found, expected) < 1e-4

    read, card = load_detector(path, classes=CLASSES)
    assert card.config.style == "torchvision"
    if config.num_convs == 4 and config.norm_groups in (0, 32):
        again = read.state_dict()
        for key, value in detector.state_dict().items():
            assert torch.equal(again[key], value), key


def test_an_untrained_output_for_label_0_never_answers(lively_dense):
    config = replace(LIKE_TORCHVISION["fcos"], score_threshold=0.0)
    stock = stock_twin(lively_dense(config).eval())
    with torch.no_grad():
        logits_BNK = stock.head(list(stock.backbone(torch.randn(1, 3, 64, 96)).values()))["cls_logits"]
    assert (logits_BNK[..., 0].sigmoid() == 0).all()
    assert (logits_BNK[..., 1:].sigmoid() > 0).all()


def test_torchvisions_own_constructors_take_the_usual_sizes():
    """Names and shapes only: a strict load of weights that hold no memory."""
    shared = {"weights": "none", "style": "torchvision", "coarse_relu": True}
    wanted = {
        "retinanet_resnet50_fpn(": RetinaNetConfig(**shared, coarse_from="p5"),
        "retinanet_resnet50_fpn_v2(": RetinaNetConfig(**shared, norm_groups=32),
        "fcos_resnet50_fpn(": FcosConfig(**shared, distances="relu", centerness_from="box"),
    }
    import torchvision  # noqa: F401  the code names it

    for start, config in wanted.items():
        code = torchvision_constructor(config, 4)
        assert code.startswith(f"torchvision.models.detection.{start}weights=None")
        with torch.device("meta"):
            state = stock_state(new_detector(config, 4)) if "fcos" not in start else build_dense(config, 4).state_dict()
            shapes = {name: value.shape for name, value in eval(code).state_dict().items()}
        assert {name: value.shape for name, value in state.items()} == shapes
    other = replace(wanted["fcos_resnet50_fpn("], stride_in_1x1=True)
    assert torchvision_constructor(other, 4).startswith("model.dense.stock.build_dense(model.dense.config.FcosConfig(")


def test_what_torchvision_cannot_be_is_refused_with_the_options_that_it_needs(lively_dense, tmp_path):
    assert missing_options(FcosConfig()) == [
        "--model.style torchvision", "--model.distances relu", "--model.centerness-from box",
    ]  # fmt: skip
    assert missing_options(RetinaNetConfig(num_convs=3, norm_groups=32, tower_bias=True)) == [
        *("--model.style torchvision", "--model.coarse-relu", "--model.num-convs 4", "--model.no-tower-bias"),
    ]
    wide = RetinaNetConfig(backbone="resnet18", fpn_channels=512, head_channels=512)
    assert missing_options(replace(wide, style="torchvision", coarse_relu=True)) == ["--model.coarse-from p5"]
    for config, said in (
        (RetinaNetConfig(**NARROW), "one trained with --model.style torchvision --model.coarse-relu, this was not"),
        (GflConfig(**NARROW), "writes a Faster R-CNN, RetinaNet or FCOS; this is a gfl"),
        (replace(LIKE_TORCHVISION["v1"], pixel_order="bgr"), "takes other pixels or inputs than torchvision's"),
    ):
        save_detector(tmp_path / "run", new_detector(config, 4), config, CLASSES)
        with pytest.raises(ValueError, match=said):
            export(Options(tmp_path / "run", "torchvision"))
    config = LIKE_TORCHVISION["fcos"]
    detector = new_detector(config, 4)
    detector.head.scales[2].data.fill_(1.5)
    with pytest.raises(ValueError, match=r"scales the distances of level 2 by 1\.5"):
        stock_state(detector)


def test_scales_of_levels_are_learnt_only_where_the_style_has_them():
    for style, learns in (("torchvision", False), ("mmdetection", True)):
        config = FcosConfig(**NARROW, style=style)
        assert all(scale.requires_grad == learns for scale in new_detector(config, 4).head.scales)


def test_sentence_of_zero_epsilon_does_not_name_a_constructor_that_has_another():
    config = ModelConfig(backbone="resnet50", weights="none", norm_epsilon=0.0)
    assert "norm_epsilon=0.0" in torchvision_constructor(config, 3)
