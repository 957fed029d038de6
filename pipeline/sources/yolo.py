"""YOLO: data.yaml with ordered names; labels/<stem>.txt beside images/, one 'class cx cy w h' in fractions a line.

A line with more numbers is a polygon 'class x1 y1 x2 y2 x3 y3 ...' (exports mix both); its bounding box is taken.
"""

import os
from pathlib import Path
from typing import Any

from pipeline.files.parse import inside, parse_number, read_text, read_yaml
from pipeline.files.pixels import SUFFIXES
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, relative

SPLITS = ("train", "val", "test")


def find_yolo(root: Path) -> Path | None:
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    return None


def read_card(path: Path) -> tuple[list[str], dict[str, Any]]:
    """(class names in order, the whole of data.yaml)."""
    try:
        card = read_yaml(path)
        if not isinstance(card, dict):
            raise ValueError("is not a mapping of keys to values")
        names = card.get("names")
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise ValueError("has 'names' whose keys are not 0, 1, 2, ...")
            names = [names[index] for index in range(len(names))]
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name.strip() for name in names)
        ):
            raise ValueError("has no 'names': a list of class names is expected")
        names = [name.strip() for name in names]
        if len(set(names)) != len(names):
            raise ValueError("has the same class name twice in 'names'")
        if "kpt_shape" in card:
            raise ValueError(
                "has 'kpt_shape': these labels are of poses (keypoints after the box), which are not read; "
                "export boxes: lines of class cx cy w h, and no kpt_shape"
            )
        if "nc" in card and card["nc"] != len(names):
            raise ValueError(f"says nc: {str(card['nc'])[:20]} but has {len(names)} names")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return names, card


def split_folders(root: Path, card_path: Path, card: dict[str, Any], split: str) -> list[Path]:
    base = card.get("path", ".")
    value = card[split]
    folders = []
    for name in value if isinstance(value, list) else [value]:
        found = None
        for start in (root / str(base), root):
            for spelling in (name, str(name).removeprefix("../")):  # Roboflow writes ../train/images for train/images
                try:
                    candidate = inside(root, os.path.relpath(inside(start, spelling), root))
                except ValueError:
                    continue
                if candidate.is_dir() or candidate.is_file():
                    found = found or candidate
        if found is None:
            raise ValueError(f"{card_path}: {split}: {str(name)[:80]!r} is not a folder inside {root}")
        folders.append(found)
    return folders


def label_path(picture: Path, root: Path) -> Path:
    """.../images/.../name.jpg -> .../labels/.../name.txt, at the last folder below the root that is called images."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return root.joinpath(*parts)


def read_yolo(root: Path, splits: list[str], domain: str, problems: list[Problem]) -> tuple[list[Annotated], list[str]]:
    card_path = find_yolo(root)
    if card_path is None:
        raise ValueError(f"{root}: no data.yaml, so this is not YOLO")
    names, card = read_card(card_path)
    available = [split for split in SPLITS if card.get(split)]
    pictures: list[Path] = []
    for split in choose_splits(available, splits, root):
        for folder in split_folders(root, card_path, card, split):
            if folder.is_file():
                try:
                    lines = read_text(folder).splitlines()
                except ValueError as error:
                    raise ValueError(f"{folder} {error}") from None
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        try:
                            pictures.append(inside(root, line.strip().removeprefix("./")))
                        except ValueError as error:
                            problems.append(
                                Problem(
                                    relative(folder, root), f"line {number}", str(error), "use paths below the root"
                                )
                            )
            else:
                pictures += sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
                labels = label_path(folder / "x", root).parent
                stems = {label_path(path, root) for path in pictures}
                if labels != folder and labels.is_dir():
                    for path in sorted(labels.rglob("*.txt")):
                        if path not in stems and path.name != "classes.txt":
                            problems.append(
                                Problem(
                                    relative(path, root),
                                    "",
                                    "has no picture",
                                    "add the picture or remove the label file",
                                )
                            )
    images = []
    seen: set[Path] = set()
    for index, picture in enumerate(pictures):
        if picture in seen:
            problems.append(Problem(relative(picture, root), "", "is listed twice", "remove it from one of the lists"))
            continue
        seen.add(picture)
        path = label_path(picture, root)
        image = Annotated(index, picture, relative(path, root), domain, normalised=True)
        try:
            lines = read_text(path).splitlines()
        except ValueError as error:
            mend = "write an empty file when the picture has no objects" if "missing" in str(error) else "mend the file"
            problems.append(Problem(image.file, "", f"the label file {error}", mend))
            continue
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    image.boxes.append(read_line(line, names, f"line {number}"))
                except ValueError as error:
                    problems.append(Problem(image.file, f"line {number}", str(error), "mend or remove the line", "box"))
        images.append(image)
    return images, names


def read_line(line: str, names: list[str], where: str) -> AnnotatedBox:
    words = line.split()
    if not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > 9 or int(words[0]) >= len(names):
        raise ValueError(f"class {words[0][:20]!r} is not a number from 0 to {len(names) - 1}")
    values = [parse_number(word) for word in words[1:]]
    name = names[int(words[0])]
    if len(values) == 4:
        cx, cy, w, h = values
        return AnnotatedBox(name, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, False, where)
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        return AnnotatedBox(name, min(xs), min(ys), max(xs), max(ys), False, where)
    raise ValueError(f"has {len(words)} columns; expected 5 (class cx cy w h) or a polygon of at least 3 points")
