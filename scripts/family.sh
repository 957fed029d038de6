#!/usr/bin/env bash
# Does distillation help? For each kind of detector a wide, long teacher on the sample world, and small students of equal
# length: alone, and with every method that fits. Ends in the mean, least and greatest AP over seeds. When run again it
# continues where it stopped; runs that were finished with the same options are skipped.
#   scripts/family.sh [--seeds "0 1 2"] [--kinds "gfl fcos"] [--methods "alone crosskd crosskd+pkd"] [--steps N]
#                     [--teacher-steps N] [--weather] [--reduced]
#   --weather: corrupted views, a teacher of the student's size, from whose weights the student starts; Faster R-CNN with
#   CD-FKD alone and beside head, crosskd_roi and pkd, GFL with CD-FKD and beside crosskd; AP in five weathers.
#   --reduced: every step, too small for a result. PYTHON chooses the interpreter. Run two kinds at once in two shells.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds="0 1 2" kinds="" only="" steps="" teacher_steps="" weather="" reduced=""
fail() { echo "family: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --weather) weather=yes; shift ;;
        --reduced) reduced=yes; shift ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "scripts/${0##*/}"; exit 0 ;;
        --seeds | --kinds | --methods | --steps | --teacher-steps)
            [ $# -gt 1 ] || fail "$1 needs a value"
            [[ "$1" != *steps || "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a number from 1, got $2"
            case "$1" in
                --seeds) seeds=$2 ;;
                --kinds) kinds=$2 ;;
                --methods) only=$2 ;;
                --steps) steps=$2 ;;
                --teacher-steps) teacher_steps=$2 ;;
            esac
            shift 2 ;;
        *) fail "unknown option $1; --help lists the options" ;;
    esac
done

# The methods that fit a kind; a + joins two. In weather "alone" sees clean images, and "corrupted" has no teacher.
methods_of() {
    if [ -n "$weather" ]; then
        case "$1" in
            faster_rcnn) echo alone corrupted cd_fkd cd_fkd+head cd_fkd+crosskd_roi cd_fkd+pkd ;;
            gfl) echo alone corrupted cd_fkd cd_fkd+crosskd ;;
            *) fail "--weather is for faster_rcnn and gfl, got $1" ;;
        esac
        return
    fi
    case "$1" in
        faster_rcnn) echo alone cd_fkd pkd crosskd_roi head imitation fine_grained defeat fgd ;;
        fcos) echo alone cd_fkd pkd crosskd crosskd+pkd imitation defeat gid fgd ;;
        retinanet | atss) echo alone cd_fkd pkd crosskd crosskd+pkd imitation fine_grained defeat gid fgd ;;
        gfl) echo alone cd_fkd pkd crosskd crosskd+pkd ld imitation fine_grained defeat gid fgd ;;
        *) fail "--kinds: no kind $1; there are faster_rcnn retinanet fcos atss gfl" ;;
    esac
}

# What a method needs besides its name: CD-FKD's levels as in its small recipe, PKD's published weights beside CrossKD,
# and FCOS has no anchors.
options_of() { # options_of KIND METHOD
    case "$1 $2" in
        *" cd_fkd") echo --distill.strides 8 16 32 ;;
        "fcos imitation") echo --distill.imitation.region inside ;;
        "gfl crosskd+pkd") echo --distill.pkd.weight 6 ;;
        "atss crosskd+pkd") echo --distill.pkd.weight 1 ;;
        *crosskd+pkd) echo --distill.pkd.weight 2 ;;
    esac
}

width() { # width KIND CHANNELS: of pyramid and heads
    case "$1" in
        faster_rcnn) echo --model.fpn-channels "$2" --model.representation-size "$((2 * $2))" ;;
        *) echo --model.fpn-channels "$2" --model.head-channels "$2" ;;
    esac
}

default_kinds="faster_rcnn retinanet fcos atss gfl" runs=runs/family world=data/sample images=(--train 800 --test 150 --target 150)
teacher_width=192 student_width=64
if [ -n "$weather" ]; then
    default_kinds="faster_rcnn gfl" runs=runs/family-weather teacher_width=128 student_width=128
fi
kinds=${kinds:-$default_kinds}
if [ -n "$reduced" ]; then
    world=data/sample-reduced runs=$runs-reduced images=(--train 24 --test 8 --target 8)
fi
steps=${steps:-${reduced:+4}} teacher_steps=${teacher_steps:-${reduced:+4}}
steps=${steps:-400} teacher_steps=${teacher_steps:-1500}
for kind in $kinds; do
    fitting=$(methods_of "$kind")
    for method in $only; do
        [[ " $fitting " == *" $method "* ]] || fail "no method $method for $kind; there are $fitting"
    done
done

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
stage() { echo; echo "== $1"; }
mkdir -p "$runs"

packed=$world-packed-128
if [ ! -e "$packed/daytime_clear_test/dataset.json" ] || [ ! -e "$packed/night_rainy_train/dataset.json" ]; then
    stage "sample world -> $packed"
    "$python" -m pipeline.sample_world --out "$world" "${images[@]}"
    "$python" -m pipeline.pack "$world" "$packed" --short-side 128 --long-side 240
fi
domains=("$packed/daytime_clear_test")
if [ -n "$weather" ]; then
    domains+=("$packed/"{night_sunny,dusk_rainy,night_rainy,daytime_foggy}_train)
fi

run() { # run RECIPE OUT OPTIONS...: train and evaluate, unless that was done with these very options
    local asked
    asked=$(printf '%s\n' "$@" "teacher: $teacher_steps steps" "${domains[@]}")
    [ -e "$2/eval/results.json" ] && [ "$(cat "$2/family.txt" 2> /dev/null)" = "$asked" ] && return
    stage "$2"
    "$python" -m train.run "$1" --data "$packed/daytime_clear_train" --val "$packed/daytime_clear_test" --out "$2" \
        --val-every 100000 "${@:3}"
    "$python" -m eval.run "$2" --data "${domains[@]}"
    echo "$asked" > "$2/family.txt"
}

for kind in $kinds; do
    read -ra wide <<< "$(width "$kind" $teacher_width)"
    read -ra narrow <<< "$(width "$kind" $student_width)"
    teacher=$runs/$kind/teacher
    run teacher_small "$teacher" --model "$kind" "${wide[@]}" --steps "$teacher_steps"
    table=(teacher="$teacher")
    for method in ${only:-$(methods_of "$kind")}; do
        read -ra options <<< "$(options_of "$kind" "$method")"
        for seed in $seeds; do
            out=$runs/$kind/$method/seed$seed
            common=(--model "$kind" "${narrow[@]}" --steps "$steps" --seed "$seed")
            if [ -n "$weather" ]; then
                common+=(--student-init "$teacher")
                # GFL's CrossKD compares places: all of its rows see one size.
                if [ "$kind" = gfl ] && [ "$method" != alone ]; then common+=(--views.ratio-range 1 1); fi
            fi
            case "$method" in
                alone) run plain_small "$out" "${common[@]}" ;;
                corrupted) run corrupt_only_small "$out" "${common[@]}" ;;
                *)
                    recipe=plain_small
                    if [ -n "$weather" ]; then recipe=cdfkd_small; fi
                    IFS=+ read -ra names <<< "$method"
                    run "$recipe" "$out" "${common[@]}" --teacher "$teacher" --distill "${names[@]}" "${options[@]}" ;;
            esac
            table+=("$method=$out")
        done
    done
    for metric in voc07 coco; do
        "$python" -m eval.table "${table[@]}" --seeds --metric $metric --json "$runs/$kind-$metric.json" > "$runs/$kind-$metric.txt"
    done
done

stage "means over seeds, least and greatest -> $runs"
for kind in $kinds; do
    "$python" - "$kind" "$runs/$kind-voc07.json" "$runs/$kind-coco.json" << 'END'
import json, statistics, sys

kind, *files = sys.argv[1:]
for title, file in zip(("AP50 (VOC2007)", "AP (COCO)"), files):
    figures = json.load(open(file))
    for found in figures.values():
        targets = [values for domain, values in found.items() if domain != "daytime_clear"]
        if targets and all(value is not None for values in targets for value in values):
            found["mean of the targets"] = [statistics.mean(several) for several in zip(*targets)]
    names = list(next(iter(figures.values())))
    print(f"\n{kind}, {title}")
    for domain in names:
        print(f"  {domain}")
        first = figures.get("alone", {}).get(domain)
        for method, found in figures.items():
            values = [value for value in found.get(domain) or [] if value is not None]
            if not values:
                continue
            mean = statistics.mean(values)
            gain = f"{mean - statistics.mean(first):+6.1f}" if first and method not in ("alone", "teacher") else ""
            print(f"    {method:<22}{mean:6.1f}  [{min(values):.1f}, {max(values):.1f}]  {len(values)} runs {gain}")
END
done
