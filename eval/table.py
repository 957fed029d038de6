"""The table of domains: `python -m eval.table NAME=RUN [NAME=RUN ...] [--json FILE]`; every evaluation prints it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eval import domains
from eval.files import write_json
from eval.results import EvaluatedRun, difference, load_run
from pipeline.console import run_entry, say

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
    json: Path | None = None
    """Write {name: {domain: mAP}} here."""
    metric: Literal["voc07", "area", "coco"] = "voc07"


def named_runs(arguments: tuple[str, ...] | list[str]) -> list[EvaluatedRun]:
    """Runs from PATH or NAME=PATH; names must differ."""
    if not arguments:
        raise ValueError("no run was named; give evaluated runs, each PATH or NAME=PATH")
    runs = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        runs.append(load_run(path, name) if equals and not Path(argument).exists() else load_run(argument))
    names = [run.name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
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
        row = [name.replace("_of_", " of ") if name == "mean_of_targets" else name, *figures]
        if len(runs) > 1:
            change = difference(runs[-1], runs[0], name, metric)
            row.append("-" if change is None else show(change.value, change.interval, "+"))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{METRICS[metric]}, percent, 95 % bootstrap interval over images"]
    means = {run.name: run.results["mean_of_targets"].get("domains", []) for run in runs}
    if len({tuple(sorted(targets)) for targets in means.values() if targets}) > 1:
        listed = "; ".join(f"{name}: {', '.join(targets)}" for name, targets in means.items() if targets)
        notes.append(f"the means of targets are over different domains and do not compare ({listed})")
    for run in runs:
        for name in run.domains:
            absent = run.results["domains"][name]["classes_without_objects"]
            if absent:
                notes.append(f"{run.name}, {name}: no objects of {', '.join(absent)}; the mean leaves them out")
    return "\n".join([*text, *notes])


def show(value: float | None, interval: list[float] | None, sign: str = "-") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.1f}" + (f" [{interval[0]:{sign}.1f}, {interval[1]:{sign}.1f}]" if interval else "")


def main() -> None:
    options = tyro.cli(TableOptions)
    runs = named_runs(options.runs)
    say(domain_table(runs, options.metric))
    if options.json is not None:
        write_json(options.json, {run.name: {n: run.figure(n, options.metric) for n in run.domains} for run in runs})


if __name__ == "__main__":
    run_entry(main)
