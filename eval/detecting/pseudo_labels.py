"""Detections as the boxes of a packed dataset: which count as objects, which are ignored."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.detecting.agreement import agreed
from eval.detecting.detect import detect_dataset
from eval.detecting.subject import open_subject, pass_over
from eval.detecting.thresholds import Threshold, Verdicts, choose, judge, measure
from eval.metrics.domains import canonical
from eval.metrics.interchange import Detections, scorable, select, truths_of
from eval.pseudo_options import PseudoLabelOptions
from eval.trained_on import TrainingData
from model.boxes.annotated import SAME, find_doubles
from pipeline.command.console import say
from pipeline.command.ranks import World
from pipeline.packed.derive import Objects, check_place, derive, is_made
from pipeline.packed.reader import PackedDataset

Look = Callable[[PackedDataset, np.ndarray], tuple[Detections, np.ndarray]]  # detections, and which are agreed on


class Scores(NamedTuple):
    """Of a class: from which on a detection is an object, and from which on it is ignored."""

    high: Threshold
    low: Threshold


def read_scores(texts: tuple[str, ...], classes: tuple[str, ...], option: str) -> dict[str, float]:
    """{class: score}; a bare number is for all classes that are not named."""
    named: dict[str, float] = {}
    everything: float | None = None
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            score = float(number)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1 or (equals and not name):
            raise ValueError(f"{option} {text}: expected a score from 0 to 1, or CLASS=SCORE")
        if not equals:
            everything = score
        elif name not in classes:
            raise ValueError(f"{option} {text}: the data has no class {name!r}; its classes are {', '.join(classes)}")
        else:
            named[name] = score
    missing = [name for name in classes if name not in named]
    if missing and everything is None:
        raise ValueError(f"{option}: no score for {', '.join(missing)}; give one for each class, or a number for all")
    return {name: named.get(name, everything if everything is not None else 1.0) for name in classes}


def label(options: PseudoLabelOptions, world: World) -> None:
    if world.size > 1:
        raise ValueError("python -m eval.pseudo_label works in one process; leave out torchrun")
    dataset = PackedDataset(options.data, options.domains, canonical)
    check_place(dataset, options.out)
    given = {
        name: read_scores(texts, dataset.classes, f"--{name}")
        for name, texts in (("high", options.high), ("low", options.low))
        if texts
    }
    shown = [PackedDataset(path) for path in options.labelled]
    rows = range(len(dataset))
    for other in shown:
        if other.classes != dataset.classes:
            raise ValueError(
                f"the class lists differ: {dataset.path} has {list(dataset.classes)}, {other.path} has "
                f"{list(other.classes)}; pack one of them again with --classes in the other's order"
            )
    evaluation = options.as_evaluation()
    subject = open_subject(evaluation, world, [dataset, *shown])
    trained = TrainingData(options.run, subject.card, shown)

    def look(data: PackedDataset, rows: np.ndarray) -> tuple[Detections, np.ndarray]:
        how = pass_over(subject, data, evaluation, world)
        found = detect_dataset(how, rows=rows).detections
        return found, agreed(how, rows, found, options.agree, options.agree_overlap)

    origin = {
        "pseudo_labels": options.run.resolve().name,
        "weights": subject.weights,
        "doubles": SAME,
        "precisions": [options.precision, options.ignore_precision] if shown else [],
        "given": given,
        "labelled": [other.checksum for other in shown],
        "domains": list(options.domains),
        "weigh": options.weigh,
        "agree": [*sorted(set(options.agree)), options.agree_overlap] if options.agree else [],
        "map": list(options.map),
    }
    # The scores follow from all this, but for rounding, which another number of threads may change.
    if is_made(dataset, options.out, rows, origin, apart_from="scores"):
        return
    thresholds = choose_scores(options, dataset.classes, given, shown, look, trained)
    say(table(thresholds, bool(shown)))
    unseen = [name for name, (high, low) in thresholds.items() if high.score is None and low.recall is None]
    if unseen:
        say(
            f"warning: no image of --labelled shows {', '.join(unseen)}: what is found there is wrong, so they "
            "get no label; give more labelled images, or --high CLASS=SCORE"
        )

    def annotate(rows: Sequence[int]) -> list[Objects]:
        found, agreed_D = look(dataset, np.asarray(rows))
        chosen = []
        for row in rows:
            mine_D = found.image_ids_D == dataset.ids_N[row]
            one = select(found, mine_D)
            chosen.append(make_objects(one, agreed_D[mine_D], dataset, row, thresholds, options.weigh))
        return chosen

    plain = {
        name: {part: getattr(scores, part)._asdict() for part in Scores._fields} for name, scores in thresholds.items()
    }

    def accept(card: dict[str, Any]) -> None:
        if not any(count for row in card["objects"].values() for size, count in row.items() if size != "ignored"):
            raise ValueError(
                f"no detection in {options.data} reaches the high score of its class, so there is no label; lower "
                "--precision (or --high), or train a better detector first"
            )

    derive(dataset, options.out, rows, origin | {"scores": plain}, annotate, options.weigh, accept)


def choose_scores(
    options: PseudoLabelOptions, classes: tuple[str, ...], given: dict[str, dict[str, float]],
    shown: list[PackedDataset], look: Look, trained: TrainingData,
) -> dict[str, Scores]:  # fmt: skip
    """Of every class, as given or as chosen on the labelled images."""
    parts = []
    for data in shown:
        truths = truths_of(data)  # domains without objects too: what is found there is wrong, and counts
        scorable(data, truths)  # an error where no domain has any
        shared = sum(trained.count_shared(data, canonical(domain)) for domain in data.domains)
        if shared:
            say(
                f"warning: the detector, its teacher or its start was trained on {shared} of the {len(data)} images of "
                f"{data.path}: figures of them are better than those of other images"
            )
        found, agreed_D = look(data, np.arange(len(data)))
        parts.append((truths, found, select(found, agreed_D)))

    def judged(label: int, only_agreed: bool) -> Verdicts:
        several = [judge(truths, agreed if only_agreed else found, label) for truths, found, agreed in parts]
        scores_D = np.concatenate([one.scores_D for one in several])
        order_D = np.argsort(-scores_D, kind="stable")
        right_D = np.concatenate([one.right_D for one in several])[order_D]
        return Verdicts(scores_D[order_D], right_D, sum(one.num_objects for one in several))

    def threshold(part: str, number: int, name: str) -> Threshold:
        if not shown:
            return Threshold(given[part][name], None, None)
        verdicts = judged(number, only_agreed=part == "high")
        if part in given:
            return measure(verdicts, given[part][name])
        if part == "high":
            return choose(verdicts, options.precision)
        chosen = choose(verdicts, options.ignore_precision)
        # A class that is seldom right is ignored wherever it is found.
        return measure(verdicts, 0.0) if chosen.score is None else chosen

    thresholds = {}
    for number, name in enumerate(classes, 1):
        high, low = (threshold(part, number, name) for part in Scores._fields)
        assert low.score is not None
        if high.score is not None and low.score > high.score:
            if "low" in given:
                raise ValueError(
                    f"{name}: the low score {low.score:g} is above the high one, {high.score:g}; lower --low"
                )
            low = measure(judged(number, only_agreed=False), high.score)
        thresholds[name] = Scores(high, low)
    if all(scores.high.score is None for scores in thresholds.values()):
        best = max(scores.high.precision or 0.0 for scores in thresholds.values())
        raise ValueError(
            f"no score of any class reaches a precision of {options.precision:g} on the labelled images (the best is "
            f"{best:.2f}), so there is no label; lower --precision, or train a better detector first"
        )
    return thresholds


def table(thresholds: dict[str, Scores], measured: bool) -> str:
    wide = max(map(len, ("class", *thresholds)))
    more = " precision recall" if measured else ""
    lines = [f"  {'class':{wide}} {'object from':>11}{more} {'ignored from':>12}{more}"]
    for name, scores in thresholds.items():
        cells = []
        for width, one in ((11, scores.high), (12, scores.low)):
            cells.append(f"{'never' if one.score is None else f'{one.score:.3f}':>{width}}")
            if one.precision is not None:
                cells.append(f"{one.precision:9.2f} {'-' if one.recall is None else f'{one.recall:.2f}':>6}")
        lines.append(f"  {name:{wide}} {' '.join(cells)}")
    return "\n".join(["scores" + (", with what was measured on the labelled images:" if measured else ":"), *lines])


def make_objects(
    found: Detections,
    agreed_D: np.ndarray,
    dataset: PackedDataset,
    row: int,
    thresholds: dict[str, Scores],
    weigh: bool,
) -> Objects:
    """Detections of one image as its boxes, without those that would be ignored beside an object of their class."""
    scores = list(thresholds.values())
    high_K, low_K = (
        np.array([np.inf, *(np.inf if (score := getattr(one, part).score) is None else score for one in scores)])
        for part in Scores._fields
    )
    h, w = dataset.original_sizes_N2[row].tolist()
    boxes_D4 = found.boxes_D4.copy()
    boxes_D4[:, 2:] += boxes_D4[:, :2]
    boxes_D4 = boxes_D4.clip(0, (w, h, w, h)).astype(np.float32)
    # A hundredth of a pixel is what a detection's sides are rounded to.
    sides_D2 = boxes_D4[:, 2:] - boxes_D4[:, :2]
    kept_D = (found.scores_D >= low_K[found.labels_D]) & (sides_D2 > 0.005).all(1)
    object_D = kept_D & (found.scores_D >= high_K[found.labels_D]) & agreed_D
    one_image = (torch.from_numpy(each)[None] for each in (boxes_D4, found.labels_D, object_D))
    kept_D &= ~find_doubles(*one_image)[0].numpy()
    weight_D = np.where(object_D, found.scores_D, 1.0) if weigh else None
    return Objects(
        boxes_D4[kept_D],
        found.labels_D[kept_D],
        ~object_D[kept_D],
        None if weight_D is None else weight_D[kept_D],
    )
