"""Tables of the report: errors, many classes, CSV files, and what a difference of two checkpoints is called."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import pytest

from eval.metrics.errors import errors_at, working_score
from eval.metrics.interchange import select
from eval.metrics.scoring import mean_of_targets, score_domain
from eval.origin import difference_note, origin_of
from eval.report.page import build_report
from eval.report.sheets import Sheet, share, sheets_of, write_sheets
from eval.results import EvaluatedRun, load_run
from eval.table import domain_table
from pipeline.files.own import write_json
from tests.eval.worlds import CLASSES, random_world

MANY = tuple(f"class {k}" for k in range(80))


def evaluated(
    folder: Path, classes=CLASSES, worlds=("daytime_clear", "night_rainy"), every=1, extra=None
) -> EvaluatedRun:
    """An evaluation of random detections, or of every n-th of them, as eval.run writes it, without pictures."""
    figures, curves, samples, parts = {}, {}, {}, {}
    for seed, domain in enumerate(worlds):
        truth, found = random_world(seed, num_images=30, classes=classes)
        truth = truth.__class__(**{**vars(truth), "domain": domain})
        found = select(found, [place % every == 0 for place in range(len(found))])
        parts[domain] = truth, found
        figures[domain], curves[domain], samples[domain] = score_domain(truth, found)
        figures[domain] |= {"checksum": domain, "path": domain}
    f1 = {name: part.pop("f1_by_score") for name, part in figures.items()}
    score = working_score(f1)
    mean, _ = mean_of_targets(figures, {worlds[0]}, samples)
    results = {
        "format": 1, "run": str(folder), "evaluated": "2026-01-01T00:00:00+00:00", "classes": list(classes),
        "source": worlds[0], "trained_on": None, "domains": figures, "mean_of_targets": mean, "working_score": score,
        "weights": None, "settings": {"resamples": 0, "seed": 0}, "versions": {"fairweather": "0"},
    }  # fmt: skip
    (folder / "eval").mkdir(parents=True)
    write_json(folder / "eval" / "curves.json", curves)
    errors = {name: {"f1_by_score": f1[name]} | errors_at(*part, score) for name, part in parts.items()}
    write_json(folder / "eval" / "errors.json", errors)
    write_json(folder / "eval" / "results.json", results | (extra or {}))
    return load_run(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    return [evaluated(root / "plain", every=2), evaluated(root / "student")]


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found is not None
    return found[1]


def test_errors_on_the_page_are_those_counted(runs):
    part = section(build_report(runs), "errors")
    for run in runs:
        for counts in run.errors.values():
            right = sum(count["right"] for count in counts["classes"].values())
            recall = share(right, sum(count["not_found"] for count in counts["classes"].values()))
            assert f'<span class="value">{recall:.1f}</span>' in part
    errors = [run.errors["night_rainy"]["errors"]["duplicate"] for run in runs]
    assert f'<th scope="row">found twice</th><td>{errors[0]}</td><td>{errors[1]}</td>' in part
    car = runs[1].errors["night_rainy"]["classes"]["car"]
    assert f"<td>{100 * car['right'] / (car['right'] + car['false']):.1f}</td>" in part
    assert part.count("heat-map") == 2 * 2  # a matrix of each run in each domain
    for found in [r for r in runs[1].errors["daytime_clear"]["confusions"] if r[0] and r[1]]:
        assert f">{found[2]}</td>" in part


def test_every_table_of_figures_can_be_saved_and_is_written(runs, tmp_path):
    page = build_report(runs)
    linked = dict(re.findall(r'download="(\w+)\.csv" href="data:text/csv;charset=utf-8;base64,([\w+/=]+)"', page))
    assert list(linked) == ["domains", "classes", "curves", "sizes", "found", "errors", "confusions", "images"]
    write_sheets(runs, tmp_path)
    for name, data in linked.items():
        assert (tmp_path / f"{name}.csv").read_bytes() == base64.b64decode(data)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "domains.csv").read_text())))
    for run in runs:
        for domain in run.domains:
            (row,) = [r for r in rows if (r["run"], r["domain"], r["metric"]) == (run.name, domain, "voc07")]
            assert float(row["mAP"]) == run.figure(domain)
    (row,) = [r for r in rows if (r["run"], r["domain"], r["metric"]) == ("student - plain", "night_rainy", "coco")]
    assert float(row["mAP"]) == runs[1].figure("night_rainy", "coco") - runs[0].figure("night_rainy", "coco")
    found = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text())))
    assert len(found) == 2 * 2 * 3


def test_a_text_is_no_formula_to_a_spreadsheet():
    sheet = Sheet("a", ("run", "mAP"), [("=1+1", -2.5), ("@x", None), ('a "b", c\nd', 3), ("-1", 0)])
    assert sheet.text() == 'run,mAP\n\'=1+1,-2.5\n\'@x,\n"a ""b"", c\nd",3\n\'-1,0\n'


def test_many_classes_are_folded_and_empty_ones_not_drawn(tmp_path):
    run = evaluated(tmp_path / "many", MANY, worlds=("daytime_clear",))
    empty = run.results["domains"]["daytime_clear"]["classes_without_objects"]
    page = build_report([run])
    assert len(empty) > 5
    curves = section(page, "curves")
    shown, folded = curves.split("<details>", 1)
    assert shown.count("<svg") == 12
    assert folded.count("<svg") == 80 - 12 - len(empty)
    assert all(f"{name} (no objects)" in curves for name in empty)
    bars = section(page, "classes").split("<details>", 1)[0]
    assert bars.count('class="bar-row"') == 12
    errors = section(page, "errors")
    assert "heat-map" not in errors
    assert "The most frequent" in errors
    assert len(page) < 1_000_000


def test_an_evaluation_of_before_makes_a_page(tmp_path):
    run = evaluated(tmp_path / "old")
    (tmp_path / "old" / "eval" / "errors.json").unlink()
    del run.results["working_score"]
    write_json(tmp_path / "old" / "eval" / "results.json", run.results)
    page = build_report([load_run(tmp_path / "old")])
    assert "Not counted in these evaluations" in section(page, "errors")
    assert "errors" not in sheets_of([load_run(tmp_path / "old")])


def test_errors_of_other_classes_are_refused(tmp_path):
    run = evaluated(tmp_path / "run")
    whole = (run.folder / "errors.json").read_text()
    for change in (lambda part: part["confusions"].append([1, 4, 2]), lambda part: part["classes"].pop("car")):
        errors = json.loads(whole)
        change(errors["night_rainy"])
        write_json(tmp_path / "run" / "eval" / "errors.json", errors)
        with pytest.raises(ValueError, match=r"errors\.json: its classes in night_rainy are not those"):
            build_report([load_run(tmp_path / "run")])


def trained(folder: Path, checksum="a", step=900, **config) -> EvaluatedRun:
    data = [{"name": "clear", "domains": ["daytime_clear"], "checksum": checksum}]
    run = evaluated(folder, worlds=("daytime_clear",), extra={"trained_on": data, "detector": {"step": step}})
    (folder / "config.json").write_text(json.dumps({"model": {"weights": "imagenet"}, "teacher": None} | config))
    return run


def test_a_difference_is_named_after_what_differs(tmp_path):
    plain = trained(tmp_path / "plain")
    assert origin_of(plain).sentence() == "starts from ImageNet's weights, 900 steps, no teacher"
    equal = trained(tmp_path / "equal", teacher="runs/quickstart/plain")
    assert difference_note(equal, plain) == "equal and plain have the same start, length and data."
    assert "teacher: quickstart/plain" in origin_of(equal).sentence()
    other = trained(tmp_path / "other", "b", 1800, teacher="runs/plain", student_init="teacher")
    said = "other - plain is the difference of two checkpoints, not of two methods: their start, length and data differ"
    for text in (difference_note(other, plain), domain_table([plain, other]), build_report([plain, other])):
        assert said in text
    assert origin_of(other).start == "the weights of runs/plain"
    for name in ("plain", "other"):
        assert f"<b>{name}</b>: starts from" in build_report([plain, other])
    average = trained(tmp_path / "average", teacher_policy="average")
    assert "teacher: its own average" in origin_of(average).sentence()
    unknown = evaluated(tmp_path / "unknown", worlds=("daytime_clear",))
    assert "start, length and data" in difference_note(unknown, unknown)
