"""scripts/family.sh names methods that fit, and says what is wrong with its options before it starts."""

import re
import shutil
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
        (["--teacher-steps", "many"], "--teacher-steps needs a number from 1, got many"),
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


# Answers what the script asks for, and notes every module that it starts.
INTERPRETER = """#!/bin/sh
echo "$@" >> "$LOG"
case "$2" in
    train.run) while [ "$1" != --out ]; do shift; done; mkdir -p "$2" ;;
    eval.run) mkdir -p "$3/eval"; echo '{}' > "$3/eval/results.json" ;;
    *) cat > /dev/null < /dev/null ;;
esac
"""


def test_a_run_is_skipped_only_where_it_was_done_with_the_same_options(tmp_path):
    script, python, log = tmp_path / "scripts" / "family.sh", tmp_path / "python", tmp_path / "log"
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "LOG": str(log)}

    def trained(*options):
        log.write_text("")
        command = [script, "--reduced", "--kinds", "gfl", "--methods", "alone crosskd", "--seeds", "0", *options]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        lines = [line.split() for line in log.read_text().splitlines() if line.startswith("-m train.run")]
        return [(Path(words[words.index("--out") + 1]).parts[3], words[words.index("--steps") + 1]) for words in lines]

    assert trained() == [("teacher", "4"), ("alone", "4"), ("crosskd", "4")]
    assert trained() == []
    assert trained("--steps", "9") == [("alone", "9"), ("crosskd", "9")]
    # Whether a taught run may go on with another teacher is for train.run to say.
    assert trained("--steps", "9", "--teacher-steps", "5") == [("teacher", "5"), ("alone", "9"), ("crosskd", "9")]
