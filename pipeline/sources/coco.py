"""COCO detection JSON: images, annotations with bbox [x, y, w, h], categories in the order of their ids."""

from pathlib import Path
from typing import Any

from pipeline.files.parse import finite, read_json
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, relative
from pipeline.sources.json_files import find_json, find_picture


def whole(value: Any, what: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**62:
        raise ValueError(f"{what} is {str(value)[:40]!r}, expected a whole number of at least {least}")
    return value


def rows(data: dict, key: str, path: Path) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{path}: {key!r} is missing or not a list, so this is not a COCO detection file")
    return value


def read_coco(root: Path, splits: list[str], domain: str, problems: list[Problem]) -> tuple[list[Annotated], list[str]]:
    files = {split: path for split, (path, kind) in find_json(root).items() if kind == "coco"}
    images: dict[int, Annotated] = {}
    taken: set[Path] = set()
    names: list[str] = []
    for split in choose_splits(list(files), splits, root):
        path = files[split]
        try:
            data = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path}: is not a COCO file (an object with images, annotations and categories)")
        categories = read_categories(rows(data, "categories", path), path)
        if names and names != list(categories.values()):
            raise ValueError(f"{path}: has other categories than the split before it; pack the splits apart")
        names = list(categories.values())
        known = read_images(root, path, split, domain, rows(data, "images", path), images, taken, problems)
        read_annotations(relative(path, root), rows(data, "annotations", path), categories, images, known, problems)
    return [images[key] for key in sorted(images)], names


def read_categories(values: list[Any], path: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    try:
        for value in values:
            number, name = whole(value["id"], "id"), value["name"]
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"the name {str(name)[:40]!r} is not text")
            if number in categories or name.strip() in categories.values():
                raise ValueError(f"{number} {name[:40]!r} occurs twice")
            categories[number] = name.strip()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: categories: {error}") from None
    return dict(sorted(categories.items()))


def read_images(
    root: Path,
    path: Path,
    split: str,
    domain: str,
    values: list[Any],
    images: dict[int, Annotated],
    taken: set[Path],
    problems: list[Problem],
) -> set[int]:
    """Fill `images` and `taken` (pictures of every split); returns every id the file knows, also of faulty images."""
    file = relative(path, root)
    known: set[int] = set()
    for index, value in enumerate(values):
        where = f"images[{index}]"
        try:
            if not isinstance(value, dict):
                raise ValueError("is not an object")
            number = whole(value.get("id"), "id")
            where += f" id {number}"
            if number in known or number in images:
                what = "occurs twice" if number in known else "belongs to another split too: pack the splits apart"
                images.pop(number, None)  # which of the two the annotations mean is unknown
                known.add(number)
                raise ValueError(f"the id {number} {what} (both images are left out)")
            known.add(number)
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
            problems.append(Problem(file, where, str(error), "mend or remove the entry"))
            continue
        images[number] = Annotated(number, picture, file, domain, size)
    return known


def read_annotations(
    file: str,
    values: list[Any],
    categories: dict[int, str],
    images: dict[int, Annotated],
    known: set[int],
    problems: list[Problem],
) -> None:
    seen: set[int] = set()
    for index, value in enumerate(values):
        where = f"annotations[{index}]"
        try:
            if not isinstance(value, dict):
                raise ValueError("is not an object")
            if "id" in value:
                number = whole(value["id"], "id")
                where += f" id {number}"
                if number in seen:
                    raise ValueError(f"the id {number} occurs twice")
                seen.add(number)
            owner = whole(value.get("image_id"), "image_id")
            if owner not in known:
                raise ValueError(f"belongs to image {owner}, which is not in 'images'")
            category = whole(value.get("category_id"), "category_id")
            if category not in categories:
                raise ValueError(f"category_id {category} is not in 'categories'")
            box = value.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise ValueError(f"bbox is {str(box)[:40]!r}, expected [x, y, width, height]")
            x, y, w, h = (finite(number) for number in box)
            flags = [value.get(key, 0) for key in ("iscrowd", "ignore")]
            if any(flag not in (0, 1) for flag in flags):
                raise ValueError(f"iscrowd or ignore is {str(flags)[:40]}, expected 0 or 1")
        except (ValueError, TypeError) as error:
            problems.append(Problem(file, where, str(error), "mend or remove the annotation", "box"))
            continue
        if owner in images:
            images[owner].boxes.append(AnnotatedBox(categories[category], x, y, x + w, y + h, any(flags), where))
