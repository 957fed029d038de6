"""eval.run from checkpoint to results.json: against torchvision's own inference, on ranks, from files, gone wrong."""

import json
import re
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval import schema
from eval.detecting import detect as detecting
from eval.detecting.detect import Pass, detect_dataset, match_classes, read_batches
from eval.detecting.robustness import SETS
from eval.detecting.source_ap import source_ap
from eval.detecting.subject import open_subject
from eval.evaluation import keep_replaced, run
from eval.metrics.interchange import Detections, ground_truth_of, read_results, to_boxes
from eval.metrics.scoring import score_domain
from eval.options import EvaluationOptions
from eval.report.page import build_report
from eval.results import difference, load_run
from eval.table import domain_table, named_runs, seeds_table
from model.api import Detections as Found
from model.build import build_detector
from model.config import small_model
from model.faster_rcnn.parity import stock_twin
from model.weights.checkpoint import save_detector
from pipeline.command.ranks import World
from pipeline.files.pixels import decode_packed
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from tests.eval.conftest import CLASSES, LONG_SIDE, SHORT_SIDE, torchvision_detections
from tests.eval.runs import ALONE, ROOT, options_for
from tests.jobs import Job


@pytest.fixture(scope="module")
def evaluated(scored, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two ranks below: another number sums in another order
    run(options_for(scored, out), ALONE)
    torch.set_num_threads(threads)
    return load_run(out, "ours")


def test_what_was_evaluated_is_not_evaluated_again(scored, evaluated, tmp_path, capsys):
    """The same weights, data and options; anything else, or a missing folder, is measured."""
    shutil.copytree(evaluated.folder, tmp_path / "eval")
    written = (tmp_path / "eval" / "results.json").read_bytes()
    run(options_for(scored, tmp_path), ALONE)
    assert f"remove {tmp_path / 'eval'} to do it again" in capsys.readouterr().out
    assert (tmp_path / "eval" / "results.json").read_bytes() == written
    run(options_for(scored, tmp_path, resamples=0), ALONE)
    assert "to do it again" not in capsys.readouterr().out
    assert load_run(tmp_path).results["settings"]["resamples"] == 0


def test_pictures_of_another_size_are_warned_about(scored, tmp_path, capsys):
    for side, warned in ((SHORT_SIDE, 0), (SHORT_SIDE + 32, len(scored.data))):
        sides = {"short_side": side, "long_side": LONG_SIDE}
        save_detector(tmp_path / f"{side}", scored.detector, scored.detector.config, CLASSES, sides)
        run(replace(options_for(scored, tmp_path / f"out-{side}", resamples=0), run=tmp_path / f"{side}"), ALONE)
        assert capsys.readouterr().out.count(f"warning: {tmp_path / f'{side}'} learned from pictures of ") == warned


def test_figures_are_those_of_torchvisions_own_inference_with_our_weights(scored, evaluated):
    stock = stock_twin(scored.detector)
    for domain in scored.data:
        dataset = scored.dataset(domain)
        ids, boxes, labels, scores = [], [], [], []
        for row in range(len(dataset)):
            found = torchvision_detections(stock, decode_packed(dataset.jpeg(row)))
            h, w = dataset.sizes_N2[row]
            oh, ow = dataset.original_sizes_N2[row]
            ids += [int(dataset.ids_N[row])] * len(found["scores"])
            boxes.append(found["boxes"] * np.tile((ow / w, oh / h), 2))
            labels.append(found["labels"])
            scores.append(found["scores"])
        theirs = Detections(
            np.array(ids), to_boxes(np.concatenate(boxes)), np.concatenate(labels), np.concatenate(scores)
        )
        ours = read_results(evaluated.folder / f"detections-{domain}.json")
        assert len(ours) == len(theirs) > 100
        np.testing.assert_allclose(np.sort(ours.scores_D), np.sort(theirs.scores_D), atol=1e-4)
        figures, _, _ = score_domain(ground_truth_of(dataset)[0], theirs)
        for metric in ("voc07", "area", "coco"):
            assert 3 < figures[metric]["mAP"] < 97
            assert evaluated.figure(domain, metric) == pytest.approx(figures[metric]["mAP"], abs=0.1)


def test_results_hold_what_was_promised(scored, evaluated):
    results = evaluated.results
    assert results["classes"] == list(CLASSES)
    assert results["source"] == "daytime_clear"
    assert list(results["domains"]) == ["daytime_clear", "night_rainy"]
    part = results["domains"]["night_rainy"]
    assert part["num_images"] == 5
    assert part["num_objects"] + part["num_ignored"] == 24
    assert set(part["coco"]) >= {"mAP", "AP50", "small", "medium", "large", "AP"}
    assert results["mean_of_targets"]["voc07"] == pytest.approx(part["voc07"]["mAP"])
    low, high = part["voc07"]["interval"]
    replicate_B = evaluated.samples["night_rainy|voc07"]
    assert len(replicate_B) == 30
    assert replicate_B.min() <= low < np.median(replicate_B) < high <= replicate_B.max()
    assert results["speed"]["images"] == 14
    assert results["detector"]["step"] == 12


def test_the_source_is_the_first_that_was_given(scored, tmp_path, monkeypatch):
    """Without a clear day among the domains; table, robustness and pictures are all of it."""
    folders = {}
    for name, old in (("tunnel", "daytime_clear"), ("dusk_rainy", "night_rainy")):
        folders[name] = tmp_path / name
        shape = {"short_side": SHORT_SIDE, "long_side": LONG_SIDE, "raw": True, "workers": 1}
        pack(PackOptions(scored.sources[old], folders[name], domain=name, **shape))
    monkeypatch.setitem(SETS, "benchmark", ("contrast",))
    out = tmp_path / "out"
    data = {"data": tuple(folders.values()), "corruptions": "benchmark", "corruption_images": 3, "pictures": True}
    run(options_for(scored, out, **data), ALONE)
    found = load_run(out)
    assert found.results["source"] == found.robustness["domain"] == "tunnel"
    assert found.results["mean_of_targets"]["domains"] == ["dusk_rainy"]
    corrupted = {
        scene["domain"]
        for scene in found.read("pictures/pictures.json", schema.PICTURES)["scenes"]
        if len(scene["views"]) > 1
    }
    assert corrupted == {"tunnel"}
    run(options_for(scored, out, **(data | {"source": "Dusk-Rainy"})), ALONE)
    assert load_run(out).robustness["domain"] == "dusk_rainy"


def test_what_belongs_to_other_weights_is_not_shown(scored, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "benchmark", ("contrast",))
    one = {"data": (scored.data["daytime_clear"],)}
    run(options_for(scored, tmp_path, corruptions="benchmark", corruption_images=2, pictures=True, **one), ALONE)
    page = build_report([load_run(tmp_path)])
    assert "mAP by corruption and severity" in page
    assert 'class="shot"' in page
    weights = tmp_path / "other"
    other = build_detector(scored.detector.config, len(CLASSES) + 1)
    save_detector(weights, other, other.config, CLASSES)
    run(replace(options_for(scored, tmp_path, **one), run=weights), ALONE)
    assert load_run(tmp_path).robustness is None
    page = build_report([load_run(tmp_path)])
    assert f"Left out: what was measured for {tmp_path.name} is of other weights" in page
    assert "mAP by corruption and severity" not in page
    assert 'class="shot"' not in page


def test_the_training_run_is_found_from_its_checkpoint_and_from_elsewhere(scored, tmp_path):
    """Its curves, configuration and evaluated teacher belong to the report wherever that is written."""
    one = {"data": (scored.data["night_rainy"],), "report": True}
    run(options_for(scored, tmp_path / "teacher", **one), ALONE)
    checkpoint = tmp_path / "student" / "checkpoints" / "step-1"
    shutil.copytree(scored.checkpoint, checkpoint)
    (tmp_path / "student" / "config.json").write_text(json.dumps({"teacher": str(tmp_path / "teacher")}))
    line = {"step": 1, "losses": {"rpn_class": 0.5}}
    (tmp_path / "student" / "log.jsonl").write_text(json.dumps(line) + "\n")
    options = options_for(scored, None, **one)
    for changes in ({"run": checkpoint}, {"run": checkpoint, "out": tmp_path / "elsewhere"}):
        run(replace(options, **changes), ALONE)
        folder = changes.get("out", checkpoint)
        assert load_run(folder).trained == tmp_path / "student"
        page = (folder / "report.html").read_text()
        assert "Resolved configuration" in page
        assert "rpn class" in page
        assert f"{folder.name} − teacher" in page


def test_runs_of_one_name_are_told_apart(evaluated, scored, tmp_path):
    """Two folders called "student": their names in the report differ, and each has its own figures."""
    other = replace(evaluated, results=json.loads(json.dumps(evaluated.results)))
    other.results["domains"]["night_rainy"]["coco"]["small"] = 97.25
    page = build_report([evaluated, other])
    sizes = page[page.index('<section id="sizes">') : page.index('<section id="corruptions">')]
    figure = evaluated.figure("night_rainy", "coco", "small")
    assert re.search(rf">{figure:.1f}<.*?>97.2<", sizes, re.DOTALL)
    out = tmp_path / "student"
    shutil.copytree(evaluated.path, tmp_path / "before" / "student")
    run(options_for(scored, out, compare=(tmp_path / "before" / "student",), report=True), ALONE)
    assert f"{out} − {tmp_path / 'before' / 'student'}" in (out / "report.html").read_text()
    with pytest.raises(ValueError, match="this evaluation is written there"):
        run(options_for(scored, out, compare=(out,)), ALONE)


def test_speed_leaves_compilation_and_warm_up_out(scored, monkeypatch):
    """A first batch that takes long does not count; of one batch alone no speed is known."""
    label_map = match_classes(CLASSES, CLASSES, {})
    calls = []

    def slow_start(*arguments):
        calls.append(1)
        time.sleep(1.0 if len(calls) == 1 else 0.0)
        return scored.detector.detect(*arguments)

    found = detect_dataset(Pass(scored.detector, scored.dataset(), label_map, ALONE, batch_size=1, detect=slow_start))
    assert found.steady_images == 7
    assert found.seconds > 1 + found.steady_seconds
    assert found.steady_seconds > 0
    found = detect_dataset(Pass(scored.detector, scored.dataset(), label_map, ALONE, batch_size=16))
    assert (found.steady_images, found.steady_seconds) == (0, 0.0)


def test_chosen_images_come_in_batches_of_one_shape(scored):
    """So that a compiled detector needs no more graphs for them; the empty rows find nothing."""
    dataset = scored.dataset()
    batches = list(read_batches(dataset, [0, 1, 2, 3, 4], 4, "cpu"))
    assert {tuple(batch.images_BHW3.shape) for batch in batches} == {(4, 64, 96, 3), (4, 96, 64, 3)}
    ids = np.concatenate([batch.ids_B.numpy() for batch in batches])
    assert sorted(ids[ids >= 0]) == sorted(dataset.ids_N[:5])
    how = Pass(scored.detector, dataset, match_classes(CLASSES, CLASSES, {}), ALONE, batch_size=4)
    found = detect_dataset(how, rows=np.arange(5))
    assert set(found.detections.image_ids_D) <= set(dataset.ids_N[:5])


def test_two_ranks_with_unequal_shares_give_the_same_files(scored, evaluated, tmp_path):
    options = ["--resamples", 30, "--batch-size", 2, "--no-pictures", "--no-report"]
    job = ("eval.run", scored.checkpoint, "--data", *scored.data.values(), "--out", tmp_path, *options)
    assert Job(*job, folder=tmp_path, ranks=2).wait() == 0
    both = load_run(tmp_path)
    assert both.results["speed"]["ranks"] == 2
    for domain in scored.data:
        assert both.results["domains"][domain] == evaluated.results["domains"][domain]
        name = f"detections-{domain}.json"
        assert (both.folder / name).read_bytes() == (evaluated.folder / name).read_bytes()


@pytest.mark.long
def test_a_rank_that_fails_ends_the_job(scored, tmp_path):
    """Under torchrun itself: tests/pipeline/test_ranks.py, tests/train/test_processes.py."""
    words = ("eval.run", scored.checkpoint, "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    job = Job(*words, folder=tmp_path, ranks=2)
    assert job.wait() == 2
    assert job.output.count("is not a packed dataset") == 2


def test_scoring_the_files_it_wrote_gives_the_same_figures(scored, evaluated, tmp_path):
    files = tuple(evaluated.folder / f"detections-{domain}.json" for domain in scored.data)
    run(options_for(scored, tmp_path, detections=files, scorer="pycocotools", batch_size=8), ALONE)
    again = load_run(tmp_path, "files")
    for domain in scored.data:
        for metric in ("voc07", "area", "coco"):
            assert again.results["domains"][domain][metric] == evaluated.results["domains"][domain][metric]
    same = difference(again, evaluated, "mean_of_targets")
    assert same is not None
    assert same.value == 0
    assert same.interval == [0, 0]


def test_differences_of_runs_on_other_images_have_no_interval(scored, evaluated, tmp_path):
    run(options_for(scored, tmp_path, data=(scored.data["night_rainy"],), seed=1), ALONE)
    alone = load_run(tmp_path, "alone")
    assert alone.results["source"] == "night_rainy"
    assert alone.results["mean_of_targets"] == {}
    assert difference(alone, evaluated, "daytime_clear") is None
    other = difference(alone, evaluated, "night_rainy")
    assert other is not None
    assert (other.value, other.interval) == (0, None)
    fewer = evaluated.results | {"mean_of_targets": evaluated.results["mean_of_targets"] | {"domains": ["dusk_rainy"]}}
    assert difference(replace(evaluated, results=fewer), evaluated, "mean_of_targets") is None
    settings = evaluated.results["settings"] | {"voc_side_offset": 1}
    kit = replace(evaluated, results=evaluated.results | {"settings": settings})
    assert difference(kit, evaluated, "night_rainy") is None
    assert difference(kit, evaluated, "night_rainy", "coco") is not None


def test_table_names_runs_domains_and_the_difference(evaluated, scored):
    text = domain_table([evaluated, replace(evaluated, name="twin")])
    lines = text.splitlines()
    assert lines[0].split() == ["ours", "twin", "twin", "-", "ours"]
    assert [line.split("  ")[0] for line in lines[1:4]] == ["daytime_clear", "night_rainy", "mean of targets"]
    assert lines[3].endswith("+0.0 [+0.0, +0.0]")
    other = {"mean_of_targets": evaluated.results["mean_of_targets"] | {"domains": ["dusk_rainy"]}}
    mixed = domain_table([evaluated, replace(evaluated, name="twin", results=evaluated.results | other)])
    assert "do not compare (ours: night_rainy; twin: dusk_rainy)" in mixed
    with pytest.raises(ValueError, match="several runs are called"):
        named_runs((f"a={evaluated.path}", f"a={evaluated.path}"))
    with pytest.raises(ValueError, match="has not been evaluated"):
        named_runs((str(scored.checkpoint),))


def test_table_of_seeds_shows_mean_least_and_greatest(evaluated):
    def seed(name, *figures):
        places = zip(("daytime_clear", "night_rainy"), figures[:2], strict=True)
        parts = evaluated.results["domains"]
        parts = {place: parts[place] | {"voc07": parts[place]["voc07"] | {"mAP": figure}} for place, figure in places}
        mean = evaluated.results["mean_of_targets"] | {"voc07": figures[2]}
        return replace(evaluated, name=name, results=evaluated.results | {"domains": parts, "mean_of_targets": mean})

    runs = [seed("plain", 60.0, 10.0, 10.0), seed("student", 50.0, 20.0, 20.0), seed("plain", 63.0, 12.0, 12.0)]
    text = seeds_table(runs)
    assert [line.split() for line in text.splitlines()[:4]] == [
        ["plain", "student"],
        ["daytime_clear", "61.5", "[60.0,", "63.0]", "50.0", "[50.0,", "50.0]"],
        ["night_rainy", "11.0", "[10.0,", "12.0]", "20.0", "[20.0,", "20.0]"],
        ["mean", "of", "targets", "11.0", "[10.0,", "12.0]", "20.0", "[20.0,", "20.0]"],
    ]
    assert text.endswith("over runs (plain 2, student 1)")
    other = evaluated.results["domains"] | {
        "night_rainy": {**evaluated.results["domains"]["night_rainy"], "checksum": "0"}
    }
    with pytest.raises(ValueError, match="not all runs were evaluated on the same images"):
        seeds_table([*runs, replace(evaluated, results=evaluated.results | {"domains": other})])


def test_who_measures_fewer_domains_hears_what_is_replaced(evaluated, scored, tmp_path, capsys):
    shutil.copytree(evaluated.folder, tmp_path / "eval")
    keep_replaced(tmp_path, [PackedDataset(scored.data["night_rainy"])])
    assert "had figures of daytime_clear too; they are kept in" in capsys.readouterr().out
    before = (tmp_path / "eval-before" / "results.json").read_bytes()
    assert before == (tmp_path / "eval" / "results.json").read_bytes()
    (tmp_path / "eval" / "errors.json").write_text("{}")
    keep_replaced(tmp_path, [PackedDataset(scored.data["night_rainy"])])  # what was kept stays
    assert f"they are kept in {tmp_path / 'eval-before-2'}" in capsys.readouterr().out
    assert (tmp_path / "eval-before" / "errors.json").read_text() != "{}"
    keep_replaced(tmp_path, [PackedDataset(path) for path in scored.data.values()])
    keep_replaced(tmp_path / "new", [])
    assert capsys.readouterr().out == ""


def test_light_evaluation_agrees_and_leaves_everything_as_it_was(scored, evaluated):
    detector = scored.detector
    detector.train()
    detector.rpn.eval()
    modes = [module.training for module in detector.modules()]
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    how = Pass(detector, scored.dataset(), match_classes(CLASSES, CLASSES, {}), ALONE, batch_size=2)
    result = source_ap(how)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert [module.training for module in detector.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in detector.state_dict().items())
    detector.eval()
    assert result["num_images"] == 9
    assert result["AP50"] == pytest.approx(evaluated.figure("daytime_clear"))
    assert result["mAP"] == pytest.approx(evaluated.figure("daytime_clear", "coco"))
    part = source_ap(replace(how, batch_size=4), max_images=4)
    assert part["num_images"] == 4
    assert part["AP50"] > 0


def test_classes_meet_by_name():
    assert match_classes(("car", "bus"), ("bus", "car"), {}).tolist() == [0, 2, 1]
    assert match_classes(("auto", "bus"), ("bus", "car"), {"auto": "car"}).tolist() == [0, 2, 1]
    assert match_classes(("car", "cat", "bus"), ("bus", "car"), {}, True).tolist() == [0, 2, 0, 1]
    with pytest.raises(ValueError, match="the detector lacks car"):
        match_classes(("bus", "cat"), ("bus", "car"), {}, True)
    with pytest.raises(ValueError, match="the data lacks cat"):
        match_classes(("car", "cat", "bus"), ("bus", "car"), {})
    with pytest.raises(ValueError, match="no class automobile"):
        match_classes(("car",), ("car",), {"automobile": "car"})


def test_a_bare_torchvision_state_dict_evaluates(scored, tmp_path):
    """The file knows no classes: they are named, renamed, and one more than the data has is dropped."""
    torch.save(stock_twin(scored.detector).state_dict(), tmp_path / "stock.pth")
    options = options_for(scored, None, data=(scored.data["night_rainy"],))
    options = replace(options, run=tmp_path / "stock.pth", classes=("bus", "auto", "person"), map=("auto=car",))
    with pytest.raises(ValueError, match="add --out"):
        run(options, ALONE)
    run(replace(options, out=tmp_path / "out"), ALONE)
    measured = load_run(tmp_path / "out").results
    assert load_run(tmp_path / "out").figure("night_rainy") > 0
    # A corrected order of the names is another meaning of the labels: measured again.
    run(replace(options, out=tmp_path / "out", classes=("person", "auto", "bus")), ALONE)
    corrected = load_run(tmp_path / "out").results
    assert corrected["settings"]["classes"] == ["person", "auto", "bus"]
    assert corrected["domains"] != measured["domains"]


@pytest.mark.parametrize("name", ["results.json", "curves.json", "bootstrap.npz"])
def test_a_damaged_file_of_an_evaluation_is_named(evaluated, tmp_path, name):
    shutil.copytree(evaluated.folder, tmp_path / "eval")
    (tmp_path / "eval" / name).write_bytes((evaluated.folder / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=f"{name} is (not JSON|damaged)"):
        build_report([load_run(tmp_path), evaluated])


def test_every_canvas_may_compile(scored, tmp_path, monkeypatch):
    """Five domains of two canvases each, clean and corrupted, are more graphs than torch allows by itself."""
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    datasets = [scored.dataset() for _ in range(5)]
    for number, dataset in enumerate(datasets):
        dataset.canvases = {"landscape": (64, 96 + 32 * number), "portrait": (96 + 32 * number, 64)}
    with torch._dynamo.config.patch(recompile_limit=8):
        open_subject(options_for(scored, tmp_path, compile="on"), ALONE, datasets)
        assert torch._dynamo.config.recompile_limit == 2 * 10


def test_compared_runs_stand_beside_it(scored, evaluated, tmp_path, capsys):
    run(options_for(scored, tmp_path, compare=(evaluated.path,), report=True), ALONE)
    printed = capsys.readouterr().out
    assert f"{tmp_path.name} - {evaluated.path.name}" in printed
    assert f"{tmp_path.name} − {evaluated.path.name}" in (tmp_path / "report.html").read_text()


def test_a_compared_run_is_evaluated_first(scored, tmp_path, capsys):
    """And said so; what it was evaluated on before is kept; a second time nothing is measured again."""
    teacher = tmp_path / "teacher"
    shutil.copytree(scored.checkpoint, teacher)
    night = {"data": (scored.data["night_rainy"],), "compare": (teacher,)}
    run(options_for(scored, tmp_path / "a", **night), ALONE)
    printed = capsys.readouterr().out
    assert f"{teacher} was not evaluated on night_rainy: evaluating it first, into {teacher}" in printed
    assert "a - teacher" in printed
    assert load_run(teacher).figure("night_rainy") == load_run(tmp_path / "a").figure("night_rainy") > 3
    before = (teacher / "eval" / "results.json").read_bytes()
    day = {"data": (scored.data["daytime_clear"],), "compare": (teacher,), "report": True}
    for said in (True, False):
        run(options_for(scored, tmp_path / "b", **day), ALONE)
        printed = capsys.readouterr().out
        assert ("evaluating it first" in printed) is said
        assert "b - teacher" in printed
        assert "b − teacher" in (tmp_path / "b" / "report.html").read_text()
        assert (teacher / "eval" / "results.json").read_bytes() == before
        assert load_run(tmp_path / "b" / "compared" / "teacher").domains == ["daytime_clear"]


def test_a_compared_run_without_weights_is_shown_as_it_is(scored, evaluated, tmp_path, capsys):
    """Somebody's detections have no weights to get more figures from; what is neither is refused at once."""
    file = {"detections": (evaluated.folder / "detections-night_rainy.json",), "batch_size": 8}
    run(options_for(scored, tmp_path / "files", data=(scored.data["night_rainy"],), **file), ALONE)
    day = {"data": (scored.data["daytime_clear"],)}
    run(options_for(scored, tmp_path / "a", compare=(tmp_path / "files",), **day), ALONE)
    assert f"{tmp_path / 'files'} has no figures of daytime_clear in these data" in capsys.readouterr().out
    for path, message in ((tmp_path / "none", "there is no such run"), (tmp_path, "neither an evaluation nor weights")):
        with pytest.raises(ValueError, match=message):
            run(options_for(scored, tmp_path / "a", compare=(path,), **day), ALONE)


def test_files_of_detections_need_no_run(scored, evaluated, tmp_path):
    file = evaluated.folder / "detections-night_rainy.json"
    data = (scored.data["night_rainy"],)
    options = {"detections": (file,), "out": tmp_path / "out", "resamples": 5, "pictures": False}
    run(EvaluationOptions(data=data, **options), ALONE)
    found = load_run(tmp_path / "out")
    assert found.figure("night_rainy") == evaluated.figure("night_rainy")
    assert "report.html" in {path.name for path in (tmp_path / "out").iterdir()}


def test_a_batch_is_waited_for_when_the_next_one_has_been_looked_at(monkeypatch):
    """On a GPU: copies are queued right behind a batch's detections, before the next batch's."""
    order = []

    def look(images_BCHW, sizes_B2):
        order.append("detect")
        num = len(sizes_B2)
        return Found(torch.ones(num, 1, 4), torch.ones(num, 1), torch.ones(num, 1), torch.ones(num))

    def queue_copies(output):
        order.append("copy")
        return output, SimpleNamespace(synchronize=lambda: order.append("wait"))

    dataset = SimpleNamespace(index_of=int, original_sizes_N2=np.full((3, 2), 32))
    batches = [
        detecting.make_batch([np.zeros((32, 32, 3), np.uint8)], [number], (32, 32), "cpu") for number in range(3)
    ]
    given = (look, small_model(), batches, dataset, np.array([0, 1]), torch.float32)
    plain = list(detecting.detect_batches(*given))
    order.clear()
    monkeypatch.setattr(detecting, "queue_copies", queue_copies)
    found = list(detecting.detect_batches(*given))
    assert order == ["detect", "copy", "detect", "copy", "wait", "detect", "copy", "wait", "wait"]
    assert [ids_B.tolist() for ids_B, _ in found] == [[0], [1], [2]]
    assert [len(detections) for _, detections in found] == [len(detections) for _, detections in plain] == [1, 1, 1]


def test_training_never_depends_on_being_imported_by_evaluation():
    """The design's one direction: nothing imports train."""
    for path in (ROOT / "eval").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) train\b", path.read_text(), re.MULTILINE), path


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_gpu_finds_what_the_cpu_finds(scored, evaluated, tmp_path, compiled):
    """In float32, without and with compilation; then a pass of every benchmark corruption made on the device."""
    options = options_for(scored, tmp_path, device="cuda", precision="float32", compile=compiled)
    on_gpu = World(0, 1, torch.device("cuda:0"))
    run(replace(options, corruptions="benchmark", corruption_images=2), on_gpu)
    found = load_run(tmp_path)
    for domain in scored.data:
        assert found.figure(domain) == pytest.approx(evaluated.figure(domain), abs=2.0)
    assert len(found.read("robustness.json", schema.ROBUSTNESS)["summary"]) > 1
