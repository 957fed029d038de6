"""What a run finds when it starts or continues: its teacher, its files on every rank, what it does not need again."""

import errno
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from eval.trained_on import PICTURES, pictures_of
from model.faster_rcnn.parity import recorded
from pipeline.command.ranks import World
from pipeline.packed.reader import PackedDataset
from train.load import make_views
from train.record.checkpoint import Checkpoints, lock
from train.record.logs import read_log
from train.start import find_newest, train
from train.trainer import STOPPED, Trainer

WORLD = World(0, 1, torch.device("cpu"))
DETECTION = ("rpn_class", "rpn_box", "roi_class", "roi_box")


@pytest.fixture
def begun(begin, student_config):
    """A run that was ended after its first step."""
    trainer = begin(student_config)
    trainer.stopping = True
    assert trainer.train() == STOPPED
    return student_config


def test_the_first_line_says_hardware_loader_and_kernels(student_config, capsys):
    assert train(replace(student_config, steps=1), WORLD) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert f"torch {torch.__version__}" in first
    assert first.endswith("; loader cpu, kernels Numba on CPU")


def test_another_teacher_is_refused_and_a_moved_one_is_not(begun, teacher_run, tmp_path):
    other = shutil.copytree(teacher_run, tmp_path / "other")
    continued = replace(begun, teacher=other)
    weights = Checkpoints(other, 1).newest() / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (weights.parent / "COMPLETE").write_bytes(b"")  # as before there were sums
    with pytest.raises(ValueError, match=r"--teacher .*other is not the teacher this run was trained with"):
        train(continued, WORLD)
    content[-1] ^= 1
    weights.write_bytes(content)
    assert train(continued, WORLD) == 0


def test_backbone_weights_are_not_asked_for_where_a_checkpoint_replaces_them(begun, begin, monkeypatch, tmp_path):
    def no_file(backbone):
        raise ValueError(f"ImageNet weights of {backbone}: the download failed")

    monkeypatch.setattr("model.weights.pretrained.find_imagenet_file", no_file)
    with pytest.raises(ValueError, match="download failed"):
        begin(replace(begun, out=tmp_path / "new"))
    assert train(begun, WORLD) == 0
    begin(replace(begun, out=tmp_path / "from_teacher", student_init="teacher")).task.loader.close()


def test_pictures_of_the_teacher_and_the_start_were_learned_from(begin, student_config, packed, halves, tmp_path):
    """Half of the pictures and a teacher of all; then a start that had that teacher, and is gone when it continues."""
    everything = pictures_of([PackedDataset(packed)])
    assert len(pictures_of([PackedDataset(halves[0])])) == len(everything) / 2
    config = replace(student_config, data=halves[:1], steps=1)
    assert begin(replace(config, teacher=None, distill=(), out=tmp_path / "plain")).task.pictures != everything
    assert train(config, WORLD) == 0
    plain = replace(config, teacher=None, distill=(), student_init=str(config.out), out=tmp_path / "started", steps=2)
    trainer = begin(plain)
    assert trainer.task.pictures == everything
    trainer.stopping = True
    assert trainer.train() == STOPPED
    shutil.rmtree(config.out)
    assert begin(plain).task.pictures == everything


def test_a_start_that_lists_no_pictures_is_named_once(begin, student_config, teacher_run, tmp_path, capsys):
    """As torchvision's files, and runs of before there was a list."""
    old = shutil.copytree(teacher_run, tmp_path / "old")
    newest = Checkpoints(old, 1).newest()
    (newest / PICTURES).unlink()
    (newest / "COMPLETE").write_bytes(b"")
    trainer = begin(replace(student_config, student_init=str(old)))
    note = f"note: {old} does not list the pictures it was trained on; evaluating on them will not be noticed"
    assert note in capsys.readouterr().out
    trainer.stopping = True
    assert trainer.train() == STOPPED
    begin(replace(student_config, student_init=str(old)))
    assert "does not list" not in capsys.readouterr().out


def test_a_run_continues_compiled_or_not(begun):
    assert train(replace(begun, compile="auto"), WORLD) == 0


def test_every_rank_takes_what_rank_0_found(student_config, monkeypatch, tmp_path):
    newest = student_config.out / "checkpoints" / "step-00000002"
    newest.mkdir(parents=True)
    (newest / "COMPLETE").touch()
    monkeypatch.setattr(World, "share", lambda self, value: newest)
    second = World(1, 2, torch.device("cpu"))
    checkpoints = Checkpoints(student_config.out, 2)
    assert find_newest(student_config, checkpoints, second) == newest
    (newest / "COMPLETE").unlink()
    with pytest.raises(ValueError, match=r"rank 1 does not see .*step-00000002.*file system that all nodes share"):
        find_newest(student_config, checkpoints, second)
    monkeypatch.setattr(World, "share", lambda self, value: None)
    with pytest.raises(ValueError, match=r"rank 1 does not see .*config.json"):
        find_newest(student_config, checkpoints, second)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def fails(code):
        def flock(*_):
            raise OSError(code, "from the file system")

        return flock

    for code in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
        monkeypatch.setattr("fcntl.flock", fails(code))
        lock(tmp_path).close()
        assert "has no locks" in capsys.readouterr().out
    monkeypatch.setattr("fcntl.flock", fails(errno.EIO))
    with pytest.raises(OSError, match="from the file system"):
        lock(tmp_path)


def test_out_of_memory_after_a_checkpoint_asks_for_another_folder(begun, monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train", full)
    with pytest.raises(ValueError, match=r"fewer --distill.cd_fkd.strides \(now \(8, 16, 32\)\).*another --out"):
        train(begun, WORLD)


def test_loader_options_reach_the_loader(begin, student_config, monkeypatch):
    given = {}

    def note(*_, **options):
        given.update(options)
        raise InterruptedError

    monkeypatch.setattr("train.task.open_loader", note)
    loader = replace(student_config.loader, name="auto", threads=3, prefetch=5, hardware_share=0.5)
    with pytest.raises(InterruptedError):
        begin(replace(student_config, loader=loader))
    assert (given["threads"], given["prefetch"], given["hardware_share"]) == (3, 5, 0.5)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", "cpu", torch.float32), ("bfloat16", "cpu", torch.bfloat16),
        ("auto", "cuda", torch.bfloat16), ("float32", "cuda", torch.float32),
    ],
)  # fmt: skip
def test_views_come_in_the_precision_the_networks_compute_in(student_config, monkeypatch, precision, device, expected):
    given = {}
    monkeypatch.setattr("train.load.ViewMaker", lambda config, **options: given.update(options))
    learner = SimpleNamespace(sees=("corrupted",))
    make_views(replace(student_config, precision=precision), World(0, 1, torch.device(device)), learner, None)
    assert given["dtype"] == expected


def test_a_teacher_whose_maps_are_wider_gets_adapters(begin, student_config, capsys):
    model = replace(student_config.model, fpn_channels=24)
    trainer = begin(replace(student_config, model=model))
    assert "the student's maps have 24 channels and the teacher's 16: 3 1x1 adapters" in capsys.readouterr().out
    before = {name: value.clone() for name, value in trainer.task.parameters.items() if name.startswith("method.")}
    assert len(before) == 6
    assert trainer.train() == 0
    assert all(not torch.equal(trainer.task.parameters[name], value) for name, value in before.items())


def test_student_and_teacher_lie_in_memory_channels_last(begin, student_config):
    """Weights, both views and every map, in the run as it trains."""
    trainer = begin(replace(student_config, steps=1))
    seen = []
    task = trainer.task
    one_step = task.one_step

    def look(views, *more):
        maps = task.student.features(views.corrupted.images_B3HW)
        taught = [value for value in task.teacher(views).neck if value is not None]
        seen.extend([views.corrupted.images_B3HW, views.clean.images_B3HW, *maps, *taught])
        detectors = (task.student, task.teacher.detector)
        seen.extend(value for each in detectors for value in each.parameters() if value.ndim == 4)
        one_step(views, *more)

    task.one_step = look
    assert trainer.train() == 0
    assert len(seen) > 100
    # A map of one channel or one pixel is both: strides say nothing there.
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in seen)


def test_bfloat16_trains_float32_weights_near_float32(begin, student_config, tmp_path):
    """On a CPU too: the losses of the first step are those of float32, as near as two or three digits carry.

    Both train on the proposals of float32. Rounding changes which of the two's own are kept, and so which few boxes the
    RoI head learns from.
    """
    lines, proposals = [], None
    for precision in ("float32", "bfloat16"):
        config = replace(student_config, precision=precision, out=tmp_path / precision, steps=2, log_every=1)
        trainer = begin(config)
        student = trainer.task.student
        if proposals is not None:
            given = iter(proposals)
            student.proposals = lambda *_, given=given: next(given)
        with recorded(student, "proposals") as proposals:
            assert trainer.train() == 0
        assert all(value.dtype == torch.float32 for value in trainer.task.parameters.values())
        lines.append(read_log(config.out / "log.jsonl")[0]["losses"])
    exact, rounded = lines
    assert exact != rounded
    assert set(exact) == {*DETECTION, "global", "instance", "total"}
    assert rounded == pytest.approx(exact, rel=0.1)  # a cosine of random networks is the least exact
    assert [rounded[name] for name in DETECTION] == pytest.approx([exact[name] for name in DETECTION], rel=0.03)


class NotedProgress:
    """Stands in for the live display."""

    made: list = []  # noqa: RUF012

    def __init__(self, description, total, unit="images", done=0, quiet=False):
        self.total, self.done = total, done
        NotedProgress.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, count=1, note=""):
        self.done += count


def test_the_display_ends_at_the_total_after_a_stop_in_a_window_and_a_window_of_bad_steps(
    begin, student_config, monkeypatch
):
    monkeypatch.setattr("train.trainer.Progress", NotedProgress)
    config = replace(student_config, save_every=3, log_every=2, steps=8)
    trainer = begin(config)
    trainer.total = 3
    monkeypatch.setattr(trainer, "read_out", lambda log: False)  # as if killed before a log line
    trainer.train()
    trainer = begin(config)
    assert (trainer.at.step, trainer.at.last_read) == (3, 0)
    start = trainer.task.maker.start

    def start_poisoned(batch, draw):
        started = start(batch, draw)
        if draw in (4, 5):  # the whole window before log line 6
            started.views.corrupted.images_B3HW[0, 0, 0, 0] = float("nan")
        return started

    monkeypatch.setattr(trainer.task.maker, "start", start_poisoned)
    monkeypatch.setattr(trainer.at, "last_read", 2)
    assert trainer.train() == 0
    assert NotedProgress.made[-1].done == NotedProgress.made[-1].total == 8 * 4
