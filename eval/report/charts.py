"""Charts of the report. CSS lays out bars, dots and heat maps, so that they stay legible on a phone; curves are SVG.

Every chart has a text for those who do not see it, and colour is never the only sign: the first run is hollow or
dashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.markup import Html, number, tag


@dataclass(frozen=True)
class Series:
    """One run's values in a chart: where it is drawn and how it is called."""

    name: str
    style: str  # CSS class run-0 ... run-5

    def key(self) -> Html:
        return tag("span", tag("span", class_=f"swatch {self.style}"), self.name, class_="key")


def series_of(names: Sequence[str]) -> list[Series]:
    """The last run has the accent (run-1), the first is the quiet one (run-0) when there are several."""
    styles = ["run-1"] if len(names) == 1 else ["run-0", *(f"run-{2 + i % 4}" for i in range(len(names) - 2)), "run-1"]
    return [Series(name, style) for name, style in zip(names, styles, strict=True)]


def legend(series: Sequence[Series]) -> Html:
    return tag("div", [one.key() for one in series], class_="legend")


def round_up(value: float, step: float = 10.0) -> float:
    return max(step, -(-value // step) * step)


def percent(value: float) -> str:
    return f"{value:.2f}%"


def dot_plot(
    rows: Sequence[tuple[Html, Sequence[tuple[float | str, Sequence[float] | None]]]],
    series: Sequence[Series],
    description: str,
) -> Html:
    """rows: (label, [(value, interval) of each series]). All share one axis from 0; text says why there is no value."""
    figures = [(value, *(ends or ())) for _, points in rows for value, ends in points if not isinstance(value, str)]
    top = round_up(max([v for values in figures for v in values], default=1))
    body = []
    for label, points in rows:
        lanes = []
        for (value, ends), one in zip(points, series, strict=True):
            if isinstance(value, str):
                lanes.append(tag("div", value, class_="lane none"))
                continue
            parts = []
            if ends:
                style = f"left:{percent(100 * ends[0] / top)};width:{percent(100 * (ends[1] - ends[0]) / top)}"
                parts.append(tag("span", class_="whisker", style=style))
            parts.append(tag("span", class_="dot", style=f"left:{percent(100 * value / top)}"))
            title = f"{one.name}: {number(value)}" + (f" ({number(ends[0])} to {number(ends[1])})" if ends else "")
            lanes.append(tag("div", parts, class_=f"lane {one.style}", title=title))
        values = [tag("div", number(None if isinstance(value, str) else value), class_=f"value {one.style}")
                  for (value, _), one in zip(points, series, strict=True)]  # fmt: skip
        body += [
            tag("div", label, class_="dots-label"),
            tag("div", lanes, class_="dots-track"),
            tag("div", values, class_="dots-values"),
        ]
    ticks = [tag("span", f"{top * k / 4:g}", style=f"left:{25 * k}%") for k in range(5)]
    axis = [tag("div", class_="dots-label"), tag("div", ticks, class_="dots-axis"), tag("div")]
    return tag("div", body, axis, class_="dots", role="img", aria_label=description)


def bars(
    groups: Sequence[tuple[str, Sequence[float | str]]],
    series: Sequence[Series],
    description: str,
    top: float,
    digits: int = 1,
) -> Html:
    """groups: (label, [value of each series]); text says why there is no value."""
    rows = []
    for label, values in groups:
        lanes = []
        for value, one in zip(values, series, strict=True):
            if isinstance(value, str):
                lanes.append(tag("div", tag("span", value, class_="none"), class_="bar"))
                continue
            fill = tag("span", class_=f"fill {one.style}", style=f"width:{percent(100 * value / top)}")
            lanes.append(
                tag(
                    "div",
                    fill,
                    tag("span", number(value, digits), class_="value"),
                    class_="bar",
                    title=f"{one.name}: {label}",
                )
            )
        rows.append(tag("div", tag("div", label, class_="bar-label"), tag("div", lanes), class_="bar-row"))
    return tag("div", rows, class_="bars", role="img", aria_label=description)


@dataclass(frozen=True)
class Line:
    style: str
    xs: Sequence[float]
    ys: Sequence[float]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_label: str,
    y_digits: int = 1,
    x_digits: int = 0,
    note: str = "",
) -> Html:
    """A small chart with its own frame; several of them make a grid."""
    width, height, left, right, top, bottom = 260, 176, 40, 10, 10, 32
    (x0, x1), (y0, y1) = x_range, y_range
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / (x1 - x0) * (width - left - right),
            height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom),
        )

    parts = []
    for k in range(3):
        y = y0 + (y1 - y0) * k / 2
        _, level = place(x0, y)
        parts.append(tag("line", x1=left, x2=width - right, y1=f"{level:.1f}", y2=f"{level:.1f}", class_="grid"))
        parts.append(tag("text", f"{y:.{y_digits}f}", x=left - 6, y=f"{level + 3.5:.1f}", class_="tick end"))
    for k, anchor in ((0, "start"), (1, "middle"), (2, "end")):
        x = x0 + (x1 - x0) * k / 2
        across, _ = place(x, y0)
        parts.append(tag("text", f"{x:.{x_digits}f}", x=f"{across:.1f}", y=height - 18, class_=f"tick {anchor}"))
    parts.append(tag("text", x_label, x=(left + width - right) / 2, y=height - 4, class_="tick middle faint"))
    for line in lines:
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(line.xs, line.ys, strict=True))
        parts.append(tag("polyline", points=points, class_=f"curve {line.style}"))
    picture = tag("svg", parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=f"{title}. {note}")
    caption = tag("figcaption", tag("strong", title), tag("span", note, class_="faint") if note else None)
    return tag("figure", caption, picture, class_="small-chart")


def heat_cell(value: float | None, low: float, high: float, digits: int = 1, signed: bool = False) -> Html:
    """A table cell shaded by its value; signed cells shade to either side of zero."""
    if value is None:
        return tag("td", "–")
    if signed:
        share = min(1.0, abs(value) / max(abs(low), abs(high), 1e-9))
        style, kind = f"--share:{share:.3f}", "heat gain" if value >= 0 else "heat loss"
        return tag("td", number(value, digits, "+"), class_=kind, style=style)
    share = min(1.0, max(0.0, (value - low) / max(high - low, 1e-9)))
    return tag("td", number(value, digits), class_="heat", style=f"--share:{share:.3f}")


def table(heads: Sequence, rows: Sequence[Sequence], class_: str = "", caption: str | None = None) -> Html:
    """Cells that are Html td/th elements stay; the first cell of a row is its header.

    Class "sortable": the page's script lets a reader sort by any column.
    """

    def cell(value, first: bool, scope: str = "row") -> Html:
        if isinstance(value, Html) and value.startswith(("<td", "<th")):
            return value
        return tag("th", value, scope=scope) if first else tag("td", value)

    head = tag("thead", tag("tr", [cell(item, True, "col") for item in heads]))
    body = tag("tbody", [tag("tr", [cell(value, n == 0) for n, value in enumerate(row)]) for row in rows])
    whole = tag("table", tag("caption", caption) if caption else None, head, body, class_=class_ or None)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def folded(summary: str, content: Html) -> Html:
    return tag("details", tag("summary", summary), content)


def as_table(heads: Sequence, rows: Sequence[Sequence], caption: str, class_: str = "sortable") -> Html:
    """The numbers of a chart, for those who do not see it."""
    return folded("As a table", table(heads, rows, class_, caption))


def tabs(label: str, panels: Sequence[tuple[str, str, Html]]) -> Html:
    """panels: (id, title, content). Without scripts all of them show, one below the other."""
    if len(panels) == 1:
        return tag("div", panels[0][2])
    buttons, bodies = [], []
    for number_, (name, title, content) in enumerate(panels):
        first = number_ == 0
        buttons.append(
            tag(
                "button",
                title,
                role="tab",
                id=f"tab-{name}",
                type="button",
                aria_controls=f"panel-{name}",
                aria_selected="true" if first else "false",
                tabindex="0" if first else "-1",
            )
        )
        bodies.append(
            tag(
                "div",
                tag("h4", title, class_="no-script"),
                content,
                role="tabpanel",
                id=f"panel-{name}",
                aria_labelledby=f"tab-{name}",
                class_="current" if first else "other",
            )
        )
    return tag("div", tag("div", buttons, role="tablist", aria_label=label), bodies, class_="tabs")
