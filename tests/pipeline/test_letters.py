"""Text on pictures: every script has letters of its own, and no name can move the pen."""

import numpy as np

from pipeline.files.letters import measure, one_line, write


def drawn(words: str) -> np.ndarray:
    image = np.zeros((40, 160, 3), np.uint8)
    write(image, words, 4, 30, 24, (255, 255, 255))
    return image


def test_letters_of_many_scripts_are_told_apart():
    """A font that lacks them draws the same box or question mark for each."""
    unknown = drawn("?")
    for script in ("éü", "ğş", "łő", "жя", "αΩ", "車歩", "자동", "حم"):
        pictures = [drawn(sign) for sign in script]
        assert all(picture.any() and (picture != unknown).any() for picture in pictures), script
        assert (pictures[0] != pictures[1]).any(), script


def test_text_lies_where_it_was_measured():
    for words in ("Ågjp|", "歩行者 0.93", "x"):
        width, height, depth = measure(words, 24)
        rows, columns, _ = np.nonzero(drawn(words))
        assert 4 <= columns.min() <= columns.max() < 4 + width + 2
        assert 30 - height - 4 <= rows.min() <= rows.max() <= 30 + depth + 1
    assert measure("", 24)[0] == 0


def test_control_characters_and_edges_do_no_harm():
    assert one_line("a\nb\x1b\ud800") == "a?b??"
    assert measure("a\nb", 20)[1] == measure("a?b", 20)[1]
    image = np.zeros((10, 10, 3), np.uint8)
    write(image, "far away", -500, 900, 20, (255, 255, 255))
    write(image, "\ud800", 0, 9, 10, (255, 255, 255))
    assert not image[:2, 8:].any()
