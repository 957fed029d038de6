"""requirements.txt, which scripts/setup.sh installs: constraints.txt with hashes, all that pyproject.toml needs."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def read_pins(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    pins = [Requirement(line.split(" --hash=")[0].split("#")[0]) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def test_every_package_has_hashes():
    lines = (ROOT / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[^#]+==[^#]+?( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_the_versions_are_those_of_the_constraints():
    tested = read_pins("constraints.txt")
    for name, pin in read_pins("requirements.txt").items():
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier == tested[name].specifier, name


def test_all_that_the_project_asks_for_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = read_pins("requirements.txt")
    own, *others = extras["dev"]  # the first names other extras of ours
    assert Requirement(own).name == project["name"]
    wanted = [*project["dependencies"], *others, *(each for name in Requirement(own).extras for each in extras[name])]
    for requirement in map(Requirement, wanted):
        (version,) = pins[canonicalize_name(requirement.name)].specifier
        assert Version(version.version) in requirement.specifier, requirement
