#!/usr/bin/env bash
# What is each stage for a new domain worth? scripts/new_domain.sh on the sample world: clear days with labels, and
# clear or rainy nights of which a fifth has labels. Ends in the mean, least and greatest AP over seeds of every row.
# When run again it continues where it stopped.
#   scripts/new_domain_sample.sh [--targets "night_sunny night_rainy"] [--seeds "0 1 2"] [--rows "baseline whole"]
#                                [--epochs N] [--teacher-epochs N] [--translation-steps N]
#   PYTHON chooses the interpreter. Run two targets at once in two shells.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets="night_sunny night_rainy" seeds="0 1 2" epochs=16 teacher_epochs=30 translation_steps=600
rows="baseline translated pseudo fitnets fgd ld crosskd whole longer full"
fail() { echo "new_domain_sample: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,7s/^# \{0,1\}//p' "scripts/${0##*/}"; exit 0 ;;
        --targets | --seeds | --rows | --epochs | --teacher-epochs | --translation-steps)
            [ $# -gt 1 ] || fail "$1 needs a value"
            [[ "$1" != *steps && "$1" != *epochs || "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a number from 1, got $2"
            case "$1" in
                --targets) targets=$2 ;;
                --seeds) seeds=$2 ;;
                --rows) rows=$2 ;;
                --epochs) epochs=$2 ;;
                --teacher-epochs) teacher_epochs=$2 ;;
                --translation-steps) translation_steps=$2 ;;
            esac
            shift 2 ;;
        *) fail "unknown option $1; --help lists the options" ;;
    esac
done
for target in $targets; do
    case "$target" in
        night_sunny | dusk_rainy | night_rainy | daytime_foggy) ;;
        *) fail "--targets: no target $target; there are night_sunny dusk_rainy night_rainy daytime_foggy" ;;
    esac
done

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHON=$python OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
stage() { echo; echo "== $1"; }
share() { "$python" -m pipeline.share "$@"; }

for target in $targets; do
    parts=data/new-domain/$target runs=runs/new-domain/$target
    world=$parts/world packed=$parts/packed
    stage "sample world -> $world"
    if [ ! -e "$packed/${target}_train/dataset.json" ]; then
        "$python" -m pipeline.sample_world --out "$world" --domains daytime_clear "$target" \
            --train 200 --test 150 --target 350
        "$python" -m pipeline.pack "$world" "$packed" --short-side 128 --long-side 240
    fi
    # So few pictures that labels are what is missing. Rows and teachers see each picture equally often; longer is the control.
    # 150 of the target are for tests. A fifth of the rest keeps its labels; the others are once hidden, once not.
    share "$packed/${target}_train" "$parts/test" "$parts/rest" --share 0.4286 --seed 1
    share "$parts/rest" "$parts/labelled" "$parts/hidden" --share 0.2 --hide
    share "$parts/rest" "$parts/labelled-again" "$parts/full" --share 0.2
    for seed in $seeds; do
        scripts/new_domain.sh --small --seed "$seed" --source "$packed/daytime_clear_train" \
            --source-test "$packed/daytime_clear_test" --target-labelled "$parts/labelled" \
            --target-unlabelled "$parts/hidden" --target-full "$parts/full" --target-test "$parts/test" \
            --out "$runs/seed$seed" --rows "$rows" \
            --epochs "$epochs" --teacher-epochs "$teacher_epochs" --translation-steps "$translation_steps"
        for row in teacher teacher-translated; do # these are not rows of the table, but explain them
            run=$runs/seed$seed/$row
            [ ! -e "$run" ] || "$python" -m eval.run "$run" --data "$packed/daytime_clear_test" "$parts/test"
        done
    done
done

for target in $targets; do
    parts=data/new-domain/$target runs=runs/new-domain/$target
    stage "how far pictures of $target are from its tests"
    translated=()
    for seed in $seeds; do
        [ ! -e "$runs/seed$seed/data/translated" ] || translated+=("$runs/seed$seed/data/translated")
    done
    "$python" -m eval.distance --target "$parts/test" --data "$parts/full" "$parts/packed/daytime_clear_train" "${translated[@]}"
    stage "$target: means over seeds, least and greatest -> $runs"
    table=()
    for row in teacher teacher-translated baseline translated pseudo fitnets fgd ld crosskd whole longer full; do
        for seed in $seeds; do
            [ ! -e "$runs/seed$seed/$row/eval/results.json" ] || table+=("$row=$runs/seed$seed/$row")
        done
    done
    for metric in voc07 coco; do
        "$python" -m eval.table "${table[@]}" --seeds --all --metric $metric --json "$runs/$metric.json"
    done
done
