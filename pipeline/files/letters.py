"""Text on pictures, in letters of most scripts: OpenCV's own font "uni" (Latin, Greek, Cyrillic, Arabic, Chinese,
Japanese, Korean). A letter that it lacks becomes a question mark."""

import unicodedata

import cv2
import numpy as np


def measure(words: str, letter: int) -> tuple[int, int, int]:
    """(width, height above the baseline, depth below it) in pixels of a line of `letter` pixels."""
    left, top, width, height = cv2.getTextSize((0, 0), one_line(words), (0, 0), font(), letter, 0)
    return left + width, -top, max(0, top + height)


def write(image: np.ndarray, words: str, left: int, baseline: int, letter: int, colour: tuple[int, int, int]) -> None:
    """Write into an RGB image; what goes over an edge is cut off."""
    cv2.putText(image, one_line(words), (left, baseline), colour, font(), letter, 0)


def font() -> cv2.FontFace:
    return cv2.FontFace("uni")


def one_line(words: str) -> str:
    """Without characters that move the pen or show nothing."""
    return "".join("?" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in words)
