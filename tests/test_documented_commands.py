"""Every command in README.md, CONTRIBUTING.md and docs/*.md is parsed by its own program, without running it."""

import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro
from torch.distributed.run import get_args_parser

from fairweather import BENCHES
from fairweather import COMMANDS as COMMANDS_OF_ONE
from pipeline.files.fields import to_json
from pipeline.files.own import write_json
from train.start import read_command
from train.translation.start import read_command as read_translation

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAM = re.compile(r"((\.venv/bin/)?(python3?|pip|torchrun)\s|sbatch\s|scripts/)")
# What pages write in the place of a value, and a value.
STAND_INS = {"RECIPE": "cdfkd_small", "N": "1"}
SIZES = ("_SIZE", "_small")


class Command(NamedTuple):
    place: str
    words: list[str]
    whole: bool  # a line to copy; a command named in a sentence may leave out what is required


def texts_of(page: str) -> Iterator[tuple[int, str, bool]]:
    """Line number, text and whether it is a line to copy: of fenced and indented blocks, and of code in a sentence."""
    lines, fenced = iter(enumerate(page.splitlines(), 1)), False
    for number, line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            while line.endswith("\\"):
                line = line[:-1] + next(lines)[1]
            yield number, line.strip(), True
        else:
            for text in re.findall(r"`([^`]+)`", line):
                yield number, text, False


def commands_of(path: Path) -> Iterator[Command]:
    page = path.read_text()
    loops = re.findall(r"\bfor (\w+) in (\w+)", page)
    for number, text, whole in texts_of(page):
        for variable, first in loops:
            text = text.replace(f"${variable}", first)
        for part in re.split(r"\s(?:&&|;|\|)\s|;\s(?=do\b|done\b)", text):
            while assignment := re.match(r"(?:\$|do|[A-Z_]+=\S*)\s+", part):
                part = part[assignment.end() :]
            if PROGRAM.match(part):
                part = re.sub(r"\b(\w+)(\|\w+)+", r"\1", part)  # one of several choices
                words = [STAND_INS.get(word, word.replace(*SIZES)) for word in shlex.split(part, comments=True)]
                yield Command(f"{path.relative_to(ROOT)}:{number}", words, whole)


COMMANDS = [command for path in PAGES for command in commands_of(path)]


class Parsed(BaseException):
    """Raised where the program would begin; no handler of errors in it may catch this."""


def parse_module(name: str, arguments: list[str], monkeypatch) -> None:
    """What `python -m NAME ARGUMENTS` does, up to the moment at which its options are known."""
    if name == "train.run":  # it also looks at its options together
        read_command(arguments)
        return
    if name == "train.translate":
        read_translation(arguments)
        return
    assert find_spec(name), f"there is no module {name}"
    with_tyro, with_argparse = tyro.cli, ArgumentParser.parse_args

    def parse(target, *given, **options):
        if inspect.isfunction(target):  # tyro would call it
            target = wraps(target)(lambda *_, **__: None)
        with monkeypatch.context() as patch:
            patch.setattr(ArgumentParser, "parse_args", with_argparse)
            with_tyro(target, *given, **options)
        raise Parsed

    def parse_args(*given, **options):
        with_argparse(*given, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
        with pytest.raises(Parsed):
            runpy.run_module(name, run_name="__main__", alter_sys=True)


def parse_pytest(arguments: list[str], config: pytest.Config) -> None:
    _, unknown = config._parser.parse_known_and_unknown_args(arguments)
    assert not unknown, f"pytest has no option {unknown}"
    chosen = [word for word in arguments if word.startswith("tests")]
    assert all((ROOT / word.split("::")[0]).exists() for word in chosen), f"{chosen}: no such tests"


def parse_script(path: str, arguments: list[str], monkeypatch, config: pytest.Config, folder: Path) -> None:
    """The shell scripts that have options of their own are run beside a set-up and a Python that only fail."""
    assert (ROOT / path).is_file(), f"there is no {path}"
    match Path(path).name:
        case "build_dataset.sh":
            parse_module("pipeline.pack", arguments, monkeypatch)
        case "slurm.sh":
            if arguments:
                parse_module("train.run", arguments, monkeypatch)
        case "test.sh":
            parse_pytest(arguments, config)
        case "setup.sh":
            assert not arguments
        case name:
            # The code of the set-up, of "there is no GPU", and of the first Python.
            begun = 3 if name == "gpu_check.sh" else 99
            shutil.copytree(ROOT / "scripts", folder / "scripts")
            for program in ("scripts/setup.sh", "python"):
                (folder / program).write_text("#!/bin/sh\nexit 99\n")
                (folder / program).chmod(0o755)
            # Of a dataset it asks whether it exists.
            for data in (folder / word for word in arguments if word.startswith("data/")):
                data.mkdir(parents=True, exist_ok=True)
                (data / "dataset.json").touch()
            environment = {"PYTHON": str(folder / "python"), "PATH": "/usr/bin:/bin"}
            done = subprocess.run(
                [folder / path, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode in ((0, begun) if "--help" in arguments else (begun,)), done.stderr


def parse_program(words: list[str], monkeypatch, config: pytest.Config, folder: Path) -> None:
    program, *arguments = words
    name = Path(program).name
    if program.startswith("scripts/"):
        parse_script(program, arguments, monkeypatch, config, folder)
    elif name == "sbatch":
        script = next(word for word in arguments if word.startswith("scripts/"))
        parse_script(script, arguments[arguments.index(script) + 1 :], monkeypatch, config, folder)
    elif name == "torchrun":
        options = get_args_parser().parse_args(arguments)
        module = options.training_script
        if not options.module:
            assert (ROOT / module).is_file(), f"there is no {module}"
            module = module.removesuffix(".py").replace("/", ".")
        parse_module(module, options.training_script_args, monkeypatch)
    elif name == "pip" or arguments[:2] == ["-m", "pip"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = ",".join(re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)))
        assert {extra for extra in named.split(",") if extra} <= extras.keys(), f"no such extra: {named}"
    elif arguments[0] == "-m" and arguments[1] == "pytest":
        parse_pytest(arguments[2:], config)
    elif arguments[0] == "-m":
        parse_module(arguments[1], arguments[2:], monkeypatch)
    elif arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"
    else:
        assert arguments[0] == "-c"
        compile(arguments[1], "-c", "exec")


@pytest.fixture(scope="module")
def config_json():
    return to_json(read_command(["cdfkd_small", "--data", "data", "--teacher", "teacher", "--out", "runs/student"]))


@pytest.fixture
def folder(tmp_path, monkeypatch, config_json) -> Path:
    """Where nothing is but the config.json of a run, which train.run reads while it parses."""
    (tmp_path / "runs/student").mkdir(parents=True)
    write_json(tmp_path / "runs/student/config.json", config_json)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(command: Command, monkeypatch, config: pytest.Config, folder: Path, capsys) -> None:
    try:
        parse_program(command.words, monkeypatch, config, folder)
    except SystemExit as end:
        said = "".join(capsys.readouterr())
        left_out = not command.whole and "equired options" in said and "nrecognized" not in said
        if end.code and not left_out:
            pytest.fail(f"{command.place}: {shlex.join(command.words)}\n{said}")
    except ValueError as error:
        pytest.fail(f"{command.place}: {shlex.join(command.words)}\n{error}")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place} {' '.join(command.words)[:50]}")
def test_command_is_one_that_its_program_takes(command, monkeypatch, pytestconfig, folder, capsys):
    check(command, monkeypatch, pytestconfig, folder, capsys)


def test_the_table_of_the_one_command_is_whole():
    """docs/python.md: what `fairweather NAME` runs."""
    rows = re.findall(r"^\| `fairweather (.+) \| (`.+) \|$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE)
    named = {}
    for names, modules in rows:
        if not names.startswith("bench"):
            named |= dict(zip(names.replace("`", "").split(", "), modules.replace("`", "").split(", "), strict=True))
    assert named == {name: module for name, (module, _) in COMMANDS_OF_ONE.items() if module}
    (benches,) = (names for names, _ in rows if names.startswith("bench"))
    assert tuple(benches.removeprefix("bench ").replace("`", "").split(", ")) == BENCHES


def test_commands_were_found_in_every_kind_of_place():
    assert {Path(command.words[0]).name for command in COMMANDS} >= {"python", "torchrun", "sbatch"}
    assert {command.whole for command in COMMANDS} == {True, False}
    assert len({command.place.split(":")[0] for command in COMMANDS}) > 5


@pytest.mark.parametrize(
    "text",
    [
        "python -m eval.runn runs/student --data x",
        "python -m eval.run runs/student --data x --datta y",
        "python -m eval.run --datta y",
        "python -m train.run cdfkd_r10 --data x --out y",
        "python -m train.run cdfkd_r101 --data x --teacher t --out y --val-every 3",
        "torchrun --nprocs-per-node 8 train/run.py cdfkd_r101 --data x --out y",
        "torchrun --nproc-per-node 8 train/ran.py cdfkd_r101 --data x --out y",
        "scripts/quickstart.sh --sead 3",
        "scripts/quickstart --seed 3",
        "scripts/build_dataset.sh ROOT OUT --clases car",
        "scripts/test.sh tests/kernel",
        "scripts/test.sh --durration 3",
        "scripts/gpu_check.sh FOLDER kernel",
        "sbatch --nodes 4 scripts/slurm.sh cdfkd_r101 --dta x --out y",
        "pip install -e '.[fcv]'",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_wrong_command_fails(text, whole, monkeypatch, pytestconfig, folder, capsys):
    command = Command("page:1", shlex.split(text), whole)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(command, monkeypatch, pytestconfig, folder, capsys)
