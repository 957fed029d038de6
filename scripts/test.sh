#!/usr/bin/env bash
# Set up if needed, then run the whole test suite. Arguments go to pytest: scripts/test.sh tests/kernels -k jpeg
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
export FAIRWEATHER_CACHE="$PWD/.venv/cache" # compiled kernels, kept inside the checkout
exec .venv/bin/python -m pytest "$@"
