"""Sections of the report that show figures: domains, classes, precision and recall, sizes, corruptions."""

from eval import schema
from eval.metrics import domains
from eval.metrics.mpc import comparable
from eval.origin import difference_note
from eval.report import sheets
from eval.report.charts import (
    Line,
    Series,
    as_table,
    bars,
    dot_plot,
    folded,
    heat_cell,
    legend,
    line_chart,
    round_up,
    table,
    tabs,
)
from eval.report.errors import MANY
from eval.report.markup import Html, number, tag
from eval.report.sheets import Sheet
from eval.results import EvaluatedRun, difference, mpc_difference, title_of, trained_notes
from eval.table import METRICS
from pipeline.sources.diverse_weather import CLASSES

METRIC_TITLES = {"voc07": "VOC07 AP@0.5", "area": "Area AP@0.5", "coco": "COCO mAP@[.5:.95]"}
SIZES = {"small": "small, under 32² pixels", "medium": "medium", "large": "large, over 96² pixels"}

# Images of the benchmark that the paper's figures were measured on.
BENCHMARK_IMAGES = {
    "daytime_clear": (8289, 8313),
    "night_sunny": (26158,),
    "dusk_rainy": (3501,),
    "night_rainy": (2494,),
    "daytime_foggy": (3775,),
}


def domain_label(runs: list[EvaluatedRun], name: str) -> Html:
    if name == "mean_of_targets":
        return tag("span", "Mean of targets", tag("small", "each domain counts once"))
    return tag("span", title_of(runs, name), tag("small", name) if domains.title(name) != name else None)


def columns_of(runs: list[EvaluatedRun]) -> list[str]:
    columns = domains.ordered(name for run in runs for name in run.domains)
    return [*columns, "mean_of_targets"] if any(run.results["mean_of_targets"] for run in runs) else columns


def stated(run: EvaluatedRun, name: str, value: float | None, none: str = "no objects") -> float | str:
    """A figure for a chart, or why there is none."""
    return run.reason(name, none) if value is None else value


def domains_section(runs: list[EvaluatedRun], series: list[Series], files: dict[str, Sheet]) -> Html:
    columns = columns_of(runs)
    panels = []
    for metric, title in METRIC_TITLES.items():
        points = [
            (
                domain_label(runs, name),
                [(stated(run, name, run.figure(name, metric)), run.interval(name, metric)) for run in runs],
            )
            for name in columns
        ]
        plot = dot_plot(points, series, f"{METRICS[metric]} of each run in each domain, with 95 % intervals")
        panels.append((f"domains-{metric}", title, tag("div", plot, domain_rows(runs, columns, metric))))
    absent = [
        f"{run.name}, {domains.title(name)}: {', '.join(run.results['domains'][name]['classes_without_objects'])}"
        for run in runs
        for name in run.domains
        if run.results["domains"][name]["classes_without_objects"]
    ]
    left_out = tag("p", "Classes without objects, left out of the mean: ", "; ".join(absent), class_="note")
    marked = [tag("p", note, class_="note") for note in trained_notes(runs)]
    saved = tag("p", sheets.link(files, "domains"), class_="sheets")
    return Html(legend(series) + tabs("Metric", panels) + (left_out if absent else "") + "".join(marked) + saved)


def domain_rows(runs: list[EvaluatedRun], columns: list[str], metric: str) -> Html:
    heads = ["", *(title_of(runs, name) for name in columns)]
    best = {}
    for name in columns:
        figures = [value for run in runs if (value := run.figure(name, metric)) is not None]
        best[name] = max(figures) if len(figures) > 1 else None
    if len({tuple(run.results["mean_of_targets"].get("domains", ())) for run in runs}) > 1:
        best["mean_of_targets"] = None  # means over other domains do not compare
    rows = [
        tag(
            "tr",
            tag("th", run.name, scope="row"),
            [
                tag(
                    "td",
                    tag("b", number(run.figure(name, metric))),
                    range_of(run.interval(name, metric)),
                    class_="best" if best[name] is not None and run.figure(name, metric) == best[name] else None,
                )
                for name in columns
            ],
        )
        for run in runs
    ]
    for run in runs[1:]:
        cells = []
        for name in columns:
            change = difference(run, runs[0], name, metric)
            if change is None:
                cells.append(tag("td", "–"))
                continue
            kind = None if not change.sure else ("gain-text" if change.value > 0 else "loss-text")
            cells.append(
                tag("td", tag("span", number(change.value, 1, "+"), class_=kind), range_of(change.interval, "+"))
            )
        rows.append(tag("tr", tag("th", f"{run.name} − {runs[0].name}", scope="row"), cells, class_="change"))
    notes = [
        tag(
            "p",
            f"{METRICS[metric]}, in percent; below a figure its 95 % bootstrap interval over images, if any.",
        )
    ]
    if len(runs) > 1:
        notes.append(
            tag(
                "p",
                "Underlined: the best of a column. Differences are paired, on the same resampled images; coloured "
                "where the interval excludes zero.",
            )
        )
        notes += [tag("p", difference_note(run, runs[0])) for run in runs[1:]]
    same_classes = all(sorted(run.results["classes"]) == sorted(CLASSES) for run in runs)
    printed = metric == "voc07" and same_classes and set(columns) & set(domains.BENCHMARK)
    if printed and on_benchmark(runs):
        rows += paper_rows(columns)
        notes.append(tag("p", f"Rows in italics: {domains.PAPER_SOURCE}."))
    head = tag("thead", tag("tr", [tag("th", item, scope="col") for item in heads]))
    whole = tag("table", head, tag("tbody", rows))
    scroll = tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"{METRICS[metric]} by domain")
    apart = paper_table(columns) if printed and not on_benchmark(runs) else ""
    return Html(scroll + tag("div", notes, class_="faint") + apart)


def paper_rows(columns: list[str]) -> list[Html]:
    rows = []
    for name, figures in domains.PAPER.items():
        printed = dict(zip((*domains.BENCHMARK, "mean_of_targets"), figures, strict=True))
        if not set(domains.TARGETS) <= set(columns):
            del printed["mean_of_targets"]
        cells = [tag("td", number(printed.get(column))) for column in columns]
        rows.append(tag("tr", tag("th", f"paper: {name}", scope="row"), cells, class_="paper"))
    return rows


def on_benchmark(runs: list[EvaluatedRun]) -> bool:
    """Every domain of the benchmark that was scored has as many images as the benchmark's."""
    counts = [(name, run.results["domains"][name]["num_images"]) for run in runs for name in run.domains]
    return all(count in BENCHMARK_IMAGES[name] for name, count in counts if name in BENCHMARK_IMAGES)


def paper_table(columns: list[str]) -> Html:
    """The paper's figures, apart from those of other images; its mean beside all that it is the mean of."""
    shown = [name for name in columns if name in domains.BENCHMARK]
    if set(domains.TARGETS) <= set(shown):
        shown.append("mean_of_targets")
    heads = ["", *(domains.title(name) if name != "mean_of_targets" else "Mean of targets" for name in shown)]
    rows = []
    for name, figures in domains.PAPER.items():
        printed = dict(zip((*domains.BENCHMARK, "mean_of_targets"), figures, strict=True))
        rows.append([name, *(number(printed[column]) for column in shown)])
    said = f"{domains.PAPER_SOURCE}. The images scored here are others: for orientation only."
    return folded("The paper's figures, on other images", table(heads, rows, caption=said))


def range_of(ends: list[float] | None, sign: str = "-") -> Html | None:
    return tag("span", f"{number(ends[0], 1, sign)} to {number(ends[1], 1, sign)}", class_="range") if ends else None


def classes_section(runs: list[EvaluatedRun], series: list[Series], files: dict[str, Sheet]) -> Html:
    panels: list[tuple[str, str, Html]] = []
    for domain in domains.ordered(name for run in runs for name in run.domains):
        classes = runs[-1].results["classes"]
        figures = {name: [class_figure(run, domain, name) for run in runs] for name in classes}
        groups = [
            (name, [class_stated(run, domain, name, value) for run, value in zip(runs, values, strict=True)])
            for name, values in figures.items()
        ]
        top = round_up(max((v for values in figures.values() for v in values if v is not None), default=10))
        counts = objects_of(runs, domain)
        first, rest = split_classes(groups, counts)
        chart = bars(first, series, f"VOC07 AP of each class in {domains.title(domain)}", top)
        listed = ", ".join(f"{name} {counts.get(name, 0)}" for name, _ in first)
        objects = tag("p", "Objects: ", listed, class_="faint")
        more = []
        if rest:
            others = bars(rest, series, f"VOC07 AP of the other classes in {domains.title(domain)}", top)
            more = [folded(f"{len(rest)} more classes, by number of objects", others)]
        rows = [[name, *map(number, values), counts.get(name, 0)] for name, values in figures.items()]
        heads = ["class", *(run.name for run in runs), "objects"]
        numbers = as_table(heads, rows, f"VOC07 AP in {title_of(runs, domain)}")
        panels.append((f"classes-{len(panels)}", title_of(runs, domain), tag("div", chart, objects, more, numbers)))
    saved = tag("p", sheets.link(files, "classes"), class_="sheets")
    return Html(legend(series) + tabs("Domain", panels) + saved)


def objects_of(runs: list[EvaluatedRun], domain: str) -> dict[str, int]:
    return next(run for run in runs if domain in run.domains).results["domains"][domain]["objects"]


def split_classes(groups: list[tuple], counts: dict[str, int]) -> tuple[list[tuple], list[tuple]]:
    """(those that show, those that are folded) of [(class, ...)]: with many, the most frequent ones with objects."""
    if len(groups) <= MANY:
        return groups, []
    ordered = sorted(groups, key=lambda group: -counts.get(group[0], 0))
    return ordered[:MANY], [group for group in ordered[MANY:] if counts.get(group[0], 0)]


def class_figure(run: EvaluatedRun, domain: str, name: str) -> float | None:
    part = run.results["domains"].get(domain)
    return None if part is None else part["voc07"]["AP"].get(name)


def class_stated(run: EvaluatedRun, domain: str, name: str, value: float | None) -> float | str:
    return stated(run, domain, value, "no objects" if name in run.results["classes"] else "not evaluated")


def curves_section(runs: list[EvaluatedRun], series: list[Series], files: dict[str, Sheet]) -> Html:
    curves = [run.read("curves.json", schema.CURVES) or {} for run in runs]
    panels: list[tuple[str, str, Html]] = []
    for domain in domains.ordered(name for run in runs for name in run.domains):
        charts, empty = [], []
        for name in runs[-1].results["classes"]:
            lines = []
            for found, one in zip(curves, series, strict=True):
                points = found.get(domain, {}).get(name)
                if points:
                    reached = next((r for r, value in enumerate(points) if value == 0), len(points))
                    xs, ys = [r / 100 for r in range(reached)], points[:reached]
                    lines.append(Line(one.style, [*xs, xs[-1] if xs else 0.0], [*ys, 0.0]))
            figures = [class_figure(run, domain, name) for run in runs]
            if all(value is None for value in figures):
                absent = [class_stated(run, domain, name, None) for run in runs]
                empty.append(f"{name} ({'no objects' if 'no objects' in absent else 'not evaluated'})")
                continue
            chart = line_chart(
                name,
                lines,
                x_range=(0, 1),
                y_range=(0, 1),
                x_label="recall (precision upwards)",
                x_digits=1,
                note=f"AP {' · '.join(number(value) for value in figures)}",
            )
            charts.append((name, chart))
        first, rest = split_classes(charts, objects_of(runs, domain))
        parts = [tag("div", [chart for _, chart in first], class_="grid-of-charts")] if first else []
        if rest:
            others = tag("div", [chart for _, chart in rest], class_="grid-of-charts")
            parts.append(folded(f"{len(rest)} more classes, by number of objects", others))
        if empty:
            parts.append(tag("p", "Without a curve: ", ", ".join(empty), class_="faint"))
        panels.append((f"curves-{len(panels)}", title_of(runs, domain), tag("div", parts)))
    saved = tag("p", sheets.link(files, "curves"), class_="sheets")
    return Html(legend(series) + tabs("Domain", panels) + saved)


def sizes_section(runs: list[EvaluatedRun], series: list[Series], files: dict[str, Sheet]) -> Html:
    columns = columns_of(runs)
    values = {(name, size): [size_figure(run, name, size) for run in runs] for name in columns for size in SIZES}
    top = round_up(max((value for row in values.values() for value in row if value is not None), default=10))
    shown = {name: title_of(runs, name) for name in columns}
    blocks = []
    for size, title in SIZES.items():
        groups = [
            (
                shown[name],
                [stated(run, name, v, "no such objects") for run, v in zip(runs, values[name, size], strict=True)],
            )
            for name in columns
        ]
        chart = bars(groups, series, f"COCO mAP of {title} objects in each domain", top)
        blocks.append(tag("div", tag("h3", title.capitalize()), chart))
    rows = [
        [
            f"{shown[name]}, {size}",
            *(
                tag("td", number(value), range_of(size_interval(run, name, size)))
                for run, value in zip(runs, values[name, size], strict=True)
            ),
        ]
        for name in columns
        for size in SIZES
    ]
    numbers = as_table(["domain", *(run.name for run in runs)], rows, "COCO mAP by domain and size, 95 % intervals")
    saved = tag("p", sheets.link(files, "sizes"), class_="sheets")
    return Html(legend(series) + tag("div", blocks, class_="three") + numbers + saved)


def size_figure(run: EvaluatedRun, name: str, size: str) -> float | None:
    return run.figure(name, size) if name == "mean_of_targets" else run.figure(name, "coco", size)


def size_interval(run: EvaluatedRun, name: str, size: str) -> list[float] | None:
    return run.interval(name, size) if name == "mean_of_targets" else run.interval(name, "coco", f"interval_{size}")


def corruptions_section(runs: list[EvaluatedRun], files: dict[str, Sheet]) -> Html:
    old = [run.name for run in runs if run.robustness is None and (run.folder / "robustness.json").is_file()]
    note = None
    if old:
        note = tag("p", f"Left out: what was measured for {', '.join(old)} is of other weights; measure it again.")
    measured = [(run, run.robustness) for run in runs if run.robustness and run.robustness["summary"]]
    if not measured:
        command = f"python -m eval.run {runs[-1].path} --data DIR --corruptions benchmark"
        return tag(
            "div", note, tag("p", "Not measured for these runs. To measure: ", tag("code", command), class_="note")
        )
    subject_first = [measured[-1], *measured[:-1]]
    panels = [(f"heat-{n}", run.name, robustness_panel(run, found)) for n, (run, found) in enumerate(subject_first)]
    (first, base), (last, new) = measured[0], measured[-1]
    if len(measured) > 1 and comparable(new, base):
        title = f"{last.name} − {first.name}"
        change = mpc_difference(last, first)
        parts = [] if change is None else [tile({"mPC": (change.value, change.interval)}, "all corruptions", "+")]
        chart = heat_map(new, f"{title}, points of mAP", base)
        said = tag("p", difference_note(last, first), class_="faint")
        panels.append(("heat-change", title, tag("div", tag("div", parts, class_="tiles"), chart, said)))
    return tag("div", note, tabs("Run", panels), tag("p", sheets.link(files, "corruptions"), class_="sheets"))


def robustness_panel(run: EvaluatedRun, found: dict) -> Html:
    summary = found["summary"]
    tiles = [
        tile({"P": (summary["P"], summary.get("interval_P"))}, f"clean images, {title_of([run], found['domain'])}")
    ]
    for part, what in (
        ("all", "all corruptions"),
        ("seen", "seen in its training"),
        ("unseen", "unseen in its training"),
        ("held_out", "kept out of CD-FKD training"),
    ):
        if summary.get(part):
            figures = {name: (summary[part][name], summary[part].get(f"interval_{name}")) for name in ("mPC", "rPC")}
            tiles.append(tile(figures, f"{what} ({summary[part]['corruptions']})"))
    how: list = [
        f"Corruptions made at {found['resolution']} resolution on {found['images']} images; "
        f"{METRICS['voc07']}. mPC is the mean over corruptions and severities 1 to 5, rPC = mPC / P in percent; "
        "below each its 95 % bootstrap interval over images, where it was measured."
    ]
    if found["resolution"] == "packed":
        how += [
            " The benchmark corrupts images before any resizing: to compare with published figures, measure with ",
            tag("code", "--originals DIR", class_="whole"),
            ", the folder that was packed.",
        ]
    chart = heat_map(found, "mAP by corruption and severity")
    return Html(tag("div", tiles, class_="tiles") + chart + tag("p", how, class_="faint"))


def tile(figures: dict[str, tuple[float | None, list[float] | None]], what: str, sign: str = "-") -> Html:
    """figures: {name: (value, interval)}."""
    pairs = [
        tag("div", tag("small", name), tag("div", number(value, 1, sign), class_="big"), range_of(ends, sign))
        for name, (value, ends) in figures.items()
    ]
    return tag("div", tag("div", pairs, class_="pair"), tag("small", what), class_="tile")


def heat_map(found: dict, caption: str, base: dict | None = None) -> Html:
    """Rows are corruptions, columns severities and their mean; with `base` the cells are differences to it."""
    figures = {
        name: [cell.get("voc07") if cell else None for cell in row] for name, row in found["corruptions"].items()
    }
    if base is not None:
        others = base["corruptions"]
        figures = {
            name: [
                None if value is None or not other else value - other["voc07"]
                for value, other in zip(row, others[name], strict=True)
            ]
            for name, row in figures.items()
            if name in others
        }
    every = [value for row in figures.values() for value in row if value is not None]
    low, high = (min(every, default=0), max(every, default=1)) if base is not None else (0, max(every, default=1))
    rows = []
    for name, row in figures.items():
        present = [value for value in row if value is not None]
        mean = sum(present) / len(present) if present else None
        unseen = found["known_training"] and name not in found["seen"]
        label = tag("span", name.replace("_", " "), tag("small", " unseen") if unseen else None)
        rows.append([label, *(heat_cell(v, low, high, 1, base is not None) for v in [*row, mean])])
    return table(["corruption", *(f"severity {s}" for s in range(1, 6)), "mean"], rows, "heat-map", caption)
