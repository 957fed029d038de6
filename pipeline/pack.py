"""Pack any annotated dataset once, at training size: `python -m pipeline.pack ROOT OUT [options]`.

A killed run continues where it was when started again. When ROOT has the layout of the diverse-weather benchmark or of
Seeing Through Fog, OUT gets one packed dataset for every scored part (daytime_clear_train, night_sunny_train, ...),
otherwise OUT is it.
"""

import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import tyro

from pipeline.command.console import Progress, counted, run_entry, say
from pipeline.command.workers import WorkerPool, deaths_explained, end_with_parent
from pipeline.files.escape import printable_line
from pipeline.files.problems import SHOWN, check_allowed, problem_list
from pipeline.packed.card import VERSION, build_card, read_card, report
from pipeline.packed.fingerprint import check_same, digest, make_fingerprint
from pipeline.packed.index import list_shards, write_card, write_index
from pipeline.packed.output_folder import WORK, begin, check_output, clear_work, replace_file
from pipeline.packed.shards import (
    Aligned,
    Encoding,
    Record,
    ShardJob,
    ShardResult,
    make_shard,
    read_shard,
)
from pipeline.sources import diverse_weather, seeing_through_fog
from pipeline.sources.annotated import class_name, relative
from pipeline.sources.choice import choose_domains
from pipeline.sources.classes import Names, split_names
from pipeline.sources.options import DEFAULTS, ReadOptions
from pipeline.sources.read import FORMATS, Source, read_source

FOLDERS = 4  # of a dataset that are named
SHOW_EVERY_S = 1.0  # how often the progress of shards that are being made is looked at


@dataclass(frozen=True)
class PackOptions:
    """Read an annotated dataset, check it, and pack it for training and evaluation."""

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder of the dataset: Pascal VOC, the diverse-weather benchmark, YOLO, COCO, BDD100K, KITTI, Seeing
    Through Fog."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write; made when missing."""
    format: Literal[("auto", *FORMATS)] = "auto"  # type: ignore[valid-type]
    """How ROOT is annotated; auto recognises it by its files. The diverse-weather benchmark is voc, Seeing Through Fog
    is stf. pictures: nobody labelled it, all in it is ignored."""
    split: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Which lists to read (--split train val); 'all' for every one. Not needed when there is only one."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their numbers. Default: the dataset's own order, or the benchmark's seven."""
    map: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Rename classes: --map motorcycle=motor bicycle=bike."""
    drop: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Leave the objects of these classes out: --drop ambulance bike. --drop '*': of all but --classes."""
    domain: str = ""
    """Name of the domain the images belong to. Default: the folder's name, or what the format itself says."""
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = DEFAULTS
    short_side: int = 600
    """Pixels of a picture's shorter side when packed; fewer where its longer side would pass --long-side."""
    long_side: int = 1000
    """The most pixels of its longer side."""
    quality: int = 92
    """JPEG quality, 1 to 100."""
    chroma: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"
    """JPEG colour resolution; 4:4:4 keeps all of it."""
    raw: bool = False
    """Store the resized pixels without loss (PPM), about ten times larger."""
    workers: int = 0
    """Processes; 0 means one a core. The output does not depend on it."""
    images_per_shard: int = 0
    """0 chooses by the number of images alone: an eighth of them, but 16 at least and 512 at most."""
    allow_bad: int = 0
    """Accept up to this many problems; they are left out and listed in OUT/problems.txt."""
    beton: bool = False
    """Also write data.beton for the FFCV loader."""
    part: str = ""
    """i/n: do only the i-th of n parts of the shards (for array jobs on one file system), then stop."""
    merge: bool = False
    """Finish a dataset whose parts are all done; makes nothing itself."""


def check_options(options: PackOptions) -> None:
    sides = options.short_side, options.long_side
    if not 1 <= sides[0] <= sides[1] <= 16384:
        raise ValueError(f"--short-side {sides[0]} --long-side {sides[1]}: expected 1 <= short <= long <= 16384")
    if not 1 <= options.quality <= 100:
        raise ValueError(f"--quality {options.quality}: expected 1 to 100")
    for name in ("workers", "images_per_shard", "allow_bad"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 0 or more")
    if options.raw and (options.quality, options.chroma) != (PackOptions.quality, PackOptions.chroma):
        raise ValueError("--quality and --chroma are for JPEG and --raw stores none: use one of the two")
    if options.merge and options.part:
        raise ValueError("--part makes shards and --merge only joins them: use one of the two")
    if options.beton and options.part:
        raise ValueError("--beton belongs to the last step: give it with --merge, not with --part")
    if options.beton:  # before an hour of packing, not after it
        from pipeline.packed.beton import import_ffcv

        import_ffcv()
    parse_part(options.part)
    root, out = options.root.resolve(), options.out.resolve()
    if root.is_relative_to(out):
        raise ValueError(f"{options.out} holds the source {options.root}; choose another output folder")
    if out.is_relative_to(root):
        raise ValueError(f"{options.out} is inside the source {options.root}, which is never changed; choose another")


def parse_part(text: str) -> tuple[int, int]:
    """'2/5' -> (2, 5); '' -> (1, 1)."""
    if not text:
        return 1, 1
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ValueError(f"--part {text}: expected i/n with 1 <= i <= n, for example 1/4")
    return int(first), int(second)


class Plan(NamedTuple):
    """What packing will make; it depends on the source and the options, not on workers."""

    jobs: list[ShardJob]
    fingerprint: dict[str, Any]
    unnamed: str  # the fingerprint as older versions wrote it: one hash


def plan_shards(source: Source, options: PackOptions) -> Plan:
    encoding = Encoding(options.short_side, options.long_side, options.quality, options.chroma, options.raw)
    records = [
        Record(
            sample.id,
            str(sample.path),
            relative(sample.path, source.root),
            sample.size,
            sample.boxes_N4.tobytes(),
            tuple(sample.labels_N.tolist()),
            tuple(sample.ignore_N.tolist()),
            sample.domain,
            tuple(
                Aligned(member.name, str(path), relative(path, source.root), member.limits, member.raw)
                for modality in source.extra
                for member in modality.members
                for path in [sample.extra[member.name]]
            ),
        )
        for sample in source.samples
    ]
    extra = describe_extra(source)
    per_shard = options.images_per_shard or min(512, max(16, -(-len(records) // 8)))
    head = (VERSION, encoding, source.classes, per_shard, *([extra] if extra else []))
    prints, stamps, num_bytes = [], [], []
    for record in records:
        status = os.stat(record.path)
        beside = [os.stat(aligned.path) for aligned in record.extra]
        files = [
            (aligned.file_name, other.st_size, other.st_mtime_ns)
            for aligned, other in zip(record.extra, beside, strict=True)
        ]
        prints.append((record.id, *record[2:4], record.boxes.hex(), *record[5:8], status.st_size))
        stamps.append((status.st_mtime_ns, files) if files else status.st_mtime_ns)
        num_bytes.append(status.st_size)
    jobs = []
    for number, start in enumerate(range(0, len(records), per_shard)):
        chosen = slice(start, start + per_shard)
        fingerprint = digest(head, number, prints[chosen], stamps[chosen])
        jobs.append(ShardJob(str(options.out), number, tuple(records[chosen]), encoding, source.classes, fingerprint))
    problems = [str(problem) for problem in source.problems]
    named = make_fingerprint(records, num_bytes, encoding, source.classes, per_shard, problems, extra)
    return Plan(jobs, named, digest(head, prints, problems))


def describe_extra(source: Source) -> list[dict[str, Any]]:
    """The modalities as dataset.json has them."""
    return [
        {
            "name": modality.name,
            "members": [
                {"name": member.name, "channels": source.extra_channels[member.name]} for member in modality.members
            ],
            **({"range": list(limits)} if (limits := modality.members[0].limits) else {}),
            **({"raw": True} if modality.members[0].raw else {}),
        }
        for modality in source.extra
    ]


_looked_at: Any = None  # in a worker: how many images of each job it has looked at; one writer a place, so no lock


def _start_worker(looked_at: Any) -> None:
    global _looked_at
    _looked_at = looked_at
    cv2.setNumThreads(1)  # there is a process for every core
    end_with_parent()


def _make_in_worker(place: int, job: ShardJob) -> None:
    def look() -> None:
        _looked_at[place] += 1

    make_shard(job, look)


def make_shards(jobs: list[ShardJob], workers: int, progress: Progress) -> None:
    """Every job, in a pool of processes when there are several; the first failure stops the rest and is raised here."""
    if workers == 1:
        for job in jobs:
            make_shard(job, progress.advance)
        return
    looked_at = RawArray("q", len(jobs))
    pool = WorkerPool(workers, partial(_start_worker, looked_at))
    shown = 0
    try:
        with deaths_explained():
            waiting = {pool.submit(_make_in_worker, place, job) for place, job in enumerate(jobs)}
            while waiting:
                done, waiting = wait(waiting, timeout=SHOW_EVERY_S, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                count = sum(looked_at)
                progress.advance(count - shown)
                shown = count
    finally:
        pool.shutdown(cancel_futures=True)


def pack(options: PackOptions) -> list[Path]:
    """Pack ROOT into OUT; returns the packed datasets that are finished."""
    check_options(options)
    options = replace(
        options, split=split_names(options.split), map=split_names(options.map), drop=split_names(options.drop)
    )
    classes = tuple(class_name(name, "--classes") for name in split_names(options.classes))
    named = split_names(options.read.domains)
    read = partial(read_source, rename=options.map, drop=options.drop, options=options.read)
    benchmark: Any = seeing_through_fog
    parts = benchmark.scored_parts(options.root) if options.format in ("auto", "stf") else []
    if not parts and options.format in ("auto", "voc"):
        benchmark = diverse_weather
        parts = benchmark.scored_parts(options.root)
    if parts:
        found = sorted({split for *_, split in parts})
        for split in options.split:
            if split not in (*found, "all"):
                raise ValueError(f"--split {split}: {options.root} has {', '.join(found)}")
        parts = [part for part in parts if not options.split or part[3] in options.split or "all" in options.split]
        if named:
            kept = choose_domains(named, list(dict.fromkeys(part[1] for part in parts)), str(options.root))
            parts = [part for part in parts if part[1] in kept]
        for name, *_ in parts:
            check_output(options.out / name)
        chosen = []
        for name, domain, folder, split in parts:  # all are read before the first is packed: faults show early
            try:
                source = read(
                    folder,
                    benchmark.FORMAT,
                    classes=classes or (benchmark.CLASSES if benchmark is diverse_weather else ()),
                    splits=(split,),
                    domain=options.domain or ("" if options.read.domain_name else domain),
                    options=replace(options.read, domains=()),
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            own = replace(options, out=options.out / name, split=(split,))
            check_source(source, own)
            chosen.append((name, source, own))
        made = []
        for name, source, own in chosen:
            finished = pack_source(source, own)
            # The sample world has only the folders in common with the benchmark.
            if finished and not (options.root / "world.json").exists():
                card = read_card(own.out)
                counts = {label: sum(row.values()) for label, row in card["objects"].items()}
                for line in benchmark.compare(name, card["num_images"], counts):
                    say(f"  {line}")
            made += finished
        return made
    check_output(options.out)
    source = read(options.root, options.format, classes=classes, splits=options.split, domain=options.domain)
    say(read_as(source))
    check_source(source, options)
    return pack_source(source, options)


def read_as(source: Source) -> str:
    """Which format was found, and where its pictures lie: another folder than the one that was meant shows here."""
    folders = Counter(os.path.relpath(sample.path.parent, source.root) for sample in source.samples)
    shown = [f"{printable_line(name)} {number}" for name, number in sorted(folders.items())[:FOLDERS]]
    more = f" and {len(folders) - FOLDERS} more folders" if len(folders) > FOLDERS else ""
    found = counted(len(source.samples), "image")
    return f"{source.root} is read as {source.format}: {found}, {', '.join(shown)}{more}"


def check_source(source: Source, options: PackOptions) -> None:
    listing = problems_name(options)
    if len(source.problems) > max(SHOWN, options.allow_bad):  # too many for a message
        begin(options.out)
        replace_file(options.out, listing, problem_list(source.problems).encode())
    more = "; decoding the pictures, which comes after this, may find more"
    check_allowed(source.problems, options.allow_bad, source.root, options.out / listing, more)
    if not source.samples:
        raise ValueError(f"{source.root}: no image is left to pack")


def problems_name(options: PackOptions) -> str:
    """Of the list of problems below OUT; each part writes its own."""
    part, num_parts = parse_part(options.part)
    return f"{WORK}/problems-{part}-of-{num_parts}.txt" if num_parts > 1 else "problems.txt"


def pack_source(source: Source, options: PackOptions) -> list[Path]:
    out = options.out
    plan = plan_shards(source, options)
    if (out / "dataset.json").exists():
        check_same(out, *plan)
        adding = "; adding data.beton" if options.beton and not (out / "data.beton").exists() else ""
        say(f"{out} is already packed from the same images and options{adding}")
    else:
        shards = run_jobs(plan.jobs, source, options)
        if shards is None:
            return []
        finish(shards, plan, source, options)
    if options.beton:
        from pipeline.packed.beton import add_beton

        add_beton(out)
    clear_work(out)
    say(report(read_card(out), out.resolve().name))
    return [out]


def run_jobs(jobs: list[ShardJob], source: Source, options: PackOptions) -> list[ShardResult] | None:
    """Make what is missing. The finished shards in order, or None after one part of several."""
    part, num_parts = parse_part(options.part)
    mine = [job for job in jobs if job.number % num_parts == part - 1]
    done = {job.number: result for job in mine if (result := read_shard(job, verify=True))}
    missing = [job for job in mine if job.number not in done]
    if options.merge and missing:
        names = ", ".join(job.tar.name for job in missing[:10])
        raise ValueError(
            f"{options.out}: {len(missing)} of {len(jobs)} shards are not made yet or damaged ({names}); run every "
            "--part first"
        )
    begin(options.out)
    if missing:
        workers = min(options.workers or len(os.sched_getaffinity(0)), len(missing))
        total, left = (sum(len(job.records) for job in some) for some in (mine, missing))
        with Progress(f"packing {options.out.name}", total, done=total - left) as progress:
            make_shards(missing, workers, progress)
    results = []
    for job in mine:
        result = done.get(job.number) or read_shard(job, verify=False)
        if result is None:
            raise ValueError(f"{job.tar} changed while packing; is another run writing {options.out}?")
        results.append(result)
    problems = [*source.problems, *(problem for result in results for problem in result.problems)]
    (options.out / problems_name(options)).unlink(missing_ok=True)
    if problems:
        replace_file(options.out, problems_name(options), problem_list(problems).encode())
    check_allowed(problems, options.allow_bad, source.root, options.out / problems_name(options))
    if num_parts > 1:
        say(
            f"{options.out}: part {part} of {num_parts} is done ({counted(len(mine), 'shard')}); "
            "when all are, run the command with --merge"
        )
        return None
    return results


def finish(shards: list[ShardResult], plan: Plan, source: Source, options: PackOptions) -> None:
    """index.parquet, then dataset.json: with it the dataset exists."""
    if not any(len(shard.table) for shard in shards):
        raise ValueError(f"{source.root}: no image is left to pack")
    members = [member.name for modality in source.extra for member in modality.members]
    index, index_file = write_index(options.out, shards, members)
    problems = [*source.problems, *(problem for shard in shards for problem in shard.problems)]
    kinds = {kind: sum(problem.skips == kind for problem in problems) for kind in ("image", "box", "clip")}
    card = build_card(
        index,
        index_file,
        list_shards(plan.jobs, shards),
        source.classes,
        plan.jobs[0].encoding._asdict(),
        {
            "format": source.format,
            "folder": source.root.name,
            "splits": list(options.split),
            "map": list(options.map),
            "drop": list(options.drop),
            **options.read.given(),
        },
        {
            "bad images": kinds["image"],
            "bad boxes": kinds["box"],
            "boxes clipped by more than 2 px": kinds["clip"],
            "boxes clipped by less than 2 px": source.num_clipped - sum(p.skips == "clip" for p in source.problems),
            **{f"objects of dropped class {label}": count for label, count in source.dropped.items()},
        },
        plan.fingerprint,
        describe_extra(source),
    )
    write_card(options.out, card)


def main() -> None:
    pack(tyro.cli(PackOptions))


if __name__ == "__main__":
    run_entry(main, "run the same command again to continue")
