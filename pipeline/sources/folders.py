"""Formats with a label file for each picture and no list: which folders hold them, as splits."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.files.pixels import SUFFIXES


class Pair(NamedTuple):
    labels: Path
    pictures: Path


def files_ending(folder: Path, suffix: str) -> list[str]:
    """Names, sorted; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(suffix))


def pictures_by_stem(folder: Path) -> dict[str, list[str]]:
    """{name without its suffix: [file names]} of the pictures that are in the folder itself."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found


def find_pairs(
    root: Path,
    label_names: Sequence[str],
    picture_names: Sequence[str],
    holds: Callable[[Path], bool],
    skip: Callable[[Path], bool],
) -> dict[str, Pair]:
    """{split: folders}. holds: whether a folder has label files of the format.

    In root: two folders (split 'all'), the same with a folder a split below both, or labels beside the pictures.
    Otherwise each folder below root that has one of these is a split. skip: folders to leave alone.
    """
    own = pair_in(root, label_names, picture_names, holds)
    if own:
        return own
    found: dict[str, Pair] = {}
    for child in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
        if child.name.startswith(".") or skip(child):
            continue
        below = pair_in(child, label_names, picture_names, holds)
        found |= {child.name if name == "all" else f"{child.name}/{name}": pair for name, pair in below.items()}
    return found


def pair_in(
    folder: Path, label_names: Sequence[str], picture_names: Sequence[str], holds: Callable[[Path], bool]
) -> dict[str, Pair]:
    for labels in (folder / name for name in label_names):
        for pictures in (folder / name for name in picture_names):
            if labels.is_dir() and pictures.is_dir():
                if holds(labels):
                    return {"all": Pair(labels, pictures)}
                splits = sorted(path for path in labels.iterdir() if path.is_dir() and (pictures / path.name).is_dir())
                if splits := [path for path in splits if holds(path)]:
                    return {path.name: Pair(path, pictures / path.name) for path in splits}
    return {"all": Pair(folder, folder)} if holds(folder) else {}
