"""Scoring leaves the process with the threads that it had, whichever threading layer Numba finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS = {"workqueue": "workqueue", "omp": "omppool", "tbb": "tbbpool"}  # and the module that loads Numba's

# Numba starts its threads once a process, on the first parallel call: a fork each.
SCORING = """
import importlib, json, os, sys
import numba, torch
from tests.eval.worlds import random_world
from eval.metrics.scoring import score_domain


def score(layer, module, threads):
    try:
        importlib.import_module(f"numba.np.ufunc.{module}")
    except ImportError:
        return None
    numba.config.THREADING_LAYER = layer
    if threads:
        torch.set_num_threads(threads)
    before = torch.get_num_threads()
    score_domain(*random_world(0), num_resamples=3)
    numbas = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS
    return [before, torch.get_num_threads(), numba.threading_layer(), *numbas]


for layer, module in json.loads(sys.argv[1]).items():
    for threads in (0, 3):
        child = os.fork()
        if child == 0:
            print(json.dumps([layer, threads, score(layer, module, threads)]), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, (layer, threads)
"""


@pytest.fixture(scope="module")
def found():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCORING, json.dumps(LAYERS)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    return {(layer, threads): numbers for layer, threads, numbers in lines}


@pytest.mark.long
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("threads", [0, 3])
def test_scoring_changes_no_number_of_threads(layer, threads, found):
    """0: what OMP_NUM_THREADS says; Numba has two, so that a layer shared with torch shows."""
    if found[layer, threads] is None:
        pytest.skip(f"Numba has no layer {layer} here (its library is not installed)")
    before, after, used, *numbas = found[layer, threads]
    assert used == layer
    assert before == after == (threads or 1)
    assert numbas == [2, 2]
