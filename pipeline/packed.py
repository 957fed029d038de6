"""Reading a packed dataset: memory-mapped shards, checked slices of them, arrays instead of Python objects.

`python -m pipeline.packed DIR` prints the report and verifies every byte.
"""

import hashlib
import json
import mmap
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from pipeline.card import FORMAT, VERSION, report
from pipeline.console import run_entry, say, track
from pipeline.parse import read_bytes
from pipeline.shards import INDEX_SCHEMA

MAX_OPEN_SHARDS = 256  # each mapping keeps a file descriptor; the usual limit of a process is 1024
LAZY = ("original_boxes", "file_name")


class PackedDataset:
    """A finished packed dataset. Safe to use from several threads; close() when done."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.info = self._read_info()
        self.classes: tuple[str, ...] = tuple(self.info["classes"])
        self.canvases: dict[str, tuple[int, int]] = {name: (h, w) for name, (h, w) in self.info["canvases"].items()}
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()
        self._read_index()

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: {what}; pack the dataset again (python -m pipeline.pack)")

    def _read_info(self) -> dict[str, Any]:
        if not (self.path / "dataset.json").is_file():
            unfinished = (self.path / ".work").is_dir()
            inside = sorted(path.parent.name for path in self.path.glob("*/dataset.json"))
            if unfinished:
                mend = "its packing is unfinished: run the same python -m pipeline.pack command again"
            elif inside:
                mend = f"it holds packed datasets: say which ({', '.join(inside)})"
            else:
                mend = "make one with python -m pipeline.pack"
            raise ValueError(f"{self.path} is not a packed dataset (no dataset.json); {mend}")
        try:
            info = json.loads(read_bytes(self.path / "dataset.json", 64 << 20))
            if info["format"] != FORMAT or info["version"] != VERSION:
                raise ValueError(f"has format {info['format']} version {info['version']}, expected {FORMAT} {VERSION}")
            classes = info["classes"]
            if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
                raise ValueError("has no class names")
            for name, (h, w) in info["canvases"].items():
                if name not in ("landscape", "portrait") or not all(
                    type(side) is int and 0 < side <= 16384 for side in (h, w)
                ):
                    raise ValueError(f"has the canvas {name} {h}x{w}")
            for shard in info["shards"]:
                if "/" in shard["file"] or not shard["file"].startswith("shard-") or type(shard["bytes"]) is not int:
                    raise ValueError(f"names the shard {shard['file']!r}")
            if info["index"]["file"] != "index.parquet" or len(info["index"]["sha256"]) != 64:
                raise ValueError("names another index than index.parquet")
        except KeyError as error:
            raise self._error(f"dataset.json has no {error}") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"dataset.json {error}") from None
        return info

    def _read_index(self) -> None:
        index_path = self.path / "index.parquet"
        try:
            data = read_bytes(index_path, 8 << 30)
        except ValueError as error:
            raise self._error(f"index.parquet {error}") from None
        if hashlib.sha256(data).hexdigest() != self.info["index"]["sha256"]:
            raise self._error("index.parquet is damaged (its checksum differs from dataset.json)")
        columns = [name for name in INDEX_SCHEMA.names if name not in LAZY]
        try:
            # Group by group, one thread, no read-ahead: as fast for a file in memory as pq.read_table, for less memory.
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
            groups = [file.read_row_group(g, columns, use_threads=False) for g in range(file.num_row_groups)]
            table = pa.concat_tables(groups)
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise self._error(f"index.parquet cannot be read ({error})") from None
        if table.schema.names != columns or any(
            table.schema.field(name).type != INDEX_SCHEMA.field(name).type for name in columns
        ):
            raise self._error("index.parquet has other columns than this version writes")
        if any(table[name].null_count for name in columns):
            raise self._error("index.parquet has empty cells")
        table = table.combine_chunks()
        number = {
            name: table[name].to_numpy() for name in columns if pa.types.is_integer(table.schema.field(name).type)
        }
        self.ids_N: np.ndarray = number["id"]
        self.sizes_N2 = np.stack((number["height"], number["width"]), axis=1)
        self.original_sizes_N2 = np.stack((number["original_height"], number["original_width"]), axis=1)
        self._shard_N, self._offset_N, self._length_N = number["shard"], number["offset"], number["length"]
        self._sha256_N = (
            np.frombuffer(table["sha256"].chunk(0).buffers()[1], np.uint8).reshape(-1, 32)
            if len(table)
            else np.zeros((0, 32))
        )
        lists = {name: table[name].chunk(0) for name in ("boxes", "labels", "ignore")}
        if any(column.flatten().null_count for column in lists.values()):
            raise self._error("index.parquet has empty cells inside a list")
        if any(not column.offsets.equals(lists["labels"].offsets) for column in lists.values()):
            raise self._error("index.parquet has images with unequal numbers of boxes, labels and flags")
        labels = lists["labels"]
        self._start_N = labels.offsets.to_numpy().astype(np.int64)
        self._labels_M = labels.flatten().to_numpy().astype(np.int64)
        self._ignore_M = lists["ignore"].flatten().to_numpy(zero_copy_only=False)
        self._boxes_M4 = lists["boxes"].flatten().flatten().to_numpy().reshape(-1, 4)
        domain = table["domain"].chunk(0).dictionary_encode()
        self.domains: list[str] = domain.dictionary.to_pylist()
        self._domain_N = domain.indices.to_numpy()
        self._check_index()
        self._order_N = np.argsort(self.ids_N, kind="stable")

    def _check_index(self) -> None:
        """Everything a later read relies on, checked once over whole arrays."""
        if len(self.ids_N) == 0:
            raise self._error("index.parquet has no rows")
        sizes = []
        for shard in self.info["shards"]:
            try:
                sizes.append((self.path / shard["file"]).stat().st_size)
            except OSError:
                raise self._error(f"{shard['file']} is missing") from None
            if sizes[-1] != shard["bytes"]:
                raise self._error(f"{shard['file']} has {sizes[-1]} bytes where dataset.json says {shard['bytes']}")
        in_range = (self._shard_N >= 0) & (self._shard_N < len(sizes)) & (self._offset_N >= 0) & (self._length_N > 0)
        if not in_range.all() or (self._offset_N + self._length_N > np.array(sizes)[self._shard_N]).any():
            raise self._error("index.parquet points outside the shards")
        if (self.ids_N < 0).any() or len(np.unique(self.ids_N)) != len(self.ids_N):
            raise self._error("index.parquet has negative or duplicate ids")
        wide_N = self.sizes_N2[:, 1] >= self.sizes_N2[:, 0]
        for name, chosen_N in (("landscape", wide_N), ("portrait", ~wide_N)):
            if chosen_N.any() and (self.sizes_N2[chosen_N] > self.canvases.get(name, (0, 0))).any():
                raise self._error(f"index.parquet has {name} images larger than the canvas of dataset.json")
        if (self.sizes_N2 < 1).any() or (self.original_sizes_N2 < 1).any():
            raise self._error("index.parquet has images without a size")
        counts = np.diff(self._start_N)
        if len(self._labels_M):
            limits = np.repeat(self.sizes_N2[:, ::-1], counts, axis=0)
            x1y1, x2y2 = self._boxes_M4[:, :2], self._boxes_M4[:, 2:]
            if not ((x1y1 >= 0) & (x2y2 > x1y1) & (x2y2 <= limits)).all():  # also false for NaN
                raise self._error("index.parquet has boxes outside their image or without area")
            if self._labels_M.min() < 1 or self._labels_M.max() > len(self.classes):
                raise self._error("index.parquet has labels that are not in the class list")

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def checksum(self) -> str:
        """Fingerprint of the data: the index's SHA-256, which covers every record's SHA-256, box and label."""
        return self.info["index"]["sha256"]

    @property
    def max_boxes(self) -> int:
        """G, the number of box slots of a batch: the most boxes of any image, rounded up to a multiple of 8."""
        return max(8, -(-int(np.diff(self._start_N).max()) // 8) * 8)

    @cached_property
    def _lazy(self) -> pa.Table:
        return pq.ParquetFile(self.path / "index.parquet").read(list(LAZY)).combine_chunks()

    @cached_property
    def file_names(self) -> list[str]:
        """Names of the original pictures, relative to the source's root."""
        return self._lazy["file_name"].to_pylist()

    @cached_property
    def _original_boxes_M4(self) -> np.ndarray:
        return self._lazy["original_boxes"].chunk(0).flatten().flatten().to_numpy().reshape(-1, 4)

    def domain_of(self, i: int) -> str:
        return self.domains[self._domain_N[i]]

    def index_of(self, id: int) -> int:
        """Position of the image with this id."""
        place = int(np.searchsorted(self.ids_N, id, sorter=self._order_N))
        if place == len(self) or self.ids_N[self._order_N[place]] != id:
            raise ValueError(f"{self.path} has no image with id {id}")
        return int(self._order_N[place])

    def target(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(boxes_N4 float32 xyxy in packed pixels, labels_N int64, ignore_N bool) of one image."""
        rows = slice(self._start_N[i], self._start_N[i + 1])
        return self._boxes_M4[rows], self._labels_M[rows], self._ignore_M[rows]

    def original_target(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `target`, with the boxes as annotated: in pixels of the original picture."""
        rows = slice(self._start_N[i], self._start_N[i + 1])
        return self._original_boxes_M4[rows], self._labels_M[rows], self._ignore_M[rows]

    def describe(self, i: int) -> str:
        """How messages call a record."""
        return f"{self.path}: record {self.ids_N[i]:012d} of {self.info['shards'][self._shard_N[i]]['file']}"

    def length_of(self, i: int) -> int:
        return int(self._length_N[i])

    def sha256_of(self, i: int) -> bytes:
        return self._sha256_N[i].tobytes()

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            if shard in self._maps:
                self._maps.move_to_end(shard)
                return self._maps[shard]
            entry = self.info["shards"][shard]
            with open(self.path / entry["file"], "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(mapped) != entry["bytes"]:
                raise self._error(f"{entry['file']} changed its size to {len(mapped)} bytes")
            self._maps[shard] = mapped
            if len(self._maps) > MAX_OPEN_SHARDS:
                self._maps.popitem(last=False)  # unmapped when its last slice is gone
            return mapped

    def jpeg(self, i: int) -> memoryview:
        """The encoded image (JPEG, or PPM when packed with --raw), without a copy, its checksum verified."""
        start, length = int(self._offset_N[i]), int(self._length_N[i])
        view = memoryview(self._map(int(self._shard_N[i])))[start : start + length]
        if hashlib.sha256(view).digest() != self.sha256_of(i):
            raise ValueError(
                f"{self.describe(i)} is damaged (its checksum differs from the index); pack the dataset again"
            )
        return view

    def verify(self) -> None:
        """Read everything: every shard against its checksum, every record against its own, every picture decoded."""
        from pipeline.pixels import decode_packed

        for number, shard in enumerate(self.info["shards"]):
            with open(self.path / shard["file"], "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                for record in np.flatnonzero(self._shard_N == number):
                    self.jpeg(int(record))  # names the record, unless the damage lies between records
                raise self._error(f"{shard['file']} is damaged (its checksum differs from dataset.json)")
        for i in track(range(len(self)), f"verifying {self.path.name}", len(self)):
            try:
                size = decode_packed(self.jpeg(i)).shape[:2]
            except ValueError as error:
                raise ValueError(f"{self.describe(i)} {error}") from None
            if size != tuple(self.sizes_N2[i]):
                raise self._error(f"{self.describe(i)} decodes to another size than the index says")

    def close(self) -> None:
        """Unmap the shards; slices that are still held stay valid until they are gone."""
        with self._lock:
            self._maps.clear()

    def __enter__(self) -> "PackedDataset":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@dataclass(frozen=True)
class VerifyOptions:
    """Print a packed dataset's report and verify every byte of it."""

    path: tyro.conf.Positional[Path]


def main() -> None:
    with PackedDataset(tyro.cli(VerifyOptions).path) as dataset:
        say(report(dataset.info))
        dataset.verify()
        say(f"{dataset.path}: all {len(dataset)} records are as they were packed")


if __name__ == "__main__":
    run_entry(main)
