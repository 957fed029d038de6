"""Run every golden case of a folder through our code: `python -m train.golden DIR [--json FILE]`.

Prints the largest error of each quantity of each case. Ends with 1 where an error is above its bound or a case is
damaged. A case that our code cannot run yet is named with the reason and is no failure.
"""

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.command.console import run_entry, say
from train.golden.cases import Case, Check, NotRunnable, find_cases, judge, read_case
from train.golden.cmkd import run_cmkd
from train.golden.crosskd import run_crosskd
from train.golden.divalign import run_divalign
from train.golden.fgd import run_fgd
from train.golden.frcnn import run_frcnn
from train.golden.full import run_full
from train.golden.gid import run_gid
from train.golden.heads import run_heads
from train.golden.imitation import run_defeat, run_finegrained
from train.golden.infer import run_infer
from train.golden.ld import run_ld
from train.golden.pkd import run_pkd
from train.golden.translation import run_joligen, run_nce
from train.golden.unit import run_unit

Runner = Callable[[Case], Iterator[Check]]
# A case is run by the first of these names that stands here: the group its JSON states, "full" if it describes a whole
# detector, its folder, the first word of its own name.
RUNNERS: dict[str, Runner] = {
    "cmkd": run_cmkd,
    "crosskd": run_crosskd,
    "cut": run_nce,
    "defeat": run_defeat,
    "divalign": run_divalign,
    "fgd": run_fgd,
    "finegrained": run_finegrained,
    "frcnn": run_frcnn,
    "full": run_full,
    "gid": run_gid,
    "heads": run_heads,
    "infer": run_infer,
    "joligen": run_joligen,
    "ld": run_ld,
    "pkd": run_pkd,
    "unit": run_unit,
}


def find_runner(case: Case) -> Runner:
    whole = "full" if "model_config" in case.facts else ""
    names = [str(case.facts.get("group")), whole, case.group, case.name.split("_")[0]]
    for name in names:
        if name in RUNNERS:
            return RUNNERS[name]
    known = [name for name in names if name not in ("", "None")]
    raise NotRunnable(f"there is no runner for any of its names: {', '.join(dict.fromkeys(known))}")


def run_case(stem: Path) -> dict[str, Any]:
    """{"status", "largest", "why"} of one case."""
    try:
        case = read_case(stem)
        largest, above = judge(find_runner(case)(case))
    except NotRunnable as error:
        return {"status": "not runnable", "largest": {}, "why": str(error)}
    except ValueError as error:
        return {"status": "failed", "largest": {}, "why": str(error)}
    except KeyError as error:
        return {"status": "failed", "largest": {}, "why": f"{stem.name}: its JSON has no {error}"}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "largest": {}, "why": f"{stem.name}: {type(error).__name__}: {error}"}
    # JSON has no infinity.
    finite = {quantity: error if error < float("inf") else 1e308 for quantity, error in largest.items()}
    return {"status": "failed" if above else "passed", "largest": finite, "why": "; ".join(above)}


def run_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """{group/case: result} of every case below a folder, each printed as it comes."""
    results = {}
    for stem in find_cases(folder):
        result = run_case(stem)
        results[f"{stem.parent.name}/{stem.name}"] = result
        errors = ", ".join(f"{quantity} {error:.2g}" for quantity, error in sorted(result["largest"].items()))
        say(f"{result['status']:12} {stem.parent.name}/{stem.name}  {errors}")
        if result["why"]:
            say(f"{'':12} {result['why']}")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m train.golden", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of cases, searched with its sub-folders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for programs")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one order of sums
    torch.backends.mkldnn.set_flags(False)  # one arithmetic on every processor
    results = run_folder(options.folder)
    counts = {
        status: sum(r["status"] == status for r in results.values()) for status in ("passed", "failed", "not runnable")
    }
    say(", ".join(f"{count} {status}" for status, count in counts.items()))
    if options.json:
        options.json.write_text(json.dumps({"cases": results}, indent=1) + "\n")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    run_entry(main)
