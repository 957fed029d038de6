"""Reading a packed dataset: memory-mapped shards, checked slices of them, arrays instead of Python objects.

`python -m pipeline.packed DIR` prints the report and verifies every byte.
"""

import hashlib
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.command.console import track
from pipeline.command.suggest import nearest
from pipeline.files.own import checksum
from pipeline.files.parse import open_file
from pipeline.packed.card import read_card, tight_canvases
from pipeline.packed.shards import index_schema
from pipeline.sources.choice import choose_domains

MAX_OPEN_SHARDS = 256  # each mapping keeps a file descriptor; the usual limit of a process is 1024
LAZY = ("original_boxes", "file_name")
# Bytes in a shard: two members of a tar, each a header and a block; an object's line in the second.
LEAST_OF_IMAGE, LEAST_OF_OBJECT = 4 * 512, 32


class Places(NamedTuple):
    """Where the encoded images of one kind lie in their shards."""

    offset: np.ndarray
    length: np.ndarray
    sha256: np.ndarray


def corners_of(boxes: pa.Array) -> np.ndarray:
    """Lists of boxes -> float32 (M, 4)."""
    return boxes.flatten().flatten().to_numpy().reshape(-1, 4)


class PackedDataset:
    """A finished packed dataset. Safe to use from several threads; close() when done.

    extra: {modality: channels} of what lies beside the pictures, {} mostly.
    domains: only the images of the domains that fit one of these patterns; none: all. A dataset read in part keeps the
    checksum of the whole. called: gives the other name of a domain, which fits, too.
    """

    def __init__(self, path: Path | str, domains: Sequence[str] = (), called: Callable[[str], str] = str):
        self.path = Path(path)
        self.info = self._read_info()
        self.classes: tuple[str, ...] = tuple(self.info["classes"])
        self.canvases: dict[str, tuple[int, int]] = {name: (h, w) for name, (h, w) in self.info["canvases"].items()}
        self._members: dict[str, dict[str, int]] = {  # {modality: {member: channels}}
            modality["name"]: {member["name"]: member["channels"] for member in modality["members"]}
            for modality in self.info.get("extra", ())
        }
        self.extra = {name: sum(members.values()) for name, members in self._members.items()}
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()
        self._read_index()
        if domains:
            self._keep(choose_domains(domains, self.domains, str(self.path), called))
        self._verified = {member: np.zeros(len(self), bool) for member in self._places}

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: {what}; pack the dataset again (python -m pipeline.pack)")

    def _read_info(self) -> dict[str, Any]:
        if not self.path.exists():
            raise ValueError(
                f"{self.path} is not a packed dataset: it does not exist; make one: python -m pipeline.pack"
            )
        if not (self.path / "dataset.json").is_file():
            unfinished = (self.path / ".work").is_dir()
            inside = sorted(path.parent.name for path in self.path.glob("*/dataset.json"))
            if unfinished:
                fix = "its packing is unfinished: run the same python -m pipeline.pack command again"
            elif inside:
                fix = f"it holds packed datasets: say which ({', '.join(inside)})"
            else:
                fix = "make one with python -m pipeline.pack"
            raise ValueError(f"{self.path} is not a packed dataset (no dataset.json); {fix}")
        return read_card(self.path)

    def _groups(self, columns: list[str]) -> Iterator[dict[str, pa.Array]]:
        """These columns of index.parquet, one group of rows at a time (the whole of it need not fit into memory).

        The bytes are the ones of dataset.json's checksum; columns have the right type, no empty cell, and lists that
        belong together have equal lengths.
        """
        try:
            with open_file(self.path / "index.parquet", 8 << 30) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != self.info["index"]["sha256"]:
                    raise ValueError("is damaged (its checksum differs from dataset.json)")
                parquet = pq.ParquetFile(file, pre_buffer=False)
                schema, expected = parquet.schema_arrow, index_schema(self.members, self.weighted)
                for name in columns:
                    if schema.get_field_index(name) < 0 or schema.field(name).type != expected.field(name).type:
                        raise ValueError("has other columns than this version writes")
                self._check_numbers(parquet.metadata)
                for group in range(parquet.num_row_groups):
                    table = parquet.read_row_group(group, columns, use_threads=False).combine_chunks()
                    if not len(table):
                        continue
                    column = {name: table[name].chunk(0) for name in columns}
                    lists = [array for array in column.values() if pa.types.is_list(array.type)]
                    if any(array.null_count for array in column.values()):
                        raise ValueError("has empty cells")
                    if any(array.flatten().null_count or array.flatten(True).null_count for array in lists):
                        raise ValueError("has empty cells inside a list")
                    if any(not array.offsets.equals(lists[0].offsets) for array in lists):
                        raise ValueError("has images with unequal numbers of boxes, labels and flags")
                    yield column
                    del table, column, lists
                    pa.default_memory_pool().release_unused()  # Arrow would keep several groups' worth
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise self._error(f"index.parquet {error}") from None

    def _check_numbers(self, metadata: pq.FileMetaData) -> None:
        """Before anything is unpacked: a few kilobytes of Parquet can hold billions of equal values."""
        images, num_bytes = self.info["num_images"], sum(shard["bytes"] for shard in self.info["shards"])
        objects = sum(sum(row.values()) for row in self.info["objects"].values())
        if metadata.num_rows != images:
            raise ValueError(f"has {metadata.num_rows} images where dataset.json says {images}")
        if images * LEAST_OF_IMAGE > num_bytes or objects * LEAST_OF_OBJECT > num_bytes:
            raise ValueError(
                f"has {images} images and {objects} objects, more than {num_bytes} bytes of shards can hold"
            )
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        for column in range(metadata.num_columns):
            if sum(group.column(column).num_values for group in groups) > images + 4 * objects:  # an empty list is one
                raise ValueError("has more values than dataset.json has images and objects")

    def _read_index(self) -> None:
        sizes = self._check_shards()
        columns = [name for name in index_schema(self.members, self.weighted).names if name not in LAZY]
        parts: dict[str, list[np.ndarray]] = {name: [] for name in (*columns, "count")}
        domains: dict[str, int] = {}
        for column in self._groups(columns):
            parts["count"].append(np.diff(column["labels"].offsets.to_numpy()).astype(np.int64))
            for name in columns:
                array = column.pop(name)
                if name == "boxes":
                    values = corners_of(array)
                elif name.rpartition(".")[2] == "sha256":
                    values = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 32)[: len(array)]
                elif name == "domain":
                    coded = array.dictionary_encode()
                    numbers = [domains.setdefault(text, len(domains)) for text in coded.dictionary.to_pylist()]
                    values = np.array(numbers, np.int32)[coded.indices.to_numpy()]
                else:
                    values = (array.flatten() if pa.types.is_list(array.type) else array).to_numpy(zero_copy_only=False)
                parts[name].append(values.copy())  # of exactly this size: the group's memory serves the next one
        if not parts["id"]:
            raise self._error("index.parquet has no rows")
        joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # each part is freed when it is joined
        self.ids_N: np.ndarray = joined["id"]
        self.sizes_N2 = np.stack((joined["height"], joined["width"]), axis=1)
        self.original_sizes_N2 = np.stack((joined["original_height"], joined["original_width"]), axis=1)
        self._shard_N = joined["shard"]
        self._places = {  # of the picture ("") and of each member
            name: Places(*(joined[f"{name}.{column}".lstrip(".")] for column in Places._fields))
            for name in ("", *self.members)
        }
        self._start_N = np.concatenate(([0], np.cumsum(joined["count"])))
        self._boxes_M4, self._ignore_M = joined["boxes"], joined["ignore"]
        self._labels_M = joined["labels"].astype(np.int64)
        self._weight_M: np.ndarray | None = joined.get("weight")
        self.domains: list[str] = list(domains)
        self._domain_N = joined["domain"]
        self._check_index(sizes)
        self._order_N = np.argsort(self.ids_N, kind="stable")
        self._kept_N = np.ones(len(self.ids_N), bool)  # of the rows of index.parquet

    def _keep(self, domains: list[str]) -> None:
        """From now on this holds the images of these domains alone."""
        numbers = [self.domains.index(name) for name in domains]
        keep_N = np.isin(self._domain_N, numbers)
        self._kept_N, kept_M = keep_N, np.repeat(keep_N, np.diff(self._start_N))
        for name in ("ids_N", "sizes_N2", "original_sizes_N2", "_shard_N"):
            setattr(self, name, getattr(self, name)[keep_N])
        self._places = {name: Places(*(array[keep_N] for array in places)) for name, places in self._places.items()}
        for name in ("_boxes_M4", "_ignore_M", "_labels_M"):
            setattr(self, name, getattr(self, name)[kept_M])
        self._weight_M = None if self._weight_M is None else self._weight_M[kept_M]
        self._start_N = np.concatenate(([0], np.cumsum(np.diff(self._start_N)[keep_N])))
        self._domain_N = np.searchsorted(numbers, self._domain_N[keep_N]).astype(np.int32)
        self.domains = domains
        self.canvases = {name: (h, w) for name, (h, w) in tight_canvases(*self.sizes_N2.T).items()}
        self._order_N = np.argsort(self.ids_N, kind="stable")

    def _check_shards(self) -> list[int]:
        """Their sizes in bytes."""
        sizes = []
        for shard in self.info["shards"]:
            try:
                sizes.append((self.path / shard["file"]).stat().st_size)
            except OSError:
                raise self._error(f"{shard['file']} is missing") from None
            if sizes[-1] != shard["bytes"]:
                raise self._error(f"{shard['file']} has {sizes[-1]} bytes where dataset.json says {shard['bytes']}")
        return sizes

    def _check_index(self, sizes: list[int]) -> None:
        """Everything a later read relies on, checked once over whole arrays."""
        in_range = (self._shard_N >= 0) & (self._shard_N < len(sizes))
        for places in self._places.values():
            in_range &= (places.offset >= 0) & (places.length > 0)
        if not in_range.all() or any(
            (places.offset + places.length > np.array(sizes)[self._shard_N]).any() for places in self._places.values()
        ):
            raise self._error("index.parquet points outside the shards")
        if (self.ids_N < 0).any() or len(np.unique(self.ids_N)) != len(self.ids_N):
            raise self._error("index.parquet has negative or duplicate ids")
        tight = {name: tuple(canvas) for name, canvas in tight_canvases(*self.sizes_N2.T).items()}
        if self.canvases != tight:
            raise self._error(f"dataset.json has the canvases {self.canvases}, the images of index.parquet {tight}")
        if (self.sizes_N2 < 1).any() or (self.original_sizes_N2 < 1).any():
            raise self._error("index.parquet has images without a size")
        self._check_boxes(self._boxes_M4, self.sizes_N2, "boxes")
        if len(self._labels_M) and (self._labels_M.min() < 1 or self._labels_M.max() > len(self.classes)):
            raise self._error("index.parquet has labels that are not in the class list")
        if self._weight_M is not None and not ((self._weight_M > 0) & (self._weight_M <= 1)).all():  # false for NaN too
            raise self._error("index.parquet has weights of boxes that are not above 0 and at most 1")
        if self.domain_counts != self.info["domains"]:
            raise self._error("dataset.json has domains or numbers of their images that are not those of index.parquet")
        # The names stand twice in dataset.json, the second time with their numbers of objects.
        counts = np.bincount(self._labels_M, minlength=len(self.classes) + 1)[1:].tolist()
        listed = [(name, sum(row.values())) for name, row in self.info["objects"].items()]
        if listed != list(zip(self.classes, counts, strict=True)):
            raise self._error("dataset.json has class names or numbers of objects that contradict each other")

    def _check_boxes(self, boxes_M4: np.ndarray, sizes_N2: np.ndarray, what: str) -> None:
        limits_M2 = np.repeat(sizes_N2[:, ::-1], np.diff(self._start_N), axis=0)
        x1y1, x2y2 = boxes_M4[:, :2], boxes_M4[:, 2:]
        if not ((x1y1 >= 0) & (x2y2 > x1y1) & (x2y2 <= limits_M2)).all():  # also false for NaN
            raise self._error(f"index.parquet has {what} outside their image or without area")

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def whole(self) -> bool:
        """Whether every image of the folder is here, whatever its domain."""
        return bool(self._kept_N.all())

    def __repr__(self) -> str:
        return f"PackedDataset({str(self.path)!r}): {len(self)} images, classes {', '.join(self.classes)}"

    @property
    def checksum(self) -> str:
        """Fingerprint of the data: the index's SHA-256, which covers every record's SHA-256, box and label."""
        return self.info["index"]["sha256"]

    @property
    def max_boxes(self) -> int:
        """G, the number of box slots of a batch: the most boxes of any image, rounded up to a multiple of 8."""
        return max(8, -(-int(np.diff(self._start_N).max()) // 8) * 8)

    @property
    def num_objects(self) -> int:
        """Boxes that count, those to ignore left out."""
        return int((~self._ignore_M).sum())

    @cached_property
    def file_names(self) -> list[str]:
        """Names of the original pictures, relative to the source's root."""
        names = [name for column in self._groups(["file_name"]) for name in column["file_name"].to_pylist()]
        return [name for name, kept in zip(names, self._kept_N, strict=True) if kept]

    @cached_property
    def _original_boxes_M4(self) -> np.ndarray:
        groups = [column["original_boxes"] for column in self._groups(["original_boxes"])]
        counts = np.concatenate([np.diff(array.offsets.to_numpy()) for array in groups])
        if not np.array_equal(counts[self._kept_N], np.diff(self._start_N)):
            raise self._error("index.parquet has images with other numbers of original boxes than of boxes")
        boxes_M4 = np.concatenate([corners_of(array) for array in groups])[np.repeat(self._kept_N, counts)]
        self._check_boxes(boxes_M4, self.original_sizes_N2, "original boxes")
        return boxes_M4

    @property
    def domain_counts(self) -> dict[str, int]:
        """{domain: number of images}."""
        return dict(zip(self.domains, np.bincount(self._domain_N).tolist(), strict=True))

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

    @property
    def weighted(self) -> bool:
        """Whether boxes have weights of their own."""
        return bool(self.info.get("weights"))

    def box_weights(self, i: int) -> np.ndarray:
        """weight_N float32 of one image's boxes: how much each counts."""
        first, last = int(self._start_N[i]), int(self._start_N[i + 1])
        return np.ones(last - first, np.float32) if self._weight_M is None else self._weight_M[first:last]

    @property
    def unlabelled_N(self) -> np.ndarray:
        """Images that nobody has labelled: all their boxes are ignored, and one of them covers the whole image."""
        counts_N = np.diff(self._start_N)
        image_M = np.repeat(np.arange(len(self)), counts_N)
        whole_M = (self._boxes_M4[:, :2] == 0).all(1) & (self._boxes_M4[:, 2:] == self.sizes_N2[image_M, ::-1]).all(1)
        ignored_N, covered_N = (
            np.bincount(image_M[chosen_M], minlength=len(self))
            for chosen_M in (self._ignore_M, self._ignore_M & whole_M)
        )
        return (ignored_N == counts_N) & (covered_N > 0)

    def original_target(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `target`, with the boxes as annotated: in pixels of the original picture."""
        rows = slice(self._start_N[i], self._start_N[i + 1])
        return self._original_boxes_M4[rows], self._labels_M[rows], self._ignore_M[rows]

    def describe(self, i: int) -> str:
        """How messages call a record."""
        return f"{self.path}: record {self.ids_N[i]:012d} of {self.info['shards'][self._shard_N[i]]['file']}"

    @property
    def members(self) -> list[str]:
        """Names of the images beside each picture, in the order of the modalities."""
        return [name for members in self._members.values() for name in members]

    def length_of(self, i: int) -> int:
        return int(self._places[""].length[i])

    def sha256_of(self, i: int, member: str = "") -> bytes:
        return self._places[member].sha256[i].tobytes()

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            if shard in self._maps:
                self._maps.move_to_end(shard)
                return self._maps[shard]
            entry = self.info["shards"][shard]
            try:
                with open(self.path / entry["file"], "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise self._error(f"{entry['file']} cannot be read any more ({error.strerror})") from None
            if len(mapped) != entry["bytes"]:
                raise self._error(f"{entry['file']} changed its size to {len(mapped)} bytes")
            self._maps[shard] = mapped
            if len(self._maps) > MAX_OPEN_SHARDS:
                self._maps.popitem(last=False)  # unmapped when its last slice is gone
            return mapped

    def jpeg(self, i: int) -> memoryview:
        """The encoded picture (JPEG, or PPM when packed with --raw), without a copy; see `encoded`."""
        return self.encoded(i, "")

    def encoded(self, i: int, member: str) -> memoryview:
        """One of the images beside the picture, as it is packed; "": the picture.

        Its checksum is verified when it is read for the first time: of a modality without loss that takes longer than
        all else.
        """
        start, length = int(self._places[member].offset[i]), int(self._places[member].length[i])
        view = memoryview(self._map(int(self._shard_N[i])))[start : start + length]
        if not self._verified[member][i]:
            if hashlib.sha256(view).digest() != self.sha256_of(i, member):
                of = f", {member}," if member else ""
                raise ValueError(
                    f"{self.describe(i)}{of} is damaged (its checksum differs from the index); pack the dataset again"
                )
            self._verified[member][i] = True
        return view

    def members_of(self, modality: str) -> dict[str, int]:
        """{member: channels} of a modality, in the order of its channels."""
        if modality not in self._members:
            has = ", ".join(self._members) or "only pictures"
            raise ValueError(
                f"{self.path} has no {modality!r}{nearest(modality, self._members)}: it has {has}; pack it with "
                "--extra, or leave the name out"
            )
        return self._members[modality]

    def range_of(self, modality: str) -> tuple[float, float]:
        """Which values of its files became 0 and 255."""
        self.members_of(modality)
        low, high = next(one.get("range", (0, 255)) for one in self.info["extra"] if one["name"] == modality)
        return float(low), float(high)

    def read_extra(self, i: int, modality: str) -> np.ndarray:
        """A modality of one image, uint8 (h, w, C), of the picture's size."""
        from pipeline.files.pixels import decode_packed

        images = []
        for member, channels in self.members_of(modality).items():
            try:
                images.append(decode_packed(self.encoded(i, member), channels, self.sizes_N2[i]))
            except ValueError as error:
                if "damaged" in str(error):
                    raise
                raise ValueError(f"{self.describe(i)}, {member}, {error}") from None
        return images[0] if len(images) == 1 else cv2.merge(images)

    def verify(self) -> None:
        """Read everything: every shard against its checksum, every record against its own, every picture decoded."""
        from pipeline.files.pixels import decode_packed

        for verified_N in self._verified.values():
            verified_N[:] = False
        for number, shard in enumerate(self.info["shards"]):
            if checksum(self.path / shard["file"]) != shard["sha256"]:
                for record in np.flatnonzero(self._shard_N == number):
                    for member in self._places:
                        self.encoded(int(record), member)  # names the record, unless the damage is between records
                raise self._error(f"{shard['file']} is damaged (its checksum differs from dataset.json)")
        for i in track(range(len(self)), f"verifying {self.path.name}", len(self)):
            try:
                decode_packed(self.jpeg(i), size=self.sizes_N2[i])
            except ValueError as error:
                raise ValueError(f"{self.describe(i)} {error}") from None
            for modality in self.extra:
                self.read_extra(i, modality)

    def close(self) -> None:
        """Unmap the shards; slices that are still held stay valid until they are gone."""
        with self._lock:
            self._maps.clear()

    def __enter__(self) -> "PackedDataset":
        return self

    def __exit__(self, *_) -> None:
        self.close()
