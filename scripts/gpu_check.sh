#!/usr/bin/env bash
# One command for a machine with a GPU: its tests and benchmarks, everything written to one folder.
#   scripts/gpu_check.sh [FOLDER]            (default: gpu-check)
# Without a GPU it says so, writes that down and ends with 3: nothing was checked.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
folder=${1:-gpu-check}
mkdir -p "$folder"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU: torch sees no CUDA device on this machine, nothing was checked" | tee "$folder/summary.txt"
    exit 3
fi
: >"$folder/summary.txt"
"$python" -c 'from pipeline.console import describe_hardware; print(describe_hardware())' | tee -a "$folder/summary.txt"
command -v nvidia-smi >/dev/null && nvidia-smi >"$folder/nvidia-smi.txt" 2>&1

failed=0
step() { # step NAME COMMAND...: output to NAME.txt, one line in the summary
    local name=$1
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$folder/$name.txt"
    local code=${PIPESTATUS[0]}
    if [ "$code" -eq 0 ]; then
        echo "ok      $name" >>"$folder/summary.txt"
    else
        echo "FAILED  $name (exit $code, see $name.txt)" >>"$folder/summary.txt"
        failed=1
    fi
}

step tests "$python" -m pytest -m gpu -q --junitxml "$folder/tests.xml"
step ptx "$python" -m kernels.ptx --json "$folder/ptx.json"
step kernels-cuda "$python" -m kernels.bench --device cuda --size 600x1000 --batch 16 \
    --json "$folder/kernels-cuda.json" --plot "$folder/kernels-cuda.png" --sheet "$folder/sheet.png"
step kernels-cpu "$python" -m kernels.bench --device cpu --size 600x1000 --batch 16 \
    --json "$folder/kernels-cpu.json" --plot "$folder/kernels-cpu.png"
step loading "$python" -m pipeline.bench --device cuda --threads 4 --loaders dali cpu --json "$folder/loading.json"
step training-step "$python" -m train.bench --device cuda --json "$folder/training-step.json"

cat "$folder/summary.txt"
exit "$failed"
