"""Pseudo-labels: scores chosen on labelled images, detections as boxes, agreement of views, bad input."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.detecting import pseudo_labels
from eval.detecting.agreement import found_again, mirrored, smaller
from eval.detecting.detect import Pass, detect_dataset
from eval.detecting.pseudo_labels import Scores, label, make_objects, read_scores
from eval.detecting.thresholds import Threshold, Verdicts, choose, judge, measure
from eval.metrics.interchange import Detections, ground_truth_of
from eval.pseudo_options import PseudoLabelOptions
from model.api import Detections as Found
from pipeline.command.ranks import World
from pipeline.packed.derive import derive, nothing_known
from pipeline.packed.reader import PackedDataset
from tests.eval.worlds import make_detections, make_truth, random_world

ALONE = World(0, 1, torch.device("cpu"))


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def options(scored, tmp_path):
    return PseudoLabelOptions(
        scored.checkpoint, scored.data["night_rainy"], tmp_path / "out", high=("0.4",), low=("0.2",), batch_size=2
    )


# --- the choice of scores ---


def test_scores_by_hand():
    """Class 1, falling: right, right, wrong, right, wrong, and two of equal score of which one is right."""
    boxes = [(0, 1, 50 * i, 0, 40, 40) for i in range(6)]
    truth = make_truth([*boxes, (0, 1, 0, 200, 40, 40, True)])
    found = make_detections(
        [(0, 1, 0, 0, 40, 40, 0.9), (0, 1, 50, 0, 40, 40, 0.8), (0, 1, 300, 300, 9, 9, 0.7),
         (0, 1, 100, 0, 40, 40, 0.6), (0, 1, 300, 300, 9, 9, 0.5), (0, 1, 150, 0, 40, 40, 0.4),
         (0, 1, 300, 300, 9, 9, 0.4), (0, 1, 0, 200, 40, 40, 0.95), (0, 2, 0, 0, 40, 40, 0.99)]
    )  # fmt: skip
    verdicts = judge([truth], found, 1)
    assert verdicts.right_D.tolist()[:5] == [True, True, False, True, False]  # the ignored object counts neither way
    assert choose(verdicts, 1.0) == (0.8, 1.0, 2 / 6)
    assert choose(verdicts, 0.75) == (0.6, 0.75, 3 / 6)
    assert choose(verdicts, 0.6) == (0.5, 0.6, 3 / 6)
    assert choose(verdicts, 0.5) == (0.4, pytest.approx(4 / 7), 4 / 6)  # equal scores stand or fall together
    assert measure(verdicts, 0.65) == (0.65, pytest.approx(2 / 3), 2 / 6)
    # No labelled object: no recall, whether something was found or not.
    assert choose(judge([truth], found, 2), 0.5) == (None, 0.0, None)
    assert choose(judge([truth], found, 3), 0.5) == (None, 0.0, None)
    assert measure(judge([truth], found, 2), 0.5) == (0.5, 0.0, None)


@pytest.mark.parametrize("seed", range(3))
def test_a_chosen_score_keeps_its_promise(seed):
    truth, found = random_world(seed, tied=seed == 2)
    for number in (1, 2, 3):
        verdicts = judge([truth], found, number)
        for wanted in (0.3, 0.6, 0.9):
            chosen = choose(verdicts, wanted)
            if chosen.score is not None:
                assert chosen.precision >= wanted
                assert measure(verdicts, chosen.score) == pytest.approx(chosen)
            below = [score for score in set(verdicts.scores_D) if chosen.score is None or score < chosen.score]
            assert all(measure(verdicts, score).precision < wanted for score in below)


def test_a_class_without_a_labelled_object_has_no_recall():
    scores = {"bus": Scores(Threshold(None, 0.0, None), Threshold(0.0, 0.0, None)),
              "car": Scores(Threshold(0.5, 0.75, 0.25), Threshold(0.25, 0.5, 0.5))}  # fmt: skip
    bus, car = pseudo_labels.table(scores, True).splitlines()[2:]
    assert bus.split() == ["bus", "never", "0.00", "-", "0.000", "0.00", "-"]
    assert car.split() == ["car", "0.500", "0.75", "0.25", "0.250", "0.50", "0.50"]


def test_scores_as_they_are_written():
    assert read_scores(("0.5", "car=0.7"), ("bus", "car"), "--high") == {"bus": 0.5, "car": 0.7}
    for texts, message in (
        (("1.5",), "--high 1.5: expected a score from 0 to 1"),
        (("car=x",), "--high car=x: expected a score"),
        (("cat=0.5",), "the data has no class 'cat'; its classes are bus, car"),
        (("car=0.5",), "no score for bus; give one for each class, or a number for all"),
    ):
        with pytest.raises(ValueError, match=message):
            read_scores(texts, ("bus", "car"), "--high")


# --- labels ---


def test_detections_become_boxes(scored, options):
    label(replace(options, weigh=True), ALONE)
    made, source = PackedDataset(options.out), PackedDataset(options.data)
    found = detect_dataset(Pass(scored.detector, source, np.arange(4), ALONE, batch_size=2)).detections
    made.verify()
    assert (made.ids_N == source.ids_N).all()
    assert made.domain_counts == source.domain_counts
    num_objects = num_ignored = 0
    for i in range(len(source)):
        assert bytes(made.jpeg(i)) == bytes(source.jpeg(i))
        boxes_N4, labels_N, ignore_N = made.original_target(i)
        mine_D = np.flatnonzero((found.image_ids_D == source.ids_N[i]) & (found.scores_D >= 0.2))
        corners_D4 = found.boxes_D4[mine_D].copy()
        corners_D4[:, 2:] += corners_D4[:, :2]
        np.testing.assert_allclose(boxes_N4, corners_D4, atol=0.011)
        assert labels_N.tolist() == found.labels_D[mine_D].tolist()
        assert ignore_N.tolist() == (found.scores_D[mine_D] < 0.4).tolist()
        expected_N = np.where(ignore_N, 1.0, found.scores_D[mine_D])
        np.testing.assert_allclose(made.box_weights(i), expected_N, rtol=1e-6)
        num_objects, num_ignored = num_objects + (~ignore_N).sum(), num_ignored + ignore_N.sum()
    assert num_objects > 3
    assert num_ignored > 3
    card = made.info["source"]
    assert (card["pseudo_labels"], card["folder"]) == ("checkpoint", "night_rainy")
    assert card["scores"]["car"]["high"] == {"score": 0.4, "precision": None, "recall": None}


def test_what_overlaps_an_object_of_its_class_is_not_ignored_beside_it():
    h, w = 60, 80
    dataset = SimpleNamespace(original_sizes_N2=np.array([[h, w]]))
    boxes_D4 = np.array([[10.0, 10, 20, 20], [10, 10, 20, 16], [10, 10, 20, 8], [10, 10, 20, 16]])  # x, y, w, h
    found = Detections(np.zeros(4, np.int64), boxes_D4, np.array([1, 1, 1, 2]), np.array([0.9, 0.6, 0.5, 0.4]))
    scores = Scores(Threshold(0.8, None, None), Threshold(0.3, None, None))
    made = make_objects(found, np.ones(4, bool), dataset, 0, {"car": scores, "bus": scores}, weigh=False)
    assert made.boxes_N4.tolist() == [[10, 10, 30, 30], [10, 10, 30, 18], [10, 10, 30, 26]]
    assert made.ignore_N.tolist() == [False, True, True]
    # Not agreed on, the first is no object, so nothing is beside one.
    made = make_objects(found, np.zeros(4, bool), dataset, 0, {"car": scores, "bus": scores}, weigh=False)
    assert made.ignore_N.tolist() == [True] * 4


def test_the_same_bytes_again_and_nothing_to_do(options, tmp_path, capsys):
    label(options, ALONE)
    label(replace(options, out=tmp_path / "again"), ALONE)
    assert files(options.out) == files(tmp_path / "again")
    assert not PackedDataset(options.out).weighted
    label(options, ALONE)
    assert "is already made, of the same images and options" in capsys.readouterr().out
    with pytest.raises(ValueError, match="made of other images or with other options"):
        label(replace(options, high=("0.5",)), ALONE)


def test_scores_are_chosen_on_labelled_images(scored, options, capsys):
    chosen = replace(
        options, high=(), low=(), labelled=(scored.data["daytime_clear"],), precision=0.35, ignore_precision=0.3
    )
    label(chosen, ALONE)
    said = capsys.readouterr().out
    assert "with what was measured on the labelled images" in said
    # A day without a bus.
    assert "no image of --labelled shows bus: what is found there is wrong, so they get no label" in " ".join(
        said.split()
    )
    made = PackedDataset(options.out)
    scores = made.info["source"]["scores"]
    truths = [scored.dataset()]
    found = detect_dataset(Pass(scored.detector, truths[0], np.arange(4), ALONE, batch_size=2)).detections
    for number, name in enumerate(made.classes, 1):
        expected = choose(judge(ground_truth_of(truths[0]), found, number), 0.35)
        assert scores[name]["high"]["score"] == expected.score
        if expected.score is not None:
            assert f"{expected.score:.3f}" in said
    assert made.info["source"]["labelled"] == [truths[0].checksum]


def test_what_is_found_in_a_domain_without_objects_is_wrong(scored, options, monkeypatch):
    """Nine of ten are right by day; thirty are found in ten empty pictures of the night."""
    day = make_truth([(0, 1, 50 * i, 0, 40, 40) for i in range(9)])
    night = make_truth([], num_images=10, domain="night_sunny")
    night = replace(night, image_ids_N=night.image_ids_N + 1)
    monkeypatch.setattr(pseudo_labels, "truths_of", lambda _: [day, night])
    right = [(0, 1, 50 * i, 0, 40, 40, 0.9) for i in range(9)]
    wrong = [(1 + i // 3, 1, 60 * (i % 3), 9, 30, 30, 0.8) for i in range(30)]
    found = make_detections([*right, (0, 1, 500, 300, 40, 40, 0.7), *wrong])
    some = replace(options, high=("0.1",), low=(), labelled=(options.data,))
    scores = pseudo_labels.choose_scores(
        some, ("bus",), {"high": {"bus": 0.1}}, [scored.dataset()],
        lambda *_: (found, np.ones(40, bool)), SimpleNamespace(count_shared=lambda *_: 0),
    )  # fmt: skip
    assert scores["bus"].high == (0.1, pytest.approx(9 / 40), 1.0)


def test_a_finished_labelling_is_not_looked_at_again(scored, options, capsys, monkeypatch):
    """The scores that were measured may differ in their last digit on another machine."""
    chosen = replace(options, high=(), low=(), labelled=(scored.data["daytime_clear"],), precision=0.35)
    label(chosen, ALONE)
    monkeypatch.setattr(pseudo_labels, "choose_scores", None)
    label(chosen, ALONE)
    assert "is already made" in capsys.readouterr().out
    with pytest.raises(ValueError, match="made of other images or with other options"):
        label(replace(chosen, precision=0.36), ALONE)


def test_a_class_that_is_seldom_right_is_ignored_with_its_own_figures(scored, options, monkeypatch):
    """Where no score reaches --ignore-precision the low score is 0, and the figures beside it are those of 0."""
    some = replace(options, high=("1",), low=(), labelled=(scored.data["daytime_clear"],), ignore_precision=0.5)
    verdicts = Verdicts(np.array([0.9, 0.8, 0.3]), np.array([False, False, True]), 4)
    monkeypatch.setattr(pseudo_labels, "judge", lambda *_: verdicts)
    found = make_detections([])
    scores = pseudo_labels.choose_scores(
        some, ("car",), {"high": {"car": 1.0}}, [scored.dataset()], lambda *_: (found, np.ones(0, bool)),
        SimpleNamespace(count_shared=lambda *_: 0),
    )  # fmt: skip
    assert scores["car"].low == (0.0, pytest.approx(1 / 3), 1 / 4)
    # A chosen low score above a given high one is lowered to it.
    monkeypatch.setattr(pseudo_labels, "judge", lambda *_: Verdicts(np.array([0.9, 0.3]), np.array([True, False]), 4))
    scores = pseudo_labels.choose_scores(
        replace(some, ignore_precision=0.9), ("car",), {"high": {"car": 0.2}}, [scored.dataset()],
        lambda *_: (found, np.ones(0, bool)), SimpleNamespace(count_shared=lambda *_: 0),
    )  # fmt: skip
    assert scores["car"].low == scores["car"].high == (0.2, 0.5, 1 / 4)


def test_labels_that_are_there_are_not_looked_at(options, tmp_path):
    label(options, ALONE)
    source = PackedDataset(options.data)
    derive(source, tmp_path / "hidden", range(len(source)), {}, nothing_known(source))
    label(replace(options, data=tmp_path / "hidden", out=tmp_path / "made"), ALONE)
    for i in range(len(source)):
        for ours, theirs in zip(
            PackedDataset(tmp_path / "made").target(i), PackedDataset(options.out).target(i), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


# --- agreement ---


def test_views_of_agreement_put_boxes_back():
    """A detector that finds the bright rectangle: what it says of either view is where it is in the image."""

    def detect(images_B3HW, sizes_B2):
        boxes = []
        for image, (h, w) in zip(images_B3HW, sizes_B2.tolist(), strict=True):
            ys, xs = torch.nonzero(image[0, :h, :w] > 0.5, as_tuple=True)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        num = len(boxes)
        return Found(torch.tensor(boxes).float()[:, None], torch.ones(num, 1), torch.ones(num, 1), torch.ones(num))

    images = torch.zeros(2, 3, 64, 96)
    images[0, :, 8:24, 16:48] = 1
    images[1, :, 4:20, 8:40] = 1
    sizes_B2 = torch.tensor([[64, 96], [32, 48]], dtype=torch.int32)
    expected = torch.tensor([[16.0, 8, 48, 24], [8, 4, 40, 20]])
    torch.testing.assert_close(mirrored(detect)(images, sizes_B2).boxes_BD4[:, 0], expected)
    assert (smaller(detect)(images, sizes_B2).boxes_BD4[:, 0] - expected).abs().max() <= 1


def test_found_again_by_hand():
    found = make_detections([(0, 1, 0, 0, 40, 40, 0.8), (0, 2, 0, 0, 40, 40, 0.8), (3, 1, 0, 0, 40, 40, 0.8)])
    again = make_detections([(0, 1, 0, 0, 40, 30, 0.5), (0, 2, 0, 0, 40, 30, 0.3)])
    assert found_again(found, again, 0.7).tolist() == [True, False, False]
    assert found_again(found, again, 0.8).tolist() == [False, False, False]


def test_agreement_only_takes_objects_away(options, tmp_path):
    label(options, ALONE)
    label(replace(options, agree=("flip", "scale"), agree_overlap=0.2, out=tmp_path / "agreed"), ALONE)
    plain, agreed = PackedDataset(options.out), PackedDataset(tmp_path / "agreed")
    fewer = 0
    for i in range(len(plain)):
        np.testing.assert_array_equal(plain.target(i)[0], agreed.target(i)[0])
        assert (agreed.target(i)[2] >= plain.target(i)[2]).all()
        fewer += (agreed.target(i)[2] & ~plain.target(i)[2]).sum()
    assert fewer > 0  # a network of random weights does not often agree with itself
    assert agreed.info["source"]["agree"] == ["flip", "scale", 0.2]


# --- bad input ---


def test_no_label_is_one_sentence_and_no_dataset(scored, options):
    with pytest.raises(ValueError, match=r"no detection in .* reaches the high score of its class, so there is no lab"):
        label(replace(options, high=("1",)), ALONE)
    with pytest.raises(ValueError, match="is not a packed dataset"):
        PackedDataset(options.out)
    label(options, ALONE)  # the folder is free for other scores
    few = replace(options, high=(), low=(), labelled=(scored.data["daytime_clear"],), precision=1.0)
    made = PackedDataset(options.out)
    derive(made, options.out.with_name("strangers"), range(len(made)), {}, nothing_known(made))
    with pytest.raises(ValueError, match="no object that counts"):
        label(replace(few, labelled=(options.out.with_name("strangers"),), out=options.out.with_name("x")), ALONE)


def test_what_cannot_be_is_refused(scored, options, tmp_path):
    with pytest.raises(ValueError, match="give --labelled DIR, on which they are chosen, or --high and --low"):
        replace(options, low=())
    with pytest.raises(ValueError, match="nothing is chosen on --labelled; leave one of them out"):
        replace(options, labelled=(options.data,))
    chosen = replace(options, high=(), low=(), labelled=(options.data,))
    with pytest.raises(ValueError, match=r"--ignore-precision 0\.05 is above --precision 0\.01"):
        replace(chosen, precision=0.01)
    with pytest.raises(ValueError, match="--precision 0: expected more than 0 and at most 1"):
        replace(chosen, precision=0.0)
    with pytest.raises(ValueError, match=r"--precision 0\.7 has no effect beside --high"):
        replace(options, precision=0.7)
    with pytest.raises(ValueError, match=r"--ignore-precision 0\.1 has no effect beside --low"):
        replace(options, ignore_precision=0.1)
    with pytest.raises(ValueError, match=r"--agree-overlap 0\.3 has no effect without --agree"):
        replace(options, agree_overlap=0.3)
    with pytest.raises(ValueError, match=r"bus: the low score 0.6 is above the high one, 0.4"):
        label(replace(options, low=("0.6",)), ALONE)
    with pytest.raises(ValueError, match="lie in each other"):
        label(replace(options, out=options.data / "inside"), ALONE)


def test_the_command_names_what_is_missing(scored, tmp_path):
    words = ["--data", tmp_path / "absent", "--out", tmp_path / "out", "--high", "0.5", "--low", "0.1"]
    command = [sys.executable, "-m", "eval.pseudo_label", scored.checkpoint, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2
    assert "absent is not a packed dataset" in done.stderr
    assert "Traceback" not in done.stderr
