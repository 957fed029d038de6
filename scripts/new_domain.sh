#!/usr/bin/env bash
# A detector for a new domain with few labels: translate the source, train a teacher, let it label, train the student.
#   scripts/new_domain.sh --source DIR --target-labelled DIR --target-unlabelled DIR --out runs/night [options]
# All DIR are packed datasets of the same classes. The same command continues where it stopped. Options:
#   --source-test DIR --target-test DIR   evaluate on these; the last stage prints the table of all rows
#   --target-full DIR      the images of --target-unlabelled with their labels: adds the row "full"
#   --rows "A B"           only these of: baseline translated pseudo fitnets fgd ld crosskd whole full; and, after
#                          whole, longer: the baseline, trained as long as the whole
#   --without-translation  leave the translation out: no row "translated", and "whole" without it
#   --holdout S            share of --target-labelled that no teacher sees and scores are chosen on; 0.25
#   --precision P          share of the pseudo-labels that is to be right; 0.5
#   --seed N  --small      small: networks and lengths for a CPU
#   --steps N              of every run; --translation-steps N: of the translation
#   --epochs N             in place of --steps: rows with more data take more steps; --teacher-epochs N: of the teachers
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
case "$python" in /*) ;; */*) python=$start/$python ;; esac
fail() { echo "new_domain: $1" >&2; exit 2; }

source='' labelled='' unlabelled='' full='' out='' source_test='' target_test=''
rows='' translate=yes holdout=0.25 precision=0.5 seed=0 size='' steps='' epochs='' teacher_epochs='' translation_steps=''
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,15s/^# //p' "scripts/${0##*/}"; exit 0 ;;
        --small) size=_small; shift; continue ;;
        --without-translation) translate=; shift; continue ;;
    esac
    [ $# -gt 1 ] || fail "$1 needs a value"
    case "$1" in
        --source) source=$2 ;;
        --target-labelled) labelled=$2 ;;
        --target-unlabelled) unlabelled=$2 ;;
        --target-full) full=$2 ;;
        --source-test) source_test=$2 ;;
        --target-test) target_test=$2 ;;
        --out) out=$2 ;;
        --rows) rows=$2 ;;
        --holdout) holdout=$2 ;;
        --precision) precision=$2 ;;
        --seed) seed=$2 ;;
        --steps) steps=$2 ;;
        --epochs) epochs=$2 ;;
        --teacher-epochs) teacher_epochs=$2 ;;
        --translation-steps) translation_steps=$2 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift 2
done
absolute() { case "$1" in '' | /*) echo "$1" ;; *) echo "$start/$1" ;; esac; }
for name in source labelled unlabelled full source_test target_test out; do
    printf -v "$name" %s "$(absolute "${!name}")"
done
for pair in "source --source" "labelled --target-labelled" "unlabelled --target-unlabelled" "out --out"; do
    name=${pair%% *}
    [ -n "${!name}" ] || fail "${pair#* } is missing; --help tells what is needed"
done
for name in source labelled unlabelled full source_test target_test; do
    [ -z "${!name}" ] || [ -f "${!name}/dataset.json" ] ||
        fail "${!name} is not a packed dataset (no dataset.json); python -m pipeline.pack makes one"
done
[[ $precision =~ ^(0?\.[0-9]*[1-9][0-9]*|1(\.0*)?)$ ]] || fail "--precision $precision: a number above 0 and at most 1"
[[ $holdout =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] || fail "--holdout $holdout: a number above 0 and below 1"
[ -z "$steps" ] || [ -z "$epochs" ] || fail "give --steps or --epochs, not both"
tests=()
[ -z "$source_test" ] || tests+=("$source_test")
[ -z "$target_test" ] || tests+=("$target_test")

every="baseline ${translate:+translated }pseudo fitnets fgd ld crosskd whole ${full:+full}"
[ -n "$rows" ] || rows=$every
for row in $rows; do
    case " $every longer " in *" $row "*) ;; *) fail "--rows $row: the rows of this command are $every longer" ;; esac
done
case " $rows " in
    *" longer "*"whole "*) fail "--rows: longer comes after whole, whose number of steps it has" ;;
    *" whole "*"longer "*) [ -z "$steps" ] || fail "--rows longer: with --steps all rows are equally long; leave it out" ;;
    *" longer "*) fail "--rows longer: it has the number of steps of the row whole; add whole before it" ;;
esac
wants() { case " $rows " in *" $1 "*) return 0 ;; esac; return 1; }
wants_any() { local row; for row in "$@"; do ! wants "$row" || return 0; done; return 1; }

stage() { echo; echo "== $1"; }
stopped() {
    status=$?
    [ "$status" = 0 ] || echo "new_domain: stopped for the reason above; run the same command again to continue" >&2
}
trap stopped EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
length() { # length STEPS [EPOCHS]
    [ -z "$1" ] || echo --steps "$1" --epochs 0
    [ -n "$1" ] || [ -z "${2:-}" ] || echo --epochs "$2" --steps 0
}
train() { # train ROW OPTIONS...
    local lasts=("$steps" "$epochs")
    [ "$1" != teacher ] || [ -z "$teacher_epochs" ] || lasts=('' "$teacher_epochs")
    "$python" -m train.run "domain_crosskd_$1$size" --seed "$seed" $(length "${lasts[@]}") "${@:2}"
}
# The scores that make a detection a label are chosen on images that the teacher has not seen.
label() {
    "$python" -m eval.pseudo_label "$1" --data "$unlabelled" --labelled "$out/data/holdout" --precision "$precision" \
        --ignore-precision "$("$python" -c "print(min(0.05, $precision))")" --out "$2"
}

stage "do the datasets fit together?"
"$python" -m pipeline.together "$source" "$labelled" "$unlabelled" "${tests[@]}" --apart
[ -z "$full" ] || "$python" -m pipeline.together "$source" "$labelled" "$full" "${tests[@]}" --apart

stage "labelled target: a part that only chooses scores -> $out/data/holdout"
"$python" -m pipeline.share "$labelled" "$out/data/holdout" "$out/data/taught" --share "$holdout"

# Before the teacher, for it asks the most: a missing package shows at once.
translated=()
if [ -n "$translate" ] && wants_any translated whole; then
    stage "translation from source to target -> $out/translation"
    "$python" -m train.translate "cut${size:-_lite}" --source "$source" --target "$unlabelled" \
        --out "$out/translation" --seed "$seed" $(length "${translation_steps:-$steps}")
    translated=("$out/data/translated")
fi
if wants_any translated pseudo fitnets fgd ld crosskd whole; then
    stage "teacher on source and labelled target -> $out/teacher"
    train teacher --data "$source" "$out/data/taught" --out "$out/teacher"
fi
if [ ${#translated[@]} != 0 ]; then
    # The teacher finds out which objects vanished; they are ignored.
    stage "the source translated -> $out/data/translated"
    "$python" -m eval.translate "$out/translation" --data "$source" --out "$out/data/translated" \
        --detector "$out/teacher"
fi
whole_teacher=$out/teacher
if [ -n "$translate" ] && wants whole; then
    stage "teacher on source, labelled target and translated source -> $out/teacher-translated"
    whole_teacher=$out/teacher-translated
    train teacher --data "$source" "$out/data/taught" "${translated[@]}" --out "$whole_teacher"
fi
# Without a translation the whole has the first teacher and its labels.
whole_labels=$out/data/pseudo
if wants pseudo || { wants whole && [ "$whole_teacher" = "$out/teacher" ]; }; then
    stage "pseudo-labels of that teacher -> $out/data/pseudo"
    label "$out/teacher" "$out/data/pseudo"
fi
if [ "$whole_teacher" != "$out/teacher" ]; then
    whole_labels=$out/data/pseudo-whole
    stage "pseudo-labels for the whole -> $whole_labels"
    label "$whole_teacher" "$whole_labels"
fi

for row in $rows; do
    stage "row $row -> $out/$row"
    real=("$source" "$labelled")
    case "$row" in
        baseline) train baseline --data "${real[@]}" --out "$out/$row" ;;
        translated) train baseline --data "${real[@]}" "${translated[@]}" --out "$out/$row" ;;
        pseudo) train baseline --data "${real[@]}" "$out/data/pseudo" --out "$out/$row" ;;
        fitnets | fgd | ld | crosskd) train "$row" --data "${real[@]}" --teacher "$out/teacher" --out "$out/$row" ;;
        whole)
            train whole --data "${real[@]}" "${translated[@]}" "$whole_labels" --teacher "$whole_teacher" \
                --out "$out/$row"
            ;;
        longer)
            longer=$(cd "$out/whole/checkpoints" && printf '%s\n' step-* | sed -n 's/^step-0*\([0-9]*\)$/\1/p' | sort -n | tail -n 1)
            steps=$longer train baseline --data "${real[@]}" --out "$out/$row"
            ;;
        full) train full --data "${real[@]}" "$full" --out "$out/$row" ;;
    esac
    [ ${#tests[@]} = 0 ] || "$python" -m eval.run "$out/$row" --data "${tests[@]}"
done

if [ ${#tests[@]} = 0 ]; then
    echo "new_domain: nothing was evaluated; add --source-test DIR --target-test DIR and run it again for the table"
    exit 0
fi
stage "table"
table=()
for row in $rows; do table+=("$row=$out/$row"); done
"$python" -m eval.table "${table[@]}" --all --json "$out/results.json"
