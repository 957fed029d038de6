"""Where a YOLO dataset says its class names and splits: data.yaml, Darknet's obj.data, or classes.txt alone."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files.parse import inside, read_text, read_yaml
from pipeline.files.pixels import SUFFIXES
from pipeline.sources.annotated import class_name

SPLITS = ("train", "val", "test")
USUAL = ("data.yaml", "data.yml", "dataset.yaml")
MOST_CLASSES = 1_000_000


@dataclass
class Card:
    path: Path
    names: dict[int, str]
    splits: dict[str, list[Any]] = field(default_factory=dict)  # as they stand in the file
    base: str = "."


def find_yolo(root: Path, named: str = "") -> Path | None:
    """The file to read: the one named (a path, or a name in root), a usual name, or the only one of its kind."""
    if named:
        for path in (root / named, Path(named)):
            if path.is_file():
                return path.absolute()
        raise ValueError(f"--yaml {named}: neither {root} nor the current folder has this file")
    for name in USUAL:
        if (root / name).is_file():
            return root / name
    found = [path for path in sorted(root.glob("*.y*ml")) + sorted(root.glob("*.data")) if says_yolo(path)]
    if len(found) > 1:
        raise ValueError(
            f"{root} has {', '.join(path.name for path in found)}, each of which may name the classes; "
            f"say which: --yaml {found[0].name}"
        )
    if found:
        return found[0]
    alone = root / "classes.txt"
    return alone if alone.is_file() and (root / "images").is_dir() and (root / "labels").is_dir() else None


def says_yolo(path: Path) -> bool:
    try:
        if path.suffix == ".data":
            return "names" in read_pairs(path)
        card = read_yaml(path)
    except ValueError:  # a file of another tool
        return False
    return isinstance(card, dict) and "names" in card and any(split in card for split in SPLITS)


def read_card(path: Path, root: Path) -> Card:
    try:
        if path.suffix == ".txt":
            return Card(path, read_name_list(path), folders_of(root))
        return read_darknet(path, root) if path.suffix == ".data" else read_data_yaml(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_data_yaml(path: Path) -> Card:
    card = read_yaml(path)
    if not isinstance(card, dict):
        raise ValueError("is not a mapping of keys to values")
    names = card.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError("has no 'names': a list of class names is expected")
    numbered: dict[int, str] = {}
    for key, name in names.items():
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 8 else key
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_CLASSES:
            raise ValueError(f"has 'names' with the key {str(key)[:20]!r}: numbers from 0 are expected")
        if number in numbered:
            raise ValueError(f"has the class number {number} twice in 'names'")
        numbered[number] = class_name(name, f"names: {number}")
    if "kpt_shape" in card:
        raise ValueError(
            "has 'kpt_shape': these labels are poses (keypoints after the box), which are not read; "
            "export boxes: lines of class cx cy w h, and no kpt_shape"
        )
    # With gaps, some count the names and some the numbers.
    if "nc" in card and card["nc"] not in (len(numbered), max(numbered) + 1):
        raise ValueError(f"says nc: {str(card['nc'])[:20]} but has {len(numbered)} names")
    splits = {name: card[name] for name in SPLITS if card.get(name)}
    lists = {name: value if isinstance(value, list) else [value] for name, value in splits.items()}
    return Card(path, check_double(numbered), lists, str(card.get("path") or "."))


def check_double(names: dict[int, str]) -> dict[int, str]:
    if len(set(names.values())) != len(names):
        raise ValueError("has the same class name twice in 'names'")
    return dict(sorted(names.items()))


def read_name_list(path: Path) -> dict[int, str]:
    """One class name a line, numbered from 0."""
    lines = read_text(path).rstrip().splitlines()
    if not lines:
        raise ValueError("has no class names")
    return check_double({number: class_name(line, f"line {number + 1}") for number, line in enumerate(lines)})


def read_pairs(path: Path) -> dict[str, str]:
    """'key = value' lines."""
    rows = [line.partition("=") for line in read_text(path, 1 << 18).splitlines() if line.strip()]
    return {key.strip(): value.strip() for key, separator, value in rows if separator}


def read_darknet(path: Path, root: Path) -> Card:
    """Darknet's obj.data, as CVAT's "YOLO 1.1" writes it: classes, train, valid, names; paths may begin with data/."""
    pairs = read_pairs(path)
    names_path = resolve(pairs.get("names", ""), ".", root)
    if names_path is None or not names_path.is_file():
        raise ValueError(f"names = {pairs.get('names', '')[:80]!r} is not a file inside {root}")
    try:
        names = read_name_list(names_path)
    except ValueError as error:
        raise ValueError(f"{names_path.name} {error}") from None
    if pairs.get("classes", str(len(names))) != str(len(names)):
        raise ValueError(f"says classes = {pairs['classes'][:20]} but {names_path.name} has {len(names)} names")
    keys = {"train": "train", "val": "valid", "test": "test"}
    return Card(path, names, {split: [pairs[key]] for split, key in keys.items() if pairs.get(key)})


def folders_of(root: Path) -> dict[str, list[Any]]:
    """Without a card that names splits: the folders below images/, or images itself where pictures are in it."""
    if not (root / "images").is_dir():
        raise ValueError(f"names no splits and {root} has no folder 'images'")
    children = sorted((root / "images").iterdir())
    if any(path.suffix.lower() in SUFFIXES for path in children):
        return {"images": ["images"]}
    return {path.name: [f"images/{path.name}"] for path in children if path.is_dir()}


def below(root: Path, name: Any) -> Path:
    """`inside`, where a whole path is accepted too if it leads to a place below the root."""
    if isinstance(name, str) and os.path.isabs(name) and "\0" not in name:
        for start in dict.fromkeys((root, root.resolve())):
            if Path(name).is_relative_to(start):
                return inside(root, str(Path(name).relative_to(start)))
    return inside(root, name)


def resolve(name: Any, base: str, root: Path) -> Path | None:
    """A file or folder that a card names, if there is one inside the root."""
    text = str(name)
    # Roboflow writes ../train/images for train/images, CVAT data/obj.names for obj.names.
    for start in (root / base, root):
        for spelling in (text, text.removeprefix("../"), text.removeprefix("data/")):
            try:
                found = below(root, spelling) if os.path.isabs(spelling) else inside(start, spelling)
                candidate = inside(root, os.path.relpath(found, root))
            except ValueError:
                continue
            if os.path.exists(candidate):  # Path.exists raises where it may not look
                return candidate
    return None
