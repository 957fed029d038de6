"""KITTI: label_2/<stem>.txt beside image_2/, one object a line (or labels/ beside images/, as some tools export it).

A line is: type truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation [score]. The corners are 0-based pixels and
taken as they are (KITTI object development kit, readme.txt). A DontCare region may hold objects of any class that
nobody has labelled, so every class is ignored there.
"""

from pathlib import Path

from pipeline.command.console import counted, say
from pipeline.files.parse import parse_number, read_text
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated, AnnotatedBox, choose_splits, class_name, relative
from pipeline.sources.choice import Choice
from pipeline.sources.folders import Pair, files_ending, find_pairs, pictures_by_stem
from pipeline.sources.options import ReadOptions
from pipeline.sources.unlabelled import Unlabelled

COLUMNS = (15, 16)
LOOKED_INTO = 20  # label files, for the first that has an object
DONT_CARE = "DontCare"


def find_kitti(root: Path, folders: bool = True) -> dict[str, Pair]:
    return find_pairs(root, ("label_2", "labels"), ("image_2", "images"), holds_kitti, lambda folder: not folders)


def holds_kitti(folder: Path) -> bool:
    for name in files_ending(folder, ".txt")[:LOOKED_INTO]:
        try:
            words = read_text(folder / name).split("\n", 1)[0].split()
        except ValueError:
            continue
        if words:
            return len(words) in COLUMNS and not words[0][0].isdigit()
    return False


def read_kitti(
    root: Path, splits: list[str], choice: Choice, problems: list[Problem], options: ReadOptions
) -> list[Annotated]:
    pairs = find_kitti(root)
    if not pairs:
        raise ValueError(f"{root}: no label_2 beside image_2 (or labels beside images), so this is not KITTI")
    images: list[Annotated] = []
    count = num_regions = 0
    unlabelled = Unlabelled(options, "error", "KITTI")
    for split in choose_splits(list(pairs), splits, root):
        labels, folder = pairs[split]
        pictures = pictures_by_stem(folder)
        known = {name[: -len(".txt")] for name in files_ending(labels, ".txt")}
        for stem in sorted(pictures.keys() | known):
            file = relative(labels / f"{stem}.txt", root)
            found = pictures.get(stem, [])
            if len(found) != 1:
                if stem == "classes":
                    continue
                what = f"has the pictures {', '.join(found)}" if found else "has no picture"
                problems.append(Problem(file, "", what, "there must be exactly one picture of that name"))
                continue
            domain = choice.take(folder / found[0], {})
            count += 1
            if domain is None:
                continue
            image = Annotated(count - 1, folder / found[0], file, domain)
            if stem not in known:
                problem = Problem(file, "", "the label file is missing", "add it, or say --unlabelled background")
                if unlabelled.keeps(image, problem, problems):
                    images.append(image)
                continue
            try:
                lines = read_text(labels / f"{stem}.txt").splitlines()
            except ValueError as error:
                problems.append(Problem(file, "", f"the label file {error}", "fix the file"))
                continue
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        box = read_line(line, f"line {number}")
                    except ValueError as error:
                        problems.append(Problem(file, f"line {number}", str(error), "fix or remove the line", "box"))
                        continue
                    if box.name == DONT_CARE:
                        image.regions.append(box)
                        num_regions += 1
                    else:
                        image.boxes.append(box)
            images.append(image)
    unlabelled.report(choice.num_taken, str(root))
    if num_regions:
        say(f"{root}: {counted(num_regions, 'region')} of {DONT_CARE}, where every class is ignored")
    return images


def read_line(line: str, where: str) -> AnnotatedBox:
    words = line.split()
    if len(words) not in COLUMNS:
        raise ValueError(f"has {len(words)} columns; expected type, 14 numbers and perhaps a score")
    values = [parse_number(word) for word in words[1:]]
    x1, y1, x2, y2 = values[3:7]
    return AnnotatedBox(class_name(words[0], "type"), x1, y1, x2, y2, False, where)
