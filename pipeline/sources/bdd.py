"""BDD100K detection JSON (both the 2018 and the 2020 release): a list of frames, each with labels and their box2d.

Corners are continuous pixels and taken as they are. Labels without box2d (lanes, drivable areas) are not objects.
Unless the user names a domain or a rule, it is 'timeofday_weather' of the frame's attributes, as in daytime_clear.
"""

from pathlib import Path

from pipeline.files.parse import finite, read_json
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice, plain_attributes
from pipeline.sources.json_files import find_json, find_picture

DOMAIN = "{timeofday}_{weather}"


def read_bdd(root: Path, splits: list[str], choice: Choice, problems: list[Problem]) -> list[Annotated]:
    files = {split: path for split, (path, kind) in find_json(root).items() if kind == "bdd"}
    images: list[Annotated] = []
    seen: set[Path] = set()
    count = 0
    for split in choose_splits(list(files), splits, root):
        path = files[split]
        file = relative(path, root)
        try:
            data = read_json(path)
            frames = data.get("frames") if isinstance(data, dict) else data
            if not isinstance(frames, list):
                raise ValueError("is not a list of frames, so this is not BDD100K")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for index, frame in enumerate(frames):
            where = f"[{index}]"
            count += 1
            try:
                if not isinstance(frame, dict):
                    raise ValueError("is not an object")
                where += f" {str(frame.get('name'))[:60]}"
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
                place = f"{where} labels[{position}]"
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
