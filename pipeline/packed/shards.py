"""One tar shard: decoded, resized, encoded and written by a worker process; finished when its side table exists.

    OUT/shard-000003.tar            KEY.jpg (or KEY.ppm), KEY.NAME.jpg (or .pgm, .ppm) of each image beside it, and
                                    KEY.json of every good sample, a plain WebDataset tar
    OUT/.work/shard-000003.parquet  its rows of the index, its problems and its checksum; written last

A kill at any moment leaves either both or something that is made again. Bytes depend on the input alone.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files.own import checksum
from pipeline.files.pixels import encode, read_extra, read_rgb, resize, training_size
from pipeline.files.problems import Problem
from pipeline.files.replace import replacing
from pipeline.packed.output_folder import WORK, replace_file, temporary

BOXES = pa.list_(pa.list_(pa.float32(), 4))
INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("sha256", pa.binary(32)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("original_height", pa.int32()),
        ("original_width", pa.int32()),
        ("boxes", BOXES),
        ("original_boxes", BOXES),
        ("labels", pa.list_(pa.int32())),
        ("ignore", pa.list_(pa.bool_())),
        ("file_name", pa.string()),
        ("domain", pa.string()),
    ]
)
WEIGHT = pa.field("weight", pa.list_(pa.float32()))  # a column more where the card says `weights`: of every box


def index_schema(members: Sequence[str] = (), weighted: bool = False) -> pa.Schema:
    """The columns of every dataset, where each member lies, and the weights of the boxes where they have some."""
    types = {"offset": pa.int64(), "length": pa.int64(), "sha256": pa.binary(32)}
    places = (pa.field(f"{name}.{column}", kind) for name in members for column, kind in types.items())
    return pa.schema([*INDEX_SCHEMA, *places, *([WEIGHT] if weighted else [])])


class Encoding(NamedTuple):
    """What decides the bytes of the packed images."""

    short_side: int
    long_side: int
    quality: int
    chroma: str
    raw: bool


def suffix_of(raw: bool, channels: int = 3) -> str:
    return ("pgm" if channels == 1 else "ppm") if raw else "jpg"


class Aligned(NamedTuple):
    """A file beside the picture."""

    name: str  # of the member
    path: str
    file_name: str
    limits: tuple[float, float] | None
    raw: bool


class Record(NamedTuple):
    """A Sample in plain values, so that a worker needs neither torch nor the sources."""

    id: int
    path: str
    file_name: str
    size: tuple[int, int]
    boxes: bytes  # float32 N x 4
    labels: tuple[int, ...]
    ignore: tuple[bool, ...]
    domain: str
    extra: tuple[Aligned, ...] = ()


@dataclass(frozen=True)
class ShardJob:
    out: str
    number: int
    records: tuple[Record, ...]
    encoding: Encoding
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def tar(self) -> Path:
        return Path(self.out) / f"shard-{self.number:06d}.tar"

    @property
    def table(self) -> Path:
        return Path(self.out) / WORK / f"shard-{self.number:06d}.parquet"


@dataclass(frozen=True)
class ShardResult:
    table: pa.Table
    problems: list[Problem]
    bytes: int
    sha256: str


def read_shard(job: ShardJob, verify: bool) -> ShardResult | None:
    """The finished result of this very job, or None when it has to be made. verify: every byte of the tar."""
    try:
        with job.table.open("rb") as file:  # not the path, which pyarrow takes for an address where it has a colon
            # pq.read_table would import pyarrow.dataset for a quarter of a second. A thread of pyarrow's could give the
            # file's bytes back while Python ends, and the process would be aborted with all of its work done.
            table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        note = json.loads(table.schema.metadata[b"fairweather"])
        if note["fingerprint"] != job.fingerprint or job.tar.stat().st_size != note["bytes"]:
            return None
        if verify and checksum(job.tar) != note["sha256"]:
            return None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return ShardResult(table, [Problem(**problem) for problem in note["problems"]], note["bytes"], note["sha256"])


class TarWriter:
    """Deterministic ustar members, and the offset of each member's data."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()
        self.position = 0

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.position += len(data)

    def add(self, name: str, data: bytes | memoryview) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.position
        self._write(data)
        self._write(b"\0" * (-len(data) % tarfile.BLOCKSIZE))
        return offset

    def end(self) -> None:
        self._write(b"\0" * (2 * tarfile.BLOCKSIZE))


def pack_picture(record: Record, encoding: Encoding) -> tuple[tuple[int, int], bytes]:
    """((h, w), the encoded picture), from the original's bytes alone."""
    image = read_rgb(Path(record.path))
    if image.shape[:2] != record.size:
        raise ValueError(f"decodes to {image.shape[:2]} where its header says {record.size} (h, w)")
    size = training_size(record.size, encoding.short_side, encoding.long_side)
    return size, encode(resize(image, size), encoding.quality, encoding.chroma, encoding.raw)


def pack_extra(record: Record, size: tuple[int, int], encoding: Encoding) -> dict[str, tuple[str, bytes]]:
    """{member: (suffix, encoded)}, of the packed picture's size. Colours are kept whole: channels may be anything."""
    packed = {}
    for aligned in record.extra:
        try:
            image = resize(read_extra(Path(aligned.path), aligned.limits), size)
        except ValueError as error:
            raise ValueError(f"has {aligned.file_name} beside it, which {error}") from None
        raw = encoding.raw or aligned.raw
        packed[aligned.name] = suffix_of(raw, image.shape[2]), encode(image, encoding.quality, "4:4:4", raw)
    return packed


class Picture(NamedTuple):
    """One image of a shard, as it is to be written."""

    record: Record
    size: tuple[int, int]  # (h, w)
    data: bytes | memoryview  # encoded
    extra: Mapping[str, tuple[str, bytes | memoryview]]  # {member: (suffix, encoded)}
    weight: tuple[float, ...] | None = None  # of its boxes; none: 1 each


def make_shard(job: ShardJob, looked_at: Callable[[], None]) -> None:
    """Make the shard of what its records name; `looked_at` is called before each image. Faults go to the table."""
    problems: list[Problem] = []

    def pictures() -> Iterator[Picture]:
        for record in job.records:
            looked_at()
            try:
                size, data = pack_picture(record, job.encoding)
                yield Picture(record, size, data, pack_extra(record, size, job.encoding))
            except ValueError as error:
                problems.append(
                    Problem(record.file_name, "", str(error), "replace the picture or take it out of the list")
                )

    write_shard(job, pictures(), problems, [aligned.name for aligned in job.records[0].extra])


def write_shard(
    job: ShardJob,
    pictures: Iterable[Picture],
    problems: list[Problem],
    members: Sequence[str] = (),
    weighted: bool = False,
) -> None:
    """Write the shard and its side table. `problems` may grow while the pictures come."""
    rows: list[dict[str, Any]] = []
    with replacing(job.tar, temporary(Path(job.out), job.tar.name)) as path, open(path, "wb") as file:
        writer = TarWriter(file)
        for picture in pictures:
            record, size, data, extra, weight = picture
            original = np.frombuffer(record.boxes, np.float32).reshape(-1, 4)
            boxes = scale_boxes(original, record.size, size)
            key = f"{record.id:012d}"
            offset = writer.add(f"{key}.{suffix_of(job.encoding.raw)}", data)
            places: dict[str, Any] = {}
            for name, (suffix, content) in extra.items():
                places[f"{name}.offset"] = writer.add(f"{key}.{name}.{suffix}", content)
                places[f"{name}.length"] = len(content)
                places[f"{name}.sha256"] = hashlib.sha256(content).digest()
            writer.add(f"{key}.json", describe_record(picture, boxes, job.classes))
            row = {
                "id": record.id,
                "shard": job.number,
                "offset": offset,
                "length": len(data),
                "sha256": hashlib.sha256(data).digest(),
                "height": size[0],
                "width": size[1],
                "original_height": record.size[0],
                "original_width": record.size[1],
                "boxes": boxes.tolist(),
                "original_boxes": original.tolist(),
                "labels": list(record.labels),
                "ignore": list(record.ignore),
                "file_name": record.file_name,
                "domain": record.domain,
                **places,
            }
            rows.append(row | {WEIGHT.name: weight or (1.0,) * len(boxes)} if weighted else row)
        writer.end()
        job.table.unlink(missing_ok=True)  # an older side table must never describe the new tar
    note = {
        "fingerprint": job.fingerprint,
        "bytes": writer.position,
        "sha256": writer.digest.hexdigest(),
        "problems": [problem.__dict__ for problem in problems],
    }
    schema = index_schema(members, weighted).with_metadata({"fairweather": json.dumps(note)})
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    replace_file(Path(job.out), f"{WORK}/{job.table.name}", sink.getvalue().to_pybytes())


def scale_boxes(boxes_N4: np.ndarray, size: tuple[int, int], packed: tuple[int, int]) -> np.ndarray:
    """Each axis by its own ratio, so that a box touching the border still does after rounding the size."""
    ratio = np.array((packed[1] / size[1], packed[0] / size[0]) * 2)
    limit = np.array((packed[1], packed[0]) * 2)
    return np.minimum(boxes_N4.astype(np.float64) * ratio, limit).astype(np.float32)


def describe_record(picture: Picture, boxes: np.ndarray, classes: Sequence[str]) -> bytes:
    """KEY.json, for anyone's tools: everything in words and pixels of the packed image."""
    record, size, _, _, weight = picture
    objects = [
        {"class": classes[label - 1], "label": label, "box": box, "ignore": ignore}
        for label, box, ignore in zip(record.labels, boxes.tolist(), record.ignore, strict=True)
    ]
    for number, value in enumerate(weight or ()):
        objects[number]["weight"] = value
    text = {
        "id": record.id,
        "file_name": record.file_name,
        "domain": record.domain,
        "height": size[0],
        "width": size[1],
        "original_height": record.size[0],
        "original_width": record.size[1],
        "objects": objects,
    }
    return json.dumps(text, separators=(",", ":")).encode()
