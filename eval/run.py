"""Evaluate a detector: `python -m eval.run RUN_OR_CHECKPOINT --data DIR...`, or under torchrun on several ranks.

The student alone looks at every image; the same detections give VOC07, area and COCO figures, per class and domain,
with bootstrap intervals. Results lie in RUN/eval, the report in RUN/report.html.
"""

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch
import tyro

from eval.detecting.detect import Detect, Found, detect_dataset, gather, match_classes
from eval.detecting.robustness import SETS, measure
from eval.detecting.source_ap import choose_dtype
from eval.examples.scenes import image_detector, save_pictures
from eval.files import read_json, write_arrays, write_json
from eval.metrics import domains
from eval.metrics.interchange import Detections, GroundTruth, ground_truth_of, read_results, restrict, write_results
from eval.metrics.mpc import PARTS
from eval.metrics.scoring import mean_of_targets, score_domain
from eval.options import EvaluationOptions
from eval.report.page import write_report
from eval.report.training import trim_card
from eval.results import FORMAT, describe_versions, distinct, load_run, training_folder
from eval.table import domain_table, show
from model.api import Detector
from model.weights.checkpoint import load_detector
from pipeline.command.console import Progress, describe_hardware, run_entry, say
from pipeline.command.ranks import World, joined
from pipeline.loading.loader import describe_machine
from pipeline.packed.reader import PackedDataset

BETWEEN_MEETINGS = timedelta(hours=6)  # of the ranks lies a whole pass over their images
QUICKLY_SCORED = 1000  # images that are scored in a few seconds, too soon for a progress display


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a detector, or only a name when detections come from files."""

    detector: Detector | None
    classes: tuple[str, ...]
    detect: Detect | None
    about: dict
    weights: str | None  # their fingerprint


@dataclass
class Evaluation:
    """Everything that scoring gave, by domain."""

    truths: dict[str, GroundTruth] = field(default_factory=dict)
    detections: dict[str, Detections] = field(default_factory=dict)
    figures: dict[str, dict] = field(default_factory=dict)
    curves: dict[str, dict] = field(default_factory=dict)
    samples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    speed: dict = field(default_factory=dict)


def evaluate(
    subject: Subject, datasets: list[PackedDataset], options: EvaluationOptions, world: World
) -> Evaluation | None:
    """Detect on all ranks, score on rank 0 (the others get None)."""
    truths = collect_truths(datasets) if world.first else {}
    evaluation = Evaluation(truths={domain: truth for domain, (truth, _) in truths.items()})
    parts: dict[Path, Found] = {}
    files = dict(zip([dataset.path for dataset in datasets], options.detections, strict=False))  # none with a detector
    for dataset in datasets:
        if subject.detector is None:
            found = files_as_found(files[dataset.path], dataset)
        else:
            found = gather(run_detector(subject, dataset, options, world), world.size)
        parts[dataset.path] = found
    if not world.first:
        return None
    images = sum(len(found.ids_N) for found in parts.values())
    with Progress("scoring", images, quiet=images < QUICKLY_SCORED) as progress:
        for domain, (truth, dataset) in truths.items():
            _, detections = restrict(truth, parts[dataset.path].detections, truth.image_ids_N)
            figures, curves, samples = score_domain(
                truth,
                detections,
                where=str(files.get(dataset.path, dataset.path)),
                scorer=options.scorer,
                num_resamples=options.resamples,
                seed=options.seed,
                side_offset=options.voc_side_offset,
            )
            evaluation.detections[domain], evaluation.curves[domain] = detections, curves
            evaluation.figures[domain], evaluation.samples[domain] = figures, samples
            figures["checksum"], figures["path"] = dataset.checksum, str(dataset.path)
            figures["data"] = trim_card(dataset.info)
            progress.advance(len(truth.image_ids_N))
    if subject.detector is not None:
        seconds = sum(found.seconds for found in parts.values())
        waiting = sum(found.waiting_seconds for found in parts.values())
        steady = sum(found.steady_images for found in parts.values())
        steady_seconds = sum(found.steady_seconds for found in parts.values())
        evaluation.speed = {
            "images": images,
            "seconds": round(seconds, 2),
            "images_per_second": round(steady / steady_seconds, 2) if steady_seconds else None,
            "waiting_share": round(waiting / max(seconds, 1e-9), 4),
            "batch_size": options.batch_size,
            "ranks": world.size,
        }
    return evaluation


def collect_truths(datasets: list[PackedDataset]) -> dict[str, tuple[GroundTruth, PackedDataset]]:
    truths: dict[str, tuple[GroundTruth, PackedDataset]] = {}
    for dataset in datasets:
        for truth in ground_truth_of(dataset):
            if truth.domain in truths:
                raise ValueError(
                    f"--data: {truths[truth.domain][1].path} and {dataset.path} both hold the domain {truth.domain}; "
                    "evaluate them one at a time, each with its own --out"
                )
            truths[truth.domain] = truth, dataset
    return {domain: truths[domain] for domain in domains.ordered(truths)}


def run_detector(subject: Subject, dataset: PackedDataset, options: EvaluationOptions, world: World) -> Found:
    assert subject.detector is not None
    return detect_dataset(
        subject.detector,
        dataset,
        map_labels(subject, dataset, options),
        batch_size=options.batch_size,
        device=world.device,
        dtype=choose_dtype(options.precision, world.device),
        rank=world.rank,
        world=world.size,
        detect=subject.detect,
        loader=options.loader,
        threads=options.threads,
        description=f"detecting in {dataset.path.name}",
    )


def map_labels(subject: Subject, dataset: PackedDataset, options: EvaluationOptions) -> np.ndarray:
    renames = dict(read_rename(text) for text in options.map)
    return match_classes(subject.classes, dataset.classes, renames, options.allow_other_classes)


def read_rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise ValueError(f"--map {text}: write detector_name=data_name")
    return old, new


def files_as_found(path: Path, dataset: PackedDataset) -> Found:
    """Somebody's detections instead of a detector's; ids that the data does not have are an error."""
    detections = read_results(path)
    unknown = np.setdiff1d(detections.image_ids_D, dataset.ids_N)
    if len(unknown):
        raise ValueError(
            f"{path}: {len(unknown)} image ids are not in {dataset.path} ({len(dataset)} images), the first is "
            f"{unknown[0]}; score the file against the data it was made from"
        )
    return Found(dataset.ids_N, detections)


def choose_source(datasets: list[PackedDataset], asked: str | None) -> str:
    """The domain that was trained on, by the order the data was given in."""
    return domains.find_source([domains.canonical(name) for data in datasets for name in sorted(data.domains)], asked)


def check_classes(datasets: list[PackedDataset]) -> None:
    """A mean over domains is one over the same classes."""
    first = datasets[0]
    for other in datasets[1:]:
        if sorted(other.classes) != sorted(first.classes):
            raise ValueError(
                f"--data: {first.path} has the classes {', '.join(first.classes)}, {other.path} "
                f"{', '.join(other.classes)}; pack them with the same classes, or evaluate them one at a time"
            )


def open_subject(options: EvaluationOptions, world: World, datasets: list[PackedDataset]) -> Subject:
    if options.detections:
        if len(options.detections) != len(options.data):
            raise ValueError(
                f"--detections: {len(options.detections)} files for {len(options.data)} datasets; give one per --data, "
                "in the same order"
            )
        if options.corruptions != "none":
            raise ValueError("--corruptions needs a detector to look at the corrupted images; leave out --detections")
        if world.size > 1:
            raise ValueError("--detections: scoring files needs one process; leave out torchrun")
        return Subject(None, (), None, {"detections": [str(path) for path in options.detections]}, None)
    detector, card = load_detector(options.run, world.device, options.classes or None)
    about = {"backbone": card.config.backbone, "score_threshold": card.config.score_threshold, **card.extra}
    detect: Detect = detector.detect
    if options.compile == "on" or (options.compile == "auto" and world.device.type == "cuda"):
        canvases = {canvas for dataset in datasets for canvas in dataset.canvases.values()}
        # Each compiles once clean and once as a corrupted view lays it out; with fullgraph, going over is an error.
        torch._dynamo.config.recompile_limit = max(8, 2 * len(canvases))
        detect = torch.compile(detector.detect, fullgraph=True, dynamic=False)
    return Subject(detector, card.classes, detect, about, fingerprint(detector))


def output_folder(options: EvaluationOptions) -> Path:
    if options.out is not None:
        return options.out
    if options.run.is_file():
        raise ValueError(f"{options.run} is a file, so its results need a folder: add --out DIR")
    return options.run


def write_results_of(
    evaluation: Evaluation, subject: Subject, source: str, options: EvaluationOptions, folder: Path
) -> None:
    """Write everything but pictures and report; results.json last, so that what it stands for is there."""
    (folder / "pictures" / "pictures.json").unlink(missing_ok=True)  # they show the last evaluation's detections
    mean, joined_samples = mean_of_targets(evaluation.figures, source, evaluation.samples)
    results = {
        "format": FORMAT,
        "run": str(options.run),
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": list(next(iter(evaluation.truths.values())).classes),
        "source": source,
        "domains": {name: evaluation.figures[name] for name in domains.ordered(evaluation.figures)},
        "mean_of_targets": mean,
        "weights": subject.weights,
        "detector": subject.about,
        "settings": {
            "resamples": options.resamples,
            "seed": options.seed,
            "scorer": options.scorer,
            "voc_side_offset": options.voc_side_offset,
            "precision": options.precision,
            "map": list(options.map),
        },
        "speed": evaluation.speed,
        "versions": describe_versions(),
        "hardware": describe_hardware(),
    }
    for domain, detections in evaluation.detections.items():
        write_results(folder / f"detections-{safe_name(domain)}.json", detections)
    write_json(folder / "curves.json", evaluation.curves)
    samples = {
        f"{name}|{metric}": values for name, part in evaluation.samples.items() for metric, values in part.items()
    }
    samples |= {f"mean_of_targets|{metric}": values for metric, values in joined_samples.items()}
    write_arrays(folder / "bootstrap.npz", samples)
    write_json(folder / "results.json", results)


def safe_name(domain: str) -> str:
    """A domain's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in domain)


def distilled_from(run: Path) -> list[Path]:
    """The run's own teacher, when it has been evaluated."""
    folder = training_folder(run)
    teacher = read_json(folder / "config.json").get("teacher") if folder else None
    return [Path(teacher)] if teacher and (Path(teacher) / "eval" / "results.json").is_file() else []


def measure_robustness(
    evaluation: Evaluation | None,
    subject: Subject,
    datasets: list[PackedDataset],
    source: str,
    options: EvaluationOptions,
    world: World,
    folder: Path,
) -> None:
    """On the source domain; all ranks take part."""
    assert subject.detector is not None
    assert subject.detect is not None
    assert subject.weights is not None
    dataset = next(data for data in datasets if source in map(domains.canonical, data.domains))
    summary = measure(
        subject.detector,
        subject.detect,
        map_labels(subject, dataset, options),
        dataset,
        source,
        evaluation.truths[source] if evaluation is not None else None,
        SETS[options.corruptions],
        trained_on(options.run),
        world,
        folder / "eval" / "robustness.json",
        weights=subject.weights,
        num_images=options.corruption_images,
        seed=options.seed,
        resamples=options.resamples,
        side_offset=options.voc_side_offset,
        batch_size=options.batch_size,
        dtype=choose_dtype(options.precision, world.device),
        originals=options.originals,
        corruptor=options.corruptor,
        loader=options.loader,
        threads=options.threads,
    )
    if world.first:
        figures = summary["summary"]
        parts = [
            f"{part} mPC {show(f['mPC'], f.get('interval_mPC'))}, rPC {show(f['rPC'], f.get('interval_rPC'))} %"
            for part, f in figures.items()
            if part in PARTS
        ]
        say(f"robustness on {source}, {summary['images']} images: P {figures['P']:.1f}; {'; '.join(parts)}")


def fingerprint(detector: Detector) -> str:
    """Of the weights."""
    digest = hashlib.sha256()
    for name, value in detector.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained_on(run: Path) -> tuple[str, ...] | None:
    """Corruptions of the run's own training; None where no config.json tells."""
    folder = training_folder(run)
    config = read_json(folder / "config.json") if folder else {}
    return tuple(config["views"]["corruptions"]) if "views" in config else None


def save_examples(
    evaluation: Evaluation,
    subject: Subject,
    datasets: list[PackedDataset],
    source: str,
    options: EvaluationOptions,
    world: World,
    folder: Path,
) -> None:
    homes = {domain: home for domain, (_, home) in collect_truths(datasets).items()}
    detect_image = None
    if subject.detector is not None and subject.detect is not None:
        label_map = map_labels(subject, homes[source], options)
        dtype = choose_dtype(options.precision, world.device)
        detect_image = image_detector(subject.detector, subject.detector.detect, label_map, world.device, dtype)
    truths = {domain: (truth, homes[domain]) for domain, truth in evaluation.truths.items()}
    score = evaluation.figures[source]["best_score"]["score"]
    save_pictures(folder, truths, evaluation.detections, source, score, detect_image)


def say_replaced(folder: Path, datasets: list[PackedDataset]) -> None:
    """A run has one evaluation; who measures fewer domains than before hears what is lost, while it can be stopped."""
    if (folder / "eval" / "results.json").is_file():
        named = {domains.canonical(domain) for data in datasets for domain in data.domains}
        if lost := [name for name in load_run(folder).domains if name not in named]:
            say(
                f"note: {folder} has figures of {', '.join(lost)} too, which this evaluation replaces; name all --data "
                "in one command, or add --out DIR"
            )


def run(options: EvaluationOptions, world: World) -> None:
    started = time.monotonic()
    if world.first:
        say(f"{describe_machine(world.device, options.loader)}; {world.size} rank{'s' if world.size > 1 else ''}")
    if not options.data:
        raise ValueError("--data: name at least one packed dataset")
    folder = output_folder(options)
    datasets = [PackedDataset(path) for path in options.data]
    check_classes(datasets)
    source = choose_source(datasets, options.source)
    subject = open_subject(options, world, datasets)
    compare = [load_run(path) for path in options.compare]
    if any(other.folder.resolve() == (folder / "eval").resolve() for other in compare):
        raise ValueError(f"--compare {folder}: this evaluation is written there; add --out DIR to keep the other")
    if world.first:
        (folder / "eval").mkdir(parents=True, exist_ok=True)  # before the work: it may be impossible
        say_replaced(folder, datasets)
    evaluation = evaluate(subject, datasets, options, world)
    if evaluation is not None:
        write_results_of(evaluation, subject, source, options, folder / "eval")
    if options.corruptions != "none":
        measure_robustness(evaluation, subject, datasets, source, options, world, folder)
    if evaluation is not None:
        if options.pictures:
            save_examples(evaluation, subject, datasets, source, options, world, folder / "eval" / "pictures")
        others = compare or [load_run(path) for path in distilled_from(options.run)]
        runs = distinct([*others, load_run(folder)])
        say(domain_table(runs))
        if options.report:
            write_report(runs, folder / "report.html")
            say(f"report: {(folder / 'report.html').resolve()}")
        say(f"results: {folder / 'eval' / 'results.json'} ({time.monotonic() - started:.0f} s)")


def main() -> None:
    options = tyro.cli(EvaluationOptions)
    with joined(options.device, BETWEEN_MEETINGS) as world:
        run(options, world)


if __name__ == "__main__":
    run_entry(main)
