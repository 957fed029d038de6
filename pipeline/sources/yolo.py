"""YOLO: a card with class names and splits; labels/<stem>.txt beside images/, one 'class cx cy w h' (fractions) a line.

A line with more numbers is a polygon 'class x1 y1 x2 y2 x3 y3 ...' (exports mix both); its bounding box is taken.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.files.parse import parse_number, read_text
from pipeline.files.pixels import SUFFIXES
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, relative
from pipeline.sources.choice import Choice
from pipeline.sources.extra import Modality, holds_pictures
from pipeline.sources.options import ReadOptions
from pipeline.sources.unlabelled import Unlabelled
from pipeline.sources.yolo_card import Card, below, find_yolo, read_card, resolve


def split_places(root: Path, card: Card, split: str) -> list[Path]:
    """Folders of pictures, or files that list pictures."""
    places = []
    for name in card.splits[split]:
        found = resolve(name, card.base, root)
        if found is None:
            raise ValueError(f"{card.path}: {split}: {str(name)[:80]!r} is no folder or list of pictures inside {root}")
        places.append(found)
    return places


def label_path(picture: Path, root: Path) -> Path:
    """.../images/.../name.jpg -> .../labels/.../name.txt, at the last folder below the root that is called images."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return root.joinpath(*parts)


def read_list(path: Path, root: Path, problems: list[Problem]) -> list[Path]:
    """The pictures that a file lists, one a line: from the root, from the file's own folder, or as whole paths."""
    try:
        lines = read_text(path).splitlines()
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    pictures = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name = line.strip().removeprefix("./")
            picture = below(root, name)
            if picture == root:
                raise ValueError(f"{line.strip()!r} is not a picture")
            if not os.path.exists(picture):
                picture = resolve(name, str(path.parent.relative_to(root)), root) or picture
            pictures.append(picture)
        except ValueError as error:
            problems.append(Problem(relative(path, root), f"line {number}", str(error), "use paths below the root"))
    return pictures


def find_pictures(
    root: Path, places: list[Path], problems: list[Problem], modalities: Sequence[Modality]
) -> list[Path]:
    pictures: list[Path] = []
    for place in places:
        if place.is_file():
            pictures += read_list(place, root, problems)
            continue
        pictures += sorted(
            path
            for path in place.rglob("*")
            if path.suffix.lower() in SUFFIXES and holds_pictures(path.parent, root, modalities)
        )
        labels = label_path(place / "x", root).parent
        known = {label_path(path, root) for path in pictures}
        if labels != place and labels.is_dir():
            problems += [
                Problem(relative(path, root), "", "has no picture", "add the picture or remove the label file")
                for path in sorted(labels.rglob("*.txt"))
                if path not in known and path.name != "classes.txt"
            ]
    return pictures


def read_yolo(
    root: Path,
    splits: list[str],
    choice: Choice,
    problems: list[Problem],
    options: ReadOptions,
    modalities: Sequence[Modality],
) -> tuple[list[Annotated], list[str]]:
    card_path = find_yolo(root, options.yaml)
    if card_path is None:
        raise ValueError(
            f"{root}: no data.yaml, obj.data or classes.txt, so this is not YOLO; name it with --yaml FILE"
        )
    card = read_card(card_path, root)
    chosen = choose_splits(list(card.splits), splits, root)
    places = [place for split in chosen for place in split_places(root, card, split)]
    pictures = find_pictures(root, places, problems, modalities)
    images: list[Annotated] = []
    seen: set[Path] = set()
    unlabelled = Unlabelled(options, "background", "YOLO")
    for index, picture in enumerate(pictures):
        if picture in seen:
            problems.append(Problem(relative(picture, root), "", "is listed twice", "remove it from one of the lists"))
            continue
        seen.add(picture)
        domain = choice.take(picture, {})
        if domain is None:
            continue
        path = label_path(picture, root)
        image = Annotated(index, picture, relative(path, root), domain, normalised=True)
        try:
            lines = read_text(path).splitlines()
        except ValueError as error:
            missing = "missing" in str(error) and not os.path.islink(path)
            fix = "write an empty file when the picture has no objects" if missing else "fix the file"
            problem = Problem(image.file, "", f"the label file {error}", fix)
            if not missing:
                problems.append(problem)
            if not missing or not unlabelled.keeps(image, problem, problems):
                continue
            lines = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    image.boxes.append(read_line(line, card.names, f"line {number}"))
                except ValueError as error:
                    problems.append(Problem(image.file, f"line {number}", str(error), "fix or remove the line", "box"))
        images.append(image)
    unlabelled.report(choice.num_taken, str(root))
    return images, list(card.names.values())


def read_line(line: str, names: dict[int, str], where: str) -> AnnotatedBox:
    words = line.split()
    number = int(words[0]) if words[0].isascii() and words[0].isdigit() and len(words[0]) <= 9 else -1
    if number not in names:
        gaps = "" if len(names) > max(names) else " that has a name"
        raise ValueError(f"class {words[0][:20]!r} is not a number from 0 to {max(names)}{gaps}")
    values = [parse_number(word) for word in words[1:]]
    name = names[number]
    if len(values) == 4:
        cx, cy, w, h = values
        return AnnotatedBox(name, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, False, where)
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        return AnnotatedBox(name, min(xs), min(ys), max(xs), max(ys), False, where)
    raise ValueError(f"has {len(words)} columns; expected 5 (class cx cy w h) or a polygon of at least 3 points")
