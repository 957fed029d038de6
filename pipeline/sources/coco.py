"""COCO detection JSON: images, annotations with bbox [x, y, w, h], categories in the order of their ids.

Ids are whole numbers or text (text of a whole number is that number). Where bbox is empty, the box of the polygons in
`segmentation` is taken, as for YOLO.
"""

import math
from pathlib import Path
from typing import Any

from pipeline.command.console import counted, say
from pipeline.files.escape import printable_line
from pipeline.files.parse import finite, read_json
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice, plain_attributes
from pipeline.sources.json_files import find_json, find_picture

Id = int | str
NOT_ATTRIBUTES = ("id", "file_name", "height", "width")


def whole(value: Any, what: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**62:
        raise ValueError(f"{what} is {str(value)[:40]!r}, expected a whole number of at least {least}")
    return value


def read_id(value: Any, what: str) -> Id:
    """A whole number, or text; '17' is 17, and '017' is text."""
    if not isinstance(value, str):
        return whole(value, what)
    text = value.strip()
    if not text or len(text) > 200:
        raise ValueError(f"{what} is {text[:40]!r}, expected a whole number or a short text")
    if text.isascii() and text.isdigit() and len(text) <= 18 and str(int(text)) == text:
        return int(text)
    return text


def by_id(item: tuple[Id, Any]) -> tuple[bool, Id]:
    """Numbers before text."""
    return isinstance(item[0], str), item[0]


def rows(data: dict, key: str, path: Path) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{path}: {key!r} is missing or not a list, so this is not a COCO detection file")
    return value


def read_coco(
    root: Path, splits: list[str], choice: Choice, problems: list[Problem]
) -> tuple[list[Annotated], list[str]]:
    files = {split: path for split, (path, kind) in find_json(root).items() if kind == "coco"}
    images: dict[Id, Annotated] = {}
    taken: set[Path] = set()
    names: list[str] | None = None
    for split in choose_splits(list(files), splits, root):
        path = files[split]
        try:
            data = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path}: is not a COCO file (an object with images, annotations and categories)")
        annotations = rows(data, "annotations", path)
        categories = read_categories(rows(data, "categories", path), annotations, path)
        if names is not None and names != list(categories.values()):
            raise ValueError(f"{path}: has other categories than the split before it; pack the splits apart")
        names = list(categories.values())
        known = read_images(root, path, split, choice, rows(data, "images", path), images, taken, problems)
        read_annotations(relative(path, root), annotations, categories, images, known, problems)
    ordered = [image for _, image in sorted(images.items(), key=by_id)]
    if any(isinstance(key, str) for key in images):
        say(f"{root}: some image ids are text; the {counted(len(images), 'image')} get the numbers 0, 1, ... in order")
        for number, image in enumerate(ordered):
            image.id = number
    return ordered, names or []


def read_categories(values: list[Any], annotations: list[Any], path: Path) -> dict[Id, str]:
    categories: dict[Id, str] = {}
    try:
        values = without_group(values, annotations, path)
        for value in values:
            number, name = read_id(value["id"], "id"), class_name(value["name"], "the name")
            if number in categories or name in categories.values():
                raise ValueError(f"{number} {name[:40]!r} occurs twice")
            categories[number] = name
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: categories: {error}") from None
    return dict(sorted(categories.items(), key=by_id))


def without_group(values: list[Any], annotations: list[Any], path: Path) -> list[Any]:
    """Roboflow puts the project's name first, as category 0 above all the others; it is no class."""
    groups = [value for value in values if value.get("id") == 0 and value.get("supercategory") == "none"]
    others = [value for value in values if value not in groups]
    if len(groups) != 1 or not others or any(value.get("supercategory") != groups[0].get("name") for value in others):
        return values
    if any(isinstance(row, dict) and row.get("category_id") == 0 for row in annotations):
        return values
    name = printable_line(str(groups[0].get("name"))[:40])
    say(f"{path.name}: category 0 {name!r} is the group of the others: left out")
    return others


def read_images(
    root: Path,
    path: Path,
    split: str,
    choice: Choice,
    values: list[Any],
    images: dict[Id, Annotated],
    taken: set[Path],
    problems: list[Problem],
) -> set[Id]:
    """Fill `images` and `taken` (pictures of every split); returns every id the file knows, also of faulty images."""
    file = relative(path, root)
    known: set[Id] = set()
    for index, value in enumerate(values):
        where = f"images[{index}]"
        try:
            if not isinstance(value, dict):
                raise ValueError("is not an object")
            number = read_id(value.get("id"), "id")
            where += f" id {number}"
            if number in known or number in images:
                what = "occurs twice" if number in known else "belongs to another split too: pack the splits apart"
                images.pop(number, None)  # which of the two the annotations mean is unknown
                known.add(number)
                raise ValueError(f"the id {number} {what} (both images are left out)")
            known.add(number)
            own = {name: text for name, text in value.items() if name not in NOT_ATTRIBUTES}
            attributes = plain_attributes(own) | plain_attributes(value.get("attributes"))
            domain = choice.take(Path(str(value.get("file_name"))), attributes)
            if domain is None:
                continue
            picture = find_picture(root, path, split, value.get("file_name"))
            if picture in taken:
                raise ValueError(f"the picture {value['file_name'][:80]!r} is listed twice")
            taken.add(picture)
            size = (
                (whole(value["height"], "height", 1), whole(value["width"], "width", 1))
                if "height" in value and "width" in value
                else None
            )
        except ValueError as error:
            problems.append(Problem(file, where, str(error), "fix or remove the entry"))
            continue
        images[number] = Annotated(number if isinstance(number, int) else -1, picture, file, domain, size)
    return known


def read_annotations(
    file: str,
    values: list[Any],
    categories: dict[Id, str],
    images: dict[Id, Annotated],
    known: set[Id],
    problems: list[Problem],
) -> None:
    seen: dict[Id, int] = {}  # hashes of what was said with an id: whole rows of a million annotations are large
    reused: list[str] = []  # ids that mean another annotation before
    repeated: list[str] = []  # the same annotation again
    for index, value in enumerate(values):
        where = f"annotations[{index}]"
        try:
            if not isinstance(value, dict):
                raise ValueError("is not an object")
            number = read_id(value["id"], "id") if value.get("id") is not None else None
            if number is not None:
                where += f" id {number}"
            owner = read_id(value.get("image_id"), "image_id")
            if owner not in known:
                raise ValueError(f"belongs to image {owner}, which is not in 'images'")
            category = read_id(value.get("category_id"), "category_id")
            if category not in categories:
                raise ValueError(f"category_id {category} is not in 'categories'")
            x1, y1, x2, y2 = read_box(value)
            flags = [value.get(key) or 0 for key in ("iscrowd", "ignore")]
            if any(flag not in (0, 1) for flag in flags):
                raise ValueError(f"iscrowd or ignore is {str(flags)[:40]}, expected 0 or 1")
        except (ValueError, TypeError) as error:
            problems.append(Problem(file, where, str(error), "fix or remove the annotation", "box"))
            continue
        box = AnnotatedBox(categories[category], x1, y1, x2, y2, any(flags), where)
        if number is not None and number in seen:
            if hash((owner, *box[:6])) == seen[number]:
                repeated.append(where)
                continue
            reused.append(where)
        elif number is not None:
            seen[number] = hash((owner, *box[:6]))
        if owner in images:
            images[owner].boxes.append(box)
    if repeated:
        what = f"{counted(len(repeated), 'annotation')} (first: this) with id, image, class and box of one before"
        problems.append(Problem(file, repeated[0], what, "remove the doubles", "box"))
    if reused:
        say(f"{file}: {counted(len(reused), 'annotation')} with an id of another before ({reused[0]}); all are kept")


def read_box(value: dict) -> tuple[float, float, float, float]:
    """Corners of bbox, or where it is empty, of the polygons."""
    box, polygons = value.get("bbox"), value.get("segmentation")
    if box is None or box == [] or (box == [0, 0, 0, 0] and polygons):
        if isinstance(polygons, dict):
            raise ValueError("bbox is empty and segmentation is a mask (run lengths), whose box is not read")
        if isinstance(polygons, list) and polygons:
            return box_of_polygons(polygons)
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"bbox is {str(box)[:40]!r}, expected [x, y, width, height]")
    x, y, w, h = (finite(number) for number in box)
    return x, y, x + w, y + h


def box_of_polygons(polygons: list[Any]) -> tuple[float, float, float, float]:
    x1 = y1 = math.inf
    x2 = y2 = -math.inf
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("segmentation has a polygon that is not a list of at least 3 points x, y, x, y, ...")
        numbers = [finite(number) for number in polygon]
        x1, x2 = min(x1, *numbers[::2]), max(x2, *numbers[::2])
        y1, y2 = min(y1, *numbers[1::2]), max(y2, *numbers[1::2])
    return x1, y1, x2, y2
