"""Images of other sensors beside somebody's pictures: `--extra gated=PLACE/gated0,PLACE/gated1 depth=PLACE/depth`.

A file has its picture's name, with any suffix, and lies where the picture does below the folder that was named. A file
of another size fits where it has the picture's shape; registration is never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.files.pixels import WITHOUT_RANGE, read_extra, resize
from pipeline.sources.extra import check_aligned, parse_range
from pipeline.sources.folders import pictures_by_stem

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from model.backbones.config import BackboneConfig


@dataclass(frozen=True)
class AlignedFolders:
    """Where the other inputs of a detector lie, in its order."""

    channels: dict[str, int]
    folders: dict[str, list[Path]]
    limits: dict[str, tuple[float, float]]  # values that become 0 and 255

    def read(self, picture: Path, place: Path, size: tuple[int, int], wanted: tuple[int, int]) -> dict[str, np.ndarray]:
        """{input: uint8 (h, w, C)} of a picture of this size, which lies at `place` below its folder.

        Resized once from the file to the wanted size, as when it is packed.
        """
        found = {}
        for name, folders in self.folders.items():
            parts = [self._read_one(folder / place.parent, picture.stem, name, size, wanted) for folder in folders]
            joined = np.concatenate(parts, axis=2)
            if joined.shape[2] != self.channels[name]:
                raise ValueError(
                    f"has {joined.shape[2]} channels of {name} in {', '.join(map(str, folders))}; the detector looks "
                    f"at {self.channels[name]}"
                )
            found[name] = joined
        return found

    def _read_one(
        self, folder: Path, stem: str, name: str, size: tuple[int, int], wanted: tuple[int, int]
    ) -> np.ndarray:
        names = listed(folder).get(stem, [])
        if len(names) != 1:
            what = "is missing" if not names else f"has {' and '.join(names)}, expected one"
            raise ValueError(f"{name}: {folder / stem}.* {what}")
        path = folder / names[0]
        try:
            image = read_extra(path, self.limits.get(name))
            check_aligned((image.shape[0], image.shape[1]), size)
        except ValueError as error:
            fix = f": give --extra-range {name}=LOW:HIGH" if str(error) == WITHOUT_RANGE else ""
            raise ValueError(f"{name}: {path} {error}{fix}") from None
        return resize(image, wanted)


@cache
def listed(folder: Path) -> dict[str, list[str]]:
    return pictures_by_stem(folder)


def find_aligned(options: Sequence[str], ranges: Sequence[str], config: "BackboneConfig") -> AlignedFolders:
    """`options`: NAME=FOLDER,FOLDER of every input of a detector beside rgb; `ranges`: NAME=LOW:HIGH, where not as
    in its training."""
    wanted = config.extra_inputs
    folders = {}
    for text in options:
        name, equals, listed = text.partition("=")
        if not equals or not listed or name in folders:
            raise ValueError(f"--extra {text}: write NAME=FOLDER, or NAME=FOLDER,FOLDER, each name once")
        folders[name] = [Path(folder) for folder in listed.split(",")]
        if missing := [str(folder) for folder in folders[name] if not folder.is_dir()]:
            raise ValueError(f"--extra {text}: there is no folder {missing[0]}")
    if set(folders) != set(wanted):
        needs = ", ".join(f"{name} ({channels})" for name, channels in wanted.items()) or "pictures only"
        parts = {name: config.extra_folders.get(name, ("FOLDER",)) for name in wanted}
        fix = " ".join(f"{name}={','.join(f'PLACE/{folder}' for folder in parts[name])}" for name in wanted)
        raise ValueError(
            f"--extra: the detector looks at {needs}; got {', '.join(folders) or 'none'}: "
            + (f"give --extra {fix}" if wanted else "leave it out")
        )
    for name, places in folders.items():
        trained, given_now = config.extra_folders.get(name, ()), tuple(place.name for place in places)
        if given_now != trained and sorted(given_now) == sorted(trained):
            raise ValueError(
                f"--extra {name}: got {', '.join(given_now)}, and the detector was trained on {', '.join(trained)}; "
                "give them in this order"
            )
    given = dict(parse_range(text) for text in ranges)
    if without := [name for name in given if name not in folders]:
        raise ValueError(f"--extra-range {without[0]}: --extra has {', '.join(folders) or 'nothing'}")
    limits = {name: pair for name, pair in config.extra_limits.items() if pair != (0, 255)} | given
    return AlignedFolders(wanted, {name: folders[name] for name in wanted}, limits)
