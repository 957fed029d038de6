"""Section of the report on what goes wrong at the working score: errors by type, by class, and confusions."""

from collections.abc import Sequence

from eval.metrics import domains
from eval.metrics.errors import NOTHING, TYPES
from eval.report import sheets
from eval.report.charts import Series, as_table, bars, folded, heat_cell, legend, round_up, table, tabs
from eval.report.markup import Html, number, tag
from eval.report.sheets import Sheet, share
from eval.results import EvaluatedRun, title_of

MANY = 12  # classes; above, charts show the most frequent ones and fold the others
MOST_CONFUSIONS = 20  # pairs that are listed where the matrix would be too wide

TITLES = {
    "wrong_class": "wrong class",
    "badly_placed": "badly placed",
    "both": "both of these",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed object",
}
DEFINITIONS = (
    "Wrong class: overlaps an object of another class by 0.5 or more. Badly placed: overlaps one of its class by 0.1 "
    "to 0.5. Both of these: another class, and badly placed. Found twice: on an object that is found already. Nothing "
    "there: overlaps no object by more than 0.1. Missed object: none of these is about it. As TIDE defines them "
    "(arXiv 2008.08115), matched by COCO's rule at IoU 0.5."
)


def errors_section(runs: list[EvaluatedRun], series: list[Series], files: dict[str, Sheet]) -> Html:
    counted = [(run, one) for run, one in zip(runs, series, strict=True) if run.errors]
    if not counted:
        command = f"python -m eval.run {runs[-1].path} --data DIR"
        return tag("p", "Not counted in these evaluations. To count: ", tag("code", command), class_="note")
    shown, keys = [run for run, _ in counted], [one for _, one in counted]
    scores = "; ".join(f"{run.name} {number(next(iter(run.errors.values()))['score'], 2)}" for run in shown)
    said = tag(
        "p",
        "Counted from each run's working score on, from which all domains together keep most of their own best F1: "
        f"{scores}.",
        class_="faint",
    )
    names = domains.ordered(name for run in shown for name in run.errors)
    blocks = []
    for title, other in (("Recall", "not_found"), ("Precision", "false")):
        groups = [(title_of(runs, name), [overall(run, name, other) for run in shown]) for name in names]
        chart = bars(groups, keys, f"{title} of all classes together in each domain", 100)
        blocks.append(tag("div", tag("h3", title), chart))
    panels = [(f"errors-{n}", title_of(runs, name), domain_panel(shown, keys, name)) for n, name in enumerate(names)]
    saved = tag("p", [sheets.link(files, name) for name in ("found", "errors", "confusions")], class_="sheets")
    return Html(legend(keys) + said + tag("div", blocks, class_="three") + tabs("Domain", panels) + saved)


def overall(run: EvaluatedRun, domain: str, other: str) -> float | str:
    """Right ones of all classes together as a percentage of right and others."""
    part = run.errors.get(domain)
    if part is None:
        return "not evaluated"
    counts = part["classes"].values()
    value = share(sum(count["right"] for count in counts), sum(count[other] for count in counts))
    return "nothing found" if value is None else value


def domain_panel(runs: list[EvaluatedRun], series: Sequence[Series], domain: str) -> Html:
    parts = [run.errors.get(domain) for run in runs]
    groups: list[tuple[str, list[float | str]]] = [
        (TITLES[kind], ["not evaluated" if part is None else float(part["errors"][kind]) for part in parts])
        for kind in TYPES
    ]
    top = max([1.0, *(value for _, values in groups for value in values if not isinstance(value, str))])
    chart = bars(groups, series, f"Errors by type in {domains.title(domain)}", round_up(top * 1.05, 1.0), 0)
    rows = [[name, *(number(None if isinstance(v, str) else v, 0) for v in values)] for name, values in groups]
    kinds = as_table(["error", *(run.name for run in runs)], rows, "Number of errors by type")
    by_class = class_table(runs, domain)
    matrices = [
        Html(tag("h4", f"Confusions of {run.name}") + confusions(run, part))
        for run, part in reversed(list(zip(runs, parts, strict=True)))
        if part is not None
    ]
    more = [folded("Confusions of the other runs", Html("".join(matrices[1:])))] if matrices[1:] else []
    return tag("div", tag("h3", "Errors by type"), chart, tag("p", DEFINITIONS, class_="faint"), kinds,
               tag("h3", "Precision and recall by class"), by_class, tag("h3", "What is taken for what"), matrices[:1],
               *more)  # fmt: skip


def class_table(runs: list[EvaluatedRun], domain: str) -> Html:
    heads = ["class", "objects", *(f"{run.name}, {part}" for run in runs for part in ("precision", "recall"))]
    rows, absent = [], []
    for name in runs[-1].results["classes"]:
        counts = [part["classes"].get(name) if (part := run.errors.get(domain)) else None for run in runs]
        known = [count for count in counts if count is not None]
        objects = max((count["right"] + count["not_found"] for count in known), default=0)
        if not any(sum(count.values()) for count in known):
            absent.append(name)
            continue
        cells = []
        for count in counts:
            for other in ("false", "not_found"):
                value = None if count is None else share(count["right"], count[other])
                cells.append(number(value))
        rows.append([name, objects, *cells])
    if len(rows) > MANY:
        rows.sort(key=lambda row: -row[1])
    whole = table(heads, rows, "sortable", f"Percent, at IoU 0.5, in {domains.title(domain)}")
    note = tag("p", "Neither objects nor detections: ", ", ".join(absent), class_="faint") if absent else ""
    return Html((folded(f"{len(rows)} classes", whole) if len(rows) > MANY else whole) + note)


def confusions(run: EvaluatedRun, part: dict) -> Html:
    """A matrix, or with many classes the most frequent pairs of it."""
    names = run.results["classes"]
    counts = {(true, found): count for true, found, count in part["confusions"]}
    if len(names) > MANY:
        wrong = sorted((-n, true, found) for (true, found), n in counts.items() if true != found and true and found)
        rows = [
            [names[true - 1], tag("td", names[found - 1], class_="word"), -n]
            for n, true, found in wrong[:MOST_CONFUSIONS]
        ]
        if not rows:
            return tag("p", "No object was taken for one of another class.", class_="faint")
        heads = ["object", tag("th", "found as", scope="col", class_="word"), "times"]
        return table(heads, rows, "sortable", f"The most frequent, {len(wrong)} in all")
    labels = [*range(1, len(names) + 1), NOTHING]
    rows = []
    for true in labels:
        total = sum(counts.get((true, found), 0) for found in labels)
        cells = []
        for found in labels:
            count = counts.get((true, found), 0)
            empty = true == found == NOTHING or not total
            cells.append(tag("td", "–" if empty else 0) if empty or not count else heat_cell(count, 0, total, 0))
        rows.append([names[true - 1] if true else "nothing there", *cells])
    heads = ["object", *names, "not found"]
    said = tag(
        "p", "Rows: what is there. Columns: what it is found as. Shaded by its share of the row.", class_="faint"
    )
    return Html(said + table(heads, rows, "heat-map"))
