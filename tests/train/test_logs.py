import json

import torch

from train.logs import RunLog, flatten, peak_memory_gb, read_log


def test_continuing_drops_lines_after_the_checkpoint_and_a_torn_last_line(tmp_path):
    text = "".join(json.dumps({"step": step, "losses": {"total": 1.0}}) + "\n" for step in (1, 10, 20, 30))
    (tmp_path / "log.jsonl").write_text(text + '{"step": 40, "los')
    log = RunLog(tmp_path, 20)
    log.write({"step": 30, "losses": {"total": 0.5}})
    log.close()
    assert [(line["step"], line["losses"]["total"]) for line in read_log(tmp_path / "log.jsonl")] == [
        (1, 1.0), (10, 1.0), (20, 1.0), (30, 0.5)
    ]  # fmt: skip
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_missing_log_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_numbers_of_a_line_for_tensorboard():
    line = {"step": 3, "losses": {"total": 1, "global": float("nan")}, "ids": [1, 2], "learning_rate": 0.1}
    assert flatten(line) == [("losses/total", 1.0), ("learning_rate", 0.1)]


def test_memory_is_positive():
    assert peak_memory_gb(torch.device("cpu")) > 0.05
