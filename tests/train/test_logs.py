import errno
import json
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from train.record.logs import RunLog, flatten, peak_memory_gb, read_log
from train.record.window import Window
from train.step import Layout


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


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_under_tensorboards_thread_is_the_callers_error(tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = threading.excepthook
    log = RunLog(tmp_path, 0)
    monkeypatch.setattr(RecordWriter, "write", full)

    def write_on():
        for step in range(200):
            log.write({"step": step, "losses": {"total": 1.0}})
            time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        write_on()
    with suppress(OSError):
        log.close()
    assert threading.excepthook is before
    assert capfd.readouterr().err == ""


def test_a_missing_log_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_numbers_of_a_line_for_tensorboard():
    line = {"step": 3, "losses": {"total": 1, "global": float("nan")}, "ids": [1, 2], "learning_rate": 0.1}
    assert flatten(line) == [("losses/total", 1.0), ("learning_rate", 0.1)]


def test_memory_is_the_most_the_process_has_used():
    block = torch.ones(50_000_000)  # so that the peak is now, and not that of an earlier process of the same name
    kernel_kb = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(kernel_kb * 1024 / 1e9, rel=0.02)
    assert peak_memory_gb(torch.device("cpu")) > block.nbytes / 1e9


def test_cosines_are_means_over_what_was_compared():
    """Batches of 3 instances, cosines 0.3 + 0.2 + 0.7, of one, 0.2, of none, and one that was skipped."""
    layout = Layout((), ("cosine_instance", "cosine_none"))
    window = Window(layout.names, 4, torch.device("cpu"))
    for step, (cosines, count) in enumerate(((1.2, 3.0), (0.2, 1.0), (0.0, 0.0), (float("nan"), 5.0))):
        window.record(step, torch.tensor([cosines, 0.0, count, 0.0]), torch.tensor([0]), False)
    losses, logged = layout.read(window.read(0, 4).means)
    assert (losses, logged) == ({}, {"cosine_instance": pytest.approx(1.4 / 4)})
