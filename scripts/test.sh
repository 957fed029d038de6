#!/usr/bin/env bash
# Set up if needed, then run the test suite on every core. Arguments go to pytest: scripts/test.sh tests/kernels -k jpeg
# One process, with what the tests print: scripts/test.sh -n 0 -s. The long tests, which CI runs: scripts/test.sh -m long
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
export FAIRWEATHER_CACHE="$PWD/.venv/cache" # compiled kernels, kept inside the checkout, shared by all processes
unset PYTHONDONTWRITEBYTECODE               # many processes start: what they compile is kept
export OMP_NUM_THREADS=1                    # the cores are busy with one process each
# Saving waits for the disk, thousands of times in all: what tests write stays in memory where that has room.
if [ "$(df --output=avail -B 1G /dev/shm 2> /dev/null | tail -n 1)" -ge 8 ] 2> /dev/null; then
    TMPDIR=$(mktemp -d /dev/shm/fairweather-tests-XXXXXX)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi
# A process takes about 2 GB. Neighbouring tests stay together, so that fixtures are made once. A process without tests takes those of another.
.venv/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
