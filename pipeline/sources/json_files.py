"""What COCO and BDD100K share: finding the annotation files of the splits and the folder of their pictures."""

import os
import re
from pathlib import Path

from pipeline.files.parse import inside

PLACES = ("*.json", "annotations/*.json", "labels/*.json", "labels/*/*.json", "*/_annotations.coco.json")
PREFIXES = ("instances_", "det_v2_", "det_", "bdd100k_labels_images_")
PICTURE_FOLDERS = (
    "images/{split}",
    "images/100k/{split}",
    "images/10k/{split}",
    "{split}",
    "{split}/images",
    "images",
    "JPEGImages",
    ".",
)


def find_json(root: Path) -> dict[str, tuple[Path, str]]:
    """{split: (annotation file, 'coco' or 'bdd')}, by the first characters of the JSON files in the usual places."""
    found: dict[str, tuple[Path, str]] = {}
    paths = sorted({path for place in PLACES for path in root.glob(place) if path.is_file()})
    instances = [path for path in paths if path.name.startswith("instances_")]
    for path in instances or paths:  # beside COCO's instances are captions and keypoints
        split = path.parent.name if path.name == "_annotations.coco.json" else path.stem
        for prefix in PREFIXES:
            split = split.removeprefix(prefix)
        with open(path, "rb") as file:
            start = file.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"[") or re.match(rb'\{\s*"(frames|config)"', start):
            kind = "bdd"
        elif start.startswith(b"{") and re.search(rb'"(images|annotations|categories)"\s*:', start):
            kind = "coco"
        else:
            continue  # some other JSON
        if split in found:
            raise ValueError(
                f"{root}: {found[split][0].name} and {path.name} both describe the split {split!r}; keep one"
            )
        found[split] = (path, kind)
    return found


def find_picture(root: Path, annotation: Path, split: str, name: object) -> Path:
    """The picture that a file names: below the usual folders, or from the annotation's own folder ('../images/a.jpg').

    A name that leads elsewhere, as Label Studio writes, stands for the picture of the same last name in those folders.
    """
    folders = [root / pattern.format(split=split) for pattern in PICTURE_FOLDERS] + [annotation.parent]
    try:
        inside(root, name)
    except ValueError:
        if not isinstance(name, str) or "\0" in name or not name.strip():
            raise
        own = os.path.relpath(annotation.parent / name.replace("\\", "/"), root)
        last = name.replace("\\", "/").rpartition("/")[2]
        candidates = [(root, own), *((folder, last) for folder in folders)]
    else:
        candidates = [(folder, str(name)) for folder in folders]
    for folder, text in candidates:
        try:
            path = inside(folder, text)
        except ValueError:
            continue
        if os.path.isfile(path):
            return path
    inside(root, name)
    raise ValueError(f"the picture {str(name)[:80]!r} was not found in images/{split}, {split}, images or the root")
