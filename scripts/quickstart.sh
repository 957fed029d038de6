#!/usr/bin/env bash
# From nothing to a result: set up, render a sample world, pack it, train the plain detector (also the teacher) and the
# CD-FKD student, evaluate five domains, write a report. When run again it continues where it stopped.
#   scripts/quickstart.sh [--seed N] [--longer] [--reduced]
#   --longer also trains the plain detector for as many steps again, as long as the student in all: the honest comparison.
#   --reduced is for CI: every step, too small for a result
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seed=0
reduced=
longer=
while [ $# -gt 0 ]; do
    case "$1" in
        --seed)
            [[ "${2:-}" =~ ^[0-9]+$ ]] || { echo "quickstart: --seed needs a whole number, as in --seed 1" >&2; exit 2; }
            seed=$2; shift 2 ;;
        --longer) longer=yes; shift ;;
        --reduced) reduced=yes; shift ;;
        -h | --help) sed -n '2,6s/^# //p' "scripts/${0##*/}"; exit 0 ;;
        *) echo "quickstart: unknown option $1; the options are --seed N, --longer and --reduced" >&2; exit 2 ;;
    esac
done

world=data/sample
runs=runs/quickstart
images=(--train 800 --test 150 --target 150)
steps=()
if [ -n "$reduced" ]; then
    world=data/sample-reduced
    runs=runs/quickstart-reduced
    images=(--train 24 --test 8 --target 8)
    steps=(--steps 6)
fi
[ "$seed" = 0 ] || runs="$runs-seed$seed"

scripts/setup.sh
python=.venv/bin/python
export FAIRWEATHER_CACHE="$PWD/.venv/cache" # compiled kernels, kept inside the checkout
stage() { echo; echo "== $1"; }
stopped() {
    status=$?
    [ "$status" = 0 ] || echo "quickstart: stopped for the reason above; run the same command again to continue" >&2
}
trap stopped EXIT
trap 'exit 130' INT # also between two commands
trap 'exit 143' TERM

$python -c 'import torch
from pipeline.loading.loader import describe_machine

print(describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"), "auto"))'

stage "1/6 sample world: a procedural street in five weathers -> $world"
$python -m pipeline.sample_world --out "$world" "${images[@]}"

stage "2/6 packed datasets -> $world-packed"
scripts/build_dataset.sh "$world" "$world-packed" --short-side 192 --long-side 352

stage "3/6 the plain detector, on clear days only; it is also the teacher -> $runs/plain"
$python -m train.run teacher_small --data "$world-packed/daytime_clear_train" --val "$world-packed/daytime_clear_test" \
    --out "$runs/plain" --seed "$seed" "${steps[@]}"

stage "4/6 the CD-FKD student -> $runs/cdfkd"
# From the teacher's weights: this run is too short to start from ImageNet's, as in the paper (docs/benchmarks.md).
$python -m train.run cdfkd_small --data "$world-packed/daytime_clear_train" --val "$world-packed/daytime_clear_test" \
    --teacher "$runs/plain" --student-init teacher --out "$runs/cdfkd" --seed "$seed" "${steps[@]}"

networks=(plain cdfkd)
if [ -n "$longer" ]; then
    stage "4/6 also: the plain detector for as many steps again -> $runs/longer"
    $python -m train.run teacher_small --data "$world-packed/daytime_clear_train" --val "$world-packed/daytime_clear_test" \
        --student-init "$runs/plain" --out "$runs/longer" --seed "$seed" "${steps[@]}"
    networks=(plain longer cdfkd)
fi

stage "5/6 five domains"
domains=("$world-packed/daytime_clear_test" "$world-packed/"{night_sunny,dusk_rainy,night_rainy,daytime_foggy}_train)
for run in "${networks[@]}"; do
    $python -m eval.run "$runs/$run" --data "${domains[@]}"
done

stage "6/6 report"
$python -m eval.report "${networks[@]/#/$runs/}" --out "$runs/report.html"

echo
table=()
for run in "${networks[@]}"; do table+=("$run=$runs/$run"); done
$python -m eval.table "${table[@]}" --json "$runs/results.json"
echo
echo "report: $(pwd)/$runs/report.html"
