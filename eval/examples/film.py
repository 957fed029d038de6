"""Films for eval.predict: files, animated GIF, cameras and network streams in; H.264 out where ffmpeg can make it."""

import functools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from pipeline.files.parse import open_file

MAX_FILM_BYTES = 1 << 40
WAIT_MS = 10_000  # for a stream to open, and for each of its frames
USUAL_RATE = 25.0  # frames a second where a film names none that can be


def is_stream(text: str) -> bool:
    """A camera's number, or the address of a stream such as rtsp://HOST/PATH."""
    return (text.isascii() and text.isdigit()) or "://" in text


def stream_name(text: str) -> str:
    """How a stream is called in files and messages: without the password that its address may hold."""
    if text.isdigit():
        return f"camera {text}"
    parts = urlsplit(text)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def open_film(source: Path | str) -> tuple[cv2.VideoCapture, int, float]:
    """(film, frames its header promises or 0, frames a second) of a file, or of a stream given as text."""
    if isinstance(source, Path):
        with open_file(source, MAX_FILM_BYTES):  # a pipe would never end
            pass
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # OpenCV tells of every backend that cannot open it
    try:
        if isinstance(source, str) and not source.isdigit():
            waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, WAIT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, WAIT_MS]
            film = cv2.VideoCapture(source, cv2.CAP_FFMPEG, waits)
        else:
            film = cv2.VideoCapture(int(source) if isinstance(source, str) else str(source))
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not film.isOpened():
        raise ValueError("cannot be opened" if isinstance(source, str) else "is not a video that OpenCV can read")
    rate = film.get(cv2.CAP_PROP_FPS)
    total = 0 if isinstance(source, str) else max(0, int(film.get(cv2.CAP_PROP_FRAME_COUNT)))
    return film, total, rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE


def batches_of_frames(film: cv2.VideoCapture, size: int, most: int | None) -> Iterator[list[np.ndarray]]:
    """RGB frames, `size` at a time and at most `most` in all."""
    frames: list[np.ndarray] = []
    count = 0
    while most is None or count < most:
        good, frame = film.read()
        if not good:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        count += 1
        if len(frames) == size:
            yield frames
            frames = []
    if frames:
        yield frames


@functools.cache
def h264_encoder() -> tuple[str, str] | None:
    """(ffmpeg, its H.264 encoder); None where there is none. OpenCV's own wheels cannot make H.264."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    command = [program, "-hide_banner", "-encoders"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next(((program, name) for name in ("libx264", "libopenh264") if f" {name} " in listed), None)


def describe_encoder() -> str:
    encoder = h264_encoder()
    if encoder is not None:
        return f"films are written as H.264 ({encoder[1]})"
    return "films are written as MPEG-4 part 2, which browsers do not play: no ffmpeg with H.264 is on the PATH"


class FilmWriter:
    """Writes RGB frames of one size into an .mp4 file; use it in a `with` statement."""

    def __init__(self, place: Path, rate: float, size: tuple[int, int]) -> None:
        self.place, self.process, self.writer = place, None, None
        encoder = h264_encoder()
        if encoder is None:
            self.writer = cv2.VideoWriter(str(place), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            if not self.writer.isOpened():
                raise ValueError(f"the film cannot be written to {place}: OpenCV has no mp4 encoder here")
            return
        program, name = encoder
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{rate:.6f}", "-i", "-"]
        even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]  # H.264 halves the colours' sides
        command = [program, "-v", "error", "-y", *source, "-c:v", name, *even, "-movflags", "+faststart"]
        # A pipe that nobody reads until the end would fill up and stop ffmpeg.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _end)
        self.process = subprocess.Popen(
            [*command, f"file:{place.resolve()}"], stdin=subprocess.PIPE, stderr=self.said, start_new_session=True
        )

    def __enter__(self) -> "FilmWriter":
        return self

    def write(self, image: np.ndarray) -> None:
        if self.writer is not None:
            self.writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            return
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(np.ascontiguousarray(image).tobytes())
        except BrokenPipeError:
            self._end(broken=True)

    def __exit__(self, *exception) -> None:
        if self.writer is not None:
            self.writer.release()
        elif self.process is not None:
            self._end()

    def _end(self, broken: bool = False) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.communicate()
        with self.said:
            self.said.seek(0)
            said = self.said.read()
        if process.returncode != 0 or broken:
            lines = said.decode(errors="replace").strip().splitlines()
            raise ValueError(f"the film cannot be written to {self.place}: {lines[-1] if lines else 'ffmpeg failed'}")
