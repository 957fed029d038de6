"""What a packed dataset was made of, field by field, so that packing again can say what is different.

Options stand in words, and what is long as its SHA-256. Nothing here changes when files are copied: no time stamps and
no folders. Datasets packed before the fields had names hold one hash instead; it is still compared, as a whole.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.command.console import track
from pipeline.packed.card import VERSION, read_card
from pipeline.packed.reader import PackedDataset
from pipeline.packed.shards import Encoding, Record, ShardJob, pack_extra, pack_picture

HASHED = ("images", "annotations", "domains", "problems", "extra")


def digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def make_fingerprint(
    records: Sequence[Record],
    num_bytes: Sequence[int],
    encoding: Encoding,
    classes: Sequence[str],
    images_per_shard: int,
    problems: Sequence[str],
    extra: list[dict[str, Any]],
) -> dict[str, Any]:
    """num_bytes: of each record's picture file; extra: the modalities, as dataset.json has them."""
    made: dict[str, Any] = {
        "version": VERSION,
        **encoding._asdict(),
        "classes": list(classes),
        "images_per_shard": images_per_shard,
        "images": digest([(r.id, r.file_name, r.size, count) for r, count in zip(records, num_bytes, strict=True)]),
        "annotations": digest([(r.id, r.boxes.hex(), r.labels, r.ignore) for r in records]),
        "domains": digest([(r.id, r.domain) for r in records]),
        "problems": digest(list(problems)),
    }
    if extra:
        files = [(r.id, [(one.file_name, os.stat(one.path).st_size) for one in r.extra]) for r in records]
        made["extra"] = digest(extra, files)
    return made


def find_differences(stored: Any, now: dict[str, Any], unnamed: str) -> list[str]:
    """How the fingerprint in a dataset.json differs, in words; [] where it does not.

    unnamed: the one hash that an older version would have made now.
    """
    if isinstance(stored, str):
        return [] if stored == unnamed else ["packed by an older version, which did not note what of"]
    if not isinstance(stored, dict):
        return ["its fingerprint is damaged"]
    names = [*now, *(name for name in ("extra",) if name in stored and name not in now)]
    different = [name for name in names if name not in stored or name not in now or stored[name] != now[name]]
    if "classes" in different and "annotations" in different:
        different.remove("annotations")  # a label is a number in the list of classes
    return [
        f"other {name}" if name in HASHED else f"{name} {stored.get(name)} there, {now[name]} now" for name in different
    ]


def check_same(out: Path, jobs: Sequence[ShardJob], fingerprint: dict[str, Any], unnamed: str) -> None:
    """The dataset is of these images and options. The fingerprint holds names, annotations and sizes in bytes: nothing
    that a copy of the files would alter. A picture touched since its shard was made is packed again to compare.
    """
    if different := find_differences(read_card(out)["fingerprint"], fingerprint, unnamed):
        raise ValueError(
            f"{out} already holds a packed dataset of other images or options ({'; '.join(different)}): delete it or "
            "choose another folder"
        )
    with PackedDataset(out) as dataset:
        touched = [
            record
            for job in jobs
            for record in job.records
            if any(
                os.stat(path).st_ctime_ns > job.tar.stat().st_mtime_ns
                for path in (record.path, *(aligned.path for aligned in record.extra))
            )
        ]
        known = set(dataset.ids_N.tolist())
        for record in track(touched, f"comparing what is newer than {out.name}", len(touched)):
            found: list[bytes] | None = None
            with contextlib.suppress(ValueError):
                size, data = pack_picture(record, jobs[0].encoding)
                extra = pack_extra(record, size, jobs[0].encoding)
                found = [hashlib.sha256(content).digest() for content in (data, *(one[1] for one in extra.values()))]
            stored: list[bytes] | None = None
            if record.id in known:
                row = dataset.index_of(record.id)
                stored = [dataset.sha256_of(row), *(dataset.sha256_of(row, one.name) for one in record.extra)]
            if found != stored:
                raise ValueError(
                    f"{record.file_name} was changed after {out} was packed; delete {out} or choose another folder"
                )
