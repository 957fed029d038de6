"""pack.py: what is written, that it depends on the input alone, and that a kill costs nothing that was finished."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tyro
from PIL import Image

from pipeline.command.console import track
from pipeline.pack import PackOptions, pack, plan_shards
from pipeline.packed.reader import PackedDataset
from pipeline.sources import diverse_weather
from pipeline.sources.classes import split_names
from pipeline.sources.read import read_source


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def options(make_voc, tmp_path) -> PackOptions:
    """40 images in 8 shards; not run yet."""
    images = {f"i{n:02d}": ((40 + n, 61), [("car", 1, 1, 61, 40 + n)]) for n in range(40)}
    root = make_voc(images)
    return PackOptions(
        root, tmp_path / "out", classes=("car",), short_side=30, long_side=60, workers=1, images_per_shard=5
    )


def test_shards_are_plain_webdataset_tars_and_the_index_points_into_them(options):
    pack(options)
    index = pq.read_table(options.out / "index.parquet").to_pylist()
    assert [row["id"] for row in index] == list(range(40))
    for row in index:
        tar = options.out / f"shard-{row['shard']:06d}.tar"
        with tarfile.open(tar) as archive:
            member = archive.getmember(f"{row['id']:012d}.jpg")
            assert (member.offset_data, member.size) == (row["offset"], row["length"])
            words = json.load(archive.extractfile(f"{row['id']:012d}.json"))
            jpeg = archive.extractfile(member).read()
        assert Image.open(io.BytesIO(jpeg)).size == (row["width"], row["height"])
        assert words["objects"] == [{"class": "car", "label": 1, "box": row["boxes"][0], "ignore": False}]
        assert words["original_height"] == 40 + row["id"]
        assert row["boxes"] == [[0, 0, row["width"], row["height"]]]
        assert row["original_boxes"] == [[0, 0, 61, 40 + row["id"]]]
    assert not (options.out / ".work").exists()


def test_a_relative_folder_may_have_a_colon(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("2026-11-28 22:08")
    pack(replace(options, out=out))
    with PackedDataset(out) as dataset:
        assert len(dataset) == 40


def test_webdataset_itself_reads_the_shards(options):
    webdataset = pytest.importorskip("webdataset")
    pack(options)
    urls = sorted(str(path) for path in options.out.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 40
    assert samples[3]["json"]["id"] == 3
    assert samples[3]["jpg"].size == (samples[3]["json"]["width"], samples[3]["json"]["height"])


def test_bytes_do_not_depend_on_workers_parts_or_place(options, tmp_path):
    pack(options)
    one = files(options.out)
    pack(replace(options, out=tmp_path / "elsewhere" / "other name", workers=3))
    assert files(tmp_path / "elsewhere" / "other name") == one
    parts = replace(options, out=tmp_path / "parts" / "out")
    with pytest.raises(ValueError, match=r"8 of 8 shards are not made yet or damaged .* run every --part first"):
        pack(replace(parts, merge=True))
    for number in (3, 1, 2):
        assert pack(replace(parts, part=f"{number}/3")) == []
        assert not (parts.out / "dataset.json").exists()
    tar = parts.out / "shard-000004.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    with pytest.raises(ValueError, match=r"1 of 8 shards are not made yet or damaged \(shard-000004.tar\)"):
        pack(replace(parts, merge=True))
    pack(replace(parts, part="2/3"))
    pack(replace(parts, merge=True))
    assert files(parts.out) == one


READ_A_SHARD = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from pipeline.packed.shards import ShardJob, read_shard
job = ShardJob(sys.argv[1], 0, (), None, ("car",), "of this run")
job.table.parent.mkdir()
note = {b"fairweather": b'{"fingerprint": "of another run"}'}
pq.write_table(pa.table({name: ["words"] * 9 for name in "abcd"}).replace_schema_metadata(note), job.table)
before = len(os.listdir("/proc/self/task"))
assert read_shard(job, verify=False) is None
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_a_shards_table_is_read_by_no_other_thread(tmp_path):
    """One that gave its bytes back while Python ended aborted the process: one packing in 30, four at a time."""
    command = [sys.executable, "-c", READ_A_SHARD, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.long
def test_a_killed_run_continues_without_redoing_finished_shards(options, tmp_path):
    """SIGKILL while shards are being made: no dataset yet; the next run keeps what was finished, to the same bytes."""
    whole = replace(options, out=tmp_path / "whole" / "out")
    pack(whole)
    command = [sys.executable, "-m", "pipeline.pack", str(options.root), str(options.out), "--classes", "car"]
    command += ["--short-side", "30", "--long-side", "60", "--images-per-shard", "5", "--workers", "2"]
    slow = tmp_path / "slow" / "sitecustomize.py"  # each decode takes a while, so that the kill lands in the middle
    slow.parent.mkdir()
    slow.write_text(
        "import time, pipeline.files.pixels as p\nfast = p.resize\n"
        "def resize(*a):\n time.sleep(0.3)\n return fast(*a)\np.resize = resize\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(slow.parent)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while len(list(options.out.glob(".work/*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
    process.wait()
    for _ in range(600):
        alive = subprocess.run(
            ["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        if not alive:
            break
        time.sleep(0.1)
    assert not alive, "a worker outlived its killed parent"
    assert not (options.out / "dataset.json").exists()
    with pytest.raises(ValueError, match="its packing is unfinished: run the same"):
        PackedDataset(options.out)
    finished = {path.name: path.stat().st_mtime_ns for path in options.out.glob(".work/*.parquet")}
    assert 2 <= len(finished) < 8
    kept = {name: (options.out / name.replace(".parquet", ".tar")).stat().st_mtime_ns for name in finished}
    pack(options)
    assert {name: (options.out / name.replace(".parquet", ".tar")).stat().st_mtime_ns for name in kept} == kept
    assert files(options.out) == files(whole.out)


def test_a_shard_that_is_half_there_is_made_again(options, tmp_path):
    """Every state a kill can leave: a temporary file, a tar without its table, a cut table, a table of another run."""
    pack(options)
    whole = files(options.out)
    (options.out / "dataset.json").unlink()
    work = options.out / ".work"
    work.mkdir()
    (work / "begun").touch()
    (work / "shard-000001.tar.123.tmp").write_bytes(b"half")
    (work / "shard-000002.parquet").write_bytes(b"PAR1")
    (options.out / "shard-000003.tar").write_bytes(b"")
    flipped = bytearray((options.out / "shard-000004.tar").read_bytes())
    flipped[700] ^= 1
    (options.out / "shard-000004.tar").write_bytes(flipped)
    (options.out / "shard-000099.tar").write_bytes(b"of an older, larger run")
    pack(options)
    assert files(options.out) == whole


def test_a_strangers_folder_is_left_alone(options, make_voc, tmp_path):
    """A tar of somebody else's with our shards' name, and a file called dataset.json that is not ours."""
    for name, text in (
        ("shard-000000.tar", "theirs"),
        ("dataset.json", '{"format": "theirs"}'),
        ("dataset.json", "[]"),
    ):
        folder = tmp_path / f"theirs-{len(text)}"
        folder.mkdir()
        (folder / name).write_text(text)
        (folder / ".work").mkdir()
        (folder / ".work" / "notes.txt").write_text("theirs too")
        before = files(folder)
        with pytest.raises(ValueError, match=rf"not begun by this command.*{name}.*choose an empty folder"):
            pack(replace(options, out=folder))
        assert files(folder) == before
    (tmp_path / "empty" / ".work").mkdir(parents=True)  # killed before its first file
    assert len(pack(replace(options, out=tmp_path / "empty"))) == 1
    root = tmp_path / "bench"  # of the benchmark every part has a folder of its own inside OUT
    make_voc({"a": ((20, 30), [])}, root=root / "daytime_clear/VOC2007")
    out = tmp_path / "benchout"
    (out / "daytime_clear_train").mkdir(parents=True)
    (out / "daytime_clear_train" / "index.parquet").write_text("theirs")
    with pytest.raises(ValueError, match="daytime_clear_train is not empty and was not begun"):
        pack(PackOptions(root, out, workers=1))
    (out / "daytime_clear_train" / "index.parquet").rename(out / "notes.txt")
    pack(PackOptions(root, out, workers=1))
    assert (out / "notes.txt").read_text() == "theirs"


def test_merging_into_a_mistyped_folder_makes_nothing_there(options, tmp_path):
    with pytest.raises(ValueError, match="run every --part first"):
        pack(replace(options, out=tmp_path / "mistyped", merge=True))
    assert not (tmp_path / "mistyped").exists()


def test_a_picture_changed_after_packing_is_noticed_whatever_its_size_in_bytes(options, tools, capsys):
    picture = options.root / "JPEGImages/i00.bmp"
    tools.save(picture, tools.draw(40, 61, seed=1))
    picture.with_suffix(".jpg").unlink()
    pack(options)
    picture.touch()
    pack(options)  # touched, not changed
    assert "is already packed" in capsys.readouterr().out
    size = picture.stat().st_size
    tools.save(picture, tools.draw(40, 61, seed=2))
    assert picture.stat().st_size == size
    with pytest.raises(ValueError, match=r"i00.bmp was changed after .* was packed; delete"):
        pack(options)


def test_every_problem_is_in_a_file_when_the_message_shows_forty(options):
    """Found by reading, and found by decoding; parts on several machines write lists of their own."""
    pictures = sorted((options.root / "JPEGImages").iterdir())
    for path in pictures[:20]:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"^20 problems in ") as short:
        pack(options)
    assert "lists them all" not in str(short.value)
    assert (options.out / "problems.txt").read_text().count("\n") == 20
    objects = "<object><name>car</name></object>" * 50
    (options.root / "Annotations/i30.xml").write_text(f"<annotation>{objects}</annotation>")
    message = r"(?s)^{} problems in .*\.\.\. and {} more; {} lists them all"
    with pytest.raises(ValueError, match=message.format(50, 10, options.out / "problems.txt")):
        pack(options)
    assert (options.out / "problems.txt").read_text().count("\n") == 50
    with pytest.raises(ValueError, match=message.format(70, 30, options.out / "problems.txt")):
        pack(replace(options, allow_bad=60))
    assert (options.out / "problems.txt").read_text().count("\n") == 70
    (options.out / "problems.txt").unlink()
    pack(replace(options, allow_bad=70, part="1/2"))
    assert not (options.out / "problems.txt").exists()
    assert (options.out / ".work/problems-1-of-2.txt").read_text().count("\n") == 60
    pack(replace(options, allow_bad=70))
    assert (options.out / "problems.txt").read_text().count("\n") == 70
    assert not (options.out / ".work").exists()


def test_the_users_files_are_not_changed(options):
    def state() -> dict[Path, tuple[bytes, int, int]]:
        found = [path for path in options.root.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) for path in found}

    before = state()
    pack(options)
    pack(options)
    assert state() == before


def test_a_changed_picture_remakes_its_shard_alone(options, tools):
    half = replace(options, part="1/2")
    pack(half)
    before = {path.name: path.stat().st_mtime_ns for path in options.out.glob("*.tar")}
    assert len(before) == 4
    tools.save(options.root / "JPEGImages/i00.jpg", tools.draw(40, 61, seed=99))
    pack(half)
    after = {path.name: path.stat().st_mtime_ns for path in options.out.glob("*.tar")}
    assert [name for name in before if before[name] != after[name]] == ["shard-000000.tar"]


def test_packing_twice_says_so_and_other_options_are_refused(options, capsys):
    pack(options)
    stamp = (options.out / "dataset.json").stat().st_mtime_ns
    pack(options)
    printed = capsys.readouterr().out
    assert "is already packed from the same images and options" in printed
    assert printed.startswith(f"{options.root} is read as voc: {len(PackedDataset(options.out))} images, JPEGImages ")
    assert (options.out / "dataset.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"packed dataset of other images or options \(quality 92 there, 50 now\)"):
        pack(replace(options, quality=50))
    with pytest.raises(ValueError, match=r"options \(other domains\): delete it"):
        pack(replace(options, domain="elsewhere"))
    with pytest.raises(ValueError, match=r"options \(classes \['car'\] there, \['bus', 'car'\] now\): delete it"):
        pack(replace(options, classes=("bus", "car")))


def test_a_dataset_of_the_one_unnamed_hash_is_still_compared(options, capsys):
    """As packed before the fields of the fingerprint had names."""
    pack(options)
    path = options.out / "dataset.json"
    source = read_source(options.root, classes=options.classes)
    card = json.loads(path.read_text()) | {"fingerprint": plan_shards(source, options).unnamed}
    del card["checksum"]
    path.write_text(json.dumps(card))
    pack(options)
    assert "is already packed from the same images and options" in capsys.readouterr().out
    with pytest.raises(ValueError, match="packed by an older version, which did not note what of"):
        pack(replace(options, quality=50))
    for damaged in (None, 3, []):
        path.write_text(json.dumps(card | {"fingerprint": damaged}))
        with pytest.raises(ValueError, match="its fingerprint is damaged"):
            pack(options)


def test_ffcv_is_missed_before_anything_is_packed(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv", None)
    monkeypatch.delitem(sys.modules, "ffcv.pipeline.compiler", raising=False)
    with pytest.raises(ValueError, match=r"--beton need FFCV .*pip install -c constraints.txt -e '\.\[ffcv\]'"):
        pack(replace(options, beton=True))
    assert not options.out.exists()


def test_options_that_take_several_names(options):
    """--drop a b, --drop a --drop b and --drop a,b are the same, as for --split and --map."""
    root, out = map(str, (options.root, options.out))
    for words in (["a", "b c", "d"], ["a,b c", "--drop", "d"], ["a", "--drop", "b c,d"]):
        parsed = tyro.cli(PackOptions, args=[root, out, "--drop", *words, "--split", "train", "val"])
        assert split_names(parsed.drop) == ("a", "b c", "d")
        assert split_names(parsed.split) == ("train", "val")
        assert parsed.map == ()


def test_no_bar_when_there_is_nothing_to_go_through(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track([], "comparing", 0)) == []
    assert capsys.readouterr().err == ""
    assert list(track([7], "comparing", 1)) == [7]
    assert "comparing" in capsys.readouterr().err


def test_bad_pictures_are_found_together_and_skipped_only_when_allowed(options):
    pictures = options.root / "JPEGImages"
    for name in ("i03", "i17"):
        data = (pictures / f"{name}.jpg").read_bytes()
        (pictures / f"{name}.jpg").write_bytes(data[:-9])
    (options.root / "Annotations/i20.xml").unlink()
    with pytest.raises(
        ValueError,
        match=r"(?s)^1 problem in .*voc, 0 allowed \(allowing all: 1 image left out\):.*i20.xml: is m.*--allow-bad 1",
    ):
        pack(options)
    with pytest.raises(
        ValueError,
        match=r"(?s)^3 problems .* 2 allowed .* 3 images left out\).*i20.xml.*i03.jpg: cannot.*i17.jpg.*--allow-bad 3",
    ):
        pack(replace(options, allow_bad=2))
    assert not (options.out / "dataset.json").exists()
    pack(replace(options, allow_bad=3))
    dataset = PackedDataset(options.out)
    assert sorted(dataset.ids_N) == [n for n in range(40) if n not in (3, 17, 20)]
    assert dataset.info["skipped"]["bad images"] == 3
    listed = (options.out / "problems.txt").read_text()
    assert listed.count("\n") == 3
    assert "JPEGImages/i03.jpg: cannot be decoded (Premature end of JPEG file)" in listed
    assert "[the image is left out]" in listed


@pytest.mark.ffcv
@pytest.mark.slow
def test_a_kill_while_the_beton_is_written_leaves_nothing_behind(options, tmp_path, capsys):
    pytest.importorskip("ffcv", reason="FFCV is not installed", exc_type=ImportError)
    pack(options)
    before = files(options.out)
    slow = tmp_path / "slow" / "sitecustomize.py"
    slow.parent.mkdir()
    slow.write_text(
        "import time, pipeline.packed.beton as b\nfast = b.PagedWriter.add\n"
        "def add(*a):\n time.sleep(0.1)\n return fast(*a)\nb.PagedWriter.add = add\n"
    )
    command = [sys.executable, "-m", "pipeline.pack", str(options.root), str(options.out), "--classes", "car"]
    command += ["--short-side", "30", "--long-side", "60", "--images-per-shard", "5", "--beton"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(slow.parent)}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not list(options.out.glob(".work/data.beton.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = {name for name in files(options.out) if name not in before}
    assert left
    assert all(name.startswith(".work/") for name in left)
    assert len(PackedDataset(options.out)) == 40  # what was finished stays readable
    capsys.readouterr()
    pack(replace(options, beton=True))
    assert "is already packed from the same images and options; adding data.beton\n" in capsys.readouterr().out
    assert set(files(options.out)) == {*before, "data.beton"}


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_goes_on_within_a_shard(options, monkeypatch, workers):
    """Two shards of 20 images: 40 in all."""
    steps = []

    def advance(self, count=1, note=""):
        if self.description.startswith("packing"):
            steps.append(count)

    monkeypatch.setattr("pipeline.pack.SHOW_EVERY_S", 0.001)
    monkeypatch.setattr("pipeline.pack.Progress.advance", advance)
    pack(replace(options, workers=workers, images_per_shard=20))
    assert sum(steps) == 40
    if workers == 1:  # processes are looked at now and then
        assert steps == [1] * 40


def test_a_worker_that_dies_is_an_error_not_a_hang(options, monkeypatch, tmp_path):
    killer = tmp_path / "killer" / "sitecustomize.py"
    killer.parent.mkdir()
    killer.write_text("import os, pipeline.files.pixels as p\np.resize = lambda *a: os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(killer.parent))
    with pytest.raises(ValueError, match=r"a worker process died.*run the same command again"):
        pack(replace(options, workers=2))
    monkeypatch.delenv("PYTHONPATH")
    pack(options)
    assert len(PackedDataset(options.out)) == 40


def test_a_worker_that_raises_is_raised_here(options, monkeypatch, tmp_path):
    fault = tmp_path / "fault" / "sitecustomize.py"
    fault.parent.mkdir()
    fault.write_text(
        "import pipeline.files.pixels as p\n"
        "def resize(*a):\n raise OSError(28, 'No space left on device')\np.resize = resize\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fault.parent))
    with pytest.raises(OSError, match="No space left"):
        pack(replace(options, workers=2))
    assert not list(options.out.glob(".work/*.tmp"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_side": 0}, "1 <= short <= long"),
        ({"short_side": 900, "long_side": 600}, "1 <= short <= long"),
        ({"quality": 101}, "--quality 101: expected 1 to 100"),
        ({"part": "4/3"}, "--part 4/3: expected i/n"),
        ({"part": "1"}, "--part 1: expected i/n"),
        ({"part": "1/2", "merge": True}, "use one of the two"),
        ({"part": "1/2", "beton": True}, "--beton belongs to the last step"),
        ({"workers": -1}, "--workers -1: expected 0 or more"),
        ({"raw": True, "quality": 50}, "--quality and --chroma are for JPEG and --raw stores none"),
    ],
)
def test_options_that_are_wrong(options, changes, message):
    with pytest.raises(ValueError, match=message):
        pack(replace(options, **changes))


def test_the_output_may_not_hold_the_source(options):
    for out in (options.root, options.root.parent):
        with pytest.raises(ValueError, match="holds the source"):
            pack(replace(options, out=out))
    with pytest.raises(ValueError, match="is inside the source"):
        pack(replace(options, out=options.root / "packed"))


def test_raw_keeps_every_pixel(options, tools):
    tools.save(options.root / "JPEGImages/i00.png", tools.draw(40, 61))
    (options.root / "JPEGImages/i00.jpg").unlink()
    pack(replace(options, raw=True, short_side=40, long_side=61))
    dataset = PackedDataset(options.out)
    from pipeline.files.pixels import decode_packed

    np.testing.assert_array_equal(decode_packed(dataset.jpeg(0)), tools.draw(40, 61))
    with tarfile.open(options.out / "shard-000000.tar") as archive:
        assert np.asarray(Image.open(archive.extractfile("000000000000.ppm"))).shape == (40, 61, 3)


# --- the diverse-weather benchmark ---


def test_benchmark_layouts_become_one_dataset_for_every_scored_part(make_voc, tmp_path, capsys):
    root = tmp_path / "bench"
    image = {"a": ((20, 30), [("car", 1, 1, 9, 9)])}
    for folder in ("Daytime_Sunny/daytime_clear", "Night-Clear", "dusk_rainy", "Daytime-Foggy/daytime_foggy"):
        make_voc(image, root=root / folder / "VOC2007")
    make_voc(
        {"b": ((20, 30), [("person", 1, 1, 9, 9)])}, split="test", root=root / "Daytime_Sunny/daytime_clear/VOC2007"
    )
    made = pack(PackOptions(root, tmp_path / "out", workers=1))
    names = [
        "daytime_clear_train",
        "daytime_clear_test",
        "night_sunny_train",
        "dusk_rainy_train",
        "daytime_foggy_train",
    ]
    assert [path.name for path in made] == names
    night = PackedDataset(tmp_path / "out" / "night_sunny_train")
    assert night.classes == ("bus", "bike", "car", "motor", "person", "rider", "truck")
    assert night.domains == ["night_sunny"]
    assert night.target(0)[1].tolist() == [3]
    text = capsys.readouterr().out
    assert "night_sunny_train: DIFFERS from the counts published" in text
    assert "images 1 (published 26158)" in text
    assert "car 1 (published 241616)" in text
    (root / "world.json").write_text("{}")  # our own sample world, which nobody published counts of
    pack(PackOptions(root, tmp_path / "out", workers=1))
    assert "published" not in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"is not a packed dataset.*it holds packed datasets: say which \(daytime_clear_test"
    ):
        PackedDataset(tmp_path / "out")


def test_every_domain_is_read_before_the_first_is_packed(make_voc, tmp_path):
    root = tmp_path / "bench"
    for folder in ("daytime_clear", "night_sunny"):
        make_voc({"a": ((20, 30), [("car", 1, 1, 9, 9)])}, root=root / folder / "VOC2007")
    with pytest.raises(ValueError, match=r"--split val: .* has train"):
        pack(PackOptions(root, tmp_path / "out", split=("train", "val"), workers=1))
    (root / "night_sunny/VOC2007/Annotations/a.xml").unlink()
    with pytest.raises(ValueError, match=r"(?s)^1 problem in .*night_sunny.*1; decoding .* may find more$"):
        pack(PackOptions(root, tmp_path / "out", workers=1))
    assert not (tmp_path / "out").exists()


def test_comparison_with_the_published_counts():
    counts = dict(zip(diverse_weather.CLASSES, (820, 322, 34240, 110, 5144, 169, 2235), strict=True))
    assert diverse_weather.compare("dusk_rainy_train", 3501, counts) == [
        "dusk_rainy_train: all counts equal those published for the benchmark"
    ]
    counts["car"] -= 1
    (line,) = diverse_weather.compare("dusk_rainy_train", 3501, counts)
    assert line.endswith("car 34239 (published 34240), all objects 43039 (published 43040)")
    assert diverse_weather.compare("elsewhere", 1, counts) == []
    assert diverse_weather.compare("daytime_clear_train", 19395, counts) == [
        "daytime_clear_train: the number of images equals the one published for the benchmark"
    ]
    assert sum(diverse_weather.PUBLISHED["daytime_clear_test"].objects) == 116785
    assert sum(diverse_weather.PUBLISHED["night_sunny_train"].objects) == 268963
    assert sum(diverse_weather.PUBLISHED["night_rainy_train"].objects) == 24175
    assert sum(diverse_weather.PUBLISHED["daytime_foggy_train"].objects) == 64406


def test_the_report_counts_by_class_and_size(make_voc, tmp_path, capsys):
    root = make_voc(
        {
            "a": (
                (200, 200),
                [("car", 1, 1, 31, 32), ("car", 1, 1, 32, 32), ("bus", 1, 1, 96, 96), ("bus", 1, 1, 9, 9, 1)],
            ),
            "b": ((100, 50), []),
        }
    )
    (out,) = pack(PackOptions(root, tmp_path / "out", classes=("bus", "car", "van"), workers=1))
    objects = PackedDataset(out).info["objects"]
    assert objects["car"] == {"small": 1, "medium": 1, "large": 0, "ignored": 0}
    assert objects["bus"] == {"small": 0, "medium": 0, "large": 1, "ignored": 1}
    assert objects["van"] == {"small": 0, "medium": 0, "large": 0, "ignored": 0}
    text = capsys.readouterr().out
    assert "2 images (1 without objects)" in text
    assert "landscape 608x608, portrait 1024x512" in text


def test_names_that_a_card_could_not_hold(make_voc, tmp_path):
    """A folder's name becomes a domain's as it is printed; a class's is refused at once."""
    root = make_voc({"a": ((20, 30), [("car", 1, 1, 9, 9)])}, root=tmp_path / "two\nlines")
    (path,) = pack(PackOptions(root, tmp_path / "out", classes=("car",), workers=1))
    assert PackedDataset(path).domains == ["two\\nlines"]
    with pytest.raises(ValueError, match=r"--classes 'a\\nb' has a control character"):
        pack(PackOptions(root, tmp_path / "other", classes=("a\nb",), workers=1))
