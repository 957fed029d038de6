#!/usr/bin/env bash
# One command for a machine with a GPU: its tests, benchmarks and a short training, and whether the targets are met.
#   scripts/gpu_check.sh [FOLDER]            (default: gpu-check)
# Everything is written to one folder. It ends with 1 when a part failed or a target was missed. Without a GPU it says so,
# writes that down and ends with 3: nothing was checked.
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
loader=auto loaders=(dali cpu)
if ! "$python" -c 'import nvidia.dali' 2>/dev/null; then
    loader=cpu loaders=(cpu)
    echo "DALI is not installed: the loader cpu stands in for it" | tee -a "$folder/summary.txt"
fi

cuda_plot=() cpu_plot=()
if "$python" -c 'import matplotlib' 2>/dev/null; then
    cuda_plot=(--plot "$folder/kernels-cuda.png") cpu_plot=(--plot "$folder/kernels-cpu.png")
fi

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

train() { # train RECIPE OPTIONS...: a few steps on the packed pictures; takes the place of the subshell it is called in
    local recipe=$1
    shift
    exec "$python" -m train.run "$recipe" --data "$folder/packed/daytime_clear_train" --val "$folder/packed/daytime_clear_test" \
        --device cuda --loader.name "$loader" --batch-size 8 --steps 60 --save-every 20 --log-every 5 "$@"
}
profile() { # a trace of the paper's network at its own size on one student canvas; random weights do for the time they take
    local large="$folder/packed-large" options=(
        --device cuda --loader.name "$loader" --model.weights none --model.norm frozen --model.trainable-layers 3 --epochs 0
    )
    scripts/build_dataset.sh "$folder/world" "$large" --short-side 600 --long-side 1000 || return
    "$python" -m train.run teacher_r101 "${options[@]}" --data "$large/daytime_clear_train" --steps 2 --compile off \
        --out "$folder/runs/teacher-r101" || return
    "$python" -m train.run cdfkd_r101 "${options[@]}" --data "$large/daytime_clear_train" --steps 60 --profile \
        --views.ratio-range 0.8 0.8 --teacher "$folder/runs/teacher-r101" --out "$folder/runs/profile" || return
    gzip -c "$folder/runs/profile/trace-rank0.json" >"$folder/trace.json.gz"
}
stop_and_resume() { # a student that SIGTERM ends in the middle saves with code 143, and the same command finishes it
    local student=(cdfkd_small --teacher "$folder/runs/teacher" --out "$folder/runs/student")
    train "${student[@]}" &
    local run=$! tries=600
    until grep -q losses "$folder/runs/student/log.jsonl" 2>/dev/null || [ $((tries -= 1)) -eq 0 ]; do sleep 0.5; done
    kill -TERM "$run"
    wait "$run"
    local code=$?
    [ "$code" -eq 143 ] || { echo "SIGTERM ended the run with code $code where 143 was expected"; return 1; }
    train "${student[@]}"
}

step tests "$python" -m pytest -m gpu -q --junitxml "$folder/tests.xml"
step ptx "$python" -m kernels.ptx --json "$folder/ptx.json"
step kernels-cuda "$python" -m kernels.bench --device cuda --size 600x1000 --batch 16 \
    --json "$folder/kernels-cuda.json" --sheet "$folder/sheet.png" "${cuda_plot[@]}"
step kernels-cpu "$python" -m kernels.bench --device cpu --size 600x1000 --batch 16 \
    --json "$folder/kernels-cpu.json" "${cpu_plot[@]}"
step loading "$python" -m pipeline.bench --device cuda --threads 4 --loaders "${loaders[@]}" --json "$folder/loading.json"
step training-step "$python" -m train.bench --device cuda --loader "$loader" --json "$folder/training-step.json"
step evaluation "$python" -m eval.bench --device cuda --json "$folder/evaluation.json"
step world "$python" -m pipeline.sample_world --out "$folder/world" --train 80 --test 20 --target 1
step pack scripts/build_dataset.sh "$folder/world" "$folder/packed" --short-side 192 --long-side 352
rm -rf "$folder/runs"
step teacher train teacher_small --out "$folder/runs/teacher"
step stop-and-resume stop_and_resume
step profile profile

# The targets, from what the benchmarks wrote: one that was not measured is not met.
targets() {
    "$python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

POINTWISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "brightness", "contrast", "saturate")
TRAINING = (*POINTWISE, "defocus_blur", "glass_blur", "zoom_blur", "motion_blur", "spatter", "jpeg_compression",
            "pixelate", "elastic_transform")  # fmt: skip


def read(name):
    path = Path(sys.argv[1], f"{name}.json")
    return json.loads(path.read_text()) if path.exists() else {}


kernels, loading, training, evaluation = map(read, ("kernels-cuda", "loading", "training-step", "evaluation"))
copies = {name: record["times_copy_bound"] for name, record in kernels.get("views_per_type", {}).items()}
mixed = kernels.get("mixed_batch", {})
loaders = {name: by_threads["4"] for name, by_threads in loading.get("loaders", {}).items()}
best = max(loaders.values(), key=lambda loader: loader["images_per_s"], default={})
worst = max((copies[name] for name in POINTWISE if name in copies), default=None) if len(copies) >= 15 else None
mean = sum(copies[name] for name in TRAINING) / 15 if set(TRAINING) <= set(copies) else None
rows = [  # what, measured, "at least" or "at most", target
    ("view pairs/s, mixed batch of 16", mixed.get("pairs_per_second"), "at least", 40_000),
    ("host time of a mixed batch, us", mixed.get("host_us"), "at most", 150),
    ("launches of a mixed batch", mixed.get("launches"), "at most", 12),
    ("slowest point-wise type, times a copy", worst, "at most", 3),
    ("mean of the 15 types, times a copy", mean, "at most", 10),
    ("loader, images/s on 4 threads", best.get("images_per_s"), "at least", 350),
    ("loader, waiting share", best.get("waiting_share_at_80_percent"), "at most", 0.02),
    ("training, images/s", training.get("images_per_second"), "at least", 165),
    ("training, times the stock loop", training.get("ratio_to_stock"), "at least", 3),
    ("graph breaks", training.get("graph_breaks"), "at most", 0),
    ("recompilations", training.get("recompiles"), "at most", 0),
    ("synchronisations", training.get("synchronisations"), "at most", 0),
    ("augmentation, share of a step", training.get("views_to_step"), "at most", 0.02),
    ("corruption, percent of inference", evaluation.get("cost_percent_mean"), "at most", 10),
]
missed = 0
for what, value, kind, target in rows:
    met = value is not None and (value >= target if kind == "at least" else value <= target)
    missed += not met
    measured = "not measured" if value is None else f"{value:g}"
    print(f"{'met   ' if met else 'MISSED'}  {what}: {measured} ({kind} {target:g})")
sys.exit(missed > 0)
PYTHON
}
step targets targets
cat "$folder/targets.txt" >>"$folder/summary.txt"

echo
cat "$folder/summary.txt"
exit "$failed"
