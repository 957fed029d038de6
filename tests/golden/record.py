"""Record golden numbers of what Fairweather computes, or compare with the recorded ones bit by bit.

    python tests/golden/record.py [FOLDER]            records into FOLDER (tests/golden/own)
    python tests/golden/record.py [FOLDER] --check    records anew and prints what differs; exit code 1 where some does

Bit-exact holds on one machine with the same libraries (machine.json says which they were). Each group is a file:
packed.json, training.json, views.json, evaluation.json, and fixtures.json: the stored files of an earlier day, read,
evaluated, repeated and continued by the code of now. Numbers stand as [value, value in hexadecimal].
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import product
from differences import OWN, PACKED, bit_equal, compare, differences
from product import EVALUATE, FIXTURES, RECIPES, TINY, TRAIN, command

STEPS = {"small": 3, "r50": 2, "r101": 2}
UNTIMED = ("step", "epoch", "losses", "logged", "gradient_norm", "learning_rate", "validation", "skipped", "ids")
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's, of the views
PLACES = 12  # sampled pixels of an image
LIBRARIES = ("torch", "torchvision", "numpy", "numba", "opencv-python-headless", "simplejpeg", "pyarrow", "scipy")

# What the tests record. plain_small is left out: it is the recipe teacher_small (tests/train/test_config.py).
ONLY = {
    "small": tuple(name for name in RECIPES if name.endswith("_small") and name != "plain_small"),
    "large": ("teacher_r50", "cdfkd_r50", "teacher_r101"),
}

# A variant: its name, the recipe, further options.
VARIANTS = (
    ("cdfkd_small, adamw, average of weights, strides, cosine per location", "cdfkd_small",
     "--optimizer.name adamw --optimizer.ema-decay 0.9 --distill.strides 8 16 32 --distill.per-location"),
    ("cdfkd_small, sgd, sum, one stride", "cdfkd_small",
     "--optimizer.name sgd --optimizer.learning-rate 0.01 --distill.strides 32 --distill.reduction sum"),
)  # fmt: skip


# -- numbers ----------------------------------------------------------------------------------------------------


def exact(value: Any) -> Any:
    """Every float as [value, hexadecimal], in lists and dicts too."""
    if isinstance(value, float):
        return [value, value.hex()]
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list) else value


def sha256_of_array(array: np.ndarray) -> str:
    """Over type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def checksums(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of tensors by their names, and one that is the same whatever they are called."""
    each = {name: sha256_of_array(arrays[name]) for name in sorted(arrays)}
    named = "".join(f"{name} {digest}\n" for name, digest in each.items())
    nameless = "".join(f"{digest}\n" for digest in sorted(each.values()))
    return {
        "sha256": hashlib.sha256(named.encode()).hexdigest(),
        "sha256_without_names": hashlib.sha256(nameless.encode()).hexdigest(),
        "tensors": len(arrays),
    }


def sum_by_module(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Sum of absolute values of each top-level module."""
    sums: dict[str, float] = {}
    for name in sorted(arrays):
        module = name.split(".")[0]
        sums[module] = sums.get(module, 0.0) + float(np.abs(arrays[name].astype(np.float64)).sum())
    return sums


# -- groups -----------------------------------------------------------------------------------------------------


def record_packed(folder: Path) -> dict[str, Any]:
    """What packing writes."""
    found = {}
    for name in PACKED:
        card = json.loads((folder / name / "dataset.json").read_text())
        kept = ("format", "version", "classes", "canvases", "objects", "shards", "index")
        found[name] = {key: card[key] for key in kept}
        for path in sorted((folder / name).glob("*.tar")):
            found[name][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def record_run(run: Path) -> dict[str, Any]:
    """Every step's numbers, and the weights and the optimizer's state after the last."""
    from safetensors.numpy import load_file

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines = [{"logged": line["cosines"]} | line if "cosines" in line else line for line in lines]  # before 0.1
    newest = max(run.glob("checkpoints/step-*"))
    weights, training = (load_file(newest / f"{name}.safetensors") for name in ("model", "training"))
    state = json.loads((newest / "state.json").read_text())
    return {
        "log": [{name: exact(line[name]) for name in UNTIMED if name in line} for line in lines],
        "weights": checksums(weights) | {"sum_of_absolute_values": exact(sum_by_module(weights))},
        "training_state": checksums(training),
        "place": state["place"],
        "score": exact(state["score"]),
    }


def record_training(folder: Path, recipes: tuple[str, ...]) -> dict[str, Any]:
    """A few steps of each recipe and of its variants; a student's teacher is the same network's teacher run."""
    plans = [(recipe, recipe, "") for recipe in recipes]
    found = {}
    for name, recipe, options in (*plans, *(variant for variant in VARIANTS if variant[1] in recipes)):
        size = recipe.rsplit("_", 1)[1]
        run = f"teacher_{size}" if recipe.startswith("teacher") else "run"
        more = ["--teacher", f"teacher_{size}"] if recipe.startswith("cdfkd") else []
        if recipe.endswith("_small"):
            more += ["--val", "packed"]
        arguments = (recipe, "--data", "packed", "--out", run, "--steps", STEPS[size], *more, *TINY, *options.split())
        command(TRAIN, *arguments, cwd=folder)
        found[name] = record_run(folder / run)
        if run == "run":
            shutil.rmtree(folder / run)
    return found


def describe_image(image_3HW: np.ndarray, size: list[int], seed: int) -> dict[str, Any]:
    """Mean, deviation and a dozen pixels (row, column, levels of red, green and blue), in levels 0 to 255."""
    height, width = size
    if height == 0:
        return {"size": size}
    levels = (image_3HW[:, :height, :width].transpose(1, 2, 0).astype(np.float64) * DEVIATION + MEAN) * 255
    generator = np.random.default_rng(seed)
    rows, columns = generator.integers(0, height, PLACES), generator.integers(0, width, PLACES)
    pixels = [[int(r), int(c), *levels[r, c].round(3).tolist()] for r, c in zip(rows, columns, strict=True)]
    return {
        "size": size,
        "mean": round(float(levels.mean()), 4),
        "deviation": round(float(levels.std()), 4),
        "pixels": pixels,
    }


def describe_views(views: dict[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {"sha256": {name: sha256_of_array(array) for name, array in views.items()}}
    for view in ("clean", "corrupted"):
        sizes = views[f"{view}_sizes"].tolist()
        found[view] = [describe_image(views[view][b], size, seed=b) for b, size in enumerate(sizes)]
        found[f"{view}_boxes"] = views[f"{view}_boxes"].reshape(-1, 4)[views["labels"].reshape(-1) > 0].tolist()
    return found | {"ratio": views["ratio"].tolist()}


def record_views() -> dict[str, Any]:
    """Mixed batches in full; then every training corruption at every severity, only the corrupted view."""
    batch = product.draw_batch(10, seed=5)
    found: dict[str, Any] = {
        f"mixed, draw {draw}": describe_views(product.make_views(batch, draw=draw, seed=7)) for draw in (0, 1)
    }
    few = product.draw_batch(3, seed=6)
    for name in product.TRAINING_CORRUPTIONS:
        for severity in (1, 2, 3, 4, 5):
            views = product.make_views(few, (name,), (severity,), seed=8)
            found[f"{name} {severity}"] = {
                "sha256": {view: sha256_of_array(views[view]) for view in ("clean", "corrupted")},
                "corrupted": [
                    describe_image(views["corrupted"][b], views["corrupted_sizes"][b].tolist(), seed=b) for b in (0, 1)
                ],
            }
    return found


def record_evaluation(scored: Path) -> dict[str, Any]:
    """What an evaluation wrote: every figure, every detection, checksums of the rest."""
    results = json.loads((scored / "results.json").read_text())
    for figures in results["domains"].values():
        del figures["path"], figures["data"]
        figures.pop("trained_images", None)  # about the model's training data, not about its detections
    with np.load(scored / "bootstrap.npz") as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    found = {
        "results": {name: exact(results[name]) for name in ("classes", "source", "domains", "mean_of_targets")},
        "weights": {"sha256": results["weights"]},
        "curves": {"sha256": hashlib.sha256((scored / "curves.json").read_bytes()).hexdigest()},
        "bootstrap": checksums(samples),
        "detections": {path.stem: json.loads(path.read_text()) for path in sorted(scored.glob("detections-*.json"))},
    }
    if (scored / "robustness.json").exists():
        robustness = json.loads((scored / "robustness.json").read_text())
        found["robustness"] = exact(robustness["summary"])
    return found


def record_teacher_evaluation(folder: Path) -> dict[str, Any]:
    """Of fixed weights, the stored teacher's, on the stored data: two domains, and corruptions of the source."""
    data = ("--data", "packed", "packed-night")
    options = (*product.EVALUATE_OPTIONS, *product.ROBUSTNESS_OPTIONS)
    command(EVALUATE, "teacher", *data, "--out", "scored", *options, cwd=folder)
    return record_evaluation(folder / "scored" / "eval")


def record_fixtures(folder: Path) -> dict[str, Any]:
    """The stored files under today's code: data read, a run evaluated, its config repeated, its training continued."""
    command(product.VERIFY, "packed", cwd=folder)
    found = {name: product.apart(lambda n=name: product.read_packed(folder / n), folder) for name in PACKED}
    command(EVALUATE, "student", "--data", "packed", *product.EVALUATE_OPTIONS, cwd=folder)
    found["evaluated"] = record_evaluation(folder / "student" / "eval")["results"]
    command(TRAIN, "student/config.json", "--out", "repeated", "--steps", 2, cwd=folder)
    found["repeated"] = record_run(folder / "repeated")
    said = command(TRAIN, "student/config.json", cwd=folder)
    found["continued"] = record_run(folder / "student")
    found["continued"]["from"] = [line for line in said.splitlines() if line.startswith("continuing")]
    found["finished"] = command(TRAIN, "student/config.json", cwd=folder).splitlines()
    return found


def unpack_fixtures(folder: Path) -> Path:
    """The stored packed datasets and run directories: packed, packed-night, teacher, student."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PACKED:
        shutil.copytree(FIXTURES / name, folder / name)
    with tarfile.open(FIXTURES / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def record(folder: Path, only: str = "") -> None:
    """All groups, each into a file of its own. only: with the recipes of ONLY; of the large ones the training alone."""
    folder.mkdir(parents=True, exist_ok=True)
    product.load_heavy_libraries()
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        work = Path(name)
        product.pack_pictures(work)
        groups: dict[str, Callable[[], Any]] = {
            "packed": lambda: record_packed(work),
            "training": lambda: record_training(work, ONLY.get(only, RECIPES)),
            "views": lambda: product.apart(record_views, work),
            "evaluation": lambda: record_teacher_evaluation(unpack_fixtures(work / "stored")),
            "fixtures": lambda: record_fixtures(work / "stored"),
            "machine": describe_machine,
        }
        for group, make in groups.items():
            if only == "large" and group not in ("training", "machine"):
                continue
            started = time.monotonic()
            (folder / f"{group}.json").write_text(layout(make()) + "\n")
            print(f"{group}: {time.monotonic() - started:.1f} s", flush=True)


def describe_machine() -> dict[str, str]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.replace("\t", "").split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    names = ("model name", "cpu family", "model", "stepping")
    return {
        "processor": ", ".join(f"{name}{fields[name]}" for name in names if name in fields),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def layout(value: Any, indent: int = 0) -> str:
    """JSON with one entry a line; what fits into a line is one."""
    flat = json.dumps(value)
    if len(flat) + indent <= 150 or not isinstance(value, dict | list) or not value:
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{pad}{json.dumps(key)}: {layout(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + layout(item, indent + 1) for item in value) + "\n" + " " * indent + "]"


# -- comparing ------------------------------------------------------------------------------------------------


def check(stored: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="golden-now-") as name:
        record(Path(name))
        lines = compare(stored, Path(name))
        machines = [json.loads((folder / "machine.json").read_text()) for folder in (stored, Path(name))]
    for line in differences(*machines, bit_equal, "machine"):
        print(f"note: {line}")
    for line in lines:
        print(line)
    print(f"{len(lines)} differences from {stored}" if lines else f"bit-equal to {stored}")
    return 1 if lines else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=OWN)
    parser.add_argument("--check", action="store_true", help="compare with what FOLDER holds instead of writing it")
    parser.add_argument("--only", choices=ONLY, default="", help="record fewer recipes, for the tests")
    options = parser.parse_args()
    if options.check and options.only:
        parser.error("--check compares everything; leave out --only")
    if options.check:
        return check(options.folder)
    record(options.folder, options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
