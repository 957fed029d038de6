"""Pascal VOC: Annotations/*.xml, JPEGImages/*, ImageSets/Main/<split>.txt.

Corners are 1-based and inclusive (VOC development kit): x1 = xmin - 1, x2 = xmax in 0-based half-open pixels.
"""

import os
from pathlib import Path

from pipeline.files.parse import Node, inside, read_text, read_xml
from pipeline.files.pixels import SUFFIXES
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, relative


def find_voc(root: Path) -> Path | None:
    """The folder that holds Annotations and ImageSets: root itself or a VOC folder inside it."""
    for folder in (root, *(root / name for name in ("VOC2007", "VOC2012", "VOCdevkit/VOC2007", "VOCdevkit/VOC2012"))):
        if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
            return folder
    return None


def lists_missing(root: Path) -> str:
    """What to do about a folder of VOC annotations without image lists; '' for any other folder."""
    if find_voc(root) or not (root / "Annotations").is_dir():
        return ""
    return (
        "has Annotations, as Pascal VOC, but its image lists are missing: write ImageSets/Main/train.txt, "
        "a file name without its suffix on each line"
    )


def list_splits(folder: Path) -> list[str]:
    """Names of the image lists, without VOC's per-class lists such as car_train."""
    names = sorted(path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt"))
    return [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]


def read_voc(root: Path, splits: list[str], domain: str, problems: list[Problem]) -> list[Annotated]:
    folder = find_voc(root)
    if folder is None:
        missing = lists_missing(root)
        raise ValueError(
            f"{root} {missing}"
            if missing
            else f"{root}: no Annotations and ImageSets/Main folders, so this is not Pascal VOC"
        )
    pictures: dict[str, list[str]] = {}
    if (folder / "JPEGImages").is_dir():
        for name in sorted(os.listdir(folder / "JPEGImages")):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                pictures.setdefault(stem, []).append(name)
    images: list[Annotated] = []
    seen: set[str] = set()
    for split in choose_splits(list_splits(folder), splits, root):
        list_path = folder / "ImageSets" / "Main" / f"{split}.txt"
        list_name = relative(list_path, root)
        try:
            lines = read_text(list_path).splitlines()
        except ValueError as error:
            raise ValueError(f"{list_path} {error}") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"line {number}"
            stem = line.strip()
            try:
                inside(folder, stem)
                if "/" in stem or "\\" in stem:
                    raise ValueError(f"{stem[:80]!r} is not a plain image name")
                if stem.split() != [stem] and stem not in pictures:
                    raise ValueError(f"{stem[:80]!r} has more than one column")
            except ValueError as error:
                problems.append(Problem(list_name, where, str(error), "list one image name without suffix a line"))
                continue
            if stem in seen:
                problems.append(Problem(list_name, where, f"{stem!r} is listed twice", "remove one of the lines"))
                continue
            seen.add(stem)
            found = pictures.get(stem, [])
            if len(found) != 1:
                what = f"JPEGImages has no picture {stem!r}" if not found else f"JPEGImages has {', '.join(found)}"
                problems.append(Problem(list_name, where, what, "there must be exactly one picture of that name"))
                continue
            xml_path = folder / "Annotations" / f"{stem}.xml"
            xml_name = relative(xml_path, root)
            image = Annotated(len(seen) - 1, folder / "JPEGImages" / found[0], xml_name, domain)
            try:
                read_annotation(read_xml(xml_path), image, problems)
            except ValueError as error:
                mend = (
                    "add the file, or take the image out of the list"
                    if "missing" in str(error)
                    else "mend or replace the file"
                )
                problems.append(Problem(xml_name, "", str(error), mend))
                continue
            images.append(image)
    return images


def read_annotation(root: Node, image: Annotated, problems: list[Problem]) -> None:
    if root.tag != "annotation":
        raise ValueError(f"line {root.line}: the root element is <{root.tag[:40]}>, expected <annotation>")
    if root.all("size"):
        size = root.one("size")
        h, w = size.one("height").number(), size.one("width").number()
        if h or w:  # some tools leave 0 x 0
            image.size = (int(h), int(w)) if h == int(h) and w == int(w) else (-1, -1)
    for index, node in enumerate(root.all("object"), start=1):
        where = f"object {index} at line {node.line}"
        try:
            name = node.one("name").text.strip()
            if not name:
                raise ValueError("<name> is empty")
            box = node.one("bndbox")
            x1, y1, x2, y2 = (box.one(tag).number() for tag in ("xmin", "ymin", "xmax", "ymax"))
            difficult = node.one("difficult").text.strip() if node.all("difficult") else "0"
            if difficult not in ("0", "1", "", "Unspecified"):
                raise ValueError(f"<difficult> is {difficult[:40]!r}, expected 0 or 1")
        except ValueError as error:
            problems.append(Problem(image.file, where, str(error), "mend or remove the object", "box"))
            continue
        image.boxes.append(AnnotatedBox(name, x1 - 1, y1 - 1, x2, y2, difficult == "1", where))
