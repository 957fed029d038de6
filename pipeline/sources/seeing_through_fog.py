"""Seeing Through Fog (Bijelic et al., CVPR 2020): real clear days and nights, fog, rain and snow, one list each.

    ROOT/splits/LIST.txt                      frames as 2019-09-11_18-41-27,02580; the comma stands for an underscore
    ROOT/cam_stereo_left_lut/STEM.png         the pictures
    ROOT/gt_labels/cam_left_labels_TMP/STEM.txt
    ROOT/labeltool_labels/STEM.json           conditions of the frame: attributes for --where

The archive of CMKD is read, too: images/ and gated_labels/, whose boxes are those of the gated camera's 1280 x 720 and
are scaled to the picture; its lists lie in splits/ or in ROOT.

A line is KITTI's 15 columns, or 27: then 18 is a score and 23 to 26 say whether the camera, the gated camera, the lidar
and the radar see the object. Objects that count neither way stay, as ignored: groups, those that the labels' own camera
does not see, and what is of no certain class, once for each class that it may be.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.command.console import counted, say
from pipeline.files.parse import MAX_TEXT_BYTES, inside, open_file, parse_number, read_json, read_text
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice, plain_attributes
from pipeline.sources.folders import pictures_by_stem
from pipeline.sources.options import ReadOptions
from pipeline.sources.unlabelled import Unlabelled

FORMAT = "stf"
CLASSES = ("PassengerCar", "Pedestrian", "RidableVehicle", "LargeVehicle")
UNCERTAIN = {"Vehicle": ("PassengerCar", "RidableVehicle", "LargeVehicle"), "Obstacle": CLASSES, "DontCare": CLASSES}
GROUP = "_is_group"
PLAIN, WHOLE = (15, 16), 27  # columns
FRAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d[,_]\d+\s*$", re.ASCII)
PUBLISHED = {
    "train_clear_day": 2183, "val_clear_day": 399, "test_clear_day": 1005,
    "train_clear_night": 1343, "val_clear_night": 409, "test_clear_night": 877,
    "light_fog_day": 633, "light_fog_night": 419, "dense_fog_day": 572, "dense_fog_night": 315,
    "rain": 282, "snow_day": 2293, "snow_night": 2440, "all": 12994,
}  # fmt: skip
CONDITIONS = {"daytime": ("daytime",), "weather": ("weather",), "illumination": ("meta", "illumination"),
              "environment": ("meta", "environment"), "infrastructure": ("meta", "infrastructure")}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    pictures: str
    labels: str
    seen_column: int
    frame: tuple[int, int] | None  # (w, h) that the boxes are pixels of; None: the picture's own


LAYOUTS = (
    Layout("cam_stereo_left_lut", "gt_labels/cam_left_labels_TMP", 23, None),
    Layout("images", "gated_labels", 24, (1280, 720)),
)


def find_layout(root: Path) -> Layout | None:
    for layout in LAYOUTS:
        if (root / layout.pictures).is_dir() and (root / layout.labels).is_dir() and find_lists(root):
            return layout
    return None


def find_lists(root: Path) -> dict[str, Path]:
    """The text files whose first line names a frame; without `all`, which repeats the frames of the others."""
    folder = root / "splits" if (root / "splits").is_dir() else root
    lists = {path.stem: path for path in sorted(folder.glob("*.txt")) if FRAME.match(first_line(path))}
    return {name: path for name, path in lists.items() if name != "all" or len(lists) == 1}


def first_line(path: Path) -> str:
    try:
        with open_file(path, MAX_TEXT_BYTES) as file:
            return file.readline(200).decode("utf-8-sig", "replace")
    except ValueError:
        return ""


def scored_parts(root: Path) -> list[tuple[str, str, Path, str]]:
    """[(name, domain, folder, list)] of every list."""
    return [(name, domain_of(name), root, name) for name in find_lists(root)] if find_layout(root) else []


def domain_of(name: str) -> str:
    """test_clear_night is clear_night."""
    first, _, rest = name.partition("_")
    return rest if first in ("train", "val", "test") and rest else name


def compare(name: str, num_images: int, objects: Mapping[str, int]) -> list[str]:
    """A line that sets our number of frames beside the published one; numbers of objects are not published."""
    published = PUBLISHED.get(name)
    if published is None:
        return []
    if published == num_images:
        return [f"{name}: the number of images equals the published one"]
    return [f"{name}: DIFFERS from the published number of images: {num_images} (published {published})"]


def read_seeing_through_fog(
    root: Path, splits: list[str], choice: Choice, problems: list[Problem], options: ReadOptions
) -> tuple[list[Annotated], list[str]]:
    layout, lists = find_layout(root), find_lists(root)
    if layout is None:
        wanted = " or ".join(f"{one.pictures} with {one.labels}" for one in LAYOUTS)
        raise ValueError(f"{root}: expected the folders {wanted}, and lists in splits/*.txt")
    pictures = pictures_by_stem(root / layout.pictures)
    images: list[Annotated] = []
    seen: set[str] = set()
    without_area = 0
    unlabelled = Unlabelled(options, "error", "Seeing Through Fog")
    for split in choose_splits(list(lists), splits, root):
        try:
            lines = read_text(lists[split]).splitlines()
        except ValueError as error:
            raise ValueError(f"{lists[split]} {error}") from None
        for number, line in enumerate(lines, start=1):
            stem = line.strip().replace(",", "_")
            if not stem:
                continue
            found = pictures.get(stem, [])
            try:
                inside(root, stem)
                if stem in seen:
                    raise ValueError(f"{stem!r} is listed twice")
                if len(found) != 1:
                    raise ValueError(f"{layout.pictures} has {' and '.join(found) or 'no picture'} of {stem[:80]!r}")
            except ValueError as error:
                fix = "add the picture, or take the line out"
                problems.append(Problem(relative(lists[split], root), f"line {number}", str(error), fix))
                continue
            seen.add(stem)
            picture, label = root / layout.pictures / found[0], root / layout.labels / f"{stem}.txt"
            conditions = root / "labeltool_labels" / f"{stem}.json"
            try:
                attributes = {**read_conditions(conditions), "condition": domain_of(split)}
            except ValueError as error:
                problems.append(Problem(relative(conditions, root), "", str(error), "fix or remove the file"))
                continue
            domain = choice.take(picture, attributes, "{condition}")
            if domain is None:
                continue
            image = Annotated(len(seen) - 1, picture, relative(label, root), domain)
            image.normalised = layout.frame is not None
            rows: list[str] = []
            try:
                rows = read_text(label).splitlines()
            except ValueError as error:
                missing = not label.exists()
                fix = "add the file, or say --unlabelled background or ignore" if missing else "fix the file"
                problem = Problem(image.file, "", str(error), fix)
                if not missing:
                    problems.append(problem)
                if not missing or not unlabelled.keeps(image, problem, problems):
                    continue
            for row_number, row in enumerate(rows, start=1):
                where = f"line {row_number}"
                try:
                    boxes = read_line(row, where, layout)
                except ValueError as error:
                    problems.append(Problem(image.file, where, str(error), "fix or remove the line", "box"))
                    continue
                without_area += boxes is None
                image.boxes += boxes or []
            images.append(image)
    unlabelled.report(choice.num_taken, str(root))
    if without_area:
        say(f"{root.name}: {counted(without_area, 'box', 'boxes')} without width or height left out")
    return images, list(CLASSES)


def read_line(line: str, where: str, layout: Layout) -> list[AnnotatedBox] | None:
    """The boxes of a line, [] of an empty one, None of one without area (the archives have such)."""
    words = line.split()
    if not words:
        return []
    if len(words) not in (*PLAIN, WHOLE):
        raise ValueError(f"has {len(words)} columns; expected {PLAIN[0]}, {PLAIN[1]} or {WHOLE}")
    x1, y1, x2, y2 = (parse_number(word) for word in words[4:8])
    if x1 == x2 or y1 == y2:
        return None
    if layout.frame is not None:
        width, height = layout.frame
        x1, y1, x2, y2 = x1 / width, y1 / height, x2 / width, y2 / height
    name = class_name(words[0])
    single = name.removesuffix(GROUP)
    unseen = len(words) == WHOLE and words[layout.seen_column].lower() == "false"
    ignore = single != name or single in UNCERTAIN or unseen
    return [AnnotatedBox(one, x1, y1, x2, y2, ignore, where) for one in UNCERTAIN.get(single, (single,))]


def read_conditions(path: Path) -> dict[str, str]:
    """{attribute: value} of a frame's JSON; {} without one. Where several hold, they are joined by '+'."""
    if not path.exists():
        return {}
    content, found = read_json(path), {}
    for name, keys in CONDITIONS.items():
        value: Any = content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = "+".join(key for key, holds in value.items() if holds is True)
        found[name] = value
    return plain_attributes(found)
