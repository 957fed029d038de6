"""How the golden tests drive Fairweather: its commands, their options, and pictures to run them on.

Everything here that knows a name of the product (a module, an option, a recipe) is in the tables at the top, in
`read_packed` and in `make_views`, so that a renamed one is changed in one place. A command runs in a forked child of a
process that has imported the heavy libraries once: as separate as a fresh process, and seconds sooner.
"""

import importlib
import io
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One thread everywhere, before NumPy and torch are loaded: sums are then added in one order.
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
HEAVY = (
    "torch", "torchvision", "torch.utils.tensorboard", "numba", "pandas", "pyarrow.parquet", "scipy.ndimage", "tyro",
)  # fmt: skip


def words(text: str) -> list[str]:
    return text.split()


# -- names of the product ---------------------------------------------------------------------------------------

# Modules that are commands.
PACK, VERIFY, TRAIN, EVALUATE = "pipeline.pack", "pipeline.packed", "train.run", "eval.run"

PACK_OPTIONS = ("--short-side", "64", "--long-side", "96", "--workers", "1")
# A recipe's run, made small, as in tests/train/conftest.py.
TINY = words(
    "--model.weights none --model.fpn-channels 16 --model.representation-size 16 --model.regions-per-image 16 "
    "--model.rpn-pre-nms-train 60 --model.rpn-post-nms-train 40 --model.rpn-pre-nms-test 60 "
    "--model.rpn-post-nms-test 40 --model.detections-per-image 8 --model.score-threshold 0 "
    "--optimizer.base-batch-size 4 --optimizer.warmup-steps 1 --loader.name cpu --loader.threads 1 --batch-size 4 "
    "--epochs 0 --log-every 1 --keep 1 --device cpu --compile off"
)
EVALUATE_OPTIONS = words(
    "--resamples 20 --batch-size 4 --device cpu --compile off --loader cpu --threads 1 --no-pictures --no-report"
)
ROBUSTNESS_OPTIONS = words("--corruptions training --corruption-images 2")

SIZES, KINDS = ("small", "r50", "r101"), ("teacher", "plain", "corrupt_only", "cdfkd")
RECIPES = tuple(f"{kind}_{size}" for size in SIZES for kind in KINDS)
TRAINING_CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression", "speckle_noise", "spatter",
    "saturate",
)  # fmt: skip


def sum_again(checkpoint: Path) -> None:
    """Checksums of a checkpoint whose files were changed on purpose."""
    from model.weights.files import MARKER, describe_file
    from pipeline.files.own import write_json

    files = [path for path in sorted(checkpoint.iterdir()) if path.name != MARKER]
    write_json(checkpoint / MARKER, {path.name: [describe_file(path)] for path in files})


def read_packed(path: Path) -> dict[str, Any]:
    """{id: size, boxes, labels, ignore and pixels of a picture} as the loader for the CPU yields them."""
    from pipeline.loading.loader import open_loader
    from pipeline.packed.reader import PackedDataset

    found = {}
    options = {"device": "cpu", "name": "cpu", "shuffle": False, "threads": 1}
    with PackedDataset(path) as dataset, open_loader(dataset, 4, **options) as loader:  # type: ignore[arg-type]
        for batch in loader:
            for b, number in enumerate(batch.ids_B.tolist()):
                if number < 0:
                    continue
                num = int((batch.labels_BG[b] > 0).sum())
                height, width = batch.sizes_B2[b].tolist()
                found[str(number)] = {
                    "size": [height, width],
                    "boxes": batch.boxes_BG4[b, :num].tolist(),
                    "labels": batch.labels_BG[b, :num].tolist(),
                    "ignore": batch.ignore_BG[b, :num].tolist(),
                    "mean": round(float(batch.images_BHW3[b, :height, :width].double().mean()), 4),
                }
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def make_views(
    batch: dict[str, np.ndarray], corruptions: tuple[str, ...] = TRAINING_CORRUPTIONS,
    severities: tuple[int, ...] = (1, 2, 3, 4, 5), seed: int = 0, epoch: int = 0, draw: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Both views of a batch. It and `read_packed` alone import the product."""
    import torch

    from pipeline.batch import Batch
    from pipeline.views import ViewConfig, ViewMaker

    given = Batch(
        images_BHW3=torch.from_numpy(batch["images"]),
        sizes_B2=torch.from_numpy(batch["sizes"]),
        boxes_BG4=torch.from_numpy(batch["boxes"]),
        labels_BG=torch.from_numpy(batch["labels"]),
        ignore_BG=torch.from_numpy(batch["ignore"]),
        ids_B=torch.from_numpy(batch["ids"]),
        epoch=epoch,
        seed=seed,
    )
    maker = ViewMaker(ViewConfig(corruptions=corruptions, severities=severities), device="cpu", threads=1)
    views = maker(given, draw)
    assert views.clean is not None
    assert views.corrupted is not None
    made = {
        "clean": views.clean.images_B3HW,
        "corrupted": views.corrupted.images_B3HW,
        "ratio": views.ratio_B,
        "clean_sizes": views.clean.sizes_B2,
        "corrupted_sizes": views.corrupted.sizes_B2,
        "clean_boxes": views.clean.boxes_BG4,
        "corrupted_boxes": views.corrupted.boxes_BG4,
        "labels": views.labels_BG,
        "ignore": views.ignore_BG,
        "keys": views.keys_B,
        "ids": views.ids_B,
    }
    return {name: value.contiguous().numpy() for name, value in made.items()}


# -- running commands -------------------------------------------------------------------------------------------


def load_heavy_libraries() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    import numba

    numba.njit(abs_of)(-1.0)  # loads what Numba needs for every function
    sys.path.insert(0, str(ROOT))  # now, so that the libraries above found nothing of the product


def abs_of(x: float) -> float:
    return abs(x)


def start(work: Callable[[], int], cwd: Path) -> tuple[int, Path]:
    """Begin `work` in a forked child; returns its process id and the file of what it prints."""
    printed = cwd / f".printed-{os.urandom(4).hex()}"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child, printed
    code = 1
    try:
        with printed.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
        os.chdir(cwd)
        code = work()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(child: int, printed: Path, expected: int = 0) -> str:
    """Wait for a child; returns what it printed, or fails with it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = printed.read_text(errors="replace")
    printed.unlink()
    if code != expected:
        raise RuntimeError(f"exit code {code} instead of {expected}:\n{text[-4000:]}")
    return text


def start_command(module: str, *arguments: object, cwd: Path) -> tuple[int, Path]:
    def work() -> int:
        import torch

        torch.set_num_threads(1)
        sys.argv = [module, *map(str, arguments)]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0

    return start(work, cwd)


def command(module: str, *arguments: object, cwd: Path) -> str:
    """Run `python -m module arguments` in the folder `cwd`; returns what it printed."""
    return finish(*start_command(module, *arguments, cwd=cwd))


def apart(work: Callable[[], Any], cwd: Path) -> Any:
    """The JSON value that `work` returns in a child of its own."""
    answer = cwd / f".answer-{os.urandom(4).hex()}"

    def write() -> int:
        answer.write_text(json.dumps(work()))
        return 0

    finish(*start(write, cwd))
    value = json.loads(answer.read_text())
    answer.unlink()
    return value


def stop_when(module: str, *arguments: object, cwd: Path, ready: Callable[[], bool]) -> str:
    """Run a command and send it SIGTERM as soon as `ready()`; it must then save and leave with code 143."""
    child, printed = start_command(module, *arguments, cwd=cwd)
    while not ready():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        signal.sigtimedwait([], 0.005)
    os.kill(child, signal.SIGTERM)
    return finish(child, printed, expected=143)


# -- pictures ---------------------------------------------------------------------------------------------------

CLASSES = ("car", "person")


def draw_picture(generator: np.random.Generator, num_objects: int, portrait: bool) -> tuple[np.ndarray, list[dict]]:
    """A BGR picture of red (car) and blue (person) rectangles on noise, and its objects; every fourth is a crowd."""
    sides = int(generator.integers(56, 65)), int(generator.integers(80, 97))
    height, width = sides[::-1] if portrait else sides
    picture = generator.integers(60, 120, (height, width, 3), dtype=np.uint8)
    objects = []
    for _ in range(num_objects):
        label = int(generator.integers(0, 2))
        w, h = generator.integers(12, 30, 2).tolist()
        x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
        picture[y : y + h, x : x + w] = (20, 20, 230) if label == 0 else (230, 40, 20)
        crowd = int(generator.integers(0, 4) == 0)
        objects.append({"category_id": label + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd})
    return picture, objects


def draw_pictures(root: Path, num: int, seed: int) -> None:
    """COCO layout. Every fifth picture has no object, every seventh is upright; PNG, which is the same everywhere."""
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in range(num):
        num_objects = 0 if number % 5 == 4 else int(generator.integers(1, 4))
        picture, objects = draw_picture(generator, num_objects, portrait=number % 7 == 6)
        name = f"{number:03d}.png"
        cv2.imwrite(str(root / "images" / name), picture)
        images.append(
            {"id": number + 1, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]}
        )  # fmt: skip
        for each in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **each})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances.json").write_text(json.dumps(content))


def draw_batch(num: int, seed: int) -> dict[str, np.ndarray]:
    """Drawn pictures in one canvas of 64x96, the last row padding."""
    generator = np.random.default_rng(seed)
    batch = {
        "images": np.zeros((num, 64, 96, 3), np.uint8),
        "sizes": np.zeros((num, 2), np.int32),
        "boxes": np.zeros((num, 8, 4), np.float32),
        "labels": np.zeros((num, 8), np.int64),
        "ignore": np.zeros((num, 8), bool),
        "ids": np.array([*range(3, 3 + num - 1), -1]),
    }
    for b in range(num - 1):
        picture, objects = draw_picture(generator, b % 4, portrait=False)
        height, width = picture.shape[:2]
        smooth = np.linspace(0, 120, width, dtype=np.float32)[None, :, None]
        batch["images"][b, :height, :width] = np.clip(picture[..., ::-1] * 0.7 + smooth, 0, 255).astype(np.uint8)
        batch["sizes"][b] = height, width
        for g, each in enumerate(objects):
            x, y, w, h = each["bbox"]
            batch["boxes"][b, g] = x, y, x + w, y + h
            batch["labels"][b, g], batch["ignore"][b, g] = each["category_id"], each["iscrowd"]
    return batch


def pack_pictures(folder: Path) -> None:
    """FOLDER/packed, 24 pictures of the day, and FOLDER/packed-night, 6 of another domain."""
    for name, num, seed, domain in (("packed", 24, 0, "daytime_clear"), ("packed-night", 6, 1, "night_sunny")):
        draw_pictures(folder / "pictures" / name, num, seed)
        command(PACK, f"pictures/{name}", name, "--domain", domain, *PACK_OPTIONS, cwd=folder)
