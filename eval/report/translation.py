"""The page about translations, `python -m eval.report runs/day2night`: their pictures, and what they learned.

A translation is not evaluated as a detector is. Its page is made of what training leaves: a sheet of the same pictures
at every checkpoint (OUT/pictures), the log and the configuration.
"""

from dataclasses import dataclass
from pathlib import Path

from eval import schema
from eval.report.charts import Series, folded, series_of, table
from eval.report.markup import Html, tag
from eval.report.pictures import Album, framed
from eval.report.training import collect, curves, listing, plain, read_log
from model.weights.files import complete_checkpoints, step_of
from pipeline.files.own import ANY, Each, read_json
from pipeline.files.pixels import read_rgb

MOST_SHEETS = 6  # of a run: its last, and others spread over its steps


@dataclass(frozen=True)
class Translation:
    """A run of train.translate on disk."""

    name: str
    path: Path
    config: dict

    @property
    def sheets(self) -> list[tuple[int, Path]]:
        """(step, file), by step, without those of a continuation that was given up."""
        last = step_of(complete_checkpoints(self.path)[-1])
        paths = (self.path / "pictures").glob("step-*.jpg")
        found = ((step, path) for path in paths if (step := step_of(path.with_suffix(""))) is not None)
        return sorted(each for each in found if last is not None and each[0] <= last)


def is_translation(path: Path) -> bool:
    """A run whose configuration has a generator."""
    file = path / "config.json"
    return file.is_file() and "generator" in read_json(file, Each(ANY))


def load_translation(name: str, path: Path) -> Translation:
    if not complete_checkpoints(path):
        raise ValueError(f"{path} has no checkpoint yet, so there are no pictures of it; let it train further")
    config = read_json(path / "config.json", schema.TRANSLATION, "give a run of python -m train.translate")
    return Translation(name or path.resolve().name, path, schema.known(config, schema.TRANSLATION))


def about(runs: list[Translation]) -> Html:
    facts = []
    for run in runs:
        source, target = (Path(run.config[key]).name for key in ("source", "target"))
        facts += [f"{run.name}: {source} to {target}, step {step:,}" for step, _ in run.sheets[-1:]]
    return tag(
        "div",
        tag("h1", f"What {runs[-1].name} makes of its source"),
        tag("p", "A generator's translations of the source into the target's look, beside real pictures of both.",
            class_="lead"),
        tag("div", [tag("span", fact) for fact in facts], class_="facts"),
        class_="hero",
    )  # fmt: skip


def pictures(runs: list[Translation], album: Album) -> Html:
    """The last sheet of each run, then how it came to be."""
    blocks = []
    for run in runs:
        sheets = run.sheets
        if not sheets:
            blocks.append(tag("p", f"{run.name} has no pictures (OUT/pictures).", class_="note"))
            continue
        *earlier, last = sheets
        blocks += [tag("h3", run.name), sheet(run, album, *last)]
        if chosen := spread(earlier, MOST_SHEETS - 1):
            blocks.append(
                folded(f"{run.name}: earlier steps", Html("".join(sheet(run, album, *one) for one in chosen)))
            )
    return Html("".join(blocks))


def spread(sheets: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    if len(sheets) <= most:
        return sheets
    return [sheets[round(index * (len(sheets) - 1) / (most - 1))] for index in range(most)]


def sheet(run: Translation, album: Album, step: int, path: Path) -> Html:
    try:
        size = list(read_rgb(path).shape[:2])
    except ValueError as error:
        raise ValueError(f"{path} {error}; remove it") from None
    said = "source, translated, kept of the source, a real target picture"
    return framed(album.add(path, size), size, [], f"{run.name}, step {step:,}", said)


def training(runs: list[Translation], series: list[Series]) -> Html:
    return curves([collect(read_log(run.path / "log.jsonl")) for run in runs], series)


def details(runs: list[Translation]) -> Html:
    keys = ("source", "target", "generator", "discriminators", "contrast", "crop", "steps", "batch_size", "seed")
    rows = [[key, *(plain(run.config.get(key)) for run in runs)] for key in keys]
    parts = [table(["", *(run.name for run in runs)], rows, "wrap", "How it was trained")]
    parts += [listing(f"Resolved configuration: {run.name}", run.config) for run in runs]
    return Html("".join(parts))


def sections_of(runs: list[Translation], album: Album) -> list[tuple[str, str, str, Html]]:
    """(anchor, title, what it is, content)"""
    series = series_of([run.name for run in runs])
    return [
        ("pictures", "Pictures", "The same whole pictures at every checkpoint, as the averaged weights translate them.",
         pictures(runs, album)),
        ("training", "Training", "Loss terms, change and contrast of the translations, rate and speed.",
         training(runs, series)),
        ("details", "Details", "Data and configuration.", details(runs)),
    ]  # fmt: skip
