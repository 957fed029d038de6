#!/usr/bin/env bash
# What a bare machine with a GPU lacks, made on a machine with a network and no GPU, for `CARRY=FOLDER scripts/gpu_check.sh`.
#   scripts/gpu_carry.sh FOLDER [--nvvm]
# FOLDER/wheels      packages that such a machine may lack, for Linux on x86-64 and PYTHON_VERSION (default 3.12)
# FOLDER/wheels-cuda what starts the kernels: taken only where the machine's own is missing or too old
# FOLDER/packed      the sample world, packed small; FOLDER/packed-large at 600 x 1000
# FOLDER/pixels.npz  what a CPU makes of one image with every corruption
# FOLDER/nvvm.tar.gz with --nvvm: CUDA's compiler for Numba, 29 MB, for a machine without CUDA's own
# It ends with 1 when the folder holds more than 45 MB, or 75 MB with --nvvm.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 1 ] || [ "${*:2}" = --nvvm ] || { echo "usage: scripts/gpu_carry.sh FOLDER [--nvvm]" >&2; exit 2; }
folder=$1 with_nvvm=${2:-}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$folder"

packages=(tyro docstring-parser typeguard simplejpeg pycocotools imagecorruptions-imaug)
platforms=()
for glibc in 2_28 2_27 2_17 2014 1; do platforms+=(--platform "manylinux${glibc/2_/_2_}_x86_64"); done
rm -rf "$folder/wheels" "$folder/wheels-cuda" "$folder/nvvm.tar.gz"
fetch() { # fetch FOLDER PACKAGE...
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --constraint constraints.txt --dest "$1" \
        --python-version "${PYTHON_VERSION:-3.12}" --implementation cp "${platforms[@]}" "${@:2}"
}
fetch "$folder/wheels" "${packages[@]}"
fetch "$folder/wheels-cuda" numba-cuda cuda-core cuda-pathfinder

world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
"$python" -m pipeline.sample_world --out "$world/world" --train 80 --test 20 --target 1
for size in "packed 192 352" "packed-large 600 1000"; do
    read -r name short long <<<"$size"
    rm -rf "${folder:?}/$name"
    "$python" -m pipeline.pack "$world/world" "$folder/$name" --short-side "$short" --long-side "$long"
done
"$python" -m kernels.checks.pixels "$folder/pixels.npz" --write

if [ -n "$with_nvvm" ]; then # in the places where Numba looks below $CUDA_HOME
    nvvm=$("$python" -c 'import importlib.util as u; print(next(iter(u.find_spec("nvidia.cu13").submodule_search_locations)))')
    mkdir -p "$world/nvvm/lib64" "$world/nvvm/libdevice"
    cp "$nvvm/lib/libnvvm.so.4" "$world/nvvm/lib64/"
    ln -s libnvvm.so.4 "$world/nvvm/lib64/libnvvm.so"
    cp "$nvvm/nvvm/libdevice/libdevice.10.bc" "$world/nvvm/libdevice/"
    tar -C "$world" -c nvvm | gzip -9 >"$folder/nvvm.tar.gz"
fi
size=$(du -sm "$folder" | cut -f1)
echo "$folder holds $size MB"
limit=$([ -n "$with_nvvm" ] && echo 75 || echo 45) # what travels beside the repository's own 16 MB
[ "$size" -le "$limit" ] || { echo "that is more than $limit MB"; exit 1; }
