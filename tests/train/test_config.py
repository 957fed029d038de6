"""Recipes and the command line."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from model.api import Detector, Want
from model.config import ModelConfig
from model.dense.config import GflConfig
from model.detectors import SMALL, DetectorConfig, new_detector
from pipeline.files.fields import from_json, to_json
from pipeline.views import ViewConfig
from train.config import Config, GroupRule, differences
from train.distill import METHODS, CrossKdConfig, PkdConfig
from train.options import ELSEWHERE
from train.recipes import RECIPES, TABLES, published
from train.recipes.sizes import OPTIMIZERS
from train.start import read_command

NEEDED = ["--data", "d", "--out", "o"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    config = replace(RECIPES[name][1](), data=(Path("d"),), out=Path("o"), teacher=Path("t"))
    text = json.dumps(to_json(config))
    assert from_json(Config, json.loads(text)) == config


def test_a_length_in_steps_takes_the_place_of_one_in_epochs_and_the_other_way_round():
    command = ["--data", "a", "--out", "b"]
    for recipe, given, wanted in (
        ("teacher_r50", ["--steps", "7"], (7, 0)),
        ("teacher_r50", ["--steps=7"], (7, 0)),
        ("teacher_small", ["--epochs", "2.5"], (0, 2.5)),
        ("teacher_small", [], (900, 0)),
        ("teacher_r50", ["--steps", "7", "--epochs", "0"], (7, 0)),
    ):
        config = read_command([recipe, *command, *given])
        assert (config.steps, config.epochs) == wanted
    with pytest.raises(SystemExit):
        read_command(["teacher_r50", *command, "--steps", "7", "--epochs", "2"])


def test_recipes_are_the_rows_of_the_ablation():
    assert set(RECIPES) >= {f"{kind}_{size}" for kind in ("teacher", "plain", "corrupt_only", "cdfkd")
                            for size in ("r101", "r50", "small")}  # fmt: skip
    for size in ("r101", "r50", "small"):
        plain, corrupted, student = (RECIPES[f"{kind}_{size}"][1]() for kind in ("plain", "corrupt_only", "cdfkd"))
        assert plain.views.corruptions == ()
        assert plain.views.ratio_range == (1.0, 1.0)
        assert corrupted.views == student.views == ViewConfig()
        assert plain.distill == ()
        assert corrupted.distill == ()
        (method,) = student.distill
        assert (method.alpha, method.beta) == (1.0, 1.0)
        assert method.strides == ((8, 16, 32) if size == "small" else (32,))  # the paper's level
        # Rows differ in nothing else.
        assert replace(plain, views=student.views) == corrupted
        assert replace(corrupted, distill=student.distill, teacher=student.teacher) == student
        assert RECIPES[f"teacher_{size}"][1]() == plain


def test_recipes_are_the_rows_of_crosskds_and_pkds_tables():
    """As published: weights of PKD beside CrossKD, lengths, and FCOS' own biases."""
    rows = {name: RECIPES[name][1]() for name in RECIPES if name.startswith(("crosskd", "pkd_"))}
    assert len(rows) == 2 + 2 + 1 + 2 + 2 + 2
    together = {"gfl": (6.0, 12), "retinanet": (2.0, 24), "fcos": (2.0, 24), "atss": (1.0, 12)}
    for kind, (weight, epochs) in together.items():
        config = rows[f"crosskd_pkd_{kind}_r50"]
        assert config.model.kind == kind
        assert config.distill == (CrossKdConfig(), PkdConfig(weight=weight))
        assert config.epochs == epochs
        assert config == replace(rows[f"crosskd_{kind}_r50"], distill=config.distill)
    assert rows["pkd_frcnn_r50"].distill == (PkdConfig(weight=6.0, strides=(4, 8, 16, 32)),)
    assert rows["crosskd_fcos_r50"].optimizer.bias == GroupRule(rate=2.0, decay=0.0)
    assert RECIPES["retinanet_swin_t"][1]().model.backbone == "swin_t"


@cache
def build(model: DetectorConfig) -> Detector:
    """Once for all rows that name it. Three slices, where a run learns the number of channels from its data."""
    with torch.device("meta"):
        return new_detector(replace(model, extra_channels=(3,) * (len(model.inputs) - 1)), 81)


@cache
def widths_of(network: Detector, want: Want) -> list[int]:
    """Of the maps that are kept."""
    with torch.device("meta"):
        images = torch.empty(1, network.config.num_channels, 64, 96)
        found = network.look(images, torch.tensor([[64, 96]]), want)
    return [level.shape[1] for level in found.neck if level is not None]


@pytest.mark.parametrize(("name", "row"), [each for rows in TABLES.values() for each in rows.items()])
def test_a_published_row_builds_with_its_teacher(name, row):
    """As shapes without numbers; then a look at a tiny canvas."""
    config, own = row.make(), lambda count: count
    student, teacher = build(config.model), None if row.teacher is None else build(RECIPES[row.teacher][1]().model)
    with torch.device("meta"):
        methods = [METHODS[type(method)](method, student, teacher, own) for method in config.distill]
    assert bool(methods) == (teacher is not None)
    assert not [method for method in methods if method.same_size and config.views.ratio_range != (1.0, 1.0)]
    for method in methods:
        for network, want in ((student, method.want_student), (teacher, method.want_teacher)):
            assert want == Want() or widths_of(network, want._replace(rois=0))


def test_the_list_names_the_teacher_of_every_row_that_needs_one():
    for rows in TABLES.values():
        for name, row in rows.items():
            assert RECIPES[name][0].endswith(f"; teacher: {row.teacher}") == bool(row.teacher)


def test_rows_of_coco_say_what_was_published():
    for rows in published.TABLES.values():
        assert all("AP" in row.text for name, row in rows.items() if name != "crosskd_roi_frcnn_r50")


@pytest.mark.parametrize("recipe", ["plain_r50", "teacher_r101", "cdfkd_r50"])
def test_the_optimizer_is_the_detectors_own(recipe):
    """Unless the recipe has one of its own, and an option wins."""
    needed = ["--data", "d", "--out", "o", *(["--teacher", "t"] if recipe.startswith("cdfkd") else [])]
    assert read_command([recipe, *needed]).optimizer.learning_rate == 0.02
    for kind, rate, clip in (("retinanet", 0.01, 0), ("fcos", 0.01, 35), ("atss", 0.01, 0), ("gfl", 0.01, 0)):
        config = read_command([recipe, *needed, "--model", kind])
        assert config.optimizer == OPTIMIZERS[kind]
        assert (config.optimizer.learning_rate, config.optimizer.clip_norm) == (rate, clip)
        assert config.optimizer.base_batch_size == 16
    config = read_command([recipe, *needed, "--model", "fcos", "--optimizer.learning-rate", "0.02"])
    assert config.optimizer == replace(OPTIMIZERS["fcos"], learning_rate=0.02)
    small = recipe.rsplit("_", 1)[0] + "_small"
    assert read_command([small, *needed, "--model", "fcos"]).optimizer == RECIPES[small][1]().optimizer


def test_a_small_recipe_takes_the_small_detector_of_a_kind():
    needed = ["--data", "d", "--out", "o"]
    for kind, small in SMALL.items():
        assert read_command(["plain_small", *needed, "--model", kind]).model == small
    chosen = read_command(["cmkd_teacher_small", *needed, "--model", "gfl", "--model.anchor-base", "4"]).model
    assert chosen == replace(SMALL["gfl"], inputs=("rgb", "gated"), anchor_base=4.0)
    large = read_command(["plain_r50", *needed, "--model", "gfl"]).model
    assert large == GflConfig(backbone="resnet50")


def test_recipes_are_the_rows_of_lds_tables():
    alone = RECIPES["gfl_r50"][1]()
    assert (alone.optimizer.learning_rate, alone.epochs, alone.distill) == (0.01, 12, ())
    rows = {name: RECIPES[name][1]() for name in RECIPES if name.startswith(("ld_", "self_ld_", "imitation_"))}
    assert len(rows) == 3 + 3 + 2 + 6 + 1
    for name, config in rows.items():
        network = f"resnet{name.split('_r')[-1]}"
        assert config == replace(
            RECIPES["gfl_" + name.split("_")[-1]][1](), distill=config.distill, teacher=config.teacher
        )
        assert config.model.backbone == network
        # Places are compared: both networks see one size.
        assert config.views.ratio_range == (1.0, 1.0)
    (main,), (whole,) = rows["ld_main_r18"].distill, rows["ld_r18"].distill
    assert (main.main_weight, main.valuable_weight, main.class_weight) == (0.25 * 3 / 2, 0, 0)  # 3 images a GPU, not 2
    assert rows["self_ld_r50"].distill == (main,)
    assert (whole.main_weight, whole.valuable_weight, whole.class_weight) == (0.25, 0.25, None)
    assert rows["imitation_main_r50"].distill[0].region == "main"
    assert rows["ld_general_r50"].distill == (whole, *rows["imitation_general_r50"].distill)
    assert "42.1 AP" in RECIPES["ld_r50"][0]


def test_any_field_is_overridden_on_the_command_line():
    config = read_command(
        ["cdfkd_r101", *NEEDED, "--teacher", "t", "--distill.beta", "0", "--distill.strides", "8", "16",
         "--optimizer.learning-rate", "0.5", "--views.ratio-range", "0.5", "0.9", "--model.backbone", "resnet18",
         "--views.corruptions", "fog", "snow", "--batch_size", "3"]
    )  # fmt: skip
    (method,) = config.distill
    assert (method.beta, method.strides) == (0.0, (8, 16))
    assert config.optimizer.learning_rate == 0.5
    assert config.views.ratio_range == (0.5, 0.9)
    assert config.views.corruptions == ("fog", "snow")
    assert config.model.backbone == "resnet18"
    assert config.batch_size == 3
    assert config.teacher == Path("t")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cdfkd_r101", *NEEDED, "--teacher", "t", "--optimizer.learnin-rate", "1"], "--optimizer.learning-rate"),
        (["plain_r50", *NEEDED, "--distill.alpha", "2"], "distill.alpha"),
        (["cdfkd_r101", *NEEDED], "--teacher"),
        (["teacher_small", "--data", "d"], "--out"),
        (["teacher_small", *NEEDED, "--device", "tpu"], "cpu"),
        (["teacher_small", *NEEDED, "--seed", "-1"], "Error parsing options: --seed must be 0 or more"),
    ],
)
def test_unknown_or_unused_options_are_errors_that_name_what_was_meant(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        read_command(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert told in printed.err + printed.out


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["--lr", "0.1"], "--optimizer.learning-rate"),
        (["--lr=0.1"], "--optimizer.learning-rate"),
        (["--optimizer.lr", "0.1"], "--optimizer.learning-rate"),
        (["--num_workers", "4"], "--loader.threads"),
    ],
)
def test_what_other_trainers_call_an_option_names_ours(given, ours):
    name = given[0].partition("=")[0]
    with pytest.raises(ValueError, match=f"^there is no option {name}; here it is {ours}$"):
        read_command(["teacher_small", *NEEDED, *given])


def test_names_of_other_trainers_are_no_options_of_ours_and_lead_to_some(capsys):
    with pytest.raises(SystemExit):
        read_command(["cdfkd_small", "--help"])
    options = set(re.findall(r"--[a-z][a-z.0-9-]*", capsys.readouterr().out))
    assert set(ELSEWHERE.values()) <= options
    assert not {f"--{name}" for name in ELSEWHERE} & options


def test_an_unknown_recipe_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"no recipe 'cdfkd_r10' \(nearest: cdfkd_r101\)"):
        read_command(["cdfkd_r10", *NEEDED])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--val-every", "5"], "--val-every is 5, but nothing is measured without --val"),
        (["--val-images", "5"], "--val-images is 5, but nothing is measured without --val"),
        (["--optimizer.milestones", "0.5"], "optimizer.milestones must be left out with the cosine schedule"),
        (["--loader.hardware-share", "0.2", "--loader.name", "cpu"], "hardware-share must be left out with the loader"),
        (["--loader.hardware-share", "2"], "loader.hardware-share must be in"),
        (["--loader.prefetch", "0"], "loader.prefetch must be at least 1"),
        (["--steps", "5", "--epochs", "2"], "either --epochs .* or --steps"),
        (["--epochs", "inf"], "--epochs must be a finite number, got inf"),
        (["--optimizer.learning-rate", "inf"], "--optimizer.learning-rate must be a finite number, got inf"),
    ],
)
def test_options_that_would_change_nothing_are_errors(arguments, told, capsys):
    with pytest.raises((ValueError, SystemExit)) as ended:
        read_command(["plain_small", *NEEDED, *arguments])
    printed = capsys.readouterr()
    text = re.sub(r"[\s│]+", " ", f"{ended.value} {printed.err} {printed.out}")
    assert re.search(told, text)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_help_lists_recipes_and_fields(arguments, code, capsys):
    with pytest.raises(SystemExit) as ended:
        read_command(arguments)
    assert ended.value.code == code
    text = capsys.readouterr().out
    assert all(name in text for name in RECIPES)
    with pytest.raises(SystemExit):
        read_command(["cdfkd_small", "--help"])
    text = capsys.readouterr().out
    for option in (
        "--teacher",
        "--student-init",
        "--distill.cd-fkd.alpha",
        "--optimizer.ema-decay",
        "--views.ratio-range",
    ):
        assert option in text


def test_a_config_file_with_an_unknown_field_is_an_error():
    values = to_json(replace(RECIPES["plain_small"][1](), data=(Path("d"),), out=Path("o")))
    values["optimizer"]["nesterov"] = True
    with pytest.raises(ValueError, match=r"config\.optimizer has \['nesterov'\]"):
        from_json(Config, values)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{not json", r"run.json is not JSON"),
        ("[]", r"run.json: it is '\[\]', not an object; give the config.json of a run"),
        ("{}", r"run.json lacks \['data', 'out'\]"),
        ('{"data": "d", "out": "o", "batch_size": "four"}', r"run.json.batch_size must be of type int, got 'four'"),
        ('{"data": "d", "out": "o", "batch_size": true}', r"run.json.batch_size must be of type int, got True"),
        ('{"data": "d", "out": "o", "epochs": 1e999}', r"run.json.epochs must be of type float, got inf"),
        ('{"data": "d", "out": "o", "seed": -1}', r"run.json: --seed must be 0 or more, got -1"),
        ('{"data": "d", "out": "o", "views": {"ratio_range": [1]}}', r"views.ratio_range must be a list of 2, got"),
        ('{"data": "d", "out": "o", "device": "tpu"}', r"run.json.device must be one of auto, cuda, cpu, got 'tpu'"),
        ('{"data": "d", "out": "o", "views": {"severities": 3}}', r"run.json.views.severities must be a list, got 3"),
    ],
)
def test_a_damaged_config_file_is_an_error_that_names_the_place(text, told, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_command([str(path)])


def test_differences_name_the_field_and_both_values():
    config = replace(RECIPES["cdfkd_small"][1](), data=(Path("d"),), out=Path("o"), teacher=Path("t"))
    free = {"out": Path("p"), "teacher": Path("u"), "save_every": 7, "compile": "off"}
    other = replace(config, seed=4, **free, distill=(replace(config.distill[0], alpha=0.5),))
    assert differences(to_json(config), to_json(other)) == [
        "distill.cd_fkd.alpha: 1.0 in the run, 0.5 requested",
        "seed: 0 in the run, 4 requested",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"seed": -1},
        {"epochs": 0.0},
        {"steps": 5},
        {"epochs": -1.0},
        {"log_every": 0},
        {"max_skipped": -1},
        {"student_init": "teacher", "model": ModelConfig(backbone="resnet50", weights="r50.pth")},
    ],
)
def test_senseless_values_are_errors_that_name_the_option(wrong):
    config = replace(RECIPES["plain_r50"][1](), data=(Path("d"),), out=Path("o"))
    with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
        replace(config, **wrong)


def test_a_config_of_a_single_path_still_replays(tmp_path):
    """As runs wrote it before there could be several datasets."""
    config = replace(RECIPES["plain_small"][1](), data=(Path("d"),), out=Path("o"))
    values = to_json(config)
    del values["data_weights"]
    values["data"] = "d"
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_command([str(tmp_path / "config.json")]) == config
    assert differences(to_json(from_json(Config, values)), to_json(config)) == []


def test_several_datasets_and_weights_on_the_command_line():
    config = read_command(["plain_small", "--data", "a", "b", "--data-weights", "1", "2.5", "--out", "o"])
    assert (config.data, config.data_weights) == ((Path("a"), Path("b")), (1.0, 2.5))
    again = replace(config, data_weights=(1.0, 2.0), data=(Path("c"), Path("d")))
    told = ["data_weights: [1.0, 2.5] in the run, [1.0, 2.0] requested"]
    assert differences(to_json(config), to_json(again)) == told


def test_divalign_trains_on_its_authors_corruptions():
    """The names that the golden case of its images records."""
    case = Path(__file__).parents[1] / "golden" / "oracles" / "distillation" / "divalign_images.json"
    config = RECIPES["divalign_r50"][1]()
    assert list(config.views.corruptions) == json.loads(case.read_text())["config"]["corruptions"]
    assert config.views.flip_probability == 0
    assert config.views.ratio_range == (1.0, 1.0)
    assert config.teacher is None
