"""A packed dataset made from another one: ids of chosen images as they are, boxes given anew, or pictures and domains.

Pictures that are not given anew, and what lies beside a picture, are copied byte for byte. A killed run continues: a
shard that is finished is kept. Bytes depend on the source, the chosen rows, `origin` and what `annotate` answers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.command.console import Progress, say
from pipeline.packed.card import VERSION, build_card, read_card, report
from pipeline.packed.fingerprint import digest
from pipeline.packed.index import list_shards, write_card, write_index
from pipeline.packed.output_folder import begin, check_output, clear_work
from pipeline.packed.reader import PackedDataset
from pipeline.packed.shards import Encoding, Picture, Record, ShardJob, ShardResult, read_shard, suffix_of, write_shard


class Objects(NamedTuple):
    """What is said of one image."""

    boxes_N4: np.ndarray  # float32 xyxy in pixels of the original picture
    labels_N: np.ndarray
    ignore_N: np.ndarray
    weight_N: np.ndarray | None = None  # above 0 and at most 1; none: 1 each
    picture: bytes | None = None  # encoded, of the same size as the source's; none: the source's
    domain: str | None = None  # none: the source's


Annotate = Callable[[Sequence[int]], Sequence[Objects]]  # rows of the source -> what is said of each


def own_objects(dataset: PackedDataset) -> Annotate:
    """The boxes as they are."""

    def annotate(rows: Sequence[int]) -> list[Objects]:
        weights = [dataset.box_weights(row) if dataset.weighted else None for row in rows]
        return [Objects(*dataset.original_target(row), weight) for row, weight in zip(rows, weights, strict=True)]

    return annotate


def nothing_known(dataset: PackedDataset) -> Annotate:
    """Everything in the images is ignored, for every class: they are unlabelled."""
    return lambda rows: [all_ignored(tuple(dataset.original_sizes_N2[row]), len(dataset.classes)) for row in rows]


def all_ignored(size: tuple[int, int], num_labels: int) -> Objects:
    """One ignored box a class, around the whole image of this height and width."""
    height, width = size
    boxes_N4 = np.tile(np.array((0, 0, width, height), np.float32), (num_labels, 1))
    return Objects(boxes_N4, np.arange(1, num_labels + 1), np.ones(num_labels, bool))


def check_place(dataset: PackedDataset, out: Path) -> None:
    """Before any work: the output is a folder of ours, and not inside the source."""
    if out.resolve().is_relative_to(dataset.path.resolve()) or dataset.path.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{out} and the source {dataset.path} lie in each other; choose another folder")
    check_output(out)


def fingerprint_of(dataset: PackedDataset, rows: Sequence[int] | np.ndarray, origin: dict[str, Any]) -> dict[str, Any]:
    chosen = digest([int(dataset.ids_N[row]) for row in rows])
    return {"version": VERSION, "source": dataset.checksum, "images": chosen, **origin}


def is_made(
    dataset: PackedDataset, out: Path, rows: Sequence[int] | np.ndarray, origin: dict[str, Any], apart_from: str = ""
) -> bool:
    """Whether `out` is there already, of the same; an error where it is of other things.

    apart_from: a part of the origin that follows from the others and is not known yet.
    """
    if not (out / "dataset.json").exists():
        return False
    known = {name: value for name, value in read_card(out)["fingerprint"].items() if name != apart_from}
    if known != fingerprint_of(dataset, rows, origin):
        raise ValueError(
            f"{out} already holds a packed dataset made of other images or with other options: delete it or choose "
            "another folder"
        )
    say(f"{out} is already made, of the same images and options")
    return True


def derive(
    dataset: PackedDataset,
    out: Path,
    rows: Sequence[int] | np.ndarray,
    origin: dict[str, Any],
    annotate: Annotate,
    weighted: bool = False,
    accept: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Write the packed dataset `out` of these rows; False where it is there already, made of the same.

    origin: what decides the boxes beside the source, in plain values; the card records it. `annotate` is asked for one
    shard's images at a time, and only for shards that are not made yet. `accept` is shown the card before the dataset
    exists; what it raises leaves it unfinished.
    """
    check_place(dataset, out)
    per_shard = min(512, max(16, -(-len(rows) // 8)))
    encoding = Encoding(**dataset.info["encoding"])
    if is_made(dataset, out, rows, origin):
        return False
    fingerprint = fingerprint_of(dataset, rows, origin)
    begin(out)
    jobs, shards = [], []
    with Progress(f"making {out.name}", len(rows)) as progress:
        for number, start in enumerate(range(0, len(rows), per_shard)):
            some = [int(row) for row in rows[start : start + per_shard]]
            job = ShardJob(str(out), number, (), encoding, dataset.classes, digest(fingerprint, number, per_shard))
            jobs.append(job)
            shards.append(read_shard(job, verify=True) or make(job, dataset, some, annotate(some), weighted))
            progress.advance(len(some))
    index, index_file = write_index(out, shards, dataset.members, weighted)
    source = {"format": "derived", "folder": dataset.path.resolve().name, "checksum": dataset.checksum, **origin}
    lists = list_shards(jobs, shards)
    extra = dataset.info.get("extra", [])
    card = build_card(index, index_file, lists, dataset.classes, encoding._asdict(), source, {}, fingerprint, extra)
    if accept is not None:
        accept(card)
    write_card(out, card | ({"weights": True} if weighted else {}))
    clear_work(out)
    say(report(read_card(out), out.resolve().name))
    return True


def make(
    job: ShardJob, dataset: PackedDataset, rows: Sequence[int], objects: Sequence[Objects], weighted: bool
) -> ShardResult:
    suffixes = {
        member["name"]: suffix_of(job.encoding.raw or modality.get("raw", False), member["channels"])
        for modality in dataset.info.get("extra", ())
        for member in modality["members"]
    }

    def pictures() -> Iterator[Picture]:
        for row, (boxes_N4, labels_N, ignore_N, weight_N, picture, domain) in zip(rows, objects, strict=True):
            record = Record(
                int(dataset.ids_N[row]),
                "",
                dataset.file_names[row],
                tuple(dataset.original_sizes_N2[row].tolist()),
                np.asarray(boxes_N4, np.float32).tobytes(),
                tuple(labels_N.tolist()),
                tuple(ignore_N.tolist()),
                dataset.domain_of(row) if domain is None else domain,
            )
            weight = None if weight_N is None else tuple(np.asarray(weight_N, np.float32).tolist())
            extra = {name: (suffix, dataset.encoded(row, name)) for name, suffix in suffixes.items()}
            size = tuple(dataset.sizes_N2[row].tolist())
            yield Picture(record, size, picture or dataset.jpeg(row), extra, weight)

    write_shard(job, pictures(), [], dataset.members, weighted)
    result = read_shard(job, verify=False)
    if result is None:
        raise ValueError(f"{job.tar} changed while it was written; is another run writing {job.out}?")
    return result
