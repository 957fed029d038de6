"""Make tests/golden/fixtures: a packed dataset and run directories as today's code writes them.

    python tests/golden/make_fixtures.py

    packed, packed-night     24 and 6 pictures in a canvas of 64x96, with crowds and pictures without objects
    runs.tar.xz              teacher   a finished run of teacher_small
                             student   a run of cdfkd_small from the teacher on, of 8 steps, that SIGTERM ended after
                                       the measuring at step 4: that is the best checkpoint, step 5 the newest

Names and formats are exactly those of the product, with two changes that keep the repository small, because random
weights do not compress: weights are rounded to a coarse grid (half their deviation, other numbers to 8 bits), and the
optimizer's momentum is set to zeros. The teacher is rounded before the student learns from it, so that the checksum
in the student's state.json is that of the stored teacher. TensorBoard's files are left out.
"""

import io
import json
import lzma
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import product
from product import FIXTURES, TINY, TRAIN, command

TEACHER_STEPS = 300
LARGE = 256  # numbers of a tensor that is put on a grid
LEFT_OUT = ("tensorboard", ".lock")
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]


def round_weights(path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = load_file(path)
    replace_arrays(path, {name: coarse(array) for name, array in arrays.items()})


def coarse(array: np.ndarray) -> np.ndarray:
    """Multiples of half the deviation, as a power of two; small tensors keep 8 bits of each number."""
    if array.dtype != np.float32:
        return array
    if array.ndim > 1 and array.size >= LARGE:
        grid = 2.0 ** np.round(np.log2(array.std() / 2))
        return (np.round(array / grid) * grid + 0.0).astype(np.float32)
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(np.float32)


def clear_momentum(path: Path) -> None:
    """Zeros for everything of the optimizer but its counts of steps."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    cleared = {name: array if array.size == 1 or name == "window" else array * 0 for name, array in arrays.items()}
    replace_arrays(path, cleared)


def replace_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The same file with other numbers: its header stays as it was written."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    for name, array in arrays.items():
        first, last = header[name]["data_offsets"]
        body[first:last] = np.ascontiguousarray(array).tobytes()
    path.write_bytes(data[: 8 + length] + bytes(body))


def make_small(run: Path) -> None:
    for checkpoint in run.glob("checkpoints/step-*"):
        round_weights(checkpoint / "model.safetensors")
        clear_momentum(checkpoint / "training.safetensors")
        product.sum_again(checkpoint)


def make_runs(folder: Path) -> None:
    data = ("--data", "packed", "--val", "packed", *TINY)
    command(
        TRAIN, "teacher_small", "--out", "teacher", "--steps", TEACHER_STEPS, *data,
        "--log-every", 50, "--optimizer.learning-rate", 2e-3, cwd=folder,
    )  # fmt: skip
    make_small(folder / "teacher")
    log = folder / "student" / "log.jsonl"
    product.stop_when(
        TRAIN, "cdfkd_small", "--out", "student", "--teacher", "teacher", "--student-init", "teacher", "--steps", 8,
        "--val-every", 4, *data, "--model.norm", "frozen",
        cwd=folder, ready=lambda: log.exists() and "validation" in log.read_text(),
    )  # fmt: skip
    make_small(folder / "student")


def write_archive(folder: Path) -> None:
    """Plain members in a fixed order, without times and owners. Checkpoints lie side by side, which compresses them."""
    paths = [path for run in ("teacher", "student") for path in (folder / run).rglob("*")]
    kept = [path for path in paths if path.is_file() and not set(LEFT_OUT) & set(path.parts)]
    kept.sort(key=lambda path: (path.suffix == ".safetensors", path.name, str(path)))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in kept:
            info = tarfile.TarInfo(str(path.relative_to(folder)))
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(info, file)
    (FIXTURES / "runs.tar.xz").write_bytes(lzma.compress(buffer.getvalue(), filters=FILTERS))


def main() -> None:
    product.load_heavy_libraries()
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir()
    with tempfile.TemporaryDirectory(prefix="golden-fixtures-") as name:
        folder = Path(name)
        product.pack_pictures(folder)
        for packed in ("packed", "packed-night"):
            shutil.copytree(folder / packed, FIXTURES / packed)
        make_runs(folder)
        write_archive(folder)
    for path in sorted(FIXTURES.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(FIXTURES)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
