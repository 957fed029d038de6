"""The benchmark of evaluation runs, and prints no time for wrong figures."""

import pytest

from eval import bench
from eval.bench import BenchOptions, make_world, time_corruptions, time_scorers


def test_scorers_are_timed_only_when_they_agree(monkeypatch):
    options = BenchOptions(images=20, detections=5, resamples=3, runs=1)
    found = time_scorers(options)
    assert found["ours_s"] > 0
    assert found["peak_memory_ours_gb"] >= found["peak_memory_before_gb"] > 0.05
    answers = iter([{"mAP": 1}, {"mAP": 1}, {"mAP": 2}])
    monkeypatch.setattr(bench, "timed", lambda *_, **__: (1.0, next(answers)))
    with pytest.raises(RuntimeError, match="no time is printed"):
        time_scorers(options)


@pytest.mark.parametrize("name", bench.OTHERS)
def test_other_scorers_agree(name):
    pytest.importorskip(name, reason=f"{name} is not installed; the extra bench has it")
    seconds = bench.time_others(*make_world(60, 30))
    assert seconds[name].keys() == seconds["ours"].keys() == {"read", "score"}


def test_memory_is_read_before_pycocotools_runs(monkeypatch):
    order = []
    real = bench.timed
    monkeypatch.setattr(bench, "timed", lambda *a, **o: (order.append(o.get("scorer", "ours")), real(*a, **o))[1])
    monkeypatch.setattr(bench, "peak_memory_gb", lambda: order.append("memory") or 0.0)
    time_scorers(BenchOptions(images=5, detections=5, resamples=3, runs=1))
    assert order == ["memory", "ours", "ours", "memory", "pycocotools"]


def test_passes_over_corrupted_images_are_timed(monkeypatch):
    monkeypatch.setattr(bench, "BENCHMARK", ("contrast",))
    options = BenchOptions(device="cpu", backbone="mobilenet_v2", size=(32, 64), batch_size=1, runs=1)
    found = time_corruptions(options)
    assert list(found["cost_percent"]) == ["contrast"]
    assert found["clean_ms"] > 0
    assert found["cost_percent_mean"] == found["cost_percent"]["contrast"]


def test_the_world_of_the_benchmark_has_objects_of_every_class():
    truth, found = make_world(40, 10)
    assert set(truth.labels_M) == set(range(1, 8))
    assert len(found) == 400
