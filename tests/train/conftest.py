"""A small packed dataset and a small configuration that trains on it in seconds."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kernels.corruptions.registry import NEED_MASK
from model.config import small_model
from pipeline.command.ranks import World
from pipeline.pack import PackOptions, pack
from pipeline.share import ShareOptions, share
from train.config import Config, LoaderConfig, OptimizerConfig
from train.distill import CdFkdConfig
from train.recipes import RECIPES
from train.record.checkpoint import Checkpoints
from train.start import train
from train.task import DetectionTask
from train.trainer import Trainer

CLASSES = ("car", "person")
ALONE = World(0, 1, torch.device("cpu"))


def draw_pictures(root: Path, num: int, seed: int) -> None:
    """COCO layout: red (class 0) and blue rectangles on noise; sizes differ, every fifth picture has no object."""
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for number in range(num):
        height, width = int(generator.integers(56, 65)), int(generator.integers(80, 97))
        picture = generator.integers(60, 120, (height, width, 3), dtype=np.uint8)
        for _ in range(0 if number % 5 == 4 else int(generator.integers(1, 4))):
            label = int(generator.integers(0, 2))
            w, h = generator.integers(12, 30, 2).tolist()
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            picture[y : y + h, x : x + w] = (20, 20, 230) if label == 0 else (230, 40, 20)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
        name = f"{number:03d}.jpg"
        cv2.imwrite(str(root / "images" / name), picture)
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(json.dumps(content))


@pytest.fixture(scope="session", name="draw_pictures")
def drawer():
    return draw_pictures


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """22 pictures in a canvas of 64x96: with batches of 4 an epoch ends in a batch that is partly padding."""
    root = tmp_path_factory.mktemp("pictures")
    draw_pictures(root / "source", 22, seed=0)
    pack(PackOptions(root=root / "source", out=root / "packed", short_side=64, long_side=96, workers=1))
    return root / "packed"


@pytest.fixture(scope="session")
def halves(packed, tmp_path_factory) -> tuple[Path, Path]:
    """(labelled, unlabelled) datasets."""
    root = tmp_path_factory.mktemp("halves")
    share(ShareOptions(packed, root / "few", root / "rest", share=0.5, hide=True))
    return root / "few", root / "rest"


@pytest.fixture(scope="session")
def packed_other_classes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("others")
    draw_pictures(root / "source", 8, seed=1)
    options = PackOptions(root=root / "source", out=root / "packed", short_side=64, long_side=96, workers=1)
    pack(replace(options, classes=("person", "car")))
    return root / "packed"


def tiny(config: Config) -> Config:
    """A recipe's run, made small: a narrow head, batches of 4, 6 steps, and two masks of each kind."""
    views = replace(config.views, masks=2) if set(config.views.corruptions) & set(NEED_MASK) else config.views
    return replace(
        config,
        model=small_model(
            fpn_channels=16,
            representation_size=16,
            rpn_pre_nms_train=60,
            rpn_post_nms_train=40,
            rpn_pre_nms_test=60,
            rpn_post_nms_test=40,
            regions_per_image=16,
            detections_per_image=20,
        ),
        optimizer=OptimizerConfig(learning_rate=0.01, base_batch_size=4, warmup_steps=2, schedule="cosine"),
        loader=LoaderConfig(name="cpu", threads=1),
        views=views,
        batch_size=4,
        epochs=0,
        steps=6,
        log_every=2,
        save_every=3,
        device="cpu",
        compile="off",
    )


@pytest.fixture(scope="session")
def make_config():
    return tiny


def with_few_layers(config: Config) -> Config:
    """A student of fewer layers and two levels: compiling its step takes half the time."""
    changes = {"backbone": "resnet18", "returned_layers": (3, 4), "anchor_sizes": ((16,), (32,), (64,))}
    model = replace(config.model, weights="none", norm="frozen", **changes)
    return replace(config, model=model, distill=(CdFkdConfig(strides=(32,)),))


@pytest.fixture(scope="session")
def shallow():
    return with_few_layers


@pytest.fixture(scope="session")
def teacher_run(packed, tmp_path_factory) -> Path:
    """A finished run of the teacher recipe."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    config = replace(tiny(RECIPES["teacher_small"][1]()), data=(packed,), out=out)
    assert train(config, ALONE) == 0
    return out


@pytest.fixture
def student_config(packed, teacher_run, tmp_path) -> Config:
    config = tiny(RECIPES["cdfkd_small"][1]())
    return replace(config, data=(packed,), teacher=teacher_run, out=tmp_path / "student")


def make_trainer(config: Config, world: World = ALONE) -> Trainer:
    """As train.run makes it, before its first step."""
    config.out.mkdir(exist_ok=True)
    checkpoints = Checkpoints(config.out, config.keep)
    newest = checkpoints.newest()
    return Trainer(config, DetectionTask(config, world, newest), world, checkpoints, newest)


@pytest.fixture(scope="session")
def begin():
    return make_trainer


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
