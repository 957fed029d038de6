"""The figures of the report as CSV, one figure a row: linked beside the tables, and written beside results.json."""

import base64
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from eval import schema
from eval.metrics.errors import NOTHING
from eval.report.markup import Html, tag
from eval.results import EvaluatedRun, difference
from pipeline.files.replace import replacing

METRICS = ("voc07", "area", "coco")
SIZES = ("small", "medium", "large")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a text that starts so


@dataclass(frozen=True)
class Sheet:
    """A table as a file; a cell without a figure is empty."""

    name: str
    heads: tuple[str, ...]
    rows: list[tuple]

    def text(self) -> str:
        """RFC 4180, but for the line ends. Text that a spreadsheet would run as a formula gets an apostrophe."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.heads)
        for row in self.rows:
            writer.writerow([f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for v in row])
        return file.getvalue()


def sheets_of(runs: list[EvaluatedRun]) -> dict[str, Sheet]:
    """{name: sheet}, those without a row left out."""
    makers = (domains_sheet, classes_sheet, curves_sheet, sizes_sheet, found_sheet, errors_sheet, confusions_sheet,
              corruptions_sheet, images_sheet)  # fmt: skip
    made = [make(runs) for make in makers]
    return {sheet.name: sheet for sheet in made if sheet.rows}


def write_sheets(runs: list[EvaluatedRun], folder: Path) -> None:
    for name, sheet in sheets_of(runs).items():
        with replacing(folder / f"{name}.csv") as temporary:
            temporary.write_text(sheet.text(), encoding="utf-8")


def link(sheets: dict[str, Sheet], name: str) -> Html:
    """A button that saves a sheet. The page holds the file: nothing is loaded."""
    if name not in sheets:
        return Html("")
    data = base64.b64encode(sheets[name].text().encode()).decode()
    target = f"data:text/csv;charset=utf-8;base64,{data}"
    return tag("a", f"{name}.csv", class_="sheet", download=f"{name}.csv", href=target, title="Save these figures")


def of_domains(runs: list[EvaluatedRun]) -> list[tuple[EvaluatedRun, str, dict]]:
    return [(run, name, run.results["domains"][name]) for run in runs for name in run.domains]


def ends(interval: list[float] | None) -> tuple:
    return tuple(interval) if interval else (None, None)


def domains_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = []
    for metric in METRICS:
        for run in runs:
            for name in [*run.domains, "mean_of_targets"]:
                if (value := run.figure(name, metric)) is not None:
                    rows.append((run.name, name, metric, value, *ends(run.interval(name, metric))))
        for run in runs[1:]:
            for name in [*run.domains, "mean_of_targets"]:
                if (change := difference(run, runs[0], name, metric)) is not None:
                    title = f"{run.name} - {runs[0].name}"
                    rows.append((title, name, metric, change.value, *ends(change.interval)))
    return Sheet("domains", ("run", "domain", "metric", "mAP", "low", "high"), rows)


def classes_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = [
        (run.name, domain, name, count, *(part[metric]["AP"].get(name) for metric in METRICS))
        for run, domain, part in of_domains(runs)
        for name, count in part["objects"].items()
    ]
    return Sheet("classes", ("run", "domain", "class", "objects", *(f"AP_{metric}" for metric in METRICS)), rows)


def curves_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = [
        (run.name, domain, name, r / 100, precision)
        for run in runs
        for domain, found in (run.read("curves.json", schema.CURVES) or {}).items()
        for name, points in found.items()
        for r, precision in enumerate(points or [])
        if r % 10 == 0
    ]
    return Sheet("curves", ("run", "domain", "class", "recall", "precision"), rows)


def sizes_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = [
        (run.name, domain, size, part["coco"][size], *ends(part["coco"].get(f"interval_{size}")))
        for run, domain, part in of_domains(runs)
        for size in SIZES
    ]
    return Sheet("sizes", ("run", "domain", "size", "mAP_coco", "low", "high"), rows)


def found_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = []
    for run in runs:
        for domain, part in run.errors.items():
            for name, count in part["classes"].items():
                right, false, not_found = count["right"], count["false"], count["not_found"]
                precision, recall = share(right, false), share(right, not_found)
                rows.append((run.name, domain, part["score"], name, right, false, not_found, precision, recall))
    heads = ("run", "domain", "score", "class", "right", "false", "not_found", "precision", "recall")
    return Sheet("found", heads, rows)


def errors_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = [
        (run.name, domain, part["score"], kind, count)
        for run in runs
        for domain, part in run.errors.items()
        for kind, count in part["errors"].items()
    ]
    return Sheet("errors", ("run", "domain", "score", "error", "count"), rows)


def share(right: int, other: int) -> float | None:
    """In percent of both together."""
    return 100 * right / (right + other) if right + other else None


def confusions_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = []
    for run in runs:
        classes = ["", *run.results["classes"]]
        for domain, part in run.errors.items():
            for true, found, count in part["confusions"]:
                rows.append((run.name, domain, classes[true], classes[found], count))
    assert NOTHING == 0  # an empty cell: no object there, or not found
    return Sheet("confusions", ("run", "domain", "object", "found as", "count"), rows)


def corruptions_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: list[tuple] = [
        (run.name, name, severity, cell.get("voc07"))
        for run in runs
        if run.robustness
        for name, row in run.robustness["corruptions"].items()
        for severity, cell in enumerate(row, 1)
        if cell
    ]
    return Sheet("corruptions", ("run", "corruption", "severity", "mAP_voc07"), rows)


def images_sheet(runs: list[EvaluatedRun]) -> Sheet:
    rows: dict[tuple, None] = {}
    for _, domain, part in of_domains(runs):
        for name, count in part["objects"].items():
            rows[domain, part["num_images"], part["num_ignored"], name, count] = None
    return Sheet("images", ("domain", "images", "ignored objects", "class", "objects"), list(rows))
