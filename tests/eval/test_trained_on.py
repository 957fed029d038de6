"""What a model was trained on comes from its checkpoint, and what it has seen counts as no target."""

import json
import shutil

import pytest
import torch

from eval.evaluation import mark_trained, run
from eval.options import EvaluationOptions
from eval.report.page import build_report
from eval.results import load_run
from eval.table import domain_table
from eval.trained_on import PICTURES, SHORT, TrainingData, pictures_of
from model.weights.files import MARKER, describe_file
from pipeline.command.ranks import World
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.options import ReadOptions
from tests.eval.conftest import LONG_SIDE, SHORT_SIDE

ALONE = World(0, 1, torch.device("cpu"))
SHAPE = {"short_side": SHORT_SIDE, "long_side": LONG_SIDE, "raw": True, "workers": 1}


def entry(name, *domains, checksum="0" * 64):
    return {"name": name, "domains": list(domains), "checksum": checksum, "num_images": 5, "weight": 1.0}


def checkpoint_of(scored, folder, *entries):
    shutil.copytree(scored.checkpoint, folder)
    card = json.loads((folder / "model.json").read_text())
    card["extra"]["trained_on"] = list(entries)
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def evaluate(checkpoint, *data, **changes):
    run(EvaluationOptions(checkpoint, data, resamples=10, batch_size=2, pictures=False, report=False, **changes), ALONE)
    return load_run(changes.get("out", checkpoint))


def annotations_of(scored):
    return json.loads((scored.sources["night_rainy"] / "annotations" / "instances.json").read_text())


def pack_night(scored, root, content):
    """The night's pictures once more, as the domain tunnel."""
    shutil.copytree(scored.sources["night_rainy"] / "images", root / "source" / "images")
    (root / "source" / "annotations").mkdir()
    (root / "source" / "annotations" / "instances.json").write_text(json.dumps(content))
    pack(PackOptions(root / "source", root / "tunnel", domain="tunnel", **SHAPE))
    return PackedDataset(root / "tunnel")


def test_the_checkpoint_says_it_else_the_run_beside_it_else_nobody(scored, tmp_path):
    day, night = scored.dataset("daytime_clear"), scored.dataset("night_rainy")
    card = {"trained_on": [entry("a", "Daytime-Sunny"), entry("b", "night_rainy", checksum=night.checksum)]}
    card["trained_on"][1]["domains"] = {"night_rainy": 5}  # as training writes them, with their numbers of images
    told = TrainingData(tmp_path, card, [day, night])
    assert told.domains == ["daytime_clear", "night_rainy"]
    assert (told.count_shared(day, "daytime_clear"), told.count_shared(night, "night_rainy")) == (0, 5)
    old = tmp_path / "run"
    shutil.copytree(scored.checkpoint, old / "checkpoints" / "step-00000012")
    (old / "checkpoints" / "step-00000012" / "COMPLETE").touch()
    (old / "config.json").write_text(json.dumps({"data": str(scored.data["daytime_clear"])}))
    assert TrainingData(old, {}, []).datasets is None
    state = old / "checkpoints" / "step-00000012" / "state.json"
    state.write_text(json.dumps({"data_checksum": day.checksum}))
    for place in (old, state.parent):
        found = TrainingData(place, {}, [night])  # where config.json says
        assert found.datasets == [entry("daytime_clear", "daytime_clear", checksum=day.checksum) | {"num_images": 9}]
    state.write_text(json.dumps({"data_checksum": "1" * 64}))
    gone = TrainingData(old, {}, [day])
    assert gone.datasets == [entry("daytime_clear", checksum="1" * 64) | {"num_images": None}]
    assert gone.domains == []
    for wrong, said in (
        ([{"name": "a"}], "0 lacks domains, checksum"),
        (5, "it is '5', not a list"),
        ([entry("a") | {"weight": "1"}], "0.weight is '1', not a number"),
        ([entry("a") | {"domains": {"b": "1"}}], "0.domains is .*, not a list"),
    ):
        with pytest.raises(ValueError, match=rf"trained_on in its model\.json: {said}; restore the file"):
            TrainingData(tmp_path, {"trained_on": wrong}, [])
    assert TrainingData(tmp_path, {"trained_on": [entry("a") | {"more": 1}]}, []).datasets == [entry("a")]


def pack_both(scored, root):
    """The day's and the night's pictures as the domains day and night of one folder."""
    content = {}
    (root / "source" / "annotations").mkdir(parents=True)
    for number, (domain, name) in enumerate((("day", "daytime_clear"), ("night", "night_rainy"))):
        source = scored.sources[name]
        shutil.copytree(source / "images", root / "source" / "images" / domain)
        part = json.loads((source / "annotations" / "instances.json").read_text())
        for image in part["images"]:
            image |= {"id": image["id"] + 1000 * number, "file_name": f"{domain}/{image['file_name']}"}
        for annotation in part["annotations"]:
            annotation["id"] += 1000 * number
            annotation["image_id"] += 1000 * number
        content = {key: content.get(key, []) + part[key] for key in ("images", "annotations")} | {
            "categories": part["categories"]
        }
    (root / "source" / "annotations" / "instances.json").write_text(json.dumps(content))
    pack(PackOptions(root / "source", root / "both", read=ReadOptions(domain_name="{folder}"), **SHAPE))
    return root / "both"


def test_equal_pictures_in_another_dataset_are_shared(scored, tmp_path, capsys):
    """Packed again with one object less: another checksum, the same pictures. Where they are gone, that is said."""
    content = annotations_of(scored)
    tunnel, night = (
        pack_night(scored, tmp_path, content | {"annotations": content["annotations"][1:]}),
        scored.dataset("night_rainy"),
    )
    (tmp_path / "config.json").write_text(json.dumps({"data": [str(tunnel.path)]}))
    assert tunnel.checksum != night.checksum
    card = {"trained_on": [entry("tunnel", "tunnel", checksum=tunnel.checksum)]}
    told = TrainingData(tmp_path, card, [night])
    assert (told.count_shared(night, "night_rainy"), told.not_found()) == (5, [])
    shutil.rmtree(tunnel.path)
    figures: dict = {"night_rainy": {"num_images": 5}}
    mark_trained(figures, {"night_rainy": (None, night)}, told)
    assert "trained_images" not in figures["night_rainy"]
    assert "note: trained on tunnel, which is not where config.json says" in capsys.readouterr().out


def test_a_checkpoint_that_lists_its_pictures_needs_no_training_data(scored, tmp_path):
    """Three of the night's five, from a folder that is gone; another file of the same name is no list."""
    night = scored.dataset("night_rainy")
    card = {"trained_on": [entry("gone", "tunnel")]}
    assert TrainingData(tmp_path, card, [night]).not_found() == ["gone"]
    listed = pictures_of([night])
    (tmp_path / PICTURES).write_bytes(listed[: 3 * SHORT])
    told = TrainingData(tmp_path, card, [night])
    assert (told.count_shared(night, "night_rainy"), told.not_found()) == (3, [])
    assert told.count_shared(scored.dataset("daytime_clear"), "daytime_clear") == 0
    (tmp_path / PICTURES).write_bytes(listed[:-1])
    with pytest.raises(ValueError, match=r"pictures\.bin has 39 bytes"):
        TrainingData(tmp_path, card, [night])
    (tmp_path / PICTURES).write_bytes(listed)
    (tmp_path / MARKER).write_text(json.dumps({PICTURES: [describe_file(tmp_path / PICTURES)]}))
    assert TrainingData(tmp_path, card, [night]).count_shared(night, "night_rainy") == 5
    (tmp_path / PICTURES).write_bytes(listed[SHORT:])
    with pytest.raises(ValueError, match=r"is damaged: pictures\.bin is not as it was written; give another"):
        TrainingData(tmp_path, card, [night])


def test_what_was_trained_on_is_marked_and_no_target(scored, tmp_path, capsys):
    tunnel = pack_night(scored, tmp_path, annotations_of(scored))
    model = checkpoint_of(scored, tmp_path / "model", entry("n", "tunnel", "mine", checksum=tunnel.checksum))
    (model / "config.json").write_text(json.dumps({"data": [str(tunnel.path)]}))
    found = evaluate(model, *scored.data.values())
    printed = capsys.readouterr().out
    assert "warning: the detector, its teacher or its start was trained on 5 of the 5 images of night_rainy" in printed
    assert "trained on 2 domains: tunnel, mine" in printed
    assert found.results["source"] is None
    assert found.results["mean_of_targets"]["domains"] == ["daytime_clear"]
    assert found.results["domains"]["night_rainy"]["trained_images"] == 5
    assert "trained_on" not in found.results["detector"]
    table = domain_table([found])
    assert "\nnight_rainy *" in table
    assert "* model, night_rainy: it, its teacher or its start was trained on 5 of the 5 images" in table
    page = build_report([found])
    assert "Trained on 2 domains: tunnel, mine" in page
    for section in ("domains", "classes", "curves", "sizes", "details"):
        part = page[page.index(f'<section id="{section}">') :]
        assert "Night-Rainy *" in part[: part.index("</section>")], section


def test_training_on_one_domain_of_a_dataset_marks_that_one_alone(scored, tmp_path):
    """--domains in training: the others of the same folder stay targets."""
    folder = pack_both(scored, tmp_path)
    both = PackedDataset(folder)
    card = {"trained_on": [entry("both", "day", checksum=both.checksum)]}
    told = TrainingData(tmp_path, card, [both])
    assert [told.count_shared(both, name) for name in ("day", "night")] == [9, 0]
    part = PackedDataset(folder, ["night"])
    assert (len(part), TrainingData(tmp_path, card, [part]).count_shared(part, "night")) == (5, 0)
    found = evaluate(scored.checkpoint, folder, domains=("nig*",), out=tmp_path / "out")
    assert found.domains == ["night"]
    every = evaluate(scored.checkpoint, folder, out=tmp_path / "every")
    assert found.results["domains"]["night"] == every.results["domains"]["night"]


def test_no_domain_is_called_the_source_that_was_not_trained_on(scored, tmp_path, capsys):
    """Trained on clear days elsewhere, evaluated on the night and on a domain without any object."""
    tunnel = pack_night(scored, tmp_path, annotations_of(scored) | {"annotations": []})
    model = checkpoint_of(scored, tmp_path / "model", entry("clear", "daytime_clear"))
    found = evaluate(model, scored.data["night_rainy"], tunnel.path)
    assert "the domain tunnel has no object that counts, so it is left out" in capsys.readouterr().out
    assert (found.results["source"], found.domains) == (None, ["night_rainy"])
    assert found.results["mean_of_targets"]["domains"] == ["night_rainy"]
    page = build_report([found])
    assert "Trained on Daytime-Clear; none of the domains here was trained on." in page
    assert "Trained on Night" not in page
    given = evaluate(scored.checkpoint, scored.data["night_rainy"], out=tmp_path / "given")
    assert "source as given: night_rainy" in capsys.readouterr().out
    assert "Source as given: Night-Rainy; what was trained on is not known." in build_report([given])


def test_where_nothing_that_is_evaluated_was_trained_on_it_is_said(scored, tmp_path, capsys):
    """A validation set that was packed under a name of its own would count as a target without a word."""
    folder = checkpoint_of(scored, tmp_path / "elsewhere", entry("a", "elsewhere"))
    evaluate(folder, *scored.data.values(), out=tmp_path / "out")
    said = "note: trained on elsewhere, which is not among daytime_clear, night_rainy: each of these counts as a target"
    assert said in capsys.readouterr().out
    evaluate(folder, *scored.data.values(), out=tmp_path / "other", source="daytime_clear")
    assert "counts as a target" not in capsys.readouterr().out
