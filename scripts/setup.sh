#!/usr/bin/env bash
# Make .venv and install Fairweather with its tested versions. Needs no root and no GPU; safe to run again.
# Another interpreter: PYTHON=python3.12 scripts/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

needed_gb=9 # 7.5 GB installed, and what pip unpacks meanwhile

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64 | Linux-aarch64 | Linux-arm64) ;;
    *) fail "Fairweather runs on Linux x86-64 or arm64, this is $(uname -s) $(uname -m); use such a machine or container." ;;
esac

# The files that decide what must be installed; with the same sum there is nothing to do.
stamp=".venv/installed-$(cat pyproject.toml requirements.txt | sha256sum | cut -c1-16)"
# Installed without -e, the packages would be a copy that no longer follows the checkout.
from_here='import importlib.util, os, sys; sys.exit(not importlib.util.find_spec("pipeline").origin.startswith(os.getcwd() + "/pipeline/"))'
if [ -e "$stamp" ] && .venv/bin/python -P -c "$from_here" 2> /dev/null; then
    exit 0
fi

python="${PYTHON:-python3}"
command -v "$python" > /dev/null || fail "$python was not found; install Python 3.11 or newer, or choose one: PYTHON=/path/to/python3.12 $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is required, $python is $("$python" -V 2>&1 | cut -d' ' -f2); choose a newer one: PYTHON=/path/to/python3.12 $0"
"$python" -c 'import ensurepip, venv' 2> /dev/null ||
    fail "$python has no venv module; install it (Debian and Ubuntu: apt install python3-venv) and run this again."

touch .writable 2> /dev/null || fail "$(pwd) cannot be written to; clone Fairweather into a folder of your own and run this again."
rm -f .writable

free_gb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ -d .venv/lib ] || [ "$free_gb" -ge "$needed_gb" ] ||
    fail "the packages (PyTorch's CUDA build among them) need about $needed_gb GB of disk, $(pwd) has $free_gb GB free; free some space and run this again."

echo "setup: installing into $(pwd)/.venv (about 7.5 GB; 2 to 10 minutes, log in .venv/setup.log)"
if ! .venv/bin/python -c 'import pip' 2> /dev/null; then
    rm -rf .venv
    "$python" -m venv .venv || fail "the virtual environment could not be made; the reason is above."
fi
rm -f .venv/installed-*

trap 'kill $(jobs -p) 2> /dev/null; echo "setup: stopped by the user; run the same command again to continue" >&2; exit 130' INT

# A short line for each package; pip's whole output is in the log.
shorten='s/^(.{150}).+/\1 .../'
show() { sed -u -n -E "/^(Collecting|Building|ERROR|Installing collected)/{s/^(Collecting [^ ]+).*/\\1/; s/^Installing.*/Installing them all, the longest part/; $shorten; p}"; }
# In a subshell of its own, whose process it becomes.
pip() { exec .venv/bin/python -m pip "$1" --disable-pip-version-check "${@:2}" 2>&1; }
install() { pip install --retries 2 --no-deps "$@" | tee -a .venv/setup.log | show; }
: > .venv/setup.log
# The packages of others by their hashes, which pip cannot ask of an editable install; then this one. requirements.txt
# has all that is needed. Two pips at the same time, for one unpacks on one core: PyTorch and CUDA's libraries, which
# are two thirds of all bytes, and the others.
awk '/^[a-z]/ {part = /^(nvidia|torch)/ ? "torch" : "others"} part {print > ".venv/" part ".txt"}' requirements.txt
install_all() {
    local installing status=0
    pip install --retries 2 --no-deps --require-hashes -r .venv/torch.txt > .venv/torch.log &
    installing=$!
    install --require-hashes -r .venv/others.txt || status=1
    wait "$installing" || status=1
    cat .venv/torch.log >> .venv/setup.log
    [ "$status" = 0 ] && install --no-build-isolation -e . && (pip check >> .venv/setup.log)
}
if ! install_all; then
    if grep -q 'No space left' .venv/setup.log; then
        fail "the disk is full; free about $needed_gb GB and run this again, it continues."
    elif grep -qE 'NewConnectionError|Temporary failure in name resolution|ConnectTimeout|ProxyError|Network is unreachable' .venv/setup.log; then
        fail "the Python package index could not be reached; connect this machine or set PIP_INDEX_URL to a mirror, and run this again, it continues."
    elif grep -q 'DO NOT MATCH THE HASHES' .venv/setup.log; then
        fail "a package is not the file that requirements.txt knows (see .venv/setup.log). It was changed on the way, or your index has builds of its own; to trust that index: .venv/bin/pip install -c constraints.txt -e '.[dev]' && touch $stamp"
    fi
    fail "pip failed: $( (grep -m 1 '^ERROR' .venv/setup.log || tail -n 1 .venv/setup.log) | sed -E "$shorten") (whole log: .venv/setup.log)"
fi

# Development packages bring OpenCV's desktop build, which needs libGL. Where that is missing, install the headless one over it.
if ! .venv/bin/python -c 'import cv2' 2> /dev/null; then
    sed -n '/^opencv-python-headless==/,/[^\\]$/p' requirements.txt > .venv/headless.txt
    install --require-hashes --force-reinstall -r .venv/headless.txt || fail "OpenCV could not be installed, see .venv/setup.log"
    .venv/bin/python -c 'import cv2' || fail "OpenCV cannot be imported; the reason is above."
fi

touch "$stamp"
echo "setup: done"
