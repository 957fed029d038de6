"""A folder of pictures that nobody has labelled, at any depth: everything in them is ignored.

Numbers follow the sorted names. Domains are named after --domain or --domain-name.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.files.pixels import SUFFIXES
from pipeline.sources.annotated import Annotated, relative
from pipeline.sources.choice import Choice
from pipeline.sources.extra import Modality, holds_pictures


def read_pictures(root: Path, splits: list[str], choice: Choice, modalities: Sequence[Modality]) -> list[Annotated]:
    if splits:
        raise ValueError(f"--split {splits[0]}: a folder of pictures has no lists; give ROOT/{splits[0]} as ROOT")
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        if holds_pictures(Path(folder), root, modalities)
        for name in names
    ]
    pictures = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise ValueError(
            f"{root}: no picture is in this folder or below; expected files ending in {', '.join(SUFFIXES)}"
        )
    images = []
    for number, path in enumerate(pictures):
        domain = choice.take(path, {})
        if domain is not None:
            images.append(Annotated(number, path, relative(path, root), domain, unlabelled=True))
    return images
