"""The report: `python -m eval.report RUN... --out report.html`. One file that opens offline, on a phone, in the dark.

The last run named is the one it is about; the first is what it is compared with. Runs of train.translate have a page of
their own (translation.py). Everything shown is read from the runs' folders; text is escaped, and a content security
policy keeps the page from loading or running anything else.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval.metrics import domains
from eval.origin import difference_note, origin_of
from eval.report import skies, translation
from eval.report.charts import series_of
from eval.report.errors import errors_section
from eval.report.figures import (
    classes_section,
    columns_of,
    corruptions_section,
    curves_section,
    domains_section,
    sizes_section,
)
from eval.report.markup import Html, number, tag, text
from eval.report.pictures import Album, pictures_section
from eval.report.sheets import sheets_of
from eval.report.training import details_section, trained_text, training_section
from eval.results import EvaluatedRun, difference, home_of, title_of, trained_notes
from eval.table import named_runs, split_name
from pipeline.command.console import say
from pipeline.files.replace import replacing

LARGEST = 15_000_000  # bytes
HERE = Path(__file__).parent


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page about evaluated runs, or about runs of train.translate."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Evaluated runs, each PATH or NAME=PATH; the first is the baseline, the last the subject; or translations."""
    out: Path = Path("report.html")


def build_report(runs: list[EvaluatedRun]) -> str:
    """The page."""
    series = series_of([run.name for run in runs])
    album, files = Album(), sheets_of(runs)
    sections = [
        section(
            "domains",
            *about_domains(runs),
            domains_section(runs, series, files),
        ),
        section(
            "classes",
            "Classes",
            "AP at IoU 0.5 of each class. Rare classes swing most: look at the number of objects below each chart.",
            classes_section(runs, series, files),
        ),
        section(
            "curves",
            "Precision and recall",
            "What lowering the score threshold buys: more objects found (right), fewer detections right (down).",
            curves_section(runs, series, files),
        ),
        section(
            "sizes",
            "Object size",
            "COCO mAP at IoU 0.5 to 0.95 by the object's area in the original image.",
            sizes_section(runs, series, files),
        ),
        section(
            "errors",
            "Errors",
            "What is right, false and not found when the detector is used, and why.",
            errors_section(runs, series, files),
        ),
        section(
            "corruptions",
            "Corruptions",
            "Clean source images, made worse on purpose: noise, blur, weather and digital faults in five severities.",
            corruptions_section(runs, files),
        ),
        section(
            "pictures",
            "Pictures",
            "What the figures look like on the road.",
            pictures_section(runs, album),
        ),
        section(
            "training",
            "Training",
            "Loss terms, cosines of teacher and student, rate and speed; each chart says where its runs end.",
            training_section(runs, series),
        ),
        section(
            "details",
            "Details",
            "Everything needed to repeat it: data, configuration, versions, hardware, speed.",
            details_section(runs, files),
        ),
    ]
    return frame(runs[-1].name, hero(runs), sections, footer(runs), album)


def frame(name: str, start: Html, sections: list[tuple[str, str, Html]], end: Html, album: Album) -> str:
    """The whole page: what a run is, its sections, its last line."""
    script = (HERE / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", f"{name} · Fairweather report"),
        tag("style", Html((HERE / "report.css").read_text())),
    )
    links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in sections]
    theme = tag("button", skies.MOON, class_="theme", type="button", aria_label="Switch between light and dark")
    brand = tag(
        "a", skies.LOGO, tag("span", "Fairweather"), class_="brand", href="#main", aria_label="Fairweather, top"
    )
    top = tag("header", tag("div", brand, tag("nav", links, aria_label="Sections"), theme), class_="top")
    body = tag(
        "body",
        tag("a", "Skip to content", class_="skip", href="#main"),
        top,
        tag("main", start, [content for _, _, content in sections], end, id="main"),
        album.definitions(),
        enlarged(),
        tag("script", Html(script)),
    )
    page = "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"
    if (size := len(page.encode())) > LARGEST:
        raise ValueError(
            f"the report would be {size / 1e6:.0f} MB ({album.num_bytes / 1e6:.0f} MB of it pictures) and must "
            f"stay under {LARGEST / 1e6:.0f} MB; name fewer runs"
        )
    return page


def section(name: str, title: str, about: str, content: Html) -> tuple[str, str, Html]:
    body = tag("section", tag("h2", title), tag("p", about), content, id=name)
    return name, title, body


def about_domains(runs: list[EvaluatedRun]) -> tuple[str, str]:
    """Heading and first sentence of the domains, which are not always weathers."""
    names, run = {name for run in runs for name in run.domains}, runs[-1]
    heading = "Five weathers" if names == set(domains.BENCHMARK) else "Domains"
    trained = run.trained_domains
    if run.results.get("trained_on") is None:
        return heading, f"Source as given: {domains.title(home_of(run.results))}; what was trained on is not known."
    if not trained:
        return heading, f"Trained on {trained_text(run)}."
    if run.trained_on_clear_days and domains.unseen_weathers(names, domains.SOURCE) and not trained_notes([run]):
        return heading, "Trained on clear days only; every other domain is a weather the detector has never seen."
    several = f" {len(trained)} domains:" if len(trained) > 1 else ""
    others = [name for name in names if name not in trained and not run.trained_images(name)]
    ends = "; the other domains were not trained on" if others and len(names) > len(others) else ""
    ends = "; none of the domains here was trained on" if others and len(names) == len(others) else ends
    return heading, f"Trained on{several} {', '.join(map(domains.title, trained))}{ends}."


def others_of(run: EvaluatedRun) -> str:
    """What the targets are to the detector, as far as that is known."""
    if run.trained_on_clear_days and domains.unseen_weathers(run.domains, domains.SOURCE):
        return "weathers it has never seen"
    return "domains it was not trained on" if run.trained_domains else "domains beside the source as given"


def hero(runs: list[EvaluatedRun]) -> Html:
    subject, base = runs[-1], runs[0] if len(runs) > 1 else None
    cards = []
    for name in columns_of(runs):
        value = subject.figure(name)
        lines = [tag("span", title_of(runs, name), class_="name")]
        lines.append(tag("span", number(value), class_="big"))
        change = difference(subject, base, name) if base is not None else None
        ends = subject.interval(name)
        if change is not None and base is not None:
            lines.append(
                tag("span", tag("b", number(change.value, 1, "+")), f" on {number(base.figure(name))}", class_="sub")
            )
        elif ends:
            lines.append(tag("span", f"{number(ends[0])} to {number(ends[1])}", class_="sub"))
        elif value is None:
            lines.append(tag("span", subject.reason(name), class_="sub"))
        pale = " pale" if name in skies.PALE else ""
        cards.append(tag("li", skies.sky(name), lines, class_=f"sky{pale}"))
    facts = [
        subject.results["evaluated"].replace("T", " ").replace("+00:00", " UTC"),
        f"{sum(subject.results['domains'][name]['num_images'] for name in subject.domains):,} images",
        f"{sum(subject.results['domains'][name]['num_objects'] for name in subject.domains):,} objects",
        "mAP at IoU 0.5, VOC2007 11-point, percent",
    ]
    weathers = domains.unseen_weathers(subject.domains, subject.source or "")
    return tag(
        "div",
        tag("h1", f"How {subject.name} sees" + (" in bad weather" if weathers else "")),
        tag("p", summary(subject, base), class_="lead"),
        origins(runs),
        tag("ul", cards, class_="skies"),
        tag("div", [tag("span", fact) for fact in facts], class_="facts"),
        class_="hero",
    )


def origins(runs: list[EvaluatedRun]) -> Html:
    """Start, length and teacher of each run, and what a difference of two of them is one of."""
    lines = [tag("li", tag("b", run.name), f": {origin_of(run).sentence()}") for run in runs]
    note = tag("p", difference_note(runs[-1], runs[0])) if len(runs) > 1 else None
    return tag("div", tag("ul", lines), note, class_="origins")


def summary(subject: EvaluatedRun, base: EvaluatedRun | None) -> Html:
    """What the figures say, in two sentences, with no more certainty than the intervals allow."""
    mean = subject.figure("mean_of_targets")
    source = home_of(subject.results) if mean is None else subject.source
    home, clear = domains.title(source or ""), None if source is None else subject.figure(source)
    if mean is None:
        return text([f"On {home} it reaches ", tag("strong", f"{number(clear)} mAP"), "."])
    start = [tag("strong", f"{number(mean)} mAP"), f" on the mean of the {others_of(subject)}"]
    if base is None:
        return text([*start, "." if clear is None else f". On {home} it reaches {number(clear)}."])
    change = difference(subject, base, "mean_of_targets")
    if change is None:
        return text([*start, "."])
    points = tag("strong", f"{number(abs(change.value))} points {'above' if change.value >= 0 else 'below'}")
    start += [", ", points, " ", tag("span", base.name)]
    if change.interval is None:
        return text(
            [*start, ". The two drew other resamples, or were scored on other images, so no interval is known."]
        )
    low, high = (number(end, 1, "+") for end in change.interval)
    sure = "" if change.sure else " That interval holds zero: these images cannot tell the two apart."
    at_home = None if source is None else difference(subject, base, source)
    cost = "" if at_home is None else f" On {home}: {number(clear)}, {number(at_home.value, 1, '+')}."
    return text([*start, f" (95 % interval {low} to {high}).", sure, cost])


def footer(runs: list[EvaluatedRun]) -> Html:
    versions = runs[-1].results["versions"]
    folders = ", ".join(str(run.folder) for run in runs)
    return tag("footer", f"Written by Fairweather {versions.get('fairweather', '')} from {folders}.")


def enlarged() -> Html:
    buttons = [tag("button", name.capitalize(), class_=name, type="button") for name in ("previous", "next", "close")]
    return tag(
        "dialog", tag("div", class_="stage"), tag("div", tag("p"), buttons, class_="bar-below"), aria_label="Picture"
    )


def write_report(runs: list[EvaluatedRun], path: Path) -> None:
    write_page(build_report(runs), path)


def write_page(page: str, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def build_translation_report(runs: list[translation.Translation]) -> str:
    album = Album()
    sections = [section(*part) for part in translation.sections_of(runs, album)]
    end = tag("footer", f"Written by Fairweather from {', '.join(str(run.path) for run in runs)}.")
    return frame(runs[-1].name, translation.about(runs), sections, end, album)


def main() -> None:
    options = tyro.cli(ReportOptions)
    named = [split_name(argument) for argument in options.runs]
    kinds = {translation.is_translation(path) for _, path in named}
    if kinds == {True, False}:
        raise ValueError("a page is about detectors or about translations; name runs of one kind")
    if kinds == {True}:
        write_page(build_translation_report([translation.load_translation(*one) for one in named]), options.out)
    else:
        write_report(named_runs(options.runs), options.out)
    say(f"report: {options.out.resolve()} ({options.out.stat().st_size / 1e6:.1f} MB)")
