"""One evaluation from its options to its files: the steps behind `python -m eval.run`."""

import shutil
import time
import zlib
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from eval import schema
from eval.compared import find_compared, missing_domains
from eval.detecting.detect import check_inputs
from eval.detecting.evaluate import Evaluation, Truths, collect_truths, evaluate
from eval.detecting.robustness import SETS, Plan, measure
from eval.detecting.subject import Subject, open_subject, pass_over
from eval.examples.scenes import image_detector, save_pictures
from eval.metrics import domains
from eval.metrics.errors import errors_at, working_score
from eval.metrics.interchange import write_results
from eval.metrics.mpc import PARTS
from eval.metrics.scoring import mean_of_targets
from eval.options import EvaluationOptions
from eval.report.page import write_report
from eval.report.sheets import write_sheets
from eval.results import (
    FORMAT,
    EvaluatedRun,
    describe_versions,
    distinct,
    has_results,
    load_run,
    training_folder,
)
from eval.table import domain_table, show
from eval.trained_on import TrainingData
from pipeline.command.console import describe_hardware, say
from pipeline.command.ranks import World
from pipeline.files.own import read_json, write_arrays, write_json
from pipeline.loading.loader import describe_machine
from pipeline.loading.mixture import warn_of_other_sides
from pipeline.packed.reader import PackedDataset


def run(options: EvaluationOptions, world: World) -> None:
    started = time.monotonic()
    if world.first:
        say(f"{describe_machine(world.device, options.loader)}; {world.size} rank{'s' if world.size > 1 else ''}")
    folder = output_folder(options)
    datasets = [PackedDataset(path, options.domains, domains.canonical) for path in options.data]
    check_classes(datasets)
    if world.first:
        for name in dict.fromkeys(name for data in datasets for name in data.domains):
            if (benchmark := domains.canonical(name)) != name:
                say(f"{name} is {benchmark} here, as the diverse-weather benchmark calls it; --domains takes both")
    truths = collect_truths(datasets) if world.first else {}
    compared = world.share(find_compared(options.compare, folder, truths) if world.first else None)
    subject = open_subject(options, world, datasets)
    if subject.detector is not None:
        for data in datasets:
            check_inputs(subject.detector.config, data, "the detector")
            if world.first:
                warn_of_other_sides(str(options.run), subject.card, data)
    if world.first:
        (folder / "eval").mkdir(parents=True, exist_ok=True)  # before the work: it may be impossible
        keep_replaced(folder, datasets)
    for one in compared:
        if one.missing:
            if world.first:
                say(f"{one.path} was not evaluated on {', '.join(one.missing)}: evaluating it first, into {one.folder}")
            evaluate_one(one.options(options), one.folder, truths, datasets, world)
    if world.share(already_evaluated(options, folder, truths, subject) if world.first else None):
        if world.first:
            say(f"{folder} was evaluated with these weights, data and options; remove {folder / 'eval'} to do it again")
    else:
        evaluate_one(options, folder, truths, datasets, world, subject)
    if world.first:
        others = [load_run(one.folder, one.path.resolve().name) for one in compared]
        others = others or distilled_from(options.run, truths)
        runs = distinct([*others, load_run(folder, name_of(options.run))])
        say(domain_table(runs))
        if options.report:
            write_report(runs, folder / "report.html")
            write_sheets(runs, folder / "eval")
            say(f"report: {(folder / 'report.html').resolve()}")
        say(f"results: {folder / 'eval' / 'results.json'} ({time.monotonic() - started:.0f} s)")


def name_of(run: Path | None) -> str | None:
    """A training run keeps its name where --out writes elsewhere; anything else is called as its folder of results."""
    return run.resolve().name if run is not None and (run / "config.json").is_file() else None


def evaluate_one(
    options: EvaluationOptions,
    folder: Path,
    truths: Truths,
    datasets: list[PackedDataset],
    world: World,
    subject: Subject | None = None,
) -> None:
    """Everything of one evaluation but table and report."""
    subject = subject or open_subject(options, world, datasets)
    trained = None
    if world.first and options.run is not None and subject.detector is not None:
        trained = TrainingData(options.run, subject.card, datasets)
    source = choose_source(datasets, truths, trained, options.source) if world.first else None
    source, home = world.share((source, source or next(iter(truths), "")))
    evaluation = evaluate(subject, truths, datasets, options, world)
    if evaluation is not None:
        mark_trained(evaluation.figures, truths, trained)
        evaluation.working_score = working_score(evaluation.f1_by_score)
        write_results_of(evaluation, truths, subject, trained, source, options, folder / "eval")
    if options.corruptions != "none":
        measure_robustness(truths, subject, datasets, home, options, world, folder)
    if evaluation is not None and options.pictures:
        save_examples(evaluation, truths, subject, home, options, world, folder / "eval" / "pictures")


def already_evaluated(options: EvaluationOptions, folder: Path, truths: Truths, subject: Subject) -> bool:
    """Whether doing it again, on this machine and with these versions, would write what is there.

    Robustness is not asked about here: it keeps what was measured of it by itself.
    """
    if subject.weights is None or options.corruptions != "none" or not has_results(folder):
        return False
    found = load_run(folder).results
    same_data = {name: part.get("checksum") for name, part in found["domains"].items()} == {
        name: home.checksum for name, (_, home) in truths.items()
    }
    same = (found.get("weights"), found["settings"], found["versions"], found.get("hardware")) == (
        subject.weights, describe_settings(options, subject), describe_versions(), describe_hardware(),
    )  # fmt: skip
    pictures = not options.pictures or (folder / "eval" / "pictures" / "pictures.json").is_file()
    return same_data and same and pictures


def describe_settings(options: EvaluationOptions, subject: Subject) -> dict[str, Any]:
    """What figures of the same weights and data depend on; the order of the classes gives the labels their meaning."""
    names = ("resamples", "seed", "scorer", "voc_side_offset", "precision", "source", "allow_other_classes")
    lists = {"map": list(options.map), "classes": list(subject.classes)}
    return {name: getattr(options, name) for name in names} | lists


def output_folder(options: EvaluationOptions) -> Path:
    if options.out is not None:
        return options.out
    assert options.run is not None
    if options.run.is_file():
        raise ValueError(f"{options.run} is a file, so its results need a folder: add --out DIR")
    return options.run


def check_classes(datasets: list[PackedDataset]) -> None:
    """A mean over domains is one over the same classes."""
    first = datasets[0]
    for other in datasets[1:]:
        if sorted(other.classes) != sorted(first.classes):
            raise ValueError(
                f"--data: {first.path} has the classes {', '.join(first.classes)}, {other.path} "
                f"{', '.join(other.classes)}; pack them with the same classes, or evaluate them one at a time"
            )


def choose_source(
    datasets: list[PackedDataset], truths: Truths, trained: TrainingData | None, asked: str | None
) -> str | None:
    """The evaluated domain that was trained on: as asked for, else as the checkpoint says, else by the data's order.

    None where the checkpoint says that it was trained on none of them.
    """
    every = [domains.canonical(name) for data in datasets for name in sorted(data.domains)]
    names = [name for name in every if name in truths]
    known = trained.domains if trained is not None else []
    if asked is not None or not known:
        source = domains.find_source(names, asked)
        if known and source not in known:
            say(f"warning: --source {asked}: the checkpoint was trained on {', '.join(known)}")
        elif not known:
            say(f"what was trained on is not known; source as given: {source}")
        return source
    if len(known) > 1:
        say(f"trained on {len(known)} domains: {', '.join(known)}")
    found = next((name for name in known if name in names), None)
    if found is None:
        say(
            f"note: trained on {', '.join(known)}, which is not among {', '.join(names)}: each of these counts as a "
            "target. Where one is of the same kind as the training data, name it: --source NAME"
        )
    return found


def mark_trained(figures: dict[str, dict], truths: Truths, trained: TrainingData | None) -> None:
    """Count the images of each domain that were trained on, and warn: such figures say what was learned by heart."""
    for name, part in figures.items():
        shared = trained.count_shared(truths[name][1], name) if trained is not None else 0
        if shared:
            part["trained_images"] = shared
            say(
                f"warning: the detector, its teacher or its start was trained on {shared} of the {part['num_images']} "
                f"images of {name}; the mean of targets leaves this domain out"
            )
    if trained is not None and (names := trained.not_found()):
        say(
            f"note: trained on {', '.join(names)}, which is not where config.json says; pictures of it that another "
            "packed dataset holds are not noticed"
        )


def keep_replaced(folder: Path, datasets: list[PackedDataset]) -> None:
    """A run has one evaluation; where this one measures fewer domains than the last, a copy of the last stays."""
    if (folder / "eval" / "results.json").is_file():
        named = {domains.canonical(domain) for data in datasets for domain in data.domains}
        if lost := [name for name in load_run(folder).domains if name not in named]:
            names = (folder / ("eval-before" if k == 1 else f"eval-before-{k}") for k in count(1))
            kept = next(name for name in names if not name.exists())
            shutil.copytree(folder / "eval", kept)
            say(
                f"note: {folder} had figures of {', '.join(lost)} too; they are kept in {kept}. To have all in one "
                "report name all --data in one command; --out DIR writes elsewhere"
            )


def write_results_of(
    evaluation: Evaluation,
    truths: Truths,
    subject: Subject,
    trained: TrainingData | None,
    source: str | None,
    options: EvaluationOptions,
    folder: Path,
) -> None:
    """Write everything but pictures and report; results.json last, so that what it stands for is there."""
    (folder / "pictures" / "pictures.json").unlink(missing_ok=True)  # they show the last evaluation's detections
    known = {name for name, part in evaluation.figures.items() if "trained_images" in part}
    known |= {source, *(trained.domains if trained is not None else ())} - {None}
    mean, joined_samples = mean_of_targets(evaluation.figures, known, evaluation.samples)
    results = {
        "format": FORMAT,
        "run": str(options.run or options.out),
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": list(next(iter(evaluation.figures.values()))["objects"]),
        "source": source,
        "trained_on": trained.datasets if trained is not None else None,
        "domains": {name: evaluation.figures[name] for name in domains.ordered(evaluation.figures)},
        "mean_of_targets": mean,
        "working_score": evaluation.working_score,
        "weights": subject.weights,
        "detector": subject.about,
        "settings": describe_settings(options, subject),
        "speed": evaluation.speed,
        "versions": describe_versions(),
        "hardware": describe_hardware(),
    }
    for domain, detections in evaluation.detections.items():
        write_results(folder / f"detections-{safe_name(domain)}.json", detections)
    errors = {
        name: {"f1_by_score": evaluation.f1_by_score[name]}
        | errors_at(truths[name][0], evaluation.detections[name], evaluation.working_score)
        for name in truths
    }
    write_json(folder / "errors.json", errors)
    write_json(folder / "curves.json", evaluation.curves)
    samples = {
        f"{name}|{metric}": values for name, part in evaluation.samples.items() for metric, values in part.items()
    }
    samples |= {f"mean_of_targets|{metric}": values for metric, values in joined_samples.items()}
    write_arrays(folder / "bootstrap.npz", samples)
    write_json(folder / "results.json", results)


def safe_name(domain: str) -> str:
    """A domain's name as part of a file name; another name gives another file."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in domain)
    return name if name == domain else f"{name}-{zlib.crc32(domain.encode()):08x}"


def measure_robustness(
    truths: Truths,
    subject: Subject,
    datasets: list[PackedDataset],
    home: str,
    options: EvaluationOptions,
    world: World,
    folder: Path,
) -> None:
    """On the source domain, or the first where none was trained on; all ranks take part."""
    assert subject.weights is not None
    dataset = next(data for data in datasets if home in map(domains.canonical, data.domains))
    plan = Plan(
        home,
        SETS[options.corruptions],
        seen_corruptions(options.run),
        subject.weights,
        options.corruption_images,
        options.originals,
        options.corruptor,
        options.seed,
        options.resamples,
        options.voc_side_offset,
    )
    truth = truths[home][0] if world.first else None
    summary = measure(pass_over(subject, dataset, options, world), plan, truth, folder / "eval" / "robustness.json")
    if world.first:
        figures = summary["summary"]
        parts = [
            f"{part} mPC {show(f['mPC'], f.get('interval_mPC'))}, rPC {show(f['rPC'], f.get('interval_rPC'))} %"
            for part, f in figures.items()
            if part in PARTS
        ]
        say(f"robustness on {home}, {summary['images']} images: P {figures['P']:.1f}; {'; '.join(parts)}")


def seen_corruptions(run: Path | None) -> tuple[str, ...] | None:
    """Corruptions of the run's own training; None where no config.json tells."""
    folder = training_folder(run) if run is not None else None
    config = read_json(folder / "config.json", schema.CONFIG) if folder else {}
    return tuple(config["views"]["corruptions"]) if "views" in config else None


def save_examples(
    evaluation: Evaluation,
    truths: Truths,
    subject: Subject,
    home: str,
    options: EvaluationOptions,
    world: World,
    folder: Path,
) -> None:
    detect_image = None
    if subject.detector is not None:
        how = pass_over(subject, truths[home][1], options, world)
        detect_image = image_detector(how.detector, how.detector.detect, how.label_map, world.device, how.dtype)
    save_pictures(folder, truths, evaluation.detections, home, evaluation.working_score, detect_image)


def distilled_from(run: Path | None, truths: Truths) -> list[EvaluatedRun]:
    """The run's own teacher, where it has figures of just these data."""
    folder = training_folder(run) if run is not None else None
    teacher = read_json(folder / "config.json", schema.CONFIG).get("teacher") if folder else None
    if not teacher or not (Path(teacher) / "eval" / "results.json").is_file():
        return []
    found = load_run(Path(teacher))
    if missing_domains(Path(teacher), truths) or set(found.domains) != set(truths):
        say(f"note: its teacher was evaluated on other data; --compare {teacher} puts it beside")
        return []
    return [found]
