"""The table of domains: `python -m eval.table NAME=RUN [NAME=RUN ...]`; every evaluation prints it."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from eval.metrics import bootstrap, domains
from eval.origin import difference_note
from eval.results import TRAINED_MARK, EvaluatedRun, difference, load_run, trained_notes
from pipeline.command.console import run_entry, say
from pipeline.files.own import write_json

METRICS = {
    "voc07": "mAP at IoU 0.5, VOC2007 11-point",
    "area": "mAP at IoU 0.5, area under the curve",
    "coco": "COCO mAP at IoU 0.5 to 0.95",
}


@dataclass(frozen=True)
class TableOptions:
    """Print the domain table of evaluated runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Evaluated runs, each PATH or NAME=PATH."""
    seeds: bool = False
    """Runs of the same name are one method trained with several seeds: show their mean [least, greatest]."""
    all: bool = False
    """Rows are runs, or with --seeds methods, columns the domains and `all`, their mean: for runs that were trained on
    several domains."""
    json: Path | None = None
    """Write {name: {domain: mAP}} here, with --all also of `all`; with --seeds a list in place of each mAP, in the
    order of the runs."""
    metric: Literal["voc07", "area", "coco"] = "voc07"


def split_name(argument: str) -> tuple[str, Path]:
    """(name, path) of PATH or NAME=PATH; the name of a plain path is empty."""
    name, equals, path = argument.partition("=")
    return (name, Path(path)) if equals and not Path(argument).exists() else ("", Path(argument))


def named_runs(arguments: tuple[str, ...] | list[str], seeds: bool = False) -> list[EvaluatedRun]:
    """Runs from PATH or NAME=PATH; names must differ unless they are seeds of one method."""
    if not arguments:
        raise ValueError("no run was named; give evaluated runs, each PATH or NAME=PATH")
    runs = []
    for argument in arguments:
        name, path = split_name(argument)
        runs.append(load_run(path, name))
    names = [run.name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled and not seeds:
        raise ValueError(f"several runs are called {', '.join(doubled)}; name them: NAME=PATH")
    return runs


def domain_table(runs: list[EvaluatedRun], metric: str = "voc07") -> str:
    """Rows are domains and the mean of targets, columns runs; beside them the last run's difference to the first."""
    lines = domains.ordered(name for run in runs for name in run.domains)
    if any(run.results["mean_of_targets"] for run in runs):
        lines = [*lines, "mean_of_targets"]
    rows = [["", *(run.name for run in runs)]]
    if len(runs) > 1:
        rows[0].append(f"{runs[-1].name} - {runs[0].name}")
    for name in lines:
        figures = [show(run.figure(name, metric), run.interval(name, metric)) for run in runs]
        mark = f" {TRAINED_MARK}" if any(run.trained_images(name) for run in runs) else ""
        row = [name.replace("_of_", " of ") if name == "mean_of_targets" else name + mark, *figures]
        if len(runs) > 1:
            change = difference(runs[-1], runs[0], name, metric)
            row.append("-" if change is None else show(change.value, change.interval, "+"))
        rows.append(row)
    notes = [f"{METRICS[metric]}, percent{interval_note(runs, lines, metric)}"]
    notes += [difference_note(runs[-1], runs[0])] if len(runs) > 1 else []
    means = {run.name: run.results["mean_of_targets"].get("domains", []) for run in runs}
    if len({tuple(sorted(targets)) for targets in means.values() if targets}) > 1:
        listed = "; ".join(f"{name}: {', '.join(targets)}" for name, targets in means.items() if targets)
        notes.append(f"the means of targets are over different domains and do not compare ({listed})")
    for name in lines:
        found = {run.name: run.results["domains"][name] for run in runs if name in run.domains}
        lists = {run: ", ".join(part["classes_without_objects"]) for run, part in found.items()}
        for absent in dict.fromkeys(filter(None, lists.values())):
            those = [run for run in lists if lists[run] == absent]
            who = "" if len(those) == len(lists) else f"{', '.join(those)}, "
            notes.append(f"{who}{name}: no objects of {absent}; the mean leaves them out")
    return "\n".join([*aligned(rows), *notes, *trained_notes(runs)])


def interval_note(runs: list[EvaluatedRun], names: Iterable[str], metric: str) -> str:
    """Of figures that have one; `--resamples 0` makes none."""
    some = any(run.interval(name, metric) is not None for run in runs for name in names)
    return ", 95 % bootstrap interval over images" if some else ""


def all_table(runs: list[EvaluatedRun], metric: str = "voc07") -> str:
    """Rows are runs, columns the domains and the mean over all of them, and its difference to the first run's."""
    names = runs[0].domains
    for run in runs:
        if sorted(run.domains) != sorted(names):
            raise ValueError(
                f"--all: {runs[0].name} was evaluated on {', '.join(names)}, {run.name} on {', '.join(run.domains)}; "
                "evaluate both on the same --data"
            )
    rows = [["", *names, "all", f"all - {runs[0].name}"]]
    for run in runs:
        figures = [show(run.figure(name, metric), run.interval(name, metric)) for name in names]
        (mean, samples_B), (first, first_B) = (mean_of_all(one, names, metric) for one in (run, runs[0]))
        change = None if mean is None or first is None or run is runs[0] else mean - first
        change_B = None
        if samples_B is not None and first_B is not None and same_draws(run, runs[0]):
            change_B = samples_B - first_B
        rows.append([run.name, *figures, show(mean, between(samples_B)), show(change, between(change_B), "+")])
    note = f"{METRICS[metric]}, percent{interval_note(runs, names, metric)}; all: the mean of the domains"
    return "\n".join([*aligned(rows), note])


def mean_of_all(run: EvaluatedRun, names: list[str], metric: str) -> tuple[float | None, np.ndarray | None]:
    """The mean over the domains, and its bootstrap replicates."""
    figures = [figure for name in names if (figure := run.figure(name, metric)) is not None]
    if len(figures) < len(names):
        return None, None
    samples = [run.samples.get(f"{name}|{metric}") for name in names]
    known = [sample_B for sample_B in samples if sample_B is not None]
    return statistics.fmean(figures), np.mean(known, axis=0) if len(known) == len(names) else None


def same_draws(a: EvaluatedRun, b: EvaluatedRun) -> bool:
    """Both drew the same resamples of the same images, domain by domain."""
    drawn = [
        (
            {name: run.results["domains"][name]["checksum"] for name in run.domains},
            [run.results["settings"][key] for key in ("resamples", "seed")],
        )
        for run in (a, b)
    ]
    return drawn[0] == drawn[1]


def between(samples_B: np.ndarray | None) -> list[float] | None:
    return None if samples_B is None else bootstrap.interval(samples_B)


def seeds_table(runs: list[EvaluatedRun], metric: str = "voc07") -> str:
    """Rows are domains and the mean of targets, columns methods; figures are means over the method's runs."""
    check_same_images(runs)
    methods = by_name(runs)
    rows = [["", *methods]]
    for name in [*runs[0].domains, "mean_of_targets"]:
        figures = [[run.figure(name, metric) for run in several] for several in methods.values()]
        if any(known := [[figure for figure in several if figure is not None] for several in figures]):
            mark = f" {TRAINED_MARK}" if any(run.trained_images(name) for run in runs) else ""
            rows.append([name.replace("_of_", " of ") + mark, *map(spread, known)])
    counts = ", ".join(f"{name} {len(several)}" for name, several in methods.items())
    note = f"{METRICS[metric]}, percent, mean [least, greatest] over runs ({counts})"
    return "\n".join([*aligned(rows), note, *trained_notes(runs)])


def all_seeds_table(runs: list[EvaluatedRun], metric: str = "voc07") -> str:
    """Rows are methods, columns the domains and the mean over all of them: means over the method's runs."""
    check_same_images(runs)
    names = list(runs[0].domains)
    methods = by_name(runs)
    first = next(iter(methods.values()))
    rows = [["", *names, "all", f"all - {runs[0].name}"]]
    for name, several in methods.items():
        domain_figures = [[run.figure(domain, metric) for run in several] for domain in names]
        means, others = ([mean_of_all(run, names, metric)[0] for run in group] for group in (several, first))
        # The runs of two methods belong together, seed by seed, where they are as many.
        pairs = zip(means, others, strict=True) if several is not first and len(several) == len(first) else ()
        changes = [a - b for a, b in pairs if a is not None and b is not None]
        known = [[figure for figure in figures if figure is not None] for figures in (*domain_figures, means)]
        rows.append([name, *map(spread, known), spread(changes, "+")])
    counts = ", ".join(f"{name} {len(several)}" for name, several in methods.items())
    note = f"{METRICS[metric]}, percent, mean [least, greatest] over runs ({counts}); all: the mean of the domains"
    return "\n".join([*aligned(rows), note, *trained_notes(runs)])


def check_same_images(runs: list[EvaluatedRun]) -> None:
    if len({tuple((name, run.results["domains"][name]["checksum"]) for name in run.domains) for run in runs}) > 1:
        raise ValueError("--seeds: not all runs were evaluated on the same images; use the same --data")


def spread(figures: list[float], sign: str = "-") -> str:
    return show(statistics.fmean(figures), [min(figures), max(figures)], sign) if figures else "-"


def by_name(runs: list[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    return {name: [run for run in runs if run.name == name] for name in dict.fromkeys(run.name for run in runs)}


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(value: float | None, interval: list[float] | None, sign: str = "-") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.1f}" + (f" [{interval[0]:{sign}.1f}, {interval[1]:{sign}.1f}]" if interval else "")


def main() -> None:
    options = tyro.cli(TableOptions)
    runs = named_runs(options.runs, options.seeds)
    plain, seeds = (all_table, all_seeds_table) if options.all else (domain_table, seeds_table)
    say((seeds if options.seeds else plain)(runs, options.metric))
    if options.json is not None:
        figures: dict[str, dict[str, Any]] = {
            name: {domain: [run.figure(domain, options.metric) for run in several] for domain in several[0].domains}
            for name, several in by_name(runs).items()
        }
        if options.all:
            for name, several in by_name(runs).items():
                figures[name]["all"] = [mean_of_all(run, list(run.domains), options.metric)[0] for run in several]
        if not options.seeds:
            figures = {name: {domain: one for domain, (one,) in part.items()} for name, part in figures.items()}
        write_json(options.json, figures)


if __name__ == "__main__":
    run_entry(main)
