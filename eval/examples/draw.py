"""Boxes on a picture, for eval.predict and eval.picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from pipeline.files.letters import measure, write

# Distinct on day, night and fog; a class takes the colour of its number.
COLOURS = ("#35e0c4", "#ffc53d", "#6ab0ff", "#ff8f6b", "#c79bff", "#8fe36b", "#ff7fb0", "#d7dde6", "#5ad1f0", "#f0e05a")
INK = "#0b1017"
MOST_HIDDEN = 0.25  # of any object by a label; a label that would hide more is left out


def draw_boxes(
    image: np.ndarray, boxes_N4: np.ndarray, texts: Sequence[str], colours: Sequence[str], dashed: Sequence[bool] = ()
) -> np.ndarray:
    """A copy of an RGB image with (x, y, width, height) boxes, and a label for each text that is not empty.

    A label stands at the corner of its box where it hides least of any object, and over no other label. Where it would
    hide too much, it is left out: the box keeps its colour. The first ones choose first.
    """
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    thick = max(2, round(max(picture.size) / 400))
    dashed = list(dashed) or [False] * len(texts)
    for (x, y, w, h), colour, dash in zip(boxes_N4, colours, dashed, strict=True):
        corners = (x, y, x + max(w, 1), y + max(h, 1))
        outline(pen, (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), INK, thick + 2, dash)
        outline(pen, corners, colour, thick, dash)
    letter = max(11, round(max(picture.size) / 80))
    sizes = [(measure(words, letter)[0] + 6, letter + 6) if words else None for words in texts]
    places = place_labels(boxes_N4, sizes, (picture.height, picture.width))
    for place, size, colour in zip(places, sizes, colours, strict=True):
        if place is not None and size is not None:
            pen.rectangle((*place, place[0] + size[0] - 1, place[1] + size[1] - 1), fill=colour)
    image = np.array(picture)
    for place, words in zip(places, texts, strict=True):
        if place is not None:
            write(image, words, place[0] + 3, place[1] + letter, letter, ImageColor.getrgb(INK)[:3])
    return image


def place_labels(
    boxes_N4: np.ndarray, sizes: Sequence[tuple[int, int] | None], picture: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """The top left corner of each label of (width, height), None where it has no good place or no size."""
    corners_N4 = np.concatenate([boxes_N4[:, :2], boxes_N4[:, :2] + np.maximum(boxes_N4[:, 2:], 1)], axis=1)
    areas_N = (corners_N4[:, 2:] - corners_N4[:, :2]).prod(axis=1)
    taken: list[tuple[float, ...]] = []
    places: list[tuple[int, int] | None] = []
    for (x1, y1, x2, y2), size in zip(corners_N4, sizes, strict=True):
        best, chosen = MOST_HIDDEN, None
        if size is not None:
            wide, high = size
            # Above and below the box, then inside it.
            for x, y in (
                (x1, y1 - high),
                (x2 - wide, y1 - high),
                (x1, y2 + 1),
                (x2 - wide, y2 + 1),
                (x1, y1),
                (x1, y2 - high),
            ):
                left = round(min(max(0.0, x), max(0, picture[1] - wide)))
                top = round(min(max(0.0, y), max(0, picture[0] - high)))
                label = (left, top, left + wide, top + high)
                if taken and shared(np.array(taken), label).any():
                    continue
                hidden = float((shared(corners_N4, label) / areas_N).max())
                if hidden < best:
                    best, chosen = hidden, (left, top)
            if chosen is not None:
                taken.append((*chosen, chosen[0] + wide, chosen[1] + high))
        places.append(chosen)
    return places


def shared(corners_N4: np.ndarray, label: tuple[float, ...]) -> np.ndarray:
    """Area of each rectangle that a label covers."""
    sides_N2 = np.minimum(corners_N4[:, 2:], label[2:]) - np.maximum(corners_N4[:, :2], label[:2])
    return np.maximum(sides_N2, 0).prod(axis=1)


def outline(
    pen: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], colour: str, width: int, dashed: bool
):
    x1, y1, x2, y2 = corners
    if not dashed:
        pen.rectangle(corners, outline=colour, width=width)
        return
    length, step = 10, 16  # the same for every width, so that a dash and its dark edge lie on each other
    for top in (y1, y2 - width):
        for place in range(round(x1), round(x2), step):
            pen.rectangle((place, top, min(place + length, x2), top + width - 1), fill=colour)
    for left in (x1, x2 - width):
        for place in range(round(y1), round(y2), step):
            pen.rectangle((left, place, left + width - 1, min(place + length, y2)), fill=colour)


def class_colour(label: int) -> str:
    return COLOURS[(label - 1) % len(COLOURS)]
