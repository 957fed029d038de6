"""Scoring leaves the process with the threads that it had, whichever threading layer Numba finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A fresh process: Numba starts its threads once, on the first parallel call.
SCORING = """
import torch

threads = {threads}
if threads:
    torch.set_num_threads(threads)
before = torch.get_num_threads()
import numba
from tests.eval.worlds import random_world
from eval.metrics.scoring import score_domain

score_domain(*random_world(0), num_resamples=3)
print(before, torch.get_num_threads(), numba.threading_layer(), numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
"""


def has_layer(name: str) -> bool:
    """As Numba asks: its layer is a module that loads only where the library is there."""
    module = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}[name]
    command = [sys.executable, "-c", f"import numba.np.ufunc.{module}"]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
@pytest.mark.parametrize("threads", [0, 3])
def test_scoring_changes_no_number_of_threads(layer, threads):
    """0: what OMP_NUM_THREADS says; Numba has two, so that a layer shared with torch shows."""
    if not has_layer(layer):
        pytest.skip(f"Numba has no layer {layer} here (its library is not installed)")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer}
    environment |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCORING.format(threads=threads)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    before, after, used, numba_after, numba_all = finished.stdout.split()
    assert used == layer
    assert int(before) == int(after) == (threads or 1)
    assert numba_after == numba_all == "2"
