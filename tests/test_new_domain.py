"""scripts/new_domain.sh: which commands it gives, beside a Python that only writes them down. docs/new_domain.md.

And scripts/new_domain_sample.sh, which calls it on the sample world.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_documented_commands import parse_module

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "new_domain.sh"
NEEDED = ["--source", "day", "--target-labelled", "few", "--target-unlabelled", "night", "--out", "out"]


@pytest.fixture
def run(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 0.05 || echo "$@" >> {tmp_path}/given\n')
    python.chmod(0o755)
    for name in ("day", "few", "night", "test", "all"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").touch()

    def call(*options: str):
        done = subprocess.run(
            [SCRIPT, *options], cwd=tmp_path, env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True,
        )  # fmt: skip
        given = (tmp_path / "given").read_text().splitlines() if (tmp_path / "given").exists() else []
        return done, [line.replace(f"{tmp_path}/", "").removeprefix("-m ") for line in given]

    return call


def test_the_whole_and_its_stages(run):
    done, given = run(*NEEDED, "--rows", "baseline whole", "--small", "--seed", "3", "--target-test", "test")
    assert done.returncode == 0, done.stderr
    small, teacher = "--seed 3", "train.run domain_crosskd_teacher_small"
    assert given == [
        "pipeline.together day few night test --apart",
        "pipeline.share few out/data/holdout out/data/taught --share 0.25",
        f"train.translate cut_small --source day --target night --out out/translation {small}",
        f"{teacher} {small} --data day out/data/taught --out out/teacher",
        "eval.translate out/translation --data day --out out/data/translated --detector out/teacher",
        f"{teacher} {small} --data day out/data/taught out/data/translated --out out/teacher-translated",
        "eval.pseudo_label out/teacher-translated --data night --labelled out/data/holdout --precision 0.5 "
        "--ignore-precision 0.05 --out out/data/pseudo-whole",
        f"train.run domain_crosskd_baseline_small {small} --data day few --out out/baseline",
        "eval.run out/baseline --data test",
        f"train.run domain_crosskd_whole_small {small} --data day few out/data/translated out/data/pseudo-whole "
        "--teacher out/teacher-translated --out out/whole",
        "eval.run out/whole --data test",
        "eval.table baseline=out/baseline whole=out/whole --all --json out/results.json",
    ]


def test_without_translation_one_teacher_labels_and_teaches(run):
    done, given = run(*NEEDED, "--without-translation", "--rows", "whole", "--steps", "6")
    assert done.returncode == 0, done.stderr
    assert given[2:] == [
        "train.run domain_crosskd_teacher --seed 0 --steps 6 --epochs 0 --data day out/data/taught --out out/teacher",
        "eval.pseudo_label out/teacher --data night --labelled out/data/holdout --precision 0.5 "
        "--ignore-precision 0.05 --out out/data/pseudo",
        "train.run domain_crosskd_whole --seed 0 --steps 6 --epochs 0 --data day few out/data/pseudo "
        "--teacher out/teacher --out out/whole",
    ]
    assert "nothing was evaluated; add --source-test" in done.stdout


@pytest.mark.parametrize("rows", ["pseudo whole", "pseudo", "whole"])
def test_without_translation_one_labelling_is_enough(run, rows):
    done, given = run(*NEEDED, "--without-translation", "--rows", rows)
    assert done.returncode == 0, done.stderr
    assert [line.split(" --out ")[1] for line in given if line.startswith("eval.pseudo")] == ["out/data/pseudo"]


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.with_name("new_domain_sample.sh")])
def test_help_from_the_scripts_own_folder(script):
    done = subprocess.run([f"./{script.name}", "--help"], cwd=script.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"scripts/{script.name}" in done.stdout


def test_every_row_is_trained(run):
    done, given = run(*NEEDED, "--target-full", "all")
    assert done.returncode == 0, done.stderr
    trained = [line.split(" --out out/")[1] for line in given if line.startswith("train.run")]
    rows = ["baseline", "translated", "pseudo", "fitnets", "fgd", "ld", "crosskd", "whole", "full"]
    assert trained == ["teacher", "teacher-translated", *rows]
    assert "full --seed 0 --data day few all --out out/full" in given[-1]


def test_the_teacher_and_the_translation_may_be_longer_than_the_rows(run):
    lengths = ["--steps", "4", "--teacher-epochs", "10", "--translation-steps", "6"]
    done, given = run(*NEEDED, "--rows", "whole", *lengths)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in given if line.startswith("train.")]
    lasts = {line[line.index("--out") + 1]: " ".join(line[line.index("--seed") + 2 :][:4]) for line in words}
    assert lasts.pop("out/translation").startswith("--steps 6")
    assert lasts.pop("out/whole") == "--steps 4 --epochs 0"
    assert lasts == dict.fromkeys(["out/teacher", "out/teacher-translated"], "--epochs 10 --steps 0")


def test_epochs_are_of_the_rows_and_the_teachers(run):
    done, given = run(*NEEDED, "--rows", "translated", "--epochs", "16", "--translation-steps", "6")
    assert done.returncode == 0, done.stderr
    trained = [line for line in given if line.startswith("train.")]
    assert len(trained) == 3
    assert [" --epochs 16 --steps 0 " in line for line in trained] == ["train.run" in line for line in trained]


def test_the_control_is_as_long_as_the_whole(run, tmp_path):
    for name in ("step-00000400", "step-00002400", "step-00002400.set-aside"):
        (tmp_path / "out" / "whole" / "checkpoints" / name).mkdir(parents=True)
    done, given = run(*NEEDED, "--rows", "whole longer", "--epochs", "16")
    assert done.returncode == 0, done.stderr
    trained = [line for line in given if line.startswith("train.run")]
    assert trained[-1] == (
        "train.run domain_crosskd_baseline --seed 0 --steps 2400 --epochs 0 --data day few --out out/longer"
    )
    assert "--epochs 16 --steps 0" in trained[-2]


def test_its_commands_are_those_that_the_programs_take(run, monkeypatch):
    for size in ([], ["--small", "--epochs", "2", "--translation-steps", "3"]):
        done, given = run(*NEEDED, *size, "--source-test", "test", "--target-full", "all")
        assert done.returncode == 0, done.stderr
        assert len({line.split()[0] for line in given}) == 8
        for line in given:
            module, *arguments = line.split()
            with monkeypatch.context() as patch:
                parse_module(module, arguments, patch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NEEDED[2:], "--source is missing"),
        ([*NEEDED, "--rows", "full"], "--rows full: the rows of this command are baseline translated"),
        ([*NEEDED, "--without-translation", "--rows", "translated"], "--rows translated: the rows of this command"),
        ([*NEEDED, "--rows", "longer"], "--rows longer: it has the number of steps of the row whole"),
        ([*NEEDED, "--rows", "longer whole"], "--rows: longer comes after whole"),
        ([*NEEDED, "--rows", "whole longer", "--steps", "9"], "--rows longer: with --steps all rows are equally long"),
        ([*NEEDED, "--seeds", "1"], "unknown option --seeds"),
        ([*NEEDED, "--seed"], "--seed needs a value"),
        ([*NEEDED, "--steps", "9", "--epochs", "2"], "give --steps or --epochs, not both"),
        ([*NEEDED, "--precision", "high"], "--precision high: a number above 0 and at most 1"),
        ([*NEEDED, "--precision", "0.0"], "--precision 0.0: a number above 0"),
        ([*NEEDED, "--holdout", "1"], "--holdout 1: a number above 0 and below 1"),
    ],
)
def test_a_wrong_command_is_one_sentence(run, options, message):
    done, given = run(*options)
    assert (done.returncode, given) == (2, [])
    assert done.stderr.startswith(f"new_domain: {message}")


@pytest.mark.parametrize("option", ["--source-test", "--target-full"])
def test_a_wrong_folder_is_named_before_anything_is_trained(run, option):
    done, given = run(*NEEDED, option, "nowhere")
    assert (done.returncode, given) == (2, [])
    assert "/nowhere is not a packed dataset" in done.stderr


# On the sample world.

SAMPLE = SCRIPT.with_name("new_domain_sample.sh")
WRITES = """#!/bin/sh
echo "$@" >> "$LOG"
make() { mkdir -p "$1" && echo '{}' > "$1/$2"; }
case "$2" in
    pipeline.pack)
        for part in daytime_clear_train daytime_clear_test dusk_rainy_train; do make "$4/$part" dataset.json; done ;;
    pipeline.share) make "$4" dataset.json; make "$5" dataset.json ;;
    eval.run) make "$3/eval" results.json ;;
    train.run) while [ "$1" != --out ]; do shift; done; mkdir -p "$2" ;;
    -c) echo 0.05 ;;
esac
"""


def test_rows_of_several_seeds_on_the_sample_world(tmp_path):
    (tmp_path / "scripts").mkdir()
    for script in (SCRIPT, SAMPLE):
        shutil.copy(script, tmp_path / "scripts")
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(WRITES)
    python.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / SAMPLE.name, "--targets", "dusk_rainy", "--seeds", "0 2", "--rows", "baseline crosskd"],
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin", "LOG": str(log)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("-m ").replace(f"{tmp_path}/", "") for line in log.read_text().splitlines()]
    parts, runs = "data/new-domain/dusk_rainy", "runs/new-domain/dusk_rainy"
    trained = [line.split(" --out ")[1] for line in lines if line.startswith("train.run")]
    assert trained == [f"{runs}/seed{seed}/{row}" for seed in (0, 2) for row in ("teacher", "baseline", "crosskd")]
    assert f"pipeline.share {parts}/rest {parts}/labelled {parts}/hidden --share 0.2 --hide" in lines
    table = " ".join(f"{row}={runs}/seed{s}/{row}" for row in ("teacher", "baseline", "crosskd") for s in (0, 2))
    assert lines[-1] == f"eval.table {table} --seeds --all --metric coco --json {runs}/coco.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "night_sunny"], "unknown option --target; --help lists the options"),
        (["--seeds"], "--seeds needs a value"),
        (["--teacher-epochs", "0"], "--teacher-epochs needs a number from 1, got 0"),
        (["--epochs", "0"], "--epochs needs a number from 1, got 0"),
        (["--targets", "night_sunny snow"], "--targets: no target snow; there are night_sunny dusk_rainy"),
    ],
)
def test_a_wrong_option_on_the_sample_world_is_named(options, message):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"}
    done = subprocess.run([SAMPLE, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"new_domain_sample: {message}")
