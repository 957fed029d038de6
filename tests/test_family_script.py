"""scripts/family.sh names methods that fit, and says what is wrong with its options before it starts."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.train import battery

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "family.sh"


def test_every_method_fits_its_kind():
    takes = {(kind, config.kind) for kind, config in battery.cases()}
    lines = re.findall(r"^ +([a-z_ |]+)\) echo (alone [a-z_+ ]+) ;;$", SCRIPT.read_text(), re.MULTILINE)
    assert len(lines) == 6
    for kinds, names in lines:
        methods = {part for name in names.split() for part in name.split("+")} - {"alone", "corrupted"}
        assert {(kind, method) for kind in kinds.split(" | ") for method in methods} <= takes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "gfl"], "unknown option --kind; --help lists the options"),
        (["--seeds"], "--seeds needs a value"),
        (["--kinds", "yolo"], "no kind yolo; there are faster_rcnn retinanet fcos atss gfl"),
        (["--weather", "--kinds", "fcos"], "--weather is for faster_rcnn and gfl, got fcos"),
        (["--kinds", "gfl", "--methods", "crosskd_roi"], "no method crosskd_roi for gfl; there are alone cd_fkd "),
    ],
)
def test_a_wrong_option_is_named(options, message, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"}
    done = subprocess.run([SCRIPT, *options], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert f"family: {message}" in done.stderr or f"family: --kinds: {message}" in done.stderr
