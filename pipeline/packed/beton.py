"""data.beton: the samples of a packed dataset in FFCV's format, with the very same JPEG bytes.

Written here in one process from FFCV's own type definitions (version 2 of its format). Its DatasetWriter is not used:
its caller waits for ever when one of its workers fails. It would also encode every JPEG again. Fields: image
(RGBImageField), id, boxes (G x 4 float32, zero padded), labels, ignore (uint8).
"""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.command.console import track
from pipeline.files.replace import replacing
from pipeline.packed.card import card_bytes
from pipeline.packed.output_folder import replace_file, temporary
from pipeline.packed.reader import PackedDataset

NAME = "data.beton"
PAGE = 8 << 20  # bytes; no sample's region crosses a page, which FFCV's own page cache relies on


def import_ffcv() -> None:
    """Import FFCV without its side effect: it sets torch's number of threads for the whole process."""
    import torch

    threads = torch.get_num_threads()
    try:
        import ffcv.pipeline.compiler as compiler
    except (ImportError, OSError) as error:
        raise ValueError(
            f"the loader 'ffcv' and --beton need FFCV ({error}); install the extra in the checkout: "
            ".venv/bin/pip install -c constraints.txt -e '.[ffcv]'"
        ) from None
    finally:
        torch.set_num_threads(threads)
    import numba

    def set_num_threads(cls: Any, count: int) -> None:
        cls.num_threads = min(count, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(cls.num_threads)

    compiler.Compiler.set_num_threads = classmethod(set_num_threads)


class PagedWriter:
    """Appends regions to a file so that none crosses a page, and remembers where they went."""

    def __init__(self, file: BinaryIO, start: int, page: int):
        self.file, self.page = file, page
        self.position = -(-start // page) * page
        self.allocations: list[tuple[int, int, int]] = []

    def add(self, sample: int, data: bytes | memoryview) -> int:
        if self.position % self.page + len(data) > self.page:
            self.position = -(-self.position // self.page) * self.page
        place = self.position
        self.file.seek(place)
        self.file.write(data)
        self.allocations.append((sample, place, len(data)))
        self.position += len(data)
        return place


def write_beton(dataset: PackedDataset, path: Path) -> None:
    import_ffcv()
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )

    G, N = dataset.max_boxes, len(dataset)
    fields = {
        "image": RGBImageField(),
        "id": IntField(),
        "boxes": NDArrayField(np.dtype("<f4"), (G, 4)),
        "labels": NDArrayField(np.dtype("<i8"), (G,)),
        "ignore": NDArrayField(np.dtype("u1"), (G,)),
    }
    type_ids = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
    descriptors = np.zeros(len(fields), FieldDescType)
    for row, (name, field) in zip(descriptors, fields.items(), strict=True):
        row["type_id"] = type_ids[type(field)]
        row["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        row["arguments"][:] = field.to_binary()[0]
    metadata_type = get_metadata_type(list(fields.values()))
    metadata = np.zeros(N, metadata_type)
    page = max(PAGE, 1 << max(dataset.length_of(i) for i in range(N)).bit_length())
    with open(path, "wb") as file:
        start = HeaderType.itemsize + descriptors.nbytes + metadata.nbytes
        writer = PagedWriter(file, start, page)
        for i in track(range(N), f"writing {path.parent.name}/{NAME}", N):
            data = dataset.jpeg(i)
            image, number, *arrays = (metadata[i : i + 1][name] for name in metadata_type.names)
            image["mode"] = IMAGE_MODES["raw" if dataset.info["encoding"]["raw"] else "jpg"]
            image["height"], image["width"] = dataset.sizes_N2[i]
            h, w = dataset.sizes_N2[i]
            image["data_ptr"] = writer.add(i, data[-int(h * w * 3) :] if dataset.info["encoding"]["raw"] else data)
            number[:] = dataset.ids_N[i]
            for target, values, field in zip(arrays, dataset.target(i), list(fields.values())[2:], strict=True):
                padded = np.zeros(field.shape, field.dtype)
                padded[: len(values)] = values
                target[:] = writer.add(i, padded.tobytes())
        table_position = -(-writer.position // page) * page
        file.seek(table_position)
        file.write(np.array(writer.allocations, ALLOC_TABLE_TYPE).tobytes())
        header = np.zeros(1, HeaderType)
        header["version"], header["num_fields"], header["page_size"] = CURRENT_VERSION, len(fields), page
        header["num_samples"], header["alloc_table_ptr"] = N, table_position
        file.seek(0)
        file.write(header.tobytes() + descriptors.tobytes() + metadata.tobytes())


def structure_checksum(path: Path, head: int, tail: int) -> str:
    """SHA-256 of what FFCV follows blindly: header, field types, metadata (`head` bytes) and the table at `tail`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(head))
        file.seek(tail)
        digest.update(file.read())
    return digest.hexdigest()


def add_beton(out: Path) -> None:
    """Write data.beton beside the shards and enter it in dataset.json; nothing to do when it is there."""
    with PackedDataset(out) as dataset:
        if dataset.info["beton"] and (out / NAME).is_file():
            return
        with replacing(out / NAME, temporary(out, NAME)) as path:
            write_beton(dataset, path)
        from ffcv.reader import Reader

        reader = Reader(str(out / NAME))
        head = reader.header.nbytes + reader.field_descriptors.nbytes + reader.metadata.nbytes
        tail = int(reader.header["alloc_table_ptr"])
        entry = {
            "file": NAME,
            "bytes": (out / NAME).stat().st_size,
            "head": head,
            "tail": tail,
            "structure_sha256": structure_checksum(out / NAME, head, tail),
        }
        replace_file(out, "dataset.json", card_bytes(dataset.info | {"beton": entry}))
