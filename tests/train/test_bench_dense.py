"""The benchmark of dense detectors: parity with torchvision's first, or only a time where torchvision has none."""

import json
from dataclasses import replace

import pytest
import torch

from train.bench import __main__ as bench
from train.bench import check as bench_check
from train.bench import dense as bench_dense
from train.bench import steps as bench_steps
from train.bench.stock import has_stock, stock_step, twin_of

CANVAS = (64, 96)


def make(kind, batch, seed=0):
    changes = {"weights": "none", "norm": "frozen", "trainable_layers": 5, "fpn_channels": 64, "head_channels": 64}
    return bench.make_network(replace(bench_steps.configure(kind, "mobilenet_v2"), **changes), batch, seed)


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_parity_with_torchvision(kind, monkeypatch):
    """Boxes in two corners, so that no anchor is wanted by both: RetinaNet's foreground is the same boxes' then."""
    batch = bench.make_batch(2, *CANVAS, torch.device("cpu"))
    boxes = torch.zeros_like(batch.boxes_BG4)
    boxes[:, 0], boxes[:, 1] = torch.tensor([2.0, 3, 37, 33]), torch.tensor([60.0, 41, 93, 62])
    labels = torch.where(torch.arange(boxes.shape[1]) < 2, batch.labels_BG, 0)
    batch = replace(batch, boxes_BG4=boxes, labels_BG=labels)
    detector = make(kind, batch)
    found = bench_check.check_parity(detector, batch)
    assert found["ok"]
    assert found["foreground_of_another_box_share"] == 0
    wrong = twin_of(detector)
    with torch.no_grad():
        wrong.head.classification_head.cls_logits.bias += 0.01
    monkeypatch.setattr(bench_dense, "stock_twin", lambda _: wrong)
    with pytest.raises(ValueError, match="no parity: outputs within "):
        bench_check.check_parity(detector, batch)


def test_crowded_boxes_share_anchors_otherwise_but_nothing_else_differs():
    """Sixteen boxes on a small canvas: RetinaNet's low-quality matches go to the box that needs them."""
    batch = bench.make_batch(2, *CANVAS, torch.device("cpu"))
    found = bench_check.check_parity(make("retinanet", batch), batch)
    assert found["states_differing_share"] == 0
    assert found["foreground_of_another_box_share"] > 0


@pytest.mark.parametrize("kind", ["atss", "gfl"])
def test_what_torchvision_has_not_is_only_timed(kind):
    batch = bench.make_batch(2, *CANVAS, torch.device("cpu"))
    detector = make(kind, batch)
    assert not has_stock(detector)
    assert bench_check.check_parity(detector, batch) == {"ok": None}
    described = bench.describe("eager", {"eager": [0.5, 0.25]}, None, 2)
    assert described == {"eager_images_per_second": 2 / 0.375, "eager_peak_memory_gb": None}


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_both_steps_run_on_the_same_views(kind):
    batch = bench.make_batch(2, *CANVAS, torch.device("cpu"))
    student, teacher = (make(kind, batch, seed) for seed in (0, 1))
    views = bench.ViewMaker(bench.ViewConfig(corruptions=(), ratio_range=(1.0, 1.0)), threads=1)(batch, 0)
    stock_step(student, teacher, views, torch.float32)()
    learner, look = bench.make_learner(student, teacher, torch.float32)
    before = student.head.class_output.weight.detach().clone()
    bench.our_step(learner, look, learner.layout.names, views)()
    assert not torch.equal(student.head.class_output.weight, before)


class Broken(torch.nn.Module):
    """A learner whose graph ends in the middle, or that has none."""

    def __init__(self, student, breaks, step=0):
        """step: what the number of a call, a constant of the graph, grows by."""
        super().__init__()
        self.student, self.breaks, self.step, self.number = student, breaks, step, 0

    def forward(self, views, seen):
        total = views.corrupted.images_B3HW.mean() + seen + self.number
        self.number += self.step
        for _ in range(2 if self.breaks < 0 else 0):  # dynamo leaves all of it to Python
            torch._dynamo.graph_break()
        if self.breaks >= 1:
            torch._dynamo.graph_break()
            total = total * 2
        if self.breaks >= 2:
            torch._dynamo.graph_break()
            total = total * 2
        return total


class Look:
    def __call__(self, views):
        return views.clean.images_B3HW.mean()


@pytest.mark.long
@pytest.mark.parametrize(("breaks", "counted"), [(0, 0), (1, 1), (2, 2), (-1, 1)])
def test_graph_breaks_are_counted_and_are_no_recompilations(breaks, counted):
    batch = bench.make_batch(1, 64, 192, torch.device("cpu"))
    found = bench_check.count_graphs(Broken(make("gfl", batch), breaks), Look(), batch)
    assert found == {"graph_breaks": counted, "recompiles": 0, "canvases": 2}


@pytest.mark.long
def test_recompilations_are_counted():
    """Two canvases, each seen twice: four graphs, of which two are needed."""
    batch = bench.make_batch(1, 64, 192, torch.device("cpu"))
    found = bench_check.count_graphs(Broken(make("gfl", batch), 0, step=1), Look(), batch)
    assert found == {"graph_breaks": 0, "recompiles": 2, "canvases": 2}


@pytest.mark.long
def test_result_of_a_measurement_without_a_stock_loop(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    arguments = ["--model", "gfl", "--device", "cpu", "--canvas", "64", "96", "--batch-size", "2"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--rounds", "1", "--steps", "1", "--json", str(path)])
    assert bench.main() == 0
    result = json.loads(path.read_text())
    assert result["model"] == "gfl"
    assert result["images_per_second"] > 0
    assert (result["graph_breaks"], result["recompiles"]) == (0, 0)
    assert result["parity"] == {"ok": None}
    assert not [name for name in result if "stock" in name]
