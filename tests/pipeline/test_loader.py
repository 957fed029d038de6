"""loader.py with every decoder: same ids, boxes and (nearly) pixels; exact resuming; errors arrive; clean closing."""

import ctypes
import gc
import itertools
import threading
from collections import deque
from itertools import islice

import numpy as np
import psutil
import pytest
import torch

import pipeline.loading.loader
from pipeline.batch import Batch
from pipeline.files.pixels import decode_packed
from pipeline.loading.loader import choose_loader, describe_machine, open_loader
from pipeline.packed.reader import PackedDataset

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])
FFCV = (pytest.mark.ffcv, pytest.mark.slow)


def need(name: str) -> str:
    if name == "ffcv":
        pytest.importorskip("ffcv", reason="FFCV is not installed", exc_type=ImportError)
    if name == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    return name


@pytest.fixture(params=["cpu", "dali", pytest.param("ffcv", marks=FFCV)])
def name(request) -> str:
    return need(request.param)


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> str:
    return request.param


@pytest.fixture
def dataset(make_packed, name, request) -> PackedDataset:
    if name == "ffcv":
        return PackedDataset(request.getfixturevalue("beton_path"))
    return make_packed(23)  # quality and chroma as packed by default


def tolerance_of(name: str, device: str) -> int:
    """`cpu` decodes as the reference does, DALI on the host with the same library; others have their own arithmetic."""
    return 0 if name == "cpu" or (name, device) == ("dali", "cpu") else 12


def check_batch(batch: Batch, dataset: PackedDataset, tolerance: float) -> None:
    """Against the dataset read directly; everything outside the images zero."""
    B, H, W, _ = batch.images_BHW3.shape
    assert (H, W) in dataset.canvases.values()
    assert batch.images_BHW3.dtype == torch.uint8
    assert batch.sizes_B2.dtype == torch.int32
    assert batch.boxes_BG4.shape == (B, dataset.max_boxes, 4)
    for b in range(B):
        image = batch.images_BHW3[b].cpu().numpy()
        if batch.ids_B[b] < 0:
            assert not image.any()
            assert batch.sizes_B2[b].tolist() == [0, 0]
            assert not batch.labels_BG[b].any()
            assert not batch.boxes_BG4[b].any()
            continue
        i = dataset.index_of(int(batch.ids_B[b]))
        h, w = batch.sizes_B2[b].tolist()
        assert (h, w) == tuple(dataset.sizes_N2[i])
        reference = decode_packed(dataset.jpeg(i)).astype(int)
        assert np.abs(image[:h, :w] - reference).max() <= tolerance
        assert not image[h:].any()
        assert not image[:, w:].any()
        boxes, labels, ignore = dataset.target(i)
        n = len(labels)
        np.testing.assert_array_equal(batch.boxes_BG4[b, :n].cpu(), boxes)
        np.testing.assert_array_equal(batch.labels_BG[b, :n].cpu(), labels)
        np.testing.assert_array_equal(batch.ignore_BG[b, :n].cpu(), ignore)
        assert not batch.labels_BG[b, n:].any()
        assert not batch.boxes_BG4[b, n:].any()


def test_every_image_once_with_its_pixels_and_boxes(dataset, name, device):
    with open_loader(dataset, 4, device=device, name=name, shuffle=False, threads=2) as loader:
        batches = list(loader)
    for batch in batches:
        assert batch.images_BHW3.device.type == device
        assert batch.ids_B.device.type == batch.sizes_B2.device.type == "cpu"
        check_batch(batch, dataset, tolerance_of(name, device))
    ids = [id for batch in batches for id in batch.ids_B.tolist()]
    assert sorted(id for id in ids if id >= 0) == list(range(23))
    assert len(batches) == loader.batches_per_epoch == 5 + 2  # 17 landscape and 6 portrait images in fours
    assert loader.name == name


def test_raw_records_are_exact(make_packed, name, device):
    dataset = make_packed(9, raw=True, beton=name == "ffcv")
    with open_loader(dataset, 4, device=device, name=name, shuffle=False, threads=2) as loader:
        for batch in loader:
            check_batch(batch, dataset, tolerance=0)


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("pair", [("cpu", "dali"), *(pytest.param((a, "ffcv"), marks=FFCV) for a in ("cpu", "dali"))])
def test_loaders_deliver_the_same_ids_boxes_and_nearly_the_same_pixels(make_packed, pair, chroma, device):
    dataset = make_packed(23, chroma=chroma, beton="ffcv" in map(need, pair))
    tolerance = max(tolerance_of(name, device) for name in pair)
    first, second = (open_loader(dataset, 4, device=device, name=name, seed=4, threads=2) for name in pair)
    with first, second:
        for a, b in islice(zip(first, second, strict=True), 20):
            torch.testing.assert_close(a.ids_B, b.ids_B, rtol=0, atol=0)
            torch.testing.assert_close(a.boxes_BG4, b.boxes_BG4, rtol=0, atol=0)
            torch.testing.assert_close(a.labels_BG, b.labels_BG, rtol=0, atol=0)
            assert (a.epoch, a.seed) == (b.epoch, b.seed)
            difference = (a.images_BHW3.int() - b.images_BHW3.int()).abs()
            assert difference.max() <= tolerance
            assert difference.float().mean() < 1
            assert first.state_dict() == second.state_dict()


def test_resuming_from_a_state_gives_the_same_batches(dataset, name, device):
    with open_loader(dataset, 4, device=device, name=name, seed=3, prefetch=5, threads=2) as loader:
        head = list(islice(loader, 4))
        state = loader.state_dict()  # of what was received, however far the loader has read ahead
        tail = list(islice(loader, 9))
    assert len(head) == 4
    with open_loader(dataset, 4, device=device, name=name, seed=3, threads=2, **state) as again:
        for expected, batch in zip(tail, islice(again, 9), strict=True):
            assert batch.ids_B.tolist() == expected.ids_B.tolist()
            assert batch.epoch == expected.epoch
            assert torch.equal(batch.images_BHW3, expected.images_BHW3)
    assert {batch.epoch for batch in tail} >= {0, 1}


def test_ranks_that_change_neither_repeat_nor_skip(make_packed):
    """Two ranks for three steps, one rank for two, then four to the end of the epoch."""
    dataset = make_packed(23)
    seen: list[int] = []
    state = {"epoch": 0, "cursor": 0}
    for world, steps in ((2, 3), (1, 2), (4, 99)):
        loaders = [open_loader(dataset, 2, rank=rank, world=world, seed=1, threads=1, **state) for rank in range(world)]
        for _ in range(steps):
            batches = [next(loader) for loader in loaders]
            if batches[0].epoch == 1:
                break
            seen += [id for batch in batches for id in batch.ids_B.tolist() if id >= 0]
            (state,) = {tuple(loader.state_dict().items()) for loader in loaders}
            state = dict(state)
        for loader in loaders:
            loader.close()
    assert sorted(seen) == list(range(23))


def test_evaluation_is_split_over_ranks_in_equal_numbers_of_batches(make_packed):
    dataset = make_packed(23)
    parts = []
    for rank in range(3):
        with open_loader(dataset, 2, rank=rank, world=3, shuffle=False, threads=1) as loader:
            parts.append([batch.ids_B.tolist() for batch in loader])
    assert len({len(part) for part in parts}) == 1
    assert sorted(id for part in parts for ids in part for id in ids if id >= 0) == list(range(23))


def test_a_damaged_record_reaches_the_caller_by_name(make_packed, name, device):
    dataset = make_packed(23, beton=name == "ffcv")
    path = dataset.path / ("data.beton" if name == "ffcv" else "shard-000000.tar")
    needle = bytes(dataset.jpeg(5))
    dataset.close()
    data = bytearray(path.read_bytes())
    start = data.find(needle) + len(needle) // 2
    data[start : start + 8] = bytes(8)
    path.write_bytes(data)
    with open_loader(PackedDataset(dataset.path), 4, device=device, name=name, shuffle=False, threads=2) as loader:
        with pytest.raises(ValueError, match=r"record 000000000005 .* is damaged"):
            list(loader)
        with pytest.raises(ValueError, match=r"record 000000000005 .* is damaged"):
            next(loader)  # and again, not a hang


def test_a_record_that_cannot_be_decoded_reaches_the_caller(dataset, name, device, monkeypatch):
    """Right checksum, wrong bytes: what a faulty writer would leave."""
    if name == "ffcv":
        pytest.skip("FFCV reports no decoding errors; its bytes are compared with the index instead")
    monkeypatch.setattr(PackedDataset, "jpeg", lambda self, i: memoryview(b"\xff\xd8 nonsense"))
    with (
        open_loader(dataset, 4, device=device, name=name, threads=2) as loader,
        pytest.raises(ValueError, match=r"record 0000000000"),
    ):
        next(loader)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Error in MIXED operator: CUDA allocation failed", RuntimeError, r"^Error in MIXED"),
        ("Error in GPU operator: Can't allocate 637534208 bytes on device 0.", RuntimeError, r"^Error in GPU"),
        ("nvJPEG error: NVJPEG_STATUS_ALLOCATOR_FAILURE", RuntimeError, r"^nvJPEG"),
        ("nvJPEG error: NVJPEG_STATUS_BAD_JPEG", ValueError, r"DALI failed on a batch of .*000000000.*BAD_JPEG"),
    ],
)
def test_dali_out_of_memory_is_not_laid_on_the_images(make_packed, monkeypatch, text, kind, message):
    need("dali")
    from nvidia.dali import Pipeline

    def run(self):
        real(self)
        raise RuntimeError(text)

    real = Pipeline.run
    monkeypatch.setattr(Pipeline, "run", run)
    with open_loader(make_packed(23), 4, name="dali") as loader, pytest.raises(kind, match=message) as caught:
        next(loader)
    assert caught.type is kind


def test_a_record_of_another_size_than_the_index_says_is_refused(dataset, name, device):
    """What a faulty writer of indices would leave: not padded, not cut, named."""
    if name == "ffcv":
        pytest.skip("FFCV decodes by the sizes of its own metadata, which are under the checksum of the structure")
    dataset.sizes_N2[5] += (-1, 2)
    with (
        open_loader(dataset, 4, device=device, name=name, shuffle=False, threads=2) as loader,
        pytest.raises(ValueError, match=r"record 000000000005 .* is 18x100 where the index says another size"),
    ):
        list(loader)


def test_an_exception_in_the_loading_thread_is_raised_not_waited_for(dataset, name, device, monkeypatch):
    def fail(self, i):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(PackedDataset, "target", fail)
    with (
        open_loader(dataset, 4, device=device, name=name, threads=2) as loader,
        pytest.raises(RuntimeError, match="no such luck"),
    ):
        next(loader)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_taken_while_the_callers_stream_is_busy(dataset, name):
    """Nothing that a batch needs may be reused before the copies queued behind a long kernel have happened."""
    kept = []
    with open_loader(dataset, 4, device="cuda", name=name, shuffle=False, threads=2) as loader:
        torch.cuda._sleep(2_000_000_000)  # about a second
        for batch in loader:
            kept.append(batch)
    torch.cuda.synchronize()
    assert len(kept) == 7
    for batch in kept:
        check_batch(batch, dataset, tolerance_of(name, "cuda"))


@pytest.mark.ffcv
@pytest.mark.slow
def test_ffcv_errors_do_not_hang(beton_path, monkeypatch):
    """FFCV's own thread would die and leave its caller waiting for ever."""
    import pipeline.loading.ffcv as module

    dataset = PackedDataset(beton_path)

    class Broken:
        def __init__(self, _steps):
            pass

        def __iter__(self):
            return self

        def __next__(self):
            raise RuntimeError("order is broken")

    make = module.make_iterator
    monkeypatch.setattr(module, "make_iterator", lambda loader, steps, taken: make(loader, Broken(steps), taken))
    with (
        open_loader(dataset, 4, name="ffcv", threads=2) as loader,
        pytest.raises(RuntimeError, match="order is broken"),
    ):
        next(loader)


@pytest.mark.ffcv
def test_beton_is_checked_before_ffcv_trusts_it(make_packed):
    need("ffcv")
    dataset = make_packed(9, beton=True)
    path = dataset.path / "data.beton"
    whole = path.read_bytes()
    for position in (20, 5400, len(whole) - 3):  # header, metadata, allocation table
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"data.beton is damaged or of another packing"):
            open_loader(dataset, 4, name="ffcv")
    path.unlink()
    with pytest.raises(
        ValueError, match=r"has no data.beton for the loader 'ffcv'; run its pack command again with --beton"
    ):
        open_loader(dataset, 4, name="ffcv")


@pytest.mark.ffcv
def test_importing_ffcv_leaves_torchs_threads_alone(make_packed):
    need("ffcv")
    before = torch.get_num_threads()
    make_packed(3, beton=True)
    assert torch.get_num_threads() == before


def resources() -> tuple[int, int, int]:
    process = psutil.Process()
    return process.num_threads(), process.num_fds(), len(process.children(recursive=True))


def memory_in_use() -> int:
    """Bytes, after the C library has given back what it only keeps for later (a batch's worth for every thread)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


@pytest.mark.long
def test_fifty_rounds_of_opening_and_closing_leave_nothing(make_packed, name, device):
    """Two datasets in turn, batches of 7 MB: one batch kept in each round would be 90 MB in each quarter.

    The C library keeps some freed batches in each thread's own heap, up to a bound: memory leaks if every quarter adds.
    """
    large = {"sizes": [(576, 1024)], "short_side": 576, "long_side": 1024, "beton": name == "ffcv"}
    paths = []
    for title in ("first", "second"):
        with make_packed(8, name=title, **large) as made:
            paths.append(made.path)

    def round(number: int) -> None:
        with (
            PackedDataset(paths[number % 2]) as opened,
            open_loader(opened, 4, device=device, name=name, threads=2, shuffle=number % 4 < 2) as loader,
        ):
            for _ in range(number % 3):
                next(loader)

    for number in range(12):  # libraries keep pools of their own after the first uses
        round(number)
    memory, before = [memory_in_use()], resources()
    reserved = torch.cuda.memory_allocated() if device == "cuda" else 0
    for _ in range(4):
        for number in range(13):
            round(number)
        memory.append(memory_in_use())
    grown = min(later - earlier for earlier, later in itertools.pairwise(memory))
    after = resources()
    assert after[1:] == before[1:], "files or processes were left open"
    assert after[0] <= before[0], "threads were left"
    assert grown < 24 << 20, f"memory grew by {grown >> 20} MB and more in every 13 rounds"
    if device == "cuda":
        assert torch.cuda.memory_allocated() <= reserved
    assert not [thread for thread in threading.enumerate() if "loader" in thread.name or "decode" in thread.name]
    mapped = [entry.path for entry in psutil.Process().memory_maps() if str(paths[0].parent) in entry.path]
    assert mapped == [], "files are still mapped"


def test_collecting_a_loader_never_waits(make_packed):
    """The collector may run in a thread that holds what the loader's own threads are waiting for."""
    dataset = make_packed(9)
    with dataset._lock:
        held = [open_loader(dataset, 4, threads=2)]
        thread = held[0]._producer
        dropping = threading.Thread(target=lambda: (held.clear(), gc.collect()), daemon=True)
        dropping.start()
        dropping.join(timeout=60)
        assert not dropping.is_alive()
        assert thread.is_alive()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_loader_that_is_forgotten_ends_its_threads(make_packed):
    loader = open_loader(make_packed(9), 4, threads=2)
    next(loader)
    thread = loader._producer
    del loader
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_closing_while_another_thread_waits_ends_the_wait(make_packed):
    loader = open_loader(make_packed(9), 4, threads=1)
    waiter = threading.Thread(target=lambda: deque(loader, maxlen=0), daemon=True)  # for ever, if nobody closed it
    waiter.start()
    loader.close()
    waiter.join(timeout=60)
    assert not waiter.is_alive()
    loader.close()  # twice is fine


def test_waiting_is_counted(make_packed, monkeypatch):
    import time

    slow = PackedDataset.jpeg
    monkeypatch.setattr(PackedDataset, "jpeg", lambda self, i: (time.sleep(0.05), slow(self, i))[1])
    with open_loader(make_packed(9), 4, threads=1) as loader:
        next(loader)
        assert loader.wait_seconds > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dalli"}, r"loader 'dalli': expected auto, cpu, dali, ffcv \(nearest: dali\)"),
        ({"batch_size": 0}, "out of range"),
        ({"rank": 2, "world": 2}, "out of range"),
        ({"cursor": 10**9}, "cursor 1000000000 is outside an epoch"),
        ({"threads": 0}, "expected at least 1"),
        ({"prefetch": 0}, "expected at least 1"),
        ({"hardware_share": 0.5}, "the loader dali on a GPU"),
    ],
)
def test_options_that_are_wrong(make_packed, options, message):
    with pytest.raises(ValueError, match=message):
        open_loader(make_packed(9), **{"batch_size": 4, **options})


def test_the_default_loader(make_packed):
    with open_loader(make_packed(9), 4) as loader:
        assert loader.name == "cpu"


def test_auto_takes_dali_on_a_gpu_where_it_is_installed(monkeypatch):
    gpu = torch.device("cuda")
    for installed, loader, said in (
        (True, "dali", "loader dali,"),
        (False, "cpu", "loader cpu (DALI is not installed)"),
    ):
        monkeypatch.setattr(pipeline.loading.loader, "dali_imports", lambda installed=installed: installed)
        assert choose_loader("auto", gpu) == loader
        assert said in describe_machine(gpu, "auto")
        assert choose_loader("auto", torch.device("cpu")) == "cpu"
        assert "loader ffcv," in describe_machine(gpu, "ffcv")
    with pytest.raises(ValueError, match="loader 'dalli': expected auto, cpu, dali, ffcv"):
        choose_loader("dalli", gpu)
