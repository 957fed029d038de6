"""A packed dataset as pictures and annotations for other tools: `python -m pipeline.unpack DIR OUT --to coco|voc|yolo`.

Pictures are named by their id and hold the packed bytes (PNG where packed with --raw); boxes are in their pixels.
Ignored boxes become COCO's iscrowd or VOC's difficult. YOLO has nothing of the kind: they are left out and counted.

    coco   images/KEY.jpg       annotations/instances_SPLIT.json
    voc    JPEGImages/KEY.jpg   Annotations/KEY.xml, ImageSets/Main/SPLIT.txt
    yolo   images/SPLIT/KEY.jpg labels/SPLIT/KEY.txt, data.yaml

Images of other sensors lie in folders of their own beside the pictures: gated0/KEY.jpg, or gated0/SPLIT/KEY.jpg.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import tyro
import yaml
from PIL import Image

from pipeline.command.console import counted, run_entry, say, track
from pipeline.files.pixels import decode_packed
from pipeline.packed.reader import PackedDataset
from pipeline.sources.choice import choose_domains
from pipeline.sources.classes import Names, split_names


@dataclass(frozen=True)
class UnpackOptions:
    """Write a packed dataset as COCO, Pascal VOC or YOLO."""

    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Packed dataset."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write; made when missing, otherwise empty."""
    to: Literal["coco", "voc", "yolo"]
    """Format of the annotations."""
    split: Literal["train", "val", "test"] = "train"
    """What the annotation file, list or folder is called."""
    domains: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Only images of these domains; * stands for anything: --domains daytime_clear 'night_*'."""


class Unpacked(NamedTuple):
    """One picture that has been written."""

    id: int
    name: str  # of the file
    size: tuple[int, int]  # (h, w)
    boxes_N4: np.ndarray  # float64, in its pixels
    labels_N: list[int]
    ignore_N: list[bool]
    domain: str
    original: str  # name of the picture it was made from


def unpack(options: UnpackOptions) -> None:
    out = options.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose a folder to write")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose an empty or new folder")
    with PackedDataset(options.packed) as dataset:
        if out.resolve().is_relative_to(options.packed.resolve()):
            raise ValueError(f"{out} is inside {options.packed}, the packed dataset: choose a folder elsewhere")
        patterns = split_names(options.domains)
        kept = choose_domains(patterns or ("*",), dataset.domains, str(options.packed))
        rows = [i for i in range(len(dataset)) if dataset.domain_of(i) in kept]
        writers = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
        left_out = writers[options.to](dataset, rows, out, options.split)
        weighted = any((dataset.box_weights(i) != 1).any() for i in rows)
    say(f"{out}: {counted(len(rows), 'picture')} with their boxes as {options.to}, split {options.split}")
    if left_out:
        say(f"{counted(left_out, 'ignored box', 'ignored boxes')} left out: YOLO has no way to say it")
    if weighted:
        say("the boxes' weights are left out: the format has no place for them")


def write_pictures(dataset: PackedDataset, rows: list[int], out: Path, place: str) -> Iterator[Unpacked]:
    """place: the pictures' folder below out; those of other sensors have their own name in the place of its first."""
    first, *rest = place.split("/")
    channels = {"": 3, **{name: num for one in dataset.extra for name, num in dataset.members_of(one).items()}}
    folders = {member: Path(out, member or first, *rest) for member in channels}
    for folder in folders.values():
        folder.mkdir(parents=True)
    names = dataset.file_names
    for i in track(rows, f"unpacking {dataset.path.name}", len(rows)):
        files = {}
        for member, num in channels.items():
            data, suffix = picture_file(dataset.encoded(i, member), num)
            files[member] = f"{dataset.ids_N[i]:012d}.{suffix}"
            (folders[member] / files[member]).write_bytes(data)
        boxes_N4, labels_N, ignore_N = dataset.target(i)
        h, w = dataset.sizes_N2[i].tolist()
        yield Unpacked(
            int(dataset.ids_N[i]),
            files[""],
            (h, w),
            boxes_N4.astype(np.float64),
            labels_N.tolist(),
            ignore_N.tolist(),
            dataset.domain_of(i),
            names[i],
        )


def picture_file(packed: memoryview, channels: int) -> tuple[bytes, str]:
    """A file's content and its suffix: the packed JPEG itself, or PNG of what was packed without loss."""
    if bytes(packed[:2]) == b"\xff\xd8":
        return bytes(packed), "jpg"
    image, sink = decode_packed(packed, channels), io.BytesIO()
    Image.fromarray(image[..., 0] if channels == 1 else image).save(sink, "PNG")
    return sink.getvalue(), "png"


def write_coco(dataset: PackedDataset, rows: list[int], out: Path, split: str) -> int:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for one in write_pictures(dataset, rows, out, "images"):
        h, w = one.size
        images.append(
            {
                "id": one.id,
                "file_name": one.name,
                "height": h,
                "width": w,
                "domain": one.domain,
                "original_file_name": one.original,
            }
        )
        for (x1, y1, x2, y2), label, ignore in zip(one.boxes_N4.tolist(), one.labels_N, one.ignore_N, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": one.id,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignore),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(dataset.classes, start=1)]
    (out / "annotations").mkdir()
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (out / f"annotations/instances_{split}.json").write_text(text)
    return 0


def xml_text(text: str) -> str:
    """Escaped, without the characters that XML cannot hold."""
    shown = re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)
    return escape(re.sub("[\ufffe\uffff]", "?", shown))


def write_voc(dataset: PackedDataset, rows: list[int], out: Path, split: str) -> int:
    """VOC's corners are 1-based and inclusive: xmin = x1 + 1, xmax = x2."""
    (out / "Annotations").mkdir(parents=True)
    stems = []
    for one in write_pictures(dataset, rows, out, "JPEGImages"):
        h, w = one.size
        stems.append(Path(one.name).stem)
        lines = [
            "<annotation>",
            f"  <folder>JPEGImages</folder><filename>{one.name}</filename><domain>{xml_text(one.domain)}</domain>",
            f"  <size><width>{w}</width><height>{h}</height><depth>3</depth></size>",
        ]
        for (x1, y1, x2, y2), label, ignore in zip(one.boxes_N4.tolist(), one.labels_N, one.ignore_N, strict=True):
            corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            lines += [
                f"  <object><name>{xml_text(dataset.classes[label - 1])}</name><difficult>{int(ignore)}</difficult>",
                f"    <bndbox>{corners}</bndbox></object>",
            ]
        (out / f"Annotations/{stems[-1]}.xml").write_text("\n".join([*lines, "</annotation>", ""]), "utf-8")
    (out / "ImageSets/Main").mkdir(parents=True)
    (out / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return 0


def write_yolo(dataset: PackedDataset, rows: list[int], out: Path, split: str) -> int:
    (out / "labels" / split).mkdir(parents=True)
    left_out = 0
    for one in write_pictures(dataset, rows, out, f"images/{split}"):
        h, w = one.size
        lines = []
        for (x1, y1, x2, y2), label, ignore in zip(one.boxes_N4.tolist(), one.labels_N, one.ignore_N, strict=True):
            if ignore:
                left_out += 1
                continue
            center = (x1 + x2) / 2 / w, (y1 + y2) / 2 / h
            lines.append(f"{label - 1} {center[0]} {center[1]} {(x2 - x1) / w} {(y2 - y1) / h}\n")
        (out / f"labels/{split}/{Path(one.name).stem}.txt").write_text("".join(lines))
    card = {split: f"images/{split}", "nc": len(dataset.classes), "names": list(dataset.classes)}
    (out / "data.yaml").write_text(yaml.safe_dump(card, allow_unicode=True, sort_keys=False), "utf-8")
    return left_out


def main() -> None:
    unpack(tyro.cli(UnpackOptions))


if __name__ == "__main__":
    run_entry(main)
