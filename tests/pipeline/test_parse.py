"""parse.py and check_box on anything at all (hypothesis): a right value or a ValueError, nothing else."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.files.parse import finite, inside, open_file, parse_number, read_json, read_xml, read_yaml
from pipeline.files.pixels import training_size
from pipeline.packed.shards import scale_boxes
from pipeline.sources.annotated import Annotated, AnnotatedBox
from pipeline.sources.read import CLIP_BELOW, Source, check_box

number_like = st.from_regex(r"[ \t]*[-+]?[0-9_.]*([eE][-+]?[0-9]*)?[ \t]*", fullmatch=True) | st.text(max_size=12)


@given(number_like)
@example("nan")
@example("Infinity")
@example("1_000")
@example("٣")
@example("1e309")
@example("0x10")
@example("")
@settings(max_examples=500, deadline=None)
def test_parse_number_is_a_narrower_float(text):
    try:
        value = parse_number(text)
    except ValueError:
        return
    assert value == float(text)
    assert math.isfinite(value)
    assert text.isascii()
    assert "_" not in text


def test_ordinary_numbers_are_read():
    for text in ("0", "12", "-3", "+4", "1.5", ".5", "7.", "1e2", "1.25E-2", " 8 \n", "007"):
        assert parse_number(text) == float(text)


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
@example(10**400)
@settings(deadline=None)
def test_finite_takes_numbers_alone(value):
    try:
        result = finite(value)
    except ValueError:
        return
    assert type(value) in (int, float)
    assert result == float(value)
    assert math.isfinite(result)


@given(st.text(max_size=40) | st.from_regex(r"([a-z.]{0,3}[/\\]){0,4}[a-z.]{0,3}", fullmatch=True))
@example("../x")
@example("a/../../x")
@example("/etc/passwd")
@example("C:\\x")
@example("a\0b")
@settings(max_examples=500, deadline=None)
def test_inside_never_leaves_the_root(name):
    try:
        path = inside(Path("/data/root"), name)
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/data/root")


coordinate = (
    st.floats(-50, 150) | st.floats() | st.sampled_from([0.0, -0.0, 2.0, 30.0, 32.0, 1e-30, 29.99999, 29.999999999])
)


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=1000, deadline=None)
def test_every_box_is_inside_or_reported(corners, size):
    h, w = size
    source = Source(Path("/r"), "voc", ("car",), [])
    box = check_box(
        AnnotatedBox("car", *corners, False, "line 1"), size, Annotated(0, Path("/r/a.jpg"), "a.xml", ""), source
    )
    if box is None:
        assert [problem.skips for problem in source.problems] == ["box"]
        return
    assert np.isfinite(box).all()
    packed = scale_boxes(box[None], size, training_size(size, 600, 1000))[0]
    assert (packed[2:] > packed[:2]).all()
    assert 0 <= box[0] < box[2] <= w
    assert 0 <= box[1] < box[3] <= h
    np.testing.assert_allclose(box, np.clip(corners, 0, (w, h, w, h)), rtol=1e-6, atol=1e-30)
    outside = max(-corners[0], -corners[1], corners[2] - w, corners[3] - h)
    assert [problem.skips for problem in source.problems] == (["clip"] if outside >= CLIP_BELOW else [])


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    for reader in (read_xml, read_json, read_yaml):
        try:
            reader(path)
        except ValueError as error:
            assert str(error)  # noqa: PT017


def test_the_last_of_very_many_keys_is_found_to_be_double(tmp_path):
    """In a search that takes quadratic time this would not end."""
    path = tmp_path / "many.json"
    path.write_text("{" + ", ".join(f'"{i}": 0' for i in [*range(300_000), 299_999]) + "}")
    with pytest.raises(ValueError, match="has the key '299999' twice"):
        read_json(path)


def test_text_of_an_element_around_its_children(tmp_path):
    path = tmp_path / "mixed.xml"
    path.write_text("<a>1<b>2</b>3<!-- 4 --><![CDATA[5]]></a>")
    root = read_xml(path)
    assert (root.text, root.one("b").text) == ("135", "2")


def test_only_regular_files_of_bounded_size_are_opened(tmp_path):
    """A pipe would never end, and a device never stop."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"12345")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (
        ("pipe", "not a regular file"),
        ("long", "has 5 bytes"),
        ("gone", "is missing"),
        ("loop", "cannot be read"),
        (".", "folder|regular"),
    ):
        with pytest.raises(ValueError, match=message), open_file(tmp_path / name, 4):
            pass
    with pytest.raises(ValueError, match="not a regular file"), open_file(Path("/dev/zero"), 1 << 40):
        pass
