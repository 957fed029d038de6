"""python -m eval.translate: the same bytes again, the same boxes, what vanished is ignored; and what is refused."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from eval.detecting import translated
from eval.detecting.translated import best_scores
from eval.translate_options import TranslateOptions
from model.build import build_detector
from model.config import small_model
from model.translation import build
from model.translation.build import GeneratorConfig, make_generator, save_generator
from model.translation.pictures import translate
from model.weights.checkpoint import save_detector
from pipeline.command.ranks import World
from pipeline.files.pixels import decode_packed
from pipeline.packed.reader import PackedDataset

ALONE = World(0, 1, torch.device("cpu"))
translate_dataset = partial(translated.translate_dataset, world=ALONE)
CONFIG = GeneratorConfig(width=4, num_blocks=1, num_masks=3)
EXTRA = {"short_side": 64, "long_side": 96, "source_domains": ["daytime_clear"], "target_domains": ["night_rainy"]}


@pytest.fixture
def run(tmp_path):
    """A generator of random weights."""
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    save_generator(tmp_path / "run", make_generator(CONFIG), CONFIG, EXTRA)
    return tmp_path / "run"


@pytest.fixture
def blind_run(tmp_path):
    """A generator that paints everything grey."""
    generator = make_generator(CONFIG)
    with torch.no_grad():
        generator.deconv3_attention.bias.copy_(torch.tensor([99.0, 0.0, 0.0]))
        generator.deconv3_content.weight.zero_()
        generator.deconv3_content.bias.zero_()
    (tmp_path / "blind").mkdir()
    save_generator(tmp_path / "blind", generator, CONFIG, EXTRA)
    return tmp_path / "blind"


@pytest.fixture
def options(run, scored, tmp_path):
    return TranslateOptions(run=run, data=scored.data["daytime_clear"], out=tmp_path / "out", device="cpu")


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".parquet")}


def test_ids_boxes_and_sizes_stay_and_the_bytes_come_again(options, tmp_path, capsys):
    translate_dataset(options)
    with PackedDataset(options.data) as source, PackedDataset(options.out) as made:
        made.verify()
        assert made.domains == ["daytime_clear_to_night_rainy"]
        assert made.ids_N.tolist() == source.ids_N.tolist()
        assert np.array_equal(made.sizes_N2, source.sizes_N2)
        for row in range(len(source)):
            for one, other in zip(source.target(row), made.target(row), strict=True):
                assert np.array_equal(one, other)
            before, after = (decode_packed(data.jpeg(row)) for data in (source, made))
            assert before.shape == after.shape
            assert not np.array_equal(before, after)
    assert "warning" not in capsys.readouterr().out
    again = replace(options, out=tmp_path / "again", domain="dusk")
    translate_dataset(again)
    with PackedDataset(again.out) as other, PackedDataset(options.out) as made:
        assert other.domains == ["dusk"]
        assert all(bytes(other.jpeg(row)) == bytes(made.jpeg(row)) for row in range(len(other)))
    first = bytes_of(options.out)
    translate_dataset(options)
    assert "is already made, of the same images and options" in capsys.readouterr().out
    assert bytes_of(options.out) == first


def test_the_number_of_threads_changes_no_byte(options, tmp_path):
    before = torch.get_num_threads()
    made = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        translate_dataset(replace(options, out=tmp_path / f"threads{threads}"))
        assert torch.get_num_threads() == threads
        made.append(bytes_of(tmp_path / f"threads{threads}"))
    torch.set_num_threads(before)
    assert made[0] == made[1]


def test_a_killed_command_ends_with_the_same_bytes(options, tmp_path, monkeypatch):
    translate_dataset(options)
    killed, looked_at = replace(options, out=tmp_path / "killed"), []

    def translate_some(generator, picture):
        looked_at.append(picture)
        if len(looked_at) == 5:
            raise KeyboardInterrupt
        return translate(generator, picture)

    with monkeypatch.context() as patch:
        patch.setattr(translated, "translate", translate_some)
        with pytest.raises(KeyboardInterrupt):
            translate_dataset(killed)
    assert not (killed.out / "dataset.json").exists()
    translate_dataset(killed)
    assert bytes_of(killed.out) == bytes_of(options.out)


def test_what_vanished_is_ignored_counted_and_said(options, blind_run, scored, capsys):
    checked = replace(options, run=blind_run, detector=scored.checkpoint, seen=0.02, gone=0.01)
    translate_dataset(checked)
    printed = capsys.readouterr().out
    lost = 0
    with PackedDataset(options.data) as source, PackedDataset(checked.out) as made:
        for row in range(len(source)):
            before, after = source.target(row)[2], made.target(row)[2]
            assert (after >= before).all()
            lost += int((after & ~before).sum())
    assert lost > 0
    assert f"{lost} of " in printed
    assert "vanished (score of 0.02 or more in the original, below 0.01 in the translation)" in printed
    card = json.loads((checked.out / "dataset.json").read_text())
    assert card["source"]["seen"] == 0.02
    with pytest.raises(ValueError, match="made of other images or with other options"):
        translate_dataset(replace(checked, gone=0.015))


def test_a_detector_of_other_sensors_or_more_classes(options, tmp_path):
    """What it looks at must be there; classes that the data lacks do no harm."""
    known = ("bus", "car", "person")
    seeing = small_model(weights="none", norm="frozen", inputs=("rgb", "gated"), extra_channels=(3,))
    save_detector(tmp_path / "seeing", build_detector(seeing, 4), seeing, known, {})
    with pytest.raises(ValueError, match=r"--detector .*seeing looks at gated, 3 channels; .* has pictures only"):
        translate_dataset(replace(options, detector=tmp_path / "seeing"))
    plain, classes = small_model(weights="none", norm="frozen"), (*known, "tram")
    save_detector(tmp_path / "more", build_detector(plain, 5), plain, classes, {})
    translate_dataset(replace(options, detector=tmp_path / "more"))


def test_an_objects_score_is_the_best_of_its_class_that_overlaps_it():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]], np.float32)
    found = np.array([[0, 0, 10, 9], [0, 0, 10, 8], [20, 0, 30, 10], [20, 4, 30, 14], [0, 20, 10, 25]], np.float32)
    scores, labels = np.array([0.3, 0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 2, 1, 1])
    own = best_scores(boxes, np.array([1, 1, 1]), found, scores, labels, np.array([0, 1, 2]))
    assert own.tolist() == [0.9, 0.0, 0.6]
    mapped = best_scores(boxes, np.array([2, 1, 1]), found, scores, labels, np.array([0, 2, 1]))
    assert mapped.tolist() == [0.9, 0.8, 0.0]
    nothing = np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64), np.array([0, 1])
    assert best_scores(boxes, np.array([1, 1, 1]), *nothing).tolist() == [0, 0, 0]


def test_pictures_of_another_domain_or_size_are_warned_about(options, scored, capsys):
    save_generator(options.run, make_generator(CONFIG), CONFIG, EXTRA | {"short_side": 600, "long_side": 1000})
    translate_dataset(replace(options, data=scored.data["night_rainy"]))
    printed = capsys.readouterr().out
    assert "learned from pictures of --short-side 600 --long-side 1000" in printed
    assert "learned from other domains than night_rainy" in printed


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("generator", {"width": 4096}, "the weights do not fit its model.json"),  # gigabytes, if it were made
        ("generator", {"num_blocks": 10**9}, r"--generator.num-blocks must be 1 to 256, got 1000000000"),
        ("extra", {"target_domains": 5}, "extra.target_domains is '5', not a list; give another checkpoint"),
        ("extra", {"short_side": "x"}, "extra.short_side is 'x', not a whole number"),
        ("extra", [], r"extra is '\[\]', not an object"),
    ],
)
def test_a_foreign_card_is_checked_before_its_network_is_made(options, monkeypatch, part, change, message):
    path = options.run / "model.json"
    card = json.loads(path.read_text())
    card[part] = {**card[part], **change} if isinstance(change, dict) else change
    path.write_text(json.dumps(card))
    make = build.make_generator

    def make_nothing(config):
        assert torch.empty(1).device.type == "meta"
        return make(config)

    monkeypatch.setattr(build, "make_generator", make_nothing)
    with pytest.raises(ValueError, match=message):
        translate_dataset(options)


def test_mistakes_are_one_sentence(options, scored, tmp_path):
    with pytest.raises(ValueError, match=r"--gone 0\.2 has no effect without --detector"):
        replace(options, gone=0.2)
    with pytest.raises(ValueError, match="nothing could stay"):
        replace(options, detector=tmp_path, gone=0.9)
    with pytest.raises(ValueError, match="holds no generator but a detector"):
        translate_dataset(replace(options, run=scored.checkpoint))
    with pytest.raises(ValueError, match="works in one process; leave out torchrun"):
        translate_dataset(options, world=replace(ALONE, size=2))
    with pytest.raises(ValueError, match=r"the new domain's name 'a\\nb' has a control character"):
        translate_dataset(replace(options, domain="a\nb"))
    with pytest.raises(ValueError, match="lie in each other"):
        translate_dataset(replace(options, out=options.data / "inside"))
