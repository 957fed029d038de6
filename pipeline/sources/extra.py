"""Aligned images of other sensors beside the pictures: `--extra gated=gated0,gated1,gated2 depth`.

A modality is one folder, or several under one name, whose channels follow each other in the order given. A folder
lies beside one that holds the picture: gated0/x.png or gated0/train/x.png for images/train/x.jpg, at any depth below
the root. Files are matched by their names without suffix. Registration is never guessed: another size is scaled only
where it has the picture's shape.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.command.suggest import nearest
from pipeline.files.parse import MAX_IMAGE_BYTES, open_file
from pipeline.files.pixels import WITHOUT_RANGE, Kind, read_kind
from pipeline.sources.annotated import relative
from pipeline.sources.folders import pictures_by_stem

# Of the picture itself, and of folders that formats have beside the pictures.
TAKEN = ("rgb", "images", "labels", "annotations", "jpegimages", "imagesets")
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,39}"
MOST = 16  # folders in all


class Member(NamedTuple):
    """One image of a sample beside its picture."""

    name: str  # of the folder; the packed file is KEY.NAME.jpg
    folder: str
    limits: tuple[float, float] | None  # values that become 0 and 255; None: they are of 0 to 255
    raw: bool = False  # packed without loss


class Modality(NamedTuple):
    name: str
    members: tuple[Member, ...]


def parse_extra(options: Sequence[str], ranges: Sequence[str], raw: Sequence[str] = ()) -> tuple[Modality, ...]:
    """'gated=gated0,gated1' and 'depth', each with its 'NAME=LOW:HIGH'; raw: the names of those without loss."""
    limits = dict(parse_range(text) for text in split_words(ranges))
    modalities: list[Modality] = []
    names: list[str] = []
    members: list[str] = []
    for text in split_words(options):
        name, separator, folders = text.partition("=")
        listed = folders.split(",") if separator else [name]
        for word in (name, *(folder.rpartition("/")[2] for folder in listed)):
            if not re.fullmatch(NAME, word) or word.lower() in TAKEN:
                raise ValueError(
                    f"--extra {text}: {word!r} is no name for it; expected NAME, or NAME=FOLDER,FOLDER: letters, "
                    f"digits, _ and -, the first a letter, and none of {', '.join(TAKEN)}"
                )
        for folder in listed:
            if folder.startswith("/") or ".." in folder.split("/"):
                raise ValueError(f"--extra {text}: {folder} is not a folder beside the pictures")
        how = limits.get(name), name in split_words(raw)
        modalities.append(Modality(name, tuple(Member(folder.rpartition("/")[2], folder, *how) for folder in listed)))
        names.append(name)
        members += [member.name for member in modalities[-1].members]
    for every in (names, members):
        if twice := [name for name in every if every.count(name) > 1]:
            raise ValueError(f"--extra names {twice[0]} twice; name each modality and each folder once")
    if len(members) > MOST:
        raise ValueError(f"--extra names {len(members)} folders; at most {MOST}")
    for option, given in (("range", limits), ("raw", split_words(raw))):
        if without := [name for name in given if name not in names]:
            raise ValueError(f"--extra-{option} {without[0]}: --extra has {', '.join(names) or 'nothing'}")
    return tuple(modalities)


def split_words(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in value.split()]


def parse_range(text: str) -> tuple[str, tuple[float, float]]:
    number = r"-?\d+(?:\.\d*)?(?:[eE][-+]?\d{1,2})?"
    match = re.fullmatch(rf"({NAME})=({number}):({number})", text)
    if match is None or not float(match[2]) < float(match[3]):
        raise ValueError(f"--extra-range {text}: expected NAME=LOW:HIGH with LOW below HIGH, for example depth=0:8000")
    return match[1], (float(match[2]), float(match[3]))


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other scaled, up to half a pixel a side of the larger: |h w' - h' w| <= (h + w) / 2."""
    (h, w), (other_h, other_w) = size, other
    return 2 * abs(h * other_w - other_h * w) <= max(h + w, other_h + other_w)


def check_aligned(size: tuple[int, int], picture: tuple[int, int]) -> None:
    if not same_shape(size, picture):
        raise ValueError(
            f"is {size[1]}x{size[0]} and the picture {picture[1]}x{picture[0]}: of another shape, it is not aligned "
            "with the picture"
        )


def holds_pictures(folder: Path, root: Path, modalities: Sequence[Modality]) -> bool:
    """Whether images in a folder below the root are pictures, and not those of another sensor."""
    parts = folder.relative_to(root).parts
    for modality in modalities:
        for member in modality.members:
            wanted = tuple(member.folder.split("/"))
            if any(parts[start : start + len(wanted)] == wanted for start in range(len(parts))):
                return False
    return True


def is_wide(path: Path) -> bool:
    """Of more than 8 bits; an unreadable file is named with its picture, later."""
    try:
        with open_file(path, MAX_IMAGE_BYTES) as file:
            return read_kind(file).wide
    except ValueError:
        return False


@dataclass
class ExtraFiles:
    """Finds the files of each picture, and checks them by their headers."""

    root: Path
    modalities: tuple[Modality, ...]

    def __post_init__(self) -> None:
        self.channels: dict[str, int] = {}  # of each member, as its first file has them
        self._wide: dict[str, bool] = {}  # whether a modality's first file has more than 8 bits
        self._folders: dict[tuple[Path, str], Path] = {}
        self._pictures: dict[Path, dict[str, list[str]]] = {}

    def check_options(self, pictures: Sequence[Path]) -> None:
        """A folder that no picture has beside it, or wide values without a range: one mistake, not one a picture."""
        places = list(dict.fromkeys(picture.parent for picture in pictures))
        for modality, member in [(each, member) for each in self.modalities for member in each.members]:
            found = [folder for place in places for folder in self._existing(place, member.folder)[:1]]
            if places and not found:
                around = {self.root, *(place.parent for place in places if place != self.root)}
                names = sorted({path.name for place in around for path in place.iterdir() if path.is_dir()})
                raise ValueError(
                    f"--extra {modality.name}: there is no folder {member.folder} beside the pictures"
                    f"{nearest(member.folder, names)}; give folders below {self.root}"
                )
            names = sorted(names[0] for names in pictures_by_stem(found[0]).values()) if found else []
            if member.limits is None and names and all(is_wide(found[0] / name) for name in (names[0], names[-1])):
                raise ValueError(
                    f"--extra {modality.name}: {relative(found[0] / names[0], self.root)} {WITHOUT_RANGE}: give "
                    f"--extra-range {modality.name}=LOW:HIGH"
                )

    def find(self, picture: Path, size: tuple[int, int]) -> dict[str, Path]:
        """{member: file} of a picture of this size; ValueError names what is missing or does not fit."""
        found = {}
        for modality in self.modalities:
            for member in modality.members:
                path = self._file(picture, member)
                try:
                    with open_file(path, MAX_IMAGE_BYTES) as file:
                        kind = read_kind(file)
                    self._check(modality, member, kind, size)
                except ValueError as error:
                    raise ValueError(f"{relative(path, self.root)} {error}") from None
                found[member.name] = path
        return found

    def _check(self, modality: Modality, member: Member, kind: Kind, size: tuple[int, int]) -> None:
        check_aligned(kind.size, size)
        if kind.wide and member.limits is None:
            raise ValueError(f"{WITHOUT_RANGE}: give --extra-range {modality.name}=LOW:HIGH")
        if member.limits is not None and self._wide.setdefault(modality.name, kind.wide) != kind.wide:
            bits = ("8 bits", "more than 8 bits")
            raise ValueError(
                f"has {bits[kind.wide]} a channel, the first file of {modality.name} {bits[not kind.wide]}: one range "
                "does not fit both"
            )
        if self.channels.setdefault(member.name, kind.channels) != kind.channels:
            words = {1: "grey", 3: "in colours"}
            raise ValueError(f"is {words[kind.channels]}, the first of {member.folder} {words[4 - kind.channels]}")

    def _file(self, picture: Path, member: Member) -> Path:
        key = picture.parent, member.folder
        if key not in self._folders:
            self._folders[key] = self._folder(*key)
        folder, stem = self._folders[key], picture.stem
        if folder not in self._pictures:
            self._pictures[folder] = pictures_by_stem(folder)
        names = self._pictures[folder].get(stem, [])
        if len(names) != 1:
            where = relative(folder / stem, self.root)
            raise ValueError(f"{where}.* is missing" if not names else f"{where}: {' and '.join(names)}, expected one")
        return folder / names[0]

    def _folder(self, place: Path, name: str) -> Path:
        """The folder of that name beside one on the way from the picture's folder up to the root."""
        found = self._existing(place, name)
        if len(found) != 1:
            where = ", ".join(relative(folder, self.root) for folder in found or self._tried(place, name))
            raise ValueError(f"{'several folders' if found else 'no folder'} {name} for the picture: {where}")
        return found[0]

    def _existing(self, place: Path, name: str) -> list[Path]:
        """Those there are; nir/train2017 is meant for train2017, not nir, which holds it."""
        found = [folder for folder in dict.fromkeys(self._tried(place, name)) if os.path.isdir(folder)]
        return [folder for folder in found if not any(folder in other.parents for other in found)]

    def _tried(self, place: Path, name: str) -> list[Path]:
        tried = [place / name]
        rest = Path()
        while place != self.root and place.parent != place:
            place, rest = place.parent, Path(place.name) / rest
            # In the place of rest's first folder, or above it.
            tried += [place / name / Path(*rest.parts[1:]), place / name / rest]
        return tried
