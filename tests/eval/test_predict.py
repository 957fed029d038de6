"""eval.predict on files, folders, globs and films; what cannot be read is named and skipped, as the exit code says."""

import json
import os
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from eval import predict
from eval.examples import film as film_module
from eval.examples.draw import draw_boxes, place_labels
from eval.examples.film import FilmWriter, describe_encoder, h264_encoder, is_stream
from eval.predict import PredictOptions, find_inputs, main, open_predictor
from model.dense.config import GflConfig
from model.detectors import new_detector
from model.weights.checkpoint import save_detector


def call(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return main()


def sized(scored, inputs, out, *more):
    return [scored.checkpoint, *inputs, "--out", out, "--short-side", 64, "--long-side", 96, "--score", 0.1, *more]


@pytest.fixture
def pictures(scored, tmp_path):
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    source = scored.sources["night_rainy"] / "images"
    for number in range(3):
        image = Image.open(source / f"{number}.png")
        image.save(folder / f"{number}.png")
    image.convert("L").save(tmp_path / "pictures" / "grey.jpg")
    return tmp_path / "pictures"


def test_a_folder_gives_drawings_and_boxes_in_original_pixels(scored, pictures, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert call(monkeypatch, *sized(scored, [pictures], out)) == 0
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["images"]) == 4
    assert content["skipped"] == []
    assert content["box_format"].startswith("[x, y, width, height] in pixels of the original")
    for entry in content["images"]:
        drawn = Image.open(entry["drawn"])
        assert drawn.size == (entry["width"], entry["height"])
        assert entry["detections"]
        scores = [item["score"] for item in entry["detections"]]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0.1
        for item in entry["detections"]:
            x, y, w, h = item["box"]
            assert 0 <= x <= x + w <= entry["width"] + 0.01
            assert 0 <= y <= y + h <= entry["height"] + 0.01
            assert item["class"] in content["classes"]
    before = np.asarray(Image.open(pictures / "deep" / "0.png").convert("RGB")).astype(int)
    after = np.asarray(Image.open(out / "deep" / "0.jpg")).astype(int)
    assert (abs(before - after).max(axis=2) > 60).mean() > 0.01


def test_nothing_found_is_told_with_what_can_be_done(pictures, tmp_path, monkeypatch, capsys):
    """An untrained GFL says 0.01 of everything, and keeps what is above its own 0.05."""
    config = GflConfig(backbone="resnet18", weights="none", fpn_channels=8, head_channels=8, norm_groups=0, num_convs=1)
    save_detector(tmp_path / "run", new_detector(config, 2), config, ("car",), {"short_side": 64, "long_side": 96})
    for score, hint in ((0.5, "a lower --score finds more"), (0.05, "the detector keeps no score below 0.05")):
        assert call(monkeypatch, tmp_path / "run", pictures, "--out", tmp_path / f"{score}", "--score", score) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("0 detections ")
        assert last.endswith(hint)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    assert call(monkeypatch, tmp_path / "run", tmp_path / "broken.jpg", "--out", tmp_path / "none") == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"in 0 files: {tmp_path / 'none'}")


def test_what_cannot_be_read_is_named_and_skipped(scored, pictures, tmp_path, monkeypatch, capsys):
    (pictures / "broken.jpg").write_bytes((pictures / "grey.jpg").read_bytes()[:200])
    (pictures / "film.mp4").write_bytes(b"not a film")
    for name in ("pipe.jpg", "pipe.mp4"):  # nobody writes to it: opening it would wait for ever
        os.mkfifo(pictures / name)
    os.mkfifo(tmp_path / "pipe.png")
    (pictures / "endless.jpg").symlink_to("/dev/zero")
    inputs = [pictures, tmp_path / "nowhere", tmp_path / "*.none", tmp_path / "pipe.png"]
    assert call(monkeypatch, *sized(scored, inputs, tmp_path / "out")) == 1
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 4
    assert len(content["skipped"]) == 8
    for name in ("broken.jpg", "film.mp4", "nowhere", "*.none"):
        assert name in printed
    for name in ("pipe.jpg", "pipe.mp4", "pipe.png", "endless.jpg"):
        assert f"{name}: is not a regular file" in printed
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("nowhere", "does not exist"),
        ("nowhere.jpg", "does not exist"),
        ("*.none", "no file matches"),
        ("empty", "the folder holds no image or video"),
    ):
        with pytest.raises(ValueError, match=f"nothing to look at: .*: {reason}$"):
            call(monkeypatch, *sized(scored, [tmp_path / name], tmp_path / "out"))


def test_an_input_is_never_overwritten(scored, pictures, monkeypatch):
    before = (pictures / "grey.jpg").read_bytes()
    with pytest.raises(ValueError, match="is one of the inputs and would be lost"):
        call(monkeypatch, *sized(scored, [pictures], pictures))
    assert (pictures / "grey.jpg").read_bytes() == before


def write_film(scored, path, num_frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (150, 100))
    source = cv2.imread(str(scored.sources["night_rainy"] / "images" / "0.png"))
    for number in range(num_frames):
        writer.write(cv2.resize(np.roll(source, 3 * number, axis=1), (150, 100)))
    writer.release()
    return path


def test_a_film_keeps_its_frames_size_and_rate(scored, tmp_path, monkeypatch):
    film = write_film(scored, tmp_path / "film.avi", 7)
    assert call(monkeypatch, *sized(scored, [film], tmp_path / "out", "--batch-size", 3)) == 0
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert len(entry["frames"]) == 7
    assert (entry["width"], entry["height"]) == (150, 100)
    assert all(entry["frames"])
    drawn = cv2.VideoCapture(entry["drawn"])
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(12, abs=0.1)
    count = 0
    while drawn.read()[0]:
        count += 1
    assert count == 7


def test_a_film_that_ends_early_is_named(scored, tmp_path, monkeypatch, capsys):
    """Cut in the middle: what could be read is kept, the exit code tells. Its header still promises all frames."""
    film = write_film(scored, tmp_path / "film.avi", 40)
    assert call(monkeypatch, *sized(scored, [film], tmp_path / "whole")) == 0
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    assert cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) == 40
    assert call(monkeypatch, *sized(scored, [film], tmp_path / "cut")) == 1
    assert "of about 40 frames could be read" in capsys.readouterr().out
    found = json.loads((tmp_path / "cut" / "predictions.json").read_text())
    assert 10 < len(found["images"][0]["frames"]) < 30
    assert len(found["skipped"]) == 1


def test_globs_and_equal_names_do_not_overwrite_each_other(pictures, tmp_path):
    files, missing = find_inputs((str(pictures / "**" / "*.png"), str(pictures / "deep"), str(pictures / "grey.jpg")))
    assert missing == []
    assert len(files) == 4
    (pictures / "grey.png").write_bytes((pictures / "deep" / "0.png").read_bytes())  # becomes a JPEG of the same name
    files, _ = find_inputs((str(pictures),))
    assert len({target for _, target in files}) == len(files) == 5
    other = tmp_path / "other"
    other.mkdir()
    (other / "grey.jpg").write_bytes((pictures / "grey.jpg").read_bytes())
    files, _ = find_inputs((str(pictures / "grey.jpg"), str(other / "grey.jpg")))
    assert [str(target) for _, target in files] == ["grey.jpg", "grey-2.jpg"]


def test_options_that_cannot_work_say_so(scored, tmp_path):
    options = PredictOptions(scored.checkpoint, ("a",), tmp_path, device="cpu")
    assert open_predictor(options).score == 0.3
    assert open_predictor(options).short_side == 600
    for changes, message in (
        ({"score": 1.5}, "--score 1.5"),
        ({"short_side": 100, "long_side": 50}, "--short-side 100"),
    ):
        with pytest.raises(ValueError, match=message):
            open_predictor(PredictOptions(scored.checkpoint, ("a",), tmp_path, device="cpu", **changes))
    assert predict.canvas_of((64, 97)) == (64, 128)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"--batch-size {size}: give 1 or more"):
            PredictOptions(scored.checkpoint, ("a",), tmp_path, batch_size=size)


def test_a_number_that_no_camera_has_is_named(scored, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="camera 99999999999999999999: no camera has such a number"):
        call(monkeypatch, *sized(scored, ["9" * 20], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_boxes_are_drawn_at_their_edges_and_outside_ones_do_no_harm():
    image = np.full((60, 80, 3), 90, np.uint8)
    boxes = np.array([[10.0, 20, 30, 25], [-50, -50, 10, 10], [70, 50, 40, 40]])
    drawn = draw_boxes(
        image, boxes, ["", "far <script>", "edge"], ["#ff0000", "#00ff00", "#0000ff"], [False, True, True]
    )
    assert (image == 90).all()
    assert drawn[32, 10].tolist()[0] > 150
    assert drawn[20, 25].tolist()[0] > 150
    assert drawn[32, 25].tolist() == [90, 90, 90]


def test_labels_hide_little_and_do_not_lie_on_each_other():
    size = (60, 16)
    alone = place_labels(np.array([[100.0, 100, 50, 50]]), [size], (300, 400))
    assert alone == [(100, 84)]  # above its box
    top = place_labels(np.array([[100.0, 2, 80, 50]]), [size], (300, 400))
    assert top == [(100, 53)]  # below it: above there is no room, and inside it would hide a quarter
    behind = np.array([[100.0, 100, 50, 50], [95, 80, 40, 15]])  # a small object above the box
    (left, place), _ = place_labels(behind, [size, None], (300, 400))
    assert not (place < 95 and place + 16 > 80 and left < 135), "the small object is hidden"
    generator = np.random.default_rng(0)
    crowd = np.concatenate([generator.uniform(0, 380, (200, 2)), generator.uniform(8, 30, (200, 2))], axis=1)
    places = place_labels(crowd, [size] * 200, (400, 400))
    shown = [(x, y, x + 60, y + 16) for x, y in filter(None, places)]
    assert 0 < len(shown) < 100
    for number, a in enumerate(shown):
        for b in shown[:number]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
        for x, y, w, h in crowd:
            hidden = max(min(a[2], x + w) - max(a[0], x), 0) * max(min(a[3], y + h) - max(a[1], y), 0)
            assert hidden <= 0.25 * w * h + 1e-6
    assert place_labels(np.empty((0, 4)), [], (10, 10)) == []
    assert place_labels(np.array([[0.0, 0, 0, 0]]), [size], (5, 5)) == [None]


def frames_of(path) -> tuple[int, str]:
    """(frames, codec) of a film."""
    film = cv2.VideoCapture(str(path))
    codec = int(film.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    count = 0
    while film.read()[0]:
        count += 1
    return count, codec


@pytest.mark.parametrize("h264", [False, pytest.param(True, marks=pytest.mark.long)])
def test_films_are_h264_where_ffmpeg_can(tmp_path, monkeypatch, h264):
    """Odd sides too, which H.264 cannot halve."""
    h264_encoder.cache_clear()
    if not h264:
        monkeypatch.setenv("PATH", str(tmp_path))
    elif h264_encoder() is None:
        pytest.skip("no ffmpeg with H.264 on this machine; Debian and Ubuntu: apt install ffmpeg")
    with FilmWriter(tmp_path / "a:b.mp4", 12.5, (81, 61)) as writer:
        for number in range(7):
            writer.write(np.full((61, 81, 3), 30 * number, np.uint8))
    assert frames_of(tmp_path / "a:b.mp4") == (7, "h264" if h264 else "FMP4")
    assert ("H.264 (" in describe_encoder()) == h264

    def write_nowhere() -> None:
        with FilmWriter(tmp_path / "none" / "a.mp4", 5, (8, 8)) as writer:
            for _ in range(100):
                writer.write(np.zeros((8, 8, 3), np.uint8))

    with pytest.raises(ValueError, match="cannot be written"):
        write_nowhere()
    h264_encoder.cache_clear()


def test_an_encoder_may_say_much(tmp_path, monkeypatch):
    """More than a pipe holds, before it reads a frame: both would wait for each other."""
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.write('x' * 300_000 + '\\nthe last line')\nsys.stderr.flush()\n"
        "sys.stdin.buffer.read()\nsys.exit(1)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(film_module, "h264_encoder", lambda: (str(program), "libx264"))

    def write() -> None:
        with FilmWriter(tmp_path / "a.mp4", 5, (300, 200)) as writer:
            for _ in range(3):
                writer.write(np.zeros((200, 300, 3), np.uint8))

    with pytest.raises(ValueError, match=r"cannot be written to .*: the last line"):
        write()


def test_an_animated_gif_is_a_film(scored, pictures, tmp_path, monkeypatch, capsys):
    frames = [Image.open(pictures / "deep" / "0.png").resize((90, 60)).rotate(k) for k in range(4)]
    frames[0].save(pictures / "deep" / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    for name in ("notes.txt", "more.TXT", "README"):
        (pictures / name).write_text("nothing to see")
    assert call(monkeypatch, *sized(scored, [pictures], tmp_path / "out")) == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    (film,) = [entry for entry in entries if "frames" in entry]
    assert (len(film["frames"]), film["frames_per_second"], film["width"]) == (4, 10.0, 90)
    assert frames_of(film["drawn"])[0] == 4
    printed = capsys.readouterr().out
    assert "3 files of other kinds (.txt 2, without a suffix 1)" in printed
    assert "films are written as" in printed


def test_a_stream_ends_where_it_is_told(scored, tmp_path, monkeypatch, capsys):
    film = write_film(scored, tmp_path / "film.avi", 9)
    address = film.as_uri()  # read as a stream is, by its address
    assert call(monkeypatch, *sized(scored, [address], tmp_path / "out", "--max-frames", 5, "--batch-size", 2)) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"][0]["frames"]) == 5
    assert frames_of(tmp_path / "out" / "stream-1.mp4")[0] == 5
    assert call(monkeypatch, *sized(scored, [address], tmp_path / "all")) == 0
    assert "until it ends, or Ctrl-C" in capsys.readouterr().out
    assert frames_of(tmp_path / "all" / "stream-1.mp4")[0] == 9
    closed = "rtsp://user:secret@127.0.0.1:1/street"
    assert call(monkeypatch, *sized(scored, [closed, film], tmp_path / "closed")) == 1
    printed = capsys.readouterr().out
    assert "not read: rtsp://127.0.0.1:1/street: cannot be opened" in printed
    assert "secret" not in printed + (tmp_path / "closed" / "predictions.json").read_text()


class Camera:
    """Gives pictures without an end; the user presses Ctrl-C while the fifth is looked at."""

    def __init__(self) -> None:
        self.given = 0

    def read(self):
        self.given += 1
        if self.given > 5:
            raise KeyboardInterrupt
        return True, np.full((60, 90, 3), 20 * self.given, np.uint8)

    def release(self) -> None:
        self.given = -1


def test_a_camera_is_watched_until_the_user_stops(scored, tmp_path, monkeypatch, capsys):
    camera = Camera()
    monkeypatch.setattr(predict, "open_film", lambda source: (camera, 0, 10.0) if source == "0" else None)
    assert call(monkeypatch, *sized(scored, ["0"], tmp_path / "out", "--batch-size", 2)) == 0
    assert "stopped camera 0 after 4 frames" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["images"][0]["file"] == "camera 0"
    assert frames_of(tmp_path / "out" / "camera-0.mp4")[0] == 4
    assert camera.given == -1  # released
    assert is_stream("rtsp://a/b")
    assert not is_stream("0.jpg")
    with pytest.raises(ValueError, match="--max-frames 0"):
        call(monkeypatch, *sized(scored, ["0"], tmp_path / "out", "--max-frames", 0))
