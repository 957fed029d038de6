"""The newcomer's first command, in its reduced size, end to end. Run by `scripts/test.sh -m quickstart`."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOMAINS = {"daytime_clear", "night_sunny", "dusk_rainy", "night_rainy", "daytime_foggy"}

pytestmark = pytest.mark.quickstart


def quickstart() -> str:
    command = [str(ROOT / "scripts" / "quickstart.sh"), "--reduced"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    assert process.returncode == 0, "quickstart.sh failed, its reason is above"
    return "".join(lines)


def test_quickstart_ends_with_a_table_and_a_report_and_continues_when_run_again():
    printed = quickstart()
    run = ROOT / "runs" / "quickstart-reduced"
    results = json.loads((run / "results.json").read_text())
    assert set(results) == {"plain", "cdfkd"}
    for figures in results.values():
        assert set(figures) == DOMAINS
        assert all(0 <= figure <= 100 for figure in figures.values())
    assert all(domain in printed for domain in DOMAINS)
    report = (run / "report.html").read_text()
    assert all(domain in report for domain in DOMAINS)
    assert str(run / "report.html") in printed

    checkpoints = {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*/*")}
    started = time.monotonic()
    quickstart()
    print(f"second run: {time.monotonic() - started:.0f} s")
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*/*")} == checkpoints, "it trained again"


def test_every_cell_of_the_notebook_runs_on_what_the_quickstart_leaves():
    """In the reduced size; the kernel's working directory is the notebook's folder."""
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    code = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    for name in ("quickstart", "sample", "sample-packed"):
        assert f'"{name}"' in code
        first, *rest = name.split("-")
        code = code.replace(f'"{name}"', f'"{"-".join([first, "reduced", *rest])}"')
    done = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT / "docs", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plain" in done.stdout
