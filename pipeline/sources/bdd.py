"""BDD100K's boxes: a JSON list of frames, each with labels and their box2d (releases of 2018 and 2020), or a JSON file
a picture below labels/100k/SPLIT, with one frame and its objects, as the archive of all labels has them.

Corners are continuous pixels and taken as they are. Labels without box2d (lanes, drivable areas) are not objects.
Unless the user names a domain or a rule, it is 'timeofday_weather' of the frame's attributes, as in daytime_clear.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.files.parse import finite, read_json
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice, plain_attributes
from pipeline.sources.json_files import find_json, find_picture

DOMAIN = "{timeofday}_{weather}"
FOLDERS = ("labels/100k/*", "labels/10k/*", "labels/*")


def read_bdd(root: Path, splits: list[str], choice: Choice, problems: list[Problem]) -> list[Annotated]:
    lists = {split: path for split, (path, kind) in find_json(root).items() if kind == "bdd"}
    folders = {split: files for split, files in find_folders(root).items() if split not in lists}
    images: list[Annotated] = []
    seen: set[Path] = set()
    count = 0
    for split in choose_splits([*lists, *folders], splits, root):
        frames = frames_of_list(lists[split]) if split in lists else frames_of_files(folders[split], root, problems)
        for path, where, frame in frames:
            file = relative(path, root)
            count += 1
            try:
                if not isinstance(frame, dict):
                    raise ValueError("is not an object")
                where = f"{where} {str(frame.get('name'))[:60]}".strip()
                attributes = frame.get("attributes") or {}
                labels = frame.get("labels") or []
                if not isinstance(attributes, dict) or not isinstance(labels, list):
                    raise ValueError("attributes must be an object and labels a list")
                domain = choice.take(Path(str(frame.get("name"))), plain_attributes(attributes), DOMAIN)
                if domain is None:  # before its picture is looked for: a user may have only those of clear days
                    continue
                picture = find_picture(root, path, split, frame.get("name"))
                if picture in seen:
                    raise ValueError("the picture is listed twice")
                seen.add(picture)
            except ValueError as error:
                problems.append(Problem(file, where, str(error), "fix or remove the frame"))
                continue
            image = Annotated(count - 1, picture, file, domain)
            for position, label in enumerate(labels):
                place = f"{where} labels[{position}]".strip()
                try:
                    box = read_label(label, place)
                except (ValueError, TypeError, KeyError) as error:
                    what = f"box2d has no {error}" if isinstance(error, KeyError) else str(error)
                    problems.append(Problem(file, place, what, "fix or remove the label", "box"))
                    continue
                if box is not None:
                    image.boxes.append(box)
            images.append(image)
    return images


def find_folders(root: Path) -> dict[str, list[Path]]:
    """{split: its files}, where each file is one picture's, by the first of them."""
    found: dict[str, list[Path]] = {}
    for folder in (folder for pattern in FOLDERS for folder in sorted(root.glob(pattern)) if folder.is_dir()):
        files = sorted(folder.glob("*.json"))
        if files and folder.name not in found:
            with open(files[0], "rb") as file:
                start = file.read(1 << 20)
            if start.lstrip().startswith(b"{") and all(f'"{key}"'.encode() in start for key in ("frames", "objects")):
                found[folder.name] = files
    return found


def frames_of_list(path: Path) -> Iterator[tuple[Path, str, Any]]:
    """(file, place in it, frame)"""
    try:
        data = read_json(path)
        frames = data.get("frames") if isinstance(data, dict) else data
        if not isinstance(frames, list):
            raise ValueError("is not a list of frames, so this is not BDD100K")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for index, frame in enumerate(frames):
        yield path, f"[{index}]", frame


def frames_of_files(files: list[Path], root: Path, problems: list[Problem]) -> Iterator[tuple[Path, str, Any]]:
    """The same of files that hold one picture each. They name it without an ending."""
    for path in files:
        try:
            data = read_json(path)
            frames = data.get("frames") if isinstance(data, dict) else None
            if not isinstance(frames, list) or len(frames) != 1 or not isinstance(frames[0], dict):
                raise ValueError("is not one frame of BDD100K")
            name = data.get("name", path.stem)
            if isinstance(name, str) and not name.lower().endswith((".jpg", ".jpeg", ".png")):
                name += ".jpg"
        except ValueError as error:
            problems.append(Problem(relative(path, root), "", str(error), "fix or remove the file"))
            continue
        yield path, "", {"name": name, "attributes": data.get("attributes"), "labels": frames[0].get("objects")}


def read_label(label: object, place: str) -> AnnotatedBox | None:
    if not isinstance(label, dict):
        raise ValueError("is not an object")
    if label.get("box2d") is None:
        return None
    name, box = class_name(label.get("category"), "category"), label["box2d"]
    if not isinstance(box, dict):
        raise ValueError("box2d is not an object")
    x1, y1, x2, y2 = (finite(box[key]) for key in ("x1", "y1", "x2", "y2"))
    attributes = label.get("attributes")
    crowd = attributes.get("crowd", False) if isinstance(attributes, dict) else False
    if not isinstance(crowd, bool):
        raise ValueError(f"attributes.crowd is {str(crowd)[:40]!r}, expected true or false")
    return AnnotatedBox(name, x1, y1, x2, y2, crowd, place)
