"""Five small skies, one for each domain of the benchmark, drawn as SVG: the cards at the top of the report."""

from eval.report.markup import Html, tag

# (top, middle, bottom) of each sky, and whether its ground is light enough for dark letters.
COLOURS = {
    "daytime_clear": ("#3f8fd6", "#86bfea", "#e9d9ae"),
    "night_sunny": ("#0a1030", "#1d2a5c", "#3d4677"),
    "dusk_rainy": ("#3f3d63", "#8a5f7c", "#b9795f"),
    "night_rainy": ("#080d18", "#16263a", "#274254"),
    "daytime_foggy": ("#c2ccd6", "#d5dce3", "#e4e8ec"),
    "mean_of_targets": ("#0b5c58", "#0f7d77", "#16938a"),
}
OTHER = ("#3a4759", "#55647a", "#6d7d94")
PALE = {"daytime_clear", "daytime_foggy"}


def sky(domain: str) -> Html:
    """The picture behind a card. Decoration only: hidden from readers of the text."""
    top, middle, bottom = COLOURS.get(domain, OTHER)
    name = f"sky-{''.join(letter if letter.isalnum() else '-' for letter in domain)}"
    stops = [
        tag("stop", offset="0", stop_color=top),
        tag("stop", offset=".6", stop_color=middle),
        tag("stop", offset="1", stop_color=bottom),
    ]
    gradient = tag("linearGradient", stops, id=name, x1=0, y1=0, x2=0, y2=1)
    parts = [tag("defs", gradient), tag("rect", width=200, height=150, fill=f"url(#{name})")]
    if domain == "daytime_clear":
        parts += [tag("circle", cx=158, cy=36, r=30, fill="#fff", opacity=0.25)]
        parts += [tag("circle", cx=158, cy=36, r=17, fill="#fff7d6")]
    elif domain == "night_sunny":
        stars = ((22, 22), (52, 44), (78, 14), (108, 38), (34, 62), (132, 20), (88, 58), (186, 66))
        parts += [tag("circle", cx=x, cy=y, r=0.9 + (x % 3) * 0.35, fill="#fff", opacity=0.8) for x, y in stars]
        parts += [tag("circle", cx=164, cy=34, r=14, fill="#f4f1de"), tag("circle", cx=158, cy=30, r=13, fill=top)]
    elif domain in ("dusk_rainy", "night_rainy"):
        if domain == "dusk_rainy":
            parts.append(tag("circle", cx=150, cy=104, r=26, fill="#ffc48a", opacity=0.45))
        else:
            parts += [tag("circle", cx=x, cy=96, r=9, fill="#ffd28a", opacity=0.16) for x in (52, 118, 176)]
            parts += [tag("circle", cx=x, cy=96, r=2.2, fill="#ffe3b0", opacity=0.9) for x in (52, 118, 176)]
        drops = [(x, (x * 37) % 95) for x in range(6, 200, 11)]
        path = " ".join(f"M{x} {y}l-6 22" for x, y in drops)
        parts.append(tag("path", d=path, stroke="#fff", stroke_width=1, opacity=0.34, fill="none"))
    elif domain == "daytime_foggy":
        for y, opacity in ((26, 0.5), (48, 0.65), (72, 0.5), (96, 0.4)):
            parts.append(tag("rect", x=-10, y=y, width=220, height=9, rx=4.5, fill="#fff", opacity=opacity))
    hills = "M0 118C30 104 62 122 96 112S160 104 200 116V150H0Z"
    parts.append(tag("path", d=hills, fill="#000" if domain not in PALE else "#fff", opacity=0.14))
    return tag("svg", parts, viewBox="0 0 200 150", preserveAspectRatio="xMidYMid slice", aria_hidden="true")


LOGO = tag(
    "svg",
    tag("circle", cx=15, cy=9, r=5.5, fill="#f2b545"),
    tag("path", d="M7 20a4.5 4.5 0 0 1-.4-9A6 6 0 0 1 18 12.2 4 4 0 0 1 17.5 20Z", fill="#5b8fb8"),
    viewBox="0 0 24 24",
    aria_hidden="true",
)
MOON = tag(
    "svg",
    tag("path", d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z", fill="currentColor"),
    viewBox="0 0 24 24",
    aria_hidden="true",
)
