"""Boxes on a picture, for eval.predict and eval.picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinct on day, night and fog; a class takes the colour of its number.
COLOURS = ("#35e0c4", "#ffc53d", "#6ab0ff", "#ff8f6b", "#c79bff", "#8fe36b", "#ff7fb0", "#d7dde6", "#5ad1f0", "#f0e05a")
INK = "#0b1017"


def draw_boxes(
    image: np.ndarray, boxes_N4: np.ndarray, texts: Sequence[str], colours: Sequence[str], dashed: Sequence[bool] = ()
) -> np.ndarray:
    """A copy of an RGB image with (x, y, width, height) boxes; a label where its text is not empty."""
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    thick = max(2, round(max(picture.size) / 400))
    font = ImageFont.load_default(size=max(11, round(max(picture.size) / 60)))
    dashed = list(dashed) or [False] * len(texts)
    for (x, y, w, h), colour, dash in zip(boxes_N4, colours, dashed, strict=True):
        corners = (x, y, x + max(w, 1), y + max(h, 1))
        outline(pen, (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), INK, thick + 2, dash)
        outline(pen, corners, colour, thick, dash)
    for (x, y, _, _), words, colour in zip(boxes_N4, texts, colours, strict=True):
        if words:
            left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
            wide, high = right - left + 6, bottom - top + 5
            x = min(max(0, x), max(0, picture.width - wide))
            y = y - high if y >= high else y
            pen.rectangle((x, y, x + wide, y + high), fill=colour)
            pen.text((x + 3 - left, y + 2 - top), words, fill=INK, font=font)
    return np.asarray(picture)


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
