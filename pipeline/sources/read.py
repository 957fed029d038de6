"""Any annotated dataset as Samples: which format it is, and the checks every image and box must pass."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.batch import Sample
from pipeline.command.console import track
from pipeline.command.suggest import nearest
from pipeline.files.escape import printable_line
from pipeline.files.parse import MAX_IMAGE_BYTES, open_file
from pipeline.files.pixels import read_size
from pipeline.files.problems import Problem
from pipeline.sources import diverse_weather, seeing_through_fog
from pipeline.sources.annotated import Annotated, AnnotatedBox, class_name, relative
from pipeline.sources.bdd import find_folders, read_bdd
from pipeline.sources.choice import Choice
from pipeline.sources.classes import build_class_table, parse_renames
from pipeline.sources.coco import read_coco
from pipeline.sources.extra import ExtraFiles, Modality, parse_extra
from pipeline.sources.json_files import find_json
from pipeline.sources.kitti import find_kitti, read_kitti
from pipeline.sources.options import DEFAULTS, ReadOptions
from pipeline.sources.pictures import read_pictures
from pipeline.sources.voc import find_unlisted, find_voc, read_voc
from pipeline.sources.yolo import read_yolo
from pipeline.sources.yolo_card import find_yolo

FORMATS = ("voc", "yolo", "coco", "bdd", "kitti", "stf", "pictures")
NEIGHBOURS = 50  # folders below a wrong ROOT that are looked into
CLIP_BELOW = 2.0  # pixels a box may stick out of its image and be clipped without a word


@dataclass
class Source:
    """What was read: good samples, the class order, and every problem found on the way."""

    root: Path
    format: str
    classes: tuple[str, ...]
    samples: list[Sample]
    problems: list[Problem] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)  # {class name: objects left out by --drop}
    num_clipped: int = 0  # boxes that stuck out by less than CLIP_BELOW
    extra: tuple[Modality, ...] = ()  # what each sample has beside its picture
    extra_channels: dict[str, int] = field(default_factory=dict)  # of each member


def fitting_formats(root: Path, folders: bool = True) -> list[str]:
    """folders: whether a format may also be recognised by what is in each of root's folders."""
    if seeing_through_fog.find_layout(root):  # its label files are KITTI's, too
        return ["stf"]
    voc, kitti = find_voc(root) or find_unlisted(root, folders), find_kitti(root, folders)
    found = [name for name, fits in (("voc", voc), ("yolo", find_yolo(root)), ("kitti", kitti)) if fits]
    return found + sorted({kind for _, kind in find_json(root).values()} | ({"bdd"} if find_folders(root) else set()))


def fitting_neighbours(root: Path) -> list[str]:
    """'FOLDER (format)' of the folders one level down and one up that would be recognised."""
    below = sorted(path for path in root.iterdir() if path.is_dir())[:NEIGHBOURS]
    found = []
    for folder in (*below, root.parent):
        try:
            benchmark = diverse_weather.find_domains(folder)
            formats = ["the diverse-weather benchmark"] if benchmark else fitting_formats(folder, folder != root.parent)
        except (ValueError, OSError):  # a folder the user did not name; its faults are not the user's mistake
            continue
        if formats:
            found.append(f"{folder} ({' and '.join(formats)})")
    return found


def detect_format(root: Path) -> str:
    """One of FORMATS, by the files that only that format has; exactly one must fit."""
    if root.is_file() and root.suffix in (".yaml", ".yml", ".data"):
        raise ValueError(f"{root} is a file: give the folder of the data, and --yaml {root}")
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    found = fitting_formats(root)
    if not found and (neighbours := fitting_neighbours(root)):
        raise ValueError(f"{root} has no annotations that are known, but these have: {', '.join(neighbours)}")
    if len(found) != 1:
        expected = (
            "Annotations/*.xml or xml beside the pictures (voc), data.yaml (yolo), annotations/*.json (coco), "
            "labels/*.json or labels/100k/SPLIT/*.json (bdd), label_2/*.txt (kitti) or cam_stereo_left_lut/ (stf: "
            "Seeing Through Fog); pictures that nobody labelled are --format pictures"
        )
        what = f"looks like {' and '.join(found)}" if found else "has no annotations that are known"
        raise ValueError(f"{root} {what}; expected {expected}; say which with --format {{{','.join(FORMATS)}}}")
    return found[0]


def read_source(
    root: Path | str,
    format: str = "auto",
    *,
    classes: Sequence[str] = (),
    rename: Sequence[str] = (),
    drop: Sequence[str] = (),
    splits: Sequence[str] = (),
    domain: str = "",
    options: ReadOptions = DEFAULTS,
    quiet: bool = False,
) -> Source:
    """Read and check a whole dataset. A wrong option or class name raises; faults of the data are in `.problems`.

    rename: 'OLD=NEW' pairs; drop: class names whose objects are left out; splits: several, or 'all'.
    """
    root = Path(root).absolute()
    said = format != "auto"
    if not said:
        format = "yolo" if options.yaml else detect_format(root)
    if options.yaml and format != "yolo":
        raise ValueError(f"--yaml {options.yaml} is for YOLO, and --format is {format}: leave one of them out")
    if options.unlabelled != "auto" and format in ("coco", "bdd", "pictures"):
        raise ValueError(f"--unlabelled is for formats with a label file for each picture, not for {format}")
    modalities = parse_extra(options.extra, options.extra_range, options.extra_raw)
    choice = Choice(options, class_name(domain, "--domain") if domain else "", printable_line(root.name))
    problems: list[Problem] = []
    try:
        images, listed = read_images(root, format, list(splits), choice, problems, options, modalities)
    except ValueError as error:
        if not said or format not in FORMATS or format in (fits := fitting_formats(root)) or not fits:
            raise
        raise ValueError(f"{error}; this looks like {' and '.join(fits)}: leave --format out") from None
    choice.check(root)
    found = Counter(box.name for image in images for box in image.boxes)
    class_order, table = build_class_table(found, listed, tuple(classes), parse_renames(rename), drop)
    dropped = {name: found[name] for name, label in table.items() if label == 0}
    source = Source(root, format, class_order, [], problems, dropped)
    files = ExtraFiles(root, modalities)
    files.check_options([image.image for image in images])
    source.extra, source.extra_channels = modalities, files.channels
    for image in track(images, f"reading {root.name}", len(images), quiet=quiet):
        sample = check_image(image, table, source, files)
        if sample is not None:
            source.samples.append(sample)
    return source


def read_images(
    root: Path,
    format: str,
    splits: list[str],
    choice: Choice,
    problems: list[Problem],
    options: ReadOptions,
    modalities: tuple[Modality, ...],
) -> tuple[list[Annotated], list[str]]:
    """(what the annotations of this format say, class names in the order of the data, where these have one)."""
    if format == "voc":
        return read_voc(root, splits, choice, problems, options), []
    if format == "yolo":
        return read_yolo(root, splits, choice, problems, options, modalities)
    if format == "coco":
        return read_coco(root, splits, choice, problems)
    if format == "bdd":
        return read_bdd(root, splits, choice, problems), []
    if format == "kitti":
        return read_kitti(root, splits, choice, problems, options), []
    if format == "stf":
        return seeing_through_fog.read_seeing_through_fog(root, splits, choice, problems, options)
    if format == "pictures":
        return read_pictures(root, splits, choice, modalities), []
    raise ValueError(f"--format {format}: expected auto, {', '.join(FORMATS)}{nearest(format, FORMATS)}")


def check_image(image: Annotated, table: dict[str, int], source: Source, files: ExtraFiles) -> Sample | None:
    picture = relative(image.image, source.root)
    try:
        if str(image.image).encode(errors="ignore").decode() != str(image.image):
            raise ValueError("has a name that is not UTF-8")
        with open_file(image.image, MAX_IMAGE_BYTES) as file:
            size, stored = read_size(file)
    except ValueError as error:
        source.problems.append(Problem(picture, "", str(error), "replace the picture or take it out of the list"))
        return None
    if image.size is not None and image.size != size:
        declared = f"{image.size[1]}x{image.size[0]}"
        if image.size == stored:
            what = (
                f"the annotation says {declared}, the size before the EXIF rotation: its boxes do not fit the picture"
            )
            fix = "turn the boxes, or remove the EXIF orientation tag from the picture"
        else:
            what = f"the annotation says {declared} but the picture is {size[1]}x{size[0]}"
            fix = "fix the size, or give the picture that was annotated"
        source.problems.append(Problem(image.file, picture, what, fix))
        return None
    try:
        extra = files.find(image.image, size)
    except ValueError as error:
        source.problems.append(Problem(picture, "--extra", str(error), "add the file or take the picture out"))
        return None
    boxes: list[np.ndarray] = []
    labels: list[int] = []
    ignore: list[bool] = []
    everything = [np.array((0, 0, size[1], size[0]), np.float32)] if image.unlabelled else []
    for corners in [*everything, *(check_box(region, size, image, source) for region in image.regions)]:
        if corners is not None:  # nothing there may count as background, for any class
            boxes += [corners] * len(source.classes)
            labels += range(1, len(source.classes) + 1)
            ignore += [True] * len(source.classes)
    for box in image.boxes:
        label = table[box.name]
        if label:
            corners = check_box(box, size, image, source)
            if corners is not None:
                boxes.append(corners)
                labels.append(label)
                ignore.append(box.ignore)
    return Sample(
        path=image.image,
        size=size,
        boxes_N4=np.array(boxes, np.float32).reshape(-1, 4),
        labels_N=np.array(labels, np.int64),
        ignore_N=np.array(ignore, bool),
        domain=image.domain,
        id=image.id,
        extra=extra,
    )


def check_box(box: AnnotatedBox, size: tuple[int, int], image: Annotated, source: Source) -> np.ndarray | None:
    """float32 corners inside the image with positive area, or None and a problem."""
    h, w = size
    corners = np.array((box.x1, box.y1, box.x2, box.y2), np.float64)
    if image.normalised:
        corners *= (w, h, w, h)
    shown = f"box {[round(float(value), 2) for value in corners]} in a picture of {w}x{h}"
    if not has_area(corners, size):
        source.problems.append(Problem(image.file, box.where, f"{shown} has no area", "fix or remove the box", "box"))
        return None
    outside = max(-corners[0], -corners[1], corners[2] - w, corners[3] - h)
    clipped = np.clip(corners, 0, (w, h, w, h))
    empty = not has_area(clipped, size)
    if empty or outside >= CLIP_BELOW:
        what = f"{shown} is outside" if empty else f"{shown} sticks out by {outside:.1f} px"
        source.problems.append(
            Problem(image.file, box.where, what, "fix or remove the box", "box" if empty else "clip")
        )
    source.num_clipped += bool(outside > 0 and not empty)
    return None if empty else clipped.astype(np.float32)


def has_area(corners: np.ndarray, size: tuple[int, int]) -> bool:
    """Each side longer than a millionth of the picture's, so that it stays longer than 0 as float32 when scaled."""
    thinnest = 1e-6 * max(size)
    x1, y1, x2, y2 = corners.tolist()
    return x2 - x1 > thinnest and y2 - y1 > thinnest  # false for NaN as well
