"""Packed datasets made from packed datasets: the same pictures, other boxes, weights; shares of one."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline import together
from pipeline.loading.loader import open_loader
from pipeline.loading.mixture import Mixture
from pipeline.packed import derive as module
from pipeline.packed.card import card_bytes, read_card
from pipeline.packed.derive import Objects, derive, nothing_known, own_objects
from pipeline.packed.reader import PackedDataset
from pipeline.share import ShareOptions, share
from pipeline.views import ViewConfig, ViewMaker


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weigh(dataset):
    """Box number g of image i weighs 1 / (1 + g + i)."""

    def annotate(rows):
        targets = [(row, *dataset.original_target(row)) for row in rows]
        return [Objects(*rest, 1 / (1 + np.arange(len(rest[1])) + row)) for row, *rest in targets]

    return annotate


def test_a_copy_is_the_same_in_all_but_its_shards(make_packed, tmp_path):
    dataset = make_packed()
    assert derive(dataset, tmp_path / "copy", range(23), {}, own_objects(dataset))
    copy = PackedDataset(tmp_path / "copy")
    copy.verify()
    assert (copy.ids_N == dataset.ids_N).all()
    assert copy.file_names == dataset.file_names
    assert copy.domain_counts == dataset.domain_counts
    assert not copy.weighted
    assert "weights" not in copy.info
    for i in range(23):
        assert bytes(copy.jpeg(i)) == bytes(dataset.jpeg(i))
        for read in ("target", "original_target"):
            for ours, theirs in zip(getattr(copy, read)(i), getattr(dataset, read)(i), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_weights_reach_the_views(make_packed, tmp_path):
    dataset = make_packed()
    derive(dataset, tmp_path / "weighed", range(23), {}, weigh(dataset), weighted=True)
    weighed = PackedDataset(tmp_path / "weighed")
    assert weighed.weighted
    with open_loader(Mixture([dataset, weighed]), 5, shuffle=False) as loader:
        seen = 0
        for batch in loader:
            views = ViewMaker(ViewConfig(masks=1), threads=1)(batch)
            assert views.weight_BG is batch.weight_BG
            for b, number in enumerate(batch.ids_B.tolist()):
                row = dataset.index_of(number % 10**12) if number >= 0 else 0
                expected = torch.ones(views.weight_BG.shape[1])
                if number >= 10**12:
                    slots = len(dataset.target(row)[1])
                    expected[:slots] = 1 / (1 + torch.arange(slots) + row)
                torch.testing.assert_close(views.weight_BG[b], expected)
                seen += number >= 0
    assert seen == 46


def test_weights_stand_in_the_records_and_survive_a_choice_of_domains(make_packed, tmp_path):
    dataset = make_packed(5)
    derive(dataset, tmp_path / "weighed", [3], {}, weigh(dataset), weighted=True)
    text = (tmp_path / "weighed/shard-000000.tar").read_bytes()
    record = json.loads(text[text.index(b'{"id"') : text.index(b"]}\0") + 2])
    assert [one["weight"] for one in record["objects"]] == pytest.approx([1 / 4, 1 / 5, 1 / 6])
    part = PackedDataset(tmp_path / "weighed", [dataset.domains[0]])
    np.testing.assert_allclose(part.box_weights(0), [1 / 4, 1 / 5, 1 / 6])


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.5, float("nan")])
def test_weights_that_cannot_be_are_refused(make_packed, tmp_path, wrong):
    dataset = make_packed(4)

    def annotate(rows):
        return [Objects(*dataset.original_target(row), np.full(row, wrong)) for row in rows]

    derive(dataset, tmp_path / "weighed", range(4), {}, annotate, weighted=True)
    with pytest.raises(ValueError, match="weights of boxes that are not above 0 and at most 1"):
        PackedDataset(tmp_path / "weighed")


def test_an_older_version_refuses_weights(make_packed, tmp_path, monkeypatch):
    dataset = make_packed(4)
    derive(dataset, tmp_path / "weighed", range(4), {}, weigh(dataset), weighted=True)
    from pipeline.packed import card

    monkeypatch.setattr(card, "SHAPE", {name: kind for name, kind in card.SHAPE.items() if name != "weights?"})
    with pytest.raises(ValueError, match=r"it has \['weights'\], which this version does not know"):
        read_card(tmp_path / "weighed")


def test_a_killed_run_continues_to_the_same_bytes(make_packed, tmp_path):
    dataset = make_packed(40)  # three shards
    derive(dataset, tmp_path / "whole", range(40), {"a": 1}, weigh(dataset), weighted=True)
    asked = []

    def killed(rows):
        asked.append(rows[0])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return weigh(dataset)(rows)

    with pytest.raises(KeyboardInterrupt):
        derive(dataset, tmp_path / "again", range(40), {"a": 1}, killed, weighted=True)
    assert not (tmp_path / "again/dataset.json").exists()
    derive(dataset, tmp_path / "again", range(40), {"a": 1}, killed, weighted=True)
    assert asked == [0, 16, 32, 32]
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    assert not derive(dataset, tmp_path / "again", range(40), {"a": 1}, killed, weighted=True)
    with pytest.raises(ValueError, match="made of other images or with other options: delete it"):
        derive(dataset, tmp_path / "again", range(40), {"a": 2}, killed, weighted=True)


def test_a_folder_with_other_files_is_left_alone(make_packed, tmp_path):
    dataset = make_packed(2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and was not begun"):
        derive(dataset, tmp_path / "mine", [0], {}, own_objects(dataset))
    with pytest.raises(ValueError, match="lie in each other"):
        derive(dataset, dataset.path / "inside", [0], {}, own_objects(dataset))


def test_unlabelled_images_are_known(make_packed, tmp_path):
    dataset = make_packed(7)
    assert not dataset.unlabelled_N.any()
    known = own_objects(dataset)

    def annotate(rows):
        return [(nothing_known(dataset) if row % 2 else known)([row])[0] for row in rows]

    derive(dataset, tmp_path / "half", range(7), {}, annotate)
    half = PackedDataset(tmp_path / "half")
    assert half.unlabelled_N.tolist() == [row % 2 == 1 for row in range(7)]
    assert half.target(1)[1].tolist() == [1, 2]


def test_shares_are_a_function_of_the_ids(make_packed, tmp_path):
    dataset = make_packed(23)
    share(ShareOptions(dataset.path, tmp_path / "few", tmp_path / "many", hide=True))
    few, many = PackedDataset(tmp_path / "few"), PackedDataset(tmp_path / "many")
    assert len(few) == round(0.2 * 23)
    assert sorted([*few.ids_N, *many.ids_N]) == sorted(dataset.ids_N)
    assert many.unlabelled_N.all()
    for i in range(len(few)):
        row = dataset.index_of(int(few.ids_N[i]))
        np.testing.assert_array_equal(few.target(i)[0], dataset.target(row)[0])
    share(ShareOptions(dataset.path, tmp_path / "few2", tmp_path / "many2", seed=1))
    assert set(PackedDataset(tmp_path / "few2").ids_N) != set(few.ids_N)
    assert not PackedDataset(tmp_path / "many2").unlabelled_N.any()


def test_wrong_shares_are_one_sentence(make_packed, tmp_path):
    dataset = make_packed(3)
    with pytest.raises(ValueError, match="--share 1: expected more than 0 and less than 1"):
        share(ShareOptions(dataset.path, tmp_path / "a", tmp_path / "b", share=1.0))
    with pytest.raises(ValueError, match="give two folders"):
        share(ShareOptions(dataset.path, tmp_path / "a", tmp_path / "a"))
    for first, rest in (("a", "a/x"), ("a/x", "a")):  # the second would be refused when the first is written
        with pytest.raises(ValueError, match="lie in each other; give two folders"):
            share(ShareOptions(dataset.path, tmp_path / first, tmp_path / rest))
    assert not (tmp_path / "a").exists()
    share(ShareOptions(dataset.path, tmp_path / "one", tmp_path / "two", share=0.3))
    with pytest.raises(ValueError, match="has one image, and both parts need one; give it more"):
        share(ShareOptions(tmp_path / "one", tmp_path / "a", tmp_path / "b"))


@pytest.mark.parametrize(("part", "num"), [(0.01, 1), (0.99, 2)])
def test_both_parts_have_an_image(make_packed, tmp_path, part, num):
    share(ShareOptions(make_packed(3).path, tmp_path / "a", tmp_path / "b", share=part))
    assert [len(PackedDataset(tmp_path / name)) for name in "ab"] == [num, 3 - num]


def test_the_command(make_packed, tmp_path):
    dataset = make_packed(6)
    command = [sys.executable, "-m", "pipeline.share", dataset.path, tmp_path / "a", tmp_path / "b", "--share", "0.5"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a: 3 images" in done.stdout


def test_a_card_of_before_has_no_weights(make_packed):
    dataset = make_packed(2)
    assert "weights" not in json.loads(card_bytes(dataset.info))
    assert dataset.box_weights(1).tolist() == [1.0]
    assert module.all_ignored((3, 5), 2).boxes_N4.tolist() == [[0, 0, 5, 3]] * 2


def test_whether_datasets_fit_together(make_packed, tmp_path, monkeypatch, capsys):
    whole, other = make_packed(), make_packed(name="other", classes=("car", "bus"))
    share(ShareOptions(whole.path, tmp_path / "few", tmp_path / "rest", share=0.3))

    def ask(*words) -> str:
        monkeypatch.setattr("sys.argv", ["together", *map(str, words)])
        together.main()
        return capsys.readouterr().out

    assert "2 datasets fit together: bus, car" in ask(tmp_path / "few", tmp_path / "rest", "--apart")
    assert "2 datasets fit together" in ask(whole.path, tmp_path / "rest")
    with pytest.raises(
        ValueError, match=rf"\d+ pictures of {whole.path} are also in {tmp_path / 'rest'}; each belongs"
    ):
        ask(tmp_path / "rest", whole.path, "--apart")
    with pytest.raises(ValueError, match="the class lists differ"):
        ask(whole.path, other.path)
    with pytest.raises(ValueError, match="two packed datasets are needed at least"):
        ask(whole.path)
