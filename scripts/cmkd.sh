#!/usr/bin/env bash
# Cross-modality distillation on the sample world: a teacher that sees gated slices beside RGB, and three detectors that
# see RGB alone: without a teacher, taught by squared error, taught by discriminators. All train on clear nights and are
# measured on clear night, rainy night, fog and clear day. When run again it continues where it stopped.
#   scripts/cmkd.sh [--seeds N] [--reduced]     --reduced: every step with one seed, too small for a result
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds=3
name=cmkd
images=(--target 800)
tests=(--test 150 --target 150)
steps=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seeds)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { echo "cmkd: --seeds needs a number from 1, as in --seeds 3" >&2; exit 2; }
            seeds=$2; shift 2 ;;
        --reduced)
            seeds=1 name=cmkd-reduced
            images=(--target 24) tests=(--test 8 --target 8) steps=(--steps 6)
            shift ;;
        -h | --help) sed -n '2,5s/^# //p' "scripts/${0##*/}"; exit 0 ;;
        *) echo "cmkd: unknown option $1; the options are --seeds N and --reduced" >&2; exit 2 ;;
    esac
done

data=data/$name
runs=runs/$name
scripts/setup.sh
python=.venv/bin/python
export FAIRWEATHER_CACHE="$PWD/.venv/cache"         # compiled kernels, kept inside the checkout
stage() { echo; echo "== $1"; }
stopped() {
    status=$?
    [ "$status" = 0 ] || echo "cmkd: stopped for the reason above; run the same command again to continue" >&2
}
trap stopped EXIT
trap 'exit 130' INT # also between two commands
trap 'exit 143' TERM

stage "1/4 two sample worlds, with what a gated camera sees: clear nights to train on, four weathers to test on -> $data"
$python -m pipeline.sample_world --out "$data/train" --domains night_sunny "${images[@]}" --extra
$python -m pipeline.sample_world --out "$data/test" --seed 1 --train 0 "${tests[@]}" --extra \
    --domains daytime_clear night_sunny night_rainy daytime_foggy

stage "2/4 packed -> $data-packed"
for part in train test; do
    scripts/build_dataset.sh "$data/$part" "$data-packed/$part" --short-side 192 --long-side 352 \
        --extra gated=gated0,gated1,gated2
done
train=$data-packed/train/night_sunny_train
tested=("$data-packed/test/daytime_clear_test" "$data-packed/test/"{night_sunny,night_rainy,daytime_foggy}_train)

stage "3/4 four rows, $seeds seed(s), on clear nights -> $runs"
rows=()
for ((seed = 0; seed < seeds; seed++)); do
    for row in baseline teacher mse adversarial; do
        run=$runs/seed$seed/$row
        teacher=()
        case $row in mse | adversarial) teacher=(--teacher "$runs/seed$seed/teacher") ;; esac
        $python -m train.run "cmkd_${row}_small" --data "$train" --val "$data-packed/test/night_sunny_train" \
            --out "$run" --seed "$seed" "${teacher[@]}" "${steps[@]}"
        $python -m eval.run "$run" --data "${tested[@]}"
        rows+=("$row=$run")
    done
done

stage "4/4 report and table"
$python -m eval.report "$runs"/seed0/{baseline,teacher,mse,adversarial} --out "$runs/report.html"
echo
$python -m eval.table "${rows[@]}" --seeds --metric coco --json "$runs/results.json"
$python - "$runs/results.json" <<'PYTHON'
import json
import sys

table = json.load(open(sys.argv[1]))
print("\nteacher - baseline, and the share of it that a student keeps: means over seeds [least, greatest of a seed]")
for domain, baselines in table["baseline"].items():
    gains = [teacher - baseline for teacher, baseline in zip(table["teacher"][domain], baselines)]
    kept = [] if sum(gains) > 0 else ["nothing to keep"]
    for row in ("mse", "adversarial") if not kept else ():
        ahead = [student - baseline for student, baseline in zip(table[row][domain], baselines)]
        kept.append(f"{row} {sum(ahead) / sum(gains):.0%}")
        if min(gains) > 0:
            shares = [part / gain for part, gain in zip(ahead, gains)]
            kept[-1] += f" [{min(shares):.0%}, {max(shares):.0%}]"
    print(f"  {domain:<16} {sum(gains) / len(gains):+.1f}  " + ", ".join(kept))
PYTHON
echo "report: $(pwd)/$runs/report.html"
