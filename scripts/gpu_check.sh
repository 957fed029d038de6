#!/usr/bin/env bash
# For a machine with a GPU: pixels, benchmarks, tests and a short training, and whether the targets are met.
#   scripts/gpu_check.sh [FOLDER [PART...]]       (default: build/gpu-check and all of `parts` below, the most valuable first)
# first, second, third and fourth name the parts of calls of ten minutes each; chain them on one machine. lease names one
# call for a machine that is lent for a quarter of an hour, its start included: fewer parts, and less of each (BRIEF=1), so
# that some targets are not measured.
# A part makes what it needs and is missing. Pictures and runs are written to FOLDER/work, small files to FOLDER. Small
# files are packed into FOLDER/results.tar.gz every 20 seconds; with COPY_TO=DIR that and summary.txt are copied there.
# A part is stopped after PART_SECONDS (default 240, in a lease 300), and the call ends after DEADLINE seconds (default 570).
# CARRY=DIR holds what scripts/gpu_carry.sh made: packages, pictures and pixels. What is missing is named at once.
# The command ends with 1 when a part failed or a target was missed. Without a GPU it prints that, writes it to
# summary.txt and ends with 3: nothing was checked. DEVICE=cpu rehearses small parts on a CPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
lease=(pixels training-step kernel-tests kernels-cuda)
first=(pixels training-step kernels-cuda profile)
second=(kernel-tests run-tests sanitizer)
third=(teacher stop-and-resume evaluation loading)
fourth=(dense-step anchor-step targets)
parts=("${first[@]}" "${second[@]}" "${third[@]}" "${fourth[@]}")
by_name=(kernels-cpu ptx) # what needs no GPU: only when named
inside='' loader=auto
if [ "${1:-}" = --inside ]; then # one part, which `step` below runs under timeout
    inside=$2 loader=$3
    shift 3
fi
folder=${1:-build/gpu-check}
work=$folder/work
carry=${CARRY:-}
device=${DEVICE:-cuda}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if [ -n "$carry" ]; then export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"; fi
if [ -z "${CUDA_HOME:-}" ]; then # Numba looks for NVVM below it
    nvcc=$(command -v nvcc) && nvcc=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    for place in /usr/local/cuda "$nvcc" "$work"; do
        if [ -e "$place/nvvm/lib64" ]; then
            CUDA_HOME=$(readlink -f "$place")
            export CUDA_HOME
            break
        fi
    done
fi
# What kernels/launch/gpu.py takes from packages whose names changed with their versions.
gpu_names='
import numba_cuda
from cuda.core import LaunchConfig, Stream, launch
from numba import cuda
version = tuple(int(number) for number in numba_cuda.__version__.split(".")[:2])
if version < (0, 30):
    raise ImportError(f"numba-cuda is {numba_cuda.__version__}")
if not cuda.__file__.startswith(numba_cuda.__path__[0]):
    raise ImportError(f"numba.cuda is {cuda.__file__}, not that of numba-cuda")
Stream.from_handle
'

has() { "$python" -c "import $1" 2>/dev/null; }

part_pixels() {
    local expected=$carry/pixels.npz
    if [ ! -e "$expected" ]; then
        expected=$work/pixels.npz
        "$python" -m kernels.checks.pixels "$expected" --write || return
    fi
    "$python" -m kernels.checks.pixels "$expected" --device "$device" --json "$folder/pixels.json"
}
gpu_tests() { # gpu_tests NAME SECONDS FOLDER...: only files with such tests are imported; one that cannot be fails the part
    local files limit=()
    mapfile -t files < <(grep -rls --include='test_*.py' 'mark\.gpu' "${@:3}")
    if has pytest_timeout; then limit=(--timeout "$2"); fi # of one test, after which the others go on
    "$python" -m pytest -m gpu -v --continue-on-collection-errors "${limit[@]}" --junitxml "$folder/$1.xml" "${files[@]}"
}
part_kernel_tests() {
    local folders=(tests/kernels tests/pipeline tests/model)
    if [ -n "${BRIEF:-}" ]; then folders=(tests/kernels); fi
    gpu_tests kernel-tests 60 "${folders[@]}"
}
part_run_tests() { gpu_tests run-tests 120 tests/train tests/eval; } # these compile
kernels() { # kernels DEVICE OPTIONS...
    local plot=()
    if [ -z "${BRIEF:-}" ] && has matplotlib; then plot=(--plot "$folder/kernels-$1.png"); fi
    "$python" -m kernels.bench --device "$1" --size 600x1000 --batch 16 --json "$folder/kernels-$1.json" "${plot[@]}" "${@:2}"
}
part_kernels_cuda() {
    local less=(--repeats 2 --no-cold)
    if [ -n "${BRIEF:-}" ]; then less=(--mixed-only); fi
    if [ "$device" = cpu ]; then
        "$python" -m kernels.bench --device cpu --size 64x96 --batch 2 "${less[@]}" --repeats 1 --json "$folder/kernels-cuda.json"
    else
        kernels cuda "${less[@]}"
    fi
}
part_sanitizer() { # reads and writes outside of arrays, and races, in the views and in suppression
    local tool
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not here"; return 1; }
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m pytest -m gpu -q -p no:xdist \
            tests/kernels/test_nms.py tests/kernels/test_roi_align.py tests/pipeline/test_views.py || return
    done
}
part_kernels_cpu() { kernels cpu --sheet "$folder/sheet.png"; }
part_ptx() { "$python" -m kernels.checks.ptx --json "$folder/ptx.json"; }
step_bench() { # step_bench FILE OPTIONS...
    local small=()
    if [ "$device" = cpu ]; then small=(--canvas 64 96 --batch-size 2 --rounds 1 --steps 1); fi
    "$python" -m train.bench --device "$device" --loader "$loader" "${@:2}" "${small[@]}" --json "$folder/$1.json"
}
part_training_step() {
    local less=()
    if [ -n "${BRIEF:-}" ]; then less=(--rounds 3 --cuda-graphs off --no-count-graphs); fi
    step_bench training-step "${less[@]}"
}
part_dense_step() { # torchvision has these two
    local kind
    rm -f "$folder/retinanet-step.json" "$folder/fcos-step.json"
    for kind in retinanet fcos; do
        step_bench $kind-step --model $kind --rounds 3 --cuda-graphs off || return
    done
}
part_anchor_step() { # what MLPerf trains, though without a teacher
    has timm || { echo "timm is not here, which has the backbone"; return 1; }
    step_bench anchor-step --model retinanet --backbone timm:resnext50_32x4d --canvas 800 800 --rounds 3 --cuda-graphs off
}
part_loading() {
    local loaders=(cpu)
    if [ "$loader" = auto ]; then loaders=(dali cpu); fi
    "$python" -m pipeline.bench --device cuda --threads 4 --loaders "${loaders[@]}" --images 200 --seconds 2 \
        --prefetch 1 3 6 --records 0 --json "$folder/loading.json"
}
part_evaluation() { "$python" -m eval.bench --device cuda --json "$folder/evaluation.json"; }

make_packed() { # make_packed OUT SHORT_SIDE LONG_SIDE: the sample world, packed
    [ -e "$1/daytime_clear_test/dataset.json" ] && [ -e "$1/daytime_clear_train/dataset.json" ] && return
    if [ -n "$carry" ] && [ -e "$carry/$(basename "$1")" ]; then
        mkdir -p "$work" && cp -r "$carry/$(basename "$1")" "$work/" && return
    fi
    "$python" -m pipeline.sample_world --out "$work/world" --train 80 --test 20 --target 1 || return
    "$python" -m pipeline.pack "$work/world" "$1" --short-side "$2" --long-side "$3"
}
small=( # random weights, so that nothing is downloaded: --model.norm auto is then batch norm
    --data "$work/packed/daytime_clear_train" --val "$work/packed/daytime_clear_test" --device "$device" --batch-size 8
    --loader.name "$loader" --log-every 5 --model.weights none
)
make_teacher() { # a finished run does nothing, an interrupted one continues
    make_packed "$work/packed" 192 352 || return
    "$python" -m train.run teacher_small "${small[@]}" --steps 60 --save-every 20 --out "$work/runs/teacher"
}
part_teacher() {
    rm -rf "$work/runs/teacher"
    make_teacher
}
# A student that SIGTERM ends in the middle saves with code 143, and the same command finishes it: with the weights of a
# student that nothing disturbed, to the bit.
part_stop_and_resume() {
    local student=(
        "$python" -m train.run cdfkd_small "${small[@]}" --steps 200 --save-every 1000 --views.ratio-range 0.8 0.8
        --repeatable --teacher "$work/runs/teacher" --out
    )
    make_teacher || return
    rm -rf "$work/runs/undisturbed" "$work/runs/student"
    "${student[@]}" "$work/runs/undisturbed" || return
    "${student[@]}" "$work/runs/student" &
    local run=$! code
    until grep -qs losses "$work/runs/student/log.jsonl"; do
        kill -0 "$run" 2>/dev/null || break
        sleep 0.1
    done
    kill -TERM "$run" 2>/dev/null
    wait "$run"
    code=$?
    [ "$code" -eq 143 ] || { echo "the run ended with code $code where 143 was expected, by SIGTERM"; return 1; }
    compgen -G "$work/runs/student/checkpoints/step-*" >/dev/null || { echo "SIGTERM ended the run unsaved"; return 1; }
    "${student[@]}" "$work/runs/student" || return
    cmp "$work"/runs/{undisturbed,student}/checkpoints/step-00000200/model.safetensors ||
        { echo "the continued run has other weights than the undisturbed one"; return 1; }
}
# A trace of the paper's network at its own size on one student canvas. Random weights are enough to time most of it. Their
# proposals differ from a trained network's, so the shares of NMS and of proposals are not representative.
part_profile() {
    local options=(
        --data "$work/packed-large/daytime_clear_train" --device cuda --loader.name "$loader" --model.weights none
        --model.norm frozen --model.trainable-layers 3 --epochs 0 --max-skipped 60
    )
    make_packed "$work/packed-large" 600 1000 || return
    "$python" -m train.run teacher_r101 "${options[@]}" --steps 2 --compile off --out "$work/runs/teacher-r101" || return
    rm -rf "$work/runs/profile" "$folder/trace.json.gz"
    "$python" -m train.run cdfkd_r101 "${options[@]}" --steps 60 --profile --views.ratio-range 0.8 0.8 \
        --teacher "$work/runs/teacher-r101" --out "$work/runs/profile" || return
    gzip -9c "$work/runs/profile/trace-rank0.json" >"$folder/trace.json.gz"
}

# The targets, from what the benchmarks wrote, now or earlier. A target that was not measured is not met.
part_targets() {
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
anchor = read("anchor-step")
dense = {name: read(f"{name}-step").get("ratio_to_stock") for name in ("retinanet", "fcos")}
copies = {name: record["times_copy_bound"] for name, record in kernels.get("views_per_type", {}).items()}
mixed = kernels.get("mixed_batch", {})
loaders = {name: by_threads["4"] for name, by_threads in loading.get("loaders", {}).items()}
best = max(loaders.values(), key=lambda loader: loader["images_per_s"], default={})
worst = max((copies[name] for name in POINTWISE if name in copies), default=None) if len(copies) >= 15 else None
mean = sum(copies[name] for name in TRAINING) / 15 if set(TRAINING) <= set(copies) else None
rows = [  # what, measured, "at least" or "at most", target
    ("view pairs/s, mixed batch of 16", mixed.get("pairs_per_second"), "at least", 40_000),
    ("host time of a mixed batch, us", mixed.get("host_us"), "at most", 150),
    ("slowest point-wise type, times a copy", worst, "at most", 3),
    ("mean of the 15 types, times a copy", mean, "at most", 10),
    ("loader, images/s on 4 threads", best.get("images_per_s"), "at least", 350),
    ("loader, waiting share", best.get("waiting_share_at_80_percent"), "at most", 0.02),
    ("training, images/s", training.get("images_per_second"), "at least", 165),
    ("training, times the stock loop", training.get("ratio_to_stock"), "at least", 3),
    *((f"training of {name}, times the stock loop", ratio, "at least", 3) for name, ratio in dense.items()),
    ("RetinaNet, ResNeXt-50, 800x800, images/s", anchor.get("images_per_second"), "at least", 306),
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

if [ -n "$inside" ]; then
    "part_${inside//-/_}"
    exit
fi

if [ $# -gt 1 ]; then
    shift
    chosen=()
    for name; do
        case $name in
        lease)
            chosen+=("${lease[@]}")
            export BRIEF=1 PART_SECONDS="${PART_SECONDS:-300}"
            ;;
        first) chosen+=("${first[@]}") ;;
        second) chosen+=("${second[@]}") ;;
        third) chosen+=("${third[@]}") ;;
        fourth) chosen+=("${fourth[@]}") ;;
        *)
            if [[ " ${parts[*]} ${by_name[*]} " != *" $name "* ]]; then
                echo "error: no part $name; there are: ${parts[*]} ${by_name[*]}, and the calls lease first second third fourth" >&2
                exit 2
            fi
            chosen+=("$name")
            ;;
        esac
    done
    parts=("${chosen[@]}")
fi
mkdir -p "$folder" "$work"
summary=$folder/summary.txt
echo "== $(date '+%F %T'): ${parts[*]}" | tee -a "$summary"
install() { "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$@" 2>&1 | tee -a "$summary"; }
if [ -n "$carry" ] && [ -d "$carry/wheels" ] && [ ! -e "$work/site" ]; then install "$carry"/wheels/*.whl; fi
if [ "$device" = cuda ] && [ -n "$carry" ] && [ -d "$carry/wheels-cuda" ] && ! "$python" -c "$gpu_names" 2>/dev/null; then
    install --upgrade "$carry"/wheels-cuda/*.whl
    echo "import _numba_cuda_redirector" >"$work/site/sitecustomize.py" # for here Python reads no .pth file
fi
if [ -z "${CUDA_HOME:-}" ] && [ -e "$carry/nvvm.tar.gz" ]; then
    tar -C "$work" -xzf "$carry/nvvm.tar.gz"
    CUDA_HOME=$(readlink -f "$work")
    export CUDA_HOME
fi
"$python" - <<'PYTHON' | tee -a "$summary"
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


shown = ("torch", "torchvision", "triton", "numpy", "numba", "numba-cuda", "cuda-core")
print("versions: " + ", ".join(f"{name} {version_of(name)}" for name in shown))
needed = "torch torchvision numba cv2 PIL pyarrow yaml rich safetensors scipy tensorboard tyro simplejpeg pycocotools triton"
wanted = "imagecorruptions skimage pytest hypothesis matplotlib"  # benchmarks and tests
for names, kind in ((needed, "needed by all parts"), (wanted, "needed by some parts")):
    missing = [name for name in names.split() if find_spec(name) is None]
    if missing:
        print(f"missing, {kind}: {' '.join(missing)}; scripts/gpu_carry.sh makes a folder for CARRY that holds them")
PYTHON
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU: torch sees no CUDA device on this machine, nothing was checked" | tee -a "$summary"
    exit 3
fi
if [ "$device" = cuda ] && ! error=$("$python" -c "$gpu_names" 2>&1); then
    echo "the kernels cannot start: ${error##*$'\n'}; install numba-cuda and cuda-core as constraints.txt has them, or carry" \
        "them: scripts/gpu_carry.sh" | tee -a "$summary"
fi
"$python" -c 'from pipeline.command.console import describe_hardware; print(describe_hardware())' | tee -a "$summary"
command -v nvidia-smi >/dev/null && nvidia-smi >"$folder/nvidia-smi.txt" 2>&1
if [ "$device" = cpu ] || ! has nvidia.dali; then
    loader=cpu
    echo "DALI is not installed: the loader cpu stands in for it" | tee -a "$summary"
fi

running='' failed=0 deadline=${DEADLINE:-570}
pack_results() { # whole files only: what is read meanwhile is never half written
    (
        cd "$folder" || exit
        find . -maxdepth 1 -type f -size -8M -regex '.*\.\(txt\|json\|xml\|png\|json\.gz\)' -print0 |
            tar --null -czf "results.tar.gz.$1" -T - && mv "results.tar.gz.$1" results.tar.gz
    )
    if [ -n "${COPY_TO:-}" ]; then
        mkdir -p "$COPY_TO" && cp "$folder/results.tar.gz" "$summary" "$COPY_TO/"
    fi
}
step() { # step PART: output to PART.txt, a line in the summary, the small files packed
    local name=$1 started=$SECONDS tee code said limit=${PART_SECONDS:-240}
    if [ $((deadline - SECONDS)) -lt "$limit" ]; then limit=$((deadline - SECONDS)); fi
    if [ $((deadline - SECONDS)) -lt 5 ] && [ "$name" != targets ]; then
        failed=1
        echo "SKIPPED $name: the call's $deadline seconds are over; DEADLINE sets them" >>"$summary"
        return
    fi
    echo "== $name"
    [ "$name" = targets ] || rm -f "$folder/$name.json" # figures of an earlier call do not count
    exec 3> >(exec tee "$folder/$name.txt")
    tee=$!
    timeout --kill-after=10 "$limit" scripts/gpu_check.sh --inside "$name" "$loader" "$folder" >&3 2>&1 3>&- &
    running=$!
    wait "$running" # in the foreground the trap below would have to wait
    code=$?
    exec 3>&-
    timeout 10 tail -s 0.1 --pid="$tee" -f /dev/null # a process that a part left behind may keep it open
    said="$name ($((SECONDS - started)) s)"
    if [ "$code" -eq 0 ]; then
        said="ok      $said"
    else
        failed=1 said="FAILED  $said: exit $code, see $name.txt"
        if [ $((SECONDS - started)) -ge "$limit" ]; then said+="; timed out, PART_SECONDS is $limit"; fi
        said+=$'\n'$(tail -n 15 "$folder/$name.txt" | cut -c 1-200 | sed 's/^/    | /')
    fi
    echo "$said" >>"$summary"
    if [[ $name = *-tests ]]; then tail -n 1 "$folder/$name.txt" >>"$summary"; fi
    if [ "$name" = targets ]; then cat "$folder/targets.txt" >>"$summary"; fi
    pack_results part
}
while sleep 20 && kill -0 $$; do pack_results timer; done </dev/null >/dev/null 2>&1 & # its sleep outlives it and must hold nothing
packing=$!
trap 'kill "$running" "$packing" 2>/dev/null; exit 130' INT TERM
trap 'kill "$packing" 2>/dev/null' EXIT
for name in "${parts[@]}"; do step "$name"; done

echo
cat "$summary"
exit "$failed"
