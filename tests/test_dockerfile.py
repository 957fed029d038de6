"""Dockerfile: README's commands and nothing else of its own. A build needs Docker, which the tests do not ask for."""

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
README = (ROOT / "README.md").read_text()


def arguments(instruction: str) -> list[str]:
    return [line.removeprefix(instruction).strip() for line in LINES if line.startswith(f"{instruction} ")]


def test_its_commands_are_those_of_readme():
    build, run, inside = (line.removeprefix("# ") for line in (ROOT / "Dockerfile").read_text().splitlines()[:3])
    assert f"`{build}`" in README
    assert run.startswith("docker run ")
    assert f"\n{inside.strip()} " in README, "the command that the container is given"
    system, install = arguments("RUN")
    assert "apt-get install -y --no-install-recommends" in system
    *variables, script = shlex.split(install)
    assert all(re.fullmatch(r"[A-Z_]+=\S+", variable) for variable in variables)
    assert f"\n{script} && source .venv/bin/activate\n" in README


def test_what_it_starts_is_installed_and_uses_the_cache_of_the_set_up():
    (program, *_), (image,) = json.loads(arguments("CMD")[0]), arguments("FROM")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert program in project["scripts"]
    python = re.fullmatch(r"python:(3\.\d+)-slim", image)
    assert f">={python[1]}" in project["requires-python"]
    (place,), (settings,) = arguments("WORKDIR"), arguments("ENV")
    variables = dict(word.split("=", 1) for word in shlex.split(settings))
    assert variables["PATH"] == f"{place}/.venv/bin:$PATH"
    test_script = (ROOT / "scripts" / "test.sh").read_text()
    assert variables["FAIRWEATHER_CACHE"].replace(place, "$PWD") in test_script


def test_nothing_that_the_project_needs_is_left_out_of_the_image():
    """.dockerignore has only what set-up, tests and runs make, and git's own."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    made = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for pattern in ignored:
        assert pattern.removeprefix("**/") in [*made, ".git"], pattern
    for path in [*ROOT.glob("*"), *ROOT.glob("scripts/*"), *ROOT.glob("eval/report/*")]:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in (".py", ".sh", ".toml", ".txt", ".css", ".js", ".md"):
            assert not any(fnmatch(name, pattern) for pattern in ignored), name
