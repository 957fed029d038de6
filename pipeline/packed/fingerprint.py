"""What a packed dataset was made of, field by field, so that packing again can say what is different.

Options stand in words, and what is long as its SHA-256. Nothing here changes when files are copied: no time stamps and
no folders. Datasets packed before the fields had names hold one hash instead; it is still compared, as a whole.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.command.console import track
from pipeline.packed.card import VERSION, read_card
from pipeline.packed.reader import PackedDataset
from pipeline.packed.shards import Encoding, Record, ShardJob, pack_picture

HASHED = ("images", "annotations", "domains", "problems")


def digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def make_fingerprint(
    records: Sequence[Record],
    num_bytes: Sequence[int],
    encoding: Encoding,
    classes: Sequence[str],
    images_per_shard: int,
    problems: Sequence[str],
) -> dict[str, Any]:
    """num_bytes: of each record's picture file."""
    return {
        "version": VERSION,
        **encoding._asdict(),
        "classes": list(classes),
        "images_per_shard": images_per_shard,
        "images": digest([(r.id, r.file_name, r.size, count) for r, count in zip(records, num_bytes, strict=True)]),
        "annotations": digest([(r.id, r.boxes.hex(), r.labels, r.ignore) for r in records]),
        "domains": digest([(r.id, r.domain) for r in records]),
        "problems": digest(list(problems)),
    }


def find_differences(stored: Any, now: dict[str, Any], unnamed: str) -> list[str]:
    """How the fingerprint in a dataset.json differs, in words; [] where it does not.

    unnamed: the one hash that an older version would have made now.
    """
    if isinstance(stored, str):
        return [] if stored == unnamed else ["packed by an older version, which did not note what of"]
    if not isinstance(stored, dict):
        return ["its fingerprint is damaged"]
    different = [name for name in now if name not in stored or stored[name] != now[name]]
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
            if os.stat(record.path).st_ctime_ns > job.tar.stat().st_mtime_ns
        ]
        known = set(dataset.ids_N.tolist())
        for record in track(touched, f"comparing what is newer than {out.name}", len(touched)):
            try:
                found = hashlib.sha256(pack_picture(record, jobs[0].encoding)[1]).digest()
            except ValueError:
                found = None
            if found != (dataset.sha256_of(dataset.index_of(record.id)) if record.id in known else None):
                raise ValueError(
                    f"{record.file_name} was changed after {out} was packed; delete {out} or choose another folder"
                )
