"""Sections of the report about how the figures came to be: training curves, data, configuration, versions, speed."""

import json
from math import floor, log10
from pathlib import Path

from eval import schema
from eval.metrics import domains
from eval.report import sheets
from eval.report.charts import Line, Series, folded, legend, line_chart, table, tabs
from eval.report.markup import Html, number, tag
from eval.report.sheets import Sheet
from eval.results import EvaluatedRun, title_of
from pipeline.files.own import read_json, read_lines
from pipeline.packed.card import read_card

MOST_POINTS = 300

# Values beside the losses and cosines: title, and what they are multiplied by to be short on an axis.
RATES = {"learning_rate": ("learning rate, ‰", 1000), "images_per_second": ("images / s", 1)}


def read_log(path: Path) -> list[dict]:
    """Lines of log.jsonl with losses; a damaged one, such as a last one cut short by a kill, is left out alone."""
    return [line for line in read_lines(path) if isinstance(line.get("losses"), dict) and is_number(line.get("step"))]


def is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def collect(lines: list[dict]) -> dict[str, tuple[list[float], list[float]]]:
    """{curve: (steps, values)} of everything a log tells."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        values = {f"loss: {name}": value for name, value in line["losses"].items()}
        logged = line.get("logged") or line.get("cosines")  # "cosines" until version 0.1
        values |= {
            name.replace("_", ": ", 1): value for name, value in (logged if isinstance(logged, dict) else {}).items()
        }
        values |= {title: line[key] * factor for key, (title, factor) in RATES.items() if is_number(line.get(key))}
        for name, value in values.items():
            if is_number(value):
                steps, found = curves.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                found.append(float(value))
    return curves


def thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Means of neighbours, so that a long run stays a small picture."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    size = -(-len(steps) // MOST_POINTS)
    starts = range(0, len(steps), size)
    return (
        [sum(steps[i : i + size]) / len(steps[i : i + size]) for i in starts],
        [sum(values[i : i + size]) / len(values[i : i + size]) for i in starts],
    )


def training_section(runs: list[EvaluatedRun], series: list[Series]) -> Html:
    return curves([collect(read_log(run.trained / "log.jsonl")) if run.trained else {} for run in runs], series)


def curves(logs: list[dict[str, tuple[list[float], list[float]]]], series: list[Series]) -> Html:
    """A chart for each value that a log has, of all runs that have it."""
    names = list(dict.fromkeys(name for log in logs for name in log))
    if not names:
        return tag("p", "There is no training log (log.jsonl in the run).", class_="note")
    shown = [one for one, log in zip(series, logs, strict=True) if log]
    last = max(log[name][0][-1] for log in logs for name in log)
    groups: dict[str, list[Html]] = {}
    for name in names:
        lines, ends = [], []
        for log, one in zip(logs, series, strict=True):
            if name in log:
                lines.append(Line(one.style, *thin(*log[name])))
                ends.append(log[name][1][-1])
        every = [value for line in lines for value in line.ys]
        low = min(0.0, *every) if not name.startswith("cosine") else min(every)
        high = max(every)
        if high == low:
            high = low + (abs(low) or 1.0) * 0.1
        kind = "Losses" if name.startswith("loss") else "Cosines" if name.startswith("cosine") else "Rate and speed"
        digits = max(0, 1 - floor(log10(high - low)))  # two that differ along the axis
        title = (name.partition(": ")[2] or name).removeprefix("cosine_")
        chart = line_chart(
            title.replace("_", " "),
            lines,
            x_range=(0, last),
            y_range=(low, high),
            x_label="step",
            y_digits=digits,
            note=" · ".join(number(value, digits + 1) for value in ends),
        )
        groups.setdefault(kind, []).append(chart)
    blocks = [Html(tag("h3", kind) + tag("div", charts, class_="grid-of-charts")) for kind, charts in groups.items()]
    return Html(legend(shown) + "".join(blocks))


def details_section(runs: list[EvaluatedRun], files: dict[str, Sheet]) -> Html:
    saved = tag("p", sheets.link(files, "images"), class_="sheets")
    parts = [tag("h3", "Evaluated images"), data_tables(runs), saved]
    panels = [(f"details-{n}", run.name, run_details(run)) for n, run in enumerate(runs)]
    parts += [tag("h3", "Runs"), tabs("Run", panels)]
    return Html("".join(parts))


def data_tables(runs: list[EvaluatedRun]) -> Html:
    seen: dict[str, dict] = {}
    for run in runs:
        for name in run.domains:
            seen.setdefault(name, run.results["domains"][name])
    names = domains.ordered(seen)
    counts = ("num_images", "num_objects", "num_ignored")
    rows = [[title_of(runs, name), *(seen[name][count] for count in counts)] for name in names]
    whole = table(["domain", "images", "objects", "ignored"], rows, caption="Images, and objects that count or not")
    classes = runs[-1].results["classes"]
    by_class = [[one, *(seen[name]["objects"].get(one, 0) for name in names)] for one in classes]
    heads = ["class", *(title_of(runs, name) for name in names)]
    return Html(whole + folded("Objects by class", table(heads, by_class, "sortable", "Objects that count")))


def run_details(run: EvaluatedRun) -> Html:
    results = run.results
    about = {
        "run": results["run"],
        "evaluated": results["evaluated"],
        "trained on": trained_text(run),
        **{part: results.get(part) for part in ("detector", "settings", "speed", "hardware", "versions")},
    }
    rows = [[key, plain(value)] for key, value in about.items() if value]
    parts = [table(["", "value"], rows, "wrap", "How it was evaluated")]
    for domain in run.domains:
        card = results["domains"][domain].get("data")
        if card:
            parts.append(listing(f"Data report: {domains.title(domain)}", card))
    if run.trained is not None:
        content = schema.known(read_json(run.trained / "config.json", schema.CONFIG), schema.CONFIG)
        parts.append(listing("Resolved configuration", content))
        data = content.get("data") or []
        for folder in [data] if isinstance(data, str) else data:  # one dataset was once a plain path
            if (Path(folder) / "dataset.json").is_file():
                title = f"Data report: training images of {Path(folder).name}"
                parts.append(listing(title, trim_card(read_card(Path(folder)))))
    return Html("".join(parts))


def trained_text(run: EvaluatedRun) -> str:
    """The datasets that the checkpoint says, else the source as it was given."""
    datasets = run.results.get("trained_on")
    if datasets is None:
        return f"not known; source as given: {domains.title(run.source)}" if run.source else "not known"
    parts = []
    for entry in datasets:
        names = ", ".join(map(domains.title, entry["domains"])) or "domains not known"
        images = "" if entry.get("num_images") is None else f", {entry['num_images']} images"
        weight = "" if entry.get("weight", 1) == 1 else f", weight {entry['weight']:g}"
        parts.append(f"{entry['name']} ({names}{images}{weight})")
    return "; ".join(parts)


def listing(title: str, content) -> Html:
    return tag(
        "details", tag("summary", title), tag("pre", json.dumps(content, indent=2, ensure_ascii=False), tabindex="0")
    )


def trim_card(info: dict) -> dict:
    """dataset.json without its list of files."""
    return {key: value for key, value in info.items() if key not in ("shards", "index", "beton")}


def plain(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        known = {key: item for key, item in value.items() if item not in (None, [], "")}
        return ", ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in known.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)
