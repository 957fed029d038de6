#!/usr/bin/env bash
# A plain detector of each kind on the sample world's clear days, in the quickstart's size, and CD-FKD on GFL. Ends in
# the mean, least and greatest AP over seeds in five weathers. When run again it continues where it stopped.
#   scripts/detectors.sh [--seeds "0 1 2"] [--reduced]     --reduced: every step, too small for a result
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds="0 1 2" reduced=""
fail() { echo "detectors: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --reduced) reduced=yes; shift ;;
        --seeds)
            [[ "${2:-}" =~ ^[0-9]+(\ [0-9]+)*$ ]] || fail '--seeds needs whole numbers, as in --seeds "0 1 2"'
            seeds=$2; shift 2 ;;
        -h | --help) sed -n '2,4s/^# \{0,1\}//p' "scripts/${0##*/}"; exit 0 ;;
        *) fail "unknown option $1; the options are --seeds and --reduced" ;;
    esac
done

world=data/sample runs=runs/detectors images=(--train 800 --test 150 --target 150) length=()
if [ -n "$reduced" ]; then
    world=data/sample-reduced runs=runs/detectors-reduced images=(--train 24 --test 8 --target 8) length=(--steps 4)
fi
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
stage() { echo; echo "== $1"; }

packed=$world-packed
if [ ! -e "$packed/daytime_clear_test/dataset.json" ] || [ ! -e "$packed/night_rainy_train/dataset.json" ]; then
    stage "sample world -> $packed"
    "$python" -m pipeline.sample_world --out "$world" "${images[@]}"
    "$python" -m pipeline.pack "$world" "$packed" --short-side 192 --long-side 352
fi
domains=("$packed/daytime_clear_test" "$packed/"{night_sunny,dusk_rainy,night_rainy,daytime_foggy}_train)
table=()
run() { # run NAME SEED RECIPE OPTIONS...
    local out=$runs/$1/seed$2
    stage "$out"
    "$python" -m train.run "$3" --data "$packed/daytime_clear_train" --out "$out" --seed "$2" "${@:4}" "${length[@]}"
    "$python" -m eval.run "$out" --data "${domains[@]}"
    table+=("$1=$out")
}

for seed in $seeds; do
    for kind in faster_rcnn retinanet fcos atss gfl; do
        run "$kind" "$seed" plain_small --model "$kind"
    done
    run cdfkd_gfl "$seed" cdfkd_small --model gfl --teacher "$runs/gfl/seed$seed" --student-init teacher
done

for metric in voc07 coco; do
    stage "$metric"
    "$python" -m eval.table "${table[@]}" --seeds --metric $metric --json "$runs/$metric.json"
done
