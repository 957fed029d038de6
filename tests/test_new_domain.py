"""scripts/new_domain.sh: which commands it gives, beside a Python that only writes them down. docs/new_domain.md."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "new_domain.sh"
NEEDED = ["--source", "day", "--target-labelled", "few", "--target-unlabelled", "night", "--out", "out"]


@pytest.fixture
def run(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 0.5 || echo "$@" >> {tmp_path}/given\n')
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
        "pipeline.share few out/data/holdout out/data/taught --share 0.25",
        f"train.translate cut_small --source day --target night --out out/translation {small}",
        f"{teacher} {small} --data day out/data/taught --out out/teacher",
        "eval.translate out/translation --data day --out out/data/translated --detector out/teacher",
        f"{teacher} {small} --data day out/data/taught out/data/translated --out out/teacher-translated",
        "eval.pseudo_label out/teacher-translated --data night --labelled out/data/holdout --precision 0.9 "
        "--ignore-precision 0.5 --out out/data/pseudo-whole",
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
    assert given[1:] == [
        "train.run domain_crosskd_teacher --seed 0 --steps 6 --epochs 0 --data day out/data/taught --out out/teacher",
        "eval.pseudo_label out/teacher --data night --labelled out/data/holdout --precision 0.9 "
        "--ignore-precision 0.5 --out out/data/pseudo-whole",
        "train.run domain_crosskd_whole --seed 0 --steps 6 --epochs 0 --data day few out/data/pseudo-whole "
        "--teacher out/teacher --out out/whole",
    ]
    assert "nothing was evaluated; add --source-test" in done.stdout


def test_every_row_is_trained(run):
    done, given = run(*NEEDED, "--target-full", "all")
    assert done.returncode == 0, done.stderr
    trained = [line.split(" --out out/")[1] for line in given if line.startswith("train.run")]
    rows = ["baseline", "translated", "pseudo", "fitnets", "fgd", "ld", "crosskd", "whole", "full"]
    assert trained == ["teacher", "teacher-translated", *rows]
    assert "full --seed 0 --data day few all --out out/full" in given[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NEEDED[2:], "--source is missing"),
        ([*NEEDED, "--rows", "full"], "--rows full: the rows of this command are baseline translated"),
        ([*NEEDED, "--without-translation", "--rows", "translated"], "--rows translated: the rows of this command"),
        ([*NEEDED, "--seeds", "1"], "unknown option --seeds"),
        ([*NEEDED, "--seed"], "--seed needs a value"),
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
