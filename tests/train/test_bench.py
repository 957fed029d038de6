"""The benchmark of the training step: its result has its keys, and what is wrong is named."""

import json
import time
from dataclasses import replace

import pytest
import torch

from model.config import ModelConfig, small_model
from train.bench import __main__ as bench
from train.bench import check as bench_check
from train.bench import distill as bench_distill
from train.bench import steps as bench_steps
from train.distill import Pkd


@pytest.mark.long
def test_result_of_a_small_measurement(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    arguments = ["--device", "cpu", "--canvas", "64", "96", "--batch-size", "2", "--rounds", "1", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--json", str(path)])
    assert bench.main() == 0
    result = json.loads(path.read_text())
    assert result["parity"]["ok"]
    assert result["variant"] == "eager"
    assert result["trainable_layers"] == 5  # as in the small recipes
    assert (result["graph_breaks"], result["recompiles"]) == (0, 0)
    assert result["stock_graph_breaks"] > 10
    for name in ("images_per_second", "ratio_to_stock", "stock_images_per_second", "images_per_second_with_views"):
        assert result[name] > 0
    shares = [result[f"share_of_{name}"] for name in ("views", "loader", "optimizer")]
    assert all(share > 0 for share in shares)
    assert sum(shares) < 1
    assert result["synchronisations"] is None  # there is no device to wait for


@pytest.mark.long
@pytest.mark.parametrize("failing", ["stock", "eager", "compiled"])
def test_what_fails_is_named_beside_the_times_of_the_others(failing, tmp_path, monkeypatch):
    path, before_compiling = tmp_path / "bench.json", {}
    step, timed = bench.our_step, []

    def fail(*_):
        raise RuntimeError("no memory left")

    def compile_both(learner, look, *_):
        before_compiling.update(json.loads(path.read_text()))
        return fail() if failing == "compiled" else (learner, look)

    def our_step(*given):
        timed.append(given)
        return fail() if failing == "eager" and len(timed) == 1 else step(*given)

    monkeypatch.setattr(bench, "compile_both", compile_both)
    monkeypatch.setattr(bench, "our_step", our_step)
    if failing == "stock":
        monkeypatch.setattr(bench, "stock_step", fail)
    arguments = ["--device", "cpu", "--canvas", "64", "96", "--batch-size", "2", "--rounds", "1", "--steps", "1"]
    arguments += ["--compile", "on", "--no-count-graphs", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    assert bench.main() == 1
    result = json.loads(path.read_text())
    assert result["wrong"] == {failing: "RuntimeError: no memory left"}
    variants = {"stock", "eager", "compiled"} - {failing}
    assert {name for name in ("stock", "eager", "compiled") if f"{name}_images_per_second" in result} == variants
    assert result["variant"] == ("eager" if failing == "compiled" else "compiled")
    assert ("ratio_to_stock" in result) == ("stock" in variants)
    assert result["share_of_views"] > 0
    assert ("eager_images_per_second" in before_compiling) == (failing != "eager")
    assert "graph_breaks" not in result


@pytest.mark.long
@pytest.mark.parametrize(("kind", "names"), [("faster_rcnn", ["cd-fkd", "divalign"]), ("gfl", ["ld"])])
def test_what_methods_cost(kind, names, tmp_path, monkeypatch, capsys):
    path = tmp_path / "new" / "bench.json"
    arguments = ["--device", "cpu", "--canvas", "64", "96", "--batch-size", "2", "--rounds", "2", "--steps", "1"]
    arguments += ["--clock", "cpu"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--model", kind, "--distill", *names, "--json", str(path)])
    assert bench.main() == 0
    result = json.loads(path.read_text())
    assert list(result["steps"]) == ["alone", "plain", *(name.replace("-", "_") for name in names)]
    assert result["model"] == kind
    assert result["steps"]["plain"]["ratios"] == [1, 1]
    assert all(figures["milliseconds"] > 0 for figures in result["steps"].values())
    assert result["steps"]["alone"]["launches"] is None  # there is no GPU
    assert "of plain" in capsys.readouterr().out


def test_a_cpus_clock_is_for_a_cpu():
    with pytest.raises(ValueError, match="--clock is cpu, but this runs on a GPU"):
        bench_steps.choose_clock("cpu", torch.device("cuda"))
    assert bench_steps.choose_clock("cpu", torch.device("cpu")) is time.process_time


def test_wrong_methods_are_named():
    options = bench.BenchOptions(device="cpu", canvas=(64, 96), batch_size=2)
    with pytest.raises(ValueError, match=r"--distill pdk \(nearest: pkd\): the methods are cd_fkd, "):
        bench_distill.measure(replace(options, distill=("pdk",)))
    with pytest.raises(ValueError, match="ld compares distributions of box sides; the student is a faster_rcnn"):
        bench_distill.measure(replace(options, distill=("ld",)))
    with pytest.raises(ValueError, match=r"--canvas: got 100 96; both sides must be multiples of 32"):
        bench_distill.measure(replace(options, distill=("pkd",), canvas=(100, 96)))
    for wrong in ({"cuda_graphs": "on"}, {"loader": "dali"}):
        with pytest.raises(ValueError, match="has no effect on --distill"):
            bench_distill.measure(replace(options, distill=("pkd",), **wrong))


def test_a_method_that_fails_is_named_beside_the_times_of_the_others(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise RuntimeError("no memory left")

    limits = []
    monkeypatch.setattr(Pkd, "forward", fail)
    monkeypatch.setattr(bench_distill, "compile_both", lambda *given: limits.append(given[3]) or given[:2])
    path = tmp_path / "bench.json"
    arguments = ["--device", "cpu", "--canvas", "64", "96", "--batch-size", "2", "--rounds", "1", "--steps", "1"]
    arguments += ["--compile", "on"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--distill", "pkd", "cd_fkd", "--json", str(path)])
    assert bench.main() == 1
    result = json.loads(path.read_text())
    assert result["wrong"] == {"pkd": "RuntimeError: no memory left"}
    assert list(result["steps"]) == ["alone", "plain", "cd_fkd"]
    assert limits == 4 * [4]  # all are compilations of one code
    assert "WRONG: pkd: no memory left" in capsys.readouterr().out


def test_what_differs_from_torchvision_is_named(monkeypatch):
    batch = bench.make_batch(2, 64, 96, torch.device("cpu"))
    detector = bench.make_network(small_model(weights="none", norm="frozen"), batch, seed=0)
    assert bench_check.check_parity(detector, batch)["ok"]
    monkeypatch.setattr(bench_check, "compare_losses", lambda *_, **__: (0.0, 2e-3, 0.0))
    with pytest.raises(ValueError, match=r"no parity.*gradients by 2\.0e-03"):
        bench_check.check_parity(detector, batch)
    monkeypatch.setattr(bench_check, "compare_losses", lambda *_, **__: (0.0, 0.0, 0.02))
    with pytest.raises(ValueError, match=r"no parity.*2\.00% of the proposals"):
        bench_check.check_parity(detector, batch)


@pytest.mark.long
def test_parity_with_the_default_number_of_proposals(monkeypatch):
    """2000 a level and an image. With wider layers equal scores swap two, so that a gradient is off by 1e-2."""
    batch = bench.make_batch(2, 320, 512, torch.device("cpu"))
    narrow = {"fpn_channels": 64, "representation_size": 128, "trainable_layers": 3}
    model = ModelConfig(backbone="resnet18", weights="none", norm="frozen", **narrow)
    assert (model.rpn_pre_nms_train, model.rpn_post_nms_train) == (2000, 2000)
    detector = bench.make_network(model, batch, seed=0)
    assert bench_check.check_parity(detector, batch)["proposals_differing_share"] <= 0.001
    twin = bench_check.stock_twin(detector).to(memory_format=torch.channels_last)
    monkeypatch.setattr(bench_check, "stock_twin", lambda _: twin)
    detector.config = replace(model, rpn_nms_threshold=0.69)
    with pytest.raises(ValueError, match=r"no parity.*of the proposals"):
        bench_check.check_parity(detector, batch)


def test_a_compiled_step_with_other_losses_is_named():
    batch = bench.make_batch(2, 64, 96, torch.device("cpu"))
    model = small_model(weights="none", norm="frozen")
    student, teacher = (bench.make_network(model, batch, seed=seed) for seed in (0, 1))
    views = bench.ViewMaker(bench.ViewConfig(corruptions=()), threads=1)(batch, 0)
    learner, look = bench.make_learner(student, teacher, torch.float32)
    names = learner.layout.names

    def off_by(share, name):
        def compiled(views, maps):
            total, scalars = learner(views, maps)
            changed = scalars.clone()
            changed[names.index(name)] += share * scalars[names.index("total")]
            return total, changed

        return bench_check.compare_compiled((learner, look), (compiled, look), views, torch.float32)

    assert off_by(5e-4, "roi_box") == pytest.approx(5e-4, rel=0.01)
    assert off_by(5.0, "count of cosine_instance") == 0  # no loss
    with pytest.raises(ValueError, match=r"no parity.*compiled step.*2\.0e-03"):
        off_by(2e-3, "roi_box")


def test_a_canvas_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        bench.measure(bench.BenchOptions(device="cpu", canvas=(100, 96)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="--device cuda: torch sees no GPU; use --device cpu"):
        bench.choose(bench.BenchOptions(device="cuda"))


def test_cuda_graphs_on_a_cpu_are_refused():
    with pytest.raises(ValueError, match="--cuda-graphs is on, but this runs on a CPU"):
        bench.measure(bench.BenchOptions(device="cpu", cuda_graphs="on"))


def test_cuda_graphs_are_compared_and_timed_and_their_failure_is_only_told(monkeypatch):
    batch = bench.make_batch(2, 64, 96, torch.device("cpu"))
    model = small_model(weights="none", norm="frozen")
    student, teacher = (bench.make_network(model, batch, seed=seed) for seed in (0, 1))
    views = bench.ViewMaker(bench.ViewConfig(corruptions=()), threads=1)(batch, 0)
    learner, look = bench.make_learner(student, teacher, torch.float32)
    given = (learner, look, views, lambda: None, 0, 1, 1)
    modes = []
    monkeypatch.setattr(bench, "compile_both", lambda *both: modes.append(both[2]) or both[:2])
    result = bench.measure_cuda_graphs(*given)
    assert modes == ["reduce-overhead"]
    assert result["cuda_graphs_images_per_second"] > 0
    assert result["cuda_graphs_ratio_to_stock"] > 0
    assert result["cuda_graphs_loss_difference"] < 1e-3
    assert result["cuda_graphs_peak_memory_gb"] is None

    counts = iter((0, 1))
    monkeypatch.setattr(bench, "count_skipped_graphs", lambda: next(counts))
    assert "inductor left out a graph" in bench.measure_cuda_graphs(*given)["cuda_graphs_error"]
    monkeypatch.undo()

    class Doubled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.learner = learner

        def forward(self, *inputs):
            return tuple(2 * value for value in self.learner(*inputs))

    monkeypatch.setattr(bench, "compile_both", lambda *_: (Doubled(), look))
    assert "no parity" in bench.measure_cuda_graphs(*given)["cuda_graphs_error"]

    def fail(*_):
        raise RuntimeError("capture failed")

    monkeypatch.setattr(bench, "compile_both", fail)
    assert bench.measure_cuda_graphs(*given) == {"cuda_graphs_error": "RuntimeError: capture failed"}
