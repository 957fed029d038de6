#!/usr/bin/env bash
# Pack an annotated dataset once for training: scripts/build_dataset.sh ROOT OUT [options]; --help lists the options.
set -euo pipefail
python="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python"
if [ ! -x "$python" ]; then
    echo "error: .venv is missing: run scripts/setup.sh, or python -m pipeline.pack in your own environment" >&2
    exit 2
fi
exec "$python" -P -m pipeline.pack "$@" # -P: nothing in the caller's folder can stand in for our modules
