"""The report: nothing in it can run or load anything, every section has content, and a browser clicks through it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.evaluation import run
from eval.metrics import domains
from eval.metrics.interchange import Detections, read_results, write_results
from eval.metrics.mpc import describe
from eval.options import EvaluationOptions
from eval.report.markup import Html, number, tag
from eval.report.page import build_report, summary, write_report
from eval.report.pictures import Album
from eval.report.training import read_log, thin
from eval.results import load_run, mpc_difference
from kernels.severity import BENCHMARK
from pipeline.command.ranks import World
from pipeline.files.own import write_arrays, write_json
from pipeline.sources.diverse_weather import CLASSES
from tests.eval.test_trained_on import checkpoint_of

SECTIONS = ["domains", "classes", "curves", "sizes", "errors", "corruptions", "pictures", "training", "details"]
HOSTILE = "<script>alert('x')</script>"
ALONE = World(0, 1, torch.device("cpu"))


def write_robustness(folder, level: float) -> None:
    """As measured: two runs on the same images, whose replicates differ by a constant."""
    weights = json.loads((folder / "results.json").read_text())["weights"]
    identity = {"weights": weights, "domain": "daytime_clear", "images": 9, "resolution": "packed", "checksum": "c",
                "corruptor": "kernels", "voc_side_offset": 0, "seed": 0, "resamples": 50}  # fmt: skip
    levels = {"clean-0": level} | {f"{name}-{s}": level / s for name in BENCHMARK for s in range(1, 6)}
    known = {cell: {"voc07": value, "area": 1.0, "coco": 1.0} for cell, value in levels.items()}
    noise_B = np.random.default_rng(0).normal(0, 3, 50)
    samples = {f"{cell}|voc07": value + noise_B for cell, value in levels.items()}
    write_arrays(folder / "robustness.npz", samples)
    write_json(folder / "robustness.json", describe(known, samples, identity, BENCHMARK, BENCHMARK[:12]))


def training_log(terms: tuple[str, ...]) -> str:
    lines = [{"step": 0, "skipped": ["roi_box"], "ids": [3]}]
    for step in range(1, 900):
        losses = dict.fromkeys(terms, 1 / step)
        lines.append({"step": step, "losses": losses, "cosines": {"global": 1 - 1 / step}, "learning_rate": 0.02 / step,
                      "images_per_second": 8.0})  # fmt: skip
    return "\n".join(map(json.dumps, lines)) + '\n{"step": 900, "los'


@pytest.fixture(scope="module")
def runs(scored, tmp_path_factory):
    """Two runs with everything: the second is the detector, the first a worse set of detections of the same images."""
    root = tmp_path_factory.mktemp("report")
    data = tuple(scored.data.values())
    clear = {"name": "clear", "domains": ["daytime_clear"], "checksum": "0" * 64, "num_images": 900, "weight": 1.0}
    checkpoint = checkpoint_of(scored, root / "checkpoint", clear)
    run(EvaluationOptions(checkpoint, data, out=root / "student", resamples=40, batch_size=2), ALONE)
    files = []
    for domain in scored.data:
        found = read_results(root / "student" / "eval" / f"detections-{domain}.json")
        kept = np.arange(len(found)) % 3 > 0
        files.append(root / f"{domain}.json")
        write_results(files[-1], Detections(*(value[kept] for value in vars(found).values())))
    run(EvaluationOptions(root / "plain", data, detections=tuple(files), resamples=40), ALONE)
    for name, level in (("plain", 30.0), ("student", 50.0)):
        write_robustness(root / name / "eval", level)
        (root / name / "log.jsonl").write_text(training_log(("rpn_class", "roi_box", "global")))
        config = {"data": str(scored.data["daytime_clear"]), "name": HOSTILE, "teacher": None}
        (root / name / "config.json").write_text(json.dumps(config))
    return [load_run(root / "plain"), load_run(root / "student")]


def parts_of(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL))


def test_every_section_has_content(runs):
    page, run_ = build_report(runs), runs[1]
    parts = parts_of(page)
    assert list(parts) == SECTIONS
    for domain in ("Daytime-Clear", "Night-Rainy"):
        assert domain in parts["domains"]
    assert "daytime_clear" in page
    assert "student − plain" in parts["domains"]
    figures = [run_.results["domains"][domain]["voc07"]["AP"] for domain in run_.domains]
    assert parts["curves"].count("<svg") == sum(value is not None for part in figures for value in part.values())
    assert parts["corruptions"].count('<td class="heat') == 3 * 15 * 6
    assert "unseen" in parts["corruptions"]
    assert "--originals DIR" in parts["corruptions"]
    mpc = [level * np.mean([1 / s for s in range(1, 6)]) for level in (50, 30)]
    low, high = runs[1].robustness["summary"]["all"]["interval_mPC"]
    assert f'>{mpc[0]:.1f}</div><span class="range">{low:.1f} to {high:.1f}<' in parts["corruptions"]
    change = f"+{mpc[0] - mpc[1]:.1f}"  # paired, the common noise cancels
    assert f'>{change}</div><span class="range">{change} to {change}<' in parts["corruptions"]
    for domain in ("daytime_clear", "night_rainy"):  # numbers of the charts, for those who do not see them
        for size in ("small", "medium", "large"):
            row = re.search(rf"{domains.title(domain)}, {size}</th>(.*?)</tr>", parts["sizes"])
            assert row is not None
            for run_ in runs:
                ends = run_.interval(domain, "coco", f"interval_{size}")
                shown = "" if ends is None else f'<span class="range">{ends[0]:.1f} to {ends[1]:.1f}</span>'
                assert f"<td>{number(run_.figure(domain, 'coco', size))}{shown}</td>" in row[1]
        figures = [f"<td>{number(run_.results['domains'][domain]['voc07']['AP']['car'])}</td>" for run_ in runs]
        assert f'<th scope="row">car</th>{"".join(figures)}' in parts["classes"]
    assert parts["pictures"].count('class="shot"') > 20
    assert parts["training"].count("<svg") == 3 + 1 + 2
    for text in ("Resolved configuration", "hardware", "pycocotools", "images per second", "Data report"):
        assert text in parts["details"]
    assert len(page) < 15_000_000


def test_figures_on_the_page_are_those_of_the_results(runs):
    page = build_report(runs)
    for run_ in runs:
        for name in ("daytime_clear", "night_rainy", "mean_of_targets"):
            assert f"<b>{run_.figure(name):.1f}</b>" in page


def test_nothing_is_loaded_and_only_its_own_script_may_run(runs):
    page = build_report(runs)
    policy = re.search(r'content="(default-src[^"]*)"', page)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert "script-src &#x27;sha256-" in policy[1]
    without_pictures = re.sub(r"data:(image/jpeg|text/csv;charset=utf-8);base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"""(src|href)=["'](?!#)[^"']""", without_pictures)
    assert "@import" not in page
    assert "url(http" not in page


def hostile_copy(run_, folder):
    """Its names are markup: of the run, a class, a domain, a setting, a loss term."""
    shutil.copytree(run_.path, folder)
    for file in [*folder.glob("eval/*.json"), *folder.glob("eval/pictures/*.json"), folder / "log.jsonl"]:
        text = (
            file.read_text()
            .replace('"person"', json.dumps(HOSTILE))
            .replace('"night_rainy"', json.dumps(HOSTILE + "d"))
            .replace('"daytime_clear"', json.dumps(HOSTILE + "s"))
        )
        text = text.replace('"roi_box"', json.dumps(HOSTILE + "t")).replace("VOC07", HOSTILE)
        file.write_text(text)
    return load_run(folder, HOSTILE + "r")


def test_hostile_names_are_only_text(runs, tmp_path):
    hostile = hostile_copy(runs[1], tmp_path / "hostile")
    other = hostile_copy(runs[0], tmp_path / "other")
    for shown in ([hostile], [runs[0], hostile], [other, hostile]):
        page = build_report(shown)
        assert page.count("<script") == 1
        assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;r" in page
        assert "alert('x')" not in page
    targets = hostile.results | {"mean_of_targets": {}}
    for subject, base in ((hostile, None), (hostile, other), (replace(hostile, results=targets), None)):
        said = summary(subject, base)
        assert "<script" not in said
        assert "&lt;/script&gt;s" in said


def test_a_foreign_result_brings_no_file_of_this_machine_into_the_page(runs, tmp_path):
    """results.json names the folder of its run: it must hold a checkpoint, and a run's own fields alone are shown."""
    other, foreign = tmp_path / ".docker", tmp_path / "foreign"
    other.mkdir()
    (other / "config.json").write_text('{"auths": {"registry": {"auth": "c2VjcmV0"}}, "steps": 12321}')
    shutil.copytree(runs[1].path / "eval", foreign / "eval")
    file = foreign / "eval" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"run": str(other)}))
    assert "Resolved configuration" not in build_report([load_run(foreign)])
    (other / "model.json").write_text("{}")
    page = build_report([load_run(foreign)])
    assert "12321" in page
    assert "c2VjcmV0" not in page
    (other / "dataset.json").write_text('{"token": "c2VjcmV0"}')
    (other / "config.json").write_text(json.dumps({"data": [str(other)]}))
    with pytest.raises(ValueError, match=r"\.docker/dataset\.json: it lacks format, version"):
        build_report([load_run(foreign)])


def test_one_run_without_anything_else_still_makes_a_page(runs, tmp_path):
    shutil.copytree(runs[1].path / "eval", tmp_path / "alone" / "eval")
    shutil.rmtree(tmp_path / "alone" / "eval" / "pictures")
    (tmp_path / "alone" / "eval" / "robustness.json").unlink()
    (tmp_path / "alone" / "eval" / "bootstrap.npz").unlink()
    parts = parts_of(build_report([load_run(tmp_path / "alone")]))
    assert "Not measured" in parts["corruptions"]
    assert "No pictures were saved" in parts["pictures"]
    assert "no training log" in parts["training"]


def changed(run_, **results):
    return replace(run_, results=run_.results | results)


def test_what_was_never_evaluated_is_not_said_to_hold_no_objects(runs):
    only = {"daytime_clear": runs[0].results["domains"]["daytime_clear"]}
    plain = changed(runs[0], domains=only, mean_of_targets={})
    parts = parts_of(build_report([plain, runs[1]]))
    assert parts["domains"].count('class="lane none">not evaluated<') == 3 * 2  # night_rainy and the mean, 3 metrics
    assert ">no objects<" not in parts["domains"]
    assert parts["domains"].count('class="best"') == 3  # daytime_clear; elsewhere there is no second figure to beat
    mean = runs[0].results["mean_of_targets"]
    for names, marked in ((mean["domains"], 3), (["dusk_rainy"], 2)):  # means over other domains do not compare
        other = changed(runs[0], mean_of_targets=mean | {"domains": names})
        rows = parts_of(build_report([other, replace(runs[1], folder=runs[1].folder / "none")]))["domains"]
        assert rows.count('class="best"') == marked * 3
    assert parts["classes"].count(">not evaluated<") == 3  # classes, of plain in night_rainy
    none = [value for run_ in (plain, runs[1]) for part in run_.results["domains"].values()
            for value in part["voc07"]["AP"].values() if value is None]  # fmt: skip
    assert parts["classes"].count(">no objects<") == len(none)
    assert parts["sizes"].count(">not evaluated<") == 2 * 3
    empty = json.loads(json.dumps(runs[1].results["domains"]))
    empty["night_rainy"]["voc07"] |= {"mAP": None, "AP": dict.fromkeys(runs[1].results["classes"])}
    parts = parts_of(build_report([plain, changed(runs[1], domains=empty)]))
    assert parts["curves"].count("bus (no objects), car (no objects), person (no objects)") == 1
    assert "not evaluated" not in parts["curves"]


def test_the_papers_figures_stand_beside_its_classes_and_its_mean_beside_all_its_targets(runs):
    """Of other images they stand apart, in a table of their own."""
    apart = "figures, on other images"
    assert apart not in build_report(runs)  # other classes
    part = runs[1].results["domains"]["daytime_clear"]
    for names, means in ((domains.BENCHMARK, 1), (("daytime_clear", "night_rainy"), 0)):
        run_ = changed(
            replace(runs[1], folder=runs[1].folder / "none"), classes=list(CLASSES), domains=dict.fromkeys(names, part)
        )
        table = build_report([run_]).split(apart, 1)[1].split("</table>", 1)[0]
        assert "62.7" in table
        assert "for orientation only" in table
        assert table.count("38.3") == means


def test_weathers_are_only_spoken_of_where_there_are_some(runs):
    page = build_report(runs)
    assert "Five weathers" not in page  # there are two
    assert "Trained on clear days only; every other domain is a weather" in page
    assert "sees in bad weather" in page
    assert "weathers it has never seen" in page
    part = runs[1].results["domains"]["daytime_clear"]
    five = changed(runs[1], domains=dict.fromkeys(domains.BENCHMARK, part))
    assert build_report([five]).count("Five weathers") == 2  # menu and heading
    for source, names in (("tunnel", ("tunnel", "dusk_rainy")), ("daytime_clear", ("daytime_clear", "tunnel"))):
        trained = [{"name": "a", "domains": [source], "checksum": "0" * 64}]
        page = build_report([changed(runs[1], source=source, trained_on=trained, domains=dict.fromkeys(names, part))])
        assert f"Trained on {domains.title(source)}; the other domains were not trained on." in page
        assert "on the mean of the domains it was not trained on" in page
        assert "sees in bad weather" not in page
        assert "never seen" not in page
    alone = build_report([changed(runs[1], domains={"daytime_clear": part}, mean_of_targets={})])
    assert "<p>Trained on Daytime-Clear.</p>" in alone


def test_too_many_pictures_are_refused(runs, monkeypatch):
    monkeypatch.setattr("eval.report.page.LARGEST", 100_000)
    with pytest.raises(ValueError, match="must stay under"):
        build_report(runs)


def test_the_limit_counts_bytes(runs, monkeypatch):
    page = build_report(runs)
    assert len(page) < len(page.encode())
    monkeypatch.setattr("eval.report.page.LARGEST", len(page))
    with pytest.raises(ValueError, match="must stay under"):
        build_report(runs)


def test_pictures_are_told_apart_by_content(tmp_path):
    """Two runs on other data save other pictures under one file name; the same picture is in the page once."""
    album = Album()
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0-3-clean.jpg").write_bytes(content)
    first, second, third = (album.add(tmp_path / name / "0-3-clean.jpg", [4, 4]) for name in "abc")
    assert first == third != second
    assert len(album.images) == 2


def test_robustness_of_another_protocol_has_no_difference(runs):
    first, second = runs
    assert mpc_difference(second, first) is not None
    for part, value in (("resolution", "original"), ("corruptor", "imagecorruptions"), ("voc_side_offset", 1)):
        content = json.loads(json.dumps(first.robustness))
        content["identity"][part] = value
        other = replace(first)
        other.__dict__["robustness"] = content
        assert mpc_difference(second, other) is None
        assert "student − plain" not in parts_of(build_report([other, second]))["corruptions"]
    content = json.loads(json.dumps(first.robustness))
    content["identity"]["checksum"] = "of other images"
    other = replace(first)
    other.__dict__["robustness"] = content
    assert mpc_difference(second, other).interval is None


def test_small_numbers_have_digits_on_their_axes(runs, tmp_path):
    """A learning rate of 1e-5 is no row of zeros."""
    shutil.copytree(runs[1].path, tmp_path / "small")
    lines = [{"step": s, "losses": {"box": 0.004 / s}, "learning_rate": 2e-4 / s} for s in range(1, 5)]
    (tmp_path / "small" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    training = parts_of(build_report([load_run(tmp_path / "small")]))["training"]
    for text in (">0.0040<", ">0.0020<", ">0.00100<", ">0.20<", ">0.10<", ">0.050<"):
        assert text in training


def test_markup_escapes_all_but_markup():
    assert tag("td", "a<b&\"'", Html("<i>c</i>"), None, 3) == "<td>a&lt;b&amp;&quot;&#x27;<i>c</i>3</td>"
    assert (
        tag("a", class_="x<y", data_name='"', hidden=True, title=None)
        == '<a class="x&lt;y" data-name="&quot;" hidden></a>'
    )
    assert number(None) == "–"
    assert number(-3.14) == "−3.1"
    assert number(2, 1, "+") == "+2.0"


def test_log_with_a_cut_line_and_thinning(runs):
    lines = read_log(runs[0].path / "log.jsonl")
    assert len(lines) == 899
    steps, values = thin([float(n) for n in range(899)], [1.0] * 899)
    assert len(steps) == 300
    assert set(values) == {1.0}
    assert thin([1.0], [2.0]) == ([1.0], [2.0])


CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-quic"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]' brings playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; Debian and Ubuntu: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    hostile = hostile_copy(runs[1], folder / "hostile")
    path = folder / "report.html"
    write_report([runs[0], replace(hostile, name="a run with quite a long name, as people give them")], path)
    return path


def open_page(browser, path, **options):
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto(path.as_uri())
    return page, troubles


@pytest.mark.long
def test_clicked_through_in_a_browser(browser, page_file):
    page, troubles = open_page(browser, page_file, viewport={"width": 1280, "height": 900})
    for name in SECTIONS:
        section = page.locator(f"section#{name}")
        page.click(f'nav a[href="#{name}"]')
        assert section.bounding_box()["height"] > 150
        assert has_content(section), name
    for place in range(page.locator('[role="tab"]').count()):
        button = page.locator('[role="tab"]').nth(place)
        button.click()
        assert button.get_attribute("aria-selected") == "true"
        panel = page.locator(f"#{button.get_attribute('aria-controls')}")
        assert panel.is_visible()
        assert panel.inner_text().strip() or panel.locator("svg").count()
    for place in range(page.locator("summary").count()):
        summary = page.locator("summary").nth(place)
        if summary.is_visible():
            summary.click()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click(".theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.locator(".shot:visible").first.click()
    assert page.locator("dialog").is_visible()
    first = page.locator("dialog p").inner_text()
    page.click("dialog .next")
    assert page.locator("dialog p").inner_text() != first
    page.click("dialog .close")
    assert not page.locator("dialog").is_visible()
    assert troubles == []


@pytest.mark.long
def test_tables_sort_and_figures_are_saved(browser, page_file, runs):
    page, troubles = open_page(browser, page_file)
    page.locator("section#classes summary").filter(has_text="As a table", visible=True).click()
    table = page.locator("section#classes table").filter(visible=True)
    rows = "document.querySelector('section#classes table.sortable').tBodies[0].rows"
    column = f"[...{rows}].map(row => row.cells[%d].innerText)"
    for place, wanted in ((0, sorted), (0, lambda words: sorted(words, reverse=True))):
        table.locator("thead button").nth(place).click()
        words = page.evaluate(column % place)
        assert words == wanted(words)
    table.locator("thead button").nth(2).click()
    assert table.locator("th").nth(2).get_attribute("aria-sort") == "descending"
    figures = [float(text) for text in page.evaluate(column % 2) if text != "–"]
    assert figures == sorted(figures, reverse=True)
    with page.expect_download() as saved:
        page.click("section#classes a.sheet")
    assert saved.value.suggested_filename == "classes.csv"
    assert saved.value.path().read_text().startswith("run,domain,class,objects,AP_voc07")
    assert troubles == []


def has_content(section) -> bool:
    """A table, a chart or a picture shows, beyond the heading and the sentence below it."""
    shown = section.locator("table, figure, svg, [role=img]").filter(visible=True)
    return shown.count() > 0 and shown.first.bounding_box()["height"] > 20


@pytest.mark.long
def test_an_emptied_section_is_noticed(browser, page_file):
    """The check above can fail: a section left with its heading and introduction has no content."""
    page, _ = open_page(browser, page_file)
    page.evaluate("document.querySelectorAll('section > :nth-child(n + 3)').forEach(e => e.remove())")
    for name in SECTIONS:
        assert len(page.locator(f"section#{name}").inner_text()) > 40
        assert not has_content(page.locator(f"section#{name}")), name


@pytest.mark.long
def test_pictures_really_show(browser, page_file):
    """A picture that the page's policy or a wrong reference kept out would be one flat colour."""
    page, troubles = open_page(browser, page_file, viewport={"width": 1000, "height": 900})
    shot = page.locator(".shot:visible svg").first
    shot.scroll_into_view_if_needed()
    from io import BytesIO

    from PIL import Image

    pixels = np.asarray(Image.open(BytesIO(shot.screenshot())).convert("L")).astype(float)
    assert pixels.std() > 12
    assert troubles == []


@pytest.mark.long
def test_used_without_a_mouse(browser, page_file):
    page, troubles = open_page(browser, page_file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    tab = page.locator('section#classes [role="tab"]').first
    tab.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.locator('section#classes [role="tabpanel"]').nth(1).is_visible()
    assert not page.locator('section#classes [role="tabpanel"]').nth(0).is_visible()
    page.keyboard.press("Home")
    assert page.locator('section#classes [role="tabpanel"]').nth(0).is_visible()
    page.locator(".shot:visible").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    first = page.locator("dialog p").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog p").inner_text() != first
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.className") == "shot"
    unnamed = "[...document.querySelectorAll('button, a')].filter(e => !e.textContent.trim() && !e.ariaLabel).length"
    assert page.evaluate(unnamed) == 0
    assert troubles == []


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, page_file, scheme):
    page, troubles = open_page(
        browser, page_file, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness < 80) == (scheme == "dark")
    small = page.evaluate(
        "[...document.querySelectorAll('p, td, th, button, a')].filter(e => e.offsetParent && "
        "parseFloat(getComputedStyle(e).fontSize) < 11).length"
    )
    assert small == 0
    assert troubles == []


# Each text's contrast with the nearest ground behind it (WCAG 2.1), where that is less than 4.5. Skies are pictures.
POOR_CONTRAST = """() => {
  const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const part = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const found = [];
  for (const element of document.querySelectorAll("main *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words || element.closest(".sky, svg") || !element.checkVisibility()) continue;
    let ground = element;
    while (ground && rgba(getComputedStyle(ground).backgroundColor)[3] < 250) ground = ground.parentElement;
    const pair = [light(rgba(getComputedStyle(element).color)), light(rgba(getComputedStyle(ground).backgroundColor))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) found.push(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
  }
  return found;
}"""


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, page_file, scheme):
    page, _ = open_page(browser, page_file, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    assert page.evaluate(POOR_CONTRAST) == []


@pytest.mark.long
def test_without_scripts_everything_shows(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    panels = page.locator('section#classes [role="tabpanel"]')
    assert panels.count() == 4
    assert all(panels.nth(place).is_visible() for place in range(4))


def test_titles_of_the_benchmark_are_known():
    assert {domains.title(name) for name in domains.BENCHMARK} == set(domains.TITLES.values())
