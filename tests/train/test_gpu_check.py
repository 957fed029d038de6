"""scripts/gpu_check.sh without a GPU: that it says so, and how it judges what the benchmarks would have written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tyro

import eval.bench
import kernels.bench
import kernels.checks.pixels
import kernels.checks.ptx
import pipeline.bench
import pipeline.pack
import pipeline.sample_world
import train.bench.__main__
from train.start import read_command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"
TYPES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "brightness", "contrast", "saturate",
    "defocus_blur", "glass_blur", "zoom_blur", "motion_blur", "spatter", "jpeg_compression", "pixelate",
    "elastic_transform",
)  # fmt: skip
GOOD = {
    "kernels-cuda": {
        "mixed_batch": {"pairs_per_second": 41_000, "host_us": 140, "launches": 12},
        "views_per_type": {name: {"times_copy_bound": 2.5} for name in TYPES},
    },
    "loading": {"loaders": {"cpu": {"4": {"images_per_s": 900, "waiting_share_at_80_percent": 0.01}}}},
    "training-step": {
        "images_per_second": 170, "ratio_to_stock": 3.5, "graph_breaks": 0, "recompiles": 0, "synchronisations": 0,
        "views_to_step": 0.01,
    },
    "retinanet-step": {"ratio_to_stock": 3.2},
    "fcos-step": {"ratio_to_stock": 3.1},
    "anchor-step": {"images_per_second": 310},
    "evaluation": {"cost_percent_mean": 4.0},
}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """The script with a Python that has a GPU and no DALI, and whose modules do nothing; a run that SIGTERM ends.

    A file `fails`, `hangs`, `unsaved` or `differs` in tmp_path holds words of a command that does so.
    """
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/bash
cd {tmp_path}
echo "$*" >>commands
case "$1$2" in
    -c*nvidia.dali*) exit 1 ;;
    -c*LaunchConfig*) [ -e old ] && echo "ImportError: cannot import name 'LaunchConfig'" && exit 1 ;;&
    -c*) exit 0 ;;
    -*) [ "$1" = - ] && exec {sys.executable} "$@" ;;
esac
does() {{ [ -e "$1" ] && [[ "$command" == *"$(cat "$1")"* ]]; }}
command=$*
does fails && exit 7
does hangs && exec sleep 60
echo "4 passed of $2"
while [ $# -gt 0 ]; do
    [ "$1" = --json ] && cp "results/$(basename "$2")" "$2" 2>/dev/null
    shift
done
if [[ "$command" == *--profile* ]]; then
    mkdir -p out/work/runs/profile
    echo '{{}}' >out/work/runs/profile/trace-rank0.json
fi
[[ "$command" == *cdfkd_small* ]] || exit 0
out=${{command##* }}
if [ -e began ] || [[ "$out" == */undisturbed ]]; then
    mkdir -p "$out/checkpoints/step-00000200"
    does differs && echo other >"$out/checkpoints/step-00000200/model.safetensors"
    echo weights >>"$out/checkpoints/step-00000200/model.safetensors"
    exit 0
fi
touch began
mkdir -p "$out"
save() {{ does unsaved || mkdir -p "$out/checkpoints/step-00000005"; exit 143; }}
trap save TERM
echo losses >"$out/log.jsonl"
while :; do sleep 0.05; done
"""
    )
    python.chmod(0o755)
    shutil.copytree(SCRIPT.parent, tmp_path / "scripts")
    sanitizer = tmp_path / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.write_text("#!/bin/sh\n")
    sanitizer.chmod(0o755)

    def run(results, *parts, **environment):
        """The exit code, the summary and what was said."""
        folder = tmp_path / "out"
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        (tmp_path / "results").mkdir()
        for name, content in results.items():
            (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content))
        done = subprocess.run(
            [tmp_path / "scripts" / "gpu_check.sh", folder, *parts],
            env=os.environ | {"PYTHON": str(python), "PATH": f"{sanitizer.parent}:{os.environ['PATH']}"} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
        )  # fmt: skip
        summary = folder / "summary.txt"
        return done.returncode, summary.read_text() if summary.exists() else "", done.stdout

    return run


def commands(tmp_path):
    """Words of each module's call, the module first."""
    lines = (tmp_path / "commands").read_text().splitlines()
    return [line.split()[1:] for line in lines if line.startswith("-m ")]


def test_every_target_met_ends_with_0_also_without_dali(check, tmp_path):
    code, summary, _ = check(GOOD)
    assert code == 0, summary
    assert "MISSED" not in summary
    assert "FAILED" not in summary
    assert "met     view pairs/s, mixed batch of 16: 41000 (at least 40000)" in summary
    assert "DALI is not installed" in summary
    assert "4 passed of pytest\n" in summary
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {"summary.txt", "targets.txt", "stop-and-resume.txt", "trace.json.gz"} < names
    assert names & {f"{name}.json" for name in GOOD} == {f"{name}.json" for name in GOOD}
    assert not any("work" in name or "tar" in name.split(".") for name in names)


def test_every_command_is_one_that_its_program_takes(check, tmp_path):
    check(GOOD)
    check(GOOD, "kernels-cpu", "ptx")
    check(GOOD, "lease")
    options = {
        "kernels.bench": kernels.bench.Options, "kernels.checks.pixels": kernels.checks.pixels.Options,
        "kernels.checks.ptx": kernels.checks.ptx.Options,
        "pipeline.bench": pipeline.bench.BenchOptions, "pipeline.sample_world": pipeline.sample_world.SampleWorld,
        "pipeline.pack": pipeline.pack.PackOptions, "train.bench": train.bench.__main__.BenchOptions,
        "eval.bench": eval.bench.BenchOptions,
    }  # fmt: skip
    seen = []
    for module, *arguments in commands(tmp_path):
        if module == "pytest":
            continue
        seen.append(module)
        config = read_command(arguments) if module == "train.run" else tyro.cli(options[module], args=arguments)
        if module == "train.run":
            assert config.model.weights == "none"
        if "--profile" in arguments:
            assert config.profile
            assert config.model.backbone == "resnet101"
    assert set(seen) == {*options, "train.run"}
    # The teacher, again where the student needs it, an undisturbed student, another twice; a teacher and a student to
    # profile.
    assert seen.count("train.run") == 7


def test_the_tests_are_those_of_the_files_that_name_the_mark(check, tmp_path):
    mark = ".".join(("pytest", "mark", "gpu"))  # in one word this file would be one of them
    files = {
        "kernels/test_one.py": f"@{mark}", "kernels/a/test_two.py": "gpu", "model/test_three.py": f"{mark}, x",
        "train/a/test_four.py": mark,
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def given():
        """The files of each call, sorted."""
        return [sorted(word for word in words if word.endswith(".py")) for words in commands(tmp_path)]

    code, summary, _ = check({}, "kernel-tests", "run-tests")
    assert code == 0
    assert summary.count("4 passed of pytest\n") == 2
    assert given() == [["tests/kernels/test_one.py", "tests/model/test_three.py"], ["tests/train/a/test_four.py"]]
    (tmp_path / "commands").unlink()
    assert check({}, "lease")[0] == 0
    assert given()[-2] == ["tests/kernels/test_one.py"]


@pytest.mark.parametrize(
    ("part", "modules"),
    [
        ("evaluation", ["eval.bench"]),
        ("stop-and-resume", ["pipeline.sample_world", "pipeline.pack", *4 * ["train.run"]]),
        ("profile", ["pipeline.sample_world", "pipeline.pack", *2 * ["train.run"]]),
    ],
)
def test_a_part_alone_makes_what_it_needs(check, tmp_path, part, modules):
    assert check(GOOD, part)[0] == 0
    assert [words[0] for words in commands(tmp_path)] == modules


def test_a_part_alone_takes_what_is_there(check, tmp_path):
    for split in ("train", "test"):
        packed = tmp_path / "out" / "work" / "packed" / f"daytime_clear_{split}"
        packed.mkdir(parents=True)
        (packed / "dataset.json").touch()
    assert check(GOOD, "teacher")[0] == 0
    assert [words[0] for words in commands(tmp_path)] == ["train.run"]


def test_calls_add_to_one_summary_and_targets_judges_the_files_of_all(check, tmp_path):
    assert check(GOOD, "kernels-cuda", "training-step")[0] == 0
    assert check(GOOD, "loading", "evaluation", "dense-step", "anchor-step")[0] == 0
    code, summary, _ = check({}, "targets")
    assert code == 0, summary
    assert [line.split(": ")[1] for line in summary.splitlines() if line.startswith("== ")] == [
        "kernels-cuda training-step", "loading evaluation dense-step anchor-step", "targets",
    ]  # fmt: skip
    (tmp_path / "fails").write_text("eval.bench")  # its figures of before do not stand for it
    code, summary, _ = check(GOOD, "evaluation", "targets")
    assert code == 1
    assert "corruption, percent of inference: not measured" in summary.split("== ")[-1]
    (tmp_path / "fails").write_text("retinanet")
    _, summary, _ = check(GOOD, "dense-step", "targets")
    for kind in ("retinanet", "fcos"):
        assert f"training of {kind}, times the stock loop: not measured" in summary.split("== ")[-1]


def test_a_call_is_a_list_of_parts_and_its_results_are_copied(check, tmp_path):
    code, summary, _ = check(GOOD, "first", COPY_TO=str(tmp_path / "copied"))
    assert code == 0, summary
    assert summary.splitlines()[0].endswith(": pixels training-step kernels-cuda profile")
    with tarfile.open(tmp_path / "copied" / "results.tar.gz") as archive:
        assert "./training-step.json" in archive.getnames()


def test_a_lease_measures_less_of_the_same(check, tmp_path):
    code, summary, _ = check(GOOD, "lease")
    assert code == 0, summary
    assert summary.splitlines()[0].endswith(": pixels training-step kernel-tests kernels-cuda")
    options = {module: set(words) for module, *words in commands(tmp_path)}
    assert "--mixed-only" in options["kernels.bench"]
    assert "--plot" not in options["kernels.bench"]
    assert {"--no-count-graphs", "off"} <= options["train.bench"]


def test_versions_are_shown_and_packages_that_are_too_old_are_named(check, tmp_path):
    _, summary, _ = check(GOOD, "evaluation")
    assert re.search(r"^versions: torch \d.*, numba \d.*, numba-cuda \S+, cuda-core \S+$", summary, re.MULTILINE)
    assert "cannot start" not in summary
    (tmp_path / "old").touch()
    _, summary, _ = check(GOOD, "evaluation")
    assert "the kernels cannot start: ImportError: cannot import name 'LaunchConfig'; install numba-cuda" in summary


@pytest.mark.long
def test_what_a_failed_part_said_last_is_in_the_summary_and_a_late_part_is_not_begun(check, tmp_path):
    (tmp_path / "hangs").write_text("eval.bench")
    code, summary, _ = check(GOOD, "evaluation", "loading", DEADLINE="7")
    assert code == 1
    assert "timed out, PART_SECONDS is " in summary
    assert "SKIPPED loading: the call's 7 seconds are over" in summary


def test_missing_packages_are_named_at_once(check, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name in ('tyro', 'skimage') else find(name)\n"
    )
    _, summary, _ = check(GOOD, "evaluation", PYTHONPATH=str(tmp_path))
    assert "missing, needed by all parts: tyro; " in summary
    assert re.search(r"missing, needed by some parts: [\w ]*\bskimage\b", summary)


def test_an_unknown_part_is_an_error_that_lists_them(check, tmp_path):
    code, summary, said = check(GOOD, "run-tests", "kernel")
    assert (code, summary) == (2, "")
    assert "no part kernel; there are: pixels training-step " in said
    assert " ptx" in said
    assert not (tmp_path / "commands").exists()


def test_a_student_that_dies_at_once_fails_its_part_at_once(check, tmp_path):
    (tmp_path / "fails").write_text("runs/student")
    started = time.monotonic()
    code, summary, said = check(GOOD, "stop-and-resume", "evaluation")
    assert time.monotonic() - started < 20
    assert code == 1
    assert "the run ended with code 7 where 143 was expected" in said
    assert "FAILED  stop-and-resume (" in summary
    assert "ok      evaluation (" in summary


def test_a_student_that_sigterm_ends_unsaved_fails(check, tmp_path):
    (tmp_path / "unsaved").write_text("cdfkd_small")
    code, _, said = check(GOOD, "stop-and-resume")
    assert code == 1
    assert "SIGTERM ended the run unsaved" in said


def test_a_continued_student_with_other_weights_fails(check, tmp_path):
    (tmp_path / "differs").write_text("runs/student")
    code, _, said = check(GOOD, "stop-and-resume")
    assert code == 1
    assert "the continued run has other weights than the undisturbed one" in said


@pytest.mark.long
def test_a_part_that_hangs_is_ended_and_said_to_have_timed_out(check, tmp_path):
    (tmp_path / "hangs").write_text("eval.bench")
    started = time.monotonic()
    code, summary, _ = check(GOOD, "evaluation", "loading", PART_SECONDS="2")
    assert time.monotonic() - started < 20
    assert code == 1
    assert "evaluation.txt; timed out, PART_SECONDS is 2" in summary
    assert "ok      loading (" in summary


def test_a_missed_and_an_unmeasured_target_end_with_1_and_are_named(check):
    results = json.loads(json.dumps(GOOD))
    results["kernels-cuda"]["views_per_type"]["contrast"]["times_copy_bound"] = 3.5
    del results["evaluation"]
    code, summary, _ = check(results)
    assert code == 1
    missed = [line for line in summary.splitlines() if line.startswith("MISSED")]
    assert missed == [
        "MISSED  slowest point-wise type, times a copy: 3.5 (at most 3)",
        "MISSED  corruption, percent of inference: not measured (at most 10)",
    ]


def test_without_a_gpu_nothing_was_checked(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python)}
    assert subprocess.run([SCRIPT, tmp_path / "out"], env=environment, capture_output=True, check=False).returncode == 3
    assert "nothing was checked" in (tmp_path / "out" / "summary.txt").read_text()


HIDDEN = ("nvidia", "tyro", "docstring_parser", "typeguard", "simplejpeg", "pycocotools", "imagecorruptions")
HIDING = f"""
import sys
from importlib.machinery import PathFinder

class Bare:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN}:
            paths = [each for each in sys.path if each.endswith("work/site")] if path is None else path
            found = PathFinder.find_spec(name, paths, target)
            if found is None:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
            return found

sys.meta_path.insert(0, Bare)
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_rehearsal_on_a_bare_machine_that_is_killed_leaves_what_it_had(tmp_path):
    """Real parts on a CPU; DALI is hidden, and so is what only carried wheels bring. The end comes by SIGKILL."""
    from importlib.metadata import distribution

    site = tmp_path / "out" / "work" / "site"  # as pip leaves it there
    for name in ("tyro", "docstring_parser", "typeguard", "simplejpeg", "pycocotools", "imagecorruptions-imaug"):
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), site / file)
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    carry = tmp_path / "carry"
    carry.mkdir()
    environment = {"DEVICE": "cpu", "CARRY": str(carry), "COPY_TO": str(tmp_path / "copied"), "PYTHON": sys.executable}
    environment |= {"PYTHONPATH": f"{tmp_path}:{SCRIPT.parents[1]}"}
    run = subprocess.Popen(
        [SCRIPT, tmp_path / "out", "first"], env=os.environ | environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    copied = tmp_path / "copied" / "results.tar.gz"

    def figures() -> dict:
        """What was copied of them; a copy may just be written."""
        with suppress(OSError, EOFError, KeyError, ValueError, tarfile.TarError), tarfile.open(copied) as archive:
            return json.loads(archive.extractfile("./pixels.json").read())
        return {}

    ends, partial = time.monotonic() + 600, {}
    while time.monotonic() < ends and "gaussian_noise" not in partial:
        assert run.poll() is None
        time.sleep(1)
        partial = figures()
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert partial["gaussian_noise"]["right"]
    assert "DALI is not installed" in (tmp_path / "copied" / "summary.txt").read_text()
