"""The benchmark's result has its keys, and there is none without parity."""

import json

import pytest
import torch

from train import bench


@pytest.mark.slow
def test_result_of_a_small_measurement(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    arguments = ["--device", "cpu", "--canvas", "64", "96", "--batch-size", "2", "--rounds", "1", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--json", str(path)])
    assert bench.main() == 0
    result = json.loads(path.read_text())
    assert result["parity"]["ok"]
    assert result["trainable_layers"] == 5  # as in the small recipes
    assert (result["graph_breaks"], result["recompiles"]) == (0, 0)
    assert result["stock_graph_breaks"] > 10
    for name in ("images_per_second", "ratio_to_stock", "stock_images_per_second", "images_per_second_with_views"):
        assert result[name] > 0
    shares = [result[f"share_of_{name}"] for name in ("views", "loader", "optimizer")]
    assert all(share > 0 for share in shares)
    assert sum(shares) < 1
    assert result["synchronisations"] is None  # there is no device to wait for


def test_no_speed_without_parity(monkeypatch):
    batch = bench.make_batch(2, 64, 96, torch.device("cpu"))
    detector = bench.make_network(bench.small_model(weights="none", norm="frozen"), batch, seed=0)
    assert bench.check_parity(detector, batch)["ok"]
    monkeypatch.setattr(bench, "compare_losses", lambda *_: (0.0, 2e-3))
    with pytest.raises(ValueError, match=r"no speed without parity.*gradients by 2\.0e-03"):
        bench.check_parity(detector, batch)


def test_no_speed_for_a_compiled_step_with_other_losses():
    batch = bench.make_batch(2, 64, 96, torch.device("cpu"))
    model = bench.small_model(weights="none", norm="frozen")
    student, teacher = (bench.make_network(model, batch, seed=seed) for seed in (0, 1))
    views = bench.ViewMaker(bench.ViewConfig(corruptions=()), threads=1)(batch, 0)
    learner, look = bench.make_learner(student, teacher, torch.float32)
    names = learner.names()

    def off_by(share, name):
        def compiled(views, maps):
            total, scalars = learner(views, maps)
            changed = scalars.clone()
            changed[names.index(name)] += share * scalars[names.index("total")]
            return total, changed

        return bench.compare_compiled((learner, look), (compiled, look), views, torch.float32)

    assert off_by(5e-4, "roi_box") == pytest.approx(5e-4, rel=0.01)
    assert off_by(5.0, "count_instance") == 0  # no loss
    with pytest.raises(ValueError, match=r"no speed without parity.*compiled step.*2\.0e-03"):
        off_by(2e-3, "roi_box")


def test_a_canvas_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        bench.measure(bench.BenchOptions(device="cpu", canvas=(100, 96)))
