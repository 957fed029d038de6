"""What an evaluation leaves behind, and reading it back to compare runs.

RUN/eval/results.json               every figure, settings, data, versions, hardware, speed
RUN/eval/errors.json                {domain: errors by type, counts by class, confusions} at the working score
RUN/eval/curves.json                {domain: {class: precision at 101 recalls}} at IoU 0.5
RUN/eval/bootstrap.npz              replicates, "domain|metric", for intervals of differences
RUN/eval/detections-DOMAIN.json     COCO results, original pixels
RUN/eval/pictures/                  pictures.json and JPEGs for the report
RUN/eval/robustness.json, .npz      mPC, once measured, and its replicates
RUN/report.html
"""

import platform
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from eval import schema
from eval.metrics import bootstrap, domains
from eval.metrics.mpc import DRAWN, comparable, mpc_replicates
from pipeline.files.own import ANY, Each, read_arrays, read_json

FORMAT = 1
TRAINED_MARK = "*"
PACKAGES = ("fairweather", "torch", "torchvision", "numpy", "numba", "pycocotools", "opencv-python-headless")


@dataclass(frozen=True)
class EvaluatedRun:
    """An evaluation on disk."""

    name: str
    path: Path
    results: dict
    folder: Path = field(default=Path())  # holds results.json

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        return read_arrays(self.folder / "bootstrap.npz")

    @cached_property
    def robustness(self) -> dict | None:
        """robustness.json, where it was measured with the weights that were evaluated."""
        found = self.read("robustness.json", schema.ROBUSTNESS)
        return found if found and found["identity"].get("weights") == self.results.get("weights") else None

    @cached_property
    def errors(self) -> dict[str, dict]:
        """errors.json: {domain: see eval/metrics/errors.py}, empty for an evaluation of before."""
        found = self.read("errors.json", schema.ERRORS) or {}
        num_classes = len(self.results["classes"])
        for domain, part in found.items():
            labels = {label for true, got, _ in part["confusions"] for label in (true, got)}
            if list(part["classes"]) != self.results["classes"] or not labels <= set(range(num_classes + 1)):
                file = self.folder / "errors.json"
                raise ValueError(f"{file}: its classes in {domain} are not those of results.json; evaluate again")
        return {name: found[name] for name in self.domains if name in found}

    @cached_property
    def robustness_samples(self) -> dict[str, np.ndarray]:
        return read_arrays(self.folder / "robustness.npz")

    @cached_property
    def trained(self) -> Path | None:
        """The folder of the run that trained it, also when a checkpoint of it was evaluated, or with --out.

        What results.json names is taken only where it holds a checkpoint: somebody else's file could name any folder.
        """
        named = training_folder(Path(self.results["run"]))
        return training_folder(self.path) or (named if named is not None and has_checkpoint(named) else None)

    def read(self, name: str, shape: Any):
        """A JSON file of this shape beside results.json; None when this evaluation has none."""
        path = self.folder / name
        return read_json(path, shape, "remove it, or evaluate again") if path.is_file() else None

    @property
    def source(self) -> str | None:
        """The evaluated domain that was trained on; None where that was none of them."""
        return self.results["source"]

    @property
    def trained_domains(self) -> list[str]:
        """What the checkpoint says it was trained on; empty where that is not known."""
        trained = self.results.get("trained_on") or []
        return domains.ordered(domains.canonical(name) for entry in trained for name in entry["domains"])

    @property
    def trained_on_clear_days(self) -> bool:
        """On the benchmark's source alone, as the checkpoint says."""
        return self.trained_domains == [domains.SOURCE]

    def trained_images(self, domain: str) -> int:
        """Images of a domain that the detector, its teacher or its start was trained on."""
        return self.results["domains"].get(domain, {}).get("trained_images", 0)

    @property
    def domains(self) -> list[str]:
        return domains.ordered(self.results["domains"])

    def figure(self, domain: str, metric: str = "voc07", key: str = "mAP") -> float | None:
        """A figure of a domain, or of the mean of targets; None where there is none."""
        if domain == "mean_of_targets":
            return self.results["mean_of_targets"].get(metric)
        part = self.results["domains"].get(domain)
        return None if part is None else part[metric].get(key)

    def reason(self, domain: str, none: str = "no objects") -> str:
        """Why there is no figure of a domain, or of the mean of targets: what `none` says, if it was evaluated."""
        part = self.results["mean_of_targets"] if domain == "mean_of_targets" else self.results["domains"].get(domain)
        return none if part else "not evaluated"

    def interval(self, domain: str, metric: str = "voc07", key: str = "interval") -> list[float] | None:
        if domain == "mean_of_targets":
            return self.results["mean_of_targets"].get(f"interval_{metric}")
        part = self.results["domains"].get(domain)
        return None if part is None else part[metric].get(key)


def home_of(results: dict) -> str:
    """The source, else the first domain."""
    return results["source"] or next(iter(results["domains"]))


def working_score_of(results: dict) -> float:
    """From which on detections are drawn and counted (eval/metrics/errors.py).

    Evaluations of before say only where F1 is best on the source.
    """
    return results.get("working_score", results["domains"][home_of(results)]["best_score"]["score"])


WITHOUT_EVALUATION = 0.3


def score_for_pictures(results: dict | None) -> tuple[float, str]:
    """(the least score that eval.predict keeps unless it is told another, why). None: nothing was evaluated.

    An evaluation of several domains has measured it. One of a single domain says nothing of other weathers, where
    scores are lower: half of that domain's score loses little there and finds far more elsewhere (docs/evaluation.md).
    """
    if results is None:
        return WITHOUT_EVALUATION, "nothing was evaluated"
    score = working_score_of(results)
    if len(results["domains"]) > 1 and "working_score" in results:
        return score, f"the working score over {len(results['domains'])} evaluated domains"
    return score / 2, f"half of the best score on {home_of(results)}, as scores fall in other weathers"


def title_of(runs: list[EvaluatedRun], name: str) -> str:
    """A domain's name in a table or chart, marked where one of the runs was trained on images of it."""
    title = "Mean of targets" if name == "mean_of_targets" else domains.title(name)
    return f"{title} {TRAINED_MARK}" if any(run.trained_images(name) for run in runs) else title


def trained_notes(runs: list[EvaluatedRun]) -> list[str]:
    """What stands below every table about marked domains and runs of several domains."""
    notes = [
        f"{TRAINED_MARK} {run.name}, {name}: it, its teacher or its start was trained on {run.trained_images(name)} of "
        f"the {run.results['domains'][name]['num_images']} images; the mean of targets leaves the domain out"
        for run in runs
        for name in run.domains
        if run.trained_images(name)
    ]
    return notes + [
        f"{run.name} was trained on {len(run.trained_domains)} domains: {', '.join(run.trained_domains)}"
        for run in runs
        if len(run.trained_domains) > 1
    ]


def training_folder(place: Path) -> Path | None:
    """The folder of a training run (it holds config.json): the place itself, or the one whose checkpoint it is."""
    run = place.parent.parent if place.parent.name == "checkpoints" else place
    return run if (run / "config.json").is_file() else None


def has_checkpoint(folder: Path) -> bool:
    """Of ours: model.json lies in it. Without torch, which model/weights/files.py needs."""
    return any(path.is_file() for path in (folder / "model.json", *folder.glob("checkpoints/step-*/model.json")))


def distinct(runs: list[EvaluatedRun]) -> list[EvaluatedRun]:
    """Runs of the same name are called by their path."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def has_results(path: Path) -> bool:
    return any((folder / "results.json").is_file() for folder in (path / "eval", path))


def read_results_json(file: Path) -> dict:
    fix = f"evaluate {file.parent.parent if file.parent.name == 'eval' else file.parent} again"
    results = read_json(file, Each(ANY), fix)
    if results.get("format") != FORMAT:
        raise ValueError(f"{file} was written by another version; {fix}")
    results = read_json(file, schema.RESULTS, fix)
    if not results["domains"] or results["source"] not in (None, *results["domains"]):
        raise ValueError(f"{file}: its source {results['source']} is none of its domains; {fix}")
    if unknown := set(results["mean_of_targets"].get("domains", ())) - set(results["domains"]):
        raise ValueError(f"{file}: its mean is of {', '.join(unknown)}, which it has no figures of; {fix}")
    return results


def load_run(path: Path | str, name: str | None = None) -> EvaluatedRun:
    path = Path(path)
    for folder in (path / "eval", path):
        file = folder / "results.json"
        if file.is_file():
            return EvaluatedRun(name or path.resolve().name, path, read_results_json(file), folder)
    raise ValueError(f"{path} has not been evaluated; run: python -m eval.run {path} --data DIR...")


@dataclass(frozen=True)
class Difference:
    """a - b of a figure; the interval is of the paired difference, None where the two cannot be paired."""

    value: float
    interval: list[float] | None

    @property
    def sure(self) -> bool:
        """The whole interval lies on one side of zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(a: EvaluatedRun, b: EvaluatedRun, domain: str, metric: str = "voc07") -> Difference | None:
    first, second = a.figure(domain, metric), b.figure(domain, metric)
    if first is None or second is None:
        return None
    means = [run.results["mean_of_targets"].get("domains") for run in (a, b)]
    if domain == "mean_of_targets" and means[0] != means[1]:
        return None  # means over other domains have no difference that says anything
    if metric != "coco" and len({run.results["settings"].get("voc_side_offset", 0) for run in (a, b)}) > 1:
        return None  # nor have figures of two definitions
    interval = None
    key = f"{domain}|{metric}"
    first_B, second_B = a.samples.get(key), b.samples.get(key)
    if first_B is not None and second_B is not None and len(first_B) == len(second_B) and _paired(a, b, domain):
        interval = bootstrap.interval(first_B - second_B)
    return Difference(first - second, interval)


def _paired(a: EvaluatedRun, b: EvaluatedRun, domain: str) -> bool:
    """Both runs drew the same resamples of the same images."""

    def drawn(run: EvaluatedRun):
        names = run.results["mean_of_targets"]["domains"] if domain == "mean_of_targets" else [domain]
        settings = run.results["settings"]
        images = [(name, run.results["domains"][name]["checksum"]) for name in names]
        return images, settings["resamples"], settings["seed"]

    return drawn(a) == drawn(b)


def describe_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def mpc_difference(a: EvaluatedRun, b: EvaluatedRun, metric: str = "voc07") -> Difference | None:
    """mPC of a less that of b, over all their corruptions; None unless both measured the same thing."""
    first, second = a.robustness, b.robustness
    if first is None or second is None or not comparable(first, second):
        return None
    values = [found["summaries"].get(metric, {}).get("all") for found in (first, second)]
    if None in values or set(first["corruptions"]) != set(second["corruptions"]):
        return None
    interval = None
    if all(first["identity"].get(part) == second["identity"].get(part) for part in DRAWN):
        first_B, second_B = (
            mpc_replicates(run.robustness_samples, list(first["corruptions"]), metric) for run in (a, b)
        )
        interval = None if first_B is None or second_B is None else bootstrap.interval(first_B - second_B)
    return Difference(values[0]["mPC"] - values[1]["mPC"], interval)
