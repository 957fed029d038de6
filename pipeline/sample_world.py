"""A procedural street world in the benchmark's own layout: `python -m pipeline.sample_world --out data/sample`.

Five domains (clear day, clear night, rainy dusk, rainy night, foggy day), seven classes, boxes tight to the visible
pixels. Every picture is a pure function of (seed, domain, split, number) for any number of workers. A picture that is
already there is skipped, and the lists are written last. So an interrupted run continues where it stopped.

    <out>/<domain>/VOC2007/Annotations/<name>.xml      VOC: 1-based, both ends inside the box
    <out>/<domain>/VOC2007/JPEGImages/<name>.jpg
    <out>/<domain>/VOC2007/ImageSets/Main/{train,test}.txt    targets have no test.txt, as in the benchmark
    <out>/<domain>/VOC2007/gated{0,1,2}/<name>.jpg     with --extra: slices of a gated near-infrared camera
    <out>/<domain>/VOC2007/depth/<name>.png            and depth, 16 bits, in centimetres (65535: sky)
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2

from pipeline.command.console import Progress, run_entry, say
from pipeline.command.workers import WorkerPool, deaths_explained, end_with_parent
from pipeline.files.own import ANY, Each, read_json
from pipeline.files.replace import replace_bytes
from pipeline.world.gated import SLICES
from pipeline.world.picture import LabelledObject, draw_picture
from pipeline.world.traffic import CLASSES
from pipeline.world.weather import DOMAINS

SOURCE = DOMAINS[0]
WORLD_VERSION = 6  # raised whenever the same seed would draw other pictures
JPEG_QUALITY = 92
SMALLEST_SIDE, LARGEST_SIDE = 64, 4096


@dataclass(frozen=True)
class SampleWorld:
    """What to draw."""

    out: Path = Path("data/sample")
    train: int = 400  # pictures of daytime_clear to train on
    test: int = 100  # pictures of daytime_clear to test on
    target: int = 100  # pictures of each of the four target domains
    size: str = "640x360"  # width x height
    seed: int = 0
    workers: int | None = None  # processes; all cores when not given
    domains: tuple[str, ...] = DOMAINS  # which to draw
    extra: bool = False  # what other sensors see, too: gated0, gated1, gated2 and depth, beside JPEGImages


def parse_size(text: str) -> tuple[int, int]:
    """ "640x360" to (640, 360)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size: got {text!r}, expected WIDTHxHEIGHT in pixels, for example 640x360")
    width, height = int(match[1]), int(match[2])
    if min(width, height) < SMALLEST_SIDE or max(width, height) > LARGEST_SIDE:
        raise ValueError(f"--size: got {text}, allowed are sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    return width, height


def write_annotation(path: Path, name: str, width: int, height: int, objects: list[LabelledObject]) -> None:
    """A VOC2007 annotation. VOC counts pixels from 1 and both corners are inside the box."""
    root = ElementTree.Element("annotation")

    def child(parent: ElementTree.Element, tag: str, text: object = None) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag)
        element.text = None if text is None else str(text)
        return element

    child(root, "folder", "VOC2007")
    child(root, "filename", f"{name}.jpg")
    child(child(root, "source"), "database", "Fairweather sample world")
    size = child(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        child(size, tag, value)
    child(root, "segmented", 0)
    for item in objects:
        element = child(root, "object")
        child(element, "name", item.name)
        child(element, "pose", "Unspecified")
        child(element, "truncated", int(item.truncated))
        child(element, "difficult", int(item.difficult))
        box = child(element, "bndbox")
        x1, y1, x2, y2 = item.box
        for tag, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            child(box, tag, value)
    ElementTree.indent(root)
    write_whole(path, ElementTree.tostring(root) + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Thousands of small files: forcing each to the disk would take minutes."""
    replace_bytes(path, content, flushed=False)


def picture_paths(out: Path, domain: str, name: str, extra: bool) -> list[Path]:
    """The picture, what other sensors see, and the annotation."""
    folder = out / domain / "VOC2007"
    beside = [*(folder / slice / f"{name}.jpg" for slice in SLICES), folder / "depth" / f"{name}.png"]
    return [folder / "JPEGImages" / f"{name}.jpg", *(beside if extra else ()), folder / "Annotations" / f"{name}.xml"]


def write_picture(task: tuple[str, str, str, int, int, int, int, bool]) -> None:
    """Draw and write one picture; the annotation comes last and marks it finished."""
    out, domain, split, number, width, height, seed, extra = task
    cv2.setNumThreads(1)  # one process a core does the sharing out
    name = picture_name(domain, split, number)
    *image_paths, annotation_path = picture_paths(Path(out), domain, name, extra)
    picture = draw_picture(domain, split, number, width, height, seed, extra)
    images = [cv2.cvtColor(picture.image_HW3, cv2.COLOR_RGB2BGR)]
    if picture.sensors is not None:
        images += [*picture.sensors.slices_SHW, picture.sensors.depth_HW]
    for path, image in zip(image_paths, images, strict=True):
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
        done, encoded = cv2.imencode(path.suffix, image, quality)
        assert done
        write_whole(path, encoded.tobytes())
    write_annotation(annotation_path, name, width, height, picture.objects)


def picture_name(domain: str, split: str, number: int) -> str:
    return f"{domain}_{split}_{number:06d}"


def check_same_world(out: Path, settings: dict) -> None:
    """Refuse to continue a folder that was begun with another seed, size or version."""
    path = out / "world.json"
    if path.exists():
        found = read_json(path, Each(ANY), f"remove {out} and run again")
        if found != settings:
            changed = ", ".join(
                f"{key} {found.get(key)} (now {value})" for key, value in settings.items() if found.get(key) != value
            )
            raise ValueError(f"{out}: holds another sample world: {changed}; choose another --out or remove this one")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(settings) + "\n").encode())


def make_sample_world(config: SampleWorld, quiet: bool = False) -> dict[str, list[str]]:
    """Write the whole world; returns the names in every list, by "domain/split"."""
    width, height = parse_size(config.size)
    workers = config.workers if config.workers is not None else len(os.sched_getaffinity(0))
    for option, value, least in (("train", config.train, 0), ("test", config.test, 0), ("target", config.target, 0),
                                 ("seed", config.seed, 0), ("workers", workers, 1)):  # fmt: skip
        if value < least:
            raise ValueError(f"--{option}: got {value}, must be at least {least}")
    if unknown := [name for name in config.domains if name not in DOMAINS]:
        raise ValueError(f"--domains: got {unknown[0]}, allowed are {', '.join(DOMAINS)}")
    check_same_world(config.out, {"version": WORLD_VERSION, "seed": config.seed, "width": width, "height": height})
    lists: dict[str, list[str]] = {}
    tasks = []
    for domain in config.domains:
        folder = config.out / domain / "VOC2007"
        for part in ("Annotations", "JPEGImages", "ImageSets/Main", *((*SLICES, "depth") if config.extra else ())):
            (folder / part).mkdir(parents=True, exist_ok=True)
        numbers = {"train": config.train, "test": config.test} if domain == SOURCE else {"train": config.target}
        for split, count in numbers.items():
            if count == 0:
                continue
            lists[f"{domain}/{split}"] = [picture_name(domain, split, number) for number in range(count)]
            for number in range(count):
                paths = picture_paths(config.out, domain, picture_name(domain, split, number), config.extra)
                if not all(path.exists() for path in paths):
                    tasks.append((str(config.out), domain, split, number, width, height, config.seed, config.extra))
    total = sum(map(len, lists.values()))
    if tasks:
        # Compile the loops here, once; the workers find them in Numba's cache.
        draw_picture("night_rainy", "train", 0, SMALLEST_SIDE, SMALLEST_SIDE, 0, config.extra)
    with Progress("sample world", total, done=total - len(tasks), quiet=quiet) as progress:
        if workers == 1 or len(tasks) < 4:
            for task in tasks:
                write_picture(task)
                progress.advance()
        else:
            pool = WorkerPool(workers, end_with_parent)
            try:
                with deaths_explained():
                    for _ in pool.map(write_picture, tasks, chunksize=2):
                        progress.advance()
            finally:
                pool.shutdown(cancel_futures=True)
    for key, names in lists.items():
        domain, split = key.split("/")
        path = config.out / domain / "VOC2007" / "ImageSets" / "Main" / f"{split}.txt"
        write_whole(path, "".join(f"{name}\n" for name in names).encode())
    return lists


def main() -> None:
    import tyro

    config = tyro.cli(SampleWorld, description=__doc__)
    workers = config.workers if config.workers is not None else len(os.sched_getaffinity(0))
    say(f"sample world: {config.size}, seed {config.seed}, {workers} processes, classes {', '.join(CLASSES)}")
    lists = make_sample_world(config)
    counts = ", ".join(f"{len(names)} in {key}" for key, names in lists.items())
    say(f"{config.out}: {sum(map(len, lists.values()))} pictures, {counts}")


if __name__ == "__main__":
    run_entry(main, "run the same command again to continue")
