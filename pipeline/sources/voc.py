"""Pascal VOC: Annotations/*.xml, JPEGImages/*, ImageSets/Main/<split>.txt; or the same files without lists.

Corners are 1-based and inclusive (VOC development kit): x1 = xmin - 1, x2 = xmax in 0-based half-open pixels.
"""

import os
from pathlib import Path

from pipeline.files.parse import Node, inside, read_text, read_xml
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice, plain_attributes
from pipeline.sources.folders import Pair, files_ending, find_pairs, pictures_by_stem
from pipeline.sources.options import ReadOptions
from pipeline.sources.unlabelled import Unlabelled


def find_voc(root: Path) -> Path | None:
    """The folder that holds Annotations and ImageSets: root itself or a VOC folder inside it."""
    for folder in (root, *(root / name for name in ("VOC2007", "VOC2012", "VOCdevkit/VOC2007", "VOCdevkit/VOC2012"))):
        if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
            return folder
    return None


def find_unlisted(root: Path, folders: bool = True) -> dict[str, Pair]:
    """{split: folders} of VOC's files without image lists, as labelImg and others write them."""
    if find_voc(root):
        return {}
    label_names, picture_names = ("Annotations", "annotations"), ("JPEGImages", "images", "Images")
    return find_pairs(
        root, label_names, picture_names, holds_voc, lambda folder: not folders or find_voc(folder) is not None
    )


def holds_voc(folder: Path) -> bool:
    """By the first of its xml files."""
    for name in files_ending(folder, ".xml")[:1]:
        try:
            with open(folder / name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                head = file.read(4096)
        except OSError:
            return False
        return b"<annotation>" in head or b"<annotation " in head
    return False


def list_splits(folder: Path) -> list[str]:
    """Names of the image lists, without VOC's per-class lists such as car_train."""
    names = sorted(path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt"))
    return [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]


def read_voc(
    root: Path, splits: list[str], choice: Choice, problems: list[Problem], options: ReadOptions
) -> list[Annotated]:
    folder = find_voc(root)
    if folder is None:
        return read_unlisted(root, splits, choice, problems, options)
    pair = Pair(folder / "Annotations", folder / "JPEGImages")
    pictures = pictures_by_stem(pair.pictures)
    images: list[Annotated] = []
    seen: set[str] = set()
    unlabelled = Unlabelled(options, "error", "Pascal VOC")
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
            fix = "add the file, or take the image out of the list"
            image = Annotated(len(seen) - 1, pair.pictures / found[0], "", "")
            read_file(pair.labels / f"{stem}.xml", root, image, images, choice, problems, unlabelled, fix)
    unlabelled.report(len(seen), str(root))
    return images


def read_unlisted(
    root: Path, splits: list[str], choice: Choice, problems: list[Problem], options: ReadOptions
) -> list[Annotated]:
    pairs = find_unlisted(root)
    if not pairs:
        raise ValueError(f"{root}: no Annotations and ImageSets/Main folders and no xml files of VOC's kind")
    images: list[Annotated] = []
    count = 0
    unlabelled = Unlabelled(options, "skip", "VOC without image lists")
    for split in choose_splits(list(pairs), splits, root):
        labels, folder = pairs[split]
        pictures = pictures_by_stem(folder)
        known = {os.path.splitext(name)[0]: name for name in files_ending(labels, ".xml")}
        for stem in sorted(pictures.keys() | known.keys()):
            found = pictures.get(stem, [])
            xml_path = labels / known.get(stem, f"{stem}.xml")
            if len(found) != 1:
                what = f"has the pictures {', '.join(found)}" if found else "has no picture"
                problems.append(
                    Problem(relative(xml_path, root), "", what, "there must be exactly one picture of that name")
                )
                continue
            image = Annotated(count, folder / found[0], "", "")
            count += 1
            read_file(xml_path, root, image, images, choice, problems, unlabelled, "add the file")
    unlabelled.report(count, str(root))
    return images


def read_file(
    path: Path,
    root: Path,
    image: Annotated,
    images: list[Annotated],
    choice: Choice,
    problems: list[Problem],
    unlabelled: Unlabelled,
    fix_missing: str,
) -> None:
    """Fill `image` from its xml and append it to `images`, unless it is not chosen or faulty."""
    image.file = relative(path, root)
    node: Node | None = None
    problem: Problem | None = None  # that there is no file
    try:
        node = read_xml(path)
        check_root(node)
    except ValueError as error:
        missing = "missing" in str(error) and not os.path.islink(path)
        problem = Problem(image.file, "", str(error), fix_missing if missing else "fix or replace the file")
        if not missing:
            problems.append(problem)
            return
    # What stands in elements without children may be an attribute: <weather>clear</weather>.
    texts = {child.tag: child.text for child in node.children if not child.children} if node else {}
    domain = choice.take(image.image, plain_attributes({**texts, "folder": image.image.parent.name}))
    if domain is None:
        return
    image.domain = domain
    if problem is not None and not unlabelled.keeps(image, problem, problems):
        return
    if node is not None:
        try:
            read_annotation(node, image, problems)
        except ValueError as error:
            problems.append(Problem(image.file, "", str(error), "fix or replace the file"))
            return
    images.append(image)


def check_root(root: Node) -> None:
    if root.tag != "annotation":
        raise ValueError(f"line {root.line}: the root element is <{root.tag[:40]}>, expected <annotation>")


def read_annotation(root: Node, image: Annotated, problems: list[Problem]) -> None:
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
            name = class_name(name, "<name>")
            box = node.one("bndbox")
            x1, y1, x2, y2 = (box.one(tag).number() for tag in ("xmin", "ymin", "xmax", "ymax"))
            difficult = node.one("difficult").text.strip() if node.all("difficult") else "0"
            if difficult not in ("0", "1", "", "Unspecified"):
                raise ValueError(f"<difficult> is {difficult[:40]!r}, expected 0 or 1")
        except ValueError as error:
            problems.append(Problem(image.file, where, str(error), "fix or remove the object", "box"))
            continue
        image.boxes.append(AnnotatedBox(name, x1 - 1, y1 - 1, x2, y2, difficult == "1", where))
