"""A sheet of whole pictures: source, translated, what is kept of the source, a real target picture; and what it tells.

A generator that collapsed shows in its own statistics: pictures all alike whatever the source shows, flat ones, or
ones that nothing was done to.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from model.translation.build import Generator
from model.translation.pictures import translate
from pipeline.files.letters import write
from pipeline.files.pixels import decode_packed
from pipeline.packed.reader import PackedDataset

TITLES = ("source", "translated", "kept of the source", "a real target picture")
LINE = 20  # pixels, for the titles
THUMBNAIL = 8  # pixels a side
LEAST_VARIETY, LEAST_CONTRAST, LEAST_CHANGE = 0.1, 0.1, 0.01


class Seen(NamedTuple):
    """Of the sheet's pictures."""

    variety: float  # how much thumbnails differ from each other, translated over source
    contrast: float  # deviation inside a picture, translated over real target
    change: float  # mean |translated - source|, 1 for black to white


def draw(path: Path, generator: Generator, source: PackedDataset, target: PackedDataset, num: int, step: int) -> Seen:
    """Write the sheet: always the same pictures, spread evenly over both datasets."""
    rows, kinds = [], []
    for index in range(num):
        place = [round(index * (len(data) - 1) / max(num - 1, 1)) for data in (source, target)]
        before, real = (decode_packed(data.jpeg(i)) for data, i in zip((source, target), place, strict=True))
        after, kept_HW = translate(generator, before)
        kinds.append((before, after, real))
        mask = np.repeat((kept_HW * 255).round().astype(np.uint8)[..., None], 3, axis=2)
        rows.append([before, after, mask, real])
    write_sheet(path, rows, step)
    return measure(kinds)


def write_sheet(path: Path, rows: list[list[np.ndarray]], step: int) -> None:
    height, width = (max(picture.shape[side] for row in rows for picture in row) for side in (0, 1))
    sheet = np.zeros((height * len(rows) + LINE, width * len(TITLES), 3), np.uint8)
    for across, title in enumerate(TITLES):
        text = f"{title}, step {step}" if across == 0 else title
        write(sheet, text, across * width + 4, LINE - 5, LINE - 6, (255, 255, 255))
        for down, row in enumerate(rows):
            tall, wide = row[across].shape[:2]
            sheet[LINE + down * height :, across * width :][:tall, :wide] = row[across]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(path, quality=92)


def measure(kinds: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Seen:
    """From (source, translated, real target) pictures."""
    before, after, real = ([row[column].astype(np.float32) / 255 for row in kinds] for column in range(3))
    small = [
        np.stack([cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for picture in pictures])
        for pictures in (before, after)
    ]
    apart = [float(each.std(axis=0).mean()) for each in small]
    spread = [float(np.mean([picture.mean(axis=2).std() for picture in pictures])) for pictures in (after, real)]
    change = float(np.mean([np.abs(b - a).mean() for a, b in zip(before, after, strict=True)]))
    return Seen(apart[1] / max(apart[0], 1e-3), spread[0] / max(spread[1], 1e-3), change)


def warnings(seen: Seen) -> Iterator[str]:
    if seen.variety < LEAST_VARIETY:
        yield (
            f"the translated pictures are nearly alike (they differ by {seen.variety:.2f} of what the source pictures "
            "do): the generator may have collapsed"
        )
    if seen.contrast < LEAST_CONTRAST:
        yield (
            f"the translated pictures are nearly flat (deviation {seen.contrast:.2f} of the target's): the generator "
            "may have collapsed"
        )
    if seen.change < LEAST_CHANGE:
        yield f"the generator changes next to nothing yet (by {seen.change:.3f} of the full scale)"
