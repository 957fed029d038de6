"""The reader of an evaluation's own files: a damaged one is one sentence with its name, never a traceback."""

import copy
import json
import random
import shutil
from dataclasses import fields

import numpy as np
import pytest

from eval import schema
from eval.report.page import build_report
from eval.results import load_run
from pipeline.command.console import say
from pipeline.files.escape import printable
from pipeline.files.own import Each, OneOf, problem_of, read_arrays, read_json, read_lines
from tests.eval.test_report import runs  # noqa: F401
from train.config import Config
from train.translation.config import TranslationConfig

FILES = ("results.json", "curves.json", "robustness.json", "pictures/pictures.json", "../config.json", "../log.jsonl")
ODD = (None, True, -1, 10**400, float("nan"), 1e308, "", "x\x1b[2J", [], {}, [[]], {"a": {}}, "../../../etc/passwd")


def mutate(value, generator):
    """One place of a JSON value replaced, removed or doubled."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return value
        key = generator.choice(list(keys))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and generator.random() < 0.8:
            place = inner
            continue
        if generator.random() < 0.3:
            del place[key]
        else:
            place[key] = generator.choice(ODD)
        return value


def error_of(call):
    """What a ValueError of it says; None where there is none. Anything else is a traceback, and fails."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_of_a_run_is_named_or_harmless(runs, tmp_path, name):  # noqa: F811
    generator = random.Random(name)
    shutil.copytree(runs[1].path, tmp_path / "run")
    file = (tmp_path / "run" / "eval" / name).resolve()
    whole = file.read_bytes()
    for number in range(25):
        if number % 5 == 0:
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            file.write_bytes(damaged[: generator.randrange(1, len(damaged))] if number % 2 else damaged)
        elif name.endswith("jsonl"):
            lines = whole.decode().splitlines()
            line = generator.randrange(len(lines) - 1)
            lines[line] = json.dumps(mutate(json.loads(lines[line]), generator))
            file.write_text("\n".join(lines))
        else:
            file.write_text(json.dumps(mutate(json.loads(whole), generator)))
        said = error_of(lambda: build_report([runs[0], load_run(tmp_path / "run", "mutated")]))
        assert said is None or (file.name in said and len(said) < 1000), (number, said)


def test_a_page_knows_every_field_of_a_configuration():
    for config, shape in ((Config, schema.CONFIG), (TranslationConfig, schema.TRANSLATION)):
        assert {field.name for field in fields(config)} == {name.removesuffix("?") for name in shape}


def test_shapes():
    shape = {"a": int, "b?": OneOf(([float], None)), "c": Each((str, bool))}
    assert problem_of({"a": 1, "b": [1, 2.5], "c": {"x": ["", True]}, "d": 0}, shape) is None
    assert problem_of({"a": 1, "b": None, "c": {}}, shape) is None
    assert problem_of({"b": None}, shape) == "it lacks a, c"
    assert problem_of({"a": True, "c": {}}, shape) == "a is 'True', not a whole number"
    assert problem_of({"a": 1, "c": {"x": ["", 1]}}, shape) == "c.x.1 is '1', not true or false"
    assert problem_of({"a": 1, "c": {"x": [""]}}, shape) == "c.x is \"['']\", not a list of 2"
    assert problem_of({"a": 1, "b": ["1"], "c": {}}, shape) == "b.0 is '1', not a number"
    assert problem_of(float("nan"), float) == "it is 'nan', not a number"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[" * 60 + b"]" * 60, "nested deeper than 40 levels"),
        (b"9" * 5000, "is not JSON"),
        (b"[]", r"it is '\[\]', not an object"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_json(path, {}, "make it again")
    assert str(path) in str(raised.value)
    assert str(raised.value).endswith("; make it again")
    with pytest.raises(ValueError, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json")


def test_a_damaged_line_loses_that_line_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, \xff\n[3]\n' + b"[" * 100_000 + b'\n{"step": 4}\n{"step": 5')
    assert read_lines(path) == [{"step": 1}, {"step": 4}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "a.npz"
    for arrays in ({"a": np.zeros(3), "b": np.zeros(4)}, {"a": np.zeros((2, 2))}, {"a": np.array([{}])}):
        np.savez_compressed(path, **arrays)
        with pytest.raises(ValueError, match=r"a\.npz is damaged"):
            read_arrays(path)
    np.savez_compressed(path, a=np.arange(300.0))
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        said = error_of(lambda: read_arrays(path))
        assert said is None or "a.npz is damaged" in said


def test_names_cannot_steer_the_terminal(capsys):
    say("a\x1b[2J\x07b\r\x9bc\u202ed\x7f\tä漢\ue000😀\nnext \ud800")
    assert capsys.readouterr().out == ("a\\x1b[2J\\x07b\\r\\x9bc\\u202ed\\x7f\\tä漢\ue000😀\nnext \\ud800\n")
    assert printable("plain, Größe 5 × 3 − 2") == "plain, Größe 5 × 3 − 2"
